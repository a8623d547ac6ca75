//! Helpers for tests of handlers: requests without an engine, reading, and a network namespace.
#![allow(clippy::unwrap_used)]

use crate::content::Content;
use crate::handler::{Handler, Opened, Opening, Request};
use crate::packet::{Mode, Options};
use std::io;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::task::{Context, Poll, Wake};
use std::thread::Thread;

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Polls until the result is ready.
pub fn wait<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut context = Context::from_waker(&waker);
    loop {
        match poll(&mut context) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park(),
        }
    }
}

/// Returns a request of `client` for `file`.
pub fn request(client: SocketAddr, file: &[u8]) -> Request<'_> {
    Request { client, vip: "192.0.2.69".parse().unwrap(), tid: 20_000, file, mode: Mode::Octet, options: Options::default() }
}

/// Waits for the result of an opening.
pub fn settle(opening: Opening) -> Opened {
    match opening {
        Opening::Now(opened) => opened,
        Opening::Later(mut future) => wait(|context| future.as_mut().poll(context)),
        Opening::Job(job) => job(),
    }
}

/// Sends a request of 10.0.0.7 to a handler.
pub fn ask(handler: &dyn Handler, file: &[u8]) -> Opened {
    ask_from(handler, "10.0.0.7:2070", file)
}

/// Sends a request of `client` to a handler.
pub fn ask_from(handler: &dyn Handler, client: &str, file: &[u8]) -> Opened {
    settle(handler.open(&request(client.parse().unwrap(), file)))
}

/// Reads at `offset` and waits for the bytes.
pub fn read_at(content: &dyn Content, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    wait(|context| content.poll_read_at(context, offset, buffer))
}

/// Reads everything.
pub fn read_all(content: &dyn Content) -> io::Result<Vec<u8>> {
    let (mut all, mut buffer) = (Vec::new(), vec![0; 64 * 1024]);
    loop {
        match read_at(content, all.len() as u64, &mut buffer)? {
            0 => return Ok(all),
            len => all.extend_from_slice(&buffer[..len]),
        }
    }
}

/// Runs `body` on a thread in a new network namespace with only the loopback interface. Its threads inherit the namespace. Without root
/// it prints that the test is skipped; in CI that is a failure.
pub fn in_namespace(body: impl FnOnce() + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "needs root");
        eprintln!("SKIPPED: needs root");
        return;
    }
    let thread = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
        body();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

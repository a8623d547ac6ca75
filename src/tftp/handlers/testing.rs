//! Helpers for tests of handlers: requests without an engine, reading, and a network namespace.
#![allow(clippy::unwrap_used)]

use crate::content::{Content, Source};
use crate::handler::{Handler, Opened};
use crate::packet::{Mode, put_request};
use crate::report::{Outcome, TransferReport};
use crate::request::Request;
use std::io;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::task::{Context, Poll, Wake};
use std::thread::Thread;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

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

/// Returns the runtime of this thread, which is in the network namespace of the thread.
pub fn runtime() -> &'static Runtime {
    thread_local! {
        static RUNTIME: &'static Runtime =
            Box::leak(Box::new(Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()));
    }
    RUNTIME.with(|runtime| *runtime)
}

/// Returns a request of `client` for `file`.
pub fn request(client: SocketAddr, file: &[u8]) -> Request {
    Request::for_file(client, "192.0.2.69".parse().unwrap(), 20_000, file)
}

/// Starts to open a file.
pub fn start(handler: &(impl Handler + Clone), file: &[u8]) -> JoinHandle<Opened> {
    let (handler, request) = (handler.clone(), request("10.0.0.7:2070".parse().unwrap(), file));
    runtime().spawn(async move { handler.open(request).await })
}

/// Waits for a result.
pub fn settle(opening: JoinHandle<Opened>) -> Opened {
    runtime().block_on(opening).unwrap()
}

/// Sends a request of 10.0.0.7 to a handler.
pub fn ask(handler: &impl Handler, file: &[u8]) -> Opened {
    ask_from(handler, "10.0.0.7:2070", file)
}

/// Sends a request of `client` to a handler, as the engine does.
pub fn ask_from(handler: &impl Handler, client: &str, file: &[u8]) -> Opened {
    let request = request(client.parse().unwrap(), file);
    handler.open_now(&request).unwrap_or_else(|| runtime().block_on(handler.open(request)))
}

/// Returns the report of a request for `file` by 10.0.0.7 that has ended so.
pub fn report(file: &[u8], outcome: Outcome) -> TransferReport {
    let mut packet = Vec::new();
    put_request(&mut packet, false, file, b"octet", [(&b"blksize"[..], &b"1428"[..])]);
    TransferReport {
        client: "10.0.0.7:2070".parse().unwrap(),
        vip: "192.0.2.69".parse().unwrap(),
        tid: 20_000,
        request: packet.into(),
        oack: b"\0\x06blksize\x001428\0"[..].into(),
        write: false,
        protocol: crate::request::Protocol::Tftp,
        taken_over: false,
        mode: Some(Mode::Octet),
        handler: None,
        terms: None,
        size: None,
        version: None,
        outcome,
        overloaded: false,
        io_error: None,
        duration: Duration::ZERO,
        opening: Duration::ZERO,
        packets_sent: 0,
        bytes_sent: 0,
        bytes_received: 0,
        blocks_acknowledged: 0,
        retransmitted: 0,
        timeouts: 0,
        acks: 0,
        acks_ignored: 0,
        round_trip: Duration::ZERO,
    }
}

/// Reads content at `offset` and waits for the bytes.
pub(crate) fn read_at(content: &dyn Source, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let _entered = runtime().enter();
    wait(|context| content.poll_read_at(context, offset, buffer))
}

/// Reads all bytes.
pub(crate) fn read_source(content: &dyn Source) -> io::Result<Vec<u8>> {
    let (mut all, mut buffer) = (Vec::new(), vec![0; 64 * 1024]);
    loop {
        match read_at(content, all.len() as u64, &mut buffer)? {
            0 => return Ok(all),
            len => all.extend_from_slice(&buffer[..len]),
        }
    }
}

/// Reads everything.
pub fn read_all(content: &Content) -> io::Result<Vec<u8>> {
    read_source(&*content.0)
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

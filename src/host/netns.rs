//! Network namespaces that exist as long as their descriptor is open: one for each host of the lab.

use super::error::{Context, Error};
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::process::{Child, Command};
use std::sync::Arc;
use std::thread::JoinHandle;

/// A network namespace. Clones share it; it ends with the last clone and the last process in it.
#[derive(Clone, Debug)]
pub struct Namespace {
    name: String,
    file: Arc<File>,
}

impl Namespace {
    /// Creates an empty namespace. `name` is for messages only.
    ///
    /// # Errors
    /// Returns an error when the kernel refuses (needs CAP_SYS_ADMIN in the current user namespace).
    pub fn new(name: &str) -> Result<Self, Error> {
        let made = on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            File::open("/proc/thread-self/ns/net")
        });
        let file = made?.with_context(|| format!("making the network namespace of {name}"))?;
        Ok(Namespace { name: name.to_owned(), file: Arc::new(file) })
    }

    /// Returns the namespace of the calling thread.
    pub fn current(name: &str) -> Result<Self, Error> {
        let file = File::open("/proc/thread-self/ns/net").with_context(|| "opening the current network namespace".to_owned())?;
        Ok(Namespace { name: name.to_owned(), file: Arc::new(file) })
    }

    /// Returns its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `body` in it, on a thread of its own, and waits for the result.
    pub fn run<T: Send>(&self, body: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
        on_thread(|| {
            setns(self.as_fd(), CloneFlags::CLONE_NEWNET).with_context(|| format!("entering the network namespace of {}", self.name))?;
            body()
        })?
    }

    /// Starts a thread in it.
    pub fn thread<T: Send + 'static>(
        &self,
        name: &str,
        body: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<JoinHandle<Result<T, Error>>, Error> {
        let namespace = self.clone();
        let in_namespace = move || {
            setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)
                .with_context(|| format!("entering the network namespace of {}", namespace.name))?;
            body()
        };
        std::thread::Builder::new().name(name.to_owned()).spawn(in_namespace).with_context(|| format!("starting the thread {name}"))
    }

    /// Starts a program in it. (A new process inherits the namespaces of its parent thread.)
    pub fn spawn(&self, command: &mut Command) -> Result<Child, Error> {
        self.run(|| {
            let program = command.get_program().to_string_lossy().into_owned();
            command.spawn().with_context(|| format!("starting {program} on {}", self.name))
        })
    }

    /// Writes a value below `/proc/sys/net/`.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<(), Error> {
        self.run(|| {
            std::fs::write(format!("/proc/sys/net/{key}"), value).with_context(|| format!("setting net/{key} = {value} on {}", self.name))
        })
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRawFd for Namespace {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

/// Runs `body` on a thread of its own, because a thread that changed its namespaces must not do other work afterwards.
fn on_thread<T: Send>(body: impl FnOnce() -> T + Send) -> Result<T, Error> {
    std::thread::scope(|scope| scope.spawn(body).join()).map_err(|_| Error::failed("working in a namespace", "the thread panicked"))
}

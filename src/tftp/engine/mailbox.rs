//! What other threads tell an event loop: a content was opened, a waker was woken, stop.

use super::Key;
use crate::handler::{Opened, Refusal};
use crate::takeover::Plan;
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};

/// A message.
pub enum Mail {
    /// A job that opens has ended.
    Opened(Key, Opened),
    /// A file that a client wrote is on disk, or why not.
    Stored(Key, Result<(), Refusal>),
    /// What a transfer waits for may have come.
    Woken(Key),
    /// The servers that go on with one another's transfers are these now.
    Plan(Arc<Plan>),
    /// The loop is to end.
    Stop,
}

/// Where messages are put.
pub struct Mailbox {
    mail: Mutex<Vec<Mail>>,
    bell: EventFd,
}

impl Mailbox {
    /// An empty one.
    ///
    /// # Errors
    /// When no more descriptors can be had.
    pub fn new() -> io::Result<Mailbox> {
        let bell = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Mailbox { mail: Mutex::default(), bell })
    }

    /// Leaves a message and rings.
    pub fn put(&self, message: Mail) {
        let mut mail = self.mail.lock().unwrap_or_else(PoisonError::into_inner);
        mail.push(message);
        if mail.len() == 1 {
            // It fails only when the counter is full, and then the bell has rung.
            let _rung = self.bell.write(1);
        }
    }

    /// Takes all messages.
    pub fn take(&self) -> Vec<Mail> {
        let mut mail = self.mail.lock().unwrap_or_else(PoisonError::into_inner);
        let _silent = self.bell.read();
        std::mem::take(&mut *mail)
    }
}

impl AsFd for Mailbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

/// Wakes a transfer; rings once however often it is woken before the loop looks.
pub struct Knock {
    mailbox: Arc<Mailbox>,
    key: Key,
    knocked: AtomicBool,
}

impl Knock {
    /// For the transfer with this key.
    pub fn new(mailbox: Arc<Mailbox>, key: Key) -> Arc<Knock> {
        Arc::new(Knock { mailbox, key, knocked: AtomicBool::new(false) })
    }

    /// As a waker.
    pub fn waker(self: &Arc<Knock>) -> Waker {
        Waker::from(Arc::clone(self))
    }

    /// The loop is about to look: the next wake rings again.
    pub fn heard(&self) {
        self.knocked.store(false, Ordering::SeqCst);
    }
}

impl Wake for Knock {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.knocked.swap(true, Ordering::SeqCst) {
            self.mailbox.put(Mail::Woken(self.key));
        }
    }
}

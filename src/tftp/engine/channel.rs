//! Messages of other threads to an event loop.

use super::destination::HeldDestination;
use super::key::Key;
use crate::handler::{Opened, Refusal, SharedHandler};
use crate::takeover::Membership;
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};

/// A callback panicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Panicked;

/// Result of work on the destination of an upload.
pub enum StoreResult {
    /// The destination takes more.
    Ready(HeldDestination),
    /// It cannot begin now.
    NotNow(HeldDestination),
    /// The file is stored.
    Finished,
    /// The upload ends.
    Refused(Refusal),
}

/// A message.
pub enum LoopEvent {
    /// The handler has answered a read request.
    Opened(Key, Result<Opened, Panicked>),
    /// The handler has answered a write request.
    Accepted(Key, Result<Result<HeldDestination, Refusal>, Panicked>),
    /// The destination of an upload has done its work.
    Stored(Key, Result<StoreResult, Panicked>),
    /// The waker of a transfer was woken.
    Woken(Key),
    /// The pool of takeover has changed.
    Membership(Arc<Membership>),
    /// Further requests get this handler.
    Handler(SharedHandler),
    /// Answer no new requests, or answer them again.
    Pause(bool),
    /// Answer no new requests, and end with the last transfer.
    Drain,
    /// Stop the loop.
    Stop,
}

/// Queue of messages, with an eventfd that wakes the loop.
pub struct EventChannel {
    queue: Mutex<Vec<LoopEvent>>,
    event_fd: EventFd,
}

impl EventChannel {
    /// Creates an empty channel.
    ///
    /// # Errors
    /// When there is no free file descriptor.
    pub fn new() -> io::Result<EventChannel> {
        let event_fd = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(EventChannel { queue: Mutex::default(), event_fd })
    }

    /// Queues a message and wakes the loop.
    pub fn send(&self, message: LoopEvent) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.push(message);
        if queue.len() == 1 {
            // The write fails only when the counter is full, and then the event is already signalled.
            let _written = self.event_fd.write(1);
        }
    }

    /// Takes all messages.
    pub fn drain(&self) -> Vec<LoopEvent> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let _read = self.event_fd.read();
        std::mem::take(&mut *queue)
    }
}

impl AsFd for EventChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event_fd.as_fd()
    }
}

/// Waker of a transfer. It sends one message, however often it is woken before the loop handles it.
pub struct TransferWaker {
    channel: Arc<EventChannel>,
    key: Key,
    signalled: AtomicBool,
}

impl TransferWaker {
    /// Creates the waker of the transfer with this key.
    pub fn new(channel: Arc<EventChannel>, key: Key) -> Arc<TransferWaker> {
        Arc::new(TransferWaker { channel, key, signalled: AtomicBool::new(false) })
    }

    /// Returns it as a [`Waker`].
    pub fn waker(self: &Arc<TransferWaker>) -> Waker {
        Waker::from(Arc::clone(self))
    }

    /// Rearms the waker before the loop polls the transfer, so that the next wake sends a message again.
    pub fn established(&self) {
        self.signalled.store(false, Ordering::SeqCst);
    }
}

impl Wake for TransferWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.signalled.swap(true, Ordering::SeqCst) {
            self.channel.send(LoopEvent::Woken(self.key));
        }
    }
}

//! Packets through AF_XDP sockets, one for each receive queue: a filter in the kernel takes what is ours before the host's stack sees it.
//!
//! A received frame stays in its chunk of memory: the path changes it in place, its descriptor goes from the receive ring to the transmit
//! ring, the kernel says when it is sent, and the chunk is filled again. Where the driver has zero copy the card itself reads and writes the chunks.
//!
//! * The rings are our own, over `libc`: the crates that were tried panic when a counter wraps after 2^32 frames, or lose frames on a short fill.
//! * The filter takes only what is ours (see [`FilterHandle`]). A frame that it took cannot be given back: `ToHost` only releases it, counted in [`Counts`].
//! * The filter and its maps go away with the process, however it ends.
//! * A VLAN tag that the card takes off is lost to XDP: `rxvlan` must be off (`ethtool -K`) where tags are used, see [`crate::offloads`].
//! * A worker has a socket for one receive queue, or for several: of a bond one for each slave, and those of queues that were added later.
//! * A UDP or TCP checksum that a container or virtual machine of this host left to its card is finished here. The kernel does not say which these are: the field
//!   holds the sum over the pseudo-header alone.

mod asm;
mod bpf;
mod error;
mod filter;
mod handle;
mod holder;
mod ring;
mod setup;
mod socket;
#[cfg(test)]
mod tests;
mod umem;

pub use error::Error;
pub use handle::{FilterHandle, Renewed};
pub use holder::Holder;
pub use setup::Options;
pub use socket::Counts;

use super::{BatchHandler, Io, PollResult};
use guideway_packet::loss::Losses;
use guideway_packet::time::Time;
use guideway_sys as sys;
use socket::QueueSocket;
use std::os::fd::AsFd;
use std::sync::mpsc::Receiver;
use std::time::Duration;

/// The sockets of one worker.
#[derive(Debug)]
pub struct AfXdp {
    sockets: Vec<QueueSocket>,
    changes: Receiver<Change>,
    /// The socket that received last, by which own frames leave.
    last: usize,
    /// What the sockets that are closed have counted.
    closed: (Counts, Losses),
}

/// What a worker does to its sockets.
enum Change {
    /// Receives by this one, too.
    Open(Box<QueueSocket>),
    /// Closes those of the interface with this number.
    Close(u32),
}

impl AfXdp {
    fn new(changes: Receiver<Change>) -> AfXdp {
        let mut io = AfXdp { sockets: Vec::new(), changes, last: 0, closed: Default::default() };
        io.follow_changes();
        io
    }

    /// Returns the counters of this worker.
    pub fn counts(&self) -> Counts {
        self.sockets.iter().fold(self.closed.0, |sum, socket| sum.plus(&socket.counts))
    }

    /// Returns whether the card reads and writes our memory itself.
    pub fn zero_copy(&self) -> bool {
        self.sockets.iter().all(|socket| socket.zero_copy)
    }

    fn follow_changes(&mut self) {
        while let Ok(change) = self.changes.try_recv() {
            match change {
                Change::Open(socket) => self.sockets.push(*socket),
                Change::Close(interface) => self.close(|socket| socket.interface == interface),
            }
        }
    }

    /// Closes some of the sockets; their counts stay.
    fn close(&mut self, which: impl Fn(&QueueSocket) -> bool) {
        for socket in self.sockets.extract_if(.., |socket| which(socket)) {
            self.closed.0 = self.closed.0.plus(&socket.counts);
            self.closed.1.merge(&socket.losses);
        }
        self.last = 0;
    }

    /// Closes the sockets whose interface is gone. Passes `error` on when that explains nothing, or no socket is left.
    fn close_gone(&mut self, error: std::io::Error) -> std::io::Result<()> {
        let before = self.sockets.len();
        self.close(|socket| sys::interface_error(std::io::ErrorKind::NotFound.into(), socket.interface).is_err());
        if self.sockets.is_empty() || self.sockets.len() == before { Err(error) } else { Ok(()) }
    }

    /// Polls the sockets without waiting, from the one after the last that received on.
    fn poll_all(&mut self, work: &mut BatchHandler<'_>) -> std::io::Result<PollResult> {
        let count = self.sockets.len();
        for ahead in 1..=count {
            let at = (self.last + ahead) % count;
            let poll = self.sockets[at].poll(Duration::ZERO, work)?;
            if poll.received > 0 {
                self.last = at;
                return Ok(poll);
            }
        }
        Ok(PollResult::default())
    }
}

impl AfXdp {
    fn poll_several(&mut self, wait: Duration, work: &mut BatchHandler<'_>) -> std::io::Result<PollResult> {
        let poll = self.poll_all(work)?;
        if poll.received > 0 || wait.is_zero() {
            return Ok(poll);
        }
        self.sockets.iter_mut().try_for_each(QueueSocket::rest)?;
        sys::wait_any_readable(self.sockets.iter().map(|socket| socket.socket.as_fd()), wait)?;
        self.poll_all(work)
    }
}

impl Io for AfXdp {
    fn poll(&mut self, wait: Duration, work: &mut BatchHandler<'_>) -> std::io::Result<PollResult> {
        self.follow_changes();
        if let [only] = &mut *self.sockets {
            return only.poll(wait, work);
        }
        self.poll_several(wait, work).or_else(|error| self.close_gone(error).map(|()| PollResult::default()))
    }

    /// Queues the frame; the next poll sends it.
    fn send(&mut self, frame: &[u8]) -> std::io::Result<bool> {
        self.sockets.get_mut(self.last).map_or(Ok(false), |socket| socket.send(frame))
    }

    fn now(&self) -> Time {
        sys::monotonic()
    }

    fn losses(&self) -> Losses {
        let mut losses = self.closed.1;
        self.sockets.iter().for_each(|socket| losses.merge(&socket.losses));
        losses
    }

    fn for_each_counter(&self, show: &mut dyn FnMut(&'static str, u64)) {
        let Counts { lost_to_host, fill_ring_empty, checksums_finished, invalid_descriptors } = self.counts();
        show("lost_to_host", lost_to_host);
        show("fill_ring_empty", fill_ring_empty);
        show("checksums_finished", checksums_finished);
        show("invalid_descriptors", invalid_descriptors);
    }
}

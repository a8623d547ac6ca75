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
    /// Sockets of queues that were added.
    added: Receiver<QueueSocket>,
    /// The socket that received last, by which own frames leave.
    last: usize,
}

impl AfXdp {
    fn new(added: Receiver<QueueSocket>) -> AfXdp {
        let mut io = AfXdp { sockets: Vec::new(), added, last: 0 };
        io.adopt();
        io
    }

    /// Returns the counters of this worker.
    pub fn counts(&self) -> Counts {
        self.sockets.iter().fold(Counts::default(), |sum, socket| Counts {
            lost_to_host: sum.lost_to_host + socket.counts.lost_to_host,
            checksums_finished: sum.checksums_finished + socket.counts.checksums_finished,
            fill_ring_empty: sum.fill_ring_empty + socket.counts.fill_ring_empty,
            invalid_descriptors: sum.invalid_descriptors + socket.counts.invalid_descriptors,
        })
    }

    /// Returns whether the card reads and writes our memory itself.
    pub fn zero_copy(&self) -> bool {
        self.sockets.iter().all(|socket| socket.zero_copy)
    }

    /// Takes over the sockets of queues that were added.
    fn adopt(&mut self) {
        while let Ok(socket) = self.added.try_recv() {
            self.sockets.push(socket);
        }
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

impl Io for AfXdp {
    fn poll(&mut self, wait: Duration, work: &mut BatchHandler<'_>) -> std::io::Result<PollResult> {
        self.adopt();
        if let [only] = &mut *self.sockets {
            return only.poll(wait, work);
        }
        let poll = self.poll_all(work)?;
        if poll.received > 0 || wait.is_zero() {
            return Ok(poll);
        }
        self.sockets.iter_mut().try_for_each(QueueSocket::rest)?;
        sys::wait_any_readable(self.sockets.iter().map(|socket| socket.socket.as_fd()), wait)?;
        self.poll_all(work)
    }

    /// Queues the frame; the next poll sends it.
    fn send(&mut self, frame: &[u8]) -> std::io::Result<bool> {
        self.sockets.get_mut(self.last).map_or(Ok(false), |socket| socket.send(frame))
    }

    fn now(&self) -> Time {
        sys::monotonic()
    }

    fn losses(&self) -> Losses {
        let mut losses = Losses::default();
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

//! Packets through AF_XDP sockets, one for each receive queue: a filter in the kernel takes what is ours before the host's stack sees it.
//!
//! A received frame stays in its chunk of memory: the path changes it in place, its descriptor goes from the receive ring to the transmit
//! ring, the kernel says when it is sent, and the chunk is filled again. Where the driver has zero copy the card itself reads and writes the chunks.
//!
//! * The rings are our own, over `libc`: the crates that were tried panic when a counter wraps after 2^32 frames, or lose frames on a short fill.
//! * The filter takes only what is ours (see [`FilterHandle`]). A frame that it took cannot be given back: `ToHost` only releases it, counted in [`Counts`].
//! * The filter and its maps go away with the process, however it ends.
//! * A VLAN tag that the card takes off is lost to XDP: switch `rxvlan` off (`ethtool -K`) where tags are used.
//! * Frames whose L4 checksum a local sender left to its card are forwarded as they are, and so wrong (see `af_packet`).

mod asm;
mod bpf;
mod error;
mod filter;
mod ring;
mod setup;
#[cfg(test)]
mod tests;
mod umem;

pub use error::Error;
pub use setup::{FilterHandle, Options};

use super::{BATCH, BatchHandler, Io, PollResult};
use guideway_packet::frame::Frame;
use guideway_packet::time::Time;
use guideway_packet::verdict::Verdict;
use guideway_sys as sys;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, send};
use ring::{Consumer, Producer};
use socket2::Socket;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;
use umem::{FrameLocation, Umem};

/// Chunks kept back from the fill ring, for frames of our own.
const RESERVED_CHUNKS: usize = 256;
/// System calls in one poll to send a batch: the kernel sends 32 frames or more for each.
const MAX_KICKS: usize = 4;

/// Counters of one socket beside those of a poll.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Frames that the filter took and the path wanted to leave to the host: lost to the host.
    pub lost_to_host: u64,
}

/// The socket of one receive queue.
#[derive(Debug)]
pub struct AfXdp {
    // The rings stand before the socket and the memory: the kernel releases the queue only if their mappings are gone when the socket is closed.
    fill: Producer<u64>,
    completion: Consumer<u64>,
    receive: Consumer<libc::xdp_desc>,
    transmit: Producer<libc::xdp_desc>,
    socket: Socket,
    umem: Umem,
    interface: u32,
    counts: Counts,
    zero_copy: bool,
}

impl AfXdp {
    /// Returns the counters of this socket.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Returns whether the card reads and writes our memory itself.
    pub fn zero_copy(&self) -> bool {
        self.zero_copy
    }

    /// Takes back the chunks of sent frames and gives the kernel empty chunks to fill.
    fn recycle(&mut self) -> std::io::Result<()> {
        let sent = self.completion.ready()?;
        for _ in 0..sent {
            let address = self.completion.pop();
            self.umem.complete(address)?;
        }
        if sent > 0 {
            self.completion.release();
        }
        // Few at a time would cost a barrier each time; the fill ring has room for every chunk there is.
        let more = self.umem.free().saturating_sub(RESERVED_CHUNKS).min(self.fill.room()? as usize);
        if more >= BATCH {
            for _ in 0..more {
                if let Some(address) = self.umem.submit_free() {
                    self.fill.push(address);
                }
            }
            self.fill.publish();
        }
        Ok(())
    }

    /// Makes the kernel send the frames in the transmit ring.
    fn kick(&mut self) -> std::io::Result<()> {
        for _ in 0..MAX_KICKS {
            if self.transmit.pending()? == 0 || !self.transmit.needs_wakeup() {
                break;
            }
            match send(self.socket.as_raw_fd(), &[], MsgFlags::MSG_DONTWAIT) {
                // `EAGAIN`: it has sent as many as it sends at a time, and there are more.
                Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => (),
                // The queue of the card is full, or the link is down: what remains in the ring is sent with a later poll.
                Err(Errno::ENOBUFS | Errno::EBUSY) => break,
                Err(error) => {
                    sys::interface_error(error.into(), self.interface)?;
                    break;
                }
            }
        }
        Ok(())
    }

    /// Reads the received frames, at most a batch.
    fn receive(&mut self, locations: &mut [FrameLocation; BATCH]) -> std::io::Result<usize> {
        let count = (self.receive.ready()? as usize).min(BATCH);
        for place in &mut locations[..count] {
            *place = self.umem.receive(self.receive.pop())?;
        }
        if count > 0 {
            self.receive.release();
        }
        Ok(count)
    }

    /// Shows the frames to `work`; afterwards `places` says where they stand.
    fn process(&mut self, locations: &mut [FrameLocation], verdicts: &mut [Verdict; BATCH], work: &mut BatchHandler<'_>) {
        let mut frames: [Frame<'_>; BATCH] = std::array::from_fn(|_| Frame::new(&mut [], 0, 0));
        let count = self.umem.frames(locations, &mut frames);
        work(sys::monotonic(), &mut frames[..count]);
        let mut after = [(0, 0); BATCH];
        for ((after, verdict), frame) in after.iter_mut().zip(verdicts.iter_mut()).zip(&frames[..count]) {
            *after = (frame.start() as u32, frame.len() as u32);
            *verdict = frame.verdict;
        }
        self.umem.frames_done(locations);
        for (place, after) in locations.iter_mut().zip(after) {
            (place.start, place.len) = after;
        }
    }
}

impl Io for AfXdp {
    fn poll(&mut self, wait: Duration, work: &mut BatchHandler<'_>) -> std::io::Result<PollResult> {
        let mut locations = [FrameLocation::default(); BATCH];
        self.recycle()?;
        let mut received = self.receive(&mut locations)?;
        if received == 0 {
            self.kick()?;
            if wait.is_zero() {
                // A driver that has run out of empty chunks may wait for a wakeup.
                if self.fill.needs_wakeup() {
                    let _ = nix::sys::socket::recv(self.socket.as_raw_fd(), &mut [], MsgFlags::MSG_DONTWAIT);
                }
                return Ok(PollResult::default());
            }
            sys::wait_readable(self.socket.as_fd(), wait)?;
            self.recycle()?;
            received = self.receive(&mut locations)?;
            if received == 0 {
                // `poll` does not report an AF_XDP socket whose interface is gone.
                sys::socket_error(self.socket.as_fd(), self.interface)?;
                return Ok(PollResult::default());
            }
        }
        let mut verdicts = [Verdict::ToHost; BATCH];
        self.process(&mut locations[..received], &mut verdicts, work);

        let mut poll = PollResult { received, ..PollResult::default() };
        let mut room = self.transmit.room()?;
        for (place, verdict) in locations[..received].iter().zip(verdicts) {
            match verdict {
                Verdict::Transmit if room > 0 => match self.umem.submit(*place) {
                    Some(desc) => {
                        self.transmit.push(desc);
                        room -= 1;
                    }
                    None => poll.transmit_full += 1,
                },
                other => {
                    poll.transmit_full += usize::from(other == Verdict::Transmit);
                    self.counts.lost_to_host += u64::from(other == Verdict::ToHost);
                    self.umem.release(place.chunk);
                }
            }
        }
        self.transmit.publish();
        self.kick()?;
        Ok(poll)
    }

    /// Queues the frame; the next poll sends it.
    fn send(&mut self, frame: &[u8]) -> std::io::Result<bool> {
        if self.transmit.room()? == 0 {
            return Ok(false);
        }
        let Some(desc) = self.umem.submit_copy(frame) else { return Ok(false) };
        self.transmit.push(desc);
        self.transmit.publish();
        Ok(true)
    }

    fn now(&self) -> Time {
        sys::monotonic()
    }

    fn for_each_counter(&self, show: &mut dyn FnMut(&'static str, u64)) {
        show("lost_to_host", self.counts.lost_to_host);
    }
}

//! Packets through AF_XDP sockets, one for each receive queue: a filter in the kernel takes what is ours before the host's stack sees it.
//!
//! A received frame stays in its chunk of memory: the path changes it in place, its descriptor goes from the receive ring to the transmit
//! ring, the kernel says when it is sent, and the chunk is filled again. Where the driver has zero copy the card itself reads and writes the chunks.
//!
//! * The rings are our own, over `libc`: the crates that were tried panic when a counter wraps after 2^32 frames, or lose frames on a short fill.
//! * The filter takes only what is ours (see [`Filter`]). A frame that it took cannot be given back: `ToHost` only releases it, counted in [`Counts`].
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
pub use setup::{Filter, Options};

use super::{BATCH, Io, Turn, Work};
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
use umem::{Place, Umem};

/// Chunks kept back from the fill ring, for frames of our own.
const KEPT: usize = 256;
/// System calls in one turn to have a batch sent: the kernel sends 32 frames or more at each.
const KICKS: usize = 4;

/// What one socket has seen that a turn does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Frames that the filter took and the path wanted to leave to the host: lost to the host.
    pub lost_to_host: u64,
}

/// The socket of one receive queue.
#[derive(Debug)]
pub struct AfXdp {
    // The rings before the socket and the memory: their mappings are gone when the socket is closed, which lets go of the queue.
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
    /// What this socket has counted so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Whether the card reads and writes our memory itself.
    pub fn zero_copy(&self) -> bool {
        self.zero_copy
    }

    /// Takes back what has been sent and gives the kernel empty chunks to fill.
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
        let more = self.umem.spare().saturating_sub(KEPT).min(self.fill.room()? as usize);
        if more >= BATCH {
            for _ in 0..more {
                if let Some(address) = self.umem.lend_spare() {
                    self.fill.push(address);
                }
            }
            self.fill.publish();
        }
        Ok(())
    }

    /// Has the kernel send what stands in the transmit ring.
    fn kick(&mut self) -> std::io::Result<()> {
        for _ in 0..KICKS {
            if self.transmit.pending()? == 0 || !self.transmit.needs_wakeup() {
                break;
            }
            match send(self.socket.as_raw_fd(), &[], MsgFlags::MSG_DONTWAIT) {
                // `EAGAIN`: it has sent as many as it sends at a time, and there are more.
                Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => (),
                // The queue of the card is full, or the link is down: what remains in the ring is sent with a later turn.
                Err(Errno::ENOBUFS | Errno::EBUSY) => break,
                Err(error) => {
                    sys::interface_error(error.into(), self.interface)?;
                    break;
                }
            }
        }
        Ok(())
    }

    /// The frames that are there, at most a batch.
    fn receive(&mut self, places: &mut [Place; BATCH]) -> std::io::Result<usize> {
        let count = (self.receive.ready()? as usize).min(BATCH);
        for place in &mut places[..count] {
            *place = self.umem.receive(self.receive.pop())?;
        }
        if count > 0 {
            self.receive.release();
        }
        Ok(count)
    }

    /// Shows the frames to `work`; afterwards `places` says where they stand.
    fn show(&mut self, places: &mut [Place], verdicts: &mut [Verdict; BATCH], work: &mut Work<'_>) {
        let mut frames: [Frame<'_>; BATCH] = std::array::from_fn(|_| Frame::new(&mut [], 0, 0));
        let count = self.umem.frames(places, &mut frames);
        work(sys::monotonic(), &mut frames[..count]);
        let mut after = [(0, 0); BATCH];
        for ((after, verdict), frame) in after.iter_mut().zip(verdicts.iter_mut()).zip(&frames[..count]) {
            *after = (frame.start() as u32, frame.len() as u32);
            *verdict = frame.verdict;
        }
        self.umem.frames_done(places);
        for (place, after) in places.iter_mut().zip(after) {
            (place.start, place.len) = after;
        }
    }
}

impl Io for AfXdp {
    fn turn(&mut self, wait: Duration, work: &mut Work<'_>) -> std::io::Result<Turn> {
        let mut places = [Place::default(); BATCH];
        self.recycle()?;
        let mut received = self.receive(&mut places)?;
        if received == 0 {
            self.kick()?;
            if wait.is_zero() {
                // A driver that has run out of empty chunks may wait to be told that there are some.
                if self.fill.needs_wakeup() {
                    let _ = nix::sys::socket::recv(self.socket.as_raw_fd(), &mut [], MsgFlags::MSG_DONTWAIT);
                }
                return Ok(Turn::default());
            }
            sys::wait_readable(self.socket.as_fd(), wait)?;
            self.recycle()?;
            received = self.receive(&mut places)?;
            if received == 0 {
                // `poll` does not tell of an AF_XDP socket whose interface is gone.
                sys::socket_error(self.socket.as_fd(), self.interface)?;
                return Ok(Turn::default());
            }
        }
        let mut verdicts = [Verdict::ToHost; BATCH];
        self.show(&mut places[..received], &mut verdicts, work);

        let mut turn = Turn { received, ..Turn::default() };
        let mut room = self.transmit.room()?;
        for (place, verdict) in places[..received].iter().zip(verdicts) {
            match verdict {
                Verdict::Transmit if room > 0 => match self.umem.lend(*place) {
                    Some(desc) => {
                        self.transmit.push(desc);
                        room -= 1;
                    }
                    None => turn.transmit_full += 1,
                },
                other => {
                    turn.transmit_full += usize::from(other == Verdict::Transmit);
                    self.counts.lost_to_host += u64::from(other == Verdict::ToHost);
                    self.umem.release(place.chunk);
                }
            }
        }
        self.transmit.publish();
        self.kick()?;
        Ok(turn)
    }

    /// Sent with the next turn.
    fn send(&mut self, frame: &[u8]) -> std::io::Result<bool> {
        if self.transmit.room()? == 0 {
            return Ok(false);
        }
        let Some(desc) = self.umem.lend_copy(frame) else { return Ok(false) };
        self.transmit.push(desc);
        self.transmit.publish();
        Ok(true)
    }

    fn now(&self) -> Time {
        sys::monotonic()
    }

    fn each_count(&self, show: &mut dyn FnMut(&'static str, u64)) {
        show("lost_to_host", self.counts.lost_to_host);
    }
}

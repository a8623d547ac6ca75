//! The socket of one receive queue: its rings, its memory, and what one poll does with them.

use super::ring::{Consumer, Producer};
use super::umem::{FrameLocation, Umem};
use crate::af_packet::send::transmit;
use crate::checksum::{self, Checksum};
use crate::{BATCH, BatchHandler, PollResult};
use guideway_packet::frame::{Frame, OWN_INTERFACE};
use guideway_packet::loss::{Loss, Losses};
use guideway_packet::verdict::Verdict;
use guideway_sys as sys;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, send};
use socket2::Socket;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

/// Chunks kept back from the fill ring, for frames of our own.
pub(super) const RESERVED_CHUNKS: usize = 256;
/// Busy polls between two looks at the kernel's statistics. An idle poll looks at them anyway.
const STATISTICS_INTERVAL: u32 = 1024;
/// System calls in one poll to send a batch: the kernel sends 32 frames or more for each.
const MAX_KICKS: usize = 4;

/// Counters of one worker beside those of a poll.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Frames that the filter took and the path wanted to leave to the host: lost to the host.
    pub lost_to_host: u64,
    /// Times that the kernel found no empty buffer; with zero copy the card may have lost frames.
    pub fill_ring_empty: u64,
    /// Checksums that a local sender had left to its card, and that were finished here.
    pub checksums_finished: u64,
    /// Descriptors that the kernel refused.
    pub invalid_descriptors: u64,
}

impl Counts {
    pub(super) fn plus(&self, other: &Counts) -> Counts {
        Counts {
            lost_to_host: self.lost_to_host + other.lost_to_host,
            checksums_finished: self.checksums_finished + other.checksums_finished,
            fill_ring_empty: self.fill_ring_empty + other.fill_ring_empty,
            invalid_descriptors: self.invalid_descriptors + other.invalid_descriptors,
        }
    }
}

/// The socket of one receive queue.
#[derive(Debug)]
pub(super) struct QueueSocket {
    // The rings stand before the socket and the memory: the kernel releases the queue only if their mappings are gone when the socket is closed.
    pub(super) fill: Producer<u64>,
    pub(super) completion: Consumer<u64>,
    pub(super) receive: Consumer<libc::xdp_desc>,
    pub(super) transmit: Producer<libc::xdp_desc>,
    pub(super) socket: Socket,
    pub(super) umem: Umem,
    pub(super) interface: u32,
    pub(super) counts: Counts,
    pub(super) losses: Losses,
    pub(super) polls: u32,
    pub(super) zero_copy: bool,
    /// Sends instead of the transmit ring, where the interface has fewer queues to transmit by: the kernel says nothing, and sends nothing, on such a queue.
    pub(super) sender: Option<Socket>,
}

impl QueueSocket {
    /// Takes back the chunks of sent frames and gives the kernel empty chunks to fill.
    pub(super) fn recycle(&mut self) -> std::io::Result<()> {
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
    pub(super) fn kick(&mut self) -> std::io::Result<()> {
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
    fn receive_batch(&mut self, locations: &mut [FrameLocation; BATCH]) -> std::io::Result<usize> {
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
    /// Returns how many frames a sender of its own could not send.
    fn process(
        &mut self,
        locations: &mut [FrameLocation],
        verdicts: &mut [Verdict; BATCH],
        work: &mut BatchHandler<'_>,
    ) -> std::io::Result<usize> {
        let mut frames: [Frame<'_>; BATCH] = std::array::from_fn(|_| Frame::new(&mut [], 0, 0));
        let count = self.umem.frames(locations, &mut frames);
        for frame in &mut frames[..count] {
            self.counts.checksums_finished += u64::from(checksum::finish(frame.bytes_mut()) == Checksum::Finished);
        }
        work(sys::monotonic(), &mut frames[..count]);
        let mut lost = 0;
        if let Some(sender) = &self.sender {
            let (full, outcome) = transmit(sender.as_fd(), &mut frames[..count], OWN_INTERFACE);
            lost = full;
            outcome.or_else(|error| sys::interface_error(error, self.interface))?;
            // Sent or not, they are done with.
            frames[..count].iter_mut().filter(|frame| frame.verdict == Verdict::Transmit).for_each(|frame| frame.verdict = Verdict::Hold);
        }
        let mut after = [(0, 0); BATCH];
        for ((after, verdict), frame) in after.iter_mut().zip(verdicts.iter_mut()).zip(&frames[..count]) {
            *after = (frame.start() as u32, frame.len() as u32);
            *verdict = frame.verdict;
        }
        self.umem.frames_done(locations);
        for (place, after) in locations.iter_mut().zip(after) {
            (place.start, place.len) = after;
        }
        Ok(lost)
    }
}

impl QueueSocket {
    /// Reads what the kernel says it lost, if it is time to.
    fn update_losses(&mut self, idle: bool) -> std::io::Result<()> {
        self.polls = self.polls.wrapping_add(1);
        if idle || self.polls.is_multiple_of(STATISTICS_INTERVAL) {
            let now = sys::get_option::<libc::xdp_statistics>(self.socket.as_fd(), libc::SOL_XDP, libc::XDP_STATISTICS)?;
            self.losses = Losses::default();
            self.losses.add(Loss::RingFull, now.rx_ring_full);
            self.losses.add(Loss::NoBuffer, now.rx_dropped);
            self.counts.fill_ring_empty = now.rx_fill_ring_empty_descs;
            self.counts.invalid_descriptors = now.rx_invalid_descs + now.tx_invalid_descs;
        }
        Ok(())
    }

    /// What is due before the worker sleeps on several sockets.
    pub(super) fn rest(&mut self) -> std::io::Result<()> {
        self.update_losses(true)?;
        // `poll` does not report an AF_XDP socket whose interface is gone.
        sys::socket_error(self.socket.as_fd(), self.interface)
    }

    /// As [`crate::Io::poll`].
    pub(super) fn poll(&mut self, wait: Duration, work: &mut BatchHandler<'_>) -> std::io::Result<PollResult> {
        let mut locations = [FrameLocation::default(); BATCH];
        self.recycle()?;
        let mut received = self.receive_batch(&mut locations)?;
        if received == 0 {
            self.kick()?;
            if wait.is_zero() {
                // A driver that has run out of empty chunks may wait for a wakeup.
                if self.fill.needs_wakeup() {
                    let _ = nix::sys::socket::recv(self.socket.as_raw_fd(), &mut [], MsgFlags::MSG_DONTWAIT);
                }
                return Ok(PollResult::default());
            }
            self.update_losses(true)?;
            sys::wait_readable(self.socket.as_fd(), wait)?;
            self.recycle()?;
            received = self.receive_batch(&mut locations)?;
            if received == 0 {
                // `poll` does not report an AF_XDP socket whose interface is gone.
                sys::socket_error(self.socket.as_fd(), self.interface)?;
                return Ok(PollResult::default());
            }
        }
        self.update_losses(false)?;
        let mut verdicts = [Verdict::ToHost; BATCH];
        let transmit_full = self.process(&mut locations[..received], &mut verdicts, work)?;
        let mut poll = PollResult { received, transmit_full, ..PollResult::default() };
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
    pub(super) fn send(&mut self, frame: &[u8]) -> std::io::Result<bool> {
        if let Some(sender) = &self.sender {
            return Ok(sender.send_with_flags(frame, libc::MSG_DONTWAIT).is_ok());
        }
        if self.transmit.room()? == 0 {
            return Ok(false);
        }
        let Some(desc) = self.umem.submit_copy(frame) else { return Ok(false) };
        self.transmit.push(desc);
        self.transmit.publish();
        Ok(true)
    }
}

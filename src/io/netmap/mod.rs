//! Packets through netmap rings, one pair for each worker: the interface belongs to the director, and the host's stack gets the rest from it.
//!
//! A received frame stays in its buffer: the path changes it in place, and the receive slot and a transmit slot exchange buffers. What is not
//! ours goes to the host's network stack, and what that sends goes out, so that the interface keeps its addresses: ARP, ping and ssh go on.
//!
//! * **Cards write to the start of a buffer and send from there.** GRE to GRE of one family leaves a frame where it is. One that grows (plain
//!   packets, IPv4 to IPv6) is moved once, by the frame itself into the room behind it ([`guideway_packet::frame::HEADROOM`]); one that shrinks is moved
//!   when it is sent. netmap's option for offsets in buffers would spare that, but few drivers have it, and GRE needs it seldom.
//! * **The host's rings belong to the first worker**, which exchanges buffers with them too. The others have the kernel itself pass frames up
//!   (`NS_FORWARD`), for two threads must not share a ring.
//! * **Busy under load, asleep when idle.** A poll syncs the receive rings only when all received frames were processed, and the transmit
//!   rings only then or when they run short, so that a system call serves up to a ring of frames. A poll that may wait sleeps in `poll(2)`.
//!   [`Counts`] has the number of both.

mod error;
#[cfg(test)]
mod tests;

pub use error::Error;

use super::checksum::{self, Checksum};
use super::interface::Interface;
use super::{BATCH, BatchHandler, Io, PollResult};
use guideway_packet::frame::{Frame, HEADROOM};
use guideway_packet::loss::{Loss, Losses};
use guideway_packet::time::Time;
use guideway_packet::verdict::Verdict;
use guideway_sys as sys;
use netmap_rings::{Batch, Events, Port, PortName, Ready, Rings, RxRing, TxRing};
use std::time::Duration;

/// Busy turns between two looks at what the host sends. An idle turn looks at it anyway.
const HOST_POLL_INTERVAL: u32 = 16;
/// Longest pause when the interface is down: `poll` does not sleep then.
const LINK_DOWN_SLEEP: Duration = Duration::from_millis(10);
/// Ethernet header with a VLAN tag.
const LINK: usize = 18;

/// Counters of one worker's rings beside those of a poll.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Number of receive syncs without waiting.
    pub rx_syncs: u64,
    /// Times that the worker went to sleep until frames come.
    pub poll_waits: u64,
    /// Frames of the host's that were sent on.
    pub from_host: u64,
    /// Frames for the host that found no room in its ring: lost to it.
    pub lost_to_host: u64,
    /// Frames in more than one buffer, that the kernel described wrongly, or of the host's that no buffer of ours holds: not received.
    pub bad_frames: u64,
    /// Checksums that a local sender had left to its card, and that were finished here.
    pub checksums_finished: u64,
}

/// The rings of one worker.
#[derive(Debug)]
pub struct Netmap {
    nic: Port,
    /// To the host's stack and back; the first worker's.
    host: Option<Port>,
    interface: u32,
    max_mtu: usize,
    counts: Counts,
    /// Frames of the host's that are longer than the card's buffers.
    too_long: u64,
    /// Whether frames are in the transmit ring that the kernel was not notified of.
    tx_pending: bool,
    polls: u32,
}

impl Netmap {
    /// Opens an interface: as many workers as it has receive rings.
    ///
    /// # Errors
    /// Say what to do about it.
    pub fn open(interface: &Interface) -> Result<Vec<Netmap>, Error> {
        if interface.is_bond() {
            return Err(Error::Bond { bond: interface.name.clone() });
        }
        let name = |rings| PortName::interface(&interface.name, rings);
        let first = Port::open_with(&name(Rings::One(0))?, netmap_rings::Options::default())?;
        let (_, rings) = first.ring_counts();
        let host = Port::open_with(&name(Rings::Host)?, netmap_rings::Options::default())?;
        let mut workers = vec![Netmap::new(first, Some(host), interface)?];
        for ring in 1..u16::try_from(rings).unwrap_or(u16::MAX) {
            let port = Port::open_with(&name(Rings::One(ring))?, netmap_rings::Options::default())?;
            workers.push(Netmap::new(port, None, interface)?);
        }
        Ok(workers)
    }

    /// Opens the ports that stand for an interface (a VALE switch has no host rings), `rings` for its packets and `host_rings` that lead to its
    /// own stack: one worker.
    ///
    /// # Errors
    /// Say what to do about it.
    pub fn open_ports(interface: &Interface, rings: &PortName, host_rings: &PortName) -> Result<Netmap, Error> {
        let options = netmap_rings::Options::default();
        let (nic, host) = (Port::open_with(rings, options)?, Port::open_with(host_rings, options)?);
        Netmap::new(nic, Some(host), interface)
    }

    /// A worker on ports that are open. `host` are the rings to the host, or a port that leads there.
    ///
    /// # Errors
    /// When frames of the interface's MTU do not fit the buffers.
    pub fn new(mut nic: Port, mut host: Option<Port>, interface: &Interface) -> Result<Netmap, Error> {
        let (receive, transmit) = ring_pair(&mut nic);
        let buffer = receive.buffer_size().min(transmit.buffer_size());
        // The host's rings may live in another region, with buffers of another size.
        let buffer = host.as_mut().map_or(buffer, |host| buffer.min(ring_pair(host).1.buffer_size()));
        let most = buffer.saturating_sub(LINK + HEADROOM);
        if interface.mtu as usize > most {
            return Err(Error::Mtu { interface: interface.name.clone(), mtu: interface.mtu, buffer, most });
        }
        // Without rings to the host the kernel passes on what we mark.
        receive.set_forwarding(host.is_none());
        Ok(Netmap {
            nic,
            host,
            interface: interface.index,
            max_mtu: most,
            counts: Counts::default(),
            too_long: 0,
            tx_pending: false,
            polls: 0,
        })
    }

    /// The largest MTU in bytes whose frames fit the buffers.
    pub fn max_mtu(&self) -> u32 {
        self.max_mtu.try_into().unwrap_or(u32::MAX)
    }

    /// What these rings have counted so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Whether frames move to the host and back without a copy of ours.
    pub fn shares_memory_with_host(&self) -> bool {
        self.host.as_ref().is_none_or(|host| std::sync::Arc::ptr_eq(self.nic.region(), host.region()))
    }

    /// An error that a retry does not mend is one; an interface that is down may come back.
    fn ignore_link_down(&self, outcome: std::io::Result<()>) -> std::io::Result<()> {
        outcome.or_else(|error| sys::interface_error(error, self.interface))
    }

    /// Tells the kernel of frames that were handed over.
    fn flush(&mut self) -> std::io::Result<()> {
        if !std::mem::take(&mut self.tx_pending) {
            return Ok(());
        }
        self.ignore_link_down(self.nic.sync_tx())
    }

    /// Has the kernel hand over what has come, waiting for it at most `wait`.
    fn sync_or_wait(&mut self, wait: Duration) -> std::io::Result<()> {
        if wait.is_zero() {
            self.counts.rx_syncs += 1;
            self.flush()?;
            return self.ignore_link_down(self.nic.sync_rx());
        }
        self.counts.poll_waits += 1;
        // Polling sends what was handed over, and looks at the rings of both ports.
        self.tx_pending = false;
        // Without room, what the host sends would wake us at once, again and again; and the kernel gives room back only in a sync.
        let full = ring_pair(&mut self.nic).1.room()? == 0;
        let Ready { failed, .. } = match &self.host {
            Some(host) if !full => Port::wait(&[&self.nic, host], Events::Receive, wait)?,
            Some(_) => Port::wait(&[&self.nic], Events::Any, wait)?,
            None => Port::wait(&[&self.nic], Events::Receive, wait)?,
        };
        if failed {
            sys::interface_error(std::io::Error::other("netmap says that the ring has an error"), self.interface)?;
            std::thread::sleep(wait.min(LINK_DOWN_SLEEP));
        }
        Ok(())
    }

    /// Sends on what the host has sent, as far as there is room; the rest waits in the host's ring.
    fn forward_from_host(&mut self) -> std::io::Result<()> {
        let Some(host) = &mut self.host else { return Ok(()) };
        let (from_host, _) = ring_pair(host);
        let (_, transmit) = ring_pair(&mut self.nic);
        loop {
            let room = transmit.room()? as usize;
            let mut batch = from_host.batch(room)?;
            for frame in 0..batch.len() {
                let len = batch.bytes(frame).map_or(0, |bytes| bytes.len());
                // There is room: what is not sent fits no buffer.
                let sent = forward(&mut batch, frame, transmit, 0, len)?;
                self.counts.from_host += u64::from(sent);
                self.too_long += u64::from(!sent);
                self.tx_pending |= sent;
            }
            if batch.len() < BATCH {
                return Ok(());
            }
        }
    }

    /// Receives a batch, has `work` decide, and carries the verdicts out.
    fn batch(&mut self, work: &mut BatchHandler<'_>) -> std::io::Result<PollResult> {
        let (receive, transmit) = ring_pair(&mut self.nic);
        let mut batch = receive.batch(BATCH)?;
        let mut poll = PollResult { received: batch.len(), ..PollResult::default() };
        if batch.is_empty() {
            drop(batch);
            self.count_unreadable();
            return Ok(poll);
        }
        let mut after = [(0, 0, Verdict::ToHost); BATCH];
        self.counts.checksums_finished += process(&mut batch, &mut after, work);

        let mut host = self.host.as_mut().map(|host| ring_pair(host).1);
        let (mut up, mut short) = (false, false);
        for (frame, (start, len, verdict)) in after.into_iter().enumerate().take(batch.len()) {
            match verdict {
                Verdict::Transmit => {
                    let sent = !short && forward(&mut batch, frame, transmit, start, len)?;
                    self.tx_pending |= sent;
                    short |= !sent;
                    poll.transmit_full += usize::from(!sent);
                }
                Verdict::ToHost => match &mut host {
                    Some(host) => {
                        let passed = forward(&mut batch, frame, host, start, len)?;
                        self.counts.lost_to_host += u64::from(!passed);
                        // Also without room: only a look at the ring gives room back.
                        up = true;
                    }
                    None => batch.forward(frame)?,
                },
                Verdict::Hold | Verdict::Drop(_) => (),
            }
        }
        drop(batch);
        self.count_unreadable();
        if up && let Some(host) = &self.host {
            self.ignore_link_down(host.sync_tx())?;
        }
        Ok(poll)
    }

    fn count_unreadable(&mut self) {
        let ports = [Some(&mut self.nic), self.host.as_mut()];
        let dropped = ports.into_iter().flatten().map(|port| ring_pair(port).0.dropped());
        self.counts.bad_frames = self.too_long + dropped.map(|d| d.fragmented + d.too_long + d.bad_buffer).sum::<u64>();
    }
}

/// The rings of a port that frames come and go by: those to the host where these were opened, else the first pair.
fn ring_pair(port: &mut Port) -> (&mut RxRing, &mut TxRing) {
    let rings = port.rings();
    let (receive, transmit) = if rings.rx.is_empty() { (rings.host_rx, rings.host_tx) } else { (rings.rx, rings.tx) };
    (&mut receive[0], &mut transmit[0])
}

/// Sends `len` bytes from `start` of a frame's buffer by `to`: by exchange of buffers, or as a copy where the memory is not the same. `false`
/// when there is no room, or its buffers are too short.
#[inline]
fn forward(batch: &mut Batch<'_>, frame: usize, to: &mut TxRing, start: usize, len: usize) -> std::io::Result<bool> {
    if start > 0
        && let Some(buffer) = batch.buffer(frame)
    {
        buffer.copy_within(start..start + len, 0);
    }
    match batch.send(frame, to, len) {
        Err(netmap_rings::RingError::OtherRegion) => {
            let bytes = batch.buffer(frame).and_then(|buffer| buffer.get(..len)).unwrap_or_default();
            Ok(bytes.len() <= to.buffer_size() && to.send(bytes)?)
        }
        sent => Ok(sent?),
    }
}

/// Shows the frames of a batch to `work`; afterwards `after` says where each starts, its length and its verdict. Returns how many checksums it finished.
fn process(batch: &mut Batch<'_>, after: &mut [(usize, usize, Verdict); BATCH], work: &mut BatchHandler<'_>) -> u64 {
    let mut frames: [Frame<'_>; BATCH] = std::array::from_fn(|_| Frame::new(&mut [], 0, 0));
    let (mut count, mut finished) = (0, 0);
    for (frame, (_, buffer, len)) in frames.iter_mut().zip(batch.iter_mut()) {
        *frame = Frame::new(buffer, 0, len);
        finished += u64::from(checksum::finish(frame.bytes_mut()) == Checksum::Finished);
        count += 1;
    }
    work(sys::monotonic(), &mut frames[..count]);
    for (after, frame) in after.iter_mut().zip(&frames[..count]) {
        *after = (frame.start(), frame.len(), frame.verdict);
    }
    finished
}

impl Io for Netmap {
    fn poll(&mut self, wait: Duration, work: &mut BatchHandler<'_>) -> std::io::Result<PollResult> {
        self.polls = self.polls.wrapping_add(1);
        let idle = ring_pair(&mut self.nic).0.waiting()? == 0;
        if idle {
            self.sync_or_wait(wait)?;
        }
        if self.polls.is_multiple_of(HOST_POLL_INTERVAL)
            && let Some(host) = &self.host
        {
            self.ignore_link_down(host.sync_rx())?;
        }
        self.forward_from_host()?;
        // What the kernel has sent is given back at a look at the ring.
        let (receive, transmit) = ring_pair(&mut self.nic);
        if receive.waiting()? > 0 && (transmit.room()? as usize) < BATCH {
            self.tx_pending = false;
            self.ignore_link_down(self.nic.sync_tx())?;
        }
        let poll = self.batch(work)?;
        if ring_pair(&mut self.nic).0.waiting()? == 0 {
            self.flush()?;
        }
        Ok(poll)
    }

    /// Sent with the next turn.
    fn send(&mut self, frame: &[u8]) -> std::io::Result<bool> {
        let mut sent = ring_pair(&mut self.nic).1.send(frame)?;
        if !sent {
            self.ignore_link_down(self.nic.sync_tx())?;
            sent = ring_pair(&mut self.nic).1.send(frame)?;
        }
        self.tx_pending |= sent;
        Ok(sent)
    }

    fn now(&self) -> Time {
        sys::monotonic()
    }

    fn losses(&self) -> Losses {
        let mut losses = Losses::default();
        losses.add(Loss::Unreadable, self.counts.bad_frames - self.too_long);
        losses
    }

    fn for_each_counter(&self, show: &mut dyn FnMut(&'static str, u64)) {
        let Counts { rx_syncs, poll_waits, from_host, lost_to_host, bad_frames, checksums_finished } = self.counts;
        show("rx_syncs", rx_syncs);
        show("poll_waits", poll_waits);
        show("from_host", from_host);
        show("lost_to_host", lost_to_host);
        show("unreadable", bad_frames);
        show("checksums_finished", checksums_finished);
    }
}

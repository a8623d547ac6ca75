//! What still runs on backends that are to get nothing new: a line for each flow that was seen, which control reads while the worker writes.
//!
//! Only packets to a backend that is drained, down or retired come here, so that the path pays one test of one flag for all others. Memory is fixed: where
//! there is no room, the line that was silent for longest is replaced, and counted.

use super::encap::Envelope;
use super::select::Flow;
use crate::tables::{BackendId, Snapshot};
use guideway_packet::time::Time;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::Duration;

/// Lines in all.
const LINES: usize = SETS * WAYS;
/// Lines that one flow may take the place of.
const WAYS: usize = 8;
const SETS: usize = 512;
/// How often a line that is being written is read again.
const TRIES: usize = 64;

/// A flow on a backend that gets nothing new.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Conversation {
    /// The client's address.
    pub client: IpAddr,
    /// Its port; in TFTP, its TID.
    pub client_port: u16,
    /// The VIP.
    pub vip: IpAddr,
    /// The port at the VIP; in TFTP, the server's TID.
    pub server_port: u16,
    /// Transport protocol.
    pub protocol: u8,
    /// Who has it.
    pub backend: BackendId,
}

/// One that was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lingerer {
    /// Which.
    pub conversation: Conversation,
    /// Time since its last packet.
    pub silent: Duration,
    /// Its packets since it is watched.
    pub packets: u64,
}

/// The lines of one worker. It alone writes; anybody may read.
#[derive(Debug)]
pub struct Lingering {
    lines: Box<[Line]>,
    now: AtomicU64,
    replaced: AtomicU64,
}

/// `sequence` is odd while the rest is being replaced, and 0 as long as the line was never written.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Line {
    sequence: AtomicU64,
    key: [AtomicU64; 5],
    last: AtomicU64,
    packets: AtomicU64,
}

impl Default for Lingering {
    fn default() -> Self {
        let lines = (0..LINES).map(|_| Line::default()).collect();
        Lingering { lines, now: AtomicU64::new(0), replaced: AtomicU64::new(0) }
    }
}

impl Lingering {
    /// The worker's time, from which silence is counted. Called by the worker alone.
    #[inline]
    pub(super) fn tick(&self, now: Time) {
        self.now.store(now.0, Ordering::Relaxed);
    }

    /// A packet of `flow` goes to `backend`. Called by the worker alone.
    #[cold]
    pub(super) fn note(&self, flow: &Flow, backend: BackendId, tables: &Snapshot, now: Time) {
        let Flow { client, client_port, vip, server_port, protocol, .. } = *flow;
        self.write(&Conversation { client, client_port, vip, server_port, protocol, backend }, tables, now);
    }

    /// The same for the client's packet in an ordinary frame that was not wrapped yet.
    #[cold]
    pub(super) fn note_quick(&self, frame: &[u8], envelope: &Envelope, backend: BackendId, tables: &Snapshot, now: Time) {
        let inner = frame.get(usize::from(envelope.inner)..).unwrap_or_default();
        let found = if envelope.is_v6() { conversation_v6(inner, backend) } else { conversation_v4(inner, backend) };
        if let Some(conversation) = found {
            self.write(&conversation, tables, now);
        }
    }

    fn write(&self, conversation: &Conversation, tables: &Snapshot, now: Time) {
        let key = conversation.words();
        let Conversation { client, client_port, vip, server_port, protocol, .. } = *conversation;
        // Keyed, so that nobody can choose which lines are replaced.
        let hash = tables.hash.flow_v6(protocol, v6(client), v6(vip), client_port, server_port);
        let set = (hash >> 32) as usize % SETS * WAYS;
        let lines = &self.lines[set..set + WAYS];
        let same = |line: &&Line| line.is_written() && line.key.iter().zip(key).all(|(has, is)| has.load(Ordering::Relaxed) == is);
        if let Some(line) = lines.iter().find(same) {
            line.last.store(now.0, Ordering::Relaxed);
            line.packets.fetch_add(1, Ordering::Relaxed);
            return;
        }
        // One that was never written has been silent for longest.
        let Some(line) = lines.iter().min_by_key(|line| (line.is_written(), line.last.load(Ordering::Relaxed))) else { return };
        self.replaced.fetch_add(u64::from(line.is_written()), Ordering::Relaxed);
        let before = line.sequence.load(Ordering::Relaxed);
        line.sequence.store(before + 1, Ordering::Relaxed);
        fence(Ordering::Release);
        line.key.iter().zip(key).for_each(|(has, is)| has.store(is, Ordering::Relaxed));
        line.last.store(now.0, Ordering::Relaxed);
        line.packets.store(1, Ordering::Relaxed);
        line.sequence.store(before + 2, Ordering::Release);
    }

    /// Those that were not silent for `quiet`, in no order.
    pub fn within(&self, quiet: Duration) -> Vec<Lingerer> {
        let now = Time(self.now.load(Ordering::Relaxed));
        self.lines.iter().filter_map(|line| line.read(now)).filter(|line| line.silent < quiet).collect()
    }

    /// How many lines had to make room for others: as many flows may run that are not shown.
    pub fn replaced(&self) -> u64 {
        self.replaced.load(Ordering::Relaxed)
    }
}

impl Line {
    fn is_written(&self) -> bool {
        self.sequence.load(Ordering::Relaxed) > 0
    }

    fn read(&self, now: Time) -> Option<Lingerer> {
        (0..TRIES).find_map(|_| {
            let before = self.sequence.load(Ordering::Acquire);
            let key = std::array::from_fn(|at| self.key[at].load(Ordering::Relaxed));
            let (last, packets) = (self.last.load(Ordering::Relaxed), self.packets.load(Ordering::Relaxed));
            fence(Ordering::Acquire);
            let whole = before.is_multiple_of(2) && self.sequence.load(Ordering::Relaxed) == before;
            whole.then(|| (before > 0).then(|| Lingerer { conversation: Conversation::of(key), silent: now - Time(last), packets }))
        })?
    }
}

impl Conversation {
    fn words(&self) -> [u64; 5] {
        let (client, vip) = (v6(self.client).to_bits(), v6(self.vip).to_bits());
        let rest = u64::from(self.client_port) << 48
            | u64::from(self.server_port) << 32
            | u64::from(self.backend) << 16
            | u64::from(self.protocol) << 8
            | u64::from(self.vip.is_ipv6());
        [(client >> 64) as u64, client as u64, (vip >> 64) as u64, vip as u64, rest]
    }

    fn of(words: [u64; 5]) -> Conversation {
        let [client_high, client_low, vip_high, vip_low, rest] = words;
        let address = |high: u64, low: u64| {
            let bits = u128::from(high) << 64 | u128::from(low);
            if rest & 1 == 1 { IpAddr::V6(Ipv6Addr::from_bits(bits)) } else { IpAddr::V4(Ipv4Addr::from_bits(bits as u32)) }
        };
        Conversation {
            client: address(client_high, client_low),
            client_port: (rest >> 48) as u16,
            vip: address(vip_high, vip_low),
            server_port: (rest >> 32) as u16,
            protocol: (rest >> 8) as u8,
            backend: (rest >> 16) as u16,
        }
    }
}

fn v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(a) => a.to_ipv6_mapped(),
        IpAddr::V6(a) => a,
    }
}

fn conversation_v4(inner: &[u8], backend: BackendId) -> Option<Conversation> {
    let (head, l4) = inner.split_first_chunk::<20>()?;
    let at = |from: usize| Ipv4Addr::new(head[from], head[from + 1], head[from + 2], head[from + 3]).into();
    let (client_port, server_port) = ports(l4)?;
    Some(Conversation { client: at(12), client_port, vip: at(16), server_port, protocol: head[9], backend })
}

fn conversation_v6(inner: &[u8], backend: BackendId) -> Option<Conversation> {
    let (head, l4) = inner.split_first_chunk::<40>()?;
    let at = |from: usize| Some(Ipv6Addr::from(<[u8; 16]>::try_from(head.get(from..from + 16)?).ok()?).into());
    let (client_port, server_port) = ports(l4)?;
    Some(Conversation { client: at(8)?, client_port, vip: at(24)?, server_port, protocol: head[6], backend })
}

fn ports(l4: &[u8]) -> Option<(u16, u16)> {
    let [a, b, c, d] = *l4.first_chunk::<4>()?;
    Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
}

#[cfg(test)]
mod tests;

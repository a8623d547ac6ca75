//! Flows that still run on backends that get nothing new: a slot for each, which control reads while the worker writes.
//!
//! Only packets to a backend that is drained, down or retired are recorded; for all others the path tests one flag. Memory is fixed: where there is no room, the
//! flow that was idle for longest is evicted, and counted.

use super::flow::{Flow, to_v6};
use crate::tables::{BackendId, Snapshot};
use guideway_packet::time::Time;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::Duration;

/// Slots in all.
const SLOTS: usize = SETS * WAYS;
/// Slots that one flow may be recorded in.
const WAYS: usize = 8;
const SETS: usize = 512;
/// How often a slot that is being written is read again.
const MAX_READ_RETRIES: usize = 64;

/// A flow on a backend that gets nothing new.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
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
    /// The backend that it runs on.
    pub backend: BackendId,
}

/// A flow, and when it was last active.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainingFlow {
    /// The flow.
    pub flow_key: FlowKey,
    /// Time since its last packet.
    pub idle: Duration,
    /// Its packets since it is recorded.
    pub packets: u64,
}

/// The slots of one worker. It alone writes; any thread may read.
#[derive(Debug)]
pub struct DrainingFlows {
    slots: Box<[Slot]>,
    now: AtomicU64,
    evicted: AtomicU64,
}

/// `sequence` is odd while the rest is being replaced, and 0 until the slot is first written.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Slot {
    sequence: AtomicU64,
    key: [AtomicU64; 5],
    last: AtomicU64,
    packets: AtomicU64,
}

impl Default for DrainingFlows {
    fn default() -> Self {
        let slots = (0..SLOTS).map(|_| Slot::default()).collect();
        DrainingFlows { slots, now: AtomicU64::new(0), evicted: AtomicU64::new(0) }
    }
}

impl DrainingFlows {
    /// Sets the time from which idle times are counted. Called by the worker alone.
    #[inline]
    pub(super) fn tick(&self, now: Time) {
        self.now.store(now.0, Ordering::Relaxed);
    }

    /// Records a packet of `flow` to `backend`. Called by the worker alone.
    #[cold]
    pub(super) fn record(&self, flow: &Flow, backend: BackendId, tables: &Snapshot, now: Time) {
        let Flow { client, client_port, vip, server_port, protocol, .. } = *flow;
        self.write(&FlowKey { client, client_port, vip, server_port, protocol, backend }, tables, now);
    }

    fn write(&self, flow_key: &FlowKey, tables: &Snapshot, now: Time) {
        let key = flow_key.words();
        let FlowKey { client, client_port, vip, server_port, protocol, .. } = *flow_key;
        // Keyed, so that no client can choose which flows are evicted.
        let hash = tables.hash.flow_v6(protocol, to_v6(client), to_v6(vip), client_port, server_port);
        let set = (hash >> 32) as usize % SETS * WAYS;
        let slots = &self.slots[set..set + WAYS];
        let same = |slot: &&Slot| slot.is_written() && slot.key.iter().zip(key).all(|(has, is)| has.load(Ordering::Relaxed) == is);
        if let Some(slot) = slots.iter().find(same) {
            slot.last.store(now.0, Ordering::Relaxed);
            slot.packets.fetch_add(1, Ordering::Relaxed);
            return;
        }
        // A slot that was never written counts as idle for longest.
        let Some(slot) = slots.iter().min_by_key(|slot| (slot.is_written(), slot.last.load(Ordering::Relaxed))) else { return };
        self.evicted.fetch_add(u64::from(slot.is_written()), Ordering::Relaxed);
        let before = slot.sequence.load(Ordering::Relaxed);
        slot.sequence.store(before + 1, Ordering::Relaxed);
        fence(Ordering::Release);
        slot.key.iter().zip(key).for_each(|(has, is)| has.store(is, Ordering::Relaxed));
        slot.last.store(now.0, Ordering::Relaxed);
        slot.packets.store(1, Ordering::Relaxed);
        slot.sequence.store(before + 2, Ordering::Release);
    }

    /// Returns the flows that were idle for less than `max_idle`, in no order.
    pub fn active_within(&self, max_idle: Duration) -> Vec<DrainingFlow> {
        let now = Time(self.now.load(Ordering::Relaxed));
        self.slots.iter().filter_map(|slot| slot.read(now)).filter(|slot| slot.idle < max_idle).collect()
    }

    /// How many flows were evicted: as many may run that are not shown.
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }
}

impl Slot {
    fn is_written(&self) -> bool {
        self.sequence.load(Ordering::Relaxed) > 0
    }

    fn read(&self, now: Time) -> Option<DrainingFlow> {
        (0..MAX_READ_RETRIES).find_map(|_| {
            let before = self.sequence.load(Ordering::Acquire);
            let key = std::array::from_fn(|at| self.key[at].load(Ordering::Relaxed));
            let (last, packets) = (self.last.load(Ordering::Relaxed), self.packets.load(Ordering::Relaxed));
            fence(Ordering::Acquire);
            let whole = before.is_multiple_of(2) && self.sequence.load(Ordering::Relaxed) == before;
            whole.then(|| (before > 0).then(|| DrainingFlow { flow_key: FlowKey::of(key), idle: now - Time(last), packets }))
        })?
    }
}

impl FlowKey {
    fn words(&self) -> [u64; 5] {
        let (client, vip) = (to_v6(self.client).to_bits(), to_v6(self.vip).to_bits());
        let rest = u64::from(self.client_port) << 48
            | u64::from(self.server_port) << 32
            | u64::from(self.backend) << 16
            | u64::from(self.protocol) << 8
            | u64::from(self.vip.is_ipv6());
        [(client >> 64) as u64, client as u64, (vip >> 64) as u64, vip as u64, rest]
    }

    fn of(words: [u64; 5]) -> FlowKey {
        let [client_high, client_low, vip_high, vip_low, rest] = words;
        let address = |high: u64, low: u64| {
            let bits = u128::from(high) << 64 | u128::from(low);
            if rest & 1 == 1 { IpAddr::V6(Ipv6Addr::from_bits(bits)) } else { IpAddr::V4(Ipv4Addr::from_bits(bits as u32)) }
        };
        FlowKey {
            client: address(client_high, client_low),
            client_port: (rest >> 48) as u16,
            vip: address(vip_high, vip_low),
            server_port: (rest >> 32) as u16,
            protocol: (rest >> 8) as u8,
            backend: (rest >> 16) as u16,
        }
    }
}

#[cfg(test)]
mod tests;

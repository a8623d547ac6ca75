//! What happened to packets, counted once each: received = transmitted + to host + held + dropped, at any moment. Beside it, what bounded tables forgot.

use guideway_packet::verdict::{Reason, Verdict};
use serde_json::{Map, Value};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! named {
    ($(#[$about:meta])* $enum:ident { $( $variant:ident $name:literal $doc:literal, )* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum $enum { $( #[doc = $doc] $variant, )* }

        impl $enum {
            /// All of them.
            pub const ALL: &'static [$enum] = &[ $( $enum::$variant, )* ];

            /// The name in JSON.
            pub const fn name(self) -> &'static str {
                match self { $( $enum::$variant => $name, )* }
            }
        }
    };
}

named! {
    /// A counter beside those of the drop reasons.
    PacketCounter {
        Received "received" "Packets received.",
        Transmitted "transmitted" "Received packets forwarded to a backend.",
        ToHost "to_host" "Received packets left to the host's kernel.",
        Held "held" "Early fragments held now.",
        Originated "originated" "Packets that we made ourselves: ICMP, and fragments beyond the first.",
        ByTidRange "by_tid_range" "Packets whose backend was named by the TID range of their server port.",
        ByFlow "by_flow" "Packets whose backend was named by the flow table.",
        ByMaglev "by_maglev" "Packets whose backend was chosen from the Maglev table.",
        BySuccessor "by_successor" "Packets that went to a successor, because their backend is down or leaves the request unanswered.",
        ByRemoteSite "by_remote_site" "Packets that went to a director of the remote site, because no backend here takes them or their server port belongs to none.",
        HandedOn "handed_on" "Fragments that went to the director of the fleet that owns their datagram.",
        ToLocalServer "to_local_server" "Packets that another director, or a health check, sent to the server of this host; they are not balanced again.",
        Redispatched "redispatched" "Requests that went to another backend, as the first leaves them unanswered.",
        ShedByVip "shed_by_vip" "Requests shed by the limit of their VIP.",
        ShedByBackend "shed_by_backend" "Requests shed by the limit of a backend.",
        ShedByPrefix "shed_by_prefix" "Requests shed by the limit of their client's prefix.",
    }
}

named! {
    /// A table of fixed size. When it is full, it forgets something for something new, or does not remember the new.
    BoundedTable {
        Flows "flows" "Flows that were seen once and had to leave the flow table for others, or that it had no room for.",
        FirstFragments "first_fragments" "Datagrams in fragments that were forgotten before they were complete.",
        Requests "requests" "Requests whose retransmissions are not recognised any more, or not counted for their backend.",
        Prefixes "prefixes" "Requests of prefixes that share their part of an `admission` limit with another prefix.",
        DrainingFlows "draining_flows" "Flows on backends without new flows that `drain` does not show.",
    }
}

/// Where the counters of drop reasons end and those of evictions begin.
const REASONS_END: usize = PacketCounter::ALL.len() + Reason::COUNT;
const LEN: usize = REASONS_END + BoundedTable::ALL.len();

/// Counters of one worker, owned by it; or a sum of several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters([u64; LEN]);

impl Default for Counters {
    fn default() -> Self {
        Counters([0; LEN])
    }
}

impl Counters {
    /// The value of a counter.
    pub fn get(&self, number: PacketCounter) -> u64 {
        self.0[number as usize]
    }

    /// How many packets were dropped for `reason`.
    pub fn dropped(&self, reason: Reason) -> u64 {
        self.0[PacketCounter::ALL.len() + reason as usize]
    }

    /// How many packets were dropped in all.
    pub fn total_dropped(&self) -> u64 {
        self.0[PacketCounter::ALL.len()..REASONS_END].iter().sum()
    }

    /// How many entries a full table has evicted or not taken.
    pub fn evicted(&self, table: BoundedTable) -> u64 {
        self.0[REASONS_END + table as usize]
    }

    /// Sets what a table has counted since it was made.
    pub fn set_evicted(&mut self, table: BoundedTable, entries: u64) {
        self.0[REASONS_END + table as usize] = entries;
    }

    /// Counts `n` more.
    #[inline]
    pub fn add(&mut self, number: PacketCounter, n: u64) {
        self.0[number as usize] += n;
    }

    /// Counts one dropped packet.
    #[inline]
    pub fn drop(&mut self, reason: Reason) {
        self.0[PacketCounter::ALL.len() + reason as usize] += 1;
    }

    /// Counts what became of one received packet.
    #[inline]
    pub fn verdict(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Transmit => self.add(PacketCounter::Transmitted, 1),
            Verdict::ToHost => self.add(PacketCounter::ToHost, 1),
            Verdict::Hold => self.add(PacketCounter::Held, 1),
            Verdict::Drop(reason) => self.drop(reason),
        }
    }

    /// Counts the end of a held packet.
    #[inline]
    pub fn release_held(&mut self, verdict: Verdict) {
        self.0[PacketCounter::Held as usize] -= 1;
        self.verdict(verdict);
    }

    /// `n` packets that the path had decided to transmit found no room in the transmit ring.
    pub fn transmit_full(&mut self, n: u64) {
        let n = n.min(self.get(PacketCounter::Transmitted));
        self.0[PacketCounter::Transmitted as usize] -= n;
        self.0[PacketCounter::ALL.len() + Reason::TransmitFull as usize] += n;
    }

    /// A packet that we made found no room in the transmit ring.
    pub fn cancel_originated(&mut self) {
        self.0[PacketCounter::Originated as usize] -= 1;
    }

    /// Whether every received packet is accounted for.
    pub fn balanced(&self) -> bool {
        let ends = [PacketCounter::Transmitted, PacketCounter::ToHost, PacketCounter::Held].map(|n| self.get(n)).iter().sum::<u64>();
        self.get(PacketCounter::Received) == ends + self.total_dropped()
    }

    /// Adds those of another worker.
    pub fn merge(&mut self, other: &Counters) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine += theirs;
        }
    }

    /// `{"received": n, …, "dropped": {"reason": n}, "evicted": {"table": n}}`; reasons that never happened and tables that were never full are left out.
    pub fn to_json(&self) -> Value {
        let mut map = Map::new();
        for number in PacketCounter::ALL {
            map.insert(number.name().into(), self.get(*number).into());
        }
        let dropped = Reason::ALL.iter().filter(|r| self.dropped(**r) > 0).map(|r| (r.name().into(), self.dropped(*r).into()));
        map.insert("dropped".into(), Value::Object(dropped.collect()));
        let evicted: Map<_, _> =
            BoundedTable::ALL.iter().filter(|t| self.evicted(**t) > 0).map(|t| (t.name().into(), self.evicted(*t).into())).collect();
        if !evicted.is_empty() {
            map.insert("evicted".into(), Value::Object(evicted));
        }
        Value::Object(map)
    }
}

/// Where a worker publishes its counters for others to read. One writer; readers may see a moment in the middle of an update.
#[derive(Debug)]
#[repr(align(64))]
pub struct SharedCounters([AtomicU64; LEN]);

impl Default for SharedCounters {
    fn default() -> Self {
        SharedCounters([const { AtomicU64::new(0) }; LEN])
    }
}

impl SharedCounters {
    /// Shows `counters` to the readers.
    pub fn set(&self, counters: &Counters) {
        for (shown, value) in self.0.iter().zip(counters.0) {
            shown.store(value, Relaxed);
        }
    }

    /// What was shown last.
    pub fn get(&self) -> Counters {
        Counters(std::array::from_fn(|at| self.0[at].load(Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_balance_holds_through_every_kind_of_end() {
        let mut c = Counters::default();
        c.add(PacketCounter::Received, 6);
        for verdict in [Verdict::Transmit, Verdict::Transmit, Verdict::ToHost, Verdict::Hold, Verdict::Hold, Verdict::Drop(Reason::NotTftp)]
        {
            c.verdict(verdict);
        }
        assert!(c.balanced());
        c.release_held(Verdict::Transmit);
        c.release_held(Verdict::Drop(Reason::FragmentHoldExpired));
        assert!(c.balanced());
        c.transmit_full(1);
        assert!(c.balanced());
        c.add(PacketCounter::Received, 1);
        assert!(!c.balanced());
        assert_eq!(c.to_json()["dropped"], serde_json::json!({"not_tftp": 1, "fragment_hold_expired": 1, "transmit_full": 1}));
        c.set_evicted(BoundedTable::Flows, 7);
        assert!(!c.balanced() && c.total_dropped() == 3, "evictions are no packets");
        assert_eq!(c.to_json()["evicted"], serde_json::json!({"flows": 7}));
        let published = SharedCounters::default();
        published.set(&c);
        assert_eq!(published.get(), c);
    }
}

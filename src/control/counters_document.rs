//! Counters as documents show them.

use guideway_api as api;
use guideway_dataplane::counters::{BoundedTable, Counters, PacketCounter};
use guideway_packet::verdict::Reason;

/// Returns counters as documents show them.
pub fn counters_document(counters: &Counters) -> api::counters::Counters {
    let of = |counter: PacketCounter| counters.get(counter);
    let dropped = Reason::ALL.iter().filter(|reason| counters.dropped(**reason) > 0);
    let evicted = BoundedTable::ALL.iter().filter(|table| counters.evicted(**table) > 0);
    api::counters::Counters {
        received: of(PacketCounter::Received),
        transmitted: of(PacketCounter::Transmitted),
        to_host: of(PacketCounter::ToHost),
        held: of(PacketCounter::Held),
        originated: of(PacketCounter::Originated),
        by_tid_range: of(PacketCounter::ByTidRange),
        by_flow: of(PacketCounter::ByFlow),
        by_maglev: of(PacketCounter::ByMaglev),
        by_successor: of(PacketCounter::BySuccessor),
        by_remote_site: of(PacketCounter::ByRemoteSite),
        handed_on: of(PacketCounter::HandedOn),
        to_local_server: of(PacketCounter::ToLocalServer),
        redispatched: of(PacketCounter::Redispatched),
        shed_by_vip: of(PacketCounter::ShedByVip),
        shed_by_backend: of(PacketCounter::ShedByBackend),
        shed_by_prefix: of(PacketCounter::ShedByPrefix),
        dropped: dropped.map(|reason| (reason.name().to_owned(), counters.dropped(*reason))).collect(),
        evicted: evicted.map(|table| (table.name().to_owned(), counters.evicted(*table))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_has_every_counter_and_reason() {
        let mut counters = Counters::default();
        (1..).zip(PacketCounter::ALL).for_each(|(n, counter)| (0..n).for_each(|_| counters.add(*counter, 1)));
        Reason::ALL.iter().for_each(|reason| counters.drop(*reason));
        BoundedTable::ALL.iter().for_each(|table| counters.set_evicted(*table, 2));
        assert_eq!(serde_json::to_value(counters_document(&counters)).unwrap(), counters.to_json());
        assert!(counters_document(&counters).each().into_iter().eq(PacketCounter::ALL.iter().map(|c| (c.name(), counters.get(*c)))));
    }
}

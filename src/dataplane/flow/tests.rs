//! The flow table against a `HashMap`, and what it promises about load, memory, floods and time.

use super::*;
use proptest::prelude::*;
use std::collections::{HashMap, HashSet};

/// The `index`-th hash of a sequence that looks random (SplitMix64).
fn hash(index: u64) -> u64 {
    let mut z = index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn at(seconds: u64) -> Time {
    Time(seconds * 1_000_000_000)
}

impl FlowTable {
    /// Counts again what the table keeps count of.
    fn audit(&self) {
        let mut away = vec![0; self.buckets.len()];
        let mut used = 0;
        let mut places = HashSet::new();
        for (index, bucket) in self.buckets.iter().enumerate() {
            for entry in bucket.used().map(|way| bucket.entry(way)) {
                used += 1;
                let other = self.other(index, entry.tag);
                assert_eq!(self.other(other, entry.tag), index);
                let home = if entry.away { other } else { index };
                away[home] += u32::from(entry.away);
                assert!(places.insert((home, entry.tag)), "one flow has two entries");
            }
        }
        assert_eq!(used, self.used);
        for (bucket, away) in self.buckets.iter().zip(away) {
            assert_eq!(u32::from(bucket.spilled()), away);
        }
    }

    /// How many entries, alive or not, have this backend.
    fn entries_of(&self, backend: u16) -> usize {
        self.buckets.iter().flat_map(|bucket| bucket.used().map(|way| bucket.entry(way).backend)).filter(|id| *id == backend).count()
    }

    fn references(&self, backend: u16) -> bool {
        self.entries_of(backend) > 0
    }
}

#[derive(Clone, Debug)]
enum Step {
    Lookup { key: usize, idle: u16 },
    Insert { key: usize, backend: u16, idle: u16 },
    Pass { seconds: u64 },
    Sweep { buckets: usize },
}

fn step(keys: usize) -> impl Strategy<Value = Step> {
    let idle = || prop_oneof![4 => 0..=120u16, 1 => Just(MAX_IDLE), 1 => Just(u16::MAX)];
    prop_oneof![
        6 => (0..keys, idle()).prop_map(|(key, idle)| Step::Lookup { key, idle }),
        6 => (0..keys, 0..=3u16, idle()).prop_map(|(key, backend, idle)| Step::Insert { key, backend, idle }),
        2 => prop_oneof![4 => 0..=60u64, 2 => 1000..=50_000u64, 1 => 65_400..=65_700u64, 1 => 100_000..=1_000_000u64].prop_map(|seconds| Step::Pass { seconds }),
        1 => (0..=20usize).prop_map(|buckets| Step::Sweep { buckets }),
    ]
}

/// Runs `steps` on a table and on a `HashMap`. The table may forget what the map knows only if it counted an eviction.
fn differ(keys: &[u64], flows: usize, steps: &[Step]) -> Statistics {
    let mut table = FlowTable::new(flows);
    let mut model: HashMap<usize, (u16, u64)> = HashMap::new();
    let (mut now, mut lost) = (1_000_000u64, 0);
    for step in steps {
        match *step {
            Step::Lookup { key, idle } => {
                let expected = model.get(&key).copied().filter(|&(_, deadline)| now <= deadline);
                let peeked = table.peek(keys[key], at(now));
                let found = table.lookup(keys[key], at(now), idle);
                assert_eq!(peeked.map(|flow| flow.backend), found);
                match (found, expected) {
                    (Some(backend), expected) => {
                        let (known, deadline) = expected.expect("the table knows a flow that is unknown or expired");
                        assert_eq!(backend, known);
                        assert_eq!(peeked.map(|flow| u64::from(flow.remaining)), Some(deadline - now));
                        model.insert(key, (backend, now + u64::from(idle.min(MAX_IDLE))));
                        assert!(!table.peek(keys[key], at(now)).unwrap().probation);
                    }
                    (None, Some(_)) => {
                        lost += 1;
                        model.remove(&key);
                    }
                    (None, None) => {}
                }
            }
            Step::Insert { key, backend, idle } => {
                let expected = model.get(&key).copied().filter(|&(_, deadline)| now <= deadline);
                let refused = table.statistics().refused;
                let inserted = table.insert(keys[key], backend, at(now), idle);
                match (inserted, expected) {
                    (Inserted::Same, expected) => assert_eq!(expected.expect("Same for an unknown flow").0, backend),
                    (Inserted::Changed, expected) => assert_ne!(expected.expect("Changed for an unknown flow").0, backend),
                    (Inserted::New | Inserted::NoRoom, Some(_)) => {
                        lost += 1;
                        model.remove(&key);
                    }
                    (Inserted::New | Inserted::NoRoom, None) => {}
                }
                assert_eq!(inserted == Inserted::NoRoom, table.statistics().refused > refused);
                if inserted == Inserted::NoRoom {
                    model.remove(&key);
                } else {
                    model.insert(key, (backend, now + u64::from(idle.min(MAX_IDLE))));
                }
            }
            Step::Pass { seconds } => now += seconds,
            Step::Sweep { buckets } => table.sweep(at(now), buckets),
        }
        assert!(lost <= table.statistics().evicted, "a flow was forgotten without need");
    }
    table.audit();
    let alive: Vec<usize> = model.iter().filter(|&(_, &(_, deadline))| now <= deadline).map(|(&key, _)| key).collect();
    let missing = alive.iter().filter(|&&key| table.peek(keys[key], at(now)).is_none()).count();
    assert!(lost + missing as u64 <= table.statistics().evicted, "a flow was forgotten without need");
    assert_eq!(table.len(at(now)), alive.len() - missing, "the table holds a flow that is unknown or expired");
    table.statistics()
}

proptest! {
    #[test]
    fn like_a_map_when_there_is_room(steps in prop::collection::vec(step(200), 0..400)) {
        let keys: Vec<u64> = (0..200).map(hash).collect();
        let statistics = differ(&keys, 4000, &steps);
        prop_assert_eq!((statistics.evicted, statistics.refused), (0, 0));
    }

    #[test]
    fn like_a_map_that_forgets_when_it_is_full(steps in prop::collection::vec(step(200), 0..400)) {
        let keys: Vec<u64> = (0..200).map(hash).collect();
        differ(&keys, 1, &steps);
    }

    #[test]
    fn like_a_map_when_all_flows_share_a_line(steps in prop::collection::vec(step(60), 0..400)) {
        let keys: Vec<u64> = (0..60).map(|index| 0xabcd << 48 | hash(index) & TAG).collect();
        differ(&keys, 4000, &steps);
    }
}

#[test]
fn small_tables_do_fill_up_in_these_tests() {
    let steps: Vec<Step> = (0..200).map(|key| Step::Insert { key, backend: 1, idle: 60 }).collect();
    let keys: Vec<u64> = (0..200).map(hash).collect();
    assert!(differ(&keys, 1, &steps).evicted > 100);
}

#[test]
fn fills_to_85_percent() {
    for flows in [1000, 30_000, 200_000] {
        let mut table = FlowTable::new(flows);
        assert!(table.capacity() >= flows && table.capacity() <= flows + 6);
        let flows = table.capacity() as u64;
        for index in 0..flows {
            table.insert(hash(index), index as u16, at(0), 60);
        }
        let found =
            (0..flows).filter(|&index| table.peek(hash(index), at(0)).is_some_and(|flow| flow.backend == index as u16)).count() as u64;
        assert!(found * 1000 >= flows * 995, "{found} of {flows}");
        table.audit();
    }
}

#[test]
fn sixteen_bytes_a_flow_are_enough() {
    for flows in [100_000, 1_000_000, 2_000_000] {
        let table = FlowTable::new(flows);
        assert!(table.memory() <= 16 * flows, "{} bytes for {flows} flows", table.memory());
        if flows >= 1_000_000 {
            assert!(table.memory() <= 13 * flows, "{} bytes for {flows} flows", table.memory());
        }
    }
}

#[test]
fn a_flood_does_not_push_out_established_flows() {
    let mut table = FlowTable::new(5000);
    let established = table.capacity() as u64 * 8 / 10;
    for index in 0..established {
        table.insert(hash(index), 7, at(0), 300);
        table.lookup(hash(index), at(0), 300);
    }
    let known: Vec<u64> = (0..established).filter(|&index| table.peek(hash(index), at(0)).is_some()).collect();
    assert!(known.len() as u64 * 1000 >= established * 995);
    for index in 0..10 * table.capacity() as u64 {
        table.insert(hash(1_000_000 + index), 9, at(index / 1000), MAX_IDLE);
    }
    assert!(table.statistics().evicted > 0);
    for index in known {
        assert_eq!(table.lookup(hash(index), at(60), 300), Some(7));
    }
    table.audit();
}

#[test]
fn established_flows_everywhere_leave_no_room() {
    let mut table = FlowTable::new(1);
    let mut refused = 0;
    for index in 0..1000 {
        refused += u64::from(table.insert(hash(index), 1, at(0), 60) == Inserted::NoRoom);
        table.lookup(hash(index), at(0), 60);
    }
    assert_eq!((table.statistics().refused, table.statistics().evicted), (refused, 0));
    assert_eq!(table.used() as u64, 1000 - refused);
    for index in 5000..5030 {
        assert_eq!(table.insert(hash(index), 1, at(61), 60), Inserted::New, "expired flows make room");
    }
    assert_eq!(table.statistics().evicted, 0);
    table.audit();
}

#[test]
fn newcomers_of_a_hasty_service_survive_a_flood_at_a_patient_one() {
    let mut table = FlowTable::new(5000);
    let capacity = table.capacity() as u64;
    for index in 0..2 * capacity {
        table.insert(hash(index), 9, at(0), MAX_IDLE);
    }
    let newcomers: Vec<u64> = (0..100).map(|index| hash(1 << 40 | index)).collect();
    for &newcomer in &newcomers {
        table.insert(newcomer, 1, at(0), 5);
    }
    // One more flood packet for every second entry: three a line on average, where newcomers leave in turn, after six.
    for index in 0..capacity / 2 {
        table.insert(hash(1 << 50 | index), 9, at(0), MAX_IDLE);
    }
    let survivors = newcomers.iter().filter(|&&newcomer| table.lookup(newcomer, at(0), 5) == Some(1)).count();
    assert!(survivors >= 85, "{survivors} of 100");
}

#[test]
fn idle_flows_expire_to_the_second() {
    let mut table = FlowTable::new(100);
    assert_eq!(table.insert(1, 5, Time(1_900_000_000), 10), Inserted::New);
    assert_eq!(table.lookup(1, Time(11_999_999_999), 10), Some(5), "seen in second 1, alive in second 11");
    assert_eq!(table.insert(1, 5, at(21), 10), Inserted::Same);
    assert_eq!(table.insert(1, 6, at(31), 10), Inserted::Changed);
    assert_eq!(table.peek(1, at(41)), Some(FlowRecord { backend: 6, remaining: 0, probation: false }));
    assert_eq!(table.peek(1, at(42)), None);
    assert_eq!(table.lookup(1, at(42), 10), None);
    assert_eq!(table.insert(1, 6, at(42), 10), Inserted::New, "a flow that expired begins anew");
    assert!(table.peek(1, at(42)).is_some_and(|flow| flow.probation));
}

#[test]
fn nothing_is_resurrected_when_the_clock_wraps() {
    for later in [43_201, 65_535, 65_536, 65_537, 65_536 + 43_200, 2 * 65_536, 1 << 32, 1 << 34] {
        let mut table = FlowTable::new(1000);
        table.insert(1, 5, at(77), MAX_IDLE);
        assert_eq!(table.peek(1, at(77 + later)), None);
        assert_eq!(table.lookup(1, at(77 + later), MAX_IDLE), None, "after {later} s of silence");
        let mut busy = FlowTable::new(1000);
        busy.insert(1, 5, at(77), MAX_IDLE);
        for second in (77..77 + later.min(200_000)).step_by(50) {
            busy.lookup(2, at(second), 1);
        }
        assert_eq!(busy.lookup(1, at(77 + later), MAX_IDLE), None, "after {later} s of other traffic");
        assert_eq!(busy.references(5), later <= u64::from(MAX_IDLE) + SWEEP_PERIOD);
    }
}

#[test]
fn a_flow_that_speaks_twice_a_day_is_kept_for_a_week() {
    let mut table = FlowTable::new(1000);
    table.insert(1, 5, at(0), MAX_IDLE);
    for turn in 1..=14 {
        assert_eq!(table.lookup(1, at(turn * u64::from(MAX_IDLE)), u16::MAX), Some(5));
    }
}

#[test]
fn a_quiet_table_forgets_by_itself() {
    let mut table = FlowTable::new(10_000);
    for index in 0..8000 {
        table.insert(hash(index), 3, at(0), 30);
    }
    assert!(table.references(3));
    for second in 31..31 + SWEEP_PERIOD {
        table.lookup(0, at(second), 30);
    }
    assert_eq!((table.used(), table.references(3)), (0, false));
    table.audit();
}

#[test]
fn a_sweep_visits_the_given_number_of_buckets() {
    let mut table = FlowTable::new(10_000);
    for index in 0..8000 {
        table.insert(hash(index), 3, at(0), 30);
    }
    let buckets = table.buckets.len();
    table.sweep(at(31), buckets / 2);
    assert!((3500..4600).contains(&table.used()), "{}", table.used());
    table.sweep(at(31), usize::MAX);
    assert_eq!(table.used(), 0);
    assert_eq!(table.occupancy(at(31)), Occupancy::default());
    table.audit();
}

#[test]
fn time_that_goes_back_is_harmless() {
    let mut table = FlowTable::new(1000);
    table.insert(1, 5, at(100_000), 30);
    assert_eq!(table.lookup(1, at(99_990), 30), Some(5), "a little disorder");
    assert_eq!(table.peek(1, at(100_030)).map(|flow| flow.remaining), Some(0), "did not shorten the flow's life");
    assert_eq!(table.lookup(1, at(50), 30), Some(5), "a new origin");
    assert_eq!(table.lookup(1, at(80), 30), Some(5), "from which time goes on");
    assert_eq!(table.lookup(1, at(111), 30), None);
    table.audit();
}

#[test]
fn a_changed_idle_timeout_holds_from_the_next_packet_on() {
    let mut table = FlowTable::new(1000);
    table.insert(1, 5, at(0), 3600);
    assert_eq!(table.lookup(1, at(600), 10), Some(5));
    assert_eq!(table.lookup(1, at(611), 10), None);
}

#[test]
fn a_backend_is_forgotten_with_its_last_entry() {
    let mut table = FlowTable::new(1000);
    table.insert(1, 65_535, at(0), 10);
    table.insert(2, 65_535, at(0), 10);
    assert_eq!((table.entries_of(65_535), table.references(65_535)), (2, true));
    table.insert(1, 0, at(1), 10);
    assert_eq!((table.entries_of(65_535), table.entries_of(0)), (1, 1));
    table.sweep(at(60), usize::MAX);
    assert_eq!((table.entries_of(65_535), table.entries_of(0)), (0, 0));
}

//! What the path costs, a batch of 64 packets at a time: GRE in, GRE out, every header really rewritten. Beside it the same number of SipHash-1-3.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod fixture;
mod paired;

use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main, measurement::WallTime};
use fixture::{Batch, Kind, MILLION, MTU};
use guideway_dataplane::path::State;
use guideway_dataplane::poll::poll;
use guideway_dataplane::tables::Snapshot;
use guideway_io::memory::Memory;
use guideway_packet::io::BATCH;
use guideway_packet::time::Time;
use paired::Unit;
use siphasher::sip::SipHasher13;
use std::hash::Hasher;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

const PACKET: Unit = Unit { name: "ns/packet", nanoseconds: BATCH as f64, elements: BATCH as u64 };
const NOW: Time = Time(1_000_000_000);
/// Bytes of a frame around its UDP payload before the router wraps it: Ethernet with its checksum, IPv4, UDP.
const AROUND: usize = 14 + 20 + 8 + 4;
/// Payload of a frame of 64 bytes.
const SMALL: usize = 64 - AROUND;

/// A director with its tables, flows and packets.
struct Fixture {
    tables: Snapshot,
    state: State,
    batch: Batch,
}

impl Fixture {
    /// Every flow is established.
    fn established(kind: Kind, flows: u64, room: usize, payload: usize) -> Fixture {
        let mut fixture = Fixture { tables: fixture::tables(), state: State::new(room, MTU), batch: Batch::new(kind, flows, payload) };
        // Twice, so that no flow is on probation.
        for _ in 0..(2 * flows).div_ceil(BATCH as u64) {
            fixture.run();
        }
        assert_eq!(fixture.state.counters.total_dropped(), 0, "{:?}", fixture.state.counters.to_json());
        fixture
    }

    /// Every packet opens a flow, and the table has been full for long.
    fn flooded() -> Fixture {
        let batch = Batch::new(Kind::V4, 1 << 36, SMALL);
        let mut fixture = Fixture { tables: fixture::tables(), state: State::new(MILLION as usize, MTU), batch };
        for _ in 0..3 * MILLION / BATCH as u64 {
            fixture.run();
        }
        assert!(fixture.state.flows.used() >= fixture.state.flows.capacity(), "the table is full");
        fixture
    }

    fn hot() -> Fixture {
        Fixture::established(Kind::V4, 1, 1 << 16, SMALL)
    }

    fn acknowledgements() -> Fixture {
        Fixture::established(Kind::Tid, MILLION, 1 << 16, SMALL)
    }

    /// Another client has repeated a request a moment ago.
    fn with_repeated_request() -> Fixture {
        let mut fixture = Fixture::acknowledgements();
        fixture::repeat_request(&fixture.tables, &mut fixture.state, NOW);
        fixture
    }

    fn run(&mut self) -> Duration {
        self.batch.run(&self.tables, &mut self.state, NOW)
    }
}

/// The reference: one SipHash-1-3 of 13 bytes for each packet of a batch, independent of one another, timed in the same way.
struct Reference {
    hasher: SipHasher13,
    next: u64,
}

impl Reference {
    fn new() -> Reference {
        Reference { hasher: SipHasher13::new_with_key(&[7; 16]), next: 0 }
    }

    #[inline(always)]
    fn time(&mut self, hash: impl Fn(&SipHasher13, &[u8; 13]) -> u64) -> Duration {
        let mut messages = [[0u8; 13]; BATCH];
        for message in &mut messages {
            self.next += 1;
            message[..8].copy_from_slice(&self.next.to_le_bytes());
        }
        let messages = black_box(&messages);
        let start = Instant::now();
        for message in messages {
            black_box(hash(&self.hasher, message));
        }
        start.elapsed()
    }

    /// By the call that takes all bytes at once: the fastest that the crate has.
    fn run(&mut self) -> Duration {
        self.time(|hasher, message| hasher.hash(message))
    }

    /// By the trait of the standard library, on a copy of the keyed hasher.
    fn run_by_trait(&mut self) -> Duration {
        self.time(|hasher, message| {
            let mut hasher = *hasher;
            hasher.write(message);
            hasher.finish()
        })
    }
}

/// The whole loop of a worker over queues in memory: receive, one snapshot for the batch, path, counters, transmit.
struct Loop {
    io: Memory,
    tables: arc_swap::Cache<Arc<arc_swap::ArcSwap<Snapshot>>, Arc<Snapshot>>,
    state: State,
    batch: Batch,
}

impl Loop {
    fn new() -> Loop {
        let mut io = Memory::new(2048);
        io.reserve(2 * BATCH);
        io.set_now(NOW);
        let tables = arc_swap::Cache::new(Arc::new(arc_swap::ArcSwap::from_pointee(fixture::tables())));
        Loop { io, tables, state: State::new(1 << 16, MTU), batch: Batch::new(Kind::V4, 1, SMALL) }
    }

    fn run(&mut self) -> Duration {
        self.batch.fill();
        self.batch.frames().iter().for_each(|frame| self.io.push(frame.bytes()));
        let start = Instant::now();
        let (poll, _) = poll(&mut self.io, &mut self.state, Duration::ZERO, &mut self.tables).expect("memory never fails");
        let took = start.elapsed();
        assert_eq!((poll.received, poll.transmit_full, self.state.counters.total_dropped()), (BATCH, 0, 0));
        self.io.clear();
        took
    }
}

fn rows(c: &mut Criterion) {
    let mut group = c.benchmark_group("path");
    let mut reference = Reference::new();
    let by_trait = |reference: &mut Reference| (reference.run_by_trait(), Some(reference.run()));
    paired::row(&mut group, "siphash13_by_trait", PACKET, Reference::new, by_trait);
    let mut row = |name: &str, make: fn() -> Fixture| paired::row(&mut group, name, PACKET, make, |w| (w.run(), Some(reference.run())));
    row("path_hot", Fixture::hot);
    row("path_1m", || Fixture::established(Kind::V4, MILLION, MILLION as usize, SMALL));
    row("path_tid_1m", Fixture::acknowledgements);
    row("path_new_full", Fixture::flooded);
    let repeat = || (Fixture::with_repeated_request(), Fixture::acknowledgements());
    paired::row(&mut group, "path_tid_1m_repeat", PACKET, repeat, |(repeat, tid)| (repeat.run(), Some(tid.run())));
    let v6 = || (Fixture::established(Kind::V6, 1, 1 << 16, SMALL), Fixture::hot());
    paired::row(&mut group, "path_v6", PACKET, v6, |(v6, hot)| (v6.run(), Some(hot.run())));
    let whole = || (Loop::new(), Fixture::hot());
    paired::row(&mut group, "loop_memory", PACKET, whole, |(whole, hot)| (whole.run(), Some(hot.run())));
    group.finish();
}

/// Cost against the number of flows, the size of the batch, and the size of the frame.
fn curves(c: &mut Criterion) {
    let mut group = c.benchmark_group("curve");
    let mut point = |curve: &str, x: u64, batch: usize, make: &dyn Fn() -> Fixture| point(&mut group, &format!("{curve}_{x}"), batch, make);
    for flows in [0u32, 10, 14, 17, 20, 22].map(|power| 1u64 << power) {
        point("flows", flows, BATCH, &|| Fixture::established(Kind::V4, flows, flows.max(1 << 16) as usize, SMALL));
    }
    for batch in [8, 16, 32, 64] {
        point("batch", batch as u64, batch, &|| Fixture::established(Kind::V4, MILLION, MILLION as usize, SMALL));
    }
    for frame in [64, 128, 256, 512, 1024, 1500] {
        point("frame", frame as u64, BATCH, &|| Fixture::established(Kind::V4, 1, 1 << 16, frame - AROUND));
    }
    group.finish();
}

fn point(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, batch: usize, make: &dyn Fn() -> Fixture) {
    paired::row(group, name, PACKET, make, |w| (w.batch.run_by(batch, &w.tables, &mut w.state, NOW), None));
}

criterion_group!(benches, rows, curves);
criterion_main!(benches);

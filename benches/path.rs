//! What the path costs, a batch of 64 packets at a time: GRE in, GRE out, every header really rewritten. Beside it the same number of SipHash-1-3.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod world;

use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime};
use guideway::io::BATCH;
use guideway::io::memory::Memory;
use guideway::path::State;
use guideway::time::Time;
use guideway::turn::turn;
use siphasher::sip::SipHasher13;
use std::hint::black_box;
use std::time::{Duration, Instant};
use world::{Batch, Kind, MILLION};

/// Payload that makes an Ethernet frame of 64 bytes before the router wraps it: 14 + 20 + 8 + 18, and 4 of checksum.
const SMALL: usize = 18;
const MTU: u16 = 1500;

/// One row: established flows of one kind.
fn established(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, kind: Kind, flows: u64, room: usize) {
    let tables = world::tables();
    let mut state = State::new(room, MTU);
    let mut batch = Batch::new(kind, flows, SMALL);
    let now = Time(1_000_000_000);
    // Twice, so that no flow is on probation.
    for _ in 0..(2 * flows).div_ceil(BATCH as u64) {
        batch.run(&tables, &mut state, now);
    }
    assert_eq!(state.counters.dropped_in_all(), 0, "{:?}", state.counters.to_json());
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function(name, |b| b.iter_custom(|batches| (0..batches).map(|_| batch.run(&tables, &mut state, now)).sum()));
}

/// One row: every packet opens a flow, and the table has been full for long.
fn new_flows(group: &mut BenchmarkGroup<'_, WallTime>, name: &str) {
    let tables = world::tables();
    let mut state = State::new(MILLION as usize, MTU);
    let mut batch = Batch::new(Kind::V4, 1 << 36, SMALL);
    let now = Time(1_000_000_000);
    for _ in 0..3 * MILLION / BATCH as u64 {
        batch.run(&tables, &mut state, now);
    }
    assert!(state.flows.used() >= state.flows.capacity(), "the table is full");
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function(name, |b| b.iter_custom(|batches| (0..batches).map(|_| batch.run(&tables, &mut state, now)).sum()));
}

/// The reference: one SipHash-1-3 of 13 bytes for each packet of a batch, independent of one another, timed in the same way.
fn siphash(group: &mut BenchmarkGroup<'_, WallTime>) {
    let hasher = SipHasher13::new_with_key(&[7; 16]);
    let mut messages = [[0u8; 13]; BATCH];
    let mut next = 0u64;
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function("siphash13", |b| {
        b.iter_custom(|batches| {
            let mut took = Duration::ZERO;
            for _ in 0..batches {
                for message in &mut messages {
                    next += 1;
                    message[..8].copy_from_slice(&next.to_le_bytes());
                }
                let messages = black_box(&messages);
                let start = Instant::now();
                for message in messages {
                    black_box(hasher.hash(message));
                }
                took += start.elapsed();
            }
            took
        });
    });
}

/// The whole loop of a worker over queues in memory: receive, one snapshot for the batch, path, counters, transmit.
fn whole_loop(group: &mut BenchmarkGroup<'_, WallTime>, name: &str) {
    let tables = world::tables();
    let mut state = State::new(1 << 16, MTU);
    let mut batch = Batch::new(Kind::V4, 1, SMALL);
    let mut io = Memory::new(2048);
    io.reserve(2 * BATCH);
    io.set_now(Time(1_000_000_000));
    let shared = std::sync::Arc::new(arc_swap::ArcSwap::from_pointee(tables));
    let mut tables = arc_swap::Cache::new(shared);
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function(name, |b| {
        b.iter_custom(|batches| {
            let mut took = Duration::ZERO;
            for _ in 0..batches {
                batch.fill();
                batch.frames().iter().for_each(|frame| io.push(frame.bytes()));
                let start = Instant::now();
                let (turn, _) = turn(&mut io, &mut state, Duration::ZERO, &mut tables).expect("memory never fails");
                took += start.elapsed();
                assert_eq!((turn.received, turn.transmit_full), (BATCH, 0));
                io.clear();
            }
            took
        });
    });
    assert_eq!(state.counters.dropped_in_all(), 0, "{:?}", state.counters.to_json());
}

fn rows(c: &mut Criterion) {
    let mut group = c.benchmark_group("path");
    siphash(&mut group);
    established(&mut group, "path_hot", Kind::V4, 1, 1 << 16);
    whole_loop(&mut group, "loop_memory");
    established(&mut group, "path_v6", Kind::V6, 1, 1 << 16);
    established(&mut group, "path_1m", Kind::V4, MILLION, MILLION as usize);
    established(&mut group, "path_tid_1m", Kind::Tid, MILLION, 1 << 16);
    new_flows(&mut group, "path_new_full");
    group.finish();
}

/// Cost against the number of flows, and against the size of the packet.
fn curves(c: &mut Criterion) {
    let mut group = c.benchmark_group("flows");
    for power in [0u32, 10, 14, 17, 20, 22] {
        established(&mut group, &format!("{}", 1u64 << power), Kind::V4, 1 << power, 1 << power.max(16));
    }
    group.finish();
}

criterion_group!(benches, rows, curves);
criterion_main!(benches);

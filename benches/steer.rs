//! What software steering costs: `steer_2` is a queue steered to two workers, `one_worker` the same queue with a worker of its own.
//!
//! Both over queues in memory, the packets made and thrown away within the measured time (`making` says how much of it that is). `steering_thread` is
//! what one packet takes of the steering thread alone, whose workers are always ready: the most that steering can reach, however many cores there are.
#![allow(missing_docs, clippy::expect_used, clippy::unwrap_used, clippy::panic)]

#[allow(dead_code)]
mod fixture;
#[allow(dead_code)]
mod paired;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fixture::{Batch, Kind};
use guideway_dataplane::path::State;
use guideway_dataplane::poll::poll;
use guideway_dataplane::steer;
use guideway_dataplane::tables::Snapshot;
use guideway_packet::io::{BATCH, BatchHandler, Io, PollResult};
use guideway_packet::time::Time;
use guideway_packet::verdict::Verdict;
use paired::Unit;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

const MTU: u16 = 1500;
const NOW: Time = Time(1_000_000_000);
/// Established flows.
const FLOWS: u64 = 1 << 10;
/// Packets on their way at most: well within the lanes, so that none is dropped.
const UNDER_WAY: u64 = (steer::BATCHES_PER_QUEUE * BATCH / 4) as u64;

/// A queue that is never empty until `most` packets have come, and that throws away what is sent.
struct Source {
    batch: Batch,
    received: Arc<AtomicU64>,
    sent: Arc<AtomicU64>,
    most: Arc<AtomicU64>,
}

impl Source {
    fn new() -> Source {
        Source { batch: Batch::new(Kind::V4, FLOWS, 18), received: Arc::default(), sent: Arc::default(), most: Arc::default() }
    }
}

impl Io for Source {
    fn poll(&mut self, _: Duration, work: &mut BatchHandler<'_>) -> std::io::Result<PollResult> {
        let (received, sent) = (self.received.load(Relaxed), self.sent.load(Relaxed));
        if received >= self.most.load(Relaxed) || received - sent > UNDER_WAY {
            return Ok(PollResult::default());
        }
        self.batch.fill();
        let mut frames = self.batch.frames();
        work(NOW, &mut frames);
        let transmitted = frames.iter().filter(|frame| frame.verdict == Verdict::Transmit).count();
        self.received.store(received + BATCH as u64, Relaxed);
        self.sent.store(sent + transmitted as u64, Relaxed);
        Ok(PollResult { received: BATCH, ..PollResult::default() })
    }

    fn send(&mut self, frame: &[u8]) -> std::io::Result<bool> {
        std::hint::black_box(frame);
        self.sent.store(self.sent.load(Relaxed) + 1, Relaxed);
        Ok(true)
    }

    fn now(&self) -> Time {
        NOW
    }
}

/// Time for `batches` batches through one worker.
fn one_worker(batches: u64, tables: &Snapshot) -> Duration {
    let (mut io, mut state) = (Source::new(), State::new(1 << 16, MTU));
    io.most.store(batches * BATCH as u64, Relaxed);
    let start = Instant::now();
    while io.received.load(Relaxed) < batches * BATCH as u64 {
        poll(&mut io, &mut state, Duration::ZERO, &mut &*tables).expect("memory never fails");
    }
    assert_eq!(state.counters.total_dropped(), 0);
    start.elapsed()
}

/// Time until `batches` batches have come back from `workers` workers.
fn steered(batches: u64, tables: &Snapshot, workers: usize) -> Duration {
    let io = Source::new();
    let (sent, most) = (io.sent.clone(), batches * BATCH as u64);
    io.most.store(most, Relaxed);
    let (mut steering, queues) = steer::split(Box::new(io), workers, MTU);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for mut queue in queues {
            let stop = &stop;
            scope.spawn(move || {
                let mut state = State::new(1 << 16, MTU);
                while !stop.load(Relaxed) {
                    poll(&mut queue, &mut state, Duration::from_millis(1), &mut &*tables).expect("a lane never fails");
                }
                assert_eq!(state.counters.total_dropped(), 0, "{:?}", state.counters.to_json());
            });
        }
        let start = Instant::now();
        while sent.load(Relaxed) < most {
            if steering.poll(Duration::ZERO, &mut &*tables).expect("memory never fails").received == 0 {
                std::thread::yield_now();
            }
        }
        let took = start.elapsed();
        stop.store(true, Relaxed);
        assert_eq!(steering.counters.total_dropped(), 0, "{:?}", steering.counters.to_json());
        took
    })
}

/// What the steering thread spends on `batches` batches when its workers answer at once: they do so between its turns, unmeasured.
fn steering_thread(batches: u64, tables: &Snapshot) -> Duration {
    let io = Source::new();
    io.most.store(u64::MAX, Relaxed);
    let (mut steering, mut queues) = steer::split(Box::new(io), 2, MTU);
    let mut took = Duration::ZERO;
    for _ in 0..batches {
        let start = Instant::now();
        steering.poll(Duration::ZERO, &mut &*tables).expect("memory never fails");
        took += start.elapsed();
        for queue in &mut queues {
            // The second turn gives back what the first one has decided.
            for _ in 0..2 {
                let mut transmit =
                    |_, frames: &mut [guideway_packet::frame::Frame<'_>]| frames.iter_mut().for_each(|f| f.verdict = Verdict::Transmit);
                queue.poll(Duration::ZERO, &mut transmit).expect("a lane never fails");
            }
        }
    }
    took
}

fn rows(c: &mut Criterion) {
    let tables = fixture::tables();
    let mut group = c.benchmark_group("steer");
    group.throughput(Throughput::Elements(BATCH as u64));
    let mut batch = Batch::new(Kind::V4, FLOWS, 18);
    group.bench_function("making", |b| b.iter(|| batch.fill()));
    group.bench_function("one_worker", |b| b.iter_custom(|batches| one_worker(batches, &tables)));
    const RUN: u64 = 200;
    let unit = Unit { name: "ns/packet", nanoseconds: (RUN * BATCH as u64) as f64, elements: RUN * BATCH as u64 };
    paired::row(&mut group, "steer_2", unit, fixture::tables, |tables| (steered(RUN, tables, 2), Some(one_worker(RUN, tables))));
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function("steering_thread", |b| b.iter_custom(|batches| steering_thread(batches, &tables)));
    group.finish();
}

criterion_group!(benches, rows);
criterion_main!(benches);

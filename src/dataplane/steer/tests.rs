//! Ordered, complete, balanced; and what is too much is counted.

use super::*;
use crate::path::State;
use crate::path::tests::fixture::Fixture;
use crate::poll::poll;
use guideway_io::memory::Memory;
use guideway_packet::io::{BATCH, BatchHandler};
use guideway_packet::wire::build;
use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

fn tables() -> Snapshot {
    Fixture::new().tables
}

/// The acknowledgement number `seq` of a client, whose transfers' servers answer from anywhere.
fn frame(client: u16, seq: u16) -> Vec<u8> {
    let [high, low] = seq.to_be_bytes();
    let to = format!("192.0.2.70:{}", 20_000 + seq % 1000);
    let ack = build::udp(format!("198.51.100.7:{client}").parse().unwrap(), to.parse().unwrap(), &[0, 4, high, low]);
    ack.gre([10, 0, 0, 1].into(), [10, 0, 1, 11].into()).frame([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 1, 0x11])
}

/// Client and number of a frame, wrapped by a router or by us.
fn read(frame: &[u8]) -> (u16, u16) {
    let udp = 14 + 20 + 4 + 20;
    let at = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    (at(udp), at(udp + 10))
}

/// Queues in memory that the test fills and empties while the steering thread has them.
#[derive(Clone)]
struct Shared(Arc<Mutex<Memory>>);

impl Shared {
    fn new() -> Shared {
        Shared(Arc::new(Mutex::new(Memory::new(2048))))
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.0.lock().unwrap()
    }
}

impl Io for Shared {
    fn poll(&mut self, wait: Duration, work: &mut BatchHandler<'_>) -> std::io::Result<PollResult> {
        self.memory().poll(wait, work)
    }
    fn send(&mut self, frame: &[u8]) -> std::io::Result<bool> {
        self.memory().send(frame)
    }
    fn now(&self) -> Time {
        self.memory().now()
    }
}

#[test]
fn two_workers_lose_nothing_and_keep_every_flow_in_order_and_to_one_of_them() {
    const CLIENTS: u16 = 100;
    const EACH: u16 = 200;
    let (tables, io) = (tables(), Shared::new());
    let (mut steering, queues) = split(Box::new(io.clone()), 2, 1500);
    let stop = AtomicBool::new(false);
    let mut out = Vec::new();
    let workers: Vec<(Counters, HashMap<u16, u16>)> = std::thread::scope(|scope| {
        let threads: Vec<_> = queues
            .into_iter()
            .map(|mut queue| {
                let (stop, tables) = (&stop, &tables);
                scope.spawn(move || {
                    let (mut state, mut seen) = (State::new(4096, 1500), HashMap::new());
                    while !stop.load(Relaxed) {
                        let mut look = Watched(&mut queue, &mut seen);
                        poll(&mut look, &mut state, Duration::from_millis(1), &mut &*tables).unwrap();
                    }
                    (state.counters, seen)
                })
            })
            .collect();
        for seq in 0..EACH {
            (1000..1000 + CLIENTS).for_each(|client| io.memory().push(&frame(client, seq)));
            // As much as fits the lanes: what this test is about must not be dropped.
            while io.memory().waiting() > 0 || steering.busy() {
                steering.poll(Duration::ZERO, &mut &tables).unwrap();
            }
            out.extend(std::iter::from_fn(|| io.memory().pop()));
        }
        stop.store(true, Relaxed);
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(out.len(), usize::from(CLIENTS * EACH));
    let mut next: HashMap<u16, u16> = HashMap::new();
    for (client, seq) in out.iter().map(|frame| read(frame)) {
        let next = next.entry(client).or_default();
        assert_eq!(seq, *next, "client {client}");
        *next += 1;
    }
    let [one, two] = &workers[..] else { panic!("two workers") };
    assert!(one.1.keys().all(|client| !two.1.contains_key(client)), "a flow has one worker");
    assert!(one.1.len().min(two.1.len()) > 20, "{} and {}", one.1.len(), two.1.len());
    let mut sum = steering.counters.clone();
    workers.iter().for_each(|(counters, _)| sum.merge(counters));
    assert!(sum.balanced(), "{}", sum.to_json());
    assert_eq!((sum.get(PacketCounter::Received), sum.get(PacketCounter::Transmitted)), (out.len() as u64, out.len() as u64));
}

#[test]
fn longer_frames_of_a_raised_mtu_are_not_cut() {
    let io = Arc::new(Mutex::new(Memory::new(4096)));
    let (mut tables, io) = (tables(), Shared(io));
    let (mut steering, mut queues) = split(Box::new(io.clone()), 1, 1500);
    let long = [&frame(1000, 1)[..], &[7; 2500]].concat();
    let lengths = |steering: &mut Steering, queue: &mut WorkerQueue, tables: &Snapshot| {
        io.memory().push(&long);
        steering.poll(Duration::ZERO, &mut &*tables).unwrap();
        let mut lengths = Vec::new();
        queue.poll(Duration::ZERO, &mut |_, frames| lengths.extend(frames.iter().map(|frame| frame.len()))).unwrap();
        lengths
    };
    assert!(lengths(&mut steering, &mut queues[0], &tables)[0] < long.len());
    tables.mtu = 3000;
    for _ in 0..2 * BATCHES_PER_QUEUE {
        let seen = lengths(&mut steering, &mut queues[0], &tables);
        assert_eq!(seen, [long.len()]);
    }
}

/// Notes which clients a worker sees.
struct Watched<'a>(&'a mut WorkerQueue, &'a mut HashMap<u16, u16>);

impl Io for Watched<'_> {
    fn poll(&mut self, wait: Duration, work: &mut BatchHandler<'_>) -> std::io::Result<PollResult> {
        let Watched(queue, seen) = self;
        queue.poll(wait, &mut |now, frames| {
            frames.iter().for_each(|frame| *seen.entry(read(frame.bytes()).0).or_default() += 1);
            work(now, frames);
        })
    }
    fn send(&mut self, frame: &[u8]) -> std::io::Result<bool> {
        self.0.send(frame)
    }
    fn now(&self) -> Time {
        self.0.now()
    }
}

/// A worker's turn that transmits everything.
fn transmit(queue: &mut WorkerQueue) -> PollResult {
    queue.poll(Duration::ZERO, &mut |_, frames| frames.iter_mut().for_each(|frame| frame.verdict = Verdict::Transmit)).unwrap()
}

#[test]
fn what_finds_every_parcel_under_way_is_dropped_for_that_reason() {
    let (tables, io) = (tables(), Shared::new());
    let (mut steering, mut queues) = split(Box::new(io.clone()), 2, 1500);
    let room = BATCHES_PER_QUEUE * BATCH;
    (0..room as u16 + 100).for_each(|seq| io.memory().push(&frame(1000, seq)));
    while io.memory().waiting() > 0 {
        steering.poll(Duration::ZERO, &mut &tables).unwrap();
    }
    assert_eq!(steering.counters.dropped(Reason::WorkerQueueFull), 100);
    assert!(steering.counters.balanced() && steering.counters.get(PacketCounter::Received) == 100);
    // The other lane has room, and the first one has when its worker has caught up.
    let other = (1001..2000).find(|client| {
        let hash = steering_hash(&frame(*client, 0), &tables, &mut LastLookups::default()).unwrap();
        select_worker(hash, 2) != select_worker(steering_hash(&frame(1000, 0), &tables, &mut LastLookups::default()).unwrap(), 2)
    });
    io.memory().push(&frame(other.unwrap(), 7));
    for _ in 0..BATCHES_PER_QUEUE + 2 {
        queues.iter_mut().for_each(|queue| assert!(transmit(queue).received <= BATCH));
        steering.poll(Duration::ZERO, &mut &tables).unwrap();
    }
    assert!(!steering.busy() && steering.counters.total_dropped() == 100);
    let (first, rest): (Vec<_>, Vec<_>) =
        std::iter::from_fn(|| io.memory().pop()).map(|f| read(&f)).partition(|(client, _)| *client == 1000);
    assert_eq!(first, (0..room as u16).map(|seq| (1000, seq)).collect::<Vec<_>>(), "in order");
    assert_eq!(rest, [(other.unwrap(), 7)]);
}

#[test]
fn a_full_transmit_ring_holds_frames_back_and_loses_none() {
    let (tables, io) = (tables(), Shared::new());
    let (mut steering, mut queues) = split(Box::new(io.clone()), 1, 1500);
    io.memory().set_room(5);
    (0..20).for_each(|seq| io.memory().push(&frame(1000, seq)));
    steering.poll(Duration::ZERO, &mut &tables).unwrap();
    assert_eq!(transmit(&mut queues[0]).received, 20);
    assert!(queues[0].send(&frame(1000, 20)).unwrap(), "the worker's own frame leaves after them");
    transmit(&mut queues[0]);
    let mut out = Vec::new();
    for sent in [5, 10, 15, 20, 21] {
        steering.poll(Duration::ZERO, &mut &tables).unwrap();
        out.extend(std::iter::from_fn(|| io.memory().pop()).map(|frame| read(&frame).1));
        assert_eq!(out.len(), sent);
        assert_eq!(steering.busy(), sent < 21, "{sent}");
    }
    assert_eq!(out, (0..21).collect::<Vec<_>>());
}

#[test]
fn what_needs_no_worker_is_counted_here_and_the_host_gets_its_own() {
    let (tables, io) = (tables(), Shared::new());
    let (mut steering, mut queues) = split(Box::new(io.clone()), 2, 1500);
    let mut arp = frame(1000, 0);
    arp[12..14].copy_from_slice(&[8, 6]);
    let mut damaged = frame(1000, 0);
    damaged[24] ^= 1;
    [&arp, &damaged].into_iter().for_each(|frame| io.memory().push(frame));
    steering.poll(Duration::ZERO, &mut &tables).unwrap();
    assert!(!steering.busy());
    assert_eq!(io.memory().to_host().collect::<Vec<_>>(), [&arp[..]]);
    assert_eq!(steering.counters.dropped(Reason::BadOuterChecksum), 1);
    assert!(steering.counters.balanced() && steering.counters.get(PacketCounter::Received) == 2);
    assert_eq!(transmit(&mut queues[0]), PollResult::default());
    drop(steering);
    assert!(transmit(&mut queues[0]).end, "nothing will come again");
}

#[test]
fn what_workers_decided_before_they_ended_is_still_sent() {
    let (tables, io) = (tables(), Shared::new());
    let (mut steering, mut queues) = split(Box::new(io.clone()), 2, 1500);
    (0..50).for_each(|client| io.memory().push(&frame(client, 0)));
    steering.poll(Duration::ZERO, &mut &tables).unwrap();
    let received: usize = queues.iter_mut().map(|queue| transmit(queue).received).sum();
    drop(queues);
    let counters = steering.finish(Duration::from_secs(10)).unwrap();
    assert_eq!((received, io.memory().transmitted().len(), counters.get(PacketCounter::Received)), (50, 50, 0));
}

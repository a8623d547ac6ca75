//! The client against the reference servers, over a link that loses, duplicates and delays packets, in virtual time.

use super::reference::{Grant, ReferenceReceiver, ReferenceServer};
use super::*;
use crate::rollover::Rollover;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

#[derive(Clone, Copy)]
struct Faults {
    lose: u64,
    duplicate: u64,
    delay: u64,
}

const CLEAN: Faults = Faults { lose: 0, duplicate: 0, delay: 0 };
const BAD: Faults = Faults { lose: 50, duplicate: 30, delay: 30 };

/// Time of arrival, order, whether it goes to the client, bytes.
type Flying = (u64, u64, bool, Vec<u8>);

/// A link in virtual time.
struct Link {
    flying: BinaryHeap<Reverse<Flying>>,
    random: u64,
    order: u64,
    faults: Faults,
}

impl Link {
    fn new(seed: u64, faults: Faults) -> Self {
        Link { flying: BinaryHeap::new(), random: seed * 2 + 1, order: 0, faults }
    }

    /// Returns a pseudo-random number (Steele's SplitMix64), so that runs are repeatable.
    fn per_mille(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random ^ self.random >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ mixed >> 27) % 1000
    }

    fn send(&mut self, now: Time, to_client: bool, bytes: Vec<u8>) {
        if self.per_mille() < self.faults.lose {
            return;
        }
        for _ in 0..1 + usize::from(self.per_mille() < self.faults.duplicate) {
            let delay = if self.per_mille() < self.faults.delay { 5 } else { 1 };
            self.order += 1;
            self.flying.push(Reverse((now.plus(MS * delay).0, self.order, to_client, bytes.clone())));
        }
    }

    fn next(&self) -> Option<Time> {
        self.flying.peek().map(|Reverse((when, ..))| Time(*when))
    }

    fn arrived(&mut self, now: Time) -> Option<(bool, Vec<u8>)> {
        if self.next()? > now {
            return None;
        }
        self.flying.pop().map(|Reverse((_, _, to_client, bytes))| (to_client, bytes))
    }
}

fn content(length: usize) -> Vec<u8> {
    (0..length as u64).map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u8).collect()
}

fn asks(grant: &Grant) -> TransferPlan {
    let ask =
        vec![RequestOption::Blksize(grant.blksize as u16), RequestOption::Windowsize(grant.windowsize as u16), RequestOption::Tsize(0)];
    TransferPlan { ask, rollover: Some(grant.rollover), ..TransferPlan::new(server(), "f") }
}

fn reads(file: &[u8], grant: Grant, seed: u64, faults: Faults) -> (Vec<u8>, Counters, Time) {
    let what = format!("blksize {} windowsize {} of {} bytes, seed {seed}", grant.blksize, grant.windowsize, file.len());
    let (mut link, mut now, mut got) = (Link::new(seed, faults), at(0), Vec::new());
    let mut read = Read::new(asks(&grant), now);
    let mut server = ReferenceServer::new(file, grant);
    loop {
        sent(&mut read).into_iter().for_each(|(_, bytes)| link.send(now, false, bytes));
        if let Some(outcome) = read.outcome() {
            assert_eq!(outcome, &Ok(()), "{what}");
            if server.done || read.deadline().is_none() {
                return (got, read.counters(), now);
            }
        }
        let later = [read.deadline(), link.next(), Some(server.deadline())].into_iter().flatten().min().unwrap();
        now = now.max(later);
        assert!(now < at(3_600_000), "{what}: no end");
        let answers = match link.arrived(now) {
            Some((true, bytes)) => {
                got.extend(read.receive(now, tid(), &bytes).unwrap_or_default());
                Vec::new()
            }
            Some((false, bytes)) => server.receive(now, &bytes),
            None => {
                read.expire(now);
                server.expire(now)
            }
        };
        answers.into_iter().for_each(|bytes| link.send(now, true, bytes));
    }
}

fn writes(file: &[u8], grant: Grant, seed: u64, faults: Faults) -> (Vec<u8>, Counters) {
    let what = format!("blksize {} windowsize {} of {} bytes, seed {seed}", grant.blksize, grant.windowsize, file.len());
    let (mut link, mut now, mut left, mut out) = (Link::new(seed, faults), at(0), file, Vec::new());
    let mut plan = asks(&grant);
    plan.ask.pop();
    let mut write = Write::new(plan, now);
    let mut server = ReferenceReceiver::new(grant);
    loop {
        while let Some(length) = write.wants() {
            let (block, rest) = left.split_at(length.min(left.len()));
            write.supply(block);
            left = rest;
        }
        while write.transmit(now, &mut out).is_some() {
            link.send(now, false, out.clone());
        }
        if let Some(outcome) = write.outcome() {
            assert_eq!(outcome, &Ok(()), "{what}");
            return (server.file, write.counters());
        }
        let later = [write.deadline(), link.next(), Some(server.deadline()).filter(|_| !server.done)];
        now = now.max(later.into_iter().flatten().min().unwrap());
        assert!(now < at(3_600_000), "{what}: no end");
        let answers = match link.arrived(now) {
            Some((true, bytes)) => {
                write.receive(now, tid(), &bytes);
                Vec::new()
            }
            Some((false, bytes)) => server.receive(now, &bytes),
            None => {
                write.expire(now);
                server.expire(now)
            }
        };
        answers.into_iter().for_each(|bytes| link.send(now, true, bytes));
    }
}

const BLKSIZES: [usize; 5] = [8, 512, 1428, 8192, 65464];
const WINDOWSIZES: [u64; 5] = [1, 2, 4, 16, 64];

#[test]
fn every_combination_arrives_whole_through_faults() {
    for (seed, blksize) in (1..).zip(BLKSIZES) {
        for windowsize in WINDOWSIZES {
            for blocks in [0, 1, 5, 70] {
                for length in [blocks * blksize, blocks * blksize + blksize / 2] {
                    let file = content(length);
                    for faults in [CLEAN, BAD] {
                        let grant = || Grant { blksize, windowsize, rollover: Rollover::Zero };
                        assert!(reads(&file, grant(), seed, faults).0 == file, "read {blksize} {windowsize} {length}");
                        assert!(writes(&file, grant(), seed, faults).0 == file, "write {blksize} {windowsize} {length}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_clean_link_sees_every_packet_once() {
    let file = content(100_000);
    for windowsize in WINDOWSIZES {
        let grant = || Grant { blksize: 1000, windowsize, rollover: Rollover::Zero };
        let (_, counters, _) = reads(&file, grant(), 1, CLEAN);
        // The request, ACK 0, and one acknowledgement for each window; 100,000 bytes are 101 blocks.
        assert_eq!((counters.retransmits, counters.duplicates, counters.sent), (0, 0, 2 + 101u64.div_ceil(windowsize)));
        let (_, counters) = writes(&file, grant(), 1, CLEAN);
        assert_eq!((counters.retransmits, counters.duplicates, counters.sent), (0, 0, 1 + 101));
    }
}

#[test]
fn more_than_65535_blocks() {
    let file = content(8 * 135_000 + 3);
    for rollover in [Rollover::Zero, Rollover::One] {
        for (windowsize, faults) in [(1, CLEAN), (4, CLEAN), (64, CLEAN), (64, Faults { lose: 1, duplicate: 1, delay: 1 })] {
            let grant = || Grant { blksize: 8, windowsize, rollover };
            assert!(reads(&file, grant(), 3, faults).0 == file, "read {rollover:?} {windowsize}");
            assert!(writes(&file, grant(), 3, faults).0 == file, "write {rollover:?} {windowsize}");
        }
    }
}

#[test]
fn doubled_packets_do_not_double_the_traffic() {
    let file = content(200 * 512);
    let everything_twice = Faults { lose: 0, duplicate: 1000, delay: 0 };
    let (got, counters, _) = reads(&file, Grant { blksize: 512, windowsize: 1, rollover: Rollover::Zero }, 1, everything_twice);
    assert!(got == file);
    // Every acknowledgement once; dallying may add one at the end.
    assert!(counters.sent <= 2 + 201 + 1, "{counters:?}");
}

#[test]
fn a_loss_costs_a_round_trip_in_a_window_and_an_adaptive_time_out_in_lock_step() {
    let file = content(735 * 1428);
    let one_percent = Faults { lose: 10, duplicate: 0, delay: 0 };
    for (windowsize, limit) in [(1, 3000), (16, 1500)] {
        let grant = Grant { blksize: 1428, windowsize, rollover: Rollover::Zero };
        let (got, counters, end) = reads(&file, grant, 5, one_percent);
        assert!(got == file);
        // The reference server itself waits 200 ms each time.
        assert!(end < at(limit), "windowsize {windowsize}: {:?} {counters:?}", end - at(0));
    }
}

//! What a lookup in the flow table costs, with the hash of the flow's key, in batches of 32. Beside it what the machine allows: one SipHash-1-3 of 13 bytes
//! and twice a prefetched random read of one line, in as much memory.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod lines;
mod paired;

use criterion::{Criterion, criterion_group, criterion_main};
use guideway_dataplane::flow::FlowTable;
use guideway_hash::{FleetKey, PacketHasher};
use guideway_packet::time::Time;
use lines::Line;
use paired::Unit;
use siphasher::sip::SipHasher13;
use std::hint::black_box;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// Flows whose memory is prefetched before the first lookup.
const BATCH: usize = 32;
/// Batches timed together, so that the clock costs little.
const BATCHES: usize = 8;
const KEY: [u8; 16] = [7; 16];
const NOW: Time = Time(1_000_000_000);
const IDLE: u16 = 3600;
const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 53);
const UDP: u8 = 17;

/// A table filled to what it is meant to hold, 85 % of its entries, and memory of the same size.
struct Fixture {
    table: FlowTable,
    hasher: PacketHasher,
    lines: Vec<Line>,
    reference: SipHasher13,
    flows: u32,
    next: u32,
}

/// The key of a flow: hashing scatters the flows over the table, so their numbers may as well be counted up.
fn key(flow: u32) -> (Ipv4Addr, u16) {
    (Ipv4Addr::from_bits(0x6440_0000 + flow / 1000), 1024 + (flow % 1000) as u16)
}

impl Fixture {
    fn new(flows: u32) -> Fixture {
        let mut table = FlowTable::new(flows as usize);
        let hasher = FleetKey::new(KEY).packet_hasher();
        let hash = |flow| hasher.flow_v4(UDP, key(flow).0, VIP, key(flow).1, 53);
        for flow in 0..flows {
            table.insert(hash(flow), (flow % 100) as u16, NOW, IDLE);
            // Seen again, so that it is no more on probation.
            table.lookup(hash(flow), NOW, IDLE);
        }
        assert!(table.used() as f64 >= 0.998 * f64::from(flows), "{} of {flows} flows are remembered", table.used());
        Fixture { lines: lines::lines(table.memory()), table, hasher, reference: SipHasher13::new_with_key(&KEY), flows, next: 0 }
    }

    fn keys(&mut self) -> [(Ipv4Addr, u16); BATCH * BATCHES] {
        std::array::from_fn(|_| {
            self.next = (self.next + 1) % self.flows;
            key(self.next)
        })
    }

    fn look_up(&mut self) -> Duration {
        let keys = self.keys();
        let keys = black_box(&keys);
        let mut found = 0;
        let start = Instant::now();
        for batch in keys.chunks_exact(BATCH) {
            let mut hashes = [0; BATCH];
            for (hash, (client, port)) in hashes.iter_mut().zip(batch) {
                *hash = self.hasher.flow_v4(UDP, *client, VIP, *port, 53);
                self.table.prefetch(*hash);
            }
            for hash in hashes {
                found += u64::from(self.table.lookup(hash, NOW, IDLE).map_or(0, |backend| backend + 1));
            }
        }
        let took = start.elapsed();
        assert!(black_box(found) > 0);
        took
    }

    fn reference(&mut self) -> Duration {
        let keys = self.keys();
        let mut messages = [[0u8; 13]; BATCH * BATCHES];
        for (message, (client, port)) in messages.iter_mut().zip(keys) {
            message[..4].copy_from_slice(&client.octets());
            message[4..6].copy_from_slice(&port.to_be_bytes());
        }
        let messages = black_box(&messages);
        let place = |hash: u64| ((u128::from(hash) * self.lines.len() as u128) >> 64) as usize;
        let mut sum = 0u64;
        let start = Instant::now();
        for batch in messages.chunks_exact(BATCH) {
            let mut hashes = [0; BATCH];
            for (hash, message) in hashes.iter_mut().zip(batch) {
                *hash = self.reference.hash(message);
                self.lines[place(*hash)].prefetch();
            }
            for hash in &mut hashes {
                sum = sum.wrapping_add(self.lines[place(*hash)].read());
                *hash = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15).swap_bytes();
            }
            for hash in hashes {
                self.lines[place(hash)].prefetch();
            }
            for hash in hashes {
                sum = sum.wrapping_add(self.lines[place(hash)].read());
            }
        }
        let took = start.elapsed();
        assert!(black_box(sum) > 0);
        took
    }
}

fn rows(c: &mut Criterion) {
    let mut group = c.benchmark_group("flow");
    let lookups = BATCH * BATCHES;
    let unit = Unit { name: "ns/lookup", nanoseconds: lookups as f64, elements: lookups as u64 };
    for (name, flows) in [("flow_lookup_1m", 1_000_000), ("flow_lookup_10m", 10_000_000)] {
        let mut bytes = 0.0;
        let make = || {
            let fixture = Fixture::new(flows);
            bytes = fixture.table.memory() as f64 / fixture.table.used() as f64;
            fixture
        };
        paired::row(&mut group, name, unit, make, |fixture| (fixture.look_up(), Some(fixture.reference())));
        if bytes > 0.0 {
            paired::print_row(&name.replace("lookup", "bytes"), "bytes/flow", bytes, None);
        }
    }
    group.finish();
}

criterion_group!(benches, rows);
criterion_main!(benches);

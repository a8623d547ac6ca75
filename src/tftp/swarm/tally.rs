//! Counters of a swarm.

use super::histogram::Histogram;
use super::mix::Kind;
use crate::client::Counters;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

/// Transfers of one kind of client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transfers {
    /// Started transfers.
    pub started: u64,
    /// Transfers of which all bytes arrived, as many as announced.
    pub completed: u64,
    /// Completed transfers with the expected content.
    pub verified: u64,
    /// Failed transfers, those with wrong content included.
    pub failed: u64,
}

/// Counters of one worker, or of all.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// By kind of client.
    pub kinds: BTreeMap<Kind, Transfers>,
    /// Failed transfers by reason.
    pub failures: BTreeMap<String, u64>,
    /// Requests for missing files, as expected.
    pub misses: u64,
    /// Requests for the size only.
    pub probes: u64,
    /// Counters of packets.
    pub wire: Counters,
    /// Time from a transfer's request to the first answer.
    pub first: Histogram,
    /// Time from a transfer's request to its last byte.
    pub done: Histogram,
    /// Time from the first request to the last byte.
    pub time: Duration,
}

impl Tally {
    /// Returns the counters of a kind.
    pub fn of(&mut self, kind: Kind) -> &mut Transfers {
        self.kinds.entry(kind).or_default()
    }

    /// Counts a failed transfer.
    pub fn failed(&mut self, kind: Kind, reason: &str) {
        self.of(kind).failed += 1;
        match self.failures.get_mut(reason) {
            Some(count) => *count += 1,
            None => drop(self.failures.insert(reason.to_owned(), 1)),
        }
    }

    /// Adds the packets of one request.
    pub fn packets(&mut self, counters: Counters) {
        let to = &mut self.wire;
        to.bytes += counters.bytes;
        to.sent += counters.sent;
        to.received += counters.received;
        to.retransmits += counters.retransmits;
        to.duplicates += counters.duplicates;
        to.gaps += counters.gaps;
        to.unknown_tids += counters.unknown_tids;
    }

    /// Adds the counters of another worker.
    pub fn merge(&mut self, other: &Tally) {
        for (kind, from) in &other.kinds {
            let to = self.of(*kind);
            to.started += from.started;
            to.completed += from.completed;
            to.verified += from.verified;
            to.failed += from.failed;
        }
        for (reason, count) in &other.failures {
            *self.failures.entry(reason.clone()).or_default() += count;
        }
        self.misses += other.misses;
        self.probes += other.probes;
        self.packets(other.wire);
        self.first.merge(&other.first);
        self.done.merge(&other.done);
        self.time = self.time.max(other.time);
    }

    /// Returns the sum over all kinds.
    pub fn transfers(&self) -> Transfers {
        self.kinds.values().fold(Transfers::default(), |sum, one| Transfers {
            started: sum.started + one.started,
            completed: sum.completed + one.completed,
            verified: sum.verified + one.verified,
            failed: sum.failed + one.failed,
        })
    }

    /// Returns finished transfers and bytes per second.
    pub fn rates(&self) -> (f64, f64) {
        let seconds = self.time.as_secs_f64().max(1e-6);
        (self.transfers().completed as f64 / seconds, self.wire.bytes as f64 / seconds)
    }

    /// Returns the counters as JSON.
    pub fn document(&self) -> Value {
        let (transfers, goodput) = self.rates();
        let kinds: Map<String, Value> = self.kinds.iter().map(|(kind, one)| (kind.name().to_owned(), counts(one))).collect();
        json!({
            "transfers": counts(&self.transfers()),
            "failures": self.failures,
            "seconds": self.time.as_secs_f64(),
            "transfers_per_second": transfers,
            "bytes": self.wire.bytes,
            "goodput_bytes_per_second": goodput,
            "first_byte_ms": latencies(&self.first),
            "done_ms": latencies(&self.done),
            "misses": self.misses,
            "probes": self.probes,
            "packets_sent": self.wire.sent,
            "packets_received": self.wire.received,
            "retransmits": self.wire.retransmits,
            "duplicates": self.wire.duplicates,
            "gaps": self.wire.gaps,
            "unknown_tids": self.wire.unknown_tids,
            "clients": kinds,
        })
    }

    /// Returns the counters as text.
    pub fn text(&self) -> String {
        let (all, (rate, goodput)) = (self.transfers(), self.rates());
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{:<10} {:>9} {:>9} {:>9} {:>9}", "client", "started", "completed", "verified", "failed");
        let rows = self.kinds.iter().map(|(kind, one)| (kind.name(), *one)).chain([("all", all)]);
        for (name, one) in rows {
            let _ = writeln!(out, "{name:<10} {:>9} {:>9} {:>9} {:>9}", one.started, one.completed, one.verified, one.failed);
        }
        for (reason, count) in &self.failures {
            let _ = writeln!(out, "failed: {reason}: {count}");
        }
        for (what, histogram) in [("request to first byte", &self.first), ("request to last byte", &self.done)] {
            let [p50, p95, p99, max] = milliseconds(histogram);
            let _ = writeln!(out, "{what}, ms: p50 {p50:.2}, p95 {p95:.2}, p99 {p99:.2}, max {max:.2}");
        }
        let _ = writeln!(
            out,
            "{rate:.0} transfers/s, {:.1} MB/s in {:.2} s; {} misses, {} probes; {} retransmits, {} duplicates",
            goodput / 1e6,
            self.time.as_secs_f64(),
            self.misses,
            self.probes,
            self.wire.retransmits,
            self.wire.duplicates
        );
        out
    }
}

fn counts(one: &Transfers) -> Value {
    json!({ "started": one.started, "completed": one.completed, "verified": one.verified, "failed": one.failed })
}

fn milliseconds(histogram: &Histogram) -> [f64; 4] {
    let quantiles = [histogram.quantile(0.5), histogram.quantile(0.95), histogram.quantile(0.99), histogram.longest()];
    quantiles.map(|duration| duration.as_secs_f64() * 1e3)
}

fn latencies(histogram: &Histogram) -> Value {
    let [p50, p95, p99, max] = milliseconds(histogram);
    json!({ "p50": p50, "p95": p95, "p99": p99, "max": max })
}

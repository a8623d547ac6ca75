//! What became of every transfer of a script, and whether the script allows it.

use super::fairness::FairnessReport;
use super::memory::Memory;
use super::pauses::{self, PauseCollector, PauseStats};
use super::script::{AllowedFailures, Clients, Script};
use crate::transfer_log::{SORCERERS_APPRENTICE_LIMIT, TransferRecord};
use crate::transfers::{Outcome, Transfer};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

/// What was fetching when the first event came, and from whom.
#[derive(Clone, Debug, Default)]
pub struct InFlight(pub BTreeMap<u32, Option<String>>);

/// A transfer that failed.
#[derive(Clone, Debug, Serialize)]
pub struct Failure {
    /// Its file.
    pub transfer: String,
    /// The backend that its last request reached.
    pub backend: Option<String>,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// What the client said.
    pub message: String,
    /// The error that a server sent, if one did.
    pub error: Option<String>,
    /// Bytes that had reached the client.
    pub bytes: u64,
    /// Whether the script allows it.
    pub allowed: bool,
}

/// An event, when it had been carried out.
#[derive(Clone, Debug, Serialize)]
pub struct TimedEvent {
    /// Seconds since the first transfer began.
    pub at: f64,
    /// What it was.
    pub event: String,
}

/// The result of a script. This is the JSON.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ScriptReport {
    /// The script's name.
    pub row: String,
    /// What it is about.
    pub event: String,
    /// `guideway`, or `plain ECMP` when directors are left out.
    pub balancer: &'static str,
    /// The kind of server.
    pub server: &'static str,
    /// The seed of chance.
    pub seed: u64,
    /// Transfers requested.
    pub transfers: u32,
    /// Transfers whose client succeeded and whose bytes are right.
    pub verified: u32,
    /// The client was not content.
    pub failed: u32,
    /// The client was content and the bytes are wrong. Never allowed.
    pub wrong_bytes: u32,
    /// How many of those that failed might fail.
    pub allowed: u32,
    /// Transfers under way at the first event.
    pub in_flight: u32,
    /// The median of the longest pauses of those that were under way and verified, in seconds; of all without an event.
    pub pause_p50: f64,
    /// The longest of these pauses, in seconds.
    pub pause_max: f64,
    /// The same for each kind of client, those of transfers that were taken over by themselves.
    pub pauses: Vec<PauseStats>,
    /// Transfers that a second server went on with, and of these the ones that a third went on with.
    pub taken_over: u32,
    /// See there.
    pub taken_over_again: u32,
    /// DATA packets that servers sent for each block.
    pub sent_per_block: f64,
    /// Acknowledgements that reached servers again, and blocks that were sent again at once upon one.
    pub duplicates: u64,
    /// See there.
    pub duplicates_answered: u64,
    /// Most blocks in a row that were sent again at once.
    pub longest_resend_run: u32,
    /// Packets that the link to the client lost and doubled.
    pub link: [u64; 2],
    /// Jain's fairness index over the clients' networks, where there are several.
    pub fairness: Option<f64>,
    /// What that index is made from, and how long a storm took.
    pub storm: Option<FairnessReport>,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// Whether nothing failed but what might.
    pub ok: bool,
    /// Memory of the programs that ran for minutes.
    pub memory: Vec<Memory>,
    /// What happened, and when.
    pub events: Vec<TimedEvent>,
    /// Every transfer that failed, or had wrong bytes.
    pub failures: Vec<Failure>,
    /// What else went wrong.
    pub problems: Vec<String>,
    /// Whether someone stopped it.
    pub interrupted: bool,
}

/// What the verdict is made from.
#[derive(Debug)]
pub struct Observations<'a> {
    /// Transfers that ended, each with the backend that its last request reached.
    pub ended: &'a [(Transfer, Option<String>)],
    /// What was under way at the first event, if there was one.
    pub in_flight: Option<&'a InFlight>,
    /// What the router saw.
    pub records: &'a [TransferRecord],
}

impl ScriptReport {
    /// Counts and judges what was seen; `self` has the rest.
    pub fn evaluate(mut self, script: &Script, seen: &Observations<'_>) -> ScriptReport {
        let files: BTreeMap<&str, &TransferRecord> = seen.records.iter().map(|record| (record.file.as_str(), record)).collect();
        let may_fail = |number: u32| match (&script.config.allowed, seen.in_flight) {
            (AllowedFailures::TransfersOf(hosts), Some(in_flight)) => {
                in_flight.0.get(&number).is_some_and(|owner| owner.as_ref().is_some_and(|owner| hosts.contains(owner)))
            }
            _ => false,
        };
        self.allowed = match (&script.config.allowed, seen.in_flight) {
            (AllowedFailures::Count(number), _) => *number,
            (_, Some(in_flight)) => in_flight.0.keys().filter(|number| may_fail(**number)).count() as u32,
            _ => 0,
        };
        let is_baseline = self.balancer != "guideway";
        let got_error = |record: Option<&&TransferRecord>| !script.config.with_error || record.is_some_and(|record| record.error.is_some());
        let (mut pauses, mut kinds) = (Vec::new(), PauseCollector::default());
        for (transfer, backend) in seen.ended {
            let record = files.get(transfer.file.as_str());
            let message = match &transfer.outcome {
                Outcome::Verified => {
                    self.verified += 1;
                    if seen.in_flight.is_none_or(|in_flight| in_flight.0.contains_key(&transfer.number)) {
                        pauses.extend(record.map(|record| record.pause));
                        if let (Clients::Real(clients), Some(record)) = (&script.config.clients, record) {
                            let client = clients[transfer.number as usize % clients.len()];
                            kinds.add(client, record.takeovers() > 0, record.pause, script.config.detection.filter(|_| !is_baseline));
                        }
                    }
                    continue;
                }
                Outcome::Failed(message) => {
                    self.failed += 1;
                    message
                }
                Outcome::ChecksumMismatch(message) => {
                    self.wrong_bytes += 1;
                    message
                }
            };
            self.failures.push(Failure {
                transfer: transfer.file.clone(),
                backend: backend.clone(),
                seconds: transfer.seconds,
                message: message.clone(),
                error: record.and_then(|record| record.error.clone()),
                bytes: record.map_or(0, |record| record.bytes),
                allowed: matches!(transfer.outcome, Outcome::Failed(_)) && may_fail(transfer.number) && got_error(record),
            });
        }
        self.in_flight = seen.in_flight.map_or(0, |in_flight| in_flight.0.len() as u32);
        (self.pause_p50, self.pause_max) = median_and_max(pauses);
        self.pauses = kinds.summary();
        self.problems.extend(self.pauses.iter().filter_map(PauseStats::limit_problem));
        self.count_packets(script, seen.records);
        if !is_baseline && self.taken_over < script.config.min_takeovers {
            self.problems
                .push(format!("{} transfers were taken over, and at least {} should be", self.taken_over, script.config.min_takeovers));
        }
        if seen.in_flight.is_some_and(|in_flight| in_flight.0.is_empty()) && script.config.duration.is_none() {
            self.problems.push("nothing was under way at the first event".to_owned());
        }
        let unexpected = match script.config.allowed {
            AllowedFailures::Count(number) => self.failed > number,
            AllowedFailures::TransfersOf(_) => self.failures.iter().any(|failure| !failure.allowed),
        };
        let over = self.verified + self.failed + self.wrong_bytes;
        self.ok = !unexpected && self.wrong_bytes == 0 && over == self.transfers && self.problems.is_empty() && !self.interrupted;
        self
    }

    /// What servers sent. Only our own, in lock-step, must not answer duplicates: others are as they are, and a window may be sent again.
    fn count_packets(&mut self, script: &Script, records: &[TransferRecord]) {
        let times = |least| records.iter().filter(|record| record.takeovers() >= least).count() as u32;
        (self.taken_over, self.taken_over_again) = (times(1), times(2));
        let (sent, blocks) = records.iter().fold((0, 0), |(s, b), record| (s + u64::from(record.sent), b + u64::from(record.blocks)));
        self.sent_per_block = (sent as f64 / (blocks.max(1)) as f64 * 1000.0).round() / 1000.0;
        self.longest_resend_run = records.iter().map(|record| record.longest_resend_run).max().unwrap_or(0);
        let all = |count: fn(&TransferRecord) -> u32| records.iter().map(|record| u64::from(count(record))).sum::<u64>();
        (self.duplicates, self.duplicates_answered) = (all(|record| record.duplicates), all(|record| record.duplicates_answered));
        let ours = self.server.starts_with("guideway") && script.config.windowsize == 1;
        // A successor may send what the owner sent a moment ago: where nothing happens, one server answers.
        if ours && script.steps.is_empty() && self.duplicates_answered > 0 {
            self.problems.push(format!("{} of {} duplicates were answered again at once", self.duplicates_answered, self.duplicates));
        }
        if ours && script.config.link.duplicate > 0.0 && self.duplicates == 0 {
            self.problems.push("no acknowledgement came twice: nothing is shown of duplicates".to_owned());
        }
        if ours && self.longest_resend_run >= SORCERERS_APPRENTICE_LIMIT {
            let run = self.longest_resend_run;
            self.problems.push(format!(
                "{run} blocks in a row were sent again at once (at most {} may be): a Sorcerer's Apprentice",
                SORCERERS_APPRENTICE_LIMIT - 1
            ));
        }
    }

    /// 0 when all is as the script allows, 1 when not, 130 when interrupted.
    pub fn exit_code(&self) -> u8 {
        if self.interrupted { 130 } else { u8::from(!self.ok) }
    }

    /// Human-readable text. The last line is the verdict.
    pub fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _infallible = self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "{}: {} ({}, seed {})", self.row, self.event, self.balancer, self.seed)?;
        for timed in &self.events {
            writeln!(out, "{:>8.2} s  {}", timed.at, timed.event)?;
        }
        writeln!(
            out,
            "transfers {}, verified {}, failed {}, wrong bytes {}",
            self.transfers, self.verified, self.failed, self.wrong_bytes
        )?;
        writeln!(
            out,
            "under way at the first event {}, taken over {} (twice {}); longest pauses: median {:.3} s, longest {:.3} s",
            self.in_flight, self.taken_over, self.taken_over_again, self.pause_p50, self.pause_max
        )?;
        for pauses in &self.pauses {
            writeln!(out, "{}", pauses.line())?;
        }
        writeln!(
            out,
            "link lost {} and doubled {} packets; acknowledgements that came again {}, answered again at once {}; DATA packets for a block {:.3}, most \
             blocks in a row sent again at once {}",
            self.link[0], self.link[1], self.duplicates, self.duplicates_answered, self.sent_per_block, self.longest_resend_run
        )?;
        if let Some(s) = &self.storm {
            writeln!(
                out,
                "Jain's fairness index over networks {:.4} ({} contended seconds; the worst {:.4}); lowest part of a fair share {:.3}",
                s.fairness, s.contended_seconds, s.worst_second, s.min_share
            )?;
            writeln!(
                out,
                "every client had sent a request after {:.2} s, slowest client {:.2} s, all done after {:.2} s",
                s.all_requested, s.slowest_client, s.all_done
            )?;
        }
        for memory in &self.memory {
            writeln!(out, "memory of {}: {} KiB after a minute, {} KiB at last", memory.host, memory.early_kib, memory.late_kib)?;
        }
        for failure in self.failures.iter().take(10) {
            let backend = failure.backend.as_deref().unwrap_or("no backend");
            let allowed = if failure.allowed { ", allowed" } else { "" };
            writeln!(out, "failed: {} ({backend}, {:.1} s{allowed}): {}", failure.transfer, failure.seconds, failure.message)?;
        }
        if self.failures.len() > 10 {
            writeln!(out, "failed: {} more; --json lists all", self.failures.len() - 10)?;
        }
        for problem in &self.problems {
            writeln!(out, "problem: {problem}")?;
        }
        let verdict = if self.ok { "ok" } else { "NOT OK" };
        writeln!(out, "{verdict}: {} failed, {} allowed, {:.1} s", self.failed + self.wrong_bytes, self.allowed, self.seconds)
    }
}

/// Median and longest, in seconds.
fn median_and_max(mut pauses: Vec<Duration>) -> (f64, f64) {
    pauses.sort();
    let seconds = |pause: Option<&Duration>| pause.map_or(0.0, |p| pauses::seconds(*p));
    (seconds(pauses.get(pauses.len() / 2)), seconds(pauses.last()))
}

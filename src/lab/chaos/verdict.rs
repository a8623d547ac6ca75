//! What became of every transfer of a script, and whether the script allows it.

use super::memory::Memory;
use super::pauses::{self, Collected, Pauses};
use super::script::{Allowed, Clients, Script};
use super::shares::Shares;
use crate::ledger::{APPRENTICE, Record};
use crate::transfers::{Outcome, Transfer};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

/// What was fetching when the first event came, and from whom.
#[derive(Clone, Debug, Default)]
pub struct Struck(pub BTreeMap<u32, Option<String>>);

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
pub struct Happened {
    /// Seconds since the first transfer began.
    pub at: f64,
    /// What it was.
    pub event: String,
}

/// The result of a script. This is the JSON.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Row {
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
    /// Transfers asked for.
    pub transfers: u32,
    /// The client was content and the bytes are right.
    pub verified: u32,
    /// The client was not content.
    pub failed: u32,
    /// The client was content and the bytes are wrong. Never allowed.
    pub wrong_bytes: u32,
    /// How many of those that failed might fail.
    pub allowed: u32,
    /// Transfers under way at the first event.
    pub struck: u32,
    /// The median of the longest pauses of those that were under way and verified, in seconds; of all without an event.
    pub pause_p50: f64,
    /// The longest of these pauses, in seconds.
    pub pause_max: f64,
    /// The same for each kind of client, those of transfers that were taken over by themselves.
    pub pauses: Vec<Pauses>,
    /// Transfers that a second server went on with, and of these the ones that a third went on with.
    pub taken_over: u32,
    /// See there.
    pub taken_over_again: u32,
    /// DATA packets that servers sent for each block.
    pub sent_per_block: f64,
    /// Acknowledgements that reached servers again, and blocks that were sent again at once upon one.
    pub duplicates: u64,
    /// See there.
    pub answered_twice: u64,
    /// Most blocks in a row that were sent again at once.
    pub apprentice: u32,
    /// Packets that the link to the client lost and doubled.
    pub link: [u64; 2],
    /// Jain's fairness index over the clients' networks, where there are several.
    pub fairness: Option<f64>,
    /// What that index is made from, and how long a storm took.
    pub storm: Option<Shares>,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// Whether nothing failed but what might.
    pub ok: bool,
    /// Memory of the programs that ran for minutes.
    pub memory: Vec<Memory>,
    /// What happened, and when.
    pub happened: Vec<Happened>,
    /// Every transfer that failed, or had wrong bytes.
    pub failures: Vec<Failure>,
    /// What else went wrong.
    pub problems: Vec<String>,
    /// Whether someone stopped it.
    pub interrupted: bool,
}

/// What the verdict is made from.
#[derive(Debug)]
pub struct Seen<'a> {
    /// Transfers that ended, each with the backend that its last request reached.
    pub ended: &'a [(Transfer, Option<String>)],
    /// What was under way at the first event, if there was one.
    pub struck: Option<&'a Struck>,
    /// What the router saw.
    pub records: &'a [Record],
}

impl Row {
    /// Counts and judges what was seen; `self` has the rest.
    pub fn judge(mut self, script: &Script, seen: &Seen<'_>) -> Row {
        let files: BTreeMap<&str, &Record> = seen.records.iter().map(|record| (record.file.as_str(), record)).collect();
        let may_fail = |number: u32| match (&script.head.allowed, seen.struck) {
            (Allowed::TransfersOf(hosts), Some(struck)) => {
                struck.0.get(&number).is_some_and(|owner| owner.as_ref().is_some_and(|owner| hosts.contains(owner)))
            }
            _ => false,
        };
        self.allowed = match (&script.head.allowed, seen.struck) {
            (Allowed::Number(number), _) => *number,
            (_, Some(struck)) => struck.0.keys().filter(|number| may_fail(**number)).count() as u32,
            _ => 0,
        };
        let peer = self.balancer != "guideway";
        let was_told = |record: Option<&&Record>| !script.head.with_error || record.is_some_and(|record| record.error.is_some());
        let (mut pauses, mut kinds) = (Vec::new(), Collected::default());
        for (transfer, backend) in seen.ended {
            let record = files.get(transfer.file.as_str());
            let message = match &transfer.outcome {
                Outcome::Verified => {
                    self.verified += 1;
                    if seen.struck.is_none_or(|struck| struck.0.contains_key(&transfer.number)) {
                        pauses.extend(record.map(|record| record.pause));
                        if let (Clients::Real(clients), Some(record)) = (&script.head.clients, record) {
                            let client = clients[transfer.number as usize % clients.len()];
                            kinds.add(client, record.takeovers() > 0, record.pause, script.head.detection.filter(|_| !peer));
                        }
                    }
                    continue;
                }
                Outcome::Failed(message) => {
                    self.failed += 1;
                    message
                }
                Outcome::Wrong(message) => {
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
                allowed: matches!(transfer.outcome, Outcome::Failed(_)) && may_fail(transfer.number) && was_told(record),
            });
        }
        self.struck = seen.struck.map_or(0, |struck| struck.0.len() as u32);
        (self.pause_p50, self.pause_max) = spread(pauses);
        self.pauses = kinds.tell();
        self.problems.extend(self.pauses.iter().filter_map(Pauses::too_long));
        self.packets(script, seen.records);
        if !peer && self.taken_over < script.head.at_least {
            self.problems.push(format!("{} transfers were taken over, and at least {} should be", self.taken_over, script.head.at_least));
        }
        if seen.struck.is_some_and(|struck| struck.0.is_empty()) && script.head.lasts.is_none() {
            self.problems.push("nothing was under way at the first event".to_owned());
        }
        let unexpected = match script.head.allowed {
            Allowed::Number(number) => self.failed > number,
            Allowed::TransfersOf(_) => self.failures.iter().any(|failure| !failure.allowed),
        };
        let over = self.verified + self.failed + self.wrong_bytes;
        self.ok = !unexpected && self.wrong_bytes == 0 && over == self.transfers && self.problems.is_empty() && !self.interrupted;
        self
    }

    /// What servers sent. Only our own, in lock-step, must not answer duplicates: others are as they are, and a window may be sent again.
    fn packets(&mut self, script: &Script, records: &[Record]) {
        let times = |least| records.iter().filter(|record| record.takeovers() >= least).count() as u32;
        (self.taken_over, self.taken_over_again) = (times(1), times(2));
        let (sent, blocks) = records.iter().fold((0, 0), |(s, b), record| (s + u64::from(record.sent), b + u64::from(record.blocks)));
        self.sent_per_block = (sent as f64 / (blocks.max(1)) as f64 * 1000.0).round() / 1000.0;
        self.apprentice = records.iter().map(|record| record.apprentice).max().unwrap_or(0);
        let all = |count: fn(&Record) -> u32| records.iter().map(|record| u64::from(count(record))).sum::<u64>();
        (self.duplicates, self.answered_twice) = (all(|record| record.duplicates), all(|record| record.answered_twice));
        let ours = self.server.starts_with("guideway") && script.head.windowsize == 1;
        // An heir may send what the owner sent a moment ago: where nothing happens, one server answers.
        if ours && script.steps.is_empty() && self.answered_twice > 0 {
            self.problems.push(format!("{} of {} duplicates were answered again at once", self.answered_twice, self.duplicates));
        }
        if ours && script.head.link.duplicate > 0.0 && self.duplicates == 0 {
            self.problems.push("no acknowledgement came twice: nothing is shown of duplicates".to_owned());
        }
        if ours && self.apprentice >= APPRENTICE {
            let row = self.apprentice;
            self.problems.push(format!(
                "{row} blocks in a row were sent again at once (at most {} may be): a Sorcerer's Apprentice",
                APPRENTICE - 1
            ));
        }
    }

    /// 0 when all is as the script allows, 1 when not, 130 when interrupted.
    pub fn exit_code(&self) -> u8 {
        if self.interrupted { 130 } else { u8::from(!self.ok) }
    }

    /// For people. The last line is the verdict.
    pub fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _infallible = self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "{}: {} ({}, seed {})", self.row, self.event, self.balancer, self.seed)?;
        for happened in &self.happened {
            writeln!(out, "{:>8.2} s  {}", happened.at, happened.event)?;
        }
        writeln!(
            out,
            "transfers {}, verified {}, failed {}, wrong bytes {}",
            self.transfers, self.verified, self.failed, self.wrong_bytes
        )?;
        writeln!(
            out,
            "under way at the first event {}, taken over {} (twice {}); longest pauses: median {:.3} s, longest {:.3} s",
            self.struck, self.taken_over, self.taken_over_again, self.pause_p50, self.pause_max
        )?;
        for pauses in &self.pauses {
            writeln!(out, "{}", pauses.line())?;
        }
        writeln!(
            out,
            "link lost {} and doubled {} packets; acknowledgements that came again {}, answered again at once {}; DATA packets for a block {:.3}, most \
             blocks in a row sent again at once {}",
            self.link[0], self.link[1], self.duplicates, self.answered_twice, self.sent_per_block, self.apprentice
        )?;
        if let Some(s) = &self.storm {
            writeln!(
                out,
                "Jain's fairness index over networks {:.4} ({} contended seconds; the worst {:.4}); least share of what was fair {:.3}",
                s.fairness, s.contended_seconds, s.worst_second, s.least_share
            )?;
            writeln!(
                out,
                "all had asked after {:.2} s, slowest client {:.2} s, all done after {:.2} s",
                s.all_asked, s.slowest_client, s.all_done
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
fn spread(mut pauses: Vec<Duration>) -> (f64, f64) {
    pauses.sort();
    let seconds = |pause: Option<&Duration>| pause.map_or(0.0, |p| pauses::seconds(*p));
    (seconds(pauses.get(pauses.len() / 2)), seconds(pauses.last()))
}

//! What the lab shows: the topology before, progress during, and tables or JSON after.

use super::args::LabArgs;
use super::drain;
use super::plan::{Backend, Plan};
use super::reload;
use super::transfers::{Outcome, Transfer};
use guideway_api::counters::Counters;
use guideway_host::error::{Context, Error};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;

/// How many transfers got how far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// A client was started.
    pub started: u32,
    /// The client was content.
    pub completed: u32,
    /// The bytes are right.
    pub verified: u32,
    /// The client was not content, or the bytes are wrong.
    pub failed: u32,
}

impl Counts {
    /// Counts one transfer that ended.
    pub fn ended(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Verified => (self.completed, self.verified) = (self.completed + 1, self.verified + 1),
            Outcome::ChecksumMismatch(_) => (self.completed, self.failed) = (self.completed + 1, self.failed + 1),
            Outcome::Failed(_) => self.failed += 1,
        }
    }

    /// How many are over.
    pub fn finished(&self) -> u32 {
        self.verified + self.failed
    }
}

/// One backend.
#[derive(Clone, Debug, Serialize)]
pub struct BackendReport {
    /// Its name.
    pub name: String,
    /// Transfers whose last request reached it.
    pub transfers: u64,
}

/// A director with its counters.
#[derive(Clone, Debug, Serialize)]
pub struct DirectorReport {
    /// Its name.
    pub name: String,
    /// Generation of its tables.
    pub generation: u64,
    /// Its counters.
    #[serde(flatten)]
    pub counters: Counters,
}

impl DirectorReport {
    fn total_dropped(&self) -> u64 {
        self.counters.dropped.values().sum()
    }
}

/// What the router sent where.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RouterReport {
    /// Packets for the VIP that it took.
    pub received: u64,
    /// Packets that it had no director for.
    pub unroutable: u64,
    /// Packets that the kernel refused to send.
    pub send_errors: u64,
    /// Packets to each address that was a director.
    pub sent: BTreeMap<String, u64>,
}

/// One transfer that failed.
#[derive(Clone, Debug, Serialize)]
pub struct Failure {
    /// The name that it requested.
    pub transfer: String,
    /// The backend that its last request reached.
    pub backend: Option<String>,
    /// How long it took.
    pub seconds: f64,
    /// What the client said.
    pub message: String,
}

impl Failure {
    /// `None` for a transfer that was verified.
    pub fn of(transfer: &Transfer, backend: Option<String>) -> Option<Self> {
        let message = match &transfer.outcome {
            Outcome::Verified => return None,
            Outcome::ChecksumMismatch(message) | Outcome::Failed(message) => message.clone(),
        };
        Some(Failure { transfer: transfer.file.clone(), backend, seconds: transfer.seconds, message })
    }
}

/// The result of a run. This is the JSON.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// How many transfers got how far.
    pub transfers: Counts,
    /// How many were requested.
    pub requested: u32,
    /// Each director with its counters.
    pub directors: Vec<DirectorReport>,
    /// Each backend.
    pub backends: Vec<BackendReport>,
    /// What directors dropped, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// The router.
    pub router: RouterReport,
    /// How directors got packets in and out.
    pub io: &'static str,
    /// The kind of server.
    pub server: &'static str,
    /// The kind of client.
    pub client: &'static str,
    /// What the router hashed over.
    pub ecmp: &'static str,
    /// Whether everything was IPv6.
    pub ipv6: bool,
    /// Bytes in a file.
    pub size: u64,
    /// Bytes in a block that clients requested.
    pub blksize: u16,
    /// Transfers at a time.
    pub concurrency: u32,
    /// `kernel` or `user`.
    pub decap: &'static str,
    /// From the first transfer's start to the last one's end.
    pub seconds: f64,
    /// What a reload did, if one was requested.
    pub reload: Option<reload::Outcome>,
    /// What a drain did, if one was requested.
    pub drain: Option<drain::Outcome>,
    /// Every transfer that failed.
    pub failures: Vec<Failure>,
    /// What else went wrong.
    pub problems: Vec<String>,
    /// Whether someone stopped it.
    pub interrupted: bool,
}

impl Report {
    /// 0 when all is well, 1 when something failed, 130 when interrupted.
    pub fn exit_code(&self) -> u8 {
        let reload_wrong = self.reload.as_ref().is_some_and(|r| !r.ok) || self.drain.as_ref().is_some_and(|d| !d.ok);
        if self.interrupted { 130 } else { u8::from(self.transfers.verified < self.requested || !self.problems.is_empty() || reload_wrong) }
    }

    /// The tables, human-readable. The last line says how many transfers were verified.
    pub fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _infallible = self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let t = &self.transfers;
        writeln!(out, "{:<12}{:>10}{:>12}{:>10}{:>8}", "transfers", "started", "completed", "verified", "failed")?;
        writeln!(out, "{:<12}{:>10}{:>12}{:>10}{:>8}", "", t.started, t.completed, t.verified, t.failed)?;
        let mib = t.verified as f64 * self.size as f64 / f64::from(1 << 20);
        writeln!(out, "{:<12}{:.1} s, {:.1} MiB/s\n", "", self.seconds, mib / self.seconds.max(0.001))?;
        if !self.directors.is_empty() {
            writeln!(
                out,
                "{:<12}{:>10}{:>12}{:>10}{:>8}{:>10}{:>12}",
                "director", "received", "transmitted", "to host", "held", "dropped", "originated"
            )?;
            for d in &self.directors {
                let Counters { received, transmitted, to_host, held, originated, .. } = d.counters;
                let (name, dropped) = (&d.name, d.total_dropped());
                writeln!(out, "{name:<12}{received:>10}{transmitted:>12}{to_host:>10}{held:>8}{dropped:>10}{originated:>12}")?;
            }
            out.push('\n');
        }
        writeln!(out, "{:<12}{:>10}", "backend", "transfers")?;
        for b in &self.backends {
            writeln!(out, "{:<12}{:>10}", b.name, b.transfers)?;
        }
        let reasons: Vec<String> = self.dropped.iter().filter(|(_, n)| **n > 0).map(|(r, n)| format!("{r} {n}")).collect();
        writeln!(out, "\ndropped by directors: {}", if reasons.is_empty() { "nothing".to_owned() } else { reasons.join(", ") })?;
        if self.router.unroutable + self.router.send_errors > 0 {
            writeln!(
                out,
                "lost at the router: {} without a director, {} refused by the kernel",
                self.router.unroutable, self.router.send_errors
            )?;
        }
        if let Some(drain) = &self.drain {
            let verdict = if drain.ok { "as it must" } else { "NOT as it must" };
            let new = drain.requests_after - drain.requests_before.min(drain.requests_after);
            let last = drain.last_ended_seconds.unwrap_or_default();
            writeln!(
                out,
                "drain of {} after {} transfers: its last transfer ended after {last:.1} s, {new} new, `drain --wait` returned after {:.1} s, {verdict}",
                drain.backend, drain.after_transfers, drain.returned_seconds
            )?;
        }
        if let Some(reload) = &self.reload {
            let each = |g: &reload::Generations| format!("{} generation {} → {}", g.name, g.before, g.after);
            let each: Vec<String> = reload.directors.iter().map(each).collect();
            let verdict = if reload.ok { "as it must" } else { "NOT as it must" };
            writeln!(out, "reload ({}) after {} transfers: {}, {verdict}", reload.kind, reload.after_transfers, each.join(", "))?;
        }
        for failure in self.failures.iter().take(10) {
            let backend = failure.backend.as_deref().unwrap_or("no backend");
            writeln!(out, "failed: {} ({backend}, {:.1} s): {}", failure.transfer, failure.seconds, failure.message)?;
        }
        if self.failures.len() > 10 {
            writeln!(out, "failed: {} more; --json lists all", self.failures.len() - 10)?;
        }
        for problem in &self.problems {
            writeln!(out, "problem: {problem}")?;
        }
        if self.interrupted {
            writeln!(out, "interrupted after {} of {} transfers", t.finished(), self.requested)?;
        }
        writeln!(out, "verified {} of {} transfers", t.verified, self.requested)
    }
}

/// What directors dropped, by reason, all together.
pub fn dropped(directors: &[DirectorReport]) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for (reason, count) in directors.iter().flat_map(|director| &director.counters.dropped) {
        *all.entry(reason.clone()).or_insert(0) += count;
    }
    all
}

/// The topology, drawn.
pub fn topology_diagram(plan: &Plan, args: &LabArgs, io: &str) -> String {
    let server = args.server.name();
    let spread = if plan.directors.is_empty() { "straight to backends" } else { "over the directors" };
    let mut lines = vec![
        format!("client  {}   {}", plan.client, args.client.name()),
        "  │".to_owned(),
        format!("router  {} / {}   {} in GRE, {spread} by {}", plan.gateway.0, plan.router.0, plan.vip, args.effective_ecmp().name()),
        "  │".to_owned(),
        "fabric".to_owned(),
    ];
    let backend = |b: &Backend, role: &str| {
        let tid_range = b.tid_range.map(|(first, last)| format!(", server ports {first}-{last}")).unwrap_or_default();
        format!("{}  {}   {role}{server} at {}{tid_range}", b.name, b.address, plan.vip)
    };
    let mut hosts: Vec<String> = truncated(&plan.directors, |d| format!("{}  {}   director, {io}", d.name, d.address));
    hosts.extend(truncated(&plan.backends, |b| backend(b, "")));
    hosts.extend(plan.spares.iter().map(|b| backend(b, "spare: ")));
    let last = hosts.len().saturating_sub(1);
    lines.extend(hosts.iter().enumerate().map(|(i, host)| format!("  {}─ {host}", if i == last { '└' } else { '├' })));
    lines.push("backends answer the client through the router, not through a director\n".to_owned());
    lines.join("\n")
}

/// At most eight lines.
fn truncated<T>(hosts: &[T], line: impl Fn(&T) -> String) -> Vec<String> {
    let mut lines: Vec<String> = hosts.iter().take(8).map(line).collect();
    if hosts.len() > 8 {
        lines.push(format!("… and {} more", hosts.len() - 8));
    }
    lines
}

/// Progress on stderr: a bar on a terminal, else a line for every tenth.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    total: u32,
    tenths: u32,
}

impl Progress {
    /// For so many transfers.
    pub fn new(total: u32) -> Self {
        let bar = progress_bar(total);
        Progress { bar, total, tenths: 0 }
    }

    /// Shows how far it is.
    pub fn show(&mut self, counts: &Counts) {
        let failed = if counts.failed > 0 { format!(", {} failed", counts.failed) } else { String::new() };
        if let Some(bar) = &self.bar {
            bar.set_message(failed);
            return bar.set_position(u64::from(counts.finished()));
        }
        let tenths = u64::from(counts.finished()) * 10 / u64::from(self.total.max(1));
        if tenths > u64::from(self.tenths) {
            self.tenths = u32::try_from(tenths).unwrap_or(10);
            eprintln!("{} of {} transfers{failed}", counts.finished(), self.total);
        }
    }

    /// Takes the bar away.
    pub fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}

fn progress_bar(total: u32) -> Option<ProgressBar> {
    if !std::io::IsTerminal::is_terminal(&std::io::stderr()) {
        return None;
    }
    let bar = ProgressBar::new(u64::from(total));
    let style = ProgressStyle::with_template("{bar:40} {pos} of {len} transfers{msg}, {elapsed}").ok()?;
    bar.set_style(style);
    Some(bar)
}

/// Prints to stdout; that its reader has gone away is an error like any other.
pub fn print(text: &str) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).with_context(|| "writing to stdout".to_owned())
}

//! A log line for each transfer.

use super::hunting::is_hunting;
use super::transfer_metrics::rate;
use guideway_tftp::Protocol;
use guideway_tftp::packet::ErrorCode;
use guideway_tftp::report::{Observer, Outcome, Statistics, TransferReport};
use std::collections::HashMap;
use std::fmt::Write;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Missing files of a client that are counted for this time after the first one. PXELINUX and GRUB ask for ten names before the last, general one.
const HUNTING: Duration = Duration::from_secs(10);
/// Clients whose missing files are counted. Those of others are logged one by one.
const MAX_CLIENTS: usize = 4096;

/// Logs each transfer: with `info` when it has ended, by whatever outcome. Of several missing files of one client, one is logged, and then their number.
#[derive(Default)]
pub struct TransferLog {
    /// By client, those of hunting apart: they must hide no fault.
    misses: Mutex<HashMap<(IpAddr, bool), Misses>>,
}

/// Files that a client asked for in vain.
struct Misses {
    since: Instant,
    /// Those after the first.
    more: u64,
    last: String,
}

impl TransferLog {
    fn misses(&self) -> MutexGuard<'_, HashMap<(IpAddr, bool), Misses>> {
        self.misses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether to log this missing file at `info`; otherwise it was counted.
    fn is_first_miss(&self, client: IpAddr, file: &[u8], now: Instant) -> bool {
        let mut misses = self.misses();
        let key = (client, is_hunting(file));
        if let Some(known) = misses.get_mut(&key) {
            known.more += 1;
            known.last.clear();
            // A string takes everything.
            let _ = write!(known.last, "{}", file.escape_ascii());
            return false;
        }
        if misses.len() < MAX_CLIENTS {
            misses.insert(key, Misses { since: now, more: 0, last: String::new() });
        }
        true
    }

    /// Logs what was counted for clients whose time is over, at `now`.
    fn summarize(&self, now: Instant) {
        self.misses().retain(|(client, _), misses| {
            let keep = now.saturating_duration_since(misses.since) < HUNTING;
            if !keep && misses.more > 0 {
                let outcome = "refused";
                tracing::info!(%client, file = %misses.last, outcome, more = misses.more, "more files not found, the last one named here");
            }
            keep
        });
    }
}

impl Drop for TransferLog {
    fn drop(&mut self) {
        self.summarize(Instant::now() + HUNTING);
    }
}

/// Formats the options that both sides agreed on, as `blksize=1468 tsize=600`.
fn options(report: &TransferReport) -> String {
    let pairs = report.acknowledged().iter().map(|(name, value)| format!("{}={}", name.escape_ascii(), value.escape_ascii()));
    pairs.collect::<Vec<_>>().join(" ")
}

impl Observer for TransferLog {
    fn finished(&self, report: &TransferReport) {
        let file = report.file().escape_ascii();
        let outcome = report.outcome.name();
        let seconds = report.duration.as_secs_f64();
        let (client, vip, retransmitted, write) = (report.client, report.vip, report.retransmitted, report.write);
        let (taken_over, tid) = (report.taken_over, report.tid);
        let handler = report.handler.as_deref();
        // Most are by TFTP, whose lines do not say so.
        let protocol = (report.protocol != Protocol::Tftp).then_some(report.protocol.name());
        let bytes = if write { report.bytes_received } else { report.bytes_sent };
        match &report.outcome {
            Outcome::Refused(Some(ErrorCode::NOT_FOUND), text) if !self.is_first_miss(client.ip(), report.file(), Instant::now()) => {
                tracing::debug!(%client, %vip, protocol, %file, handler, outcome, code = %ErrorCode::NOT_FOUND, "{text}");
            }
            Outcome::Refused(code, text) => {
                let code = code.map_or_else(|| "no answer".to_owned(), |code| code.to_string());
                tracing::info!(%client, %vip, protocol, %file, handler, outcome, %code, "{text}");
            }
            Outcome::Aborted(code, text) => {
                let said = if protocol.is_none() { "client sent ERROR: " } else { "" };
                tracing::info!(%client, %vip, protocol, %file, handler, outcome, bytes, seconds, %code, "{said}{}", text.escape_debug());
            }
            Outcome::Done => {
                let (options, mbyte_per_second) = (options(report), (rate(report).unwrap_or_default() / 1e4).round() / 100.0);
                let (write, taken_over) = (write.then_some(true), taken_over.then_some(true));
                let tid = taken_over.map(|_| tid);
                tracing::info!(
                    %client, %vip, protocol, %file, handler, outcome, write, taken_over, tid, bytes, retransmitted, seconds, mbyte_per_second, options
                );
            }
            Outcome::Failed(why) => tracing::warn!(%client, %vip, protocol, %file, handler, outcome, bytes, seconds, "{why}"),
            // The log is bounded by place: forged requests must not hide clients that fell silent.
            Outcome::HalfOpen => tracing::info!(%client, %vip, protocol, %file, handler, outcome, write, bytes, retransmitted, seconds),
            Outcome::TimedOut => tracing::info!(%client, %vip, protocol, %file, handler, outcome, write, bytes, retransmitted, seconds),
            _ => tracing::debug!(%client, %vip, protocol, %file, handler, outcome, write, bytes, retransmitted, seconds),
        }
    }
    fn server(&self, _: &Statistics) {
        self.summarize(Instant::now());
    }

    fn interval(&self) -> Duration {
        HUNTING / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_hunts_is_two_lines_and_counted_for_a_bounded_number_of_clients() {
        let (log, start) = (TransferLog::default(), Instant::now());
        let client = |n: u32| IpAddr::from(n.to_be_bytes());
        let told: Vec<_> = (0..9).map(|n| log.is_first_miss(client(1), format!("pxelinux.cfg/{n}").as_bytes(), start)).collect();
        assert_eq!((told[0], told[1..].contains(&true)), (true, false));
        assert!(log.is_first_miss(client(1), b"vmlinuz", start), "hunting hides no fault");
        log.summarize(start + HUNTING / 2);
        assert_eq!(
            log.misses().get(&(client(1), true)).map(|misses| (misses.more, misses.last.clone())),
            Some((8, "pxelinux.cfg/8".to_owned()))
        );
        log.summarize(start + HUNTING);
        assert!(log.is_first_miss(client(1), b"again", start + HUNTING));
        assert!((0..2 * MAX_CLIENTS as u32).all(|n| n == 1 || log.is_first_miss(client(n), b"f", start)));
        assert_eq!(log.misses().len(), MAX_CLIENTS);
    }
}

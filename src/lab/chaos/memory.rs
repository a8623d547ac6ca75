//! How much memory directors and servers hold, early and late: it must stay flat however long chaos lasts.

use super::network::Network;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How often it is looked.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);
/// By then a program has what it needs: tables, buffers, threads.
const WARM_UP: Duration = Duration::from_secs(60);
/// A program that ran for less after that says nothing.
const MIN_RUNTIME: Duration = Duration::from_secs(60);

/// One program's memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// The host that it ran on.
    pub host: String,
    /// Resident memory a minute after its start, in KiB.
    pub early_kib: u64,
    /// The last time that it was looked, in KiB.
    pub late_kib: u64,
}

impl Memory {
    /// A sentence when it is not flat: more than a quarter and 4 MiB above what it was.
    pub fn growth_problem(&self) -> Option<String> {
        let most = self.early_kib + self.early_kib / 4 + 4096;
        let said =
            || format!("the memory of {} grew from {} to {} KiB: at most {most} would be flat", self.host, self.early_kib, self.late_kib);
        (self.late_kib > most).then(said)
    }
}

/// What was seen so far, for each process.
#[derive(Debug, Default)]
pub struct MemoryMonitor {
    last_sample: Option<Instant>,
    samples: BTreeMap<(String, u32), Samples>,
}

#[derive(Debug)]
struct Samples {
    since: Instant,
    early: Option<u64>,
    late: u64,
    until: Instant,
}

impl MemoryMonitor {
    /// Looks, when it is time to.
    pub fn sample(&mut self, network: &Network<'_>) {
        let now = Instant::now();
        if self.last_sample.is_some_and(|last| now - last < SAMPLE_INTERVAL) {
            return;
        }
        self.last_sample = Some(now);
        for (host, pid) in network.processes() {
            if let Some(kib) = resident_kib(pid) {
                self.record(host, pid, kib, now);
            }
        }
    }

    fn record(&mut self, host: String, pid: u32, kib: u64, now: Instant) {
        let seen = self.samples.entry((host, pid)).or_insert(Samples { since: now, early: None, late: kib, until: now });
        (seen.late, seen.until) = (kib, now);
        if now - seen.since >= WARM_UP {
            seen.early.get_or_insert(kib);
        }
    }

    /// The programs that ran long enough to tell.
    pub fn summary(&self) -> Vec<Memory> {
        let long = self.samples.iter().filter(|(_, seen)| seen.until - seen.since >= WARM_UP + MIN_RUNTIME);
        let one = |((host, _), seen): (&(String, u32), &Samples)| {
            seen.early.map(|early_kib| Memory { host: host.clone(), early_kib, late_kib: seen.late })
        };
        long.filter_map(one).collect()
    }
}

/// Resident memory of a process, in KiB; nothing when it is gone.
fn resident_kib(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_programs_that_ran_long_enough_tell() {
        let (mut watch, start) = (MemoryMonitor::default(), Instant::now());
        for second in 0..200 {
            watch.record("d1".to_owned(), 7, 1000 + second, start + Duration::from_secs(second));
            if second < 90 {
                watch.record("t1".to_owned(), 8, 5, start + Duration::from_secs(second));
            }
        }
        assert_eq!(watch.summary(), [Memory { host: "d1".to_owned(), early_kib: 1060, late_kib: 1199 }]);
    }

    #[test]
    fn growing_memory_is_reported() {
        let memory = |late_kib| Memory { host: "d1".to_owned(), early_kib: 8192, late_kib };
        assert_eq!(memory(8192 + 2048 + 4096).growth_problem(), None);
        assert!(memory(20_000).growth_problem().is_some_and(|said| said.contains("of d1 grew from 8192 to 20000 KiB")));
    }

    #[test]
    fn memory_of_this_process_is_known() {
        assert!(resident_kib(std::process::id()).is_some_and(|kib| kib > 100));
        assert_eq!(resident_kib(u32::MAX), None);
    }
}

//! How much memory directors and servers hold, early and late: it must stay flat however long chaos lasts.

use super::field::Field;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How often it is looked.
const EVERY: Duration = Duration::from_secs(1);
/// By then a program has what it needs: tables, buffers, threads.
const SETTLED: Duration = Duration::from_secs(60);
/// A program that ran for less after that says nothing.
const LONG_ENOUGH: Duration = Duration::from_secs(60);

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
    pub fn grown(&self) -> Option<String> {
        let most = self.early_kib + self.early_kib / 4 + 4096;
        let said =
            || format!("the memory of {} grew from {} to {} KiB: at most {most} would be flat", self.host, self.early_kib, self.late_kib);
        (self.late_kib > most).then(said)
    }
}

/// What was seen so far, for each process.
#[derive(Debug, Default)]
pub struct Watch {
    looked: Option<Instant>,
    seen: BTreeMap<(String, u32), Seen>,
}

#[derive(Debug)]
struct Seen {
    since: Instant,
    early: Option<u64>,
    late: u64,
    until: Instant,
}

impl Watch {
    /// Looks, when it is time to.
    pub fn look(&mut self, field: &Field<'_>) {
        let now = Instant::now();
        if self.looked.is_some_and(|looked| now - looked < EVERY) {
            return;
        }
        self.looked = Some(now);
        for (host, pid) in field.processes() {
            if let Some(kib) = resident(pid) {
                self.saw(host, pid, kib, now);
            }
        }
    }

    fn saw(&mut self, host: String, pid: u32, kib: u64, now: Instant) {
        let seen = self.seen.entry((host, pid)).or_insert(Seen { since: now, early: None, late: kib, until: now });
        (seen.late, seen.until) = (kib, now);
        if now - seen.since >= SETTLED {
            seen.early.get_or_insert(kib);
        }
    }

    /// The programs that ran long enough to tell.
    pub fn tell(&self) -> Vec<Memory> {
        let long = self.seen.iter().filter(|(_, seen)| seen.until - seen.since >= SETTLED + LONG_ENOUGH);
        let one = |((host, _), seen): (&(String, u32), &Seen)| {
            seen.early.map(|early_kib| Memory { host: host.clone(), early_kib, late_kib: seen.late })
        };
        long.filter_map(one).collect()
    }
}

/// Resident memory of a process, in KiB; nothing when it is gone.
fn resident(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_programs_that_ran_long_enough_tell() {
        let (mut watch, start) = (Watch::default(), Instant::now());
        for second in 0..200 {
            watch.saw("d1".to_owned(), 7, 1000 + second, start + Duration::from_secs(second));
            if second < 90 {
                watch.saw("t1".to_owned(), 8, 5, start + Duration::from_secs(second));
            }
        }
        assert_eq!(watch.tell(), [Memory { host: "d1".to_owned(), early_kib: 1060, late_kib: 1199 }]);
    }

    #[test]
    fn what_grows_is_told() {
        let memory = |late_kib| Memory { host: "d1".to_owned(), early_kib: 8192, late_kib };
        assert_eq!(memory(8192 + 2048 + 4096).grown(), None);
        assert!(memory(20_000).grown().is_some_and(|said| said.contains("of d1 grew from 8192 to 20000 KiB")));
    }

    #[test]
    fn memory_of_this_process_is_known() {
        assert!(resident(std::process::id()).is_some_and(|kib| kib > 100));
        assert_eq!(resident(u32::MAX), None);
    }
}

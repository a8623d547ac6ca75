//! What a server costs: the CPU time and the memory of its whole tree of processes.
//!
//! CPU time comes from a control group, which also counts processes that ended without anybody waiting for them (in.tftpd's do). Where
//! none may be made it comes from /proc, in ticks, and misses those.

use nix::unistd::Pid;
use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

const PREFIX: &str = "guideway-tftp-bench-";
/// Hierarchies that may be there: the first one of version 1 with CPU accounting, or version 2.
const PLACES: [(&str, &str); 3] =
    [("/sys/fs/cgroup/cpuacct", "cpuacct.usage"), ("/sys/fs/cgroup", "cpu.stat"), ("/sys/fs/cgroup/unified", "cpu.stat")];

/// Where the numbers come from.
#[derive(Clone, Debug)]
pub enum CpuAccounting {
    /// A control group: its directory, and the file with the CPU time.
    Group(PathBuf, &'static str),
    /// /proc.
    Proc,
}

impl CpuAccounting {
    /// Makes a control group if that is possible here. `number`: this process as seen from outside.
    pub fn open(number: &str) -> CpuAccounting {
        for (place, file) in PLACES {
            let directory = Path::new(place).join(format!("{PREFIX}{number}"));
            if fs::create_dir(&directory).is_ok() {
                if directory.join(file).exists() {
                    return CpuAccounting::Group(directory, file);
                }
                let _nothing_lost = fs::remove_dir(&directory);
            }
        }
        CpuAccounting::Proc
    }

    /// Removes control groups of runs that are over. They are empty; what was in them went with its PID namespace.
    pub fn sweep() {
        for entry in PLACES.iter().filter_map(|(place, _)| fs::read_dir(place).ok()).flatten().flatten() {
            let name = entry.file_name();
            let number = name.to_str().and_then(|n| n.strip_prefix(PREFIX)).and_then(|n| n.parse::<u32>().ok());
            if number.is_some_and(|n| !Path::new(&format!("/proc/{n}")).exists()) {
                let _not_empty = fs::remove_dir(entry.path());
            }
        }
    }

    /// Human-readable text.
    pub fn describe(&self) -> String {
        match self {
            CpuAccounting::Group(directory, file) => {
                format!("control group ({})", directory.parent().unwrap_or(directory).join(file).display())
            }
            CpuAccounting::Proc => "/proc/PID/stat of the tree (10 ms ticks; misses processes that nobody waited for)".to_owned(),
        }
    }

    /// The file that a process writes `0` to in order to be counted.
    pub fn entry(&self) -> Option<PathBuf> {
        match self {
            CpuAccounting::Group(directory, _) => Some(directory.join("cgroup.procs")),
            CpuAccounting::Proc => None,
        }
    }

    /// The processes of the server whose first process is `root`.
    pub fn processes(&self, root: Pid) -> Vec<Pid> {
        let in_group = self.entry().map(|file| fs::read_to_string(file).unwrap_or_default());
        match in_group {
            Some(text) => text.lines().filter_map(|l| l.parse().ok()).map(Pid::from_raw).collect(),
            None => tree(root),
        }
    }

    /// CPU time spent so far by the server whose first process is `root`.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn cpu(&self, root: Pid) -> io::Result<Duration> {
        match self {
            CpuAccounting::Group(directory, file) => {
                let text = fs::read_to_string(directory.join(file))?;
                let usec = text.lines().find_map(|l| l.strip_prefix("usage_usec ")).and_then(|n| n.parse().ok()).map(Duration::from_micros);
                let time = usec.or_else(|| text.trim().parse().ok().map(Duration::from_nanos));
                time.ok_or_else(|| io::Error::other(format!("{file} of the control group holds no time")))
            }
            CpuAccounting::Proc => {
                Ok(tree(root).into_iter().filter_map(stat).map(|s| s.ticks).sum::<u64>()).map(|t| Duration::from_millis(t * 10))
            }
        }
    }

    /// Proportional set size of the server's processes in bytes, and how many there are.
    ///
    /// # Errors
    /// When there are none.
    pub fn memory(&self, root: Pid) -> io::Result<(u64, usize)> {
        let pss = |pid: &Pid| {
            let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
            let line = text.lines().find_map(|l| l.strip_prefix("Pss:"))?;
            line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|k| k * 1024)
        };
        let sizes: Vec<u64> = self.processes(root).iter().filter_map(pss).collect();
        if sizes.is_empty() { Err(io::Error::other("the server has ended")) } else { Ok((sizes.iter().sum(), sizes.len())) }
    }

    /// Removes the control group.
    pub fn close(&self) {
        if let CpuAccounting::Group(directory, _) = self {
            let _swept_later = fs::remove_dir(directory);
        }
    }
}

struct Stat {
    parent: i32,
    group: i32,
    /// User and system time, its own and that of children that were waited for.
    ticks: u64,
}

fn stat(pid: Pid) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |at: usize| fields.get(at).and_then(|f| f.parse().ok());
    let ticks = (11..15).filter_map(|at| fields.get(at)?.parse::<u64>().ok()).sum();
    Some(Stat { parent: number(1)?, group: number(2)?, ticks })
}

/// `root`, its descendants, and whoever is in its process group though its parent has ended.
fn tree(root: Pid) -> Vec<Pid> {
    let numbers = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
    let mut all: Vec<(Pid, Stat)> = numbers.map(Pid::from_raw).filter_map(|pid| stat(pid).map(|s| (pid, s))).collect();
    all.sort_by_key(|(pid, _)| *pid);
    let mut found = HashSet::from([root.as_raw()]);
    loop {
        let more: Vec<i32> = all
            .iter()
            .filter(|(pid, s)| !found.contains(&pid.as_raw()) && (found.contains(&s.parent) || s.group == root.as_raw()))
            .map(|(pid, _)| pid.as_raw())
            .collect();
        if more.is_empty() {
            break;
        }
        found.extend(more);
    }
    all.into_iter().map(|(pid, _)| pid).filter(|pid| found.contains(&pid.as_raw())).collect()
}

/// CPU time that the whole machine was busy so far, all CPUs together.
pub fn machine_busy() -> Duration {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields: Vec<u64> = text.lines().next().unwrap_or_default().split_whitespace().skip(1).filter_map(|f| f.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal
    let busy: u64 = fields.iter().enumerate().filter(|(i, _)| !matches!(i, 3 | 4) && *i < 8).map(|(_, t)| t).sum();
    Duration::from_millis(busy * 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn a_tree_is_found_by_proc() {
        let mut child = Command::new("sh").args(["-c", "sleep 60 & read line; kill $!"]).stdin(Stdio::piped()).spawn().unwrap();
        let root = Pid::from_raw(i32::try_from(child.id()).unwrap());
        while CpuAccounting::Proc.processes(root).len() < 2 {
            std::thread::yield_now();
        }
        assert!(CpuAccounting::Proc.memory(root).unwrap().0 > 0);
        CpuAccounting::Proc.cpu(root).unwrap();
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(machine_busy() > Duration::ZERO);
    }
}

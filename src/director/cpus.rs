//! Which CPU each worker is pinned to.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Why workers cannot be placed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A CPU that is not there, or that the process may not use.
    #[error("[director] io.cpus names CPU {cpu}, which this process may not use; it may use {allowed:?}")]
    NotAllowed {
        /// The one named.
        cpu: usize,
        /// Those that it may use.
        allowed: Vec<usize>,
    },
    /// The kernel refused.
    #[error("cannot pin a worker to CPU {cpu}: {error}")]
    Pin {
        /// Which.
        cpu: usize,
        /// What the kernel says.
        error: nix::Error,
    },
    /// The kernel refused to move a thread of control.
    #[error("cannot keep control off the workers' CPUs: {0}")]
    Leave(nix::Error),
}

/// CPUs that this process may use.
pub fn allowed() -> Vec<usize> {
    let set = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
    (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).collect()
}

/// A CPU for each of `workers`: those of the configuration in their order, else spread over `allowed`; from the start again when they run out.
pub fn choose(configured: &[usize], workers: usize, allowed: &[usize]) -> Result<Vec<usize>, Error> {
    if let Some(cpu) = configured.iter().find(|cpu| !allowed.contains(cpu)) {
        return Err(Error::NotAllowed { cpu: *cpu, allowed: allowed.to_vec() });
    }
    let from = if configured.is_empty() { allowed } else { configured };
    Ok(from.iter().copied().cycle().take(workers).collect())
}

/// Pins this thread.
pub fn pin(cpu: usize) -> Result<(), Error> {
    let failed = |error| Error::Pin { cpu, error };
    let mut set = CpuSet::new();
    set.set(cpu).map_err(failed)?;
    sched_setaffinity(Pid::from_raw(0), &set).map_err(failed)
}

/// Keeps all threads that this process has by now, and those that they start, off the CPUs of `workers`, if it may use others: what builds tables
/// must not take a worker's time. A worker pins itself.
pub fn leave(workers: &[usize]) -> Result<(), Error> {
    let others: Vec<usize> = allowed().into_iter().filter(|cpu| !workers.contains(cpu)).collect();
    if others.is_empty() {
        return Ok(());
    }
    let mut set = CpuSet::new();
    others.iter().try_for_each(|cpu| set.set(*cpu)).map_err(Error::Leave)?;
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let threads = threads.filter_map(|thread| thread.file_name().to_str()?.parse().ok()).map(Pid::from_raw);
    for thread in threads.chain([Pid::from_raw(0)]) {
        match sched_setaffinity(thread, &set) {
            // One that has ended meanwhile.
            Ok(()) | Err(nix::Error::ESRCH) => {}
            Err(error) => return Err(Error::Leave(error)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_spread_over_what_is_allowed_or_go_where_the_file_says() {
        assert_eq!(choose(&[], 3, &[4, 5]).unwrap(), [4, 5, 4]);
        assert_eq!(choose(&[5], 2, &[4, 5]).unwrap(), [5, 5]);
        assert!(choose(&[7], 1, &[4, 5]).unwrap_err().to_string().contains("CPU 7"));
    }

    #[test]
    fn a_pinned_thread_may_use_one_cpu_only() {
        std::thread::spawn(|| {
            let cpu = *allowed().last().unwrap();
            pin(cpu).unwrap();
            assert_eq!(allowed(), [cpu]);
        })
        .join()
        .unwrap();
    }
}

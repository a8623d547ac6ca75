//! Assigns CPUs to workers.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Why workers cannot be pinned.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A CPU that does not exist, or that the process may not use.
    #[error("[director] io.cpus names CPU {cpu}, which this process may not use; it may use {allowed:?}")]
    NotAllowed {
        /// The configured CPU.
        cpu: usize,
        /// The CPUs that the process may use.
        allowed: Vec<usize>,
    },
    /// The kernel refused to pin a worker.
    #[error("cannot pin a worker to CPU {cpu}: {error}")]
    Pin {
        /// The CPU.
        cpu: usize,
        /// The error of the kernel.
        error: nix::Error,
    },
    /// The kernel refused to move a control thread.
    #[error("cannot keep control off the workers' CPUs: {0}")]
    Exclude(nix::Error),
}

/// Returns the CPUs that this process may use.
pub fn allowed() -> Vec<usize> {
    let cpu_set = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
    (0..CpuSet::count()).filter(|cpu| cpu_set.is_set(*cpu).unwrap_or(false)).collect()
}

/// Returns a CPU for each of `workers`: the configured ones in order, otherwise spread over `allowed`. Starts again when they run out.
pub fn assign(configured: &[usize], workers: usize, allowed: &[usize]) -> Result<Vec<usize>, Error> {
    if let Some(cpu) = configured.iter().find(|cpu| !allowed.contains(cpu)) {
        return Err(Error::NotAllowed { cpu: *cpu, allowed: allowed.to_vec() });
    }
    let from = if configured.is_empty() { allowed } else { configured };
    Ok(from.iter().copied().cycle().take(workers).collect())
}

/// Pins this thread to a CPU.
pub fn pin(cpu: usize) -> Result<(), Error> {
    let failed = |error| Error::Pin { cpu, error };
    let mut cpu_set = CpuSet::new();
    cpu_set.set(cpu).map_err(failed)?;
    sched_setaffinity(Pid::from_raw(0), &cpu_set).map_err(failed)
}

/// Moves all current threads of this process, and threads they start later, off the CPUs of `workers`, if other CPUs are allowed. Building
/// tables must not take a worker's time. A worker pins itself.
pub fn exclude(workers: &[usize]) -> Result<(), Error> {
    let others: Vec<usize> = allowed().into_iter().filter(|cpu| !workers.contains(cpu)).collect();
    if others.is_empty() {
        return Ok(());
    }
    let mut cpu_set = CpuSet::new();
    others.iter().try_for_each(|cpu| cpu_set.set(*cpu)).map_err(Error::Exclude)?;
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let threads = threads.filter_map(|thread| thread.file_name().to_str()?.parse().ok()).map(Pid::from_raw);
    for thread in threads.chain([Pid::from_raw(0)]) {
        match sched_setaffinity(thread, &cpu_set) {
            // The thread has ended meanwhile.
            Ok(()) | Err(nix::Error::ESRCH) => {}
            Err(error) => return Err(Error::Exclude(error)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_use_the_configured_cpus_or_are_spread_over_allowed_ones() {
        assert_eq!(assign(&[], 3, &[4, 5]).unwrap(), [4, 5, 4]);
        assert_eq!(assign(&[5], 2, &[4, 5]).unwrap(), [5, 5]);
        assert!(assign(&[7], 1, &[4, 5]).unwrap_err().to_string().contains("CPU 7"));
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

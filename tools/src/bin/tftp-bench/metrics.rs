//! The numbers that are measured.

/// What is measured. The strings are the names in the JSON file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Metric(pub &'static str);

/// Megabytes (10^6) a second.
pub const MB_PER_S: Metric = Metric("MB_per_s");
/// Megabytes for each second of CPU time of both ends: what `MB_PER_S` would be if nobody else used the CPU.
pub const MB_PER_CPU_S: Metric = Metric("MB_per_cpu_s_of_both_ends");
/// Microseconds of the server's CPU time for each block.
pub const US_PER_BLOCK: Metric = Metric("server_cpu_us_per_block");
/// Block size that was granted.
pub const BLKSIZE: Metric = Metric("blksize_granted");
/// Seconds from first to last.
pub const WALL: Metric = Metric("wall_s");
/// CPU seconds of the server.
pub const CPU: Metric = Metric("server_cpu_s");
/// CPU seconds of the server for each GiB.
pub const CPU_PER_GIB: Metric = Metric("server_cpu_s_per_GiB");
/// CPU seconds of the clients.
pub const CLIENT_CPU: Metric = Metric("client_cpu_s");
/// The busy part of the time of the clients' threads, in percent. Near 100 they are the limit.
pub const CLIENT_BUSY: Metric = Metric("client_busy_percent");
/// Transfers that the server broke off or left unanswered, or that had wrong content.
pub const FAILED: Metric = Metric("failed");
/// Transfers that had not ended when time was up.
pub const UNFINISHED: Metric = Metric("unfinished");
/// Packets that clients had to repeat.
pub const RESENDS: Metric = Metric("client_resends");
/// Clients that had to repeat their request.
pub const REPEATED: Metric = Metric("requests_repeated");
/// Transfers a second.
pub const PER_SECOND: Metric = Metric("transfers_per_s");
/// Microseconds of the server's CPU time for each transfer.
pub const US_PER_TRANSFER: Metric = Metric("server_cpu_us_per_transfer");
/// MiB of memory.
pub const PSS: Metric = Metric("pss_MiB");
/// MiB of memory before the first transfer.
pub const PSS_BEFORE: Metric = Metric("pss_idle_MiB");
/// Processes.
pub const PROCESSES: Metric = Metric("processes");
/// Transfers that were open when memory was read.
pub const OPENED: Metric = Metric("opened");
/// Median of the time of a transfer in seconds; those that failed count as endless.
pub const MEDIAN: Metric = Metric("median_s");
/// CPUs that other programs of the machine used meanwhile.
pub const OTHERS: Metric = Metric("cpus_used_by_others");

/// One measurement.
pub type Sample = Vec<(Metric, f64)>;

/// The middle of sorted numbers; 0 of none.
pub fn median(sorted: &[f64]) -> f64 {
    let middle = |at: usize| sorted.get(at).copied().unwrap_or(0.0);
    let half = sorted.len() / 2;
    if sorted.len() % 2 == 1 { middle(half) } else { f64::midpoint(middle(half.saturating_sub(1)), middle(half)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[]), 0.0);
        assert_eq!(median(&[3.0]), 3.0);
        assert_eq!(median(&[1.0, 2.0]), 1.5);
        assert_eq!(median(&[1.0, 2.0, f64::INFINITY]), 2.0);
    }
}

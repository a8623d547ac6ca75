//! Capabilities and limits of this process.

use nix::sys::resource::{Resource, getrlimit};

/// capabilities(7), by number.
pub const NET_ADMIN: u32 = 12;
pub const NET_RAW: u32 = 13;
pub const IPC_LOCK: u32 = 14;
pub const SYS_ADMIN: u32 = 21;
pub const BPF: u32 = 39;

/// Returns the effective capabilities, one bit for each.
pub fn effective() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok()).unwrap_or(0)
}

/// Returns the hard limit of locked memory in bytes, to which the director raises its own.
pub fn locked_memory() -> u64 {
    getrlimit(Resource::RLIMIT_MEMLOCK).map_or(0, |(_, hard)| hard)
}

/// Whether `capabilities` has this one.
pub fn has(capabilities: u64, capability: u32) -> bool {
    capabilities & 1 << capability != 0
}

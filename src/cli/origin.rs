//! Who runs a command that changes a store itself, without a director.

use guideway_store::Origin;
use nix::unistd::{User, getuid};

/// Returns the user of this process, its host, and the reason.
pub(super) fn origin(command: &str, reason: Option<&String>) -> Origin {
    let uid = getuid();
    let who = User::from_uid(uid).ok().flatten().map_or_else(|| format!("uid {uid}"), |user| user.name);
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let from = format!("guideway {command} on {}, uid {uid}, pid {}", host.trim(), std::process::id());
    Origin { who, from, reason: reason.cloned() }
}

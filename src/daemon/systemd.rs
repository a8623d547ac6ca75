//! systemd: socket activation (sd_listen_fds(3)), readiness and the watchdog (sd_notify(3)).

use guideway_sys::inherited;
use sd_notify::NotifyState;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// The first passed descriptor.
const LISTEN_FDS_START: i32 = 3;
/// Maximum number of passed sockets.
const MAX_FDS: i32 = 1024;

/// Returns the sockets that systemd passed to this process, if any. Must be called once, before the process opens anything else. Child
/// processes do not inherit them.
///
/// # Errors
/// Returns an error when the environment names descriptors that are not open.
pub fn listen_fds() -> io::Result<Vec<OwnedFd>> {
    let variable = |name: &str| std::env::var(name).ok();
    fds_for_process(variable("LISTEN_PID").as_deref(), variable("LISTEN_FDS").as_deref(), std::process::id())
        .map_or(Ok(Vec::new()), |count| (LISTEN_FDS_START..LISTEN_FDS_START + count).map(inherited).collect())
}

/// Returns the number of descriptors for the process `own`.
fn fds_for_process(pid: Option<&str>, fds: Option<&str>, own: u32) -> Option<i32> {
    (pid?.parse::<u32>().ok()? == own).then_some(())?;
    fds?.parse().ok().filter(|count| (1..=MAX_FDS).contains(count))
}

/// Returns whether this file is the journal, as systemd connects it to a unit (`JOURNAL_STREAM`, systemd.exec(5)).
pub fn is_journal(file: &impl AsFd) -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    nix::sys::stat::fstat(file).is_ok_and(|file| stream == format!("{}:{}", file.st_dev, file.st_ino))
}

/// Puts a priority of syslog(3) before each line of a message to the journal (sd-daemon(3)).
pub fn with_priority(priority: u8, message: &[u8]) -> Vec<u8> {
    let lines = message.split_inclusive(|&byte| byte == b'\n');
    lines.flat_map(|line| [format!("<{priority}>").as_bytes(), line].concat()).collect()
}

/// Reports readiness to systemd, if systemd started the daemon and asks for it.
pub fn notify_ready() {
    notify(NotifyState::Ready, "readiness");
}

/// Reports to systemd that the daemon ends.
pub fn notify_stopping() {
    notify(NotifyState::Stopping, "the end");
}

fn notify(state: NotifyState<'_>, what: &str) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "{what} not reported to systemd");
    }
}

/// Reports to the watchdog of systemd (`WatchdogSec=` of the unit). systemd restarts a daemon that does not report.
#[derive(Debug)]
pub struct Watchdog {
    /// `None`: systemd does not watch this process.
    interval: Option<Duration>,
    reported: Option<Instant>,
}

impl Watchdog {
    /// Reads the interval from the environment (`WATCHDOG_USEC`, `WATCHDOG_PID`).
    pub fn from_environment() -> Self {
        // Half of the limit, as sd_watchdog_enabled(3) recommends.
        Self { interval: sd_notify::watchdog_enabled().map(|limit| limit / 2), reported: None }
    }

    /// Reports that the daemon works, at most once in half of the unit's limit. The main loop of a daemon calls it at least once a second.
    pub fn report(&mut self, now: Instant) {
        let Some(interval) = self.interval else { return };
        if self.reported.is_none_or(|last| now.duration_since(last) >= interval) {
            self.reported = Some(now);
            notify(NotifyState::Watchdog, "life");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_of_a_message_has_its_priority() {
        assert_eq!(with_priority(3, b" ERROR one\ntwo\n"), b"<3> ERROR one\n<3>two\n");
        assert!(with_priority(3, b"").is_empty());
    }

    #[test]
    fn descriptors_for_other_processes_are_ignored() {
        assert_eq!(fds_for_process(Some("7"), Some("2"), 7), Some(2));
        for (pid, fds) in [(None, Some("1")), (Some("8"), Some("1")), (Some("7"), None), (Some("7"), Some("0")), (Some("7"), Some("-1"))] {
            assert_eq!(fds_for_process(pid, fds, 7), None, "{pid:?} {fds:?}");
        }
        assert_eq!((fds_for_process(Some("7"), Some("99999999"), 7), fds_for_process(Some("x"), Some("1"), 7)), (None, None));
    }
}

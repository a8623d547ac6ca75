//! Protocols between systemd and a daemon: socket activation (sd_listen_fds(3)) and readiness (sd_notify(3)).

use guideway_sys::inherited;
use std::io;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

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

/// Reports readiness to systemd, if systemd started the daemon and asks for it.
pub fn notify_ready() {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let send = || {
        let address = match path.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            _ => SocketAddr::from_pathname(&path)?,
        };
        UnixDatagram::unbound()?.send_to_addr(b"READY=1", &address)
    };
    if let Err(error) = send() {
        tracing::warn!(%error, "readiness not reported to systemd");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_for_other_processes_are_ignored() {
        assert_eq!(fds_for_process(Some("7"), Some("2"), 7), Some(2));
        for (pid, fds) in [(None, Some("1")), (Some("8"), Some("1")), (Some("7"), None), (Some("7"), Some("0")), (Some("7"), Some("-1"))] {
            assert_eq!(fds_for_process(pid, fds, 7), None, "{pid:?} {fds:?}");
        }
        assert_eq!((fds_for_process(Some("7"), Some("99999999"), 7), fds_for_process(Some("x"), Some("1"), 7)), (None, None));
    }
}

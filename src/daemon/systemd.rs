//! What systemd and a daemon say to one another: sockets that it passes (sd_listen_fds(3)), and that the daemon is ready (sd_notify(3)).

use guideway_sys::inherited;
use std::io;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The first descriptor that is passed.
const FIRST: i32 = 3;
/// More sockets than anybody passes.
const MOST: i32 = 1024;

/// Sockets that were passed to this process; none when it was not started that way. To be called once, before the process opens anything
/// else. They are not handed on to programs that the process starts.
///
/// # Errors
/// When the environment speaks of descriptors that are not there.
pub fn passed() -> io::Result<Vec<OwnedFd>> {
    let said = |name: &str| std::env::var(name).ok();
    count(said("LISTEN_PID").as_deref(), said("LISTEN_FDS").as_deref(), std::process::id())
        .map_or(Ok(Vec::new()), |count| (FIRST..FIRST + count).map(inherited).collect())
}

/// How many descriptors are meant for the process `own`.
fn count(pid: Option<&str>, fds: Option<&str>, own: u32) -> Option<i32> {
    (pid?.parse::<u32>().ok()? == own).then_some(())?;
    fds?.parse().ok().filter(|count| (1..=MOST).contains(count))
}

/// Tells systemd that the daemon is ready, when it was started by it and is asked to.
pub fn ready() {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let send = || {
        let address = match path.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            _ => SocketAddr::from_pathname(&path)?,
        };
        UnixDatagram::unbound()?.send_to_addr(b"READY=1", &address)
    };
    if let Err(error) = send() {
        tracing::warn!("systemd cannot be told that the daemon is ready: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_for_other_processes_are_not_ours() {
        assert_eq!(count(Some("7"), Some("2"), 7), Some(2));
        for (pid, fds) in [(None, Some("1")), (Some("8"), Some("1")), (Some("7"), None), (Some("7"), Some("0")), (Some("7"), Some("-1"))] {
            assert_eq!(count(pid, fds, 7), None, "{pid:?} {fds:?}");
        }
        assert_eq!((count(Some("7"), Some("99999999"), 7), count(Some("x"), Some("1"), 7)), (None, None));
    }
}

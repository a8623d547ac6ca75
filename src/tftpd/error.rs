//! Why the daemon cannot run.

use super::config;
use guideway_daemon::{metrics, socket};
use guideway_tftp::engine;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Reasons for which the daemon cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory cannot be served.
    #[error("cannot serve {}: {source}", path.display())]
    Root {
        /// The directory.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The directory that clients may write to cannot be used.
    #[error("cannot use the writable directory {}: {source}", path.display())]
    Writable {
        /// The directory.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A configured handler cannot be created.
    #[error(transparent)]
    Handlers(#[from] config::BuildError),
    /// A target of reports cannot be used.
    #[error("{0}")]
    Reports(String),
    /// The pool of `[takeover]` is not available.
    #[error("{0}")]
    Takeover(String),
    /// There is no such user.
    #[error("--user {0}: there is no such user on this host")]
    NoUser(String),
    /// systemd passed a socket for an address that `listen` does not contain.
    #[error("systemd passed a socket for {1}, which is not in `{0}`: remove `{0}`, or add the address to it")]
    Unused(&'static str, SocketAddr),
    /// A system call failed.
    #[error("{doing}: {source}")]
    System {
        /// The operation.
        doing: String,
        /// The kernel's error.
        source: std::io::Error,
    },
    /// The control socket cannot be opened.
    #[error(transparent)]
    Socket(#[from] socket::Error),
    /// The metrics endpoint cannot be opened.
    #[error(transparent)]
    Metrics(#[from] metrics::Error),
    /// The engine's sockets cannot be opened.
    #[error(transparent)]
    Engine(#[from] engine::Error),
}

impl Error {
    /// Returns whether the options are wrong, as opposed to a failure of the host.
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Error::Root { .. } | Error::Writable { .. } | Error::Handlers(_) | Error::Reports(_) | Error::NoUser(_) | Error::Unused(..)
        )
    }
}

pub(super) fn system(doing: impl Into<String>) -> impl FnOnce(nix::errno::Errno) -> Error {
    let doing = doing.into();
    move |errno| Error::System { doing, source: errno.into() }
}

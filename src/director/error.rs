//! Errors of a director.

use crate::{announce, open};
use guideway_config::{LoadError, Problem};
use guideway_control::{ApplyError, api, neighbour};
use guideway_daemon::{metrics, socket};
use std::path::PathBuf;

/// Why the director did not start, or ended on its own.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The file has errors.
    #[error("{} has {} errors; see the log", file.display(), problems.len())]
    Config {
        /// The file.
        file: PathBuf,
        /// Errors and warnings.
        problems: Vec<Problem>,
    },
    /// No tables can be built from the configuration.
    #[error("the configuration cannot be used: {0}")]
    Apply(#[from] ApplyError),
    /// The store.
    #[error(transparent)]
    Store(#[from] guideway_store::OpenError),
    /// Another director of the store has the same name.
    #[error(
        "director.name = \"{name}\": another director of the store has this name: process {pid} with address {address}; names must differ, or end that one first"
    )]
    NameTaken {
        /// The name.
        name: String,
        /// Its process.
        pid: u32,
        /// Its address.
        address: String,
    },
    /// The control socket.
    #[error(transparent)]
    Socket(#[from] socket::Error),
    /// Metrics.
    #[error(transparent)]
    Metrics(#[from] metrics::Error),
    /// The API over TCP.
    #[error(transparent)]
    Api(#[from] api::tcp::Error),
    /// The io.
    #[error(transparent)]
    Open(#[from] open::Error),
    /// Announcing VIPs.
    #[error(transparent)]
    Announce(#[from] announce::Error),
    /// The CPUs.
    #[error(transparent)]
    Cpus(#[from] guideway_host::cpus::Error),
    /// The kernel's neighbours.
    #[error("neighbours cannot be watched: {0}")]
    Neighbours(#[from] neighbour::Error),
    /// The system refused a request.
    #[error("{what}: {error}")]
    System {
        /// The failed action.
        what: &'static str,
        /// The error of the system.
        error: std::io::Error,
    },
    /// A worker ended.
    #[error("worker {worker} has ended: {why}; the director ends, so that routers stop sending it packets")]
    Worker {
        /// The worker.
        worker: usize,
        /// The reason.
        why: String,
    },
    /// The interface was removed.
    #[error("network interface `{0}` is gone; the director ends")]
    Gone(String),
    /// A part of the control loop ended.
    #[error("{0} has ended unexpectedly; the director ends")]
    Ended(&'static str),
}

impl Error {
    /// Returns the exit code of the program: 2 for a bad configuration, otherwise 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Load(_) | Error::Config { .. } | Error::Apply(_) | Error::Open(open::Error::Pcap) => 2,
            _ => 1,
        }
    }
}

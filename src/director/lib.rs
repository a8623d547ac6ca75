//! The daemon: workers that forward, and control around them that publishes what they read.
//!
//! Control runs on the first thread in a single-threaded runtime; each worker has a thread of its own. They share three things: the
//! snapshot (control swaps it, workers load it once for each batch), the counters (workers store, readers load), and a short queue of
//! backends whose next hop is missing.

pub mod announce;
mod control;
pub mod cpus;
mod open;
mod pace;
mod set;
mod start;
mod steering;
mod worker;

use guideway_config::{self as config, LoadError, Problem};
use guideway_control::{Refused, neighbour};
use guideway_daemon::socket;
use std::path::{Path, PathBuf};

/// Why the director did not start, or ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The file has errors.
    #[error("{} cannot be used: {} errors", file.display(), problems.len())]
    Config {
        /// The file.
        file: PathBuf,
        /// Errors and warnings.
        problems: Vec<Problem>,
    },
    /// No tables can be built from it.
    #[error("the configuration cannot be used: {0}")]
    Refused(#[from] Refused),
    /// The store.
    #[error(transparent)]
    Store(#[from] guideway_store::OpenError),
    /// The control socket.
    #[error(transparent)]
    Socket(#[from] socket::Error),
    /// Metrics.
    #[error(transparent)]
    Metrics(#[from] guideway_daemon::metrics::Error),
    /// The interface over TCP.
    #[error(transparent)]
    Api(#[from] guideway_control::api::tcp::Error),
    /// The io.
    #[error(transparent)]
    Open(#[from] open::Error),
    /// Announcing VIPs.
    #[error(transparent)]
    Announce(#[from] crate::announce::Error),
    /// The CPUs.
    #[error(transparent)]
    Cpus(#[from] cpus::Error),
    /// The kernel's neighbours.
    #[error("neighbours cannot be watched: {0}")]
    Neighbours(#[from] neighbour::Error),
    /// Something that the system refused.
    #[error("{what}: {error}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system says.
        error: std::io::Error,
    },
    /// A worker ended.
    #[error("worker {worker} has ended: {why}; the director ends, so that its share of the packets is not lost in silence")]
    Worker {
        /// Which.
        worker: usize,
        /// Why.
        why: String,
    },
    /// The interface was removed.
    #[error("network interface `{0}` is gone; the director ends")]
    Gone(String),
    /// A part of control ended.
    #[error("{0} has ended unexpectedly; the director ends")]
    Ended(&'static str),
}

impl Error {
    /// The exit code of the program: 2 for a bad configuration, else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Load(_) | Error::Config { .. } | Error::Refused(_) | Error::Open(open::Error::Pcap) => 2,
            _ => 1,
        }
    }
}

/// Runs a director with the configuration in `file` until it is told to end by SIGTERM or SIGINT.
pub fn run(file: &Path) -> Result<(), Error> {
    let config = load(file)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::System { what: "cannot start the control thread's runtime", error })?;
    runtime.block_on(start::run(file, config))
}

/// Reads a file that must be good; its warnings are logged.
fn load(file: &Path) -> Result<config::Config, Error> {
    let checked = config::load(file)?;
    for warning in checked.warnings() {
        tracing::warn!("{}", warning.in_file(file));
    }
    let problems = checked.errors().cloned().collect();
    checked.config.ok_or_else(|| Error::Config { file: file.to_owned(), problems })
}

//! The director daemon: workers that forward packets, and a control loop that publishes the tables they read.
//!
//! Control runs on the first thread in a single-threaded runtime; each worker has its own thread. They share three things: the snapshot
//! (control swaps it, workers load it once per batch), the counters (workers store, readers load), and a short queue of backends without a
//! next hop.

pub mod announce;
mod apply;
mod control;
mod error;
mod facts;
mod health_leader;
pub mod host_check;
mod host_problems;
mod idle;
mod load;
mod open;
mod peers;
mod resolve;
mod signals;
mod start;
mod steering;
mod worker;

pub use error::Error;

use load::load;
use std::path::Path;

/// Runs a director with the configuration in `file` until SIGTERM or SIGINT.
pub fn run(file: &Path) -> Result<(), Error> {
    let config = load(file)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::System { what: "cannot start the control thread's runtime", error })?;
    runtime.block_on(start::run(file, config))
}

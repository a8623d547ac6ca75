//! Thousands of TFTP clients on a few threads, with the option mixes of real firmware, packet loss, and a checked result for every transfer.

mod client;
pub mod digests;
pub mod faults;
pub mod files;
mod histogram;
pub mod mix;
pub mod sockets;
mod tally;
mod worker;

#[cfg(test)]
#[cfg(feature = "server")]
mod tests;

pub use tally::{Tally, Transfers};

use crate::client::Timing;
use client::{Client, SwarmContext};
use digests::Expected;
use faults::Rates;
use mix::Mix;
use sockets::{Opener, Sources};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use worker::{MAX_SOCKETS, Shared, Worker};

/// Sockets that a swarm opens by default, few enough not to exhaust the machine's ports.
const SOCKETS: usize = 8192;
/// Largest number of sockets on one address: the kernel's ephemeral range has 28,232 ports.
const MAX_PER_ADDRESS: u128 = 25_000;

/// Settings of a swarm.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Destination of requests.
    pub server: SocketAddr,
    /// Clients, each with one transfer at a time.
    pub clients: u32,
    /// Total number of transfers.
    pub transfers: u64,
    /// The files, requested in turn.
    pub files: Vec<String>,
    /// Kinds of clients.
    pub mix: Mix,
    /// The network between clients and sockets.
    pub faults: Rates,
    /// Source addresses of clients; `None` if the kernel chooses.
    pub bind: Option<Sources>,
    /// Largest number of transfers started per second.
    pub rate: Option<f64>,
    /// Time-outs and retries.
    pub timing: Timing,
    /// Seed of all random choices.
    pub seed: u64,
    /// Time limit of the whole run.
    pub limit: Duration,
    /// Threads; 0 for one per CPU, at most 4.
    pub threads: usize,
}

/// Reasons why a swarm cannot start or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Settings that contradict each other.
    #[error("{0}")]
    Usage(String),
    /// A system call failed.
    #[error("{what}: {error}")]
    Kernel {
        /// The operation.
        what: &'static str,
        /// The kernel's error.
        error: std::io::Error,
    },
}

/// Returns whether a swarm may have any size at this address: loopback, link-local and private addresses.
pub fn is_local(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => address.is_loopback() || address.is_private() || address.is_link_local(),
        IpAddr::V6(address) => address.is_loopback() || address.is_unique_local() || address.is_unicast_link_local(),
    }
}

/// Runs the clients. `ready` is called when all sockets are open; the first request is sent after it returns. `progress` gets the number
/// of ended transfers about ten times a second.
///
/// # Errors
/// When it cannot start. A failed transfer is counted and is not an error.
pub fn run(settings: &Settings, expected: &Expected, ready: &mut dyn FnMut(), progress: &mut dyn FnMut(u64)) -> Result<Tally, Error> {
    let threads = match settings.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from).min(4),
        wanted => wanted,
    };
    let threads = threads.min(settings.clients.max(1) as usize);
    let each = (SOCKETS / settings.clients.max(1) as usize).clamp(1, 4).min(MAX_SOCKETS);
    let groups = clients(settings, threads, each)?;
    ready();
    let context = SwarmContext {
        server: settings.server,
        files: &settings.files,
        expected,
        timing: settings.timing,
        faults: settings.faults,
        seed: settings.seed,
    };
    let shared = Shared {
        transfers: settings.transfers,
        next: AtomicU64::new(0),
        ended: AtomicU64::new(0),
        origin: Instant::now(),
        limit: settings.limit,
    };
    let start_interval = settings.rate.map(|rate| Duration::from_secs_f64((threads as f64 / rate.max(1e-6)).min(1e6)));
    let kernel = |what| move |error| Error::Kernel { what, error };
    let workers: Result<Vec<_>, _> = groups.into_iter().map(|group| Worker::new(&shared, &context, group, start_interval)).collect();
    let workers = workers.map_err(kernel("watching sockets"))?;
    std::thread::scope(|scope| {
        let (sender, receiver) = channel();
        for (number, worker) in workers.into_iter().enumerate() {
            let sender = sender.clone();
            // The receiver is closed when another worker failed.
            let body = move || drop(sender.send(worker.run()));
            let started = std::thread::Builder::new().name(format!("swarm-{number}")).spawn_scoped(scope, body);
            started.map_err(kernel("starting a thread"))?;
        }
        drop(sender);
        let mut tally = Tally::default();
        loop {
            match receiver.recv_timeout(Duration::from_millis(100)) {
                Ok(done) => tally.merge(&done.map_err(kernel("waiting for answers"))?),
                Err(RecvTimeoutError::Timeout) => progress(shared.ended.load(std::sync::atomic::Ordering::Relaxed)),
                Err(RecvTimeoutError::Disconnected) => return Ok(tally),
            }
        }
    })
}

/// Creates the clients of each thread, with their sockets.
fn clients(settings: &Settings, threads: usize, each: usize) -> Result<Vec<Vec<Client>>, Error> {
    if settings.bind.is_some_and(|bind| bind.is_ipv4() != settings.server.is_ipv4()) {
        return Err(Error::Usage("--bind: clients and server must both have IPv4 or both IPv6 addresses".to_owned()));
    }
    let addresses = settings.bind.map_or(1, |bind| bind.count());
    let sockets = u64::from(settings.clients) * each as u64;
    if u128::from(sockets) > MAX_PER_ADDRESS.saturating_mul(addresses) {
        return Err(Error::Usage(format!(
            "--clients {}: one address has ports for {MAX_PER_ADDRESS} clients; add addresses with --bind PREFIX, for example 127.1.0.0/16",
            settings.clients
        )));
    }
    sockets::allow(sockets + 256).map_err(Error::Usage)?;
    let any = if settings.server.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
    let (mut opener, mut random) = (Opener::default(), fastrand::Rng::with_seed(settings.seed));
    let mut groups: Vec<Vec<Client>> = (0..threads).map(|_| Vec::new()).collect();
    for number in 0..settings.clients {
        let (kind, address) = (settings.mix.kind(number), settings.bind.map_or(any, |bind| bind.of(number)));
        let sockets = opener.open(address, kind.ports(random.u16(..)), each);
        let sockets = sockets.map_err(|error| Error::Kernel { what: "opening a client's socket", error })?;
        if let Some(group) = groups.get_mut(number as usize % threads) {
            group.push(Client::new(number, kind, address, sockets));
        }
    }
    Ok(groups)
}

//! Thousands of TFTP clients from a few threads: option mixes of real firmware, losses, a verdict for every transfer.

mod client;
pub mod faults;
pub mod files;
mod histogram;
pub mod mix;
pub mod sockets;
pub mod sums;
mod tally;
mod worker;

#[cfg(test)]
mod tests;

pub use tally::{Tally, Transfers};

use crate::client::Timing;
use client::{Client, World};
use faults::Rates;
use mix::Mix;
use sockets::{Opener, Sources};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use sums::Expected;
use worker::{MOST_SOCKETS, Shared, Worker};

/// Sockets that a swarm opens when it can do so without filling the machine's ports.
const SOCKETS: usize = 8192;
/// Most sockets on one address: the kernel gives 28,232 ports away of its own accord.
const ON_ONE_ADDRESS: u128 = 25_000;

/// What a swarm is to do.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where requests go.
    pub server: SocketAddr,
    /// Clients, each with one transfer at a time.
    pub clients: u32,
    /// Transfers in all.
    pub transfers: u64,
    /// The files, asked for in turn.
    pub files: Vec<String>,
    /// Kinds of clients.
    pub mix: Mix,
    /// The network between clients and sockets.
    pub faults: Rates,
    /// Where clients send from; `None`: wherever the kernel chooses.
    pub bind: Option<Sources>,
    /// Transfers begun in a second at most.
    pub rate: Option<f64>,
    /// Time-outs and retries.
    pub timing: Timing,
    /// What chance is made from.
    pub seed: u64,
    /// When everything ends at the latest.
    pub limit: Duration,
    /// Threads; 0: one for each CPU, at most 4.
    pub threads: usize,
}

/// Why a swarm cannot begin, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Settings that do not go together.
    #[error("{0}")]
    Usage(String),
    /// The kernel refused something.
    #[error("{what}: {error}")]
    Kernel {
        /// What was tried.
        what: &'static str,
        /// What it said.
        error: std::io::Error,
    },
}

/// Whether a swarm may be as large as it likes there: loopback, link-local and private addresses.
pub fn is_near(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => address.is_loopback() || address.is_private() || address.is_link_local(),
        IpAddr::V6(address) => address.is_loopback() || address.is_unique_local() || address.is_unicast_link_local(),
    }
}

/// Plays the clients. `ready` is called when all sockets are open, and the first client asks when it returns; `progress` is told, about ten times a second,
/// how many transfers ended.
///
/// # Errors
/// When it cannot begin; a transfer that fails is no error but counted.
pub fn run(settings: &Settings, expected: &Expected, ready: &mut dyn FnMut(), progress: &mut dyn FnMut(u64)) -> Result<Tally, Error> {
    let threads = match settings.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from).min(4),
        wanted => wanted,
    };
    let threads = threads.min(settings.clients.max(1) as usize);
    let each = (SOCKETS / settings.clients.max(1) as usize).clamp(1, 4).min(MOST_SOCKETS);
    let groups = clients(settings, threads, each)?;
    ready();
    let world = World {
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
    let pace = settings.rate.map(|rate| Duration::from_secs_f64((threads as f64 / rate.max(1e-6)).min(1e6)));
    let kernel = |what| move |error| Error::Kernel { what, error };
    let workers: Result<Vec<_>, _> = groups.into_iter().map(|group| Worker::new(&shared, &world, group, pace)).collect();
    let workers = workers.map_err(kernel("watching sockets"))?;
    std::thread::scope(|scope| {
        let (sender, receiver) = channel();
        for (number, worker) in workers.into_iter().enumerate() {
            let sender = sender.clone();
            // Nobody listens any more when another worker failed.
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

/// The clients of each thread, with their sockets.
fn clients(settings: &Settings, threads: usize, each: usize) -> Result<Vec<Vec<Client>>, Error> {
    if settings.bind.is_some_and(|bind| bind.is_ipv4() != settings.server.is_ipv4()) {
        return Err(Error::Usage("--bind: clients and server must both have IPv4 or both IPv6 addresses".to_owned()));
    }
    let addresses = settings.bind.map_or(1, |bind| bind.count());
    let sockets = u64::from(settings.clients) * each as u64;
    if u128::from(sockets) > ON_ONE_ADDRESS.saturating_mul(addresses) {
        return Err(Error::Usage(format!(
            "--clients {}: one address has ports for {ON_ONE_ADDRESS} clients; give more addresses by --bind PREFIX, for example 127.1.0.0/16",
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

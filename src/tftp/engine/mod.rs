//! The engine: event loops that each serve thousands of transfers by a handful of sockets.
//!
//! A loop is one thread. It has a listening socket for each address and one socket for all transfers of that address, so that one TID port
//! stands for thousands of transfers, told apart by client and address; no transfer has a thread, a process or a socket of its own.
//!
//! | file | is |
//! |---|---|
//! | `ports`, `direct` | the sockets; one for a client that everything comes from |
//! | `event_loop` | waits, receives, tells datagrams apart, handles timers |
//! | `requests` | from a request to the first answer |
//! | `serve` | from the first answer to the end |
//! | `uploads`, `finished` | files that clients write, and who has just written one |
//! | `sessions`, `session`, `unheard` | the table of transfers; what is kept of one; those whose client has not answered yet |
//! | `read_ahead`, `outbox` | content in, datagrams out, neither copied per block |
//! | `wheel` | timers |
//! | `mailbox`, `openers` | what other threads do and say |
//! | `takeover` | what heirs are told, and going on with transfers of others |
//! | `tunnel` | requests that come in GRE |
//! | `sys` | the fence around `recvmmsg` and `sendmmsg` |

mod direct;
mod event_loop;
mod finished;
mod mailbox;
mod openers;
mod outbox;
mod ports;
mod read_ahead;
mod requests;
mod serve;
mod session;
mod sessions;
mod sys;
mod takeover;
mod tunnel;
pub mod unheard;
mod uploads;
mod wheel;

pub use ports::Error;

use super::handler::Handler;
use super::options::Limits;
use super::report::{Counters, Observer, Statistics};
use super::takeover::{Plan, Settings};
use super::transfer::Pace;
use super::writable::Writable;
use event_loop::EventLoop;
use mailbox::{Mail, Mailbox};
use openers::Openers;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
pub use takeover::Occupancy;
use tunnel::Tunnel;

/// The port that answers come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tid {
    /// One for each loop, which the kernel chooses.
    #[default]
    Any,
    /// This one for the first loop, the next one for the second, and so on.
    Port(u16),
    /// The listening port itself.
    Single,
}

/// GRE from directors, taken without a tunnel device and without the VIPs being set up on this host. Needs CAP_NET_RAW until bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelConfig {
    /// Addresses of this host that directors send GRE to.
    pub locals: Vec<IpAddr>,
    /// The addresses that clients ask.
    pub vips: Vec<IpAddr>,
    /// The port of requests at the VIPs.
    pub port: u16,
}

/// How a server is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// Addresses and ports that requests come to. `[::]` takes IPv4, too.
    pub listen: Vec<SocketAddr>,
    /// Requests that come in GRE.
    pub tunnel: Option<TunnelConfig>,
    /// The port that answers come from.
    pub tid: Tid,
    /// Event loops, at least 1. The first one serves the tunnel.
    pub loops: usize,
    /// What is granted to clients.
    pub limits: Limits,
    /// Time-outs and retries.
    pub pace: Pace,
    /// Most transfers at once in each loop. A request beyond takes the place of the oldest transfer whose client never answered; without
    /// such a one it is not answered.
    pub max_transfers: usize,
    /// Most transfers at once with one client address in each loop; requests beyond are not answered.
    pub max_per_client: usize,
    /// Longest time from a request to its first answer, and for content that is not at hand to come.
    pub open_timeout: Duration,
    /// How much event loops are nicer than the thread that starts them, 0 to 19. By 2 a client, or the kernel's own network thread, that was woken
    /// on the same CPU goes first and has answered when the loop looks again, which spares the loop from going to sleep for every block.
    pub nice: u8,
    /// Threads at most for openings that block, and for files that clients wrote to come to the disk.
    pub opener_threads: usize,
    /// Where clients may write; without, write requests are answered ERROR 2.
    pub writable: Option<Writable>,
    /// Going on with one another's transfers.
    pub takeover: Option<Settings>,
    /// Sockets that others have bound already, for addresses of `listen`; with one loop only.
    pub passed: Vec<Passed>,
}

/// A UDP socket that another process has bound for this one, as systemd does.
#[derive(Clone, Debug)]
pub struct Passed {
    /// Its address.
    pub address: SocketAddr,
    socket: Arc<OwnedFd>,
}

impl Passed {
    /// Checks that the socket is one that a server can listen at.
    ///
    /// # Errors
    /// When it is not bound, is no UDP socket, or takes IPv4 and IPv6 at once.
    pub fn new(socket: OwnedFd) -> Result<Passed, Error> {
        let address = ports::check(&socket)?;
        Ok(Passed { address, socket: Arc::new(socket) })
    }
}

impl Default for Config {
    fn default() -> Self {
        Config {
            listen: Vec::new(),
            tunnel: None,
            tid: Tid::default(),
            loops: 1,
            limits: Limits::default(),
            pace: Pace::default(),
            max_transfers: 100_000,
            max_per_client: 1_000,
            open_timeout: Duration::from_secs(15),
            nice: 2,
            opener_threads: 16,
            writable: None,
            takeover: None,
            passed: Vec::new(),
        }
    }
}

impl Config {
    /// A server at this address with the defaults.
    pub fn listen(address: SocketAddr) -> Config {
        Config { listen: vec![address], ..Config::default() }
    }
}

/// Names a transfer within a loop; never given again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    index: u32,
    generation: u32,
}

/// A server whose sockets are bound and that does not serve yet: the moment to drop privileges.
pub struct Server {
    loops: Vec<EventLoop>,
    addresses: Vec<SocketAddr>,
    tids: Vec<SocketAddr>,
    mailboxes: Vec<Arc<Mailbox>>,
    openers: Openers,
    statistics: Statistics,
    occupancy: Arc<Occupancy>,
}

impl Server {
    /// Binds the sockets.
    ///
    /// # Errors
    /// When an address cannot be bound, or the tunnel lacks privileges.
    pub fn bind(config: Config, handler: Arc<dyn Handler>, observer: Arc<dyn Observer>) -> Result<Server, Error> {
        let openers = Openers::new(config.opener_threads);
        let count = config.loops.max(1);
        if count > 1 && !config.passed.is_empty() {
            let source = std::io::Error::from(std::io::ErrorKind::InvalidInput);
            return Err(Error::new("several loops at a socket that was passed; such a socket serves one loop (loops = 1)", source));
        }
        ports::refuse_taken(&config)?;
        let counters: Vec<_> = (0..count).map(|_| Arc::new(Counters::default())).collect();
        let statistics = Statistics::new(counters.clone());
        let occupancy = Arc::new(Occupancy::default());
        let mut config = config;
        let (mut addresses, mut tids, mut mailboxes, mut loops) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (index, counters) in counters.into_iter().enumerate() {
            let ports = ports::open(&config, index)?;
            if index == 0 {
                addresses = ports.iter().filter(|port| port.listens).map(|port| port.local).collect();
                // Where the kernel chose the port, the other loops take the same.
                config.listen =
                    addresses.iter().copied().filter(|a| !config.tunnel.as_ref().is_some_and(|t| t.vips.contains(&a.ip()))).collect();
                dedup_wildcards(&mut config.listen);
            }
            tids.extend(ports.iter().enumerate().filter(|(at, port)| usize::from(port.reply) == *at).map(|(_, port)| port.local));
            let tunnel = if index == 0 { Tunnel::open(&config, &ports)? } else { None };
            let mailbox = Arc::new(Mailbox::new().map_err(|e| Error::new("making an event descriptor", e))?);
            mailboxes.push(Arc::clone(&mailbox));
            let parts = event_loop::Parts {
                config: config.clone(),
                ports,
                tunnel,
                handler: Arc::clone(&handler),
                observer: Arc::clone(&observer),
                counters,
                statistics: (index == 0).then(|| statistics.clone()),
                mailbox,
                openers: openers.clone(),
            };
            let mut event_loop = EventLoop::new(parts);
            event_loop.join(&config, index, &occupancy)?;
            loops.push(event_loop);
        }
        Ok(Server { loops, addresses, tids, mailboxes, openers, statistics, occupancy })
    }

    /// The addresses that requests are taken at.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The addresses that answers come from, loop by loop.
    pub fn tids(&self) -> &[SocketAddr] {
        &self.tids
    }

    /// The counters.
    pub fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    /// How much is kept of other servers' transfers.
    pub fn occupancy(&self) -> Arc<Occupancy> {
        Arc::clone(&self.occupancy)
    }

    /// Starts the event loops, each on a thread of its own.
    ///
    /// # Errors
    /// When a thread cannot be made.
    pub fn start(self) -> Result<Running, Error> {
        let mut running = Running {
            addresses: self.addresses,
            threads: Vec::new(),
            mailboxes: self.mailboxes,
            openers: self.openers,
            statistics: self.statistics,
        };
        for (index, mut event_loop) in self.loops.into_iter().enumerate() {
            let thread = std::thread::Builder::new().name(format!("tftp {index}")).spawn(move || {
                sys::be_nicer(event_loop.nice());
                event_loop.run()
            });
            running.threads.push(thread.map_err(|e| Error::new("starting an event loop", e))?);
        }
        Ok(running)
    }
}

/// `[::]` is expanded when sockets are opened; what it was expanded to must not be expanded again.
fn dedup_wildcards(listen: &mut Vec<SocketAddr>) {
    let six: Vec<u16> = listen.iter().filter(|a| a.is_ipv6() && a.ip().is_unspecified()).map(SocketAddr::port).collect();
    listen.retain(|a| !(a.is_ipv4() && a.ip().is_unspecified() && six.contains(&a.port())));
}

/// A server that serves. Dropping it stops it.
pub struct Running {
    addresses: Vec<SocketAddr>,
    threads: Vec<JoinHandle<std::io::Result<()>>>,
    mailboxes: Vec<Arc<Mailbox>>,
    openers: Openers,
    statistics: Statistics,
}

impl Running {
    /// The addresses that requests are taken at.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The counters.
    pub fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    /// The servers that go on with one another's transfers are these from now on. Nothing happens to a server that was started without.
    pub fn set_plan(&self, plan: &Arc<Plan>) {
        self.mailboxes.iter().for_each(|mailbox| mailbox.put(Mail::Plan(Arc::clone(plan))));
    }

    /// Whether a loop has ended, which only an error or a stop does.
    pub fn has_ended(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Stops the loops and waits for them. Clients are told nothing: another server may go on.
    ///
    /// # Errors
    /// When a loop had ended of its own accord; why.
    pub fn stop(mut self) -> std::io::Result<()> {
        self.end()
    }

    fn end(&mut self) -> std::io::Result<()> {
        self.mailboxes.iter().for_each(|mailbox| mailbox.put(Mail::Stop));
        self.openers.stop();
        self.threads.drain(..).try_for_each(|thread| thread.join().unwrap_or_else(|_| Err(std::io::Error::other("an event loop panicked"))))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Whoever wants to know calls `stop`.
        let _unheard = self.end();
    }
}

#[cfg(test)]
mod tests;

//! The engine: event loops that each serve thousands of transfers with a few sockets.
//!
//! A loop is one thread. It has a listening socket for each address and one socket for all transfers of that address. So one TID port serves
//! thousands of transfers, which client and address distinguish. No transfer has its own thread, process or socket.
//!
//! | File | Contents |
//! |---|---|
//! | `config`, `error` | configuration of a server, and errors at its start |
//! | `key`, `peer` | identifiers of a transfer: within the loop, and in packets |
//! | `sockets`, `path_mtu` | the sockets; the largest packets that reach clients |
//! | `connected_socket`, `connect` | a socket for the busiest client, and when it is opened and closed |
//! | `event_loop`, `dispatch` | waits, receives, dispatches datagrams, handles timers |
//! | `requests` | from a request to the first answer |
//! | `serve` | from the first answer to the end |
//! | `uploads`, `finished` | running uploads, and finished ones |
//! | `sessions`, `session`, `index_list` | the table of transfers; the state of one; the list of half-open ones |
//! | `read_ahead`, `outbox` | content in and datagrams out, without a copy per block |
//! | `timer_wheel` | timers |
//! | `channel`, `blocking_pool` | messages and work of other threads |
//! | `takeover` | checkpoints to successors, and transfers of other servers |
//! | `tunnel` | requests in GRE |
//! | `sys` | safe wrappers of `recvmmsg` and `sendmmsg` |

mod blocking_pool;
mod channel;
mod config;
mod connect;
mod connected_socket;
mod dispatch;
mod error;
mod event_loop;
mod finished;
pub(crate) mod index_list;
mod key;
mod outbox;
mod path_mtu;
mod peer;
mod read_ahead;
mod requests;
mod serve;
mod session;
mod sessions;
mod sockets;
mod sys;
mod takeover;
mod timer_wheel;
mod tunnel;
mod uploads;

pub use config::{Config, PassedSocket, Tid, TunnelConfig};
pub use error::Error;
pub use takeover::TakeoverStatus;

use super::handler::Handler;
use super::report::{Counters, Observer, Statistics};
use super::takeover::Membership;
use blocking_pool::BlockingPool;
use channel::{EventChannel, LoopEvent};
use event_loop::EventLoop;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use tunnel::Tunnel;

/// A server with bound sockets that does not serve yet. Privileges can be dropped now.
pub struct Server {
    loops: Vec<EventLoop>,
    addresses: Vec<SocketAddr>,
    tids: Vec<SocketAddr>,
    channels: Vec<Arc<EventChannel>>,
    blocking_pool: BlockingPool,
    statistics: Statistics,
    takeover_status: Arc<TakeoverStatus>,
}

impl Server {
    /// Binds the sockets.
    ///
    /// # Errors
    /// When an address cannot be bound, or the tunnel lacks privileges.
    pub fn bind(config: Config, handler: Arc<dyn Handler>, observer: Arc<dyn Observer>) -> Result<Server, Error> {
        let blocking_pool = BlockingPool::new(config.blocking_threads);
        let count = config.loops.max(1);
        if count > 1 && !config.passed.is_empty() {
            let source = std::io::Error::from(std::io::ErrorKind::InvalidInput);
            return Err(Error::new("a passed socket serves one loop only (loops = 1)", source));
        }
        sockets::refuse_taken(&config)?;
        let counters: Vec<_> = (0..count).map(|_| Arc::new(Counters::default())).collect();
        let statistics = Statistics::new(counters.clone());
        let takeover_status = Arc::new(TakeoverStatus::default());
        let mut config = config;
        let (mut addresses, mut tids, mut channels, mut loops) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (index, counters) in counters.into_iter().enumerate() {
            let sockets = sockets::open(&config, index)?;
            if index == 0 {
                addresses = sockets.iter().filter(|socket| socket.listens).map(|socket| socket.local).collect();
                // If the kernel chose the port, the other loops use the same.
                config.listen =
                    addresses.iter().copied().filter(|a| !config.tunnel.as_ref().is_some_and(|t| t.vips.contains(&a.ip()))).collect();
                dedup_wildcards(&mut config.listen);
            }
            tids.extend(
                sockets.iter().enumerate().filter(|(at, socket)| usize::from(socket.reply_socket) == *at).map(|(_, socket)| socket.local),
            );
            let tunnel = if index == 0 { Tunnel::open(&config, &sockets)? } else { None };
            let channel = Arc::new(EventChannel::new().map_err(|e| Error::new("creating an eventfd", e))?);
            channels.push(Arc::clone(&channel));
            let parts = event_loop::EventLoopParts {
                config: config.clone(),
                sockets,
                tunnel,
                handler: Arc::clone(&handler),
                observer: Arc::clone(&observer),
                counters,
                statistics: (index == 0).then(|| statistics.clone()),
                channel,
                blocking_pool: blocking_pool.clone(),
            };
            let mut event_loop = EventLoop::new(parts);
            event_loop.enable_takeover(&config, index, &takeover_status)?;
            loops.push(event_loop);
        }
        Ok(Server { loops, addresses, tids, channels, blocking_pool, statistics, takeover_status })
    }

    /// Returns the listening addresses.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Returns the source addresses of answers, loop by loop.
    pub fn tids(&self) -> &[SocketAddr] {
        &self.tids
    }

    /// Returns the counters.
    pub fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    /// Returns the status of takeover.
    pub fn takeover_status(&self) -> Arc<TakeoverStatus> {
        Arc::clone(&self.takeover_status)
    }

    /// Starts the event loops, each on its own thread.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(self) -> Result<Running, Error> {
        let mut running = Running {
            addresses: self.addresses,
            threads: Vec::new(),
            channels: self.channels,
            blocking_pool: self.blocking_pool,
            statistics: self.statistics,
        };
        for (index, mut event_loop) in self.loops.into_iter().enumerate() {
            let thread = std::thread::Builder::new().name(format!("tftp {index}")).spawn(move || {
                sys::raise_nice(event_loop.nice());
                event_loop.run()
            });
            running.threads.push(thread.map_err(|e| Error::new("starting an event loop", e))?);
        }
        Ok(running)
    }
}

/// Removes wildcard duplicates: `[::]` is expanded when sockets are opened, and must not be expanded twice.
fn dedup_wildcards(listen: &mut Vec<SocketAddr>) {
    let six: Vec<u16> = listen.iter().filter(|a| a.is_ipv6() && a.ip().is_unspecified()).map(SocketAddr::port).collect();
    listen.retain(|a| !(a.is_ipv4() && a.ip().is_unspecified() && six.contains(&a.port())));
}

/// A running server. Dropping it stops it.
pub struct Running {
    addresses: Vec<SocketAddr>,
    threads: Vec<JoinHandle<std::io::Result<()>>>,
    channels: Vec<Arc<EventChannel>>,
    blocking_pool: BlockingPool,
    statistics: Statistics,
}

impl Running {
    /// Returns the listening addresses.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Returns the counters.
    pub fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    /// Replaces the pool of takeover. Has no effect on a server that was started without takeover.
    pub fn set_membership(&self, membership: &Arc<Membership>) {
        self.channels.iter().for_each(|channel| channel.send(LoopEvent::Membership(Arc::clone(membership))));
    }

    /// Returns whether a loop has ended, because of an error or a stop.
    pub fn has_ended(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Stops the loops and waits for them. Clients get no ERROR, because another server may take over.
    ///
    /// # Errors
    /// The error with which a loop had already ended.
    pub fn stop(mut self) -> std::io::Result<()> {
        self.end()
    }

    fn end(&mut self) -> std::io::Result<()> {
        self.channels.iter().for_each(|channel| channel.send(LoopEvent::Stop));
        self.blocking_pool.stop();
        self.threads.drain(..).try_for_each(|thread| thread.join().unwrap_or_else(|_| Err(std::io::Error::other("an event loop panicked"))))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // `stop` returns the error.
        let _ignored = self.end();
    }
}

#[cfg(test)]
mod tests;

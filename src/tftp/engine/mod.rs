//! The engine: event loops that each serve thousands of transfers with a few sockets.
//!
//! A loop is one thread. It has a listening socket for each address and one socket for all transfers of that address. So one TID port serves
//! thousands of transfers, which client and address distinguish. No transfer has its own thread, process or socket.
//!
//! Nothing that can block or panic runs on a loop: handlers run on a runtime, observers on a thread of their own, and content is read on the loop only
//! where it is in memory.
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
//! | `table`, `sessions`, `session`, `index_list` | the table of transfers; work on them; the state of one; the list of half-open ones |
//! | `read_ahead`, `outbox` | content in and datagrams out, without a copy per block |
//! | `timer_wheel` | timers |
//! | `openers`, `reports` | calls of handlers and observers, on other threads |
//! | `service` | handler, reports and counters for another protocol |
//! | `channel` | messages of other threads |
//! | `takeover` | checkpoints to successors, and transfers of other servers |
//! | `tunnel` | requests in GRE |
//! | `sys` | safe wrappers of `recvmmsg` and `sendmmsg` |

mod channel;
mod config;
mod connect;
mod connected_socket;
mod destination;
mod dispatch;
mod error;
mod event_loop;
mod finished;
pub(crate) mod index_list;
mod key;
mod openers;
mod outbox;
mod path_mtu;
mod peer;
mod read_ahead;
mod reports;
mod requests;
mod serve;
#[cfg_attr(not(feature = "http"), expect(dead_code))]
mod service;
mod session;
mod sessions;
mod sockets;
mod sys;
mod table;
mod takeover;
mod timer_wheel;
mod tunnel;
mod uploads;

pub use config::{Config, PassedSocket, Tid, TunnelConfig};
pub use error::Error;
#[cfg(feature = "http")]
pub(crate) use service::ServiceTransfer;
pub use service::{Phase, Service};
pub use takeover::TakeoverStatus;

use super::handler::{Handler, SharedHandler};
use super::report::{Counters, Observer, Statistics};
use super::takeover::Membership;
use channel::{EventChannel, LoopEvent};
use event_loop::EventLoop;
use openers::Openers;
use reports::{ReportQueue, Reports};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::watch;
use tunnel::Tunnel;

/// A server with bound sockets that does not serve yet. Privileges can be dropped now.
pub struct Server {
    loops: Vec<EventLoop>,
    addresses: Vec<SocketAddr>,
    tids: Vec<SocketAddr>,
    observer: Arc<dyn Observer>,
    report_queue: Arc<ReportQueue>,
    report_counters: Arc<Counters>,
    statistics: Statistics,
    takeover_status: Arc<TakeoverStatus>,
    handle: ServerHandle,
    own_runtime: Option<OwnRuntime>,
}

/// Threads of the runtime when the server has its own.
const RUNTIME_THREADS: usize = 2;

/// A runtime that is ended without waiting for its threads: one may hang in a system call.
struct OwnRuntime(Option<Runtime>);

impl Drop for OwnRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Server {
    /// Binds the sockets. Handlers run on `config.runtime`, else on the runtime in which this is called, else on a runtime of the server's own.
    ///
    /// # Errors
    /// When an address cannot be bound, or the tunnel lacks privileges.
    pub fn bind(config: Config, handler: impl Handler, observer: impl Observer) -> Result<Server, Error> {
        let count = config.loops.max(1);
        if count > 1 && !config.passed.is_empty() {
            let source = std::io::Error::from(std::io::ErrorKind::InvalidInput);
            return Err(Error::new("a passed socket serves one loop only (loops = 1)", source));
        }
        sockets::refuse_taken(&config)?;
        let (runtime, own_runtime) = match config.runtime.clone().or_else(|| Handle::try_current().ok()) {
            Some(runtime) => (runtime, None),
            None => {
                let runtime = Builder::new_multi_thread().worker_threads(RUNTIME_THREADS).thread_name("tftp worker").enable_all().build();
                let runtime = runtime.map_err(|e| Error::new("starting threads", e))?;
                (runtime.handle().clone(), Some(OwnRuntime(Some(runtime))))
            }
        };
        let (handler, observer): (_, Arc<dyn Observer>) = (SharedHandler::new(handler), Arc::new(observer));
        let counters: Vec<_> = (0..count).map(|_| Arc::new(Counters::default())).collect();
        let report_counters = Arc::new(Counters::default());
        let service_counters = Arc::new(Counters::default());
        let statistics = Statistics::new(counters.iter().chain([&report_counters, &service_counters]).cloned().collect());
        let report_queue = Arc::new(ReportQueue::default());
        let reports = || Reports::new((!observer.ignores_all()).then(|| Arc::clone(&report_queue)));
        let service = Service::new(handler.clone(), reports(), service_counters, config.open_timeout, config.retransmission.min_give_up);
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
                sockets,
                tunnel,
                openers: Openers::new(runtime.clone(), handler.clone(), Arc::clone(&channel), config.takeover.is_some()),
                reports: reports(),
                counters,
                channel,
                config: config.clone(),
            };
            let mut event_loop = EventLoop::new(parts);
            event_loop.enable_takeover(&config, index, &takeover_status)?;
            loops.push(event_loop);
        }
        let handle = ServerHandle { channels: channels.into(), service: Arc::new(service), runtime };
        Ok(Server { loops, addresses, tids, observer, report_queue, report_counters, statistics, takeover_status, handle, own_runtime })
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

    /// Returns a handle that changes or ends the running server.
    pub fn handle(&self) -> ServerHandle {
        self.handle.clone()
    }

    /// Serves until the server is shut down by its [handle](Server::handle). Dropping the future stops it at once.
    ///
    /// # Errors
    /// When a thread cannot be started, or an event loop ends by itself.
    pub async fn serve(self) -> std::io::Result<()> {
        let running = self.start().map_err(std::io::Error::other)?;
        running.ended().await;
        running.stop()
    }

    /// Starts the event loops, each on its own thread.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(self) -> Result<Running, Error> {
        let (sender, ended) = watch::channel(Ended::default());
        let sender = Arc::new(sender);
        let failed = |e| Error::new("starting an event loop", e);
        let mut running = Running {
            addresses: self.addresses,
            threads: Vec::new(),
            reports: None,
            report_queue: Arc::clone(&self.report_queue),
            handle: self.handle,
            statistics: self.statistics.clone(),
            ended,
            _own_runtime: self.own_runtime,
        };
        if !self.observer.ignores_all() {
            let reports = reports::start(&self.report_queue, self.observer, self.statistics, self.report_counters);
            running.reports = Some(reports.map_err(failed)?);
        }
        for (index, event_loop) in self.loops.into_iter().enumerate() {
            let (runtime, sender) = (running.handle.runtime.clone(), Arc::clone(&sender));
            let thread = std::thread::Builder::new().name(format!("tftp {index}")).spawn(move || {
                let result = run_loop(event_loop, &runtime);
                sender.send_modify(|ended| {
                    ended.count += 1;
                    ended.failed |= result.is_err();
                });
                result
            });
            running.threads.push(thread.map_err(failed)?);
        }
        Ok(running)
    }
}

/// Runs an event loop to its end. A panic, which is a mistake of the engine, becomes an error.
fn run_loop(mut event_loop: EventLoop, runtime: &Handle) -> std::io::Result<()> {
    // Content reads on the runtime's threads.
    let _entered = runtime.enter();
    sys::raise_nice(event_loop.nice());
    let ended = catch_unwind(AssertUnwindSafe(move || event_loop.run()));
    let ended = ended.unwrap_or_else(|_| Err(std::io::Error::other("an event loop panicked")));
    if let Err(error) = &ended {
        tracing::error!(%error, "event loop ended");
    }
    ended
}

/// Removes wildcard duplicates: `[::]` is expanded when sockets are opened, and must not be expanded twice.
fn dedup_wildcards(listen: &mut Vec<SocketAddr>) {
    let six: Vec<u16> = listen.iter().filter(|a| a.is_ipv6() && a.ip().is_unspecified()).map(SocketAddr::port).collect();
    listen.retain(|a| !(a.is_ipv4() && a.ip().is_unspecified() && six.contains(&a.port())));
}

/// Changes or ends a server from any thread.
#[derive(Clone)]
pub struct ServerHandle {
    channels: Arc<[Arc<EventChannel>]>,
    service: Arc<Service>,
    runtime: Handle,
}

impl ServerHandle {
    fn send(&self, event: impl Fn() -> LoopEvent) {
        self.channels.iter().for_each(|channel| channel.send(event()));
    }

    /// Replaces the handler. Running openings and transfers keep the earlier one.
    pub fn set_handler(&self, handler: impl Handler) {
        let handler = SharedHandler::new(handler);
        self.service.set_handler(handler.clone());
        self.send(|| LoopEvent::Handler(handler.clone()));
    }

    /// Replaces the pool of takeover. Has no effect on a server that was started without takeover.
    pub fn set_membership(&self, membership: &Arc<Membership>) {
        self.send(|| LoopEvent::Membership(Arc::clone(membership)));
    }

    /// Answers no new TFTP requests, or answers them again. Running transfers go on.
    pub fn pause(&self, paused: bool) {
        self.send(|| LoopEvent::Pause(paused));
    }

    /// Ends the server when its transfers have ended, or after `grace`. It does not answer new requests meanwhile.
    pub fn shutdown(&self, grace: Duration) {
        self.service.enter(Phase::Draining);
        self.send(|| LoopEvent::Drain);
        let handle = self.clone();
        self.runtime.spawn(async move {
            tokio::time::sleep(grace).await;
            handle.stop();
        });
    }

    /// Returns what another protocol needs to serve the same content.
    pub fn service(&self) -> Arc<Service> {
        Arc::clone(&self.service)
    }

    fn stop(&self) {
        self.service.enter(Phase::Stopped);
        self.send(|| LoopEvent::Stop);
    }
}

/// The event loops that have ended.
#[derive(Default)]
struct Ended {
    count: usize,
    failed: bool,
}

/// Longest wait for an observer that is called when the server stops.
const OBSERVER_WAIT: Duration = Duration::from_secs(5);
/// Longest wait for transfers of other protocols when the server stops.
const SERVICE_WAIT: Duration = Duration::from_millis(500);

/// A running server. Dropping it stops it.
pub struct Running {
    addresses: Vec<SocketAddr>,
    threads: Vec<JoinHandle<std::io::Result<()>>>,
    reports: Option<JoinHandle<()>>,
    report_queue: Arc<ReportQueue>,
    handle: ServerHandle,
    statistics: Statistics,
    ended: watch::Receiver<Ended>,
    _own_runtime: Option<OwnRuntime>,
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

    /// Returns a handle that changes or ends the server.
    pub fn handle(&self) -> &ServerHandle {
        &self.handle
    }

    /// Returns whether a loop has ended, because of an error, a shutdown or a stop.
    pub fn has_ended(&self) -> bool {
        self.ended.borrow().count > 0
    }

    /// Waits until a loop has ended by an error, or all have ended.
    pub async fn ended(&self) {
        let (mut ended, all) = (self.ended.clone(), self.threads.len());
        let closed = ended.wait_for(|ended| ended.failed || ended.count >= all).await;
        if closed.is_ok_and(|ended| !ended.failed) {
            self.handle.service.idle().await;
        }
    }

    /// Ends the server when its transfers have ended, or after `grace`.
    ///
    /// # Errors
    /// The error with which a loop has ended.
    pub async fn shutdown(self, grace: Duration) -> std::io::Result<()> {
        self.handle.shutdown(grace);
        let (mut ended, all) = (self.ended.clone(), self.threads.len());
        drop(ended.wait_for(|ended| ended.count >= all).await);
        self.handle.service.idle().await;
        self.stop()
    }

    /// Stops the loops and waits for them. Clients get no ERROR, because another server may take over.
    ///
    /// # Errors
    /// The error with which a loop had already ended.
    pub fn stop(mut self) -> std::io::Result<()> {
        self.end()
    }

    fn end(&mut self) -> std::io::Result<()> {
        self.handle.stop();
        let results: Vec<_> = self.threads.drain(..).map(JoinHandle::join).collect();
        let wait = |done: &dyn Fn() -> bool, most| {
            let since = Instant::now();
            while !done() && since.elapsed() < most {
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        // Their reports come first. They end on the runtime, which may be the one of this thread.
        wait(&|| self.handle.service.is_idle(), SERVICE_WAIT);
        self.report_queue.stop();
        if let Some(reports) = self.reports.take() {
            wait(&|| reports.is_finished(), OBSERVER_WAIT);
        }
        results.into_iter().try_for_each(|result| result.unwrap_or_else(|_| Err(std::io::Error::other("an event loop panicked"))))
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

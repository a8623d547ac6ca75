//! The handler, reports and counters of a server, for another protocol that serves the same content.

use super::channel::Panicked;
use super::openers::{caught, compute_version};
use super::reports::{Report, Reports};
use crate::content::{Content, Version};
use crate::handler::{Handler, Opened, Refusal, SharedHandler};
use crate::packet::ErrorCode;
use crate::report::{Counter, Counters, Outcome, TransferReport};
use crate::request::Request;
use arc_swap::ArcSwap;
use std::io::ErrorKind;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::Instrument;

/// Where a server is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// It takes requests.
    #[default]
    Serving,
    /// It lets running transfers end.
    Draining,
    /// It has ended.
    Stopped,
}

/// The handler, reports and counters of a server.
pub struct Service {
    handler: ArcSwap<SharedHandler>,
    phase: watch::Sender<Phase>,
    /// Number of running transfers.
    running: watch::Sender<usize>,
    tally: Mutex<Tally>,
    /// Longest time from a request to its content, and longest wait for bytes of it.
    pub(crate) open_timeout: Duration,
    /// Longest time in which a client takes nothing.
    pub(crate) give_up: Duration,
}

/// Reports and counters, with one writer at a time.
struct Tally {
    reports: Reports,
    counters: Arc<Counters>,
}

impl Service {
    pub(super) fn new(
        handler: SharedHandler,
        reports: Reports,
        counters: Arc<Counters>,
        open_timeout: Duration,
        give_up: Duration,
    ) -> Service {
        Service {
            handler: ArcSwap::from_pointee(handler),
            phase: watch::Sender::default(),
            running: watch::Sender::default(),
            tally: Mutex::new(Tally { reports, counters }),
            open_timeout,
            give_up,
        }
    }

    pub(super) fn set_handler(&self, handler: SharedHandler) {
        self.handler.store(Arc::new(handler));
    }

    /// Enters a phase, unless a later one was entered.
    pub(super) fn enter(&self, phase: Phase) {
        self.phase.send_if_modified(|now| {
            let later = *now as u8 <= phase as u8;
            *now = if later { phase } else { *now };
            later
        });
    }

    /// Waits until no transfer runs.
    pub(super) async fn idle(&self) {
        let mut running = self.running.subscribe();
        drop(running.wait_for(|running| *running == 0).await);
    }

    pub(super) fn is_idle(&self) -> bool {
        *self.running.borrow() == 0
    }

    /// Returns the phase of the server, as it changes.
    pub(crate) fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one of something.
    pub(crate) fn count(&self, counter: Counter) {
        self.tally().counters.add(counter, 1);
    }

    /// Begins a transfer.
    pub(crate) fn begin(self: &Arc<Service>, request: Request) -> ServiceTransfer {
        let mut tally = self.tally();
        tally.counters.add(Counter::Started, 1);
        tally.report(|| Report::Started(request.clone()));
        drop(tally);
        self.running.send_modify(|running| *running += 1);
        let started = Instant::now();
        ServiceTransfer {
            service: Arc::clone(self),
            request,
            started,
            opening: None,
            size: None,
            version: None,
            bytes: 0,
            outcome: None,
            overloaded: false,
            io_error: None,
        }
    }
}

impl Tally {
    fn report(&mut self, report: impl FnOnce() -> Report) {
        self.reports.push(report);
        self.reports.flush(&self.counters);
    }
}

/// A transfer by another protocol. It is reported when it is dropped; without an outcome, its client or the server has ended it.
pub struct ServiceTransfer {
    service: Arc<Service>,
    request: Request,
    started: Instant,
    opening: Option<Duration>,
    size: Option<u64>,
    version: Option<Version>,
    bytes: u64,
    outcome: Option<Outcome>,
    overloaded: bool,
    io_error: Option<ErrorKind>,
}

impl ServiceTransfer {
    /// Opens the content.
    pub(crate) async fn open(&mut self) -> Opened {
        let handler = self.service.handler.load_full();
        let (request, span) =
            (self.request.clone(), tracing::info_span!("open", client = %self.request.client, file = %self.request.name()));
        let opening = async move {
            let opened = handler.open(request).await;
            if let Ok(content) = &opened {
                compute_version(content).await;
            }
            opened
        };
        let opened = match timeout(self.service.open_timeout, caught(opening.instrument(span))).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(Panicked)) => {
                self.service.count(Counter::HandlerPanics);
                Err(Refusal::failed("the server failed"))
            }
            Err(_) => Err(Refusal::overloaded()),
        };
        self.opening = Some(self.started.elapsed());
        match &opened {
            Ok(content) => (self.size, self.version) = (content.size(), seekable_version(content)),
            Err(refusal) => {
                self.overloaded = refusal.overload;
                if refusal.overload {
                    self.service.count(Counter::Overloaded);
                }
                self.outcome = Some(Outcome::Refused(refusal.code, refusal.text.clone()));
            }
        }
        opened
    }

    /// Returns the tag of the content; `None` if it can only be read once from front to back.
    pub(crate) fn version(&self) -> Option<Version> {
        self.version
    }

    /// Counts bytes that were sent.
    pub(crate) fn sent(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.service.tally().counters.add(Counter::BytesSent, bytes);
    }

    /// Ends it because the content cannot be read.
    pub(crate) fn fails(&mut self, error: &std::io::Error) {
        self.io_error = Some(error.kind());
        self.ends(Outcome::Failed(error.to_string()));
    }

    /// Sets the outcome.
    pub(crate) fn ends(&mut self, outcome: Outcome) {
        self.outcome.get_or_insert(outcome);
    }
}

/// Returns the version of content that is readable at any offset.
fn seekable_version(content: &Content) -> Option<Version> {
    content.0.known_version().filter(|version| *version != Version([0; 16]))
}

impl Drop for ServiceTransfer {
    fn drop(&mut self) {
        let broken = || match *self.service.phase.borrow() {
            Phase::Stopped => Outcome::Stopped,
            _ => Outcome::Aborted(ErrorCode::NOT_DEFINED, "the connection was closed".to_owned()),
        };
        let (outcome, duration) = (self.outcome.take().unwrap_or_else(broken), self.started.elapsed());
        let mut tally = self.service.tally();
        tally.counters.add(outcome.counter(), 1);
        tally.report(|| {
            Report::Finished(Box::new(TransferReport {
                client: self.request.client,
                vip: self.request.vip,
                tid: self.request.tid,
                request: self.request.packet(),
                oack: Box::default(),
                write: false,
                protocol: self.request.protocol,
                taken_over: false,
                mode: Some(self.request.mode),
                handler: self.request.handler.get(),
                overloaded: self.overloaded,
                io_error: self.io_error,
                terms: None,
                size: self.size,
                version: self.version,
                outcome,
                duration,
                opening: self.opening.unwrap_or(duration),
                packets_sent: 0,
                bytes_sent: self.bytes,
                bytes_received: 0,
                blocks_acknowledged: 0,
                retransmitted: 0,
                timeouts: 0,
                acks: 0,
                acks_ignored: 0,
                round_trip: Duration::ZERO,
            }))
        });
        drop(tally);
        self.service.running.send_modify(|running| *running -= 1);
    }
}

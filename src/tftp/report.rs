//! Reports of transfers, counters of the server, and the observer that gets both.

use super::content::Version;
pub use super::counters::{Counter, Counters, Statistics, Totals};
use super::options::Terms;
pub use super::outcome::Outcome;
use super::packet::{self, ErrorCode, Mode, Options, Packet};
use super::request::{Protocol, Request};
use std::borrow::Cow;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Report of a request that has ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TransferReport {
    /// The client.
    pub client: SocketAddr,
    /// The destination address of the request.
    pub vip: IpAddr,
    /// The source port of answers.
    pub tid: u16,
    /// The request as received, and the OACK, which is empty if no option was granted.
    pub(crate) request: Arc<[u8]>,
    pub(crate) oack: Box<[u8]>,
    /// Whether it was a write request.
    pub write: bool,
    /// The protocol of the client.
    pub protocol: Protocol,
    /// Whether it was started by another server, or before a restart.
    pub taken_over: bool,
    /// The mode; `None` if it is not supported.
    pub mode: Option<Mode>,
    /// The name of the handler that was asked last ([`named`](crate::handler::named)); `None` if it has no name, or no handler was asked.
    pub handler: Option<Arc<str>>,
    /// The negotiated terms; `None` when no content was opened.
    pub terms: Option<Terms>,
    /// Size of the content after translation, if known; for a write, the size announced by the client.
    pub size: Option<u64>,
    /// The content's version; `None` when no content was opened, or it was not needed: the hash of bytes in memory is not computed for reports.
    pub version: Option<Version>,
    /// The outcome.
    pub outcome: Outcome,
    /// Whether it was refused because the server lacked a resource, or its file was not open in time.
    pub overloaded: bool,
    /// The kind of error with which the content could not be read, for [`Outcome::Failed`].
    pub io_error: Option<ErrorKind>,
    /// Time from the request to the end.
    pub duration: Duration,
    /// Time from the request to the first answer.
    pub opening: Duration,
    /// DATA and OACK packets sent, retransmissions included; for a write, ACK and OACK packets.
    pub packets_sent: u64,
    /// Bytes of file content sent, retransmissions included.
    pub bytes_sent: u64,
    /// Bytes of the uploaded file, after translation.
    pub bytes_received: u64,
    /// Blocks that the client acknowledged; for a write, blocks received.
    pub blocks_acknowledged: u64,
    /// DATA and OACK packets retransmitted.
    pub retransmitted: u64,
    /// Retransmission time-outs.
    pub timeouts: u64,
    /// ACKs of new blocks; for a write, DATA packets.
    pub acks: u64,
    /// ACKs that were duplicates, stale, or for a block never sent; for a write, DATA packets out of order.
    pub acks_ignored: u64,
    /// Smoothed round-trip time; zero without a measurement.
    pub round_trip: Duration,
}

impl TransferReport {
    /// Returns the file name as received.
    pub fn file(&self) -> &[u8] {
        self.parsed().map_or(&[], |request| request.file)
    }

    /// Returns the requested options.
    pub fn options(&self) -> Options<'_> {
        self.parsed().map(|request| request.options).unwrap_or_default()
    }

    /// Returns the acknowledged options.
    pub fn acknowledged(&self) -> Options<'_> {
        match Packet::parse(&self.oack) {
            Ok(Packet::Oack(options)) => options,
            _ => Options::default(),
        }
    }

    fn parsed(&self) -> Option<packet::Request<'_>> {
        match Packet::parse(&self.request) {
            Ok(Packet::Request(request)) => Some(request),
            _ => None,
        }
    }

    /// Returns the wall-clock time of the request.
    pub fn started_at(&self) -> SystemTime {
        SystemTime::now() - self.duration
    }
}

impl TransferReport {
    /// Returns the reason why the client does not have the file, as a TFTP code and text, whichever side ended the transfer; `None` when the
    /// client has it or only requested the size.
    pub fn error(&self) -> Option<(ErrorCode, Cow<'_, str>)> {
        fn failure(text: &str) -> Option<(ErrorCode, Cow<'_, str>)> {
            Some((ErrorCode::NOT_DEFINED, Cow::Borrowed(text)))
        }
        match &self.outcome {
            Outcome::Done | Outcome::Probed | Outcome::HandedOver => None,
            Outcome::Aborted(code, text) => Some((*code, Cow::Borrowed(text))),
            Outcome::Refused(code, text) => Some((code.unwrap_or(ErrorCode::NOT_DEFINED), Cow::Borrowed(text))),
            Outcome::Failed(why) => failure(why),
            Outcome::Unconfirmed => failure("the last acknowledgement is missing"),
            Outcome::HalfOpen | Outcome::Evicted => failure("the client never answered"),
            Outcome::TimedOut => failure("the client stopped answering"),
            Outcome::Restarted => failure("the client sent a new request"),
            Outcome::Stopped => failure("the server was stopped"),
        }
    }
    /// Returns the reason why the client does not have the file as one of few words, for metrics; `None` as for [`TransferReport::error`].
    pub fn reason(&self) -> Option<&'static str> {
        Some(match &self.outcome {
            Outcome::Done | Outcome::Probed | Outcome::HandedOver => return None,
            Outcome::Refused(None, _) if self.overloaded => "overloaded",
            Outcome::Refused(None, _) => "not_answered",
            Outcome::Refused(Some(code), _) => match *code {
                ErrorCode::NOT_FOUND => "not_found",
                ErrorCode::ACCESS => "access_denied",
                ErrorCode::DISK_FULL => "disk_full",
                ErrorCode::ILLEGAL => "illegal_operation",
                ErrorCode::EXISTS => "file_exists",
                ErrorCode::OPTIONS => "options",
                ErrorCode::NOT_DEFINED => "handler_failed",
                _ => "other_error",
            },
            Outcome::Failed(_) => match self.io_error {
                Some(ErrorKind::InvalidData) => "content_changed",
                Some(ErrorKind::TimedOut) => "content_timed_out",
                _ => "content_unreadable",
            },
            Outcome::Aborted(..) => "client_error",
            Outcome::HalfOpen => "never_answered",
            other => other.name(),
        })
    }
}

/// Receives events, reports and statistics, on a thread for all observers' calls. A panic is caught and counted. When the observer falls 65,536 events
/// behind, further ones are dropped and counted.
pub trait Observer: Send + Sync + 'static {
    /// Handles a request that was passed to the handler.
    fn started(&self, request: &Request) {
        let _not_interested = request;
    }

    /// Handles the report of an ended request.
    fn finished(&self, report: &TransferReport) {
        let _not_interested = report;
    }

    /// Handles the end of an interval. [`Statistics::take`] returns the counts of the interval, [`Statistics::totals`] those since the start.
    fn server(&self, statistics: &Statistics) {
        let _not_interested = statistics;
    }

    /// Returns the interval between two calls of [`Observer::server`].
    fn interval(&self) -> Duration {
        Duration::from_secs(60)
    }

    /// Returns whether all events are ignored, so that none is made.
    #[doc(hidden)]
    fn ignores_all(&self) -> bool {
        false
    }
}

/// Ignores all reports.
impl Observer for () {
    fn ignores_all(&self) -> bool {
        true
    }
}

impl<O: Observer + ?Sized> Observer for Arc<O> {
    fn started(&self, request: &Request) {
        O::started(self, request);
    }

    fn finished(&self, report: &TransferReport) {
        O::finished(self, report);
    }

    fn server(&self, statistics: &Statistics) {
        O::server(self, statistics);
    }

    fn interval(&self) -> Duration {
        O::interval(self)
    }

    fn ignores_all(&self) -> bool {
        O::ignores_all(self)
    }
}

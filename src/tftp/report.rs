//! Reports of transfers, and counters of the server.

use super::content::Version;
use super::options::Terms;
use super::packet::{self, ErrorCode, Mode, Options, Packet};
use super::request::Request;
use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

/// Outcome of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The client acknowledged the last block.
    Done,
    /// All blocks were sent, and only the last acknowledgement is missing.
    Unconfirmed,
    /// The client ended it before any data: it only requested the size, or refused the options.
    Probed,
    /// The client ended it in the middle, with this code and text.
    Aborted(ErrorCode, String),
    /// The client never answered.
    HalfOpen,
    /// The client never answered, and its transfer was evicted for another one.
    Evicted,
    /// The client stopped answering.
    TimedOut,
    /// The client sent a new request from the same port.
    Restarted,
    /// The handler refused, or was too slow. Without a code, the client got no answer.
    Refused(Option<ErrorCode>, Cow<'static, str>),
    /// The content could not be read, with the reason.
    Failed(String),
    /// Another server continues it.
    HandedOver,
    /// The server was stopped.
    Stopped,
}

impl Outcome {
    /// Returns the name for logs and counters.
    pub fn name(&self) -> &'static str {
        match self {
            Outcome::Done => "done",
            Outcome::Unconfirmed => "unconfirmed",
            Outcome::Probed => "probed",
            Outcome::Aborted(..) => "aborted",
            Outcome::HalfOpen => "half_open",
            Outcome::Evicted => "evicted",
            Outcome::TimedOut => "timed_out",
            Outcome::Restarted => "restarted",
            Outcome::Refused(..) => "refused",
            Outcome::Failed(_) => "failed",
            Outcome::HandedOver => "handed_over",
            Outcome::Stopped => "stopped",
        }
    }

    /// Returns the counter of requests that end so.
    pub fn counter(&self) -> Counter {
        match self {
            Outcome::Done => Counter::Done,
            Outcome::Unconfirmed => Counter::Unconfirmed,
            Outcome::Probed => Counter::Probed,
            Outcome::Aborted(..) => Counter::Aborted,
            Outcome::HalfOpen => Counter::HalfOpen,
            Outcome::Evicted => Counter::Evicted,
            Outcome::TimedOut => Counter::TimedOut,
            Outcome::Restarted => Counter::Restarted,
            Outcome::Refused(..) => Counter::Refused,
            Outcome::Failed(_) => Counter::Failed,
            Outcome::HandedOver => Counter::HandedOver,
            Outcome::Stopped => Counter::Stopped,
        }
    }
}

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
    /// Whether it was started by another server, or before a restart.
    pub taken_over: bool,
    /// The mode; `None` if it is not supported.
    pub mode: Option<Mode>,
    /// The negotiated terms; `None` when no content was opened.
    pub terms: Option<Terms>,
    /// Size of the content after translation, if known; for a write, the size announced by the client.
    pub size: Option<u64>,
    /// The content's version; `None` when no content was opened, or it was not needed: the hash of bytes in memory is not computed for reports.
    pub version: Option<Version>,
    /// The outcome.
    pub outcome: Outcome,
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
}

macro_rules! counters {
    ($( $variant:ident $name:literal $doc:literal, )*) => {
        /// One number of [`Totals`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Counter { $( #[doc = $doc] $variant, )* }

        impl Counter {
            /// All counters.
            pub const ALL: &'static [Counter] = &[ $( Counter::$variant, )* ];

            /// Returns its name in logs and metrics.
            pub const fn name(self) -> &'static str {
                match self { $( Counter::$variant => $name, )* }
            }

            /// Returns its description.
            pub const fn explain(self) -> &'static str {
                match self { $( Counter::$variant => $doc, )* }
            }
        }
    };
}

counters! {
    Datagrams "datagrams" "Datagrams received.",
    Requests "requests" "Read requests, repeated ones included.",
    RequestsRepeated "requests_repeated" "Requests repeated for a transfer that was just starting.",
    Writes "writes" "Write requests, repeated ones included; all refused where nothing is writable.",
    Shed "shed" "Requests not answered because a limit was reached.",
    Overloaded "overloaded" "Requests not answered because the server lacked a resource, or their file was not open in time.",
    HandlerPanics "handler_panics" "Handlers that panicked; their clients got ERROR 0.",
    ObserverPanics "observer_panics" "Calls of the observer that panicked.",
    ReportsDropped "reports_dropped" "Events not passed to the observer because it was too slow.",
    Malformed "malformed" "Datagrams that are not a TFTP packet, or of a kind that no client sends to that port.",
    Broadcasts "broadcasts" "Datagrams to broadcast and multicast addresses, which are ignored.",
    UnknownTids "unknown_tids" "Packets of an unknown transfer.",
    UnknownTidErrors "unknown_tid_errors" "Packets of an unknown transfer that were answered with ERROR 5.",
    Acks "acks" "ACKs of new blocks.",
    AcksIgnored "acks_ignored" "ACKs that were duplicates, stale, or for a block never sent.",
    ErrorsReceived "errors_received" "ERRORs of clients.",
    PacketsSent "packets_sent" "DATA and OACK packets sent, and ACKs of uploads, retransmissions included.",
    BytesSent "bytes_sent" "Bytes of file content sent, retransmissions included.",
    BytesReceived "bytes_received" "Bytes of uploads, in order.",
    Stored "stored" "Uploaded files, complete.",
    Retransmitted "retransmitted" "DATA and OACK packets retransmitted.",
    Timeouts "timeouts" "Retransmission time-outs.",
    SendErrors "send_errors" "Datagrams that the kernel did not accept.",
    Started "started" "Requests passed to a handler.",
    Done "done" "Transfers acknowledged to the end.",
    Unconfirmed "unconfirmed" "Transfers of which only the last acknowledgement is missing.",
    Probed "probed" "Transfers that the client ended before any data.",
    Aborted "aborted" "Transfers that the client ended in the middle.",
    HalfOpen "half_open" "Transfers whose client never answered.",
    Evicted "evicted" "Transfers whose client never answered, evicted from a full server for others.",
    TimedOut "timed_out" "Transfers whose client stopped answering.",
    Restarted "restarted" "Transfers whose client sent a new request from the same port.",
    Refused "refused" "Requests that a handler refused.",
    Failed "failed" "Transfers whose content could not be read.",
    HandedOver "handed_over" "Transfers that another server continues.",
    Stopped "stopped" "Transfers that ended because the server was stopped.",
    CheckpointsSent "checkpoints_sent" "Checkpoints sent to other servers, renewed ones included.",
    CheckpointsUnconfirmed "checkpoints_unconfirmed" "First answers sent before any successor confirmed the checkpoint.",
    NotResumableNetascii "not_resumable_netascii" "Transfers that no server could resume because they are netascii.",
    NotResumableSize "not_resumable_size" "Transfers that no server could resume because their size was unknown.",
    NotResumableVersion "not_resumable_version" "Transfers that no server could resume because their content has no version.",
    NotResumableRequest "not_resumable_request" "Transfers that no server could resume because of their request or their client's address.",
    CheckpointsStored "checkpoints_stored" "Checkpoints of other servers that were stored.",
    CheckpointsNotStored "checkpoints_not_stored" "Checkpoints of other servers for which there was no room.",
    CheckpointsEvicted "checkpoints_evicted" "Checkpoints of unresponsive clients that made room for others.",
    PeerMessagesReplayed "peer_messages_replayed" "Replayed messages that were rejected.",
    PeerMessagesInvalid "peer_messages_invalid" "Datagrams to the takeover port that no server of the pool has signed.",
    TransferQueries "transfer_queries" "Transfers that other servers were asked about.",
    TransferQueriesUnknown "transfer_queries_unknown" "Queried transfers that no server knew.",
    OwnershipChecks "ownership_checks" "Transfers paused for an ownership check.",
    TransferQueriesUnanswered "transfer_queries_unanswered" "Queries that not every server answered.",
    TransferQueriesLimited "transfer_queries_limited" "Packets of unknown transfers without a query because there were too many.",
    TakenOver "taken_over" "Transfers of other servers that this one took over.",
    Resumed "resumed" "Own transfers resumed after a restart.",
    ResumeRefused "resume_refused" "Transfers not resumed because the content differs here.",
}

/// Counters of one event loop. Only the loop writes them; any thread may read them.
#[derive(Debug)]
pub struct Counters([AtomicU64; Counter::ALL.len()]);

impl Default for Counters {
    fn default() -> Self {
        Counters(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Counters {
    /// Adds to a counter. Only the loop that owns the counters may call it.
    pub fn add(&self, counter: Counter, count: u64) {
        let cell = &self.0[counter as usize];
        // With one writer, load and store do what an atomic addition would at twenty times the cost.
        cell.store(cell.load(Relaxed).wrapping_add(count), Relaxed);
    }
}

/// Values of all counters, in total or over an interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Totals([u64; Counter::ALL.len()]);

impl Default for Totals {
    fn default() -> Self {
        Totals([0; Counter::ALL.len()])
    }
}

/// The counters of ended requests, by outcome. A request in none of them is open.
const ENDS: [Counter; 12] = {
    use Counter::{Aborted, Done, Evicted, Failed, HalfOpen, HandedOver, Probed, Refused, Restarted, Stopped, TimedOut, Unconfirmed};
    [Done, Unconfirmed, Probed, Aborted, HalfOpen, Evicted, TimedOut, Restarted, Refused, Failed, HandedOver, Stopped]
};

impl Counter {
    /// Returns whether it counts ended requests. Each request of [`Counter::Started`] ends in exactly one of these counters.
    pub fn is_end(self) -> bool {
        ENDS.contains(&self)
    }
}

impl Totals {
    /// Returns the value of a counter.
    pub fn get(&self, counter: Counter) -> u64 {
        self.0[counter as usize]
    }

    /// Returns the difference to `earlier`.
    pub fn since(&self, earlier: &Totals) -> Totals {
        Totals(std::array::from_fn(|index| self.0[index].wrapping_sub(earlier.0[index])))
    }

    /// Returns the number of transfers and openings that have not ended.
    pub fn open(&self) -> u64 {
        self.get(Counter::Started).wrapping_sub(ENDS.into_iter().map(|counter| self.get(counter)).sum())
    }

    /// Returns the counters with their names.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        Counter::ALL.iter().map(|&counter| (counter.name(), self.get(counter)))
    }
}

/// The counters of a running server.
#[derive(Clone, Debug)]
pub struct Statistics {
    loops: Arc<[Arc<Counters>]>,
    taken: Arc<std::sync::Mutex<Totals>>,
    started_at: Instant,
}

impl Statistics {
    /// Sums the counters of these event loops.
    pub fn new(loops: Vec<Arc<Counters>>) -> Statistics {
        Statistics { loops: loops.into(), taken: Arc::default(), started_at: Instant::now() }
    }

    /// Returns the counters since the start.
    pub fn totals(&self) -> Totals {
        Totals(std::array::from_fn(|index| self.loops.iter().map(|counters| counters.0[index].load(Relaxed)).sum()))
    }

    /// Returns the counters since the last call, or since the start: get and reset.
    pub fn take(&self) -> Totals {
        let mut taken = self.taken.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let now = self.totals();
        let since = now.since(&taken);
        *taken = now;
        since
    }

    /// Returns one counter since it was last taken, by this method or by [`Statistics::take`]. The other counters are not reset.
    pub fn take_one(&self, counter: Counter) -> u64 {
        let mut taken = self.taken.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let now = self.totals().get(counter);
        now.wrapping_sub(std::mem::replace(&mut taken.0[counter as usize], now))
    }

    /// Returns the time since the server started.
    pub fn uptime(&self) -> Duration {
        self.started_at.elapsed()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_sums_and_taking_leaves_the_rest() {
        let loops = vec![Arc::new(Counters::default()), Arc::new(Counters::default())];
        let statistics = Statistics::new(loops.clone());
        loops[0].add(Counter::Started, 3);
        loops[1].add(Counter::Done, 1);
        assert_eq!((statistics.take().get(Counter::Started), statistics.take().get(Counter::Started)), (3, 0));
        loops[1].add(Counter::Started, 4);
        assert_eq!((statistics.take().get(Counter::Started), statistics.totals().get(Counter::Started)), (4, 7));
        assert_eq!(statistics.totals().open(), 6);
        loops[0].add(Counter::Started, 4);
        loops[1].add(Counter::Done, 2);
        assert_eq!((statistics.take_one(Counter::Done), statistics.take_one(Counter::Done)), (2, 0));
        let rest = statistics.take();
        assert_eq!((rest.get(Counter::Started), rest.get(Counter::Done)), (4, 0), "the other counters are not reset");
    }
}

//! What becomes known of transfers and of the server: a report of each transfer, and counters.

use super::content::Version;
use super::options::Terms;
use super::packet::{ErrorCode, Mode, Options};
use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The client acknowledged the last block.
    Done,
    /// Everything was sent and only the last acknowledgement did not come.
    Unconfirmed,
    /// The client ended it before any data: it only wanted the size, or does not want these options.
    Probed,
    /// The client ended it in the middle, with this code and text.
    Aborted(ErrorCode, String),
    /// The client never answered.
    Unheard,
    /// The client never answered, and its transfer made room for another.
    Displaced,
    /// The client was not heard any more.
    TimedOut,
    /// The client asked again from the same port.
    Restarted,
    /// The handler refused, or was too slow. No code: the client got no answer.
    Refused(Option<ErrorCode>, Cow<'static, str>),
    /// The content could not be read; why.
    Failed(String),
    /// Another server goes on with it.
    HandedOver,
    /// The server was stopped.
    Stopped,
}

impl Outcome {
    /// A word for logs and counters.
    pub fn name(&self) -> &'static str {
        match self {
            Outcome::Done => "done",
            Outcome::Unconfirmed => "unconfirmed",
            Outcome::Probed => "probed",
            Outcome::Aborted(..) => "aborted",
            Outcome::Unheard => "unheard",
            Outcome::Displaced => "displaced",
            Outcome::TimedOut => "timed_out",
            Outcome::Restarted => "restarted",
            Outcome::Refused(..) => "refused",
            Outcome::Failed(_) => "failed",
            Outcome::HandedOver => "handed_over",
            Outcome::Stopped => "stopped",
        }
    }

    pub fn counter(&self) -> Counter {
        match self {
            Outcome::Done => Counter::Done,
            Outcome::Unconfirmed => Counter::Unconfirmed,
            Outcome::Probed => Counter::Probed,
            Outcome::Aborted(..) => Counter::Aborted,
            Outcome::Unheard => Counter::Unheard,
            Outcome::Displaced => Counter::Displaced,
            Outcome::TimedOut => Counter::TimedOut,
            Outcome::Restarted => Counter::Restarted,
            Outcome::Refused(..) => Counter::Refused,
            Outcome::Failed(_) => Counter::Failed,
            Outcome::HandedOver => Counter::HandedOver,
            Outcome::Stopped => Counter::Stopped,
        }
    }
}

/// Everything about one request that has ended.
#[derive(Clone, Debug)]
pub struct TransferReport<'a> {
    /// Who asked.
    pub client: SocketAddr,
    /// The address that was asked.
    pub vip: IpAddr,
    /// The port that answers came from.
    pub tid: u16,
    /// The file's name as it came.
    pub file: &'a [u8],
    /// Whether the client wrote it.
    pub write: bool,
    /// Whether it was begun by another server, or before a restart.
    pub taken_over: bool,
    /// The mode; nothing when it is not one that is served.
    pub mode: Option<Mode>,
    /// What the client asked for.
    pub options: Options<'a>,
    /// What was acknowledged.
    pub acknowledged: Options<'a>,
    /// What held; nothing when no content was opened.
    pub terms: Option<Terms>,
    /// Size of what was to be sent, after translation, when it was known; of a write, what the client announced.
    pub size: Option<u64>,
    /// The content's version; nothing when none was opened.
    pub version: Option<Version>,
    /// How it ended.
    pub outcome: Outcome,
    /// From request to end.
    pub duration: Duration,
    /// From request to the first answer.
    pub opening: Duration,
    /// DATA and OACK packets sent, repetitions included; for a write, ACK and OACK packets.
    pub packets_sent: u64,
    /// Bytes of file content sent, repetitions included.
    pub bytes_sent: u64,
    /// Bytes of the file that the client wrote, after translation.
    pub bytes_received: u64,
    /// Blocks that the client acknowledged; for a write, those that came.
    pub blocks_acknowledged: u64,
    /// DATA and OACK packets sent again.
    pub repeated: u64,
    /// Time-outs.
    pub timeouts: u64,
    /// ACKs that said something new; for a write, DATA packets.
    pub acks: u64,
    /// ACKs that repeated the last one, were stale, or were for a block never sent; for a write, DATA packets out of order.
    pub acks_ignored: u64,
    /// Smoothed round-trip time, zero when nothing was measured.
    pub round_trip: Duration,
}

impl TransferReport<'_> {
    /// When the request came, by the clock on the wall.
    pub fn began(&self) -> SystemTime {
        SystemTime::now() - self.duration
    }

    /// Why the client does not have the file, as a TFTP code and text, whoever ended the transfer; nothing when it has it, or never
    /// wanted more than was answered.
    pub fn error(&self) -> Option<(ErrorCode, Cow<'_, str>)> {
        fn said(text: &str) -> Option<(ErrorCode, Cow<'_, str>)> {
            Some((ErrorCode::NOT_DEFINED, Cow::Borrowed(text)))
        }
        match &self.outcome {
            Outcome::Done | Outcome::Probed | Outcome::HandedOver => None,
            Outcome::Aborted(code, text) => Some((*code, Cow::Borrowed(text))),
            Outcome::Refused(code, text) => Some((code.unwrap_or(ErrorCode::NOT_DEFINED), Cow::Borrowed(text))),
            Outcome::Failed(why) => said(why),
            Outcome::Unconfirmed => said("the last acknowledgement did not come"),
            Outcome::Unheard | Outcome::Displaced => said("the client never answered"),
            Outcome::TimedOut => said("the client was not heard any more"),
            Outcome::Restarted => said("the client asked again"),
            Outcome::Stopped => said("the server was stopped"),
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
            /// All of them.
            pub const ALL: &'static [Counter] = &[ $( Counter::$variant, )* ];

            /// Its name in logs.
            pub const fn name(self) -> &'static str {
                match self { $( Counter::$variant => $name, )* }
            }

            /// One sentence for people.
            pub const fn explain(self) -> &'static str {
                match self { $( Counter::$variant => $doc, )* }
            }
        }
    };
}

counters! {
    Datagrams "datagrams" "Datagrams received.",
    Requests "requests" "Read requests, repeated ones included.",
    RequestsRepeated "requests_repeated" "Requests that came again for a transfer that was just starting.",
    Writes "writes" "Write requests, repeated ones included; all refused where nothing is writable.",
    Shed "shed" "Requests not answered because a limit was reached.",
    Malformed "malformed" "Datagrams that are no TFTP packet, or of a kind that no client sends.",
    Strangers "strangers" "Packets of a transfer that is not known.",
    StrangersTold "strangers_told" "Strangers that were answered ERROR 5.",
    Acks "acks" "ACKs that said something new.",
    AcksIgnored "acks_ignored" "ACKs that repeated the last one, were stale, or were for a block never sent.",
    ErrorsReceived "errors_received" "ERRORs of clients.",
    PacketsSent "packets_sent" "DATA and OACK packets sent, and ACKs of what clients write, repetitions included.",
    BytesSent "bytes_sent" "Bytes of file content sent, repetitions included.",
    BytesReceived "bytes_received" "Bytes of files that clients write, in order.",
    Stored "stored" "Files that clients wrote, complete.",
    Repeated "repeated" "DATA and OACK packets sent again.",
    Timeouts "timeouts" "Times that a client was waited for in vain.",
    SendErrors "send_errors" "Datagrams that the kernel did not take.",
    Started "started" "Requests that a handler was asked about.",
    Done "done" "Transfers acknowledged to the end.",
    Unconfirmed "unconfirmed" "Transfers of which only the last acknowledgement did not come.",
    Probed "probed" "Transfers that the client ended before any data.",
    Aborted "aborted" "Transfers that the client ended in the middle.",
    Unheard "unheard" "Transfers whose client never answered.",
    Displaced "displaced" "Transfers whose client never answered and that made room for others in a full server.",
    TimedOut "timed_out" "Transfers whose client was not heard any more.",
    Restarted "restarted" "Transfers whose client asked again from the same port.",
    Refused "refused" "Requests that a handler refused.",
    Failed "failed" "Transfers whose content could not be read.",
    HandedOver "handed_over" "Transfers that another server goes on with.",
    Stopped "stopped" "Transfers that the stop of the server ended.",
    NotesSent "notes_sent" "Notes of transfers sent to other servers, renewed ones included.",
    NotesUnanswered "notes_unanswered" "First answers that went out before any heir had said that it has the note.",
    NotOfferedNetascii "not_offered_netascii" "Transfers that no server could go on with because they are translated (netascii).",
    NotOfferedSize "not_offered_size" "Transfers that no server could go on with because their size was not known.",
    NotOfferedVersion "not_offered_version" "Transfers that no server could go on with because their content has no version.",
    NotOfferedRequest "not_offered_request" "Transfers that no server could go on with because of their request or their client's address.",
    NotesKept "notes_kept" "Notes of other servers that were kept.",
    NotesNotKept "notes_not_kept" "Notes of other servers that there was no room for.",
    NotesEvicted "notes_evicted" "Notes of transfers whose client was not heard that made room for others.",
    NotesReplayed "notes_replayed" "Notes that came again and were not taken.",
    NotesInvalid "notes_invalid" "Datagrams to the port of notes that no server of the pool has signed.",
    Asked "asked" "Transfers that other servers were asked about.",
    AskedUnknown "asked_unknown" "Transfers that no server knows that could.",
    Doubted "doubted" "Transfers that nobody here knew for a while to be served by nobody else, so that others were asked before they went on.",
    AskedUnanswered "asked_unanswered" "Transfers of which not every server answered that could know them.",
    AskedLimited "asked_limited" "Packets of unknown transfers that nobody was asked about because there were too many.",
    TakenOver "taken_over" "Transfers of other servers that this one went on with.",
    Resumed "resumed" "Transfers of its own that the server went on with after it was restarted.",
    ResumeRefused "resume_refused" "Transfers that were not gone on with because the content is not the same here.",
}

/// Counters of one event loop, written by it alone, read by anyone.
#[derive(Debug)]
pub struct Counters([AtomicU64; Counter::ALL.len()]);

impl Default for Counters {
    fn default() -> Self {
        Counters(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Counters {
    /// Adds to a counter. Only the loop that owns it may.
    pub fn add(&self, counter: Counter, count: u64) {
        let cell = &self.0[counter as usize];
        // With one writer, load and store do what an atomic addition would at twenty times the cost.
        cell.store(cell.load(Relaxed).wrapping_add(count), Relaxed);
    }
}

/// Values of all counters at one moment, or over an interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Totals([u64; Counter::ALL.len()]);

impl Default for Totals {
    fn default() -> Self {
        Totals([0; Counter::ALL.len()])
    }
}

/// What counts requests by their end; what is in none of them is open.
const ENDS: [Counter; 12] = {
    use Counter::{Aborted, Displaced, Done, Failed, HandedOver, Probed, Refused, Restarted, Stopped, TimedOut, Unconfirmed, Unheard};
    [Done, Unconfirmed, Probed, Aborted, Unheard, Displaced, TimedOut, Restarted, Refused, Failed, HandedOver, Stopped]
};

impl Counter {
    /// Whether it counts requests by their end: each that was [`Counter::Started`] ends in exactly one of these.
    pub fn is_end(self) -> bool {
        ENDS.contains(&self)
    }
}

impl Totals {
    /// The value of a counter.
    pub fn get(&self, counter: Counter) -> u64 {
        self.0[counter as usize]
    }

    /// What was counted since `earlier`.
    pub fn since(&self, earlier: &Totals) -> Totals {
        Totals(std::array::from_fn(|index| self.0[index].wrapping_sub(earlier.0[index])))
    }

    /// Transfers and openings that have not ended.
    pub fn open(&self) -> u64 {
        self.get(Counter::Started).wrapping_sub(ENDS.into_iter().map(|counter| self.get(counter)).sum())
    }

    /// The counters with their names.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        Counter::ALL.iter().map(|&counter| (counter.name(), self.get(counter)))
    }
}

/// The counters of a running server.
#[derive(Clone, Debug)]
pub struct Statistics {
    loops: Arc<[Arc<Counters>]>,
    taken: Arc<std::sync::Mutex<Totals>>,
    began: Instant,
}

impl Statistics {
    pub fn new(loops: Vec<Arc<Counters>>) -> Statistics {
        Statistics { loops: loops.into(), taken: Arc::default(), began: Instant::now() }
    }

    /// The counters since the start.
    pub fn totals(&self) -> Totals {
        Totals(std::array::from_fn(|index| self.loops.iter().map(|counters| counters.0[index].load(Relaxed)).sum()))
    }

    /// The counters since the last call, or since the start: get and reset.
    pub fn take(&self) -> Totals {
        let mut taken = self.taken.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let now = self.totals();
        let since = now.since(&taken);
        *taken = now;
        since
    }

    /// One counter since it was last taken, by this or with all others by [`Statistics::take`]; the others keep what they have.
    pub fn take_one(&self, counter: Counter) -> u64 {
        let mut taken = self.taken.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let now = self.totals().get(counter);
        now.wrapping_sub(std::mem::replace(&mut taken.0[counter as usize], now))
    }

    /// How long the server has been there.
    pub fn uptime(&self) -> Duration {
        self.began.elapsed()
    }
}

/// Hears what happens. Called on the event loop: it must be quick and must not wait.
pub trait Observer: Send + Sync {
    /// A request has ended, one way or another.
    fn transfer(&self, report: &TransferReport<'_>) {
        let _not_interested = report;
    }

    /// An interval has passed. [`Statistics::take`] gives what happened in it, [`Statistics::totals`] what happened in all.
    fn server(&self, statistics: &Statistics) {
        let _not_interested = statistics;
    }

    /// The interval between two calls of [`Observer::server`].
    fn interval(&self) -> Duration {
        Duration::from_secs(60)
    }
}

/// Does not listen.
impl Observer for () {}

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
        assert_eq!((rest.get(Counter::Started), rest.get(Counter::Done)), (4, 0), "the others keep what they have");
    }
}

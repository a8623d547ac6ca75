//! Counters of a server: one set for each event loop, and their sums.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

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
    HttpConnections "http_connections" "HTTP connections accepted, refused ones included.",
    HttpConnectionsRefused "http_connections_refused" "HTTP connections answered with 503, or closed, because a limit was reached.",
    HttpRequests "http_requests" "HTTP requests.",
    HttpInvalid "http_invalid" "HTTP requests with another method than GET and HEAD, or whose URL names no file.",
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

//! The common part of reads and writes: request, TID, time-outs, end. It has no socket and no clock: bytes and time go in, bytes come out.
//!
//! ```text
//!           request           OACK, DATA 1, ACK 0              last block
//! Requesting ───────► Requesting ─────────────────► Running ───────────────► Finished (a read may dally)
//!    │ ERROR, bad OACK, no answer                       │ ERROR, no answer
//!    └────────────────────────► Finished ◄──────────────────┘
//! ```

use super::options::{BadOack, NegotiatedOptions, RequestOption, request};
use crate::packet::{ErrorCode, Mode, put_ack, put_error};
use crate::rollover::Rollover;
use crate::rto::{Rto, Timing};
use guideway_packet::time::Time;
use std::net::SocketAddr;
use std::time::Duration;

/// Parameters of a transfer.
#[derive(Clone, Debug)]
pub struct TransferPlan {
    /// Destination of the request.
    pub server: SocketAddr,
    /// The file's name on the server.
    pub file: Vec<u8>,
    /// Transfer mode.
    pub mode: Mode,
    /// The options, in their order.
    pub ask: Vec<RequestOption>,
    /// Number of the block after block 65535 if not negotiated; `None` means 0, unless a lock-step server uses 1.
    pub rollover: Option<Rollover>,
    /// Time-outs and retries.
    pub timing: Timing,
    /// Whether to only request the size and refuse the OACK with ERROR 8, as UEFI firmware does before each transfer.
    pub probe: bool,
}

impl TransferPlan {
    /// Returns the plan of an octet transfer without options.
    pub fn new(server: SocketAddr, file: impl Into<Vec<u8>>) -> Self {
        TransferPlan {
            server,
            file: file.into(),
            mode: Mode::Octet,
            ask: Vec::new(),
            rollover: None,
            timing: Timing::default(),
            probe: false,
        }
    }
}

/// Reasons why a transfer failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The server sent an ERROR.
    #[error("the server refused: error {code}: {text}")]
    Server {
        /// Its code.
        code: ErrorCode,
        /// Its text, without control characters.
        text: String,
    },
    /// The request was not answered.
    #[error("no answer to {requests} requests{}", unknown_tid_hint(*unknown_tid))]
    NoAnswer {
        /// Number of requests sent.
        requests: u32,
        /// Another address that answered instead.
        unknown_tid: Option<SocketAddr>,
    },
    /// The request was not answered, and ICMP reported the port as unreachable.
    #[error("no answer to {requests} requests: the port is closed (ICMP port unreachable)")]
    Closed {
        /// Number of requests sent.
        requests: u32,
    },
    /// The server stopped answering.
    #[error("the server stopped answering after block {block}; {tries} retransmissions of the last packet got no answer")]
    Unresponsive {
        /// The last block that was received (read) or acknowledged (write).
        block: u64,
        /// Retransmissions of the last packet.
        tries: u32,
    },
    /// The OACK was refused.
    #[error(transparent)]
    Options(#[from] BadOack),
    /// The file has another size than the server announced.
    #[error("received {received} bytes, but the server announced {announced}")]
    Size {
        /// `tsize`.
        announced: u64,
        /// Received bytes.
        received: u64,
    },
    /// A block is longer than negotiated.
    #[error("received a block of {length} bytes; the negotiated size is {blksize}")]
    Block {
        /// Its length.
        length: usize,
        /// The negotiated size.
        blksize: u16,
    },
    /// A local error.
    #[error("{0}")]
    Local(String),
}

fn unknown_tid_hint(unknown_tid: Option<SocketAddr>) -> String {
    unknown_tid.map_or_else(String::new, |from| {
        format!("; {from} sent a packet instead: if the server answers from another address than the one it was asked at, bind it to that address")
    })
}

impl Failure {
    /// Returns the name of the reason, for counters.
    pub fn reason(&self) -> String {
        match self {
            Failure::Server { code, .. } => format!("error_{}_{}", code.0, code.meaning().replace(' ', "_")),
            Failure::NoAnswer { .. } => "no_answer".into(),
            Failure::Closed { .. } => "port_unreachable".into(),
            Failure::Unresponsive { .. } => "unresponsive".into(),
            Failure::Options(_) => "bad_oack".into(),
            Failure::Size { .. } => "size_mismatch".into(),
            Failure::Block { .. } => "block_too_long".into(),
            Failure::Local(_) => "local_error".into(),
        }
    }
}

/// Counters of packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Payload that was accepted in order (read) or acknowledged (write).
    pub bytes: u64,
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams from the server.
    pub received: u64,
    /// Retransmitted packets.
    pub retransmits: u64,
    /// Packets that had arrived before.
    pub duplicates: u64,
    /// Windows broken by a missing block.
    pub gaps: u64,
    /// Datagrams from senders other than the server.
    pub unknown_tids: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Requesting,
    Running,
    Finished,
}

/// A packet that waits to be sent.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pending {
    Request,
    Ack(u16),
    Error(ErrorCode, &'static str),
}

/// The common part of a read and a write.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) plan: TransferPlan,
    pub(super) negotiated: NegotiatedOptions,
    pub(super) phase: Phase,
    pub(super) rto: Rto,
    pub(super) counters: Counters,
    pub(super) pending: Option<Pending>,
    pub(super) deadline: Option<Time>,
    pub(super) outcome: Option<Result<(), Failure>>,
    /// When the packet was sent whose answer is timed; `None` after a retransmission (Karn's rule).
    pub(super) clock: Option<Time>,
    pub(super) tries: u32,
    tid: Option<SocketAddr>,
    request: Vec<u8>,
    unknown_tid: Option<SocketAddr>,
    answered_unknown_tid: Option<SocketAddr>,
    started: Time,
    first_answer: Option<Time>,
}

impl Session {
    pub(super) fn new(plan: TransferPlan, write: bool, now: Time) -> Self {
        let request = request(write, &plan.file, plan.mode, &plan.ask);
        let rto = Rto::new(plan.timing);
        Session {
            negotiated: NegotiatedOptions::default(),
            phase: Phase::Requesting,
            deadline: Some(now.plus(rto.current())),
            rto,
            counters: Counters::default(),
            pending: Some(Pending::Request),
            outcome: None,
            clock: Some(now),
            tries: 0,
            tid: None,
            request,
            unknown_tid: None,
            answered_unknown_tid: None,
            started: now,
            first_answer: None,
            plan,
        }
    }

    /// Returns whether a packet of this sender belongs to the transfer.
    pub(super) fn admits(&mut self, from: SocketAddr, is_error: bool) -> bool {
        let ours = match self.tid {
            Some(tid) => same(tid.ip(), from.ip()) && tid.port() == from.port(),
            None => same(self.plan.server.ip(), from.ip()),
        };
        if ours {
            self.counters.received += 1;
            return true;
        }
        self.counters.unknown_tids += 1;
        // "an error packet should be sent to the originator of the incorrect packet, while not disturbing the transfer" (RFC 1350,
        // section 4). An ERROR is never answered, and each unknown TID gets one answer.
        if self.tid.is_some() && !is_error && self.answered_unknown_tid != Some(from) {
            self.unknown_tid = Some(from);
        }
        self.answered_unknown_tid = Some(from);
        false
    }

    /// Handles the first valid answer, which determines the server's TID.
    pub(super) fn answered(&mut self, from: SocketAddr, now: Time) {
        self.tid = Some(from);
        self.first_answer = Some(now);
        self.phase = Phase::Running;
    }

    /// Records progress.
    pub(super) fn progress(&mut self, now: Time) {
        if let Some(sent) = self.clock.take() {
            self.rto.measured(now - sent);
        }
        self.tries = 0;
        self.rto.progress();
        self.deadline = Some(now.plus(self.rto.current()));
    }

    /// Handles a time-out. Returns `false` when the retries are used up.
    pub(super) fn again(&mut self, now: Time) -> bool {
        self.clock = None;
        if !self.rto.again() {
            return false;
        }
        self.tries += 1;
        self.deadline = Some(now.plus(self.rto.current()));
        true
    }

    /// Sends the request again, or ends the transfer.
    pub(super) fn ask_again(&mut self, now: Time) {
        if self.again(now) {
            self.counters.retransmits += 1;
            self.pending = Some(Pending::Request);
        } else {
            let failure = Failure::NoAnswer { requests: self.tries + 1, unknown_tid: self.answered_unknown_tid };
            self.end(Err(failure), None);
        }
    }

    /// Ends the transfer; `say` is the last packet to the server.
    pub(super) fn end(&mut self, outcome: Result<(), Failure>, say: Option<Pending>) {
        self.phase = Phase::Finished;
        self.pending = say;
        self.deadline = None;
        self.outcome = Some(outcome);
    }

    pub(super) fn first_answer(&self) -> Option<Duration> {
        self.first_answer.map(|at| at - self.started)
    }

    pub(super) fn tid(&self) -> Option<SocketAddr> {
        self.tid
    }

    /// Writes the next packet into `out` and returns its destination.
    pub(super) fn transmit(&mut self, out: &mut Vec<u8>) -> Option<SocketAddr> {
        if let Some(unknown_tid) = self.unknown_tid.take() {
            put_error(out, ErrorCode::UNKNOWN_TID, b"unknown transfer");
            return Some(unknown_tid);
        }
        match self.pending.take()? {
            Pending::Request => out.extend(&self.request),
            Pending::Ack(block) => put_ack(out, block),
            Pending::Error(code, text) => put_error(out, code, text.as_bytes()),
        }
        self.counters.sent += 1;
        Some(self.tid.unwrap_or(self.plan.server))
    }

    /// Returns the number of a block on the wire.
    pub(super) fn wire(&self, block: u64) -> u16 {
        self.rollover().wire(block)
    }

    pub(super) fn rollover(&self) -> Rollover {
        self.negotiated.rollover.or(self.plan.rollover).unwrap_or_default()
    }
}

/// Returns whether two addresses are equal, with IPv4-mapped ones as IPv4.
fn same(one: std::net::IpAddr, other: std::net::IpAddr) -> bool {
    one.to_canonical() == other.to_canonical()
}

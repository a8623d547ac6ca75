//! What reads and writes have in common: request, TID, time-outs, the end. No socket and no clock: bytes and time go in, bytes come out.
//!
//! ```text
//!           request           OACK, DATA 1, ACK 0              last block
//! Asking ───────────► Asking ─────────────────────► Running ───────────────► Over (a read may guard its last ACK)
//!    │ ERROR, bad OACK, no answer                       │ ERROR, no answer
//!    └──────────────────────────► Over ◄────────────────┘
//! ```

use super::block::Rollover;
use super::options::{Agreed, Ask, BadOack, request};
use super::rto::{Rto, Timing};
use crate::packet::{ErrorCode, Mode, put_ack, put_error};
use guideway_packet::time::Time;
use std::net::SocketAddr;
use std::time::Duration;

/// What is to be transferred, and how.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where the request goes.
    pub server: SocketAddr,
    /// The file's name on the server.
    pub file: Vec<u8>,
    /// How its bytes travel.
    pub mode: Mode,
    /// The options, in their order.
    pub ask: Vec<Ask>,
    /// The number after 65535 where the server does not say; `None`: 0, unless a lock-step server shows that it is 1.
    pub rollover: Option<Rollover>,
    /// Time-outs and retries.
    pub timing: Timing,
    /// Only ask for the size, and refuse the OACK with ERROR 8, as UEFI firmware does before each transfer.
    pub probe: bool,
}

impl Plan {
    /// An octet transfer without options.
    pub fn new(server: SocketAddr, file: impl Into<Vec<u8>>) -> Self {
        Plan { server, file: file.into(), mode: Mode::Octet, ask: Vec::new(), rollover: None, timing: Timing::default(), probe: false }
    }
}

/// Why a transfer failed.
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
    /// Nobody answered the request.
    #[error("no answer to {requests} requests{}", heard(*stranger))]
    NoAnswer {
        /// How often it was sent.
        requests: u32,
        /// Who answered instead.
        stranger: Option<SocketAddr>,
    },
    /// Nobody answered the request, and the host said that nobody listens there.
    #[error("no answer to {requests} requests: nothing listens at this port of the host (ICMP says that it is unreachable)")]
    Closed {
        /// How often it was sent.
        requests: u32,
    },
    /// The server fell silent.
    #[error("the server fell silent after block {block}; {tries} repeats of the last packet stayed without answer")]
    Silent {
        /// The last block that was received (read) or acknowledged (write).
        block: u64,
        /// How often the last packet was sent again.
        tries: u32,
    },
    /// The OACK was refused.
    #[error(transparent)]
    Options(#[from] BadOack),
    /// The file is not as long as the server said.
    #[error("{received} bytes came, but the server announced {announced}")]
    Size {
        /// `tsize`.
        announced: u64,
        /// What came.
        received: u64,
    },
    /// A block is longer than agreed.
    #[error("a block of {length} bytes came; {blksize} were agreed")]
    Block {
        /// Its length.
        length: usize,
        /// What was agreed.
        blksize: u16,
    },
    /// Something on this side.
    #[error("{0}")]
    Here(String),
}

fn heard(stranger: Option<SocketAddr>) -> String {
    stranger.map_or_else(String::new, |from| {
        format!("; {from} sent something instead: a server that answers from another address than it was asked at? bind it to that address")
    })
}

impl Failure {
    /// A word to count it by.
    pub fn reason(&self) -> String {
        match self {
            Failure::Server { code, .. } => format!("error_{}_{}", code.0, code.meaning().replace(' ', "_")),
            Failure::NoAnswer { .. } => "no_answer".into(),
            Failure::Closed { .. } => "closed".into(),
            Failure::Silent { .. } => "silent".into(),
            Failure::Options(_) => "bad_oack".into(),
            Failure::Size { .. } => "size".into(),
            Failure::Block { .. } => "block".into(),
            Failure::Here(_) => "here".into(),
        }
    }
}

/// What happened on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Payload that was accepted in order (read) or acknowledged (write).
    pub bytes: u64,
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams from the server.
    pub received: u64,
    /// Packets sent again, for whatever reason.
    pub retransmits: u64,
    /// Packets that had come before.
    pub duplicates: u64,
    /// Windows broken by a missing block.
    pub gaps: u64,
    /// Datagrams from others than the server.
    pub strangers: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Asking,
    Running,
    Over,
}

/// What waits to be sent.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pending {
    Request,
    Ack(u16),
    Error(ErrorCode, &'static str),
}

/// The common part of a read and a write.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) plan: Plan,
    pub(super) agreed: Agreed,
    pub(super) phase: Phase,
    pub(super) rto: Rto,
    pub(super) counters: Counters,
    pub(super) pending: Option<Pending>,
    pub(super) deadline: Option<Time>,
    pub(super) outcome: Option<Result<(), Failure>>,
    /// When that went out whose answer will be a round trip; nothing that was repeated (Karn's rule).
    pub(super) clock: Option<Time>,
    pub(super) tries: u32,
    tid: Option<SocketAddr>,
    request: Vec<u8>,
    stranger: Option<SocketAddr>,
    answered_stranger: Option<SocketAddr>,
    started: Time,
    first_answer: Option<Time>,
}

impl Session {
    pub(super) fn new(plan: Plan, write: bool, now: Time) -> Self {
        let request = request(write, &plan.file, plan.mode, &plan.ask);
        let rto = Rto::new(plan.timing);
        Session {
            agreed: Agreed::default(),
            phase: Phase::Asking,
            deadline: Some(now.plus(rto.current())),
            rto,
            counters: Counters::default(),
            pending: Some(Pending::Request),
            outcome: None,
            clock: Some(now),
            tries: 0,
            tid: None,
            request,
            stranger: None,
            answered_stranger: None,
            started: now,
            first_answer: None,
            plan,
        }
    }

    /// Whether a packet of this sender belongs to the transfer.
    pub(super) fn admits(&mut self, from: SocketAddr, is_error: bool) -> bool {
        let ours = match self.tid {
            Some(tid) => same(tid.ip(), from.ip()) && tid.port() == from.port(),
            None => same(self.plan.server.ip(), from.ip()),
        };
        if ours {
            self.counters.received += 1;
            return true;
        }
        self.counters.strangers += 1;
        // "an error packet should be sent to the originator of the incorrect packet, while not disturbing the transfer" (RFC 1350,
        // section 4). Never an error for an error, and each stranger is told once.
        if self.tid.is_some() && !is_error && self.answered_stranger != Some(from) {
            self.stranger = Some(from);
        }
        self.answered_stranger = Some(from);
        false
    }

    /// The first good answer: from now on the server has this TID.
    pub(super) fn answered(&mut self, from: SocketAddr, now: Time) {
        self.tid = Some(from);
        self.first_answer = Some(now);
        self.phase = Phase::Running;
    }

    /// The transfer moved on.
    pub(super) fn progress(&mut self, now: Time) {
        if let Some(sent) = self.clock.take() {
            self.rto.measured(now - sent);
        }
        self.tries = 0;
        self.rto.progress();
        self.deadline = Some(now.plus(self.rto.current()));
    }

    /// Nobody answered in time. `false` when that was once too often.
    pub(super) fn again(&mut self, now: Time) -> bool {
        self.clock = None;
        if !self.rto.again() {
            return false;
        }
        self.tries += 1;
        self.deadline = Some(now.plus(self.rto.current()));
        true
    }

    /// The request goes out again, or the transfer ends.
    pub(super) fn ask_again(&mut self, now: Time) {
        if self.again(now) {
            self.counters.retransmits += 1;
            self.pending = Some(Pending::Request);
        } else {
            let failure = Failure::NoAnswer { requests: self.tries + 1, stranger: self.answered_stranger };
            self.end(Err(failure), None);
        }
    }

    /// The transfer is over; `say` is the last word to the server.
    pub(super) fn end(&mut self, outcome: Result<(), Failure>, say: Option<Pending>) {
        self.phase = Phase::Over;
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

    /// Writes what waits to be sent into `out`, and says to whom.
    pub(super) fn transmit(&mut self, out: &mut Vec<u8>) -> Option<SocketAddr> {
        if let Some(stranger) = self.stranger.take() {
            put_error(out, ErrorCode::UNKNOWN_TID, b"unknown transfer");
            return Some(stranger);
        }
        match self.pending.take()? {
            Pending::Request => out.extend(&self.request),
            Pending::Ack(block) => put_ack(out, block),
            Pending::Error(code, text) => put_error(out, code, text.as_bytes()),
        }
        self.counters.sent += 1;
        Some(self.tid.unwrap_or(self.plan.server))
    }

    /// The number of a block on the wire.
    pub(super) fn wire(&self, block: u64) -> u16 {
        self.rollover().wire(block)
    }

    pub(super) fn rollover(&self) -> Rollover {
        self.agreed.rollover.or(self.plan.rollover).unwrap_or_default()
    }
}

/// Whether two addresses are one: an IPv4 address may come mapped into IPv6.
fn same(one: std::net::IpAddr, other: std::net::IpAddr) -> bool {
    one.to_canonical() == other.to_canonical()
}

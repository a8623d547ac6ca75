//! The state of one request in an event loop.

use super::channel::TransferWaker;
use super::destination::HeldDestination;
use super::openers::OpeningTask;
use super::peer::{Peer, Route};
use super::read_ahead::Cursor;
use super::takeover::Replication;
use crate::content::{KeepAlive, Source};
use crate::netascii::Decoder;
use crate::options::Terms;
use crate::packet::{Mode, Options, Packet};
use crate::report::{Outcome, TransferReport};
use crate::request::{HandlerName, Protocol};
use crate::takeover::Checkpoint;
use crate::transfer::Transfer;
use crate::upload::Upload;
use guideway_packet::time::Time;
use std::sync::Arc;

/// Stage of a session.
pub enum Stage {
    /// The handler is opening it. The call ends with this value.
    #[expect(dead_code, reason = "dropping it ends the call")]
    Opening(Option<OpeningTask>),
    /// There is content, but its first block is pending.
    Prefetching(Arc<dyn Source>),
    /// The first answer waits until a successor confirms the checkpoint.
    Checkpointing(Box<Running>),
    /// Blocks are sent.
    Running(Box<Running>),
    /// Blocks of an upload are received.
    Receiving(Box<Receiving>),
}

/// State of a read.
pub struct Running {
    pub transfer: Transfer,
    pub content: Arc<dyn Source>,
    pub size: Option<u64>,
    /// The OACK; empty when no option was granted.
    pub oack: Box<[u8]>,
    /// Whether the kernel may segment windows.
    pub gso: bool,
    /// Since when content is pending.
    pub starved: Option<Time>,
    /// The block whose acknowledgement triggers the next checkpoint; unreachable without checkpoints.
    pub next_checkpoint_block: u64,
    /// State of its checkpoints at other servers.
    pub replication: Option<Replication>,
    /// Serial number that distinguishes it from earlier transfers with the same id.
    pub serial: u64,
    /// Whether an ownership check is pending, during which nothing is sent.
    pub ownership_check_pending: bool,
}

/// State of a write.
pub struct Receiving {
    pub upload: Upload,
    /// The OACK; empty when no option was granted.
    pub oack: Box<[u8]>,
    /// File size announced by the client.
    pub size: Option<u64>,
    /// Largest file in bytes.
    pub limit: u64,
    pub target: Target,
    /// Received bytes that the target has not got yet.
    pub waiting: Vec<u8>,
    /// Number of received bytes, after translation.
    pub received: u64,
    /// Decoder of netascii.
    pub decoder: Option<Decoder>,
    /// Since when it is complete and being stored.
    pub storing: Option<Time>,
}

/// Where the bytes of an upload go.
pub enum Target {
    /// Nothing was sent yet. No resources are taken before the first block, because requests can be forged.
    Fresh(HeldDestination),
    /// It prepares for this first block.
    Beginning(Box<[u8]>),
    /// It takes bytes.
    Idle(HeldDestination),
    /// It is busy on another thread.
    Busy,
}

/// A checkpoint to resume from, by another server or from before a restart.
pub struct Resume {
    pub checkpoint: Checkpoint,
    /// Number of the client's last ACK.
    pub block: u16,
}

/// One request.
pub struct Session {
    pub peer: Peer,
    pub route: Route,
    /// The request as received, with file name and options.
    pub request: Arc<[u8]>,
    pub mode: Option<Mode>,
    /// The name of the handler that was asked last.
    pub handler: HandlerName,
    /// Whether it was refused because the server lacked a resource.
    pub overloaded: bool,
    /// The kind of error with which its content could not be read.
    pub io_error: Option<std::io::ErrorKind>,
    pub stage: Stage,
    /// The checkpoint to resume from, until the transfer is resumed.
    pub resume: Option<Box<Resume>>,
    /// Whether it was resumed from a checkpoint.
    pub taken_over: bool,
    /// Whether it replaced another transfer of the same client and ports.
    pub restart: bool,
    /// Values of the content that are dropped at the end.
    pub keep_alive: Vec<KeepAlive>,
    pub cursor: Cursor,
    pub transfer_waker: Option<Arc<TransferWaker>>,
    pub started: Time,
    pub answered: Option<Time>,
    /// The tick at which its timer expires.
    pub scheduled: Option<u64>,
    pub tally: Tally,
}

/// Counters of one transfer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub packets: u64,
    pub bytes: u64,
    pub received: u64,
    pub retransmitted: u64,
    pub timeouts: u64,
    pub acks: u64,
    pub ignored: u64,
}

/// Result of handling an event of a session.
pub enum Disposition {
    Keep,
    Close(Outcome),
}

impl Session {
    pub fn new(peer: Peer, route: Route, request: &[u8], now: Time) -> Session {
        Session {
            peer,
            route,
            request: request.into(),
            mode: None,
            handler: HandlerName::default(),
            overloaded: false,
            io_error: None,
            stage: Stage::Opening(None),
            resume: None,
            taken_over: false,
            restart: false,
            keep_alive: Vec::new(),
            cursor: Cursor::default(),
            transfer_waker: None,
            started: now,
            answered: None,
            scheduled: None,
            tally: Tally::default(),
        }
    }

    /// Returns the file name and the options of the request.
    pub fn file_and_options(&self) -> (&[u8], Options<'_>) {
        match Packet::parse(&self.request) {
            Ok(Packet::Request(request)) => (request.file, request.options),
            _ => (&[], Options::default()),
        }
    }

    /// Returns when its timer must expire. `patience` is the time limit for opening and for pending content.
    pub fn deadline(&self, patience: std::time::Duration) -> Time {
        match &self.stage {
            Stage::Running(running) => match running.starved {
                Some(since) if !running.transfer.outstanding() => since.plus(patience),
                _ => running.transfer.deadline(),
            },
            // The disk has no time limit; the timer only logs that it is slow.
            Stage::Receiving(receiving) => receiving.storing.map_or(receiving.upload.deadline(), |since| since.plus(patience)),
            _ => self.started.plus(patience),
        }
    }

    /// Returns the report of the ended request.
    pub fn report(&self, tid: u16, outcome: Outcome, now: Time) -> TransferReport {
        let (running, receiving) = match &self.stage {
            Stage::Running(running) => (Some(running), None),
            Stage::Receiving(receiving) => (None, Some(receiving)),
            _ => (None, None),
        };
        let oack = running.map(|running| &running.oack).or(receiving.map(|receiving| &receiving.oack));
        TransferReport {
            client: self.peer.client,
            vip: self.peer.vip,
            tid,
            request: Arc::clone(&self.request),
            oack: oack.cloned().unwrap_or_default(),
            write: receiving.is_some(),
            protocol: Protocol::Tftp,
            taken_over: self.taken_over,
            mode: self.mode,
            handler: self.handler.get(),
            terms: running.map(|running| *running.transfer.terms()).or(receiving.map(|receiving| *receiving.upload.terms()))
                as Option<Terms>,
            size: running.and_then(|running| running.size).or(receiving.and_then(|receiving| receiving.size)),
            version: running.and_then(|running| running.content.known_version()),
            outcome,
            overloaded: self.overloaded,
            io_error: self.io_error,
            duration: now - self.started,
            opening: self.answered.unwrap_or(now) - self.started,
            packets_sent: self.tally.packets,
            bytes_sent: self.tally.bytes,
            bytes_received: self.tally.received,
            blocks_acknowledged: running.map_or(0, |running| running.transfer.acked())
                + receiving.map_or(0, |receiving| receiving.upload.blocks()),
            retransmitted: self.tally.retransmitted,
            timeouts: self.tally.timeouts,
            acks: self.tally.acks,
            acks_ignored: self.tally.ignored,
            round_trip: running.map(|running| running.transfer.round_trip()).unwrap_or_default(),
        }
    }
}

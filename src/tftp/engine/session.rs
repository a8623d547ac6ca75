//! One request and what comes of it, as an event loop keeps it.

use super::mailbox::Knock;
use super::outbox::Route;
use super::read_ahead::Cursor;
use super::takeover::{Noted, Resume};
use crate::client::netascii::Decoder;
use crate::content::{Content, Keep};
use crate::handler::Opened;
use crate::options::Terms;
use crate::packet::{Mode, Options, Packet};
use crate::report::{Outcome, TransferReport};
use crate::transfer::Transfer;
use crate::upload::Upload;
use crate::writable::Draft;
use guideway_packet::time::Time;
use std::future::Future;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

/// What packets of one transfer have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    pub client: SocketAddr,
    pub vip: IpAddr,
    /// Index of the socket that answers go from.
    pub port: u16,
}

impl Hash for Peer {
    /// In few words: it is done for every packet.
    fn hash<H: Hasher>(&self, to: &mut H) {
        match (self.client.ip(), self.vip) {
            (IpAddr::V4(client), IpAddr::V4(vip)) => to.write_u64(u64::from(client.to_bits()) << 32 | u64::from(vip.to_bits())),
            (client, vip) => (client, vip).hash(to),
        }
        to.write_u32(u32::from(self.client.port()) << 16 | u32::from(self.port));
    }
}

/// How far it is.
pub enum Stage {
    /// The handler or a thread of the opener pool is at it.
    Opening,
    /// A handler's future is to be ready.
    Waiting(Pin<Box<dyn Future<Output = Opened> + Send>>),
    /// There is content, but its first block is not at hand.
    Priming(Arc<dyn Content>),
    /// Everything is at hand, and an heir is to know of it before the client does.
    Noting(Box<Running>),
    /// Blocks are sent.
    Running(Box<Running>),
    /// Blocks come: the client writes.
    Receiving(Box<Receiving>),
}

/// A transfer with what it sends.
pub struct Running {
    pub transfer: Transfer,
    pub content: Arc<dyn Content>,
    pub size: Option<u64>,
    /// Empty when nothing was granted.
    pub oack: Box<[u8]>,
    /// Whether the kernel may cut windows apart.
    pub cut: bool,
    /// Since when content is waited for.
    pub starved: Option<Time>,
    /// The block whose acknowledgement other servers are to know of; never reached when they know nothing.
    pub renote: u64,
    /// What other servers were told.
    pub noted: Option<Noted>,
    /// Which of the transfers of this name it is, for them.
    pub serial: u64,
    /// Whether nothing may be sent before it is known whether another server has gone on with it.
    pub doubted: bool,
}

/// A transfer with what comes of it.
pub struct Receiving {
    pub upload: Upload,
    /// Empty when nothing was granted.
    pub oack: Box<[u8]>,
    /// Bytes that the client announced.
    pub size: Option<u64>,
    /// The file, from the first block on: a request that nobody follows up takes no place among those that are written.
    pub draft: Option<Draft>,
    /// For netascii.
    pub decoder: Option<Decoder>,
    /// Since when it is complete and on its way to the disk.
    pub storing: Option<Time>,
}

/// One request.
pub struct Session {
    pub peer: Peer,
    pub route: Route,
    /// The request as it came; it names the file and the options.
    pub request: Box<[u8]>,
    pub mode: Option<Mode>,
    pub stage: Stage,
    /// What another server, or an earlier life, left behind, until it is gone on with.
    pub resume: Option<Box<Resume>>,
    /// Whether it was gone on with.
    pub taken_over: bool,
    /// Whether it took the place of another transfer of the same client and ports.
    pub restart: bool,
    /// What the content wants to be kept as long as it is sent.
    pub keep: Vec<Keep>,
    pub cursor: Cursor,
    pub knock: Option<Arc<Knock>>,
    pub started: Time,
    pub answered: Option<Time>,
    /// The tick at which the timer wheel hands it out.
    pub scheduled: Option<u64>,
    pub tally: Tally,
}

/// What is counted of one transfer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub packets: u64,
    pub bytes: u64,
    pub received: u64,
    pub repeated: u64,
    pub timeouts: u64,
    pub acks: u64,
    pub ignored: u64,
}

impl Session {
    pub fn new(peer: Peer, route: Route, request: &[u8], now: Time) -> Session {
        Session {
            peer,
            route,
            request: request.into(),
            mode: None,
            stage: Stage::Opening,
            resume: None,
            taken_over: false,
            restart: false,
            keep: Vec::new(),
            cursor: Cursor::default(),
            knock: None,
            started: now,
            answered: None,
            scheduled: None,
            tally: Tally::default(),
        }
    }

    /// The file and the options, from the request.
    pub fn asked(&self) -> (&[u8], Options<'_>) {
        match Packet::parse(&self.request) {
            Ok(Packet::Request(request)) => (request.file, request.options),
            _ => (&[], Options::default()),
        }
    }

    /// When it must be looked at. `patience` is the time for opening and for content to come.
    pub fn deadline(&self, patience: std::time::Duration) -> Time {
        match &self.stage {
            Stage::Running(running) => match running.starved {
                Some(since) if !running.transfer.outstanding() => since.plus(patience),
                _ => running.transfer.deadline(),
            },
            // The disk has its own time; when that is long, one looks again.
            Stage::Receiving(receiving) => receiving.storing.map_or(receiving.upload.deadline(), |since| since.plus(patience)),
            _ => self.started.plus(patience),
        }
    }

    /// The report of its end.
    pub fn report(&self, tid: u16, outcome: Outcome, now: Time) -> TransferReport<'_> {
        let (file, options) = self.asked();
        let (running, receiving) = match &self.stage {
            Stage::Running(running) => (Some(running), None),
            Stage::Receiving(receiving) => (None, Some(receiving)),
            _ => (None, None),
        };
        let oack = running.map(|running| &running.oack).or(receiving.map(|receiving| &receiving.oack));
        let acknowledged = match oack.map(|oack| Packet::parse(oack)) {
            Some(Ok(Packet::Oack(options))) => options,
            _ => Options::default(),
        };
        TransferReport {
            client: self.peer.client,
            vip: self.peer.vip,
            tid,
            file,
            write: receiving.is_some(),
            taken_over: self.taken_over,
            mode: self.mode,
            options,
            acknowledged,
            terms: running.map(|running| *running.transfer.terms()).or(receiving.map(|receiving| *receiving.upload.terms()))
                as Option<Terms>,
            size: running.and_then(|running| running.size).or(receiving.and_then(|receiving| receiving.size)),
            version: running.map(|running| running.content.version()),
            outcome,
            duration: now - self.started,
            opening: self.answered.unwrap_or(now) - self.started,
            packets_sent: self.tally.packets,
            bytes_sent: self.tally.bytes,
            bytes_received: self.tally.received,
            blocks_acknowledged: running.map_or(0, |running| running.transfer.acked())
                + receiving.map_or(0, |receiving| receiving.upload.blocks()),
            repeated: self.tally.repeated,
            timeouts: self.tally.timeouts,
            acks: self.tally.acks,
            acks_ignored: self.tally.ignored,
            round_trip: running.map(|running| running.transfer.round_trip()).unwrap_or_default(),
        }
    }
}

//! Takeover state of an event loop.

use super::super::error::Error;
use super::super::key::Key;
use super::super::outbox::Outbox;
use super::super::peer::{Peer, Route};
use super::super::sockets::ServerSocket;
use super::queries::{MAX_QUERIED, OwnershipQueries};
use super::sent::SentMessage;
use super::spare_sockets::SpareSockets;
use crate::takeover::link::Link;
use crate::takeover::replay::{ReplayWindow, Tokens};
use crate::takeover::wire::{MAX_ITEMS, PeerMessage, Signer};
use crate::takeover::{CheckpointStore, Id, Member, Membership, Settings};
use arc_swap::ArcSwap;
use guideway_hash::KeyId;
use guideway_hash::successors::SuccessorRanking;
use guideway_packet::time::Time;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Interval of the search for lost messages. A successor that was cut off briefly must catch up soon, because owner and other successor may fail.
pub(super) const RESEND_INTERVAL: Duration = Duration::from_millis(100);
/// Interval of hellos to every peer, which show that it is alive and exchange tokens.
pub(super) const HELLO_INTERVAL: Duration = Duration::from_secs(1);

/// Status of takeover, for other threads.
#[derive(Debug, Default)]
pub struct TakeoverStatus {
    /// Stored checkpoints.
    pub transfers: AtomicU64,
    /// Approximate bytes that they take.
    pub bytes: AtomicU64,
    /// Other servers that answer.
    pub peers: AtomicU64,
    /// Keys under which checkpoints are accepted, the active one first.
    pub keys: ArcSwap<Vec<KeyId>>,
}

/// A set of recent peers, as a table of hashes in which a new entry replaces an old one.
pub(super) struct UnannouncedEnds {
    hashes: Box<[u64; 256]>,
    hasher: RandomState,
}

impl Default for UnannouncedEnds {
    fn default() -> Self {
        UnannouncedEnds { hashes: Box::new([0; 256]), hasher: RandomState::new() }
    }
}

impl UnannouncedEnds {
    pub(super) fn insert(&mut self, peer: &Peer) {
        let hash = self.hasher.hash_one(peer);
        self.hashes[hash as usize % 256] = hash;
    }

    pub(super) fn contains(&self, peer: &Peer) -> bool {
        let hash = self.hasher.hash_one(peer);
        self.hashes[hash as usize % 256] == hash
    }
}

/// Takeover state of an event loop.
pub struct Takeover {
    pub(super) membership: Arc<Membership>,
    pub(super) checkpoint_timeout: Duration,
    pub(super) signer: Signer,
    pub(super) tokens: Tokens,
    pub(super) stream: u8,
    /// Successors by the other accepted keys, the previously active one first: the servers of a fleet do not change the key at the same moment.
    pub(super) other_successors: Vec<SuccessorRanking>,
    /// Index of the socket for checkpoints.
    pub(super) socket: u16,
    /// Links to the servers of the membership, by index.
    pub(super) links: Vec<Link<SentMessage>>,
    /// Replay windows of each loop of each other server.
    pub(super) replay_windows: HashMap<(Box<[u8]>, u8), ReplayWindow>,
    /// Checkpoints of other servers, in the first loop only.
    pub(super) checkpoints: Option<CheckpointStore>,
    pub(super) status: Arc<TakeoverStatus>,
    /// Acknowledgements to send at the end of this iteration: address, token, numbers.
    pub(super) acks: Vec<(SocketAddr, u64, Vec<u64>)>,
    /// Ended transfers to announce, by index of the peer.
    pub(super) ended: Vec<Vec<Id>>,
    pub(super) last_hello: Option<Time>,
    /// When lost messages were last searched.
    pub(super) last_resend: Option<Time>,
    /// First answers that wait for a successor, with their time limits.
    pub(super) checkpoint_waits: VecDeque<(Time, Key)>,
    /// Transfers whose next checkpoint is due; one queue for each interval.
    pub(super) confirm_queue: VecDeque<(Time, Key)>,
    pub(super) renew_queue: VecDeque<(Time, Key)>,
    /// Transfers that wait for the confirmation of a successor.
    pub(super) held: Vec<Key>,
    pub(super) queries: OwnershipQueries,
    /// Peers whose transfer ended recently without an announcement to the successors.
    pub(super) unannounced_ends: UnannouncedEnds,
    /// Sockets for ports of other servers, by port.
    pub(super) foreign: HashMap<u16, Vec<u16>>,
    pub(super) spare_sockets: SpareSockets,
    pub(super) warned: bool,
}

impl Takeover {
    /// Creates the state of loop `index`, whose socket for checkpoints is `socket`.
    pub fn new(settings: &Settings, index: usize, socket: u16, status: Arc<TakeoverStatus>, spare_sockets: SpareSockets) -> Takeover {
        let mut takeover = Takeover {
            membership: Arc::clone(&settings.membership),
            checkpoint_timeout: settings.checkpoint_timeout,
            signer: Signer::new(&settings.membership.key()),
            tokens: Tokens::default(),
            stream: u8::try_from(index).unwrap_or(u8::MAX),
            other_successors: Vec::new(),
            socket,
            links: Vec::new(),
            replay_windows: HashMap::new(),
            checkpoints: (index == 0).then(|| CheckpointStore::new(settings.checkpoint_store)),
            status,
            acks: Vec::new(),
            ended: Vec::new(),
            last_hello: None,
            last_resend: None,
            checkpoint_waits: VecDeque::new(),
            confirm_queue: VecDeque::new(),
            renew_queue: VecDeque::new(),
            held: Vec::new(),
            queries: OwnershipQueries::default(),
            unannounced_ends: UnannouncedEnds::default(),
            foreign: HashMap::new(),
            spare_sockets,
            warned: false,
        };
        takeover.set_links(&Arc::clone(&settings.membership), Vec::new());
        takeover
    }

    /// Opens the socket for the checkpoints of loop `index`. Other servers know only that of the first loop, and answer to the source address.
    pub fn socket(settings: &Settings, index: usize, at: u16) -> Result<ServerSocket, Error> {
        let port = if index == 0 { settings.listen.port() } else { 0 };
        ServerSocket::for_checkpoints(SocketAddr::new(settings.listen.ip(), port), at)
    }

    /// Replaces the servers, and keeps the links to those that stay. Returns the new index of each, by its old one.
    pub(super) fn set_links(&mut self, membership: &Arc<Membership>, mut links: Vec<Link<SentMessage>>) -> Vec<Option<usize>> {
        let index = |member: &Member| membership.members().iter().position(|other| other.name == member.name);
        let remap: Vec<Option<usize>> = self.membership.members().iter().map(index).collect();
        let mut old_links: HashMap<String, Link<SentMessage>> =
            self.membership.members().iter().map(|member| member.name.clone()).zip(links.drain(..)).collect();
        let tokens = &mut self.tokens;
        let mut link = |name: &String| old_links.remove(name).unwrap_or_else(|| Link::new(tokens.generate()));
        self.links = membership.members().iter().map(|member| link(&member.name)).collect();
        let mut ended = std::mem::replace(&mut self.ended, vec![Vec::new(); membership.members().len()]);
        for (ids, index) in ended.iter_mut().zip(&remap).filter_map(|(ids, index)| Some((ids, (*index)?))) {
            self.ended[index] = std::mem::take(ids);
        }
        self.queries.remap(&remap);
        let accepted_keys = membership.accepted_keys(&self.membership);
        self.signer = Signer::new(&membership.key()).accepting_keys(&accepted_keys);
        let names = || membership.members().iter().map(|member| member.name.as_str());
        self.other_successors = accepted_keys.iter().map(|key| SuccessorRanking::new(*key, names())).collect();
        if self.checkpoints.is_some() {
            let keys = std::iter::once(membership.key()).chain(accepted_keys).map(|key| key.id());
            self.status.keys.store(Arc::new(keys.collect()));
        }
        self.membership = Arc::clone(membership);
        self.last_hello = None;
        remap
    }

    /// Returns the peers that may have a checkpoint of a transfer: by the active key, followed by those by another key if they differ.
    pub(super) fn checkpoint_holders(&self, id: &Id) -> [Option<usize>; MAX_QUERIED] {
        let [first, second] = self.membership.checkpoint_peers(id.vip, id.client, id.tid);
        let others =
            self.other_successors.first().map(|successors| self.membership.checkpoint_peers_by(successors, id.vip, id.client, id.tid));
        let [third, fourth] = others.filter(|others| others.iter().any(|other| ![first, second].contains(other))).unwrap_or_default();
        [first, second, third, fourth]
    }

    /// Returns whether a first answer waits for a successor.
    pub fn has_checkpoint_waits(&self) -> bool {
        !self.checkpoint_waits.is_empty()
    }

    /// Updates the number of responsive peers in the status.
    pub(super) fn count_peers(&self, now: Time) {
        if self.checkpoints.is_some() {
            let there = self.links.iter().filter(|link| !link.is_unresponsive(now)).count();
            self.status.peers.store(there as u64, Relaxed);
        }
    }

    /// Returns whether the socket with this index is the one for checkpoints.
    pub fn is_checkpoint_socket(&self, index: usize) -> bool {
        usize::from(self.socket) == index
    }

    /// Returns the time until takeover has work.
    pub fn until_next(&self, now: Time) -> Duration {
        let fronts = [&self.checkpoint_waits, &self.confirm_queue, &self.renew_queue]
            .into_iter()
            .filter_map(|queue| queue.front().map(|(at, _)| *at));
        let greeting = self.last_hello.map_or(now, |at| at.plus(HELLO_INTERVAL));
        let unanswered = self.links.iter().any(|link| link.has_unacked() && !link.is_unresponsive(now));
        let resend = unanswered.then(|| self.last_resend.map_or(now, |at| at.plus(RESEND_INTERVAL)));
        fronts.chain(self.queries.due()).chain(resend).fold(greeting, |first, at| if at < first { at } else { first }) - now
    }

    /// Queues a message.
    pub(super) fn send_message(&self, outbox: &mut Outbox, to: SocketAddr, message: &PeerMessage) {
        outbox.packet(Route { socket: self.socket, to, from: None }, |bytes| {
            self.signer.write(bytes, &self.membership.me().name, self.stream, message);
        });
    }

    /// Queues an announcement of ended transfers.
    pub(super) fn send_ended(&mut self, outbox: &mut Outbox, peer: usize, ids: &[Id], now: Time) {
        let sequence = self.links[peer].record_sent(SentMessage::Ended(ids.into()), now);
        self.send_message(outbox, self.membership.members()[peer].checkpoint_address, &PeerMessage::Ended(sequence, ids.to_vec()));
    }

    /// Queues an acknowledgement for the end of this iteration.
    pub(super) fn queue_ack(&mut self, to: SocketAddr, token: u64, number: u64) {
        match self.acks.iter_mut().find(|(known, under, numbers)| *known == to && *under == token && numbers.len() < MAX_ITEMS) {
            Some((_, _, numbers)) => numbers.push(number),
            None => self.acks.push((to, token, vec![number])),
        }
    }
}

#[cfg(test)]
mod tests;

//! Takeover in an event loop: the notes go out and come in here, and transfers of others are gone on with.
//!
//! | file | is |
//! |---|---|
//! | `owner`, `noted` | what heirs are told of the transfers that are served here, and what they are known to know |
//! | `again` | greetings, and what is said once more |
//! | `heir` | what is kept for others, and told to those who ask |
//! | `ask` | a packet of a transfer that is not known: who knows it? |
//! | `doubt` | a client that was not heard for long: did somebody else go on? |
//! | `resume` | going on with it, from the address that its client knows |
//!
//! The first loop takes notes, keeps them, and serves transfers of others' ports; the other loops are owners only, each with a socket and a stream of
//! its own. Nothing here costs a packet of a running transfer more than one comparison.

mod again;
mod ask;
mod doubt;
mod heir;
mod noted;
mod owner;
mod resume;
#[cfg(test)]
mod tests;

pub(super) use noted::Noted;
pub(super) use owner::goes_on;
pub(super) use resume::{Resume, Spares};

use super::Key;
use super::event_loop::EventLoop;
use super::outbox::{Outbox, Route};
use super::ports::{Error, Port};
use super::session::{Peer, Stage};
use super::sys::{Patience, Received, Receiver};
use crate::report::Counter;
use crate::takeover::fresh::{Fresh, Tokens};
use crate::takeover::link::Link;
use crate::takeover::wire::{MOST, Said, Signer};
use crate::takeover::{Id, Member, Memory, Plan, Settings};
use arc_swap::ArcSwap;
use ask::Questions;
use guideway_hash::KeyId;
use guideway_hash::heirs::Heirs;
use guideway_packet::time::Time;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Servers that one question goes to: two, and two more while the fleet changes its key.
const ASKED: usize = 4;
/// How often it is looked for what was lost on the way to a peer. An heir that was cut off for a moment must know soon: owner and other heir may die.
const MISSED: Duration = Duration::from_millis(100);
/// How often every peer is greeted: so it is known who is there, and under which token.
const GREETING: Duration = Duration::from_secs(1);

/// How much is kept for others, for whoever looks from outside.
#[derive(Debug, Default)]
pub struct Occupancy {
    /// Transfers.
    pub transfers: AtomicU64,
    /// Bytes, about.
    pub bytes: AtomicU64,
    /// Other servers that answer.
    pub peers: AtomicU64,
    /// Keys under which notes are believed: first the one that they are signed with.
    pub keys: ArcSwap<Vec<KeyId>>,
}

/// What a peer was told about.
#[derive(Clone, Debug)]
enum About {
    /// That we live.
    Hello,
    /// That a transfer is at this block.
    Transfer(Key, u64),
    /// That something is asked, under this number.
    Question(u64),
    /// That transfers have ended.
    Ended(Box<[Id]>),
}

/// Some peers, those that were put there last: by hashes, of which a new one takes the place of an old one.
struct Lingering(Box<[u64; 256]>);

impl Default for Lingering {
    fn default() -> Self {
        Lingering(Box::new([0; 256]))
    }
}

impl Lingering {
    fn insert(&mut self, hasher: &RandomState, peer: &Peer) {
        let hash = hasher.hash_one(peer);
        self.0[hash as usize % 256] = hash;
    }

    fn contains(&self, hasher: &RandomState, peer: &Peer) -> bool {
        let hash = hasher.hash_one(peer);
        self.0[hash as usize % 256] == hash
    }
}

/// What a loop has for takeover.
pub struct Takeover {
    plan: Arc<Plan>,
    wait: Duration,
    signer: Signer,
    tokens: Tokens,
    stream: u8,
    /// Who the heirs are by the other keys that are believed, first by the one that was in use before: the fleet changes its key, and not all servers at once.
    others: Vec<Heirs>,
    /// Index of the socket for notes.
    port: u16,
    /// To each server of the plan, by place.
    links: Vec<Link<About>>,
    /// From each loop of each other server.
    heard: HashMap<(Box<[u8]>, u8), Fresh>,
    /// Notes of others; in the first loop only.
    memory: Option<Memory>,
    occupancy: Arc<Occupancy>,
    /// Answers that go out at the end of this turn: to whom, under which token, which numbers.
    acks: Vec<(SocketAddr, u64, Vec<u64>)>,
    /// Transfers that ended, by the place of who is to know.
    ended: Vec<Vec<Id>>,
    greeted: Option<Time>,
    /// When it was last looked for what peers did not answer.
    missed: Option<Time>,
    /// First answers that wait for an heir, until when.
    waits: VecDeque<(Time, Key)>,
    /// Transfers whose next note is due, by how long after the one before.
    young: VecDeque<(Time, Key)>,
    old: VecDeque<(Time, Key)>,
    /// Transfers that are further than an heir is known to know.
    holds: Vec<Key>,
    questions: Questions,
    /// Peers whose transfer ended lately without the heirs being told.
    lingering: Lingering,
    /// Sockets for ports of other servers, by port.
    foreign: HashMap<u16, Vec<u16>>,
    spares: Spares,
    warned: bool,
}

impl Takeover {
    /// For loop `index`, whose socket for notes is `port`.
    pub fn new(settings: &Settings, index: usize, port: u16, occupancy: Arc<Occupancy>, spares: Spares) -> Takeover {
        let mut takeover = Takeover {
            plan: Arc::clone(&settings.plan),
            wait: settings.wait,
            signer: Signer::new(&settings.plan.key()),
            tokens: Tokens::default(),
            stream: u8::try_from(index).unwrap_or(u8::MAX),
            others: Vec::new(),
            port,
            links: Vec::new(),
            heard: HashMap::new(),
            memory: (index == 0).then(|| Memory::new(settings.memory)),
            occupancy,
            acks: Vec::new(),
            ended: Vec::new(),
            greeted: None,
            missed: None,
            waits: VecDeque::new(),
            young: VecDeque::new(),
            old: VecDeque::new(),
            holds: Vec::new(),
            questions: Questions::default(),
            lingering: Lingering::default(),
            foreign: HashMap::new(),
            spares,
            warned: false,
        };
        takeover.set_links(&Arc::clone(&settings.plan), Vec::new());
        takeover
    }

    /// The socket for the notes of loop `index`. Only that of the first loop is known to others; they answer to where a note came from.
    pub fn port(settings: &Settings, index: usize, at: u16) -> Result<Port, Error> {
        let port = if index == 0 { settings.listen.port() } else { 0 };
        Port::for_notes(SocketAddr::new(settings.listen.ip(), port), at)
    }

    /// Who the servers are from now on. Links to those that stay stay; where each has its place now is said, by its old place.
    fn set_links(&mut self, plan: &Arc<Plan>, mut links: Vec<Link<About>>) -> Vec<Option<usize>> {
        let place = |member: &Member| plan.members().iter().position(|other| other.name == member.name);
        let moved: Vec<Option<usize>> = self.plan.members().iter().map(place).collect();
        let mut old: HashMap<String, Link<About>> =
            self.plan.members().iter().map(|member| member.name.clone()).zip(links.drain(..)).collect();
        let tokens = &mut self.tokens;
        let mut link = |name: &String| old.remove(name).unwrap_or_else(|| Link::new(tokens.fresh()));
        self.links = plan.members().iter().map(|member| link(&member.name)).collect();
        let mut ended = std::mem::replace(&mut self.ended, vec![Vec::new(); plan.members().len()]);
        for (ids, place) in ended.iter_mut().zip(&moved).filter_map(|(ids, place)| Some((ids, (*place)?))) {
            self.ended[place] = std::mem::take(ids);
        }
        self.questions.moved(&moved);
        let believed = plan.believed(&self.plan);
        self.signer = Signer::new(&plan.key()).believing(&believed);
        let names = || plan.members().iter().map(|member| member.name.as_str());
        self.others = believed.iter().map(|key| Heirs::new(*key, names())).collect();
        if self.memory.is_some() {
            let keys = std::iter::once(plan.key()).chain(believed).map(|key| key.id());
            self.occupancy.keys.store(Arc::new(keys.collect()));
        }
        self.plan = Arc::clone(plan);
        self.greeted = None;
        moved
    }

    /// Who may know of a transfer: the confidants of whoever serves it by the key in use, and behind them those by another key, unless they are the same.
    fn who_may_know(&self, id: &Id) -> [Option<usize>; ASKED] {
        let [first, second] = self.plan.confidants(id.vip, id.client, id.tid);
        let others = self.others.first().map(|heirs| self.plan.confidants_by(heirs, id.vip, id.client, id.tid));
        let [third, fourth] = others.filter(|others| others.iter().any(|other| ![first, second].contains(other))).unwrap_or_default();
        [first, second, third, fourth]
    }

    /// Whether something waits for an answer that is about to come.
    pub fn is_waiting(&self) -> bool {
        !self.waits.is_empty()
    }

    /// Tells how many other servers answer.
    fn count_peers(&self, now: Time) {
        if self.memory.is_some() {
            let there = self.links.iter().filter(|link| !link.is_mute(now)).count();
            self.occupancy.peers.store(there as u64, Relaxed);
        }
    }

    /// Whether the socket of this index is the one for notes.
    pub fn is_for_notes(&self, index: usize) -> bool {
        usize::from(self.port) == index
    }

    /// How long nothing is to be done here.
    pub fn idle(&self, now: Time) -> Duration {
        let fronts = [&self.waits, &self.young, &self.old].into_iter().filter_map(|queue| queue.front().map(|(at, _)| *at));
        let greeting = self.greeted.map_or(now, |at| at.plus(GREETING));
        let unanswered = self.links.iter().any(|link| link.waits() && !link.is_mute(now));
        let missed = unanswered.then(|| self.missed.map_or(now, |at| at.plus(MISSED)));
        fronts.chain(self.questions.due()).chain(missed).fold(greeting, |first, at| if at < first { at } else { first }) - now
    }

    /// Queues what is said to somebody.
    fn say(&self, outbox: &mut Outbox, to: SocketAddr, said: &Said) {
        outbox.packet(Route { port: self.port, to, from: None }, |bytes| {
            self.signer.write(bytes, &self.plan.me().name, self.stream, said);
        });
    }

    /// Tells a peer that these ended.
    fn say_ended(&mut self, outbox: &mut Outbox, peer: usize, ids: &[Id], now: Time) {
        let place = self.links[peer].say(About::Ended(ids.into()), now);
        self.say(outbox, self.plan.members()[peer].notes, &Said::Ended(place, ids.to_vec()));
    }

    /// Remembers to say at the end of this turn that something came.
    fn ack(&mut self, to: SocketAddr, token: u64, number: u64) {
        match self.acks.iter_mut().find(|(known, under, numbers)| *known == to && *under == token && numbers.len() < MOST) {
            Some((_, _, numbers)) => numbers.push(number),
            None => self.acks.push((to, token, vec![number])),
        }
    }
}

impl EventLoop {
    /// Takes what other servers say.
    pub(super) fn receive_notes(&mut self, receiver: &mut Receiver) {
        for _ in 0..super::event_loop::TURNS {
            let Some(port) = self.takeover.as_ref().map(|takeover| takeover.port) else { return };
            let Ok((count, more)) = receiver.receive(self.ports[usize::from(port)].as_fd(), Patience::Now) else { return };
            for at in 0..count {
                if let Some(received) = receiver.get(at) {
                    self.note_came(&received);
                }
            }
            if !more {
                return;
            }
        }
    }

    fn note_came(&mut self, received: &Received<'_>) {
        let Some(takeover) = self.takeover.as_deref_mut() else { return };
        let heard = takeover.signer.read(received.bytes).and_then(|heard| Some((takeover.plan.find(heard.from)?, heard)));
        // Whoever replays what a server signed must not choose who is answered.
        let known = heard.filter(|(at, _)| {
            let member = &takeover.plan.members()[*at];
            member.notes.ip() == received.from.ip() && *member != *takeover.plan.me()
        });
        let Some((peer, heard)) = known else { return self.counters.add(Counter::NotesInvalid, 1) };
        let from = received.from;
        match heard.said {
            Said::Acks(_, numbers) => {
                for number in numbers {
                    let about = self.takeover.as_deref_mut().and_then(|takeover| takeover.links[peer].acked(number));
                    if about.is_some() {
                        self.answered(peer);
                    }
                    if let Some(About::Transfer(key, block)) = about {
                        self.noted(key, peer, block);
                    }
                }
            }
            Said::Refused(place, token) => self.say_again(peer, place, token),
            Said::Known(nonce, note) => self.somebody_knows(nonce, peer, *note),
            Said::Unknown(nonce) => self.somebody_knows_not(nonce, peer),
            Said::Query(place, nonce, id) => {
                if self.is_fresh(from, heard.from, heard.stream, place) {
                    self.answer(from, nonce, &id);
                }
            }
            Said::Behind(place, nonce, id, block) => {
                if self.is_fresh(from, heard.from, heard.stream, place) {
                    self.answer_behind(from, nonce, &id, block);
                }
            }
            Said::NotKept(place) => {
                let about = self.takeover.as_deref_mut().and_then(|takeover| takeover.links[peer].acked(place.number));
                if about.is_some() {
                    self.answered(peer);
                }
                if let Some(About::Transfer(key, _)) = about {
                    self.not_kept(key, peer);
                }
            }
            Said::Hello(place) => {
                if self.is_fresh(from, heard.from, heard.stream, place)
                    && let Some(takeover) = &mut self.takeover
                {
                    takeover.ack(from, place.token, place.number);
                } else if place.token == 0 && self.takeover.as_mut().is_some_and(|takeover| takeover.links[peer].hail(self.now)) {
                    // If it has begun a new life it will not take this, and is told of all transfers at once: the next one to die may be we.
                    self.say_about(peer, About::Hello);
                }
            }
            Said::Note(place, note) => {
                if self.is_fresh(from, heard.from, heard.stream, place) {
                    self.keep(from, peer, place, *note);
                }
            }
            Said::Ended(place, ids) => {
                if self.is_fresh(from, heard.from, heard.stream, place) {
                    ids.iter().for_each(|id| self.forget(id));
                    if let Some(takeover) = &mut self.takeover {
                        takeover.ack(from, place.token, place.number);
                    }
                }
            }
        }
    }

    /// A peer has answered something that was open: only so it is known to be there, for whatever else it signed may be replayed.
    fn answered(&mut self, peer: usize) {
        let Some(takeover) = self.takeover.as_deref_mut() else { return };
        if takeover.links[peer].heard(self.now) {
            takeover.count_peers(self.now);
            // It missed something while it was not there.
            self.tell_all(Some(peer));
        }
    }

    /// What is due, at the end of a turn of the loop and before what is queued is sent.
    pub(super) fn takeover_turn(&mut self) {
        let Some(takeover) = self.takeover.as_deref_mut() else { return };
        let now = self.now;
        let due = |queue: &mut VecDeque<(Time, Key)>| {
            let front = queue.front().is_some_and(|(at, _)| *at <= now);
            if front { queue.pop_front().map(|(_, key)| key) } else { None }
        };
        if takeover.greeted.is_none_or(|at| now - at >= GREETING) {
            self.greet();
        }
        self.say_what_was_missed();
        while let Some(key) = self.takeover.as_deref_mut().and_then(|takeover| due(&mut takeover.waits)) {
            self.waited_in_vain(key);
        }
        while let Some(key) = self.takeover.as_deref_mut().and_then(|takeover| due(&mut takeover.young)) {
            self.confirm(key);
        }
        while let Some(key) = self.takeover.as_deref_mut().and_then(|takeover| due(&mut takeover.old)) {
            self.renew(key);
        }
        self.ask_again();
        let Some(takeover) = self.takeover.as_deref_mut() else { return };
        for (to, token, numbers) in std::mem::take(&mut takeover.acks) {
            takeover.say(&mut self.outbox, to, &Said::Acks(token, numbers));
        }
        for peer in 0..takeover.ended.len() {
            if takeover.ended[peer].is_empty() {
                continue;
            }
            let ids = std::mem::take(&mut takeover.ended[peer]);
            ids.chunks(MOST).for_each(|ids| takeover.say_ended(&mut self.outbox, peer, ids, now));
        }
        if let Some(memory) = &takeover.memory {
            takeover.occupancy.transfers.store(memory.len() as u64, Relaxed);
            takeover.occupancy.bytes.store(memory.bytes() as u64, Relaxed);
        }
    }

    /// Whether heirs may know an earlier transfer of this peer, which they must not take for the one that begins.
    pub(super) fn lingers(&self, peer: &Peer) -> bool {
        self.takeover.as_ref().is_some_and(|takeover| takeover.lingering.contains(&self.hasher, peer))
    }

    /// The pool has changed: those who are heirs now and were not are told at once.
    pub(super) fn set_plan(&mut self, plan: &Arc<Plan>) {
        let Some(takeover) = self.takeover.as_deref_mut() else { return };
        let links = std::mem::take(&mut takeover.links);
        let moved = takeover.set_links(plan, links);
        for session in self.sessions.iter_mut().filter_map(|(_, session)| session.as_deref_mut()) {
            if let Stage::Running(running) | Stage::Noting(running) = &mut session.stage
                && let Some(noted) = &mut running.noted
            {
                noted.moved(&moved);
            }
        }
        self.open_foreign_ports();
        self.tell_all(None);
    }
}

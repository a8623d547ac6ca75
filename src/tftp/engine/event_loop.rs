//! The loop: waits, receives, tells datagrams apart, handles timers and messages, sends.

use super::direct::{DIRECT, Direct};
use super::finished::Finished;
use super::mailbox::{Mail, Mailbox};
use super::openers::Openers;
use super::outbox::{Flushed, Outbox, Route};
use super::ports::{PathMtu, Port, scope};
use super::read_ahead::ReadAhead;
use super::session::{Peer, Session};
use super::sessions::After;
use super::sys::{Local, Patience, Received, Receiver};
use super::takeover::Takeover;
use super::tunnel::{Target, Tunnel};
use super::unheard::Unheard;
use super::wheel::Wheel;
use super::{Config, Key};
use crate::handler::Handler;
use crate::packet::{ErrorCode, Malformed, Packet, put_error};
use crate::report::{Counter, Counters, Observer, Statistics};
use guideway_packet::time::Time;
use guideway_sys::monotonic;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::collections::HashMap;
use std::hash::RandomState;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

/// Datagrams received with one call, and the longest request that is understood.
const BATCH: usize = 64;
const LONGEST: usize = 2048;
/// The longest datagram that there can be, for those who write.
const DATAGRAM: usize = 65_536;
/// Batches taken from one socket before the others have their turn.
pub(super) const TURNS: usize = 4;
/// Slots of the read-ahead.
const SLOTS: u16 = 256;
/// Turns at a busy socket before the others are looked at, at least and at most; beyond the least only for so long.
const HOT: usize = 16;
const HOTTEST: usize = 256;
const HEAT: Duration = Duration::from_millis(1);
/// Longest wait.
const IDLE: Duration = Duration::from_secs(10);

/// What events of other sockets than those for transfers are told apart by.
const BELL: u64 = 1 << 32;
const NOTES: u64 = BELL + 1;
const TUNNEL: u64 = BELL + 2;

/// What a loop is made of.
pub struct Parts {
    pub config: Config,
    pub ports: Vec<Port>,
    pub tunnel: Option<Tunnel>,
    pub handler: Arc<dyn Handler>,
    pub observer: Arc<dyn Observer>,
    pub counters: Arc<Counters>,
    /// For the loop that calls the observer at intervals.
    pub statistics: Option<Statistics>,
    pub mailbox: Arc<Mailbox>,
    pub openers: Openers,
}

/// One event loop.
pub struct EventLoop {
    pub(super) config: Config,
    pub(super) ports: Vec<Port>,
    /// Those that are bound for transfers at addresses of this host.
    pub(super) plain: Vec<u16>,
    /// The one for the client that everything comes from, if there is such a one; and whose packets came last, how many in a row.
    pub(super) direct: Option<Direct>,
    pub(super) alone: (Key, u16),
    /// Those that nothing is received from yet.
    pub(super) unwatched: Vec<u16>,
    tunnel: Option<Tunnel>,
    pub(super) takeover: Option<Box<Takeover>>,
    pub(super) handler: Arc<dyn Handler>,
    pub(super) observer: Arc<dyn Observer>,
    pub(super) counters: Arc<Counters>,
    statistics: Option<Statistics>,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) openers: Openers,
    pub(super) sessions: Vec<(u32, Option<Box<Session>>)>,
    pub(super) free: Vec<u32>,
    pub(super) unheard: Unheard,
    pub(super) finished: Finished,
    pub(super) peers: HashMap<Peer, Key>,
    /// The transfer that the last ACK was of.
    pub(super) latest: Option<Key>,
    pub(super) per_client: HashMap<IpAddr, usize>,
    pub(super) outbox: Outbox,
    pub(super) read_ahead: ReadAhead,
    pub(super) flushed: Flushed,
    pub(super) mtu: PathMtu,
    pub(super) wheel: Wheel<Key>,
    /// Hashes of peers whose transfer ended lately: what still comes from them is no stranger's.
    pub(super) ended: Box<[u64; 256]>,
    pub(super) hasher: RandomState,
    pub(super) told: (u64, u32),
    observed: Time,
    /// The socket that the last events were of, and how many in a row.
    streak: (u16, u16),
    pub(super) now: Time,
}

impl EventLoop {
    pub fn new(parts: Parts) -> EventLoop {
        let now = monotonic();
        let tunnelled = |port: &Port| parts.config.tunnel.as_ref().is_some_and(|tunnel| tunnel.vips.contains(&port.local.ip()));
        let answers = parts.ports.iter().enumerate().filter(|(at, port)| usize::from(port.reply) == *at && !tunnelled(port));
        let plain = answers.map(|(_, port)| port.reply).collect();
        EventLoop {
            config: parts.config,
            plain,
            direct: None,
            alone: (Key { index: u32::MAX, generation: 0 }, 0),
            unwatched: Vec::new(),
            ports: parts.ports,
            tunnel: parts.tunnel,
            takeover: None,
            handler: parts.handler,
            observer: parts.observer,
            counters: parts.counters,
            statistics: parts.statistics,
            mailbox: parts.mailbox,
            openers: parts.openers,
            sessions: Vec::new(),
            free: Vec::new(),
            unheard: Unheard::default(),
            finished: Finished::default(),
            peers: HashMap::new(),
            latest: None,
            per_client: HashMap::new(),
            outbox: Outbox::default(),
            read_ahead: ReadAhead::new(SLOTS),
            flushed: Flushed::default(),
            mtu: PathMtu::new(),
            wheel: Wheel::new(now),
            ended: Box::new([0; 256]),
            hasher: RandomState::new(),
            told: (0, 0),
            observed: now,
            streak: (0, 0),
            now,
        }
    }

    /// Runs until it is told to stop.
    ///
    /// # Errors
    /// When the kernel refuses to wait for events, which it has no reason to.
    pub fn run(&mut self) -> io::Result<()> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        for (index, port) in self.ports.iter().enumerate() {
            let notes = self.takeover.as_ref().is_some_and(|takeover| takeover.is_for_notes(index));
            epoll.add(port, EpollEvent::new(EpollFlags::EPOLLIN, if notes { NOTES } else { index as u64 }))?;
        }
        self.unwatched.clear();
        epoll.add(&*self.mailbox, EpollEvent::new(EpollFlags::EPOLLIN, BELL))?;
        for (index, socket) in self.tunnel.iter().flat_map(Tunnel::sockets).enumerate() {
            epoll.add(socket, EpollEvent::new(EpollFlags::EPOLLIN, TUNNEL + index as u64))?;
        }
        // Memory of longer ones is taken when they come.
        let mut receiver = Receiver::new(BATCH, if self.config.writable.is_some() { DATAGRAM } else { LONGEST });
        let mut events = [EpollEvent::empty(); 32];
        let mut due = Vec::new();
        let mut hot = None;
        loop {
            let mut turns = 0;
            let since = self.now;
            while (turns < HOT || turns < HOTTEST && self.now - since < HEAT)
                && let Some(index) = hot
            {
                turns += 1;
                hot = self.receive_hot(index, &mut receiver);
                match hot {
                    Some(index) => {
                        self.streak.0 = index;
                        self.timers(&mut due);
                        self.flush();
                    }
                    None => self.streak.1 = 0,
                }
            }
            // What waits there already is to be seen, too.
            if let Some(direct) = self.direct.as_mut().filter(|direct| !direct.watched) {
                epoll.add(&*direct, EpollEvent::new(EpollFlags::EPOLLIN, u64::from(DIRECT)))?;
                direct.watched = true;
            }
            // A socket that is to be closed waits for nothing.
            let closes = self.direct.as_ref().is_some_and(|direct| direct.over);
            let wait = if hot.is_some() || closes { EpollTimeout::ZERO } else { self.wait() };
            let count = match epoll.wait(&mut events, wait) {
                Ok(count) => count,
                Err(Errno::EINTR) => 0,
                Err(error) => return Err(error.into()),
            };
            self.now = monotonic();
            hot = self.streak(&events[..count]);
            for event in &events[..count] {
                match event.data() {
                    index if index < BELL => self.receive(index as u16, &mut receiver),
                    NOTES => self.receive_notes(&mut receiver),
                    BELL => {
                        if self.read_mail() {
                            self.finish();
                            return Ok(());
                        }
                    }
                    index => self.receive_tunnel((index - TUNNEL) as usize, &mut receiver),
                }
            }
            self.timers(&mut due);
            self.takeover_turn();
            self.flush();
            self.settle();
            self.close_direct(&mut receiver);
            for index in self.unwatched.drain(..) {
                epoll.add(&self.ports[usize::from(index)], EpollEvent::new(EpollFlags::EPOLLIN, u64::from(index)))?;
            }
        }
    }

    /// The socket of transfers that everything has come from for a while. Whatever else happens (a request, a message of another thread)
    /// starts the count anew, so that nothing that is likely to happen again soon waits behind a busy socket.
    fn streak(&mut self, events: &[EpollEvent]) -> Option<u16> {
        match events {
            [] => {}
            [event] if self.is_for_transfers(event.data()) => {
                let index = event.data() as u16;
                let length = if self.streak.0 == index { self.streak.1.saturating_add(1) } else { 0 };
                self.streak = (index, length);
            }
            _ => self.streak.1 = 0,
        }
        // Nothing of what heirs say may wait behind a busy socket while a client waits for it.
        let waits = self.takeover.as_ref().is_some_and(|takeover| takeover.is_waiting());
        (self.streak.1 >= HOT as u16 && !waits).then_some(self.streak.0)
    }

    fn is_for_transfers(&self, event: u64) -> bool {
        event == u64::from(DIRECT) || self.ports.get(event as usize).is_some_and(|port| u64::from(port.reply) == event)
    }

    fn wait(&mut self) -> EpollTimeout {
        let wait = self.wheel.idle(self.now).unwrap_or(IDLE).min(IDLE);
        let wait = if self.statistics.is_some() { wait.min(self.observer.interval()) } else { wait };
        let wait = self.takeover.as_ref().map_or(wait, |takeover| wait.min(takeover.idle(self.now)));
        // Rounded up: a wait that ends before the timer's turn would be repeated without need.
        EpollTimeout::try_from(u32::try_from(wait.as_millis() + 1).unwrap_or(1000)).unwrap_or(EpollTimeout::ZERO)
    }

    /// The socket of this index; nothing when it was closed.
    fn socket(&self, index: u16) -> Option<BorrowedFd<'_>> {
        if index == DIRECT { self.direct.as_ref().map(AsFd::as_fd) } else { self.ports.get(usize::from(index)).map(AsFd::as_fd) }
    }

    pub(super) fn receive(&mut self, index: u16, receiver: &mut Receiver) {
        for _ in 0..TURNS {
            // An error concerns a datagram that we sent.
            let got = self.socket(index).map(|socket| receiver.receive(socket, Patience::Now));
            if index == DIRECT {
                self.looked(got.as_ref());
            }
            let Some(Ok((count, more))) = got else { return };
            self.counted(index, count);
            self.datagrams(index, receiver, count);
            if !more {
                return;
            }
            if self.outbox.is_full() {
                self.flush();
            }
        }
    }

    /// Waits at the one socket that everything came from lately, which saves asking which it is; where to wait next, unless nothing came.
    fn receive_hot(&mut self, index: u16, receiver: &mut Receiver) -> Option<u16> {
        if index == DIRECT && self.direct.as_ref().is_some_and(|direct| direct.its_own) {
            return self.receive_direct(receiver);
        }
        let (count, _) = receiver.receive(self.socket(index)?, Patience::Briefly).ok()?;
        self.now = monotonic();
        self.counted(index, count);
        self.datagrams(index, receiver, count);
        let over = index == DIRECT && self.direct.as_ref().is_none_or(|direct| direct.over);
        (!over).then(|| if count == 1 { self.alone(index) } else { index })
    }

    fn datagrams(&mut self, index: u16, receiver: &Receiver, count: usize) {
        for at in 0..count {
            if let Some(received) = receiver.get(at) {
                self.datagram(index, &received);
            }
        }
    }

    fn receive_tunnel(&mut self, index: usize, receiver: &mut Receiver) {
        for _ in 0..TURNS {
            let Some(tunnel) = &self.tunnel else { return };
            let Ok((count, more)) = tunnel.receive(index, receiver) else { return };
            for at in 0..count {
                let unwrapped = receiver.get(at).and_then(|outer| self.tunnel.as_ref()?.unwrap(index, outer.bytes));
                match unwrapped {
                    Some((Target::Port(port, listens), received)) => self.deliver(port, listens, &received),
                    Some((Target::Other(address), received)) => self.deliver_foreign(address, &received),
                    None => self.counters.add(Counter::Malformed, 1),
                }
            }
            if !more {
                return;
            }
            if self.outbox.is_full() {
                self.flush();
            }
        }
    }

    /// A datagram in GRE for a port that no socket of ours is bound to: another server's, or nobody's.
    fn deliver_foreign(&mut self, address: SocketAddr, received: &Received<'_>) {
        let foreign = self.takeover.as_ref().is_some_and(|takeover| takeover.is_foreign(address.port()));
        let port = if foreign { self.foreign_port(address) } else { None };
        match (port, &mut self.tunnel) {
            (Some(port), Some(tunnel)) => {
                tunnel.answer(address, port);
                self.deliver(port, false, received);
            }
            _ => self.counters.add(Counter::Malformed, 1),
        }
    }

    /// A datagram from one of the UDP sockets.
    pub(super) fn datagram(&mut self, index: u16, received: &Received<'_>) {
        match &self.direct {
            // It is bound to an address, and so is not told it for each packet.
            Some(direct) if index == DIRECT => self.deliver(direct.peer.port, false, &Received { local: direct.from, ..*received }),
            _ => {
                let port = &self.ports[usize::from(index)];
                self.deliver(port.reply, port.listens, received);
            }
        }
    }

    pub(super) fn nice(&self) -> u8 {
        self.config.nice
    }

    /// A datagram whose answer goes from the socket `reply`.
    pub(super) fn deliver(&mut self, reply: u16, listens: bool, received: &Received<'_>) {
        self.counters.add(Counter::Datagrams, 1);
        let (client, bytes) = (received.from, received.bytes);
        let bound = self.ports[usize::from(reply)].local.ip();
        let from = received.local.filter(|_| bound.is_unspecified()).map(|local| Local { interface: scope(client), ..local });
        let route = Route { port: reply, to: client, from };
        let peer = Peer { client, vip: from.map_or(bound, |local| local.address), port: reply };
        match Packet::parse(bytes) {
            Ok(Packet::Request(request)) if listens && !received.cut && bytes.len() <= LONGEST => {
                self.request(peer, route, bytes, &request)
            }
            Ok(Packet::Ack { block }) => self.ack(peer, route, block),
            Ok(Packet::Error { code, text }) => {
                self.counters.add(Counter::ErrorsReceived, 1);
                self.client_error(peer, code, text);
            }
            Ok(Packet::Data { block, data }) => self.data(peer, route, block, data),
            Err(Malformed::Unterminated) if listens => {
                self.counters.add(Counter::Malformed, 1);
                self.error(route, ErrorCode::ILLEGAL, "the request does not end");
            }
            Ok(Packet::Request(_)) if listens => {
                self.counters.add(Counter::Malformed, 1);
                self.error(route, ErrorCode::ILLEGAL, "the request is too long");
            }
            _ => self.counters.add(Counter::Malformed, 1),
        }
    }

    /// Queues an ERROR.
    pub(super) fn error(&mut self, route: Route, code: ErrorCode, text: &str) {
        self.outbox.packet(route, |to| put_error(to, code, text.as_bytes()));
    }

    pub(super) fn read_mail(&mut self) -> bool {
        let mut stop = false;
        for mail in self.mailbox.take() {
            match mail {
                Mail::Opened(key, opened) => self.with(key, |this, session| this.opened(key, session, opened)),
                Mail::Stored(key, stored) => self.with(key, |this, session| this.stored(session, stored)),
                Mail::Woken(key) => self.with(key, |this, session| this.woken(key, session)),
                Mail::Plan(plan) => self.set_plan(&plan),
                Mail::Stop => stop = true,
            }
        }
        stop
    }

    pub(super) fn timers(&mut self, due: &mut Vec<(u64, Key)>) {
        self.wheel.turn(self.now, due);
        for (tick, key) in due.drain(..) {
            // A timer that was set anew for an earlier time leaves its old entry behind.
            if self.session(key).is_none_or(|session| session.scheduled != Some(tick)) {
                continue;
            }
            self.with(key, |this, session| {
                session.scheduled = None;
                if session.deadline(this.config.open_timeout) > this.now { After::Keep } else { this.expired(key, session) }
            });
        }
    }

    /// Sends what is queued.
    pub(super) fn flush(&mut self) {
        self.outbox.flush(&self.ports, self.direct.as_ref(), &self.read_ahead, &mut self.flushed);
    }

    /// Takes note of what the kernel said of the flushes, and calls the observer when it is time.
    pub(super) fn settle(&mut self) {
        if self.flushed.failed > 0 {
            self.counters.add(Counter::SendErrors, std::mem::take(&mut self.flushed.failed));
        }
        for key in std::mem::take(&mut self.flushed.uncut) {
            if let Some(session) = self.session(key) {
                session.never_cut();
            }
        }
        if !self.flushed.lost.is_empty() {
            for key in std::mem::take(&mut self.flushed.lost) {
                let why = io::Error::other("the content was cut short while it was sent");
                self.with(key, |this, session| this.fail(session, &why));
            }
            self.flush();
        }
        if let Some(statistics) = &self.statistics
            && self.now - self.observed >= self.observer.interval()
        {
            self.observed = self.now;
            self.observer.server(statistics);
        }
    }
}

//! The event loop: waits, receives, dispatches datagrams, handles timers and messages, sends.

use super::channel::{EventChannel, LoopEvent};
use super::config::Config;
use super::connected_socket::{CONNECTED_SOCKET, ConnectedSocket};
use super::finished::Finished;
use super::key::Key;
use super::openers::Openers;
use super::outbox::{Flushed, Outbox};
use super::path_mtu::PathMtu;
use super::read_ahead::ReadAhead;
use super::reports::Reports;
use super::session::Disposition;
use super::sockets::ServerSocket;
use super::sys::{ReceiveMode, Receiver};
use super::table::Sessions;
use super::takeover::Takeover;
use super::tunnel::Tunnel;
use crate::report::{Counter, Counters};
use guideway_packet::time::Time;
use guideway_sys::monotonic;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

/// Datagrams received with one call, and the longest accepted request.
const BATCH: usize = 64;
pub(super) const MAX_REQUEST: usize = 2048;
/// The longest possible datagram, for uploads.
const DATAGRAM: usize = 65_536;
/// Batches received from one socket before the others are polled.
pub(super) const MAX_BATCHES: usize = 4;
/// Slots of the read-ahead.
const SLOTS: u16 = 256;
/// Smallest and largest number of polls of a busy socket before the others are polled; beyond the smallest, only for this time.
const MIN_BUSY_POLLS: usize = 16;
const MAX_BUSY_POLLS: usize = 256;
const MAX_BUSY_TIME: Duration = Duration::from_millis(1);
/// Longest wait.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// Event data of file descriptors other than sockets for transfers.
const CHANNEL_EVENT: u64 = 1 << 32;
const PEER_EVENT: u64 = CHANNEL_EVENT + 1;
const TUNNEL_EVENT: u64 = CHANNEL_EVENT + 2;

/// The parts of an event loop.
pub struct EventLoopParts {
    pub config: Config,
    pub sockets: Vec<ServerSocket>,
    pub tunnel: Option<Tunnel>,
    pub openers: Openers,
    pub reports: Reports,
    pub counters: Arc<Counters>,
    pub channel: Arc<EventChannel>,
}

/// Sockets, and the batches of datagrams in both directions.
pub struct Network {
    pub(super) sockets: Vec<ServerSocket>,
    /// Sockets for transfers at addresses of this host.
    pub(super) local_sockets: Vec<u16>,
    /// The connected socket of the busiest client, if any. The next field counts consecutive packets of one transfer.
    pub(super) connected_socket: Option<ConnectedSocket>,
    pub(super) client_streak: (Key, u16),
    /// Sockets that are not registered with epoll yet.
    pub(super) unregistered: Vec<u16>,
    /// The socket of the last events, and the number of consecutive ones.
    streak: (u16, u16),
    pub(super) tunnel: Option<Tunnel>,
    pub(super) mtu: PathMtu,
    pub(super) outbox: Outbox,
    pub(super) read_ahead: ReadAhead,
    pub(super) flushed: Flushed,
}

/// One event loop. Each part owns its state.
pub struct EventLoop {
    pub(super) config: Config,
    pub(super) net: Network,
    pub(super) sessions: Sessions,
    pub(super) finished: Finished,
    pub(super) takeover: Option<Box<Takeover>>,
    pub(super) openers: Openers,
    pub(super) reports: Reports,
    pub(super) counters: Arc<Counters>,
    pub(super) channel: Arc<EventChannel>,
    /// Whether no new requests are answered, and the loop ends with its last transfer.
    pub(super) draining: bool,
    /// It answers no new requests for now.
    pub(super) paused: bool,
    /// The current second, and the ERRORs for unknown TIDs in it.
    pub(super) unknown_tid_errors: (u64, u32),
    pub(super) now: Time,
}

impl EventLoop {
    pub fn new(parts: EventLoopParts) -> EventLoop {
        let now = monotonic();
        let tunnelled = |socket: &ServerSocket| parts.config.tunnel.as_ref().is_some_and(|tunnel| tunnel.vips.contains(&socket.local.ip()));
        let answers = parts.sockets.iter().enumerate().filter(|(at, socket)| usize::from(socket.reply_socket) == *at && !tunnelled(socket));
        let local_sockets = answers.map(|(_, socket)| socket.reply_socket).collect();
        EventLoop {
            config: parts.config,
            net: Network {
                local_sockets,
                connected_socket: None,
                client_streak: (Key { index: u32::MAX, generation: 0 }, 0),
                unregistered: Vec::new(),
                streak: (0, 0),
                sockets: parts.sockets,
                tunnel: parts.tunnel,
                mtu: PathMtu::new(),
                outbox: Outbox::default(),
                read_ahead: ReadAhead::new(SLOTS),
                flushed: Flushed::default(),
            },
            sessions: Sessions::new(now),
            finished: Finished::default(),
            takeover: None,
            openers: parts.openers,
            reports: parts.reports,
            counters: parts.counters,
            channel: parts.channel,
            draining: false,
            paused: false,
            unknown_tid_errors: (0, 0),
            now,
        }
    }

    /// Runs until a stop message.
    ///
    /// # Errors
    /// When waiting for events fails, which is not expected.
    pub fn run(&mut self) -> io::Result<()> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        for (index, socket) in self.net.sockets.iter().enumerate() {
            let for_checkpoints = self.takeover.as_ref().is_some_and(|takeover| takeover.is_checkpoint_socket(index));
            epoll.add(socket, EpollEvent::new(EpollFlags::EPOLLIN, if for_checkpoints { PEER_EVENT } else { index as u64 }))?;
        }
        self.net.unregistered.clear();
        epoll.add(&*self.channel, EpollEvent::new(EpollFlags::EPOLLIN, CHANNEL_EVENT))?;
        for (index, socket) in self.net.tunnel.iter().flat_map(Tunnel::sockets).enumerate() {
            epoll.add(socket, EpollEvent::new(EpollFlags::EPOLLIN, TUNNEL_EVENT + index as u64))?;
        }
        // Memory for longer datagrams is touched only when they arrive.
        let mut receiver = Receiver::new(BATCH, if self.openers.accepts_uploads() { DATAGRAM } else { MAX_REQUEST });
        let mut events = [EpollEvent::empty(); 32];
        let mut due = Vec::new();
        let mut busy = None;
        loop {
            let mut polls = 0;
            let since = self.now;
            while (polls < MIN_BUSY_POLLS || polls < MAX_BUSY_POLLS && self.now - since < MAX_BUSY_TIME)
                && let Some(index) = busy
            {
                polls += 1;
                busy = self.receive_busy(index, &mut receiver);
                match busy {
                    Some(index) => {
                        self.net.streak.0 = index;
                        self.timers(&mut due);
                        self.flush();
                    }
                    None => self.net.streak.1 = 0,
                }
            }
            // Packets that are already queued must be reported, too.
            if let Some(connected_socket) = self.net.connected_socket.as_mut().filter(|connected_socket| !connected_socket.registered) {
                epoll.add(&*connected_socket, EpollEvent::new(EpollFlags::EPOLLIN, u64::from(CONNECTED_SOCKET)))?;
                connected_socket.registered = true;
            }
            // A socket that is marked for closing is not waited on.
            let closes = self.net.connected_socket.as_ref().is_some_and(|connected_socket| connected_socket.closing);
            let wait = if busy.is_some() || closes { EpollTimeout::ZERO } else { self.wait() };
            let count = match epoll.wait(&mut events, wait) {
                Ok(count) => count,
                Err(Errno::EINTR) => 0,
                Err(error) => return Err(error.into()),
            };
            self.now = monotonic();
            busy = self.streak(&events[..count]);
            for event in &events[..count] {
                match event.data() {
                    index if index < CHANNEL_EVENT => self.receive(index as u16, &mut receiver),
                    PEER_EVENT => self.receive_peer_messages(&mut receiver),
                    CHANNEL_EVENT => {
                        if self.drain_channel() {
                            self.close_all();
                            return Ok(());
                        }
                    }
                    index => self.receive_tunnel((index - TUNNEL_EVENT) as usize, &mut receiver),
                }
            }
            self.timers(&mut due);
            self.poll_takeover();
            self.flush();
            self.apply_flush_results();
            if self.draining && self.sessions.len() == 0 {
                return Ok(());
            }
            self.close_connected(&mut receiver);
            for index in self.net.unregistered.drain(..) {
                epoll.add(&self.net.sockets[usize::from(index)], EpollEvent::new(EpollFlags::EPOLLIN, u64::from(index)))?;
            }
        }
    }

    /// Returns the socket for transfers that had all recent events. Any other event (a request, a message of another thread) resets the count, so that
    /// frequent events do not wait behind a busy socket.
    fn streak(&mut self, events: &[EpollEvent]) -> Option<u16> {
        match events {
            [] => {}
            [event] if self.is_for_transfers(event.data()) => {
                let index = event.data() as u16;
                let length = if self.net.streak.0 == index { self.net.streak.1.saturating_add(1) } else { 0 };
                self.net.streak = (index, length);
            }
            _ => self.net.streak.1 = 0,
        }
        // Answers of successors must not wait behind a busy socket while a client waits for them.
        let waits = self.takeover.as_ref().is_some_and(|takeover| takeover.has_checkpoint_waits());
        (self.net.streak.1 >= MIN_BUSY_POLLS as u16 && !waits).then_some(self.net.streak.0)
    }

    fn is_for_transfers(&self, event: u64) -> bool {
        event == u64::from(CONNECTED_SOCKET)
            || self.net.sockets.get(event as usize).is_some_and(|socket| u64::from(socket.reply_socket) == event)
    }

    fn wait(&mut self) -> EpollTimeout {
        let wait = self.sessions.until_next(self.now).unwrap_or(MAX_WAIT).min(MAX_WAIT);
        let wait = self.takeover.as_ref().map_or(wait, |takeover| wait.min(takeover.until_next(self.now)));
        // Rounded up: a wait that ends before the timer expires would need another one.
        EpollTimeout::try_from(u32::try_from(wait.as_millis() + 1).unwrap_or(1000)).unwrap_or(EpollTimeout::ZERO)
    }

    /// Returns the socket with this index; `None` when it was closed.
    fn socket(&self, index: u16) -> Option<BorrowedFd<'_>> {
        if index == CONNECTED_SOCKET {
            self.net.connected_socket.as_ref().map(AsFd::as_fd)
        } else {
            self.net.sockets.get(usize::from(index)).map(AsFd::as_fd)
        }
    }

    pub(super) fn receive(&mut self, index: u16, receiver: &mut Receiver) {
        for _ in 0..MAX_BATCHES {
            // An error refers to an earlier sent datagram.
            let got = self.socket(index).map(|socket| receiver.receive(socket, ReceiveMode::NonBlocking));
            if index == CONNECTED_SOCKET {
                self.mark_exclusive(got.as_ref());
            }
            let Some(Ok((count, more))) = got else { return };
            self.count_packets(index, count);
            self.datagrams(index, receiver, count);
            if !more {
                return;
            }
            if self.net.outbox.is_full() {
                self.flush();
            }
        }
    }

    /// Waits on the one busy socket, which saves a call of epoll. Returns the socket to wait on next; `None` if nothing arrived.
    fn receive_busy(&mut self, index: u16, receiver: &mut Receiver) -> Option<u16> {
        if index == CONNECTED_SOCKET && self.net.connected_socket.as_ref().is_some_and(|connected_socket| connected_socket.exclusive) {
            return self.receive_connected(receiver);
        }
        let (count, _) = receiver.receive(self.socket(index)?, ReceiveMode::Blocking).ok()?;
        self.now = monotonic();
        self.count_packets(index, count);
        self.datagrams(index, receiver, count);
        let closing =
            index == CONNECTED_SOCKET && self.net.connected_socket.as_ref().is_none_or(|connected_socket| connected_socket.closing);
        (!closing).then(|| if count == 1 { self.count_streak(index) } else { index })
    }

    fn datagrams(&mut self, index: u16, receiver: &Receiver, count: usize) {
        for at in 0..count {
            if let Some(received) = receiver.get(at) {
                self.datagram(index, &received);
            }
        }
    }

    pub(super) fn nice(&self) -> u8 {
        self.config.nice
    }

    pub(super) fn drain_channel(&mut self) -> bool {
        let mut stop = false;
        for event in self.channel.drain() {
            match event {
                LoopEvent::Opened(key, opened) => self.with_session(key, |this, session| this.opened(key, session, opened)),
                LoopEvent::Accepted(key, accepted) => self.with_session(key, |this, session| this.accepted(session, accepted)),
                LoopEvent::Stored(key, stored) => self.with_session(key, |this, session| this.stored(key, session, stored)),
                LoopEvent::Woken(key) => self.with_session(key, |this, session| this.woken(key, session)),
                LoopEvent::Membership(membership) => self.set_membership(&membership),
                LoopEvent::Handler(handler) => self.openers.set_handler(handler),
                LoopEvent::Pause(paused) => self.paused = paused,
                LoopEvent::Drain => self.draining = true,
                LoopEvent::Stop => stop = true,
            }
        }
        stop
    }

    pub(super) fn timers(&mut self, due: &mut Vec<(u64, Key)>) {
        self.sessions.expired(self.now, due);
        for (_, key) in due.drain(..) {
            self.with_session(key, |this, session| {
                session.scheduled = None;
                if session.deadline(this.config.open_timeout) > this.now { Disposition::Keep } else { this.expired(key, session) }
            });
        }
    }

    /// Sends all queued datagrams.
    pub(super) fn flush(&mut self) {
        self.net.outbox.flush(&self.net.sockets, self.net.connected_socket.as_ref(), &self.net.read_ahead, &mut self.net.flushed);
    }

    /// Applies the results of flushes, and passes reports on.
    pub(super) fn apply_flush_results(&mut self) {
        if self.net.flushed.failed > 0 {
            self.counters.add(Counter::SendErrors, std::mem::take(&mut self.net.flushed.failed));
        }
        for key in std::mem::take(&mut self.net.flushed.gso_failed) {
            if let Some(session) = self.sessions.get(key) {
                session.disable_gso();
            }
        }
        if !self.net.flushed.faulted.is_empty() {
            for key in std::mem::take(&mut self.net.flushed.faulted) {
                let why = io::Error::new(io::ErrorKind::InvalidData, "the content was cut short while it was sent");
                self.with_session(key, |this, session| this.fail(session, &why));
            }
            self.flush();
        }
        self.reports.flush(&self.counters);
    }
}

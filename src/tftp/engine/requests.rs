//! From a request to the first answer: asynchronous opening, then the first block.
//!
//! The OACK is sent only when the first block is available: some clients wait for ever when an ERROR follows an OACK.

use super::channel::{Panicked, TransferWaker};
use super::event_loop::EventLoop;
use super::key::Key;
use super::peer::{Peer, Route};
use super::read_ahead::{ReadRequest, ReadResult};
use super::reports::Report;
use super::session::{Disposition, Running, Session, Stage};
use crate::content::Source;
use crate::content::netascii::Netascii;
use crate::handler::{Opened, Refusal};
use crate::options::{Terms, blksize_of_mtu, negotiate};
use crate::packet::{self, ErrorCode, Mode};
use crate::report::{Counter, Outcome};
use crate::request::Request;
use crate::transfer::{Step, Transfer};
use guideway_packet::time::Time;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

/// A request that is repeated within this time after the first one, or after the client's last packet, is a duplicate: it was delayed, or crossed our
/// repeated answer, because most clients repeat theirs after a second, too. Later it is a restart of the client.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(1);

impl EventLoop {
    pub(super) fn request(&mut self, peer: Peer, route: Route, bytes: &[u8], request: &packet::Request<'_>) {
        self.counters.add(if request.write { Counter::Writes } else { Counter::Requests }, 1);
        if request.write && !self.openers.accepts_uploads() {
            return self.error(route, ErrorCode::ACCESS, "writing is not allowed");
        }
        let known = self.sessions.key_of(&peer);
        if let Some(key) = known {
            let now = self.now;
            if self.sessions.get(key).is_some_and(|session| session.request[..] == *bytes && session.is_duplicate_request(now)) {
                self.counters.add(Counter::RequestsRepeated, 1);
                return;
            }
            self.with_session(key, |_, _| Disposition::Close(Outcome::Restarted));
        }
        if self.sessions.of_client(peer.client.ip()) >= self.config.max_per_client {
            return self.counters.add(Counter::Shed, 1);
        }
        if self.draining || self.paused || !self.ensure_capacity() {
            return self.counters.add(Counter::Shed, 1);
        }
        let mut session = Session::new(peer, route, bytes, self.now);
        session.restart = known.is_some() || self.has_unannounced_end(&peer);
        let key = self.insert(session);
        self.with_session(key, |this, session| if request.write { this.begin_write(key, session) } else { this.begin(key, session) });
    }

    /// Ensures room for one more transfer, by eviction if needed. Returns `false` if there is none.
    pub(super) fn ensure_capacity(&mut self) -> bool {
        if self.sessions.len() >= self.config.max_transfers {
            self.make_room();
        }
        self.sessions.len() < self.config.max_transfers
    }

    /// Evicts the oldest half-open transfer without an answer, because its request may be forged.
    fn make_room(&mut self) {
        if let Some(key) = self.sessions.oldest_half_open() {
            self.with_session(key, |_, _| Disposition::Close(Outcome::Evicted));
        }
    }

    /// Passes a read request to the handler.
    pub(super) fn begin(&mut self, key: Key, session: &mut Session) -> Disposition {
        let Some(request) = self.handler_request(session) else {
            return self.refuse(session, Refusal::new(ErrorCode::ILLEGAL, "unknown mode"));
        };
        session.mode = Some(request.mode);
        match self.openers.open_now(&request) {
            Some(opened) => self.opened(key, session, opened),
            None => {
                session.stage = Stage::Opening(Some(self.openers.open(key, request)));
                Disposition::Keep
            }
        }
    }

    /// Returns the request of a session as handlers see it; `None` if its mode is unknown.
    pub(super) fn handler_request(&mut self, session: &Session) -> Option<Request> {
        let tid = self.net.sockets[usize::from(session.peer.socket)].local.port();
        let mut request = Request::from_packet(session.peer.client, session.peer.vip, tid, Arc::clone(&session.request))?;
        request.handler = session.handler.clone();
        self.reports.push(|| Report::Started(request.clone()));
        Some(request)
    }

    /// Sends a refusal to the client.
    pub(super) fn refuse(&mut self, session: &mut Session, refusal: Refusal) -> Disposition {
        session.answered = Some(self.now);
        self.counters.add(Counter::Overloaded, u64::from(refusal.overload));
        session.overloaded = refusal.overload;
        if let Some(code) = refusal.code {
            self.error(session.route, code, &refusal.text);
        }
        Disposition::Close(Outcome::Refused(refusal.code, refusal.text))
    }

    /// Ends a transfer whose content cannot be read. The client gets no details.
    pub(super) fn fail(&mut self, session: &mut Session, why: &std::io::Error) -> Disposition {
        self.error(session.route, ErrorCode::NOT_DEFINED, "the file cannot be read");
        session.io_error = Some(why.kind());
        Disposition::Close(Outcome::Failed(why.to_string()))
    }

    /// Answers for a handler that panicked.
    pub(super) fn panicked(&mut self, session: &mut Session) -> Disposition {
        self.counters.add(Counter::HandlerPanics, 1);
        self.refuse(session, Refusal::failed("the server failed"))
    }

    /// Handles the result of an opening.
    pub(super) fn opened(&mut self, key: Key, session: &mut Session, opened: Result<Opened, Panicked>) -> Disposition {
        let mut content = match opened {
            Ok(Ok(content)) => content.0,
            Ok(Err(refusal)) => return self.refuse(session, refusal),
            Err(Panicked) => return self.panicked(session),
        };
        while let Some((inner, keep_alive)) = content.inner() {
            content = inner;
            session.keep_alive.push(keep_alive);
        }
        if session.mode == Some(Mode::Netascii) {
            content = Arc::new(Netascii::new(content));
        }
        session.stage = Stage::Prefetching(content);
        self.prefetch(key, session)
    }

    /// Handles a wake-up of a session.
    pub(super) fn woken(&mut self, key: Key, session: &mut Session) -> Disposition {
        self.transfer_waker(key, session).established();
        match &mut session.stage {
            Stage::Prefetching(_) => self.prefetch(key, session),
            Stage::Running(running) => {
                running.starved = None;
                self.send_blocks(key, session)
            }
            Stage::Opening(_) | Stage::Checkpointing(_) | Stage::Receiving(_) => Disposition::Keep,
        }
    }

    /// Returns the waker of a session.
    pub(super) fn transfer_waker(&self, key: Key, session: &mut Session) -> Arc<TransferWaker> {
        Arc::clone(session.transfer_waker.get_or_insert_with(|| TransferWaker::new(Arc::clone(&self.channel), key)))
    }

    /// Reads the first block, then answers.
    fn prefetch(&mut self, key: Key, session: &mut Session) -> Disposition {
        let Stage::Prefetching(content) = &session.stage else { return Disposition::Keep };
        if session.resume.is_some() {
            return self.finish_resume(key, session);
        }
        let content = Arc::clone(content);
        let size = content.size();
        let requested = packet::Packet::parse(&session.request);
        let options = if let Ok(packet::Packet::Request(request)) = requested { request.options } else { packet::Options::default() };
        let (terms, oack) = self.terms(session.peer.client, options, size);
        let block = usize::from(terms.blksize);
        match self.read(key, session, &Span { content: &content, size, offset: 0, block, window: block }) {
            Err(error) => return self.fail(session, &error),
            Ok(ReadResult::Pending) => return Disposition::Keep,
            Ok(_) => {}
        }
        let mut transfer = Transfer::new(terms, oack.is_some(), &self.config.retransmission, self.now);
        if let Some(size) = size {
            transfer.ends_with(transfer.last_block(size));
        }
        session.answered = Some(self.now);
        let start = transfer.start();
        let oack = oack.unwrap_or_default().into_boxed_slice();
        let running = Running {
            transfer,
            content,
            size,
            oack,
            gso: true,
            starved: None,
            next_checkpoint_block: u64::MAX,
            replication: None,
            serial: 0,
            ownership_check_pending: false,
        };
        if self.takeover.is_some() {
            return self.send_first_checkpoint(key, session, Box::new(running));
        }
        session.stage = Stage::Running(Box::new(running));
        self.step(key, session, start)
    }

    /// Negotiates the terms of a transfer with `client`, and the OACK.
    pub(super) fn terms(&mut self, client: SocketAddr, options: packet::Options<'_>, size: Option<u64>) -> (Terms, Option<Vec<u8>>) {
        let (mtu, second, by_mtu) = (&mut self.net.mtu, self.now.seconds(), self.config.limits.blksize_by_mtu);
        let cap = || if by_mtu { blksize_of_mtu(mtu.to(client, second), client.is_ipv6()) } else { u16::MAX };
        negotiate(options, &self.config.limits, cap, size)
    }

    /// Reads content without blocking; after `Pending` the session is woken.
    pub(super) fn read(&mut self, key: Key, session: &mut Session, span: &Span<'_>) -> std::io::Result<ReadResult> {
        let &Span { content, size, offset, block, window } = span;
        loop {
            let wanted = ReadRequest { owner: key, content, size, offset, block, window, outbox: self.net.outbox.generation() };
            match self.net.read_ahead.read(&mut session.cursor, &wanted, &mut noop())? {
                ReadResult::Busy => {
                    self.flush();
                    continue;
                }
                ReadResult::Pending => {}
                have => return Ok(have),
            }
            // Most content is available. Only pending content is read again with a waker, which costs an allocation.
            let transfer_waker = self.transfer_waker(key, session);
            let waker = transfer_waker.waker();
            let have = self.net.read_ahead.read(&mut session.cursor, &wanted, &mut Context::from_waker(&waker))?;
            if have != ReadResult::Busy {
                return Ok(have);
            }
            self.flush();
        }
    }

    /// Carries out a step of the state machine.
    pub(super) fn step(&mut self, key: Key, session: &mut Session, step: Step) -> Disposition {
        match step {
            Step::Wait => Disposition::Keep,
            Step::Blocks => self.send_blocks(key, session),
            Step::Oack => {
                let Stage::Running(running) = &session.stage else { return Disposition::Keep };
                session.tally.packets += 1;
                self.counters.add(Counter::PacketsSent, 1);
                self.net.outbox.packet(session.route, |to| to.extend(&running.oack));
                Disposition::Keep
            }
            Step::Done => Disposition::Close(Outcome::Done),
            Step::GiveUp(silence) => Disposition::Close(silence.into()),
        }
    }
}

/// Range to read; see [`ReadRequest`](super::read_ahead::ReadRequest).
pub(super) struct Span<'a> {
    pub content: &'a Arc<dyn Source>,
    pub size: Option<u64>,
    pub offset: u64,
    pub block: usize,
    pub window: usize,
}

impl Session {
    /// Returns whether a repeated request is a duplicate: the first one is still being answered, was just answered, or its client has just been received.
    fn is_duplicate_request(&self, now: Time) -> bool {
        let recent = |at: Option<Time>| at.is_some_and(|at| now - at < DUPLICATE_WINDOW);
        match &self.stage {
            // After the last block was sent, the client may have the whole file, and its next request may overtake its only ACK.
            Stage::Running(running) => recent(running.transfer.heard_at().or((!running.transfer.all_sent()).then_some(self.started))),
            Stage::Receiving(receiving) => !receiving.upload.established() || recent(receiving.upload.heard_at()),
            _ => true,
        }
    }
}

fn noop() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

//! From a request to the first answer: opening without waiting, and the first block at hand before anything is promised.
//!
//! The OACK goes out only when the first block can follow it: some clients wait for ever when an ERROR follows an OACK.

use super::Key;
use super::event_loop::EventLoop;
use super::mailbox::Knock;
use super::openers::Job;
use super::outbox::Route;
use super::read_ahead::{Have, Wanted};
use super::session::{Peer, Running, Session, Stage};
use super::sessions::After;
use crate::content::Content;
use crate::handler::{Opened, Opening, Refusal, Request};
use crate::netascii::Netascii;
use crate::options::{Terms, blksize_of_mtu, negotiate};
use crate::packet::{self, ErrorCode, Mode};
use crate::report::{Counter, Outcome};
use crate::transfer::{Step, Transfer};
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// Contents up to this size are read through to know their size in netascii.
const MEASURED: u64 = 1 << 20;
/// A request that comes again so soon is a duplicate of the network's or of a hasty client; later it is a client that starts again.
const DUPLICATE: Duration = Duration::from_secs(1);

impl EventLoop {
    pub(super) fn request(&mut self, peer: Peer, route: Route, bytes: &[u8], request: &packet::Request<'_>) {
        self.counters.add(if request.write { Counter::Writes } else { Counter::Requests }, 1);
        if request.write && self.config.writable.is_none() {
            return self.error(route, ErrorCode::ACCESS, "writing is not allowed");
        }
        let known = self.peers.get(&peer).copied();
        if let Some(key) = known {
            let now = self.now;
            if self.session(key).is_some_and(|session| session.request[..] == *bytes && session.is_starting(now)) {
                self.counters.add(Counter::RequestsRepeated, 1);
                return;
            }
            self.with(key, |_, _| After::Close(Outcome::Restarted));
        }
        let of_client = self.per_client.get(&peer.client.ip()).copied().unwrap_or(0);
        if of_client >= self.config.max_per_client {
            return self.counters.add(Counter::Shed, 1);
        }
        if !self.has_room_for_one() {
            return self.counters.add(Counter::Shed, 1);
        }
        let mut session = Session::new(peer, route, bytes, self.now);
        session.restart = known.is_some() || self.lingers(&peer);
        let key = self.insert(session);
        self.with(key, |this, session| if request.write { this.begin_write(session, request) } else { this.begin(key, session, request) });
    }

    /// Whether there is room for one more transfer, made if need be.
    pub(super) fn has_room_for_one(&mut self) -> bool {
        if self.open() >= self.config.max_transfers {
            self.make_room();
        }
        self.open() < self.config.max_transfers
    }

    /// Ends the oldest transfer whose client never answered, without a word: its client may never have asked.
    fn make_room(&mut self) {
        if let Some(index) = self.unheard.oldest() {
            let key = Key { index, generation: self.sessions[index as usize].0 };
            self.with(key, |_, _| After::Close(Outcome::Displaced));
        }
    }

    pub(super) fn begin(&mut self, key: Key, session: &mut Session, request: &packet::Request<'_>) -> After {
        let Some(mode) = request.known_mode() else {
            return self.refuse(session, Refusal::new(ErrorCode::ILLEGAL, "unknown mode"));
        };
        session.mode = Some(mode);
        let tid = self.ports[usize::from(session.peer.port)].local.port();
        let (client, vip) = (session.peer.client, session.peer.vip);
        match self.handler.open(&Request { client, vip, tid, file: request.file, mode, options: request.options }) {
            Opening::Now(opened) => self.opened(key, session, opened),
            Opening::Later(future) => {
                session.stage = Stage::Waiting(future);
                self.woken(key, session)
            }
            Opening::Job(job) => {
                if self.openers.submit(&self.mailbox, key, Job::Open(job)) {
                    After::Keep
                } else {
                    self.refuse(session, Refusal::failed("the server is busy"))
                }
            }
        }
    }

    /// Tells the client.
    pub(super) fn refuse(&mut self, session: &mut Session, refusal: Refusal) -> After {
        session.answered = Some(self.now);
        if let Some(code) = refusal.code {
            self.error(session.route, code, &refusal.text);
        }
        After::Close(Outcome::Refused(refusal.code, refusal.text))
    }

    /// Ends a transfer whose content cannot be read. The client learns no details.
    pub(super) fn fail(&mut self, session: &mut Session, why: &std::io::Error) -> After {
        self.error(session.route, ErrorCode::NOT_DEFINED, "the file cannot be read");
        After::Close(Outcome::Failed(why.to_string()))
    }

    /// A handler is done with opening.
    pub(super) fn opened(&mut self, key: Key, session: &mut Session, opened: Opened) -> After {
        match opened {
            Err(refusal) => self.refuse(session, refusal),
            Ok(mut content) => {
                while let Some((behind, keep)) = content.behind() {
                    content = behind;
                    session.keep.push(keep);
                }
                session.stage = Stage::Priming(content);
                if session.mode == Some(Mode::Netascii) { self.translate(key, session) } else { self.prime(key, session) }
            }
        }
    }

    fn translate(&mut self, key: Key, session: &mut Session) -> After {
        let Stage::Priming(content) = &session.stage else { return After::Keep };
        let content = Arc::clone(content);
        let small = content.size().is_some_and(|size| size <= MEASURED);
        let measured = if small { Netascii::measured(Arc::clone(&content), &mut noop()) } else { Poll::Pending };
        session.stage = Stage::Priming(match measured {
            Poll::Ready(Ok(netascii)) => Arc::new(netascii),
            Poll::Ready(Err(error)) => return self.fail(session, &error),
            // Its size stays unknown, and the client is not told one.
            Poll::Pending => Arc::new(Netascii::new(content)),
        });
        self.prime(key, session)
    }

    /// What was waited for may be there.
    pub(super) fn woken(&mut self, key: Key, session: &mut Session) -> After {
        let knock = self.knock(key, session);
        knock.heard();
        match &mut session.stage {
            Stage::Waiting(future) => {
                let waker = knock.waker();
                match future.as_mut().poll(&mut Context::from_waker(&waker)) {
                    Poll::Pending => After::Keep,
                    Poll::Ready(opened) => {
                        session.stage = Stage::Opening;
                        self.opened(key, session, opened)
                    }
                }
            }
            Stage::Priming(_) => self.prime(key, session),
            Stage::Running(running) => {
                running.starved = None;
                self.pump(key, session)
            }
            Stage::Opening | Stage::Noting(_) | Stage::Receiving(_) => After::Keep,
        }
    }

    /// What wakes a session.
    pub(super) fn knock(&self, key: Key, session: &mut Session) -> Arc<Knock> {
        Arc::clone(session.knock.get_or_insert_with(|| Knock::new(Arc::clone(&self.mailbox), key)))
    }

    /// Reads the first block, then answers.
    fn prime(&mut self, key: Key, session: &mut Session) -> After {
        let Stage::Priming(content) = &session.stage else { return After::Keep };
        if session.resume.is_some() {
            return self.go_on(key, session);
        }
        let content = Arc::clone(content);
        let size = content.size();
        let asked = packet::Packet::parse(&session.request);
        let options = if let Ok(packet::Packet::Request(request)) = asked { request.options } else { packet::Options::default() };
        let (terms, oack) = self.terms(session.peer.client, options, size);
        let block = usize::from(terms.blksize);
        match self.read(key, session, &Span { content: &content, size, offset: 0, block, window: block }) {
            Err(error) => return self.fail(session, &error),
            Ok(Have::Pending) => return After::Keep,
            Ok(_) => {}
        }
        let mut transfer = Transfer::new(terms, oack.is_some(), &self.config.pace, self.now);
        if let Some(size) = size {
            transfer.ends_with(transfer.last_block(size));
        }
        session.answered = Some(self.now);
        let start = transfer.start();
        let oack = oack.unwrap_or_default().into_boxed_slice();
        let running =
            Running { transfer, content, size, oack, cut: true, starved: None, renote: u64::MAX, noted: None, serial: 0, doubted: false };
        if self.takeover.is_some() {
            return self.note_first(key, session, Box::new(running));
        }
        session.stage = Stage::Running(Box::new(running));
        self.step(key, session, start)
    }

    /// What holds for a transfer with `client`, and the OACK.
    pub(super) fn terms(&mut self, client: SocketAddr, options: packet::Options<'_>, size: Option<u64>) -> (Terms, Option<Vec<u8>>) {
        let (mtu, second, by_mtu) = (&mut self.mtu, self.now.seconds(), self.config.limits.blksize_by_mtu);
        let cap = || if by_mtu { blksize_of_mtu(mtu.to(client, second), client.is_ipv6()) } else { u16::MAX };
        negotiate(options, &self.config.limits, cap, size)
    }

    /// Reads content without waiting; after `Pending` the session is woken.
    pub(super) fn read(&mut self, key: Key, session: &mut Session, span: &Span<'_>) -> std::io::Result<Have> {
        let &Span { content, size, offset, block, window } = span;
        loop {
            let wanted = Wanted { owner: key, content, size, offset, block, window, outbox: self.outbox.number() };
            match self.read_ahead.read(&mut session.cursor, &wanted, &mut noop())? {
                Have::Busy => {
                    self.flush();
                    continue;
                }
                Have::Pending => {}
                have => return Ok(have),
            }
            // Most content is at hand. Only one that is not is asked again with a waker, which costs an allocation.
            let knock = self.knock(key, session);
            let waker = knock.waker();
            let have = self.read_ahead.read(&mut session.cursor, &wanted, &mut Context::from_waker(&waker))?;
            if have != Have::Busy {
                return Ok(have);
            }
            self.flush();
        }
    }

    /// Does what the state machine says.
    pub(super) fn step(&mut self, key: Key, session: &mut Session, step: Step) -> After {
        match step {
            Step::Wait => After::Keep,
            Step::Blocks => self.pump(key, session),
            Step::Oack => {
                let Stage::Running(running) = &session.stage else { return After::Keep };
                session.tally.packets += 1;
                self.counters.add(Counter::PacketsSent, 1);
                self.outbox.packet(session.route, |to| to.extend(&running.oack));
                After::Keep
            }
            Step::Done => After::Close(Outcome::Done),
            Step::GiveUp(silence) => After::Close(silence.into()),
        }
    }
}

/// What is to be read; see [`Wanted`].
pub(super) struct Span<'a> {
    pub content: &'a Arc<dyn Content>,
    pub size: Option<u64>,
    pub offset: u64,
    pub block: usize,
    pub window: usize,
}

impl Session {
    /// Whether a request that comes again now adds nothing: the first one is still being answered, or was just now.
    fn is_starting(&self, now: guideway_packet::time::Time) -> bool {
        match &self.stage {
            // Once everything was sent the client may have all of it, and may be so quick that its next request overtakes its last ACK.
            Stage::Running(running) => now - self.started < DUPLICATE && !running.transfer.everything_sent(),
            Stage::Receiving(receiving) => now - self.started < DUPLICATE || !receiving.upload.heard(),
            _ => true,
        }
    }
}

fn noop() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

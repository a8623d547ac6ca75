//! Resumes a transfer from the address and port that its client knows.

use super::super::config::Config;
use super::super::error::Error;
use super::super::event_loop::EventLoop;
use super::super::key::Key;
use super::super::peer::{Peer, Route};
use super::super::read_ahead::ReadResult;
use super::super::requests::Span;
use super::super::session::{Disposition, Resume, Running, Session, Stage};
use super::super::sockets::ServerSocket;
use super::owner::{self, CHECKPOINT_INTERVAL, id};
use super::replication::Replication;
use super::spare_sockets::{MAX_FOREIGN_SOCKETS, SpareSockets};
use super::state::{Takeover, TakeoverStatus};
use crate::content::Version;
use crate::packet::{ErrorCode, Packet};
use crate::report::{Counter, Outcome};
use crate::takeover::Checkpoint;
use crate::transfer::{Step, Transfer};
use std::net::SocketAddr;
use std::sync::Arc;

impl Takeover {
    /// Returns whether the port belongs to another server.
    pub fn is_foreign(&self, tid: u16) -> bool {
        self.membership.is_foreign(tid)
    }

    /// Returns whether there may be one more socket; logs once when not.
    fn has_room(&mut self) -> bool {
        let room = self.foreign.values().map(Vec::len).sum::<usize>() < MAX_FOREIGN_SOCKETS;
        if !room && !self.warned {
            self.warned = true;
            tracing::warn!(
                "other servers use more than {MAX_FOREIGN_SOCKETS} addresses and ports; transfers of further ports cannot be taken over: narrow the tid_range of servers"
            );
        }
        room
    }
}

impl EventLoop {
    /// Enables takeover, if configured.
    pub(in super::super) fn enable_takeover(&mut self, config: &Config, index: usize, status: &Arc<TakeoverStatus>) -> Result<(), Error> {
        let Some(settings) = &config.takeover else { return Ok(()) };
        let at = u16::try_from(self.net.sockets.len()).unwrap_or(u16::MAX);
        self.net.sockets.push(Takeover::socket(settings, index, at)?);
        let spare_sockets = match (&config.tunnel, index) {
            (Some(tunnel), 0) => SpareSockets::new(&tunnel.vips)?,
            _ => SpareSockets::default(),
        };
        self.takeover = Some(Box::new(Takeover::new(settings, index, at, Arc::clone(status), spare_sockets)));
        self.bind_foreign_sockets();
        Ok(())
    }

    /// Binds a port of another server at a VIP, for packets in GRE.
    pub(in super::super) fn bind_foreign_socket(&mut self, address: SocketAddr) -> Option<u16> {
        let takeover = self.takeover.as_deref_mut()?;
        if !takeover.has_room() {
            return None;
        }
        let at = u16::try_from(self.net.sockets.len()).ok()?;
        let bound = takeover.spare_sockets.take(address.is_ipv4())?.bind_unbound(address, at);
        match bound {
            Ok(socket) => self.net.sockets.push(socket),
            Err(error) => {
                tracing::warn!("{error}; transfers of that port cannot be taken over");
                return None;
            }
        }
        takeover.foreign.entry(address.port()).or_default().push(at);
        Some(at)
    }

    /// Binds the ports of other servers in addition to our own, for packets without GRE.
    pub(in super::super) fn bind_foreign_sockets(&mut self) {
        let own: Vec<SocketAddr> = self.net.local_sockets.iter().map(|&at| self.net.sockets[usize::from(at)].local).collect();
        let Some(takeover) = self.takeover.as_deref_mut() else { return };
        if takeover.checkpoints.is_none() {
            return;
        }
        let membership = Arc::clone(&takeover.membership);
        for tid in membership.others().flat_map(|member| member.tid_range.0..=member.tid_range.1) {
            for address in own.iter().map(|own| SocketAddr::new(own.ip(), tid)) {
                let known = takeover.foreign.get(&tid).into_iter().flatten();
                if known.clone().any(|&at| self.net.sockets[usize::from(at)].local == address) {
                    continue;
                }
                if !takeover.has_room() {
                    return;
                }
                let at = u16::try_from(self.net.sockets.len()).unwrap_or(u16::MAX);
                match ServerSocket::transfers(address, at) {
                    Ok(socket) => {
                        self.net.sockets.push(socket);
                        self.net.unregistered.push(at);
                        takeover.foreign.entry(tid).or_default().push(at);
                    }
                    Err(error) => tracing::warn!("{error}; transfers of that port cannot be taken over"),
                }
            }
        }
    }

    /// Resumes the transfer of this checkpoint, whose client has acknowledged this number.
    pub(super) fn resume(&mut self, peer: Peer, route: Route, checkpoint: Checkpoint, block: u16) {
        let Ok(Packet::Request(request)) = Packet::parse(&checkpoint.request) else { return };
        if checkpoint.acknowledged(block).is_none() || request.write {
            return self.counters.add(Counter::AcksIgnored, 1);
        }
        if !self.ensure_capacity() {
            return self.counters.add(Counter::Shed, 1);
        }
        let mut session = Session::new(peer, route, &checkpoint.request, self.now);
        session.resume = Some(Box::new(Resume { checkpoint: checkpoint.clone(), block }));
        session.taken_over = true;
        let key = self.insert(session);
        // The transfer is not half-open: without an answer of its client there would be no checkpoint and no ACK.
        self.sessions.established(key);
        self.with_session(key, |this, session| this.begin(key, session));
    }

    /// Finishes to resume a transfer when its content is open. If the content is the same, sending continues.
    pub(in super::super) fn finish_resume(&mut self, key: Key, session: &mut Session) -> Disposition {
        let (Stage::Prefetching(content), Some(resume)) = (&session.stage, &session.resume) else { return Disposition::Keep };
        let (content, checkpoint) = (Arc::clone(content), resume.checkpoint.clone());
        let Some(acked) = checkpoint.acknowledged(resume.block) else {
            return Disposition::Close(Outcome::HandedOver);
        };
        if acked < checkpoint.last() {
            // Some content has its size and version only after a first read.
            let block = usize::from(checkpoint.terms.blksize);
            let offset = acked * block as u64;
            let span = Span { content: &content, size: content.size(), offset, block, window: block };
            match self.read(key, session, &span) {
                Err(error) => return self.fail(session, &error),
                Ok(ReadResult::Pending) => return Disposition::Keep,
                Ok(_) => {}
            }
        }
        if content.size() != Some(checkpoint.size) || content.version() != checkpoint.version || checkpoint.version == Version([0; 16]) {
            self.counters.add(Counter::ResumeRefused, 1);
            self.error(session.route, ErrorCode::NOT_DEFINED, "the file has changed");
            session.io_error = Some(std::io::ErrorKind::InvalidData);
            return Disposition::Close(Outcome::Failed("the file differs from the one that another server started to send".to_owned()));
        }
        session.resume = None;
        let transfer = Transfer::resume(checkpoint.terms, acked, checkpoint.last(), &self.config.retransmission, self.now);
        let own = self.takeover.as_ref().is_some_and(|takeover| takeover.membership.is_own(checkpoint.id.tid));
        self.counters.add(if own { Counter::Resumed } else { Counter::TakenOver }, 1);
        let done = acked == checkpoint.last();
        // Its successors hold about this checkpoint until they get a newer one.
        let holders = self.takeover.as_ref().map(|takeover| takeover.checkpoint_holders(&checkpoint.id));
        let replication = holders
            .map(|[first, second, third, fourth]| Replication::new([first, second], Some(checkpoint.acked), [third, fourth], self.now));
        let running = Running {
            transfer,
            content,
            size: Some(checkpoint.size),
            oack: Box::default(),
            gso: true,
            starved: None,
            next_checkpoint_block: acked + CHECKPOINT_INTERVAL,
            replication,
            serial: checkpoint.serial,
            ownership_check_pending: false,
        };
        session.answered = Some(self.now);
        session.stage = Stage::Running(Box::new(running));
        if done {
            return Disposition::Close(Outcome::Done);
        }
        self.send_checkpoints(key, session);
        self.schedule_renewal(key);
        self.step(key, session, Step::Blocks)
    }

    /// Returns a checkpoint of a transfer that is served here.
    pub(super) fn current_checkpoint(&self, session: &Session) -> Option<Checkpoint> {
        if let Some(resume) = &session.resume {
            return Some(resume.checkpoint.clone());
        }
        let Stage::Running(running) = &session.stage else { return None };
        owner::checkpoint(id(session, self.tid_of(session))?, &session.request, running)
    }
}

impl Session {
    /// Records an ACK that arrives while the transfer is being resumed.
    pub(in super::super) fn record_ack(&mut self, block: u16) {
        if let Some(resume) = &mut self.resume {
            resume.block = block;
        }
    }
}

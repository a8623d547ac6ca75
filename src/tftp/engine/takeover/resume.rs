//! Going on with a transfer from the address and port that its client knows.

use super::super::event_loop::EventLoop;
use super::super::outbox::Route;
use super::super::ports::{Error, Port};
use super::super::read_ahead::Have;
use super::super::requests::Span;
use super::super::session::{Peer, Running, Session, Stage};
use super::super::sessions::After;
use super::super::{Config, Key};
use super::Noted;
use super::owner::{BLOCKS, id};
use super::{Occupancy, Takeover};
use crate::content::Version;
use crate::packet::{ErrorCode, Packet};
use crate::report::{Counter, Outcome};
use crate::takeover::Note;
use crate::transfer::{Step, Transfer, acknowledged};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Most sockets for ports of other servers.
const MOST: usize = 256;

/// What another server, or an earlier life, left behind.
pub struct Resume {
    note: Note,
    /// What the client acknowledged last.
    block: u16,
}

/// Sockets that may send from any address and are bound to none yet: made while the process may, bound when a port is needed.
#[derive(Default)]
pub struct Spares {
    free: Vec<Port>,
}

impl Spares {
    /// For these VIPs.
    pub fn new(vips: &[IpAddr]) -> Result<Spares, Error> {
        let mut free = Vec::new();
        for v4 in [true, false] {
            if let Some(vip) = vips.iter().find(|vip| vip.is_ipv4() == v4) {
                (0..MOST).try_for_each(|_| Port::spare(*vip).map(|port| free.push(port)))?;
            }
        }
        Ok(Spares { free })
    }

    fn take(&mut self, v4: bool) -> Option<Port> {
        let at = self.free.iter().rposition(|port| port.local.is_ipv4() == v4)?;
        Some(self.free.swap_remove(at))
    }
}

impl Takeover {
    /// Whether the port is one of another server's.
    pub fn is_foreign(&self, tid: u16) -> bool {
        self.plan.is_foreign(tid)
    }

    /// Whether there may be one socket more; says once when not.
    fn has_room(&mut self) -> bool {
        let room = self.foreign.values().map(Vec::len).sum::<usize>() < MOST;
        if !room && !self.warned {
            self.warned = true;
            tracing::warn!(
                "other servers use more than {MOST} addresses and ports: transfers at others cannot be taken over; narrow the tid_range of servers"
            );
        }
        room
    }
}

impl EventLoop {
    /// Takes part in takeover, when that is configured.
    pub(in super::super) fn join(&mut self, config: &Config, index: usize, occupancy: &Arc<Occupancy>) -> Result<(), Error> {
        let Some(settings) = &config.takeover else { return Ok(()) };
        let at = u16::try_from(self.ports.len()).unwrap_or(u16::MAX);
        self.ports.push(Takeover::port(settings, index, at)?);
        let spares = match (&config.tunnel, index) {
            (Some(tunnel), 0) => Spares::new(&tunnel.vips)?,
            _ => Spares::default(),
        };
        self.takeover = Some(Box::new(Takeover::new(settings, index, at, Arc::clone(occupancy), spares)));
        self.open_foreign_ports();
        Ok(())
    }

    /// A port of another server at a VIP, which packets in GRE are for.
    pub(in super::super) fn foreign_port(&mut self, address: SocketAddr) -> Option<u16> {
        let takeover = self.takeover.as_deref_mut()?;
        if !takeover.has_room() {
            return None;
        }
        let at = u16::try_from(self.ports.len()).ok()?;
        let bound = takeover.spares.take(address.is_ipv4())?.bind_spare(address, at);
        match bound {
            Ok(port) => self.ports.push(port),
            Err(error) => {
                tracing::warn!("{error}; transfers of that port cannot be taken over");
                return None;
            }
        }
        takeover.foreign.entry(address.port()).or_default().push(at);
        Some(at)
    }

    /// Binds the ports of other servers beside our own, where packets come without GRE.
    pub(in super::super) fn open_foreign_ports(&mut self) {
        let own: Vec<SocketAddr> = self.plain.iter().map(|&at| self.ports[usize::from(at)].local).collect();
        let Some(takeover) = self.takeover.as_deref_mut() else { return };
        if takeover.memory.is_none() {
            return;
        }
        let plan = Arc::clone(&takeover.plan);
        for tid in plan.others().flat_map(|member| member.tids.0..=member.tids.1) {
            for address in own.iter().map(|own| SocketAddr::new(own.ip(), tid)) {
                let known = takeover.foreign.get(&tid).into_iter().flatten();
                if known.clone().any(|&at| self.ports[usize::from(at)].local == address) {
                    continue;
                }
                if !takeover.has_room() {
                    return;
                }
                let at = u16::try_from(self.ports.len()).unwrap_or(u16::MAX);
                match Port::transfers(address, at) {
                    Ok(port) => {
                        self.ports.push(port);
                        self.unwatched.push(at);
                        takeover.foreign.entry(tid).or_default().push(at);
                    }
                    Err(error) => tracing::warn!("{error}; transfers of that port cannot be taken over"),
                }
            }
        }
    }

    /// Goes on with a transfer that this note is about, whose client has acknowledged this number.
    pub(super) fn resume(&mut self, peer: Peer, route: Route, note: Note, block: u16) {
        let Ok(Packet::Request(request)) = Packet::parse(&note.request) else { return };
        if acknowledged(&note.terms, note.acked, block, note.last()).is_none() || request.write {
            return self.counters.add(Counter::AcksIgnored, 1);
        }
        if !self.has_room_for_one() {
            return self.counters.add(Counter::Shed, 1);
        }
        let mut session = Session::new(peer, route, &note.request, self.now);
        session.resume = Some(Box::new(Resume { note: note.clone(), block }));
        session.taken_over = true;
        let key = self.insert(session);
        // It was heard, or else nobody would know of it.
        self.unheard.remove(key.index);
        self.with(key, |this, session| this.begin(key, session, &request));
    }

    /// The content is there: if it is the same, the client gets what follows.
    pub(in super::super) fn go_on(&mut self, key: Key, session: &mut Session) -> After {
        let (Stage::Priming(content), Some(resume)) = (&session.stage, &session.resume) else { return After::Keep };
        let (content, note) = (Arc::clone(content), resume.note.clone());
        let Some(acked) = acknowledged(&note.terms, note.acked, resume.block, note.last()) else {
            return After::Close(Outcome::HandedOver);
        };
        if acked < note.last() {
            // Some content knows its size and version only when something of it was read.
            let block = usize::from(note.terms.blksize);
            let offset = acked * block as u64;
            let span = Span { content: &content, size: content.size(), offset, block, window: block };
            match self.read(key, session, &span) {
                Err(error) => return self.fail(session, &error),
                Ok(Have::Pending) => return After::Keep,
                Ok(_) => {}
            }
        }
        if content.size() != Some(note.size) || content.version() != note.version || note.version == Version([0; 16]) {
            self.counters.add(Counter::ResumeRefused, 1);
            self.error(session.route, ErrorCode::NOT_DEFINED, "the file has changed");
            return After::Close(Outcome::Failed("the file is not the one that another server began with".to_owned()));
        }
        session.resume = None;
        let transfer = Transfer::resume(note.terms, acked, note.last(), &self.config.pace, self.now);
        let own = self.takeover.as_ref().is_some_and(|takeover| takeover.plan.is_own(note.id.tid));
        self.counters.add(if own { Counter::Resumed } else { Counter::TakenOver }, 1);
        let done = acked == note.last();
        // Its heirs know what was noted here, or a little less, until they are told more.
        let who = self.takeover.as_ref().map(|takeover| takeover.who_may_know(&note.id));
        let noted = who.map(|[first, second, third, fourth]| Noted::new([first, second], Some(note.acked), [third, fourth], self.now));
        let running = Running {
            transfer,
            content,
            size: Some(note.size),
            oack: Box::default(),
            cut: true,
            starved: None,
            renote: acked + BLOCKS,
            noted,
            serial: note.serial,
            doubted: false,
        };
        session.answered = Some(self.now);
        session.stage = Stage::Running(Box::new(running));
        if done {
            return After::Close(Outcome::Done);
        }
        self.tell_heirs(key, session);
        self.renew_later(key);
        self.step(key, session, Step::Blocks)
    }

    /// What another server would have to know of a transfer that is served here.
    pub(super) fn current_note(&self, session: &Session) -> Option<Note> {
        if let Some(resume) = &session.resume {
            return Some(resume.note.clone());
        }
        let Stage::Running(running) = &session.stage else { return None };
        super::owner::note(id(session, self.tid_of(session))?, &session.request, running)
    }
}

impl Session {
    /// The client acknowledges something while what another server left behind is being fetched.
    pub(in super::super) fn remember(&mut self, block: u16) {
        if let Some(resume) = &mut self.resume {
            resume.block = block;
        }
    }
}

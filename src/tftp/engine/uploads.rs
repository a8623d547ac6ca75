//! Uploads: from the request to the last acknowledgement, which is sent when the file is stored. The destination works on other threads; the loop
//! keeps what arrives meanwhile.

use super::channel::{Panicked, StoreResult};
use super::destination::HeldDestination;
use super::event_loop::EventLoop;
use super::key::Key;
use super::openers::StoreStep;
use super::peer::{Peer, Route};
use super::session::{Disposition, Receiving, Session, Stage, Target};
use crate::handler::Refusal;
use crate::netascii::Decoder;
use crate::packet::{ErrorCode, Mode, put_ack};
use crate::report::{Counter, Outcome};
use crate::rto::RetransmissionPolicy;
use crate::upload::{Answer, DataAction, Step, Upload};
use crate::writable::too_large;

/// Received bytes that are passed to the destination at once.
const WRITE_SIZE: usize = 64 * 1024;
/// Received bytes that wait for a slow destination. Beyond that, blocks are ignored until it has caught up.
const MAX_WAITING: usize = 4 * WRITE_SIZE;

impl EventLoop {
    /// Handles a write request.
    pub(super) fn begin_write(&mut self, key: Key, session: &mut Session) -> Disposition {
        let Some(request) = self.handler_request(session) else {
            return self.refuse(session, Refusal::new(ErrorCode::ILLEGAL, "unknown mode"));
        };
        session.mode = Some(request.mode);
        session.stage = Stage::Opening(Some(self.openers.store(key, request)));
        Disposition::Keep
    }

    /// Handles the handler's answer to a write request.
    pub(super) fn accepted(&mut self, session: &mut Session, accepted: Result<Result<HeldDestination, Refusal>, Panicked>) -> Disposition {
        let destination = match accepted {
            Ok(Ok(destination)) => destination,
            Ok(Err(refusal)) => return self.refuse(session, refusal),
            Err(Panicked) => return self.panicked(session),
        };
        let (size, mode) = (session.announced_size(), session.mode);
        self.finished.forget(&session.peer);
        let (terms, oack) = self.terms(session.peer.client, session.file_and_options().1, size);
        let upload = Upload::new(terms, oack.is_some(), &self.config.retransmission, self.now);
        session.answered = Some(self.now);
        session.stage = Stage::Receiving(Box::new(Receiving {
            upload,
            oack: oack.unwrap_or_default().into_boxed_slice(),
            size,
            limit: destination.limit().unwrap_or(u64::MAX),
            target: Target::Fresh(destination),
            waiting: Vec::new(),
            received: 0,
            decoder: (mode == Some(Mode::Netascii)).then(Decoder::default),
            storing: None,
        }));
        self.answer_write(session, false)
    }

    /// Handles a DATA packet.
    pub(super) fn data(&mut self, peer: Peer, route: Route, block: u16, data: &[u8]) {
        if let Some(key) = self.sessions.key_of(&peer) {
            self.with_session(key, |this, session| this.take(key, session, block, data));
        } else if self.finished.is_last(&peer, block, self.now) {
            self.counters.add(Counter::Retransmitted, 1);
            self.net.outbox.packet(route, |to| put_ack(to, block));
        } else {
            self.unknown_tid(peer, route);
        }
    }

    fn take(&mut self, key: Key, session: &mut Session, block: u16, data: &[u8]) -> Disposition {
        let Stage::Receiving(receiving) = &mut session.stage else {
            self.counters.add(Counter::Malformed, 1);
            return Disposition::Keep;
        };
        match &receiving.target {
            // After the last block the file is being stored, and the answer follows then.
            _ if receiving.storing.is_some() => return Disposition::Keep,
            Target::Fresh(_) if block == 1 && data.len() <= usize::from(receiving.upload.terms().blksize) => {
                if let Target::Fresh(destination) = std::mem::replace(&mut receiving.target, Target::Beginning(data.into())) {
                    self.openers.step(key, destination, StoreStep::Begin);
                }
                return Disposition::Keep;
            }
            Target::Fresh(_) if block == 1 => {}
            Target::Fresh(_) | Target::Beginning(_) => return Disposition::Keep,
            // The client sends it again.
            Target::Busy if receiving.waiting.len() >= MAX_WAITING => return Disposition::Keep,
            Target::Idle(_) | Target::Busy => {}
        }
        let took = receiving.upload.on_data(block, data.len(), self.now);
        if receiving.upload.established() {
            self.sessions.established(key);
        }
        match took {
            DataAction::Ignore => {
                session.tally.ignored += 1;
                Disposition::Keep
            }
            DataAction::Acknowledge => {
                session.tally.ignored += 1;
                self.answer_write(session, true)
            }
            DataAction::TooLong => self.refuse(session, Refusal::new(ErrorCode::ILLEGAL, "block longer than agreed")),
            DataAction::Append { answer, last } => {
                session.tally.acks += 1;
                match self.append(key, session, data, last) {
                    Err(refusal) => self.refuse(session, refusal),
                    Ok(()) if answer => self.answer_write(session, false),
                    Ok(()) => Disposition::Keep,
                }
            }
        }
    }

    /// Appends the bytes of a block to those that wait for the destination.
    fn append(&mut self, key: Key, session: &mut Session, data: &[u8], last: bool) -> Result<(), Refusal> {
        let Stage::Receiving(receiving) = &mut session.stage else { return Ok(()) };
        let before = receiving.waiting.len();
        match &mut receiving.decoder {
            None => receiving.waiting.extend_from_slice(data),
            Some(decoder) => {
                decoder.decode(data, &mut receiving.waiting);
                if last {
                    decoder.finish(&mut receiving.waiting);
                }
            }
        }
        let bytes = (receiving.waiting.len() - before) as u64;
        receiving.received += bytes;
        session.tally.received += bytes;
        self.counters.add(Counter::BytesReceived, bytes);
        if receiving.received > receiving.limit {
            return Err(too_large(receiving.limit));
        }
        if last {
            // In netascii other bytes are sent than are stored, and some clients announce 0 for an unknown size.
            let announced = receiving.size.filter(|&size| size > 0 && receiving.decoder.is_none() && size != receiving.received);
            if let Some(size) = announced {
                return Err(Refusal::failed(format!("{} bytes came, {size} were announced", receiving.received)));
            }
            receiving.storing = Some(self.now);
        }
        self.pass_on(key, session);
        Ok(())
    }

    /// Passes waiting bytes to an idle destination: enough of them, or the last ones.
    fn pass_on(&mut self, key: Key, session: &mut Session) {
        let Stage::Receiving(receiving) = &mut session.stage else { return };
        let complete = receiving.storing.is_some();
        if !complete && receiving.waiting.len() < WRITE_SIZE || !matches!(receiving.target, Target::Idle(_)) {
            return;
        }
        if let Target::Idle(destination) = std::mem::replace(&mut receiving.target, Target::Busy) {
            let bytes = std::mem::take(&mut receiving.waiting);
            self.openers.step(key, destination, if complete { StoreStep::Finish(bytes) } else { StoreStep::Write(bytes) });
        }
    }

    /// Handles the result of work on the destination.
    pub(super) fn stored(&mut self, key: Key, session: &mut Session, result: Result<StoreResult, Panicked>) -> Disposition {
        let Stage::Receiving(receiving) = &mut session.stage else { return Disposition::Keep };
        match result {
            Err(Panicked) => self.panicked(session),
            Ok(StoreResult::Refused(refusal)) => self.refuse(session, refusal),
            Ok(StoreResult::NotNow(destination)) => {
                // The client sends its first block again.
                receiving.target = Target::Fresh(destination);
                self.counters.add(Counter::Shed, 1);
                Disposition::Keep
            }
            Ok(StoreResult::Ready(destination)) => match std::mem::replace(&mut receiving.target, Target::Idle(destination)) {
                Target::Beginning(first) => self.take(key, session, 1, &first),
                _ => {
                    self.pass_on(key, session);
                    Disposition::Keep
                }
            },
            Ok(StoreResult::Finished) => {
                let last = receiving.upload.terms().rollover.wire(receiving.upload.blocks());
                self.finished.insert(session.peer, last, self.now);
                self.counters.add(Counter::Stored, 1);
                self.answer_write(session, false);
                Disposition::Close(Outcome::Done)
            }
        }
    }

    /// Handles an expired timer of a write.
    pub(super) fn write_expired(&mut self, session: &mut Session, retransmission: &RetransmissionPolicy) -> Disposition {
        let Stage::Receiving(receiving) = &mut session.stage else { return Disposition::Keep };
        if let Some(since) = &mut receiving.storing {
            tracing::warn!(client = %session.peer.client, "slow disk: upload not stored yet");
            *since = self.now;
            return Disposition::Keep;
        }
        session.tally.timeouts += 1;
        self.counters.add(Counter::Timeouts, 1);
        match receiving.upload.on_timer(retransmission, self.now) {
            Step::Wait => Disposition::Keep,
            Step::Answer => self.answer_write(session, true),
            Step::GiveUp(silence) => Disposition::Close(silence.into()),
        }
    }

    /// Acknowledges the received blocks.
    fn answer_write(&mut self, session: &mut Session, retransmitted: bool) -> Disposition {
        let Stage::Receiving(receiving) = &mut session.stage else { return Disposition::Keep };
        let answer = receiving.upload.answer(retransmitted, self.now);
        let oack = &receiving.oack;
        self.net.outbox.packet(session.route, |to| match answer {
            Answer::Oack => to.extend(oack),
            Answer::Ack(block) => put_ack(to, block),
        });
        session.tally.packets += 1;
        session.tally.retransmitted += u64::from(retransmitted);
        self.counters.add(Counter::PacketsSent, 1);
        self.counters.add(Counter::Retransmitted, u64::from(retransmitted));
        Disposition::Keep
    }
}

impl Session {
    fn announced_size(&self) -> Option<u64> {
        crate::options::announced(self.file_and_options().1)
    }
}

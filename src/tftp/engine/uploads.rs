//! Uploads: from the request to the last acknowledgement, which is sent when the file is on disk under its name.

use super::blocking_pool::Job;
use super::event_loop::EventLoop;
use super::key::Key;
use super::peer::{Peer, Route};
use super::session::{Disposition, Receiving, Session, Stage};
use crate::handler::Refusal;
use crate::netascii::Decoder;
use crate::options::announced;
use crate::packet::{self, ErrorCode, Mode, put_ack};
use crate::report::{Counter, Outcome};
use crate::transfer::RetransmissionPolicy;
use crate::upload::{Answer, DataAction, Step, Upload};
use crate::writable::too_large;

impl EventLoop {
    /// Handles a write request. No file is created before the first block, because requests can be forged.
    pub(super) fn begin_write(&mut self, session: &mut Session, request: &packet::Request<'_>) -> Disposition {
        let Some(writable) = &self.config.writable else { return self.refuse(session, Refusal::access()) };
        let Some(mode) = request.known_mode() else {
            return self.refuse(session, Refusal::new(ErrorCode::ILLEGAL, "unknown mode"));
        };
        session.mode = Some(mode);
        let size = announced(request.options);
        // In netascii more bytes are sent than are stored.
        if mode == Mode::Octet && size.is_some_and(|size| size > writable.limit()) {
            let refusal = too_large(writable.limit());
            return self.refuse(session, refusal);
        }
        if let Err(refusal) = writable.check(request.file) {
            return self.refuse(session, refusal);
        }
        self.finished.forget(&session.peer);
        let (terms, oack) = self.terms(session.peer.client, request.options, size);
        let upload = Upload::new(terms, oack.is_some(), &self.config.retransmission, self.now);
        let decoder = (mode == Mode::Netascii).then(Decoder::default);
        let oack = oack.unwrap_or_default().into_boxed_slice();
        session.answered = Some(self.now);
        session.stage = Stage::Receiving(Box::new(Receiving { upload, oack, size, temporary_file: None, decoder, storing: None }));
        self.answer_write(session, false)
    }

    /// Handles a DATA packet.
    pub(super) fn data(&mut self, peer: Peer, route: Route, block: u16, data: &[u8]) {
        if let Some(&key) = self.peers.get(&peer) {
            self.with_session(key, |this, session| this.take(key, session, block, data));
        } else if self.finished.is_last(&peer, block, self.now) {
            self.counters.add(Counter::Retransmitted, 1);
            self.outbox.packet(route, |to| put_ack(to, block));
        } else {
            self.unknown_tid(peer, route);
        }
    }

    fn take(&mut self, key: Key, session: &mut Session, block: u16, data: &[u8]) -> Disposition {
        let Stage::Receiving(receiving) = &mut session.stage else {
            self.counters.add(Counter::Malformed, 1);
            return Disposition::Keep;
        };
        if receiving.temporary_file.is_none() {
            // Before the first block there is no file. After the last block the file is being stored, and the answer follows then.
            let first = receiving.storing.is_none() && block == 1;
            let Some(writable) = self.config.writable.as_ref().filter(|_| first) else { return Disposition::Keep };
            let Ok(packet::Packet::Request(request)) = packet::Packet::parse(&session.request) else { return Disposition::Keep };
            match writable.begin(request.file) {
                Ok(Some(temporary_file)) => receiving.temporary_file = Some(temporary_file),
                // The client sends it again.
                Ok(None) => {
                    self.counters.add(Counter::Shed, 1);
                    return Disposition::Keep;
                }
                Err(refusal) => return self.refuse(session, refusal),
            }
        }
        let took = receiving.upload.on_data(block, data.len(), self.now);
        if receiving.upload.established() {
            self.half_open.remove(key.index);
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
                match self.append(session, data, last) {
                    Err(refusal) => self.refuse(session, refusal),
                    Ok(()) if last => self.store(key, session),
                    Ok(()) if answer => self.answer_write(session, false),
                    Ok(()) => Disposition::Keep,
                }
            }
        }
    }

    /// Appends the bytes of a block to the file.
    fn append(&mut self, session: &mut Session, data: &[u8], last: bool) -> Result<(), Refusal> {
        let Stage::Receiving(receiving) = &mut session.stage else { return Ok(()) };
        let Some(temporary_file) = &mut receiving.temporary_file else { return Ok(()) };
        let mut decoded = Vec::new();
        let bytes = match &mut receiving.decoder {
            None => data,
            Some(decoder) => {
                decoder.decode(data, &mut decoded);
                if last {
                    decoder.finish(&mut decoded);
                }
                &decoded
            }
        };
        session.tally.received += bytes.len() as u64;
        self.counters.add(Counter::BytesReceived, bytes.len() as u64);
        temporary_file.write(bytes)
    }

    /// Stores the complete file on another thread, because the disk may be slow.
    fn store(&mut self, key: Key, session: &mut Session) -> Disposition {
        let Stage::Receiving(receiving) = &mut session.stage else { return Disposition::Keep };
        let Some(temporary_file) = receiving.temporary_file.take() else { return Disposition::Keep };
        // In netascii other bytes are sent than are stored, and some clients announce 0 for an unknown size.
        if let Some(size) = receiving.size.filter(|&size| size > 0 && receiving.decoder.is_none() && size != temporary_file.written()) {
            let came = format!("{} bytes came, {size} were announced", temporary_file.written());
            return self.refuse(session, Refusal::failed(came));
        }
        receiving.storing = Some(self.now);
        if self.blocking_pool.submit(&self.channel, key, Job::Store(Box::new(move || temporary_file.persist()))) {
            Disposition::Keep
        } else {
            self.refuse(session, Refusal::failed("the server is busy"))
        }
    }

    /// Handles the result of storing the file.
    pub(super) fn stored(&mut self, session: &mut Session, stored: Result<(), Refusal>) -> Disposition {
        if let Err(refusal) = stored {
            return self.refuse(session, refusal);
        }
        let Stage::Receiving(receiving) = &session.stage else { return Disposition::Keep };
        let last = receiving.upload.terms().rollover.wire(receiving.upload.blocks());
        self.finished.insert(session.peer, last, self.now);
        self.counters.add(Counter::Stored, 1);
        self.answer_write(session, false);
        Disposition::Close(Outcome::Done)
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
        self.outbox.packet(session.route, |to| match answer {
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

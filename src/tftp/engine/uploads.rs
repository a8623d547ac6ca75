//! Files that clients write: from the request to the last acknowledgement, which goes out when the file is on disk under its name.

use super::Key;
use super::event_loop::EventLoop;
use super::openers::Job;
use super::outbox::Route;
use super::session::{Peer, Receiving, Session, Stage};
use super::sessions::After;
use crate::client::netascii::Decoder;
use crate::handler::Refusal;
use crate::options::announced;
use crate::packet::{self, ErrorCode, Mode, put_ack};
use crate::report::{Counter, Outcome};
use crate::transfer::Pace;
use crate::upload::{Answer, Step, Took, Upload};
use crate::writable::too_large;

impl EventLoop {
    /// A write request. Nothing is made on disk before the first block: requests can be forged.
    pub(super) fn begin_write(&mut self, session: &mut Session, request: &packet::Request<'_>) -> After {
        let Some(writable) = &self.config.writable else { return self.refuse(session, Refusal::access()) };
        let Some(mode) = request.known_mode() else {
            return self.refuse(session, Refusal::new(ErrorCode::ILLEGAL, "unknown mode"));
        };
        session.mode = Some(mode);
        let size = announced(request.options);
        // In netascii more bytes travel than are stored.
        if mode == Mode::Octet && size.is_some_and(|size| size > writable.limit()) {
            let refusal = too_large(writable.limit());
            return self.refuse(session, refusal);
        }
        if let Err(refusal) = writable.check(request.file) {
            return self.refuse(session, refusal);
        }
        self.finished.forget(&session.peer);
        let (terms, oack) = self.terms(session.peer.client, request.options, size);
        let upload = Upload::new(terms, oack.is_some(), &self.config.pace, self.now);
        let decoder = (mode == Mode::Netascii).then(Decoder::default);
        let oack = oack.unwrap_or_default().into_boxed_slice();
        session.answered = Some(self.now);
        session.stage = Stage::Receiving(Box::new(Receiving { upload, oack, size, draft: None, decoder, storing: None }));
        self.answer_write(session, false)
    }

    /// A DATA packet.
    pub(super) fn data(&mut self, peer: Peer, route: Route, block: u16, data: &[u8]) {
        if let Some(&key) = self.peers.get(&peer) {
            self.with(key, |this, session| this.take(key, session, block, data));
        } else if self.finished.is_last(&peer, block, self.now) {
            self.counters.add(Counter::Repeated, 1);
            self.outbox.packet(route, |to| put_ack(to, block));
        } else {
            self.stranger(peer, route);
        }
    }

    fn take(&mut self, key: Key, session: &mut Session, block: u16, data: &[u8]) -> After {
        let Stage::Receiving(receiving) = &mut session.stage else {
            self.counters.add(Counter::Malformed, 1);
            return After::Keep;
        };
        if receiving.draft.is_none() {
            // Before the first block there is nothing; behind the last one it is on its way to the disk, and answered then.
            let first = receiving.storing.is_none() && block == 1;
            let Some(writable) = self.config.writable.as_ref().filter(|_| first) else { return After::Keep };
            let Ok(packet::Packet::Request(request)) = packet::Packet::parse(&session.request) else { return After::Keep };
            match writable.begin(request.file) {
                Ok(Some(draft)) => receiving.draft = Some(draft),
                // The client sends it again.
                Ok(None) => {
                    self.counters.add(Counter::Shed, 1);
                    return After::Keep;
                }
                Err(refusal) => return self.refuse(session, refusal),
            }
        }
        let took = receiving.upload.on_data(block, data.len(), self.now);
        if receiving.upload.heard() {
            self.unheard.remove(key.index);
        }
        match took {
            Took::Nothing => {
                session.tally.ignored += 1;
                After::Keep
            }
            Took::Answer => {
                session.tally.ignored += 1;
                self.answer_write(session, true)
            }
            Took::TooLong => self.refuse(session, Refusal::new(ErrorCode::ILLEGAL, "block longer than agreed")),
            Took::Bytes { answer, last } => {
                session.tally.acks += 1;
                match self.append(session, data, last) {
                    Err(refusal) => self.refuse(session, refusal),
                    Ok(()) if last => self.store(key, session),
                    Ok(()) if answer => self.answer_write(session, false),
                    Ok(()) => After::Keep,
                }
            }
        }
    }

    /// Puts a block's bytes into the file.
    fn append(&mut self, session: &mut Session, data: &[u8], last: bool) -> Result<(), Refusal> {
        let Stage::Receiving(receiving) = &mut session.stage else { return Ok(()) };
        let Some(draft) = &mut receiving.draft else { return Ok(()) };
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
        draft.write(bytes)
    }

    /// The file is complete. The disk may take its time, which is not the loop's.
    fn store(&mut self, key: Key, session: &mut Session) -> After {
        let Stage::Receiving(receiving) = &mut session.stage else { return After::Keep };
        let Some(draft) = receiving.draft.take() else { return After::Keep };
        // In netascii other bytes travel than are stored, and 0 is what some say who do not know.
        if let Some(size) = receiving.size.filter(|&size| size > 0 && receiving.decoder.is_none() && size != draft.written()) {
            let came = format!("{} bytes came, {size} were announced", draft.written());
            return self.refuse(session, Refusal::failed(came));
        }
        receiving.storing = Some(self.now);
        if self.openers.submit(&self.mailbox, key, Job::Store(Box::new(move || draft.keep()))) {
            After::Keep
        } else {
            self.refuse(session, Refusal::failed("the server is busy"))
        }
    }

    /// It is on disk, or why not.
    pub(super) fn stored(&mut self, session: &mut Session, stored: Result<(), Refusal>) -> After {
        if let Err(refusal) = stored {
            return self.refuse(session, refusal);
        }
        let Stage::Receiving(receiving) = &session.stage else { return After::Keep };
        let last = receiving.upload.terms().rollover.wire(receiving.upload.blocks());
        self.finished.note(session.peer, last, self.now);
        self.counters.add(Counter::Stored, 1);
        self.answer_write(session, false);
        After::Close(Outcome::Done)
    }

    /// A write's time has come.
    pub(super) fn write_expired(&mut self, session: &mut Session, pace: &Pace) -> After {
        let Stage::Receiving(receiving) = &mut session.stage else { return After::Keep };
        if let Some(since) = &mut receiving.storing {
            tracing::warn!(client = %session.peer.client, "the disk is slow: a file that a client wrote is not on it yet");
            *since = self.now;
            return After::Keep;
        }
        session.tally.timeouts += 1;
        self.counters.add(Counter::Timeouts, 1);
        match receiving.upload.on_timer(pace, self.now) {
            Step::Wait => After::Keep,
            Step::Answer => self.answer_write(session, true),
            Step::GiveUp(silence) => After::Close(silence.into()),
        }
    }

    /// Acknowledges what came so far.
    fn answer_write(&mut self, session: &mut Session, repeated: bool) -> After {
        let Stage::Receiving(receiving) = &mut session.stage else { return After::Keep };
        let answer = receiving.upload.answer(repeated, self.now);
        let oack = &receiving.oack;
        self.outbox.packet(session.route, |to| match answer {
            Answer::Oack => to.extend(oack),
            Answer::Ack(block) => put_ack(to, block),
        });
        session.tally.packets += 1;
        session.tally.repeated += u64::from(repeated);
        self.counters.add(Counter::PacketsSent, 1);
        self.counters.add(Counter::Repeated, u64::from(repeated));
        After::Keep
    }
}

//! From the first answer to the end: acknowledgements, time-outs, blocks.

use super::Key;
use super::event_loop::EventLoop;
use super::outbox::{Blocks, Route, Source};
use super::read_ahead::Have;
use super::requests::Span;
use super::session::{Peer, Session, Stage};
use super::sessions::After;
use crate::handler::Refusal;
use crate::packet::{ErrorCode, data_header};
use crate::report::{Counter, Outcome};
use crate::transfer::{Ack, Pace, Silence, Step};
use std::hash::BuildHasher;
use std::io;
use std::sync::Arc;

/// Repetitions to clients that never answered when those fill more than this part of the places, the smallest part first. Whoever asked
/// asks again; answers to those who never did are most of what forged requests cost.
const CROWDED: [(usize, u8); 2] = [(16, 1), (4, 0)];
/// So many that never answered are no crowd, however few places there are.
const FEW: usize = 100;
/// ERRORs to strangers in a second.
const TOLD: u32 = 100;

impl EventLoop {
    /// The transfer with this peer. Often it is the one that the last packet was of, too.
    fn find(&mut self, peer: &Peer) -> Option<Key> {
        if let Some(key) = self.latest
            && self.session(key).is_some_and(|session| session.peer == *peer)
        {
            return Some(key);
        }
        self.latest = self.peers.get(peer).copied();
        self.latest
    }

    pub(super) fn ack(&mut self, peer: Peer, route: Route, block: u16) {
        let Some(key) = self.find(&peer) else { return self.unknown(peer, route, block) };
        self.with(key, |this, session| {
            let Stage::Running(running) = &mut session.stage else {
                session.remember(block);
                this.counters.add(Counter::AcksIgnored, 1);
                return After::Keep;
            };
            if running.doubted || running.noted.is_some() && running.transfer.is_in_doubt(this.now) {
                return this.doubt(key, session, Some(block));
            }
            this.acknowledged(key, session, block)
        });
    }

    /// A client acknowledges a block of a transfer that is served here.
    pub(super) fn acknowledged(&mut self, key: Key, session: &mut Session, block: u16) -> After {
        let Stage::Running(running) = &mut session.stage else { return After::Keep };
        let (ack, step) = running.transfer.on_ack(block, &self.config.pace, self.now);
        if running.transfer.heard() {
            self.unheard.remove(key.index);
        }
        if ack == Ack::New {
            session.tally.acks += 1;
            self.counters.add(Counter::Acks, 1);
            if running.transfer.acked() >= running.renote {
                self.tell_heirs(key, session);
            }
        } else {
            session.tally.ignored += 1;
            self.counters.add(Counter::AcksIgnored, 1);
        }
        self.step(key, session, step)
    }

    /// A packet of a transfer that is not known here. It is told so (RFC 1350 section 4), unless that transfer has just ended or too many
    /// were told in this second: whoever forges senders' addresses must not find a mirror here.
    pub(super) fn stranger(&mut self, peer: Peer, route: Route) {
        if self.has_just_ended(&peer) {
            self.counters.add(Counter::AcksIgnored, 1);
            return;
        }
        self.counters.add(Counter::Strangers, 1);
        let second = self.now.seconds();
        if self.told.0 != second {
            self.told = (second, 0);
        }
        if self.told.1 < TOLD {
            self.told.1 += 1;
            self.counters.add(Counter::StrangersTold, 1);
            self.error(route, ErrorCode::UNKNOWN_TID, "unknown transfer");
        }
    }

    /// Whether a transfer with this peer has just ended here.
    pub(super) fn has_just_ended(&self, peer: &Peer) -> bool {
        let hash = self.hasher.hash_one(peer);
        self.ended[hash as usize % 256] == hash
    }

    /// The client ends it. It is never answered: an ERROR for an ERROR would have no end.
    pub(super) fn client_error(&mut self, peer: Peer, code: ErrorCode, text: &[u8]) {
        let Some(&key) = self.peers.get(&peer) else { return self.unknown_error(&peer) };
        self.with(key, |_, session| {
            let probe = match &session.stage {
                Stage::Running(running) => {
                    let untouched = !running.oack.is_empty() && running.transfer.acked() == 0;
                    untouched && (code == ErrorCode::OPTIONS || code == ErrorCode::NOT_DEFINED)
                }
                Stage::Receiving(receiving) => !receiving.upload.heard() && code == ErrorCode::OPTIONS,
                _ => false,
            };
            After::Close(if probe { Outcome::Probed } else { Outcome::Aborted(code, String::from_utf8_lossy(text).into_owned()) })
        });
    }

    /// A session's time has come.
    pub(super) fn expired(&mut self, key: Key, session: &mut Session) -> After {
        let pace = self.pace(session);
        if matches!(session.stage, Stage::Receiving(_)) {
            return self.write_expired(session, &pace);
        }
        let Stage::Running(running) = &mut session.stage else {
            let refusal = Refusal::failed("the file could not be opened in time");
            self.error(session.route, ErrorCode::NOT_DEFINED, &refusal.text);
            return After::Close(Outcome::Refused(refusal.code, refusal.text));
        };
        if running.starved.is_some() && !running.transfer.outstanding() {
            return self.fail(session, &io::Error::new(io::ErrorKind::TimedOut, "the content did not come in time"));
        }
        let step = running.transfer.on_timer(&pace, self.now);
        session.tally.timeouts += 1;
        self.counters.add(Counter::Timeouts, 1);
        if step == Step::Oack {
            session.tally.repeated += 1;
            self.counters.add(Counter::Repeated, 1);
        }
        if step == Step::Blocks && self.is_in_doubt(session) {
            return self.doubt(key, session, None);
        }
        self.step(key, session, step)
    }

    /// Who never answered is soon given up where many did not: it may never have asked.
    fn pace(&self, session: &Session) -> Pace {
        let heard = match &session.stage {
            Stage::Running(running) => running.transfer.heard(),
            Stage::Receiving(receiving) => receiving.upload.heard(),
            _ => false,
        };
        let pace = self.config.pace;
        let crowded = |&&(part, _): &&(usize, u8)| !heard && self.unheard.len() > (self.config.max_transfers / part).max(FEW);
        let retries = CROWDED.iter().filter(crowded).map(|&(_, retries)| retries).min();
        Pace { retries: retries.unwrap_or(u8::MAX).min(pace.retries), ..pace }
    }

    /// Sends the blocks that are wanted, as far as content is at hand.
    pub(super) fn pump(&mut self, key: Key, session: &mut Session) -> After {
        loop {
            let Stage::Running(running) = &session.stage else { return After::Keep };
            let wanted = running.transfer.wanted();
            if wanted.is_empty() || running.doubted {
                return After::Keep;
            }
            // What it was held for, or content, may have been long in coming.
            if self.is_in_doubt(session) {
                return self.doubt(key, session, None);
            }
            let (first, blksize) = (*wanted.start(), usize::from(running.transfer.terms().blksize));
            let count = usize::try_from(wanted.end() - first + 1).unwrap_or(usize::MAX);
            let (content, size, cut) = (Arc::clone(&running.content), running.size, running.cut);
            let offset = (first - 1) * blksize as u64;
            // Whatever ends before the content's end: the end itself is always read, and read last, because that shows whether it changed.
            let whole = count.saturating_mul(blksize);
            let before_the_end = size.is_some_and(|size| offset.saturating_add(whole as u64) < size);
            // Measured: gathering windows of odd blocks from a mapping costs more than reading them does; of all others, less.
            let cheap = count == 1 || blksize.is_multiple_of(512);
            let (blocks, source, sent) = if cheap && before_the_end && content.lend(offset, whole).is_some() {
                self.read_ahead.release(&mut session.cursor, key);
                (count, Source::Lent(content, offset, whole), whole as u64)
            } else {
                if self.outbox.has_loans() {
                    self.flush();
                }
                let span = Span { content: &content, size, offset, block: blksize, window: whole };
                let have = self.read(key, session, &span);
                let Stage::Running(running) = &mut session.stage else { return After::Keep };
                let (slot, range, end) = match have {
                    Err(error) => return self.fail(session, &error),
                    Ok(Have::Bytes { slot, range, end }) => (slot, range, end),
                    Ok(_) => {
                        running.starved.get_or_insert(self.now);
                        return After::Keep;
                    }
                };
                let full = range.len() / blksize;
                if end {
                    running.transfer.ends_with(first + full as u64);
                }
                self.read_ahead.queued(slot, self.outbox.number());
                let blocks = count.min(full + usize::from(end));
                let bytes = range.start..range.end.min(range.start + blocks * blksize);
                let sent = bytes.len() as u64;
                (blocks, Source::Slot(slot, bytes), sent)
            };
            let Stage::Running(running) = &mut session.stage else { return After::Keep };
            let upto = first + blocks as u64 - 1;
            let transfer = &running.transfer;
            let headers = (first..=upto).map(|block| data_header(transfer.wire(block)));
            self.outbox.blocks(session.route, Blocks { owner: key, cut, blksize: blksize as u16, source }, headers);
            let repeated = running.transfer.sent(upto, self.now);
            session.tally.packets += blocks as u64;
            session.tally.bytes += sent;
            session.tally.repeated += repeated;
            self.counters.add(Counter::PacketsSent, blocks as u64);
            self.counters.add(Counter::BytesSent, sent);
            self.counters.add(Counter::Repeated, repeated);
            if self.outbox.is_full() {
                self.flush();
            }
        }
    }
}

impl Session {
    /// The kernel cannot cut this transfer's windows apart: its blocks do not fit the path, or the interface lacks checksum offload.
    pub(super) fn never_cut(&mut self) {
        if let Stage::Running(running) = &mut self.stage {
            running.cut = false;
        }
    }
}

impl From<Silence> for Outcome {
    fn from(silence: Silence) -> Outcome {
        match silence {
            Silence::Never => Outcome::Unheard,
            Silence::Midway => Outcome::TimedOut,
            Silence::AtTheEnd => Outcome::Unconfirmed,
        }
    }
}

//! From the first answer to the end: acknowledgements, time-outs, blocks.

use super::event_loop::EventLoop;
use super::key::Key;
use super::outbox::{BlockSource, Blocks};
use super::peer::{Peer, Route};
use super::read_ahead::ReadResult;
use super::requests::Span;
use super::session::{Disposition, Session, Stage};
use crate::handler::Refusal;
use crate::packet::{ErrorCode, data_header};
use crate::report::{Counter, Outcome};
use crate::rto::RetransmissionPolicy;
use crate::transfer::{Ack, Step, Unresponsive};
use std::io;
use std::sync::Arc;

/// Retransmissions to half-open clients while they fill more than this fraction of the table, the smallest fraction first. Real clients repeat
/// their requests; retransmissions to forged ones are most of their cost.
const HALF_OPEN_RETRIES: [(usize, u8); 2] = [(16, 1), (4, 0)];
/// Number of half-open transfers that never reduces retransmissions, however small the table is.
const HALF_OPEN_MIN: usize = 100;
/// Largest number of ERRORs for unknown TIDs per second.
const MAX_UNKNOWN_TID_ERRORS: u32 = 100;

impl EventLoop {
    pub(super) fn ack(&mut self, peer: Peer, route: Route, block: u16) {
        let Some(key) = self.sessions.find(&peer) else { return self.query_unknown(peer, route, block) };
        self.with_session(key, |this, session| {
            let Stage::Running(running) = &mut session.stage else {
                session.record_ack(block);
                this.counters.add(Counter::AcksIgnored, 1);
                return Disposition::Keep;
            };
            if running.ownership_check_pending || running.replication.is_some() && running.transfer.needs_ownership_check(this.now) {
                return this.start_ownership_check(key, session, Some(block));
            }
            this.acknowledged(key, session, block)
        });
    }

    /// Handles an ACK of a transfer that is served here.
    pub(super) fn acknowledged(&mut self, key: Key, session: &mut Session, block: u16) -> Disposition {
        let Stage::Running(running) = &mut session.stage else { return Disposition::Keep };
        let (ack, step) = running.transfer.on_ack(block, &self.config.retransmission, self.now);
        if running.transfer.established() {
            self.sessions.established(key);
        }
        if ack == Ack::New {
            session.tally.acks += 1;
            self.counters.add(Counter::Acks, 1);
            if running.transfer.acked() >= running.next_checkpoint_block {
                self.send_checkpoints(key, session);
            }
        } else {
            session.tally.ignored += 1;
            self.counters.add(Counter::AcksIgnored, 1);
        }
        self.step(key, session, step)
    }

    /// Handles a packet with an unknown TID. It is answered with an ERROR (RFC 1350 section 4), unless the transfer has just ended or the limit per
    /// second is reached: forged source addresses must not make the server a reflector.
    pub(super) fn unknown_tid(&mut self, peer: Peer, route: Route) {
        if self.sessions.has_just_ended(&peer) {
            self.counters.add(Counter::AcksIgnored, 1);
            return;
        }
        self.counters.add(Counter::UnknownTids, 1);
        let second = self.now.seconds();
        if self.unknown_tid_errors.0 != second {
            self.unknown_tid_errors = (second, 0);
        }
        if self.unknown_tid_errors.1 < MAX_UNKNOWN_TID_ERRORS {
            self.unknown_tid_errors.1 += 1;
            self.counters.add(Counter::UnknownTidErrors, 1);
            self.error(route, ErrorCode::UNKNOWN_TID, "unknown transfer");
        }
    }

    /// Handles an ERROR of the client. It is never answered, so that two hosts cannot exchange ERRORs for ever.
    pub(super) fn client_error(&mut self, peer: Peer, code: ErrorCode, text: &[u8]) {
        let Some(key) = self.sessions.key_of(&peer) else { return self.unknown_error(&peer) };
        self.with_session(key, |_, session| {
            let probe = match &session.stage {
                Stage::Running(running) => {
                    running.transfer.is_oack_unanswered() && (code == ErrorCode::OPTIONS || code == ErrorCode::NOT_DEFINED)
                }
                Stage::Receiving(receiving) => !receiving.upload.established() && code == ErrorCode::OPTIONS,
                _ => false,
            };
            Disposition::Close(if probe { Outcome::Probed } else { Outcome::Aborted(code, String::from_utf8_lossy(text).into_owned()) })
        });
    }

    /// Handles an expired timer of a session.
    pub(super) fn expired(&mut self, key: Key, session: &mut Session) -> Disposition {
        let retransmission = self.retransmission(session);
        if matches!(session.stage, Stage::Receiving(_)) {
            return self.write_expired(session, &retransmission);
        }
        let Stage::Running(running) = &mut session.stage else {
            // It waits for other requests, or its handler hangs.
            return self.refuse(session, Refusal { text: "the file could not be opened in time".into(), ..Refusal::overloaded() });
        };
        if running.starved.is_some() && !running.transfer.outstanding() {
            return self.fail(session, &io::Error::new(io::ErrorKind::TimedOut, "the content was not available in time"));
        }
        let step = running.transfer.on_timer(&retransmission, self.now);
        session.tally.timeouts += 1;
        self.counters.add(Counter::Timeouts, 1);
        if step == Step::Oack {
            session.tally.retransmitted += 1;
            self.counters.add(Counter::Retransmitted, 1);
        }
        if step == Step::Blocks && self.needs_ownership_check(session) {
            return self.start_ownership_check(key, session, None);
        }
        self.step(key, session, step)
    }

    /// Returns the retransmission policy. With many half-open transfers, they are given up sooner, because their requests may be forged.
    fn retransmission(&self, session: &Session) -> RetransmissionPolicy {
        let established = match &session.stage {
            Stage::Running(running) => running.transfer.established(),
            Stage::Receiving(receiving) => receiving.upload.established(),
            _ => false,
        };
        let retransmission = self.config.retransmission;
        let under_pressure =
            |&&(part, _): &&(usize, u8)| !established && self.sessions.half_open() > (self.config.max_transfers / part).max(HALF_OPEN_MIN);
        let retries = HALF_OPEN_RETRIES.iter().filter(under_pressure).map(|&(_, retries)| retries).min();
        RetransmissionPolicy { retries: retries.unwrap_or(u8::MAX).min(retransmission.retries), ..retransmission }
    }

    /// Sends the wanted blocks for which content is available.
    pub(super) fn send_blocks(&mut self, key: Key, session: &mut Session) -> Disposition {
        loop {
            let Stage::Running(running) = &session.stage else { return Disposition::Keep };
            let wanted = running.transfer.wanted();
            if wanted.is_empty() || running.ownership_check_pending {
                return Disposition::Keep;
            }
            // The wait for a successor or for content may have been long.
            if self.needs_ownership_check(session) {
                return self.start_ownership_check(key, session, None);
            }
            let (first, blksize) = (*wanted.start(), usize::from(running.transfer.terms().blksize));
            let count = usize::try_from(wanted.end() - first + 1).unwrap_or(usize::MAX);
            let (content, size, gso) = (Arc::clone(&running.content), running.size, running.gso);
            let offset = (first - 1) * blksize as u64;
            // Only blocks before the end of the content: the end is always read, and read last, because that detects a changed content.
            let whole = count.saturating_mul(blksize);
            let before_the_end = size.is_some_and(|size| offset.saturating_add(whole as u64) < size);
            // By measurement: for windows of odd block sizes, gathering from a mapping costs more than reading; for all others, less.
            let cheap = count == 1 || blksize.is_multiple_of(512);
            let (blocks, source, sent) = if cheap && before_the_end && content.borrow_at(offset, whole).is_some() {
                self.net.read_ahead.release(&mut session.cursor, key);
                (count, BlockSource::Borrowed(content, offset, whole), whole as u64)
            } else {
                if self.net.outbox.has_borrowed() {
                    self.flush();
                }
                let span = Span { content: &content, size, offset, block: blksize, window: whole };
                let have = self.read(key, session, &span);
                let Stage::Running(running) = &mut session.stage else { return Disposition::Keep };
                let (slot, range, end) = match have {
                    Err(error) => return self.fail(session, &error),
                    Ok(ReadResult::Bytes { slot, range, end }) => (slot, range, end),
                    Ok(_) => {
                        running.starved.get_or_insert(self.now);
                        return Disposition::Keep;
                    }
                };
                let full = range.len() / blksize;
                if end {
                    running.transfer.ends_with(first + full as u64);
                }
                self.net.read_ahead.queued(slot, self.net.outbox.generation());
                let blocks = count.min(full + usize::from(end));
                let bytes = range.start..range.end.min(range.start + blocks * blksize);
                let sent = bytes.len() as u64;
                (blocks, BlockSource::Slot(slot, bytes), sent)
            };
            let Stage::Running(running) = &mut session.stage else { return Disposition::Keep };
            let upto = first + blocks as u64 - 1;
            let transfer = &running.transfer;
            let headers = (first..=upto).map(|block| data_header(transfer.wire(block)));
            self.net.outbox.blocks(session.route, Blocks { owner: key, gso, blksize: blksize as u16, source }, headers);
            let retransmitted = running.transfer.sent(upto, self.now);
            session.tally.packets += blocks as u64;
            session.tally.bytes += sent;
            session.tally.retransmitted += retransmitted;
            self.counters.add(Counter::PacketsSent, blocks as u64);
            self.counters.add(Counter::BytesSent, sent);
            self.counters.add(Counter::Retransmitted, retransmitted);
            if self.net.outbox.is_full() {
                self.flush();
            }
        }
    }
}

impl Session {
    /// Disables segmentation by the kernel for transfers whose blocks exceed the path's MTU or whose interface lacks checksum offload.
    pub(super) fn disable_gso(&mut self) {
        if let Stage::Running(running) = &mut self.stage {
            running.gso = false;
        }
    }
}

impl From<Unresponsive> for Outcome {
    fn from(silence: Unresponsive) -> Outcome {
        match silence {
            Unresponsive::HalfOpen => Outcome::HalfOpen,
            Unresponsive::MidTransfer => Outcome::TimedOut,
            Unresponsive::FinalAck => Outcome::Unconfirmed,
        }
    }
}

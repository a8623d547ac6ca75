//! Writing a file to a server.

use super::options::{Agreed, shown};
use super::transfer::{Counters, Failure, Pending, Phase, Plan, Session};
use crate::packet::{ErrorCode, Packet, put_data_header};
use guideway_packet::time::Time;
use std::collections::VecDeque;
use std::net::SocketAddr;

/// A write request and what follows it.
///
/// While [`Write::wants`] says so, give it the next block by [`Write::supply`]; then send what [`Write::transmit`] gives until it gives
/// nothing. It keeps one window in memory.
#[derive(Debug)]
pub struct Write {
    session: Session,
    /// The first block that is not acknowledged, from 1.
    base: u64,
    /// Blocks from `base` on.
    blocks: VecDeque<Vec<u8>>,
    spare: Vec<Vec<u8>>,
    /// The block to send next, and the one behind the furthest that ever was sent.
    cursor: u64,
    furthest: u64,
    /// The last block was supplied.
    complete: bool,
    /// When the window was begun anew.
    rewound: Option<Time>,
}

impl Write {
    /// Asks to write a file.
    pub fn new(plan: Plan, now: Time) -> Self {
        let session = Session::new(plan, true, now);
        Write { session, base: 1, blocks: VecDeque::new(), spare: Vec::new(), cursor: 1, furthest: 1, complete: false, rewound: None }
    }

    /// How long the next block is to be, when there is room for one. A shorter one is the last (it may be empty).
    pub fn wants(&self) -> Option<usize> {
        let room =
            self.session.phase == Phase::Running && !self.complete && self.blocks.len() < usize::from(self.session.agreed.windowsize);
        room.then(|| usize::from(self.session.agreed.blksize))
    }

    /// The next block. Ignored unless [`Write::wants`] asked for one; cut to the length that it said.
    pub fn supply(&mut self, block: &[u8]) {
        let Some(length) = self.wants() else { return };
        self.complete = block.len() < length;
        let mut kept = self.spare.pop().unwrap_or_default();
        kept.clear();
        kept.extend(&block[..block.len().min(length)]);
        self.blocks.push_back(kept);
    }

    /// Takes a datagram.
    pub fn receive(&mut self, now: Time, from: SocketAddr, datagram: &[u8]) {
        let Ok(packet) = Packet::parse(datagram) else { return };
        if !self.session.admits(from, matches!(packet, Packet::Error { .. })) {
            return;
        }
        match (self.session.phase, packet) {
            (Phase::Asking | Phase::Running, Packet::Error { code, text }) => {
                self.session.end(Err(Failure::Server { code, text: shown(text) }), None);
            }
            (Phase::Asking, Packet::Oack(options)) => {
                self.session.answered(from, now);
                match Agreed::from_oack(options, &self.session.plan.ask, true) {
                    Ok(agreed) => {
                        self.session.agreed = agreed;
                        self.session.progress(now);
                    }
                    Err(bad) => self.session.end(Err(bad.into()), Some(Pending::Error(ErrorCode::OPTIONS, "options refused"))),
                }
            }
            (Phase::Asking, Packet::Ack { block: 0 }) => {
                self.session.answered(from, now);
                self.session.progress(now);
            }
            (Phase::Running, Packet::Ack { block }) => self.ack(now, block),
            // An OACK again: block 1 answers it, and the time-out repeats that.
            (Phase::Running, Packet::Oack(_)) => self.session.counters.duplicates += 1,
            _ => {}
        }
    }

    fn ack(&mut self, now: Time, block: u16) {
        let Some(ahead) = self.session.rollover().ahead(self.base, block) else { return };
        if ahead < self.furthest - self.base {
            self.acknowledged(now, ahead + 1);
        } else if ahead == self.session.rollover().ring() - 1 {
            self.session.counters.duplicates += 1;
            // In lock-step a second DATA for a second ACK would be the Sorcerer's Apprentice. In a window it says that the first block is
            // missing, but one window sent anew is enough for all that say so.
            let soon = self.rewound.is_some_and(|at| now - at < self.session.rto.current() / 2);
            if self.session.agreed.windowsize > 1 && !soon {
                self.rewind(now);
            }
        }
        // Anything else acknowledges what was not sent.
    }

    fn acknowledged(&mut self, now: Time, count: u64) {
        for _ in 0..count {
            if let Some(block) = self.blocks.pop_front() {
                self.session.counters.bytes += block.len() as u64;
                self.spare.push(block);
            }
        }
        self.base += count;
        self.session.progress(now);
        if self.complete && self.blocks.is_empty() {
            self.session.end(Ok(()), None);
        } else if self.base < self.furthest {
            // Not the whole window: from the first that is missing on.
            self.session.counters.gaps += 1;
            self.rewind(now);
        } else {
            self.cursor = self.base;
            self.rewound = None;
        }
    }

    fn rewind(&mut self, now: Time) {
        self.cursor = self.base;
        self.rewound = Some(now);
        self.session.clock = None;
    }

    /// Acts on time; nothing happens before [`Write::deadline`].
    pub fn expire(&mut self, now: Time) {
        if self.session.deadline.is_none_or(|deadline| now < deadline) {
            return;
        }
        let phase = self.session.phase;
        match phase {
            Phase::Asking => self.session.ask_again(now),
            Phase::Running if self.session.again(now) => self.rewind(now),
            Phase::Running => {
                let failure = Failure::Silent { block: self.base - 1, tries: self.session.tries };
                self.session.end(Err(failure), Some(Pending::Error(ErrorCode::NOT_DEFINED, "timed out")));
            }
            Phase::Over => self.session.deadline = None,
        }
    }

    /// Writes the next datagram to send into `out`, which it empties first; gives where it goes.
    pub fn transmit(&mut self, now: Time, out: &mut Vec<u8>) -> Option<SocketAddr> {
        out.clear();
        if let Some(to) = self.session.transmit(out) {
            return Some(to);
        }
        let to = self.session.tid()?;
        let at = usize::try_from(self.cursor - self.base).ok()?;
        if self.session.phase != Phase::Running {
            return None;
        }
        let block = self.blocks.get(at)?;
        put_data_header(out, self.session.wire(self.cursor));
        out.extend(block);
        self.session.counters.sent += 1;
        if self.cursor < self.furthest {
            self.session.counters.retransmits += 1;
        } else if self.cursor == self.base {
            self.session.clock = Some(now);
        }
        self.cursor += 1;
        self.furthest = self.furthest.max(self.cursor);
        Some(to)
    }

    /// Ends the transfer for a reason on this side; the server is told.
    pub fn abort(&mut self, why: String, code: ErrorCode, text: &'static str) {
        if self.session.outcome.is_none() {
            let say = self.session.tid().map(|_| Pending::Error(code, text));
            self.session.end(Err(Failure::Here(why)), say);
        }
    }

    /// When [`Write::expire`] wants to be called; `None` when nothing more will happen.
    pub fn deadline(&self) -> Option<Time> {
        self.session.deadline
    }

    /// How it ended; with `Ok` the server has all bytes.
    pub fn outcome(&self) -> Option<&Result<(), Failure>> {
        self.session.outcome.as_ref()
    }

    /// What happened on the wire.
    pub fn counters(&self) -> Counters {
        self.session.counters
    }

    /// What was agreed with the server.
    pub fn agreed(&self) -> Agreed {
        self.session.agreed
    }
}

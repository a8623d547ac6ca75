//! Writing a file to a server.

use super::options::{NegotiatedOptions, shown};
use super::transfer::{Counters, Failure, Pending, Phase, Session, TransferPlan};
use crate::packet::{ErrorCode, Packet, put_data_header};
use guideway_packet::time::Time;
use std::collections::VecDeque;
use std::net::SocketAddr;

/// A write request and what follows it.
///
/// While [`Write::wants`] asks for a block, pass it to [`Write::supply`]. Then send the datagrams of [`Write::transmit`] until it returns
/// `None`. A write keeps one window in memory.
#[derive(Debug)]
pub struct Write {
    session: Session,
    /// The first unacknowledged block, from 1.
    base: u64,
    /// Blocks from `base` on.
    blocks: VecDeque<Vec<u8>>,
    spare: Vec<Vec<u8>>,
    /// The block to send next, and the one after the highest that was ever sent.
    cursor: u64,
    highest_sent: u64,
    /// Whether the last block was supplied.
    complete: bool,
    /// When the window was last restarted.
    rewound: Option<Time>,
}

impl Write {
    /// Starts a write request.
    pub fn new(plan: TransferPlan, now: Time) -> Self {
        let session = Session::new(plan, true, now);
        Write { session, base: 1, blocks: VecDeque::new(), spare: Vec::new(), cursor: 1, highest_sent: 1, complete: false, rewound: None }
    }

    /// Returns the length of the next block if there is room for it. A shorter block is the last one (it may be empty).
    pub fn wants(&self) -> Option<usize> {
        let room =
            self.session.phase == Phase::Running && !self.complete && self.blocks.len() < usize::from(self.session.negotiated.windowsize);
        room.then(|| usize::from(self.session.negotiated.blksize))
    }

    /// Supplies the next block, cut to the length of [`Write::wants`]. Ignored unless `wants` asked for it.
    pub fn supply(&mut self, block: &[u8]) {
        let Some(length) = self.wants() else { return };
        self.complete = block.len() < length;
        let mut kept = self.spare.pop().unwrap_or_default();
        kept.clear();
        kept.extend(&block[..block.len().min(length)]);
        self.blocks.push_back(kept);
    }

    /// Handles a datagram.
    pub fn receive(&mut self, now: Time, from: SocketAddr, datagram: &[u8]) {
        let Ok(packet) = Packet::parse(datagram) else { return };
        if !self.session.admits(from, matches!(packet, Packet::Error { .. })) {
            return;
        }
        match (self.session.phase, packet) {
            (Phase::Requesting | Phase::Running, Packet::Error { code, text }) => {
                self.session.end(Err(Failure::Server { code, text: shown(text) }), None);
            }
            (Phase::Requesting, Packet::Oack(options)) => {
                self.session.answered(from, now);
                match NegotiatedOptions::from_oack(options, &self.session.plan.ask, true) {
                    Ok(negotiated) => {
                        self.session.negotiated = negotiated;
                        self.session.progress(now);
                    }
                    Err(bad) => self.session.end(Err(bad.into()), Some(Pending::Error(ErrorCode::OPTIONS, "options refused"))),
                }
            }
            (Phase::Requesting, Packet::Ack { block: 0 }) => {
                self.session.answered(from, now);
                self.session.progress(now);
            }
            (Phase::Running, Packet::Ack { block }) => self.ack(now, block),
            // A repeated OACK: block 1 answers it, and the time-out retransmits block 1.
            (Phase::Running, Packet::Oack(_)) => self.session.counters.duplicates += 1,
            _ => {}
        }
    }

    fn ack(&mut self, now: Time, block: u16) {
        let Some(ahead) = self.session.rollover().ahead(self.base, block) else { return };
        if ahead < self.highest_sent - self.base {
            self.acknowledged(now, ahead + 1);
        } else if ahead == self.session.rollover().ring() - 1 {
            self.session.counters.duplicates += 1;
            // In lock-step, a second DATA for a second ACK would be the Sorcerer's Apprentice. In a window, a repeated ACK means that the
            // first block is missing. One retransmitted window answers all of them.
            let soon = self.rewound.is_some_and(|at| now - at < self.session.rto.current() / 2);
            if self.session.negotiated.windowsize > 1 && !soon {
                self.rewind(now);
            }
        }
        // Any other number acknowledges a block that was not sent.
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
        } else if self.base < self.highest_sent {
            // Only part of the window: retransmit from the first missing block.
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

    /// Handles an expired timer; does nothing before [`Write::deadline`].
    pub fn expire(&mut self, now: Time) {
        if self.session.deadline.is_none_or(|deadline| now < deadline) {
            return;
        }
        let phase = self.session.phase;
        match phase {
            Phase::Requesting => self.session.ask_again(now),
            Phase::Running if self.session.again(now) => self.rewind(now),
            Phase::Running => {
                let failure = Failure::Unresponsive { block: self.base - 1, tries: self.session.tries };
                self.session.end(Err(failure), Some(Pending::Error(ErrorCode::NOT_DEFINED, "timed out")));
            }
            Phase::Finished => self.session.deadline = None,
        }
    }

    /// Writes the next datagram to send into `out`, which is cleared first, and returns its destination.
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
        if self.cursor < self.highest_sent {
            self.session.counters.retransmits += 1;
        } else if self.cursor == self.base {
            self.session.clock = Some(now);
        }
        self.cursor += 1;
        self.highest_sent = self.highest_sent.max(self.cursor);
        Some(to)
    }

    /// Ends the transfer for a local reason and sends an ERROR to the server.
    pub fn abort(&mut self, why: String, code: ErrorCode, text: &'static str) {
        if self.session.outcome.is_none() {
            let say = self.session.tid().map(|_| Pending::Error(code, text));
            self.session.end(Err(Failure::Local(why)), say);
        }
    }

    /// Returns when to call [`Write::expire`]; `None` when the write is over.
    pub fn deadline(&self) -> Option<Time> {
        self.session.deadline
    }

    /// Returns the result once the transfer has ended. `Ok` means that the server has all bytes.
    pub fn outcome(&self) -> Option<&Result<(), Failure>> {
        self.session.outcome.as_ref()
    }

    /// Returns the counters of packets.
    pub fn counters(&self) -> Counters {
        self.session.counters
    }

    /// Returns the negotiated options.
    pub fn negotiated(&self) -> NegotiatedOptions {
        self.session.negotiated
    }
}

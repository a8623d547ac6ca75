//! Reading a file from a server.

use super::block::Rollover;
use super::options::{Agreed, BadOack, shown};
use super::rto::Dally;
use super::transfer::{Counters, Failure, Pending, Phase, Plan, Session};
use crate::order::{Arrival, Order};
use crate::packet::{ErrorCode, Mode, Options, Packet};
use guideway_packet::time::Time;
use std::net::SocketAddr;
use std::time::Duration;

/// A read request and what follows it.
///
/// After [`Read::new`], [`Read::receive`] and [`Read::expire`], send what [`Read::transmit`] gives until it gives nothing. When
/// [`Read::outcome`] is there, the data is complete (or the transfer failed); as long as [`Read::deadline`] is there, too, repeated last
/// blocks are still answered.
#[derive(Debug)]
pub struct Read {
    session: Session,
    order: Order,
    /// When the last acknowledgement was made.
    acknowledged: Time,
    /// Whether options came that were not asked for.
    unasked: bool,
}

impl Read {
    /// Asks for a file.
    pub fn new(plan: Plan, now: Time) -> Self {
        Read { session: Session::new(plan, false, now), order: Order::default(), acknowledged: now, unasked: false }
    }

    /// Takes a datagram. Gives the bytes that follow those given before; to be stored before what [`Read::transmit`] gives is sent.
    pub fn receive<'a>(&mut self, now: Time, from: SocketAddr, datagram: &'a [u8]) -> Option<&'a [u8]> {
        // Who sends what is no TFTP is not told anything.
        let packet = Packet::parse(datagram).ok()?;
        if !self.session.admits(from, matches!(packet, Packet::Error { .. })) {
            return None;
        }
        match (self.session.phase, packet) {
            (Phase::Asking | Phase::Running, Packet::Error { code, text }) => {
                self.session.end(Err(Failure::Server { code, text: shown(text) }), None);
                None
            }
            (Phase::Asking, Packet::Oack(options)) => {
                self.oack(now, from, options);
                None
            }
            // A server that knows no options. Any other block, or a longer one, is left over from an earlier transfer of this port.
            (Phase::Asking, Packet::Data { block: 1, data }) if data.len() <= usize::from(self.session.agreed.blksize) => {
                self.session.answered(from, now);
                self.data(now, 1, data)
            }
            (Phase::Running, Packet::Data { block, data }) => self.data(now, block, data),
            (Phase::Running, Packet::Oack(_)) if self.order.next() == 1 => {
                self.repeated(now);
                None
            }
            // The guard of the last acknowledgement.
            (Phase::Over, Packet::Data { block, .. }) => {
                if self.session.deadline.is_some() && block == self.session.wire(self.order.next() - 1) {
                    self.repeated(now);
                }
                None
            }
            _ => None,
        }
    }

    fn oack(&mut self, now: Time, from: SocketAddr, options: Options<'_>) {
        let agreed = Agreed::from_oack(options, &self.session.plan.ask, false);
        if matches!(agreed, Err(BadOack::NotAsked(_))) && !std::mem::replace(&mut self.unasked, true) {
            // Left over from an earlier transfer of this port, as a rule. A server that means it says it again.
            return;
        }
        self.session.answered(from, now);
        match agreed {
            Err(bad) => self.session.end(Err(bad.into()), Some(Pending::Error(ErrorCode::OPTIONS, "options refused"))),
            Ok(agreed) => {
                self.session.agreed = agreed;
                if self.session.plan.probe {
                    return self.session.end(Ok(()), Some(Pending::Error(ErrorCode::OPTIONS, "User aborted the transfer")));
                }
                self.session.progress(now);
                self.acknowledge(now);
            }
        }
    }

    fn data<'a>(&mut self, now: Time, block: u16, data: &'a [u8]) -> Option<&'a [u8]> {
        self.learn_rollover(block);
        let Agreed { blksize, windowsize, .. } = self.session.agreed;
        match self.order.arrive(block, data.len(), blksize, windowsize, self.session.rollover()) {
            Arrival::TooLong => {
                let failure = Failure::Block { length: data.len(), blksize };
                self.session.end(Err(failure), Some(Pending::Error(ErrorCode::ILLEGAL, "block longer than agreed")));
                None
            }
            Arrival::Next { full, last } => {
                self.session.counters.bytes += data.len() as u64;
                self.session.progress(now);
                if last {
                    self.last(now);
                } else if full {
                    self.acknowledge(now);
                }
                Some(data)
            }
            Arrival::Gap => {
                self.session.counters.gaps += 1;
                self.session.counters.retransmits += 1;
                self.session.deadline = Some(now.plus(self.session.rto.current()));
                self.acknowledge(now);
                self.session.clock = None;
                None
            }
            Arrival::Again { acknowledged } => {
                self.session.counters.duplicates += 1;
                if acknowledged {
                    self.repeated(now);
                }
                None
            }
            Arrival::Behind | Arrival::Foreign => None,
        }
    }

    /// Something came again that was acknowledged. When that is soon, the acknowledgement may still be on its way, and one more would be
    /// the Sorcerer's Apprentice; when it was lost after all, the next repeat or the time-out finds out.
    fn repeated(&mut self, now: Time) {
        if now - self.acknowledged >= self.session.rto.current() / 2 {
            self.session.counters.retransmits += 1;
            self.acknowledge(now);
            self.session.clock = None;
        }
    }

    fn acknowledge(&mut self, now: Time) {
        self.order.acknowledged();
        self.acknowledged = now;
        self.session.clock = Some(now);
        self.session.pending = Some(Pending::Ack(self.session.wire(self.order.next() - 1)));
    }

    /// The last block came.
    fn last(&mut self, now: Time) {
        let (counters, agreed) = (self.session.counters, self.session.agreed);
        if let Some(announced) = agreed.tsize
            && self.session.plan.mode == Mode::Octet
            && announced != counters.bytes
        {
            // The server did its part; whether it counted wrongly or the file changed, this is not the file that was announced.
            self.acknowledge(now);
            let failure = Failure::Size { announced, received: counters.bytes };
            return self.session.end(Err(failure), self.session.pending);
        }
        self.acknowledge(now);
        self.session.end(Ok(()), self.session.pending);
        let trouble = counters.retransmits + counters.duplicates + counters.gaps > 0;
        let guard = match self.session.plan.timing.dally {
            Dally::Always(guard) => Some(guard),
            Dally::AfterTrouble(guard) if trouble => Some(guard),
            Dally::AfterTrouble(_) | Dally::Never => None,
        };
        self.session.deadline = guard.map(|guard| now.plus(guard));
    }

    /// In lock-step a 1 where 0 was due can only mean that the server counts on from 1.
    fn learn_rollover(&mut self, block: u16) {
        let session = &mut self.session;
        if session.agreed.rollover.is_none() && session.plan.rollover.is_none() && self.order.next() == Rollover::Zero.ring() {
            match block {
                0 => session.agreed.rollover = Some(Rollover::Zero),
                1 if session.agreed.windowsize == 1 => session.agreed.rollover = Some(Rollover::One),
                _ => {}
            }
        }
    }

    /// Acts on time; nothing happens before [`Read::deadline`].
    pub fn expire(&mut self, now: Time) {
        if self.session.deadline.is_none_or(|deadline| now < deadline) {
            return;
        }
        let phase = self.session.phase;
        match phase {
            Phase::Asking => self.session.ask_again(now),
            Phase::Running if self.session.again(now) => {
                self.session.counters.retransmits += 1;
                self.order.silence();
                self.acknowledge(now);
                self.session.clock = None;
            }
            Phase::Running => {
                let failure = Failure::Silent { block: self.order.next() - 1, tries: self.session.tries };
                self.session.end(Err(failure), Some(Pending::Error(ErrorCode::NOT_DEFINED, "timed out")));
            }
            Phase::Over => self.session.deadline = None,
        }
    }

    /// What [`Read::receive`] gave could not be stored: the transfer fails, and its acknowledgement is not sent but this ERROR.
    pub fn refuse(&mut self, why: String, code: ErrorCode, text: &'static str) {
        self.session.end(Err(Failure::Here(why)), Some(Pending::Error(code, text)));
    }

    /// Writes the next datagram to send into `out`, which it empties first; gives where it goes.
    pub fn transmit(&mut self, out: &mut Vec<u8>) -> Option<SocketAddr> {
        out.clear();
        self.session.transmit(out)
    }

    /// When [`Read::expire`] wants to be called; `None` when nothing more will happen.
    pub fn deadline(&self) -> Option<Time> {
        self.session.deadline
    }

    /// How it ended; with `Ok` all bytes were given.
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

    /// The server's address and TID, once it answered.
    pub fn tid(&self) -> Option<SocketAddr> {
        self.session.tid()
    }

    /// From the request to the first answer.
    pub fn first_answer(&self) -> Option<Duration> {
        self.session.first_answer()
    }
}

//! Reading a file from a server.

use super::options::{BadOack, NegotiatedOptions, shown};
use super::transfer::{Counters, Failure, Pending, Phase, Session, TransferPlan};
use crate::packet::{ErrorCode, Mode, Options, Packet};
use crate::receive_window::{Arrival, ReceiveWindow};
use crate::rollover::Rollover;
use crate::rto::Dally;
use guideway_packet::time::Time;
use std::net::SocketAddr;
use std::time::Duration;

/// A read request and what follows it.
///
/// After [`Read::new`], [`Read::receive`] and [`Read::expire`], send the datagrams of [`Read::transmit`] until it returns `None`. Once
/// [`Read::outcome`] is set, the data is complete (or the transfer failed). While [`Read::deadline`] is also set, retransmissions of the
/// last block are still answered.
#[derive(Debug)]
pub struct Read {
    session: Session,
    receive_window: ReceiveWindow,
    /// When the last acknowledgement was written.
    acknowledged: Time,
    /// Whether an OACK with options arrived that were not requested.
    unrequested: bool,
}

impl Read {
    /// Starts a read request.
    pub fn new(plan: TransferPlan, now: Time) -> Self {
        Read { session: Session::new(plan, false, now), receive_window: ReceiveWindow::default(), acknowledged: now, unrequested: false }
    }

    /// Handles a datagram and returns the next bytes of the file. Store them before sending the datagrams of [`Read::transmit`].
    pub fn receive<'a>(&mut self, now: Time, from: SocketAddr, datagram: &'a [u8]) -> Option<&'a [u8]> {
        // Datagrams that are not TFTP are not answered.
        let packet = Packet::parse(datagram).ok()?;
        if !self.session.admits(from, matches!(packet, Packet::Error { .. })) {
            return None;
        }
        match (self.session.phase, packet) {
            (Phase::Requesting | Phase::Running, Packet::Error { code, text }) => {
                self.session.end(Err(Failure::Server { code, text: shown(text) }), None);
                None
            }
            (Phase::Requesting, Packet::Oack(options)) => {
                self.oack(now, from, options);
                None
            }
            // A server without options. Any other block, or a longer one, belongs to an earlier transfer from this port.
            (Phase::Requesting, Packet::Data { block: 1, data }) if data.len() <= usize::from(self.session.negotiated.blksize) => {
                self.session.answered(from, now);
                self.data(now, 1, data)
            }
            (Phase::Running, Packet::Data { block, data }) => self.data(now, block, data),
            (Phase::Running, Packet::Oack(_)) if self.receive_window.next() == 1 => {
                self.retransmitted(now);
                None
            }
            // Dallying: the last acknowledgement may have been lost.
            (Phase::Finished, Packet::Data { block, .. }) => {
                if self.session.deadline.is_some() && block == self.session.wire(self.receive_window.next() - 1) {
                    self.retransmitted(now);
                }
                None
            }
            _ => None,
        }
    }

    fn oack(&mut self, now: Time, from: SocketAddr, options: Options<'_>) {
        let negotiated = NegotiatedOptions::from_oack(options, &self.session.plan.ask, false);
        if matches!(negotiated, Err(BadOack::NotRequested(_))) && !std::mem::replace(&mut self.unrequested, true) {
            // Usually a packet of an earlier transfer from this port. A server that means it repeats it.
            return;
        }
        self.session.answered(from, now);
        match negotiated {
            Err(bad) => self.session.end(Err(bad.into()), Some(Pending::Error(ErrorCode::OPTIONS, "options refused"))),
            Ok(negotiated) => {
                self.session.negotiated = negotiated;
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
        let NegotiatedOptions { blksize, windowsize, .. } = self.session.negotiated;
        match self.receive_window.arrive(block, data.len(), blksize, windowsize, self.session.rollover()) {
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
            Arrival::Duplicate { acknowledged } => {
                self.session.counters.duplicates += 1;
                if acknowledged {
                    self.retransmitted(now);
                }
                None
            }
            Arrival::GapKnown | Arrival::OutOfRange => None,
        }
    }

    /// Handles a retransmission of an acknowledged packet. Soon after the acknowledgement it is ignored, because the acknowledgement may
    /// still be on its way (the Sorcerer's Apprentice). If it was lost, the next retransmission or the time-out recovers.
    fn retransmitted(&mut self, now: Time) {
        if now - self.acknowledged >= self.session.rto.current() / 2 {
            self.session.counters.retransmits += 1;
            self.acknowledge(now);
            self.session.clock = None;
        }
    }

    fn acknowledge(&mut self, now: Time) {
        self.receive_window.acknowledged();
        self.acknowledged = now;
        self.session.clock = Some(now);
        self.session.pending = Some(Pending::Ack(self.session.wire(self.receive_window.next() - 1)));
    }

    /// Handles the last block.
    fn last(&mut self, now: Time) {
        let (counters, negotiated) = (self.session.counters, self.session.negotiated);
        if let Some(announced) = negotiated.tsize
            && self.session.plan.mode == Mode::Octet
            && announced != counters.bytes
        {
            // The server is done. If it counted wrongly or the file changed, this is not the announced file.
            self.acknowledge(now);
            let failure = Failure::Size { announced, received: counters.bytes };
            return self.session.end(Err(failure), self.session.pending);
        }
        self.acknowledge(now);
        self.session.end(Ok(()), self.session.pending);
        let trouble = counters.retransmits + counters.duplicates + counters.gaps > 0;
        let guard = match self.session.plan.timing.dally {
            Dally::Always(guard) => Some(guard),
            Dally::AfterLoss(guard) if trouble => Some(guard),
            Dally::AfterLoss(_) | Dally::Never => None,
        };
        self.session.deadline = guard.map(|guard| now.plus(guard));
    }

    /// Learns the rollover: in lock-step, a 1 where 0 is expected means that the server continues with 1.
    fn learn_rollover(&mut self, block: u16) {
        let session = &mut self.session;
        if session.negotiated.rollover.is_none() && session.plan.rollover.is_none() && self.receive_window.next() == Rollover::Zero.ring() {
            match block {
                0 => session.negotiated.rollover = Some(Rollover::Zero),
                1 if session.negotiated.windowsize == 1 => session.negotiated.rollover = Some(Rollover::One),
                _ => {}
            }
        }
    }

    /// Handles an expired timer; does nothing before [`Read::deadline`].
    pub fn expire(&mut self, now: Time) {
        if self.session.deadline.is_none_or(|deadline| now < deadline) {
            return;
        }
        let phase = self.session.phase;
        match phase {
            Phase::Requesting => self.session.ask_again(now),
            Phase::Running if self.session.again(now) => {
                self.session.counters.retransmits += 1;
                self.receive_window.reset_gap();
                self.acknowledge(now);
                self.session.clock = None;
            }
            Phase::Running => {
                let failure = Failure::Unresponsive { block: self.receive_window.next() - 1, tries: self.session.tries };
                self.session.end(Err(failure), Some(Pending::Error(ErrorCode::NOT_DEFINED, "timed out")));
            }
            Phase::Finished => self.session.deadline = None,
        }
    }

    /// Fails the transfer because the last bytes could not be stored. This ERROR is sent instead of their acknowledgement.
    pub fn refuse(&mut self, why: String, code: ErrorCode, text: &'static str) {
        self.session.end(Err(Failure::Local(why)), Some(Pending::Error(code, text)));
    }

    /// Writes the next datagram to send into `out`, which is cleared first, and returns its destination.
    pub fn transmit(&mut self, out: &mut Vec<u8>) -> Option<SocketAddr> {
        out.clear();
        self.session.transmit(out)
    }

    /// Returns when to call [`Read::expire`]; `None` when the read is over.
    pub fn deadline(&self) -> Option<Time> {
        self.session.deadline
    }

    /// Returns the result once the transfer has ended. `Ok` means that all bytes were returned.
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

    /// Returns the server's address and TID, once it answered.
    pub fn tid(&self) -> Option<SocketAddr> {
        self.session.tid()
    }

    /// Returns the time from the request to the first answer.
    pub fn first_answer(&self) -> Option<Duration> {
        self.session.first_answer()
    }
}

//! The server's side of a write as a state machine without I/O. Inputs are DATA and time; outputs are "store" and "answer".
//!
//! The last block is acknowledged only when the file is stored. The caller stores it; the state machine reports the last block.

use super::options::Terms;
use super::receive_window::{Arrival, ReceiveWindow};
use super::rto::RetransmissionPolicy;
use super::rto::{Dally, Rto, Timing};
use super::transfer::Unresponsive;
use guideway_packet::time::Time;

/// Action for a DATA packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataAction {
    /// Ignore it.
    Ignore,
    /// Store its bytes.
    Append {
        /// Whether to answer it.
        answer: bool,
        /// Whether it is the last block, which is answered when the file is stored.
        last: bool,
    },
    /// Answer it; it has nothing new.
    Acknowledge,
    /// It is longer than negotiated, and invalid.
    TooLong,
}

/// The next action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Do nothing before [`Upload::deadline`].
    Wait,
    /// Retransmit the answer.
    Answer,
    /// The client is unresponsive.
    GiveUp(Unresponsive),
}

/// The answer to the received packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The OACK.
    Oack,
    /// An ACK with this number.
    Ack(u16),
}

/// The state of one write.
#[derive(Clone, Debug)]
pub struct Upload {
    terms: Terms,
    oack: bool,
    receive_window: ReceiveWindow,
    /// When the last new block arrived.
    heard_at: Option<Time>,
    tries: u8,
    rto: Rto,
    answered: Time,
    /// When the packet was sent whose answer is timed; `None` after a retransmission (Karn's rule).
    clock: Option<Time>,
    deadline: Time,
}

impl Upload {
    /// Creates a write that starts with an OACK or an ACK of block 0, to be sent now.
    pub fn new(terms: Terms, oack: bool, retransmission: &RetransmissionPolicy, now: Time) -> Upload {
        // A requested time-out (RFC 2349) is fixed, without back-off.
        let (initial, min_rto, max_rto) =
            terms.timeout.map_or((retransmission.initial_rto, retransmission.min_rto, retransmission.max_rto), |t| (t, t, t));
        let rto = Rto::new(Timing { initial, min_rto, max_rto, retries: retransmission.retries.into(), dally: Dally::Never });
        let deadline = now.plus(rto.current());
        Upload {
            terms,
            oack,
            receive_window: ReceiveWindow::default(),
            heard_at: None,
            tries: 0,
            rto,
            answered: now,
            clock: Some(now),
            deadline,
        }
    }

    /// Returns the negotiated terms.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Handles a DATA packet of this number and length.
    pub fn on_data(&mut self, number: u16, length: usize, now: Time) -> DataAction {
        let Terms { blksize, window, rollover, .. } = self.terms;
        match self.receive_window.arrive(number, length, blksize, window, rollover) {
            Arrival::Next { full, last } => {
                if let Some(sent) = self.clock.take() {
                    self.rto.measured(now - sent);
                }
                self.heard_at = Some(now);
                self.tries = 0;
                self.rto.progress();
                self.arm(now);
                DataAction::Append { answer: full && !last, last }
            }
            Arrival::TooLong => DataAction::TooLong,
            Arrival::Gap => {
                self.arm(now);
                DataAction::Acknowledge
            }
            // Shortly after the ACK, another one would be the Sorcerer's Apprentice: the first may still be on its way.
            Arrival::Duplicate { acknowledged: true } if now - self.answered >= self.rto.current() / 2 => DataAction::Acknowledge,
            Arrival::Duplicate { .. } | Arrival::GapKnown | Arrival::OutOfRange => DataAction::Ignore,
        }
    }

    /// Returns the answer to send now. `retransmitted` means that no packet has just arrived.
    pub fn answer(&mut self, retransmitted: bool, now: Time) -> Answer {
        self.receive_window.acknowledged();
        self.answered = now;
        self.clock = (!retransmitted).then_some(now);
        let block = self.receive_window.next() - 1;
        if self.oack && block == 0 { Answer::Oack } else { Answer::Ack(self.terms.rollover.wire(block)) }
    }

    /// Handles an expired timer.
    pub fn on_timer(&mut self, retransmission: &RetransmissionPolicy, now: Time) -> Step {
        if now < self.deadline {
            return Step::Wait;
        }
        // As for reads: a client that has answered may be busy.
        let patient = self.heard_at.is_some_and(|at| now - at < retransmission.min_give_up);
        let used_up = !self.rto.again() || (!self.established() && self.tries >= retransmission.retries);
        if used_up && !patient {
            return Step::GiveUp(if self.established() { Unresponsive::MidTransfer } else { Unresponsive::HalfOpen });
        }
        self.tries = self.tries.saturating_add(1);
        self.receive_window.reset_gap();
        self.arm(now);
        Step::Answer
    }

    /// Returns when to call [`Upload::on_timer`].
    pub fn deadline(&self) -> Time {
        self.deadline
    }

    /// Returns whether the client has sent a block.
    pub fn established(&self) -> bool {
        self.heard_at.is_some()
    }

    /// Returns when the client's last new block arrived; `None` before the first one.
    pub fn heard_at(&self) -> Option<Time> {
        self.heard_at
    }

    /// Returns the number of blocks received in order.
    pub fn blocks(&self) -> u64 {
        self.receive_window.next() - 1
    }

    fn arm(&mut self, now: Time) {
        self.deadline = now.plus(self.rto.current());
    }
}

#[cfg(test)]
#[cfg(feature = "client")]
mod tests;

//! The server's side of one write as a state machine without I/O: DATA and time in, "keep this" and "answer now" out.
//!
//! The last block is acknowledged only when the file is stored, which is not this machine's business: it says which block was the last.

use super::client::rto::Rto;
use super::client::{Dally, Timing};
use super::options::Terms;
use super::order::{Arrival, Order};
use super::transfer::{Pace, Silence};
use guideway_packet::time::Time;

/// What becomes of a DATA packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Took {
    /// Nothing.
    Nothing,
    /// Its bytes are to be kept.
    Bytes {
        /// Whether it is to be answered.
        answer: bool,
        /// Whether it is the last one. It is answered when the file is stored.
        last: bool,
    },
    /// It is to be answered, and holds nothing new.
    Answer,
    /// It is longer than agreed: no block.
    TooLong,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing before [`Upload::deadline`].
    Wait,
    /// Answer again.
    Answer,
    /// The client is not heard any more.
    GiveUp(Silence),
}

/// The answer to what came so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The OACK.
    Oack,
    /// An ACK of this number.
    Ack(u16),
}

/// The state of one write.
#[derive(Clone, Debug)]
pub struct Upload {
    terms: Terms,
    oack: bool,
    order: Order,
    heard: bool,
    tries: u8,
    rto: Rto,
    answered: Time,
    /// When that went out whose answer will be a round trip; nothing that was repeated (Karn's rule).
    clock: Option<Time>,
    deadline: Time,
}

impl Upload {
    /// A write that starts, with an OACK or an ACK of block 0, which is to be sent now.
    pub fn new(terms: Terms, oack: bool, pace: &Pace, now: Time) -> Upload {
        // A client that says a time-out wants that one (RFC 2349), and no doubling.
        let (initial, floor, ceiling) = terms.timeout.map_or((pace.first, pace.floor, pace.ceiling), |t| (t, t, t));
        let rto = Rto::new(Timing { initial, floor, ceiling, retries: pace.retries.into(), dally: Dally::Never });
        let deadline = now.plus(rto.current());
        Upload { terms, oack, order: Order::default(), heard: false, tries: 0, rto, answered: now, clock: Some(now), deadline }
    }

    /// What was negotiated.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Takes a DATA packet of this number and length.
    pub fn on_data(&mut self, number: u16, length: usize, now: Time) -> Took {
        let Terms { blksize, window, rollover, .. } = self.terms;
        match self.order.arrive(number, length, blksize, window, rollover) {
            Arrival::Next { full, last } => {
                if let Some(sent) = self.clock.take() {
                    self.rto.measured(now - sent);
                }
                self.heard = true;
                self.tries = 0;
                self.rto.progress();
                self.arm(now);
                Took::Bytes { answer: full && !last, last }
            }
            Arrival::TooLong => Took::TooLong,
            Arrival::Gap => {
                self.arm(now);
                Took::Answer
            }
            // When that is soon, the acknowledgement may still be on its way, and one more would be the Sorcerer's Apprentice.
            Arrival::Again { acknowledged: true } if now - self.answered >= self.rto.current() / 2 => Took::Answer,
            Arrival::Again { .. } | Arrival::Behind | Arrival::Foreign => Took::Nothing,
        }
    }

    /// The answer to send now. `repeated`: not because of what came just now.
    pub fn answer(&mut self, repeated: bool, now: Time) -> Answer {
        self.order.acknowledged();
        self.answered = now;
        self.clock = (!repeated).then_some(now);
        let block = self.order.next() - 1;
        if self.oack && block == 0 { Answer::Oack } else { Answer::Ack(self.terms.rollover.wire(block)) }
    }

    /// The deadline has passed.
    pub fn on_timer(&mut self, pace: &Pace, now: Time) -> Step {
        if now < self.deadline {
            return Step::Wait;
        }
        if !self.rto.again() || (!self.heard && self.tries >= pace.retries) {
            return Step::GiveUp(if self.heard { Silence::Midway } else { Silence::Never });
        }
        self.tries = self.tries.saturating_add(1);
        self.order.silence();
        self.arm(now);
        Step::Answer
    }

    /// When [`Upload::on_timer`] is to be called.
    pub fn deadline(&self) -> Time {
        self.deadline
    }

    /// Whether the client sent a block.
    pub fn heard(&self) -> bool {
        self.heard
    }

    /// Blocks that came, in order.
    pub fn blocks(&self) -> u64 {
        self.order.next() - 1
    }

    fn arm(&mut self, now: Time) {
        self.deadline = now.plus(self.rto.current());
    }
}

#[cfg(test)]
mod tests;

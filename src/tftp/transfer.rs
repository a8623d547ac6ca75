//! The server's side of a read as a state machine without socket or clock. Inputs are acknowledgements and time, outputs are steps.
//!
//! Blocks are counted from 1 in 64 bits; their 16-bit numbers exist only on the wire. The machine returns the blocks
//! that it [wants](Transfer::wanted) to send and gets those that [were sent](Transfer::sent). So content that is not available yet needs no state here.
//!
//! Duplicates never multiply (the Sorcerer's Apprentice of RFC 1123 section 4.2.3.1). In lock-step, a repeated ACK sends nothing; only the timer
//! retransmits a block. With a window, a repeated ACK also reports that the first block of the window was lost. So it triggers a retransmission, but
//! at most once in a retransmission time-out, and never before an answer can have arrived.

use super::options::Terms;
use super::rollover::MAX_AHEAD;
pub use super::rto::RetransmissionPolicy;
use super::rto::RoundTrip;
use guideway_packet::time::Time;
use std::ops::RangeInclusive;
use std::time::Duration;

/// The next action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Do nothing before [`Transfer::deadline`].
    Wait,
    /// Send the OACK.
    Oack,
    /// Send the blocks that are [wanted](Transfer::wanted).
    Blocks,
    /// The client has everything.
    Done,
    /// The client is unresponsive.
    GiveUp(Unresponsive),
}

/// State of a transfer whose client is unresponsive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unresponsive {
    /// The client never answered.
    HalfOpen,
    /// The client stopped answering in the middle.
    MidTransfer,
    /// All blocks were sent, and only the last acknowledgement is missing. It may have been lost.
    FinalAck,
}

/// Classification of an ACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ack {
    /// It acknowledges new blocks.
    New,
    /// It repeats the last one.
    Repeated,
    /// It is stale, or for a block that was never sent.
    Unexpected,
}

/// The state of one transfer.
#[derive(Clone, Debug)]
pub struct Transfer {
    terms: Terms,
    /// Whether the OACK is unanswered.
    oack: bool,
    /// Whether the client has answered.
    established: bool,
    tries: u8,
    /// The last acknowledged block.
    acked: u64,
    /// The next block to send.
    next: u64,
    /// The highest block that was ever sent, here or by another server.
    highest: u64,
    /// Whether another server may continue it and hand it back.
    shared: bool,
    /// The last block of the file.
    last: Option<u64>,
    /// No block after this one is sent. It is the last block, or an earlier one while successors have not confirmed the position.
    end: u64,
    limit: u64,
    /// Blocks that may be in flight: the window, or less while the client is unresponsive.
    flight: u16,
    /// The block whose answer is timed, and when it was sent; `None` after a retransmission (Karn's algorithm, RFC 6298 section 3).
    timed: Option<(u64, Time)>,
    sent_at: Time,
    /// When it last went back to the block after the last acknowledged one.
    went_back_at: Option<Time>,
    /// ACKs in a row that acknowledged one block from within the window.
    single_steps: u8,
    progress_at: Time,
    /// When it was last certain that no other server had continued it.
    confirmed_at: Time,
    deadline: Time,
    round_trip: RoundTrip,
    /// The current time-out in microseconds, back-off included.
    rto: u32,
}

impl Transfer {
    /// Creates a transfer that starts with an OACK, or with block 1.
    pub fn new(terms: Terms, oack: bool, retransmission: &RetransmissionPolicy, now: Time) -> Transfer {
        let mut transfer = Transfer {
            terms,
            oack,
            established: false,
            tries: 0,
            acked: 0,
            next: 1,
            highest: 0,
            shared: false,
            last: None,
            end: u64::MAX,
            limit: u64::MAX,
            flight: terms.window,
            timed: oack.then_some((0, now)),
            sent_at: now,
            went_back_at: None,
            single_steps: 0,
            progress_at: now,
            confirmed_at: now,
            deadline: now,
            round_trip: RoundTrip::default(),
            rto: 0,
        };
        transfer.rto = transfer.base_rto(retransmission);
        transfer.arm(now);
        transfer
    }

    /// Creates a transfer that continues that of another server. The client has all blocks up to `acked` of `last`, and has just been received.
    pub fn resume(terms: Terms, acked: u64, last: u64, retransmission: &RetransmissionPolicy, now: Time) -> Transfer {
        let mut transfer = Transfer::new(terms, false, retransmission, now);
        (transfer.established, transfer.shared) = (true, true);
        (transfer.acked, transfer.next, transfer.highest) = (acked, acked + 1, acked);
        transfer.ends_with(last);
        transfer
    }

    /// Marks that another server may continue it and hand it back from now on. Its first answer is sent now.
    pub fn share(&mut self, now: Time) {
        self.shared = true;
        self.timed = self.oack.then_some((0, now));
        (self.sent_at, self.progress_at, self.confirmed_at) = (now, now, now);
        self.arm(now);
    }

    /// Returns the first step.
    pub fn start(&self) -> Step {
        if self.oack { Step::Oack } else { Step::Blocks }
    }

    /// Returns the negotiated terms.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Sets the last block of the file: the first one that is not full; it may be empty (RFC 1350 section 6).
    pub fn ends_with(&mut self, last: u64) {
        self.last = Some(last);
        self.end = last.min(self.limit);
    }

    /// Sets the last block that may be sent. Returns whether the limit has moved forward.
    pub fn limit_to(&mut self, limit: u64) -> bool {
        let more = limit > self.limit;
        self.limit = limit;
        self.end = self.last.unwrap_or(u64::MAX).min(limit);
        more
    }

    /// Returns whether `blocks` more blocks reach the limit.
    pub fn is_near_limit(&self, blocks: u64) -> bool {
        self.limit < self.acked + blocks
    }

    /// Returns the number of the last block of a file of `size` bytes.
    pub fn last_block(&self, size: u64) -> u64 {
        size / u64::from(self.terms.blksize) + 1
    }

    /// Returns the blocks that may be sent now; empty while the window is full or the OACK is unanswered.
    pub fn wanted(&self) -> RangeInclusive<u64> {
        let end = (self.acked + u64::from(self.flight)).min(self.end);
        if self.oack { RangeInclusive::new(1, 0) } else { self.next..=end }
    }

    /// The number of a block on the wire.
    pub fn wire(&self, block: u64) -> u16 {
        self.terms.rollover.wire(block)
    }

    /// Records that blocks up to `upto` were sent. Returns how many of them were retransmissions.
    pub fn sent(&mut self, upto: u64, now: Time) -> u64 {
        let retransmitted = (self.highest + 1).min(upto + 1).saturating_sub(self.next);
        if upto > self.highest {
            if self.timed.is_none() && retransmitted == 0 {
                self.timed = Some((upto, now));
            }
            self.highest = upto;
        }
        self.next = upto + 1;
        self.sent_at = now;
        self.arm(now);
        retransmitted
    }

    /// Handles an ACK.
    pub fn on_ack(&mut self, number: u16, retransmission: &RetransmissionPolicy, now: Time) -> (Ack, Step) {
        if self.oack {
            if number != 0 {
                // Another server continued from the client's answer to our OACK, which was lost here.
                let passed_on = self.shared && self.tries > 0;
                self.oack = !(passed_on && self.absolute(number).is_some());
            }
            if self.oack && number != 0 {
                return (Ack::Unexpected, Step::Wait);
            }
        }
        if self.oack {
            self.oack = false;
            self.progress(0, retransmission, now);
            return (Ack::New, Step::Blocks);
        }
        match self.absolute(number) {
            None => (Ack::Unexpected, Step::Wait),
            Some(block) if block == self.acked => {
                self.confirmed_at = now;
                (Ack::Repeated, self.repeated_ack(retransmission, now))
            }
            Some(block) => {
                let before = std::mem::replace(&mut self.acked, block);
                self.highest = self.highest.max(block);
                self.progress(block, retransmission, now);
                self.next = self.next.max(block + 1);
                if self.next == block + 1 {
                    (self.went_back_at, self.single_steps) = (None, 0);
                } else if self.reports_gap(block - before, now) {
                    self.went_back_at = Some(now);
                    self.rewind();
                }
                (Ack::New, if self.last == Some(block) { Step::Done } else { Step::Blocks })
            }
        }
    }

    /// Returns whether an ACK from within the window, `step` blocks after the last one, reports a gap. "The sender … SHOULD continue from the block
    /// following the last one acknowledged" (RFC 7440 section 4), but at most once in a round trip: ACKs that were on their way report the same gap.
    /// Some clients acknowledge every block. After two such steps in a row, only repeated ACKs and time-outs show their losses.
    fn reports_gap(&mut self, step: u64, now: Time) -> bool {
        self.single_steps = if step == 1 { self.single_steps.saturating_add(1) } else { 0 };
        self.single_steps < 2 && self.went_back_at.is_none_or(|at| now - at >= self.round_trip.mean() / 2)
    }

    fn repeated_ack(&mut self, retransmission: &RetransmissionPolicy, now: Time) -> Step {
        let outstanding = self.next > self.acked + 1;
        let an_answer = now - self.sent_at >= self.round_trip.mean() / 2;
        let waited = self.went_back_at.is_none_or(|at| now - at >= self.measured_rto(retransmission));
        if self.terms.window == 1 || self.round_trip.mean().is_zero() || !outstanding || !an_answer || !waited {
            return Step::Wait;
        }
        self.established = true;
        self.flight = self.terms.window;
        self.went_back_at = Some(now);
        self.rewind();
        Step::Blocks
    }

    /// Handles an expired timer.
    pub fn on_timer(&mut self, retransmission: &RetransmissionPolicy, now: Time) -> Step {
        if now < self.deadline {
            return Step::Wait;
        }
        let all_sent = self.all_sent();
        let patient = self.established && !all_sent && now - self.progress_at < retransmission.min_give_up;
        if self.tries >= retransmission.retries && !patient {
            return Step::GiveUp(match (self.established, all_sent) {
                (_, true) if self.established || self.last == Some(1) => Unresponsive::FinalAck,
                (false, _) => Unresponsive::HalfOpen,
                (true, _) => Unresponsive::MidTransfer,
            });
        }
        self.tries = self.tries.saturating_add(1);
        // From the second time-out in a row, half as much each time. This limits floods: a forged first ACK triggers three windows in total, for any
        // number of retries.
        if self.tries > 1 {
            self.flight = (self.flight / 2).max(1);
        }
        if self.terms.timeout.is_none() {
            self.rto = self.rto.saturating_mul(2).min(micros(retransmission.max_rto));
        }
        (self.went_back_at, self.single_steps) = (Some(now), 0);
        self.rewind();
        self.arm(now);
        if self.oack { Step::Oack } else { Step::Blocks }
    }

    /// Returns when to call [`Transfer::on_timer`].
    pub fn deadline(&self) -> Time {
        self.deadline
    }

    /// Returns whether sent blocks are unacknowledged.
    pub fn outstanding(&self) -> bool {
        self.oack || self.next > self.acked + 1
    }

    /// Returns whether the client has not answered the OACK.
    pub fn is_oack_unanswered(&self) -> bool {
        self.oack
    }

    /// Returns whether the last block was sent, so that the client may have the whole file.
    pub fn all_sent(&self) -> bool {
        !self.oack && self.last.is_some_and(|last| self.highest >= last)
    }

    /// Returns whether the client has answered.
    pub fn established(&self) -> bool {
        self.established
    }

    /// Returns when the client's last valid ACK arrived; `None` before the first one.
    pub fn heard_at(&self) -> Option<Time> {
        self.established.then_some(self.confirmed_at.max(self.progress_at))
    }

    /// Returns the last acknowledged block.
    pub fn acked(&self) -> u64 {
        self.acked
    }

    /// Returns the smoothed round-trip time; zero before the first measurement.
    pub fn round_trip(&self) -> Duration {
        self.round_trip.mean()
    }

    /// Returns the block that `number` acknowledges, among the last acknowledged one and the sent blocks after it.
    ///
    /// If another server may have continued meanwhile, it may also be a block that was never sent here. That is accepted only after a time-out, so that
    /// a delayed old ACK does not look like one that is far ahead.
    fn absolute(&self, number: u16) -> Option<u64> {
        let ahead = self.terms.rollover.ahead_of_ack(self.acked, number)?;
        let block = self.acked + ahead;
        let elsewhere = || self.shared && self.tries > 0 && ahead <= MAX_AHEAD && self.last.is_some_and(|last| block <= last);
        (block <= self.highest || elsewhere()).then_some(block)
    }

    fn progress(&mut self, block: u64, retransmission: &RetransmissionPolicy, now: Time) {
        if let Some((timed, at)) = self.timed
            && block >= timed
        {
            self.round_trip.measure(now - at);
            self.timed = None;
        }
        self.established = true;
        self.flight = self.terms.window;
        self.tries = 0;
        (self.progress_at, self.confirmed_at) = (now, now);
        self.rto = self.base_rto(retransmission);
        self.arm(now);
    }

    fn measured_rto(&self, retransmission: &RetransmissionPolicy) -> Duration {
        self.round_trip
            .timeout(Duration::ZERO)
            .map_or(retransmission.initial_rto, |rto| rto.clamp(retransmission.min_rto, retransmission.max_rto.max(retransmission.min_rto)))
    }

    /// Returns the time-out without back-off: the one requested by the client (RFC 2349), else the measured one.
    fn base_rto(&self, retransmission: &RetransmissionPolicy) -> u32 {
        micros(self.terms.timeout.unwrap_or_else(|| self.measured_rto(retransmission)))
    }

    fn rewind(&mut self) {
        self.next = self.acked + 1;
        self.timed = None;
    }

    fn arm(&mut self, now: Time) {
        self.deadline = now.plus(Duration::from_micros(u64::from(self.rto)));
    }
}

fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

mod ownership_check;
#[cfg(test)]
mod tests;

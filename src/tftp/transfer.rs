//! The server's side of one transfer as a state machine without socket or clock: acknowledgements and time in, "send this" out.
//!
//! Blocks are counted from 1 in 64 bits; their 16-bit numbers exist only on the wire. The machine says which blocks it
//! [wants](Transfer::wanted) to be sent and is told what [was](Transfer::sent), so that content that is not at hand yet needs no state here.
//!
//! Duplicates never multiply (the Sorcerer's Apprentice of RFC 1123 section 4.2.3.1): in lock-step a repeated ACK sends nothing, and the
//! timer alone repeats a block. With a window a repeated ACK is also how a client says that the first block of the window was lost, so it is
//! honoured, but at most once in a retransmission time-out and never sooner than an answer can have come.

use super::options::{Rollover, Terms};
use guideway_packet::time::Time;
use std::ops::RangeInclusive;
use std::time::Duration;

/// How patient a server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Time-out before anything was measured.
    pub first: Duration,
    /// Shortest time-out that measuring may come to.
    pub floor: Duration,
    /// Longest time-out that doubling may come to.
    pub ceiling: Duration,
    /// Repetitions without an answer before giving up.
    pub retries: u8,
    /// A client that was heard is given up only after this time without progress, too: it may be erasing its flash.
    pub patience: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Pace {
            first: Duration::from_millis(300),
            floor: Duration::from_millis(40),
            // atftp 0.8 acknowledges a repeated block once; from then on only when its own 5 s are over, and every repetition restarts them.
            ceiling: Duration::from_secs(6),
            retries: 5,
            patience: Duration::from_secs(20),
        }
    }
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing before [`Transfer::deadline`].
    Wait,
    /// Send the OACK.
    Oack,
    /// Send the blocks that are [wanted](Transfer::wanted).
    Blocks,
    /// The client has everything.
    Done,
    /// The client is not heard any more.
    GiveUp(Silence),
}

/// What a client that is not heard any more has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// It never answered.
    Never,
    /// It stopped in the middle.
    Midway,
    /// Everything was sent and only the last acknowledgement is missing, which a client may have sent without us receiving it.
    AtTheEnd,
}

/// What an ACK was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ack {
    /// It acknowledges something new.
    New,
    /// It repeats the last one.
    Repeated,
    /// It is for a block that was acknowledged long ago or never sent.
    Foreign,
}

/// The state of one transfer.
#[derive(Clone, Debug)]
pub struct Transfer {
    terms: Terms,
    /// Whether the OACK is still to be answered.
    oack: bool,
    /// Whether the client answered anything.
    heard: bool,
    tries: u8,
    /// All blocks up to this one are acknowledged.
    acked: u64,
    /// The next block to send.
    next: u64,
    /// The highest block that was ever sent, here or by another server.
    highest: u64,
    /// Whether another server may go on with it and hand it back.
    shared: bool,
    /// The last block of the file.
    last: Option<u64>,
    /// No block behind this one is sent: the last one, or one before it while others must hear first how far we are.
    end: u64,
    limit: u64,
    /// Blocks that may be under way now: the window, or less of it while a client is silent.
    flight: u16,
    /// The block whose answer is timed and when it went; nothing after a repetition (Karn's algorithm, RFC 6298 section 3).
    timed: Option<(u64, Time)>,
    sent_at: Time,
    repeated_at: Option<Time>,
    progress_at: Time,
    /// When it was last certain that nobody else had gone on with it.
    certain_at: Time,
    deadline: Time,
    /// Smoothed round-trip time and its deviation in microseconds; 0 before the first measurement.
    srtt: u32,
    rttvar: u32,
    /// The time-out of now, in microseconds, with back-off.
    rto: u32,
}

impl Transfer {
    /// A transfer that starts: with an OACK to be answered, or with block 1.
    pub fn new(terms: Terms, oack: bool, pace: &Pace, now: Time) -> Transfer {
        let mut transfer = Transfer {
            terms,
            oack,
            heard: false,
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
            repeated_at: None,
            progress_at: now,
            certain_at: now,
            deadline: now,
            srtt: 0,
            rttvar: 0,
            rto: 0,
        };
        transfer.rto = transfer.base_rto(pace);
        transfer.arm(now);
        transfer
    }

    /// A transfer that goes on where another server left it: the client has all blocks up to `acked` of the `last`, and was heard just now.
    pub fn resume(terms: Terms, acked: u64, last: u64, pace: &Pace, now: Time) -> Transfer {
        let mut transfer = Transfer::new(terms, false, pace, now);
        (transfer.heard, transfer.shared) = (true, true);
        (transfer.acked, transfer.next, transfer.highest) = (acked, acked + 1, acked);
        transfer.ends_with(last);
        transfer
    }

    /// Another server may go on with it from now on, and hand it back. Its first answer goes out now.
    pub fn share(&mut self, now: Time) {
        self.shared = true;
        self.timed = self.oack.then_some((0, now));
        (self.sent_at, self.progress_at, self.certain_at) = (now, now, now);
        self.arm(now);
    }

    /// The first thing to do.
    pub fn start(&self) -> Step {
        if self.oack { Step::Oack } else { Step::Blocks }
    }

    /// What was negotiated.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// The last block of the file is this one, now that it is known: the first that is not full, be it empty (RFC 1350 section 6).
    pub fn ends_with(&mut self, last: u64) {
        self.last = Some(last);
        self.end = last.min(self.limit);
    }

    /// Nothing behind this block may be sent. Whether that is more than before.
    pub fn limit_to(&mut self, limit: u64) -> bool {
        let more = limit > self.limit;
        self.limit = limit;
        self.end = self.last.unwrap_or(u64::MAX).min(limit);
        more
    }

    /// Whether so many blocks more would reach the limit.
    pub fn is_near_its_limit(&self, blocks: u64) -> bool {
        self.limit < self.acked + blocks
    }

    /// The number of the last block of a file of `size` bytes.
    pub fn last_block(&self, size: u64) -> u64 {
        size / u64::from(self.terms.blksize) + 1
    }

    /// The blocks that may be sent now; empty while the window is full or the OACK unanswered.
    pub fn wanted(&self) -> RangeInclusive<u64> {
        let end = (self.acked + u64::from(self.flight)).min(self.end);
        if self.oack { RangeInclusive::new(1, 0) } else { self.next..=end }
    }

    /// The number of a block on the wire.
    pub fn wire(&self, block: u64) -> u16 {
        wire(self.terms.rollover, block)
    }

    /// Blocks up to `upto` were sent. Returns how many of them were repetitions.
    pub fn sent(&mut self, upto: u64, now: Time) -> u64 {
        let repeated = (self.highest + 1).min(upto + 1).saturating_sub(self.next);
        if upto > self.highest {
            if self.timed.is_none() && repeated == 0 {
                self.timed = Some((upto, now));
            }
            self.highest = upto;
        }
        self.next = upto + 1;
        self.sent_at = now;
        self.arm(now);
        repeated
    }

    /// An ACK came.
    pub fn on_ack(&mut self, number: u16, pace: &Pace, now: Time) -> (Ack, Step) {
        if self.oack {
            if number != 0 {
                // Another server went on, from the client's answer to our OACK, and here one waited in vain for it.
                let passed_on = self.shared && self.tries > 0;
                self.oack = !(passed_on && self.absolute(number).is_some());
            }
            if self.oack && number != 0 {
                return (Ack::Foreign, Step::Wait);
            }
        }
        if self.oack {
            self.oack = false;
            self.progress(0, pace, now);
            return (Ack::New, Step::Blocks);
        }
        match self.absolute(number) {
            None => (Ack::Foreign, Step::Wait),
            Some(block) if block == self.acked => {
                self.certain_at = now;
                (Ack::Repeated, self.repeated_ack(pace, now))
            }
            Some(block) => {
                self.acked = block;
                self.highest = self.highest.max(block);
                self.progress(block, pace, now);
                // "The sender … SHOULD continue from the block following the last one acknowledged" (RFC 7440 section 4): an ACK from
                // within the window tells of a gap.
                if self.next != block + 1 {
                    self.next = block + 1;
                    self.timed = None;
                }
                self.repeated_at = None;
                (Ack::New, if self.last == Some(block) { Step::Done } else { Step::Blocks })
            }
        }
    }

    fn repeated_ack(&mut self, pace: &Pace, now: Time) -> Step {
        let outstanding = self.next > self.acked + 1;
        let an_answer = now - self.sent_at >= Duration::from_micros(u64::from(self.srtt / 2));
        let waited = self.repeated_at.is_none_or(|at| now - at >= self.measured_rto(pace));
        if self.terms.window == 1 || self.srtt == 0 || !outstanding || !an_answer || !waited {
            return Step::Wait;
        }
        self.heard = true;
        self.flight = self.terms.window;
        self.repeated_at = Some(now);
        self.go_back();
        Step::Blocks
    }

    /// The deadline has passed.
    pub fn on_timer(&mut self, pace: &Pace, now: Time) -> Step {
        if now < self.deadline {
            return Step::Wait;
        }
        let everything_sent = self.everything_sent();
        let patient = self.heard && !everything_sent && now - self.progress_at < pace.patience;
        if self.tries >= pace.retries && !patient {
            return Step::GiveUp(match (self.heard, everything_sent) {
                (_, true) if self.heard || self.last == Some(1) => Silence::AtTheEnd,
                (false, _) => Silence::Never,
                (true, _) => Silence::Midway,
            });
        }
        self.tries = self.tries.saturating_add(1);
        // Half as much each time from the second time-out in a row: whoever is flooded hears no more of it, and whoever forged the one ACK
        // that began it gets three windows out of it in all, however patient we are.
        if self.tries > 1 {
            self.flight = (self.flight / 2).max(1);
        }
        if self.terms.timeout.is_none() {
            self.rto = self.rto.saturating_mul(2).min(micros(pace.ceiling));
        }
        self.repeated_at = Some(now);
        self.go_back();
        self.arm(now);
        if self.oack { Step::Oack } else { Step::Blocks }
    }

    /// When [`Transfer::on_timer`] is to be called.
    pub fn deadline(&self) -> Time {
        self.deadline
    }

    /// Whether something was sent that the client has not acknowledged.
    pub fn outstanding(&self) -> bool {
        self.oack || self.next > self.acked + 1
    }

    /// Whether the last block was sent, so that the client may have everything.
    pub fn everything_sent(&self) -> bool {
        !self.oack && self.last.is_some_and(|last| self.highest >= last)
    }

    /// Whether the client ever answered.
    pub fn heard(&self) -> bool {
        self.heard
    }

    /// All blocks up to this one are acknowledged.
    pub fn acked(&self) -> u64 {
        self.acked
    }

    /// Smoothed round-trip time; zero before the first measurement.
    pub fn round_trip(&self) -> Duration {
        Duration::from_micros(u64::from(self.srtt))
    }

    /// The block that `number` acknowledges, among those that are sent and not yet known to have come; the last acknowledged one, too.
    ///
    /// When another server may have gone on in the meantime, it may be one that was never sent here: but only while the client was waited for in vain,
    /// so that an old ACK that the network kept is not taken for one that is far ahead.
    fn absolute(&self, number: u16) -> Option<u64> {
        let ahead = ahead(&self.terms, self.acked, number)?;
        let block = self.acked + ahead;
        let elsewhere = || self.shared && self.tries > 0 && ahead <= AHEAD && self.last.is_some_and(|last| block <= last);
        (block <= self.highest || elsewhere()).then_some(block)
    }

    fn progress(&mut self, block: u64, pace: &Pace, now: Time) {
        if let Some((timed, at)) = self.timed
            && block >= timed
        {
            self.measure(micros(now - at));
            self.timed = None;
        }
        self.heard = true;
        self.flight = self.terms.window;
        self.tries = 0;
        (self.progress_at, self.certain_at) = (now, now);
        self.rto = self.base_rto(pace);
        self.arm(now);
    }

    /// RFC 6298 section 2.
    fn measure(&mut self, sample: u32) {
        let sample = sample.max(1);
        if self.srtt == 0 {
            self.srtt = sample;
            self.rttvar = sample / 2;
        } else {
            self.rttvar = self.rttvar - self.rttvar / 4 + self.srtt.abs_diff(sample) / 4;
            self.srtt = (self.srtt - self.srtt / 8).saturating_add(sample / 8).max(1);
        }
    }

    fn measured_rto(&self, pace: &Pace) -> Duration {
        if self.srtt == 0 {
            return pace.first;
        }
        let rto = u64::from(self.srtt) + 4 * u64::from(self.rttvar);
        Duration::from_micros(rto).clamp(pace.floor, pace.ceiling.max(pace.floor))
    }

    /// The time-out without back-off: the client's own wish if it said one (RFC 2349), else by measurement.
    fn base_rto(&self, pace: &Pace) -> u32 {
        micros(self.terms.timeout.unwrap_or_else(|| self.measured_rto(pace)))
    }

    fn go_back(&mut self) {
        self.next = self.acked + 1;
        self.timed = None;
    }

    fn arm(&mut self, now: Time) {
        self.deadline = now.plus(Duration::from_micros(u64::from(self.rto)));
    }
}

/// How far another server may have got, in blocks, for an ACK still to say where: three quarters of the numbers. The rest is for old ACKs.
pub const AHEAD: u64 = 49_152;

/// The number of a block on the wire.
fn wire(rollover: Rollover, block: u64) -> u16 {
    let number = match rollover {
        Rollover::Zero => block & 0xffff,
        Rollover::One if block == 0 => 0,
        Rollover::One => (block - 1) % 65535 + 1,
    };
    number as u16
}

/// How many blocks behind `base` the first one is that has this number; nothing when none has.
fn ahead(terms: &Terms, base: u64, number: u16) -> Option<u64> {
    let from = wire(terms.rollover, base);
    match terms.rollover {
        Rollover::Zero => Some(u64::from(number.wrapping_sub(from))),
        Rollover::One if base == 0 => Some(u64::from(number)),
        Rollover::One if number == 0 => None,
        Rollover::One => Some((u64::from(number) + 65535 - u64::from(from)) % 65535),
    }
}

/// The block of `last` that a client acknowledges by `number` to a server that only knows that `noted` were acknowledged some time ago: the first of this
/// number from a window before that one on. Nothing when there is none, or when it is so far ahead that the number may be an old one.
pub fn acknowledged(terms: &Terms, noted: u64, number: u16, last: u64) -> Option<u64> {
    let base = noted.saturating_sub(u64::from(terms.window));
    ahead(terms, base, number).filter(|ahead| *ahead <= AHEAD).map(|ahead| base + ahead).filter(|block| *block <= last)
}

fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

mod doubt;
#[cfg(test)]
mod tests;

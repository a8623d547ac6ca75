//! One client's transfer, without a socket: what it does with what it gets (RFC 1350, 2347, 2348, 7440).

use crate::single::granted;
use guideway_tftp::packet::Packet;
use std::time::{Duration, Instant};

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    Nothing,
    /// Nothing; the transfer got its first block, which it acknowledges later.
    Opened,
    /// Send the request.
    Request {
        /// Whether it was sent before.
        again: bool,
    },
    /// Send an ACK.
    Ack {
        /// The server's port.
        tid: u16,
        /// The block.
        block: u16,
        /// Whether time ran out.
        again: bool,
    },
}

impl Action {
    /// Whether the client repeats itself because nothing came.
    pub fn is_repeat(self) -> bool {
        matches!(self, Action::Request { again: true } | Action::Ack { again: true, .. })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Requested,
    Receiving { tid: u16 },
    Over,
}

/// One transfer.
#[derive(Debug)]
pub struct Transfer {
    state: State,
    requested_window: u16,
    blksize: u16,
    window: u16,
    /// Blocks that came in order.
    last: u64,
    in_window: u16,
    /// The latest block beyond a gap that was reported to the server.
    beyond: Option<u64>,
    keep: bool,
    loss: f64,
    chance: fastrand::Rng,
    think_time: Option<Duration>,
    /// When an ACK that was thought about is due.
    due: Option<Instant>,
    last_received: Option<Instant>,
    started: Option<Instant>,
    tries: u32,
    /// Whether the request had to be repeated.
    pub retransmitted: bool,
    /// What was received.
    pub content: Vec<u8>,
    /// How long it took, when it ended as it should.
    pub took: Option<Duration>,
}

impl Transfer {
    /// A transfer of a file of `keep` bytes, or one that keeps nothing.
    pub fn new(keep: Option<usize>, window: u16, loss: f64, seed: u64, think_time: Option<Duration>) -> Transfer {
        let mut content = Vec::new();
        // Touched now: page faults are not to be measured.
        content.resize(keep.map_or(0, |size| size + 1), 0xaa);
        content.clear();
        Transfer {
            state: State::Waiting,
            requested_window: window,
            blksize: 512,
            window: 1,
            last: 0,
            in_window: 0,
            beyond: None,
            keep: keep.is_some(),
            loss,
            chance: fastrand::Rng::with_seed(seed),
            think_time,
            due: None,
            last_received: None,
            started: None,
            tries: 0,
            retransmitted: false,
            content,
            took: None,
        }
    }

    /// The window that was granted.
    pub fn window(&self) -> u16 {
        self.window
    }

    /// Whether it ended, well or not.
    pub fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// Begins.
    pub fn start(&mut self, now: Instant) -> Action {
        self.state = State::Requested;
        (self.started, self.last_received) = (Some(now), Some(now));
        Action::Request { again: false }
    }

    /// Takes a datagram from the server's `port`.
    pub fn receive(&mut self, now: Instant, port: u16, bytes: &[u8]) -> Action {
        if self.loss > 0.0 && self.chance.f64() < self.loss {
            return Action::Nothing;
        }
        match self.state {
            State::Waiting | State::Over => return Action::Nothing,
            State::Receiving { tid } if tid != port => return Action::Nothing,
            State::Requested | State::Receiving { .. } => {}
        }
        if let Some((&[0, 3, high, low], data)) = bytes.split_first_chunk() {
            self.state = State::Receiving { tid: port };
            return self.data(now, u16::from_be_bytes([high, low]), data);
        }
        match Packet::parse(bytes) {
            Ok(Packet::Oack(options)) if self.last == 0 => {
                let again = self.state != State::Requested;
                self.state = State::Receiving { tid: port };
                (self.blksize, self.window) = granted(options);
                self.window = self.window.min(self.requested_window);
                self.received(now);
                if again && self.think_time.is_some() { Action::Nothing } else { self.ack(false) }
            }
            Ok(Packet::Error { .. }) => {
                self.state = State::Over;
                Action::Nothing
            }
            _ => Action::Nothing,
        }
    }

    fn data(&mut self, now: Instant, block: u16, data: &[u8]) -> Action {
        let ahead = block.wrapping_sub((self.last + 1) as u16);
        if ahead == 0 {
            if self.keep {
                self.content.extend_from_slice(data);
            }
            self.last += 1;
            self.in_window += 1;
            self.beyond = None;
            self.received(now);
            let over = data.len() < usize::from(self.blksize);
            if let Some(think_time) = self.think_time {
                self.due = Some(now + think_time);
                return if self.last == 1 { Action::Opened } else { Action::Nothing };
            }
            if !over && self.in_window < self.window {
                return Action::Nothing;
            }
            let action = self.ack(false);
            if over {
                self.state = State::Over;
                self.took = self.started.map(|then| now - then);
            }
            return action;
        }
        let number = self.last + 1 + u64::from(ahead);
        if ahead < self.window && self.beyond.is_none_or(|before| number <= before) {
            // The first block beyond a gap, or the window that was sent again has a gap, too: the server learns of each gap once.
            self.beyond = Some(number);
            return self.ack(false);
        }
        if ahead < self.window {
            self.beyond = Some(number);
        } else if ahead == u16::MAX && self.in_window == 0 && self.think_time.is_none() {
            // The last block of the last window again: the server did not get its ACK.
            return self.ack(false);
        }
        Action::Nothing
    }

    /// Acts on time.
    pub fn expire(&mut self, now: Instant, timeout: Duration, tries: u32) -> Action {
        if let Some(due) = self.due {
            if due > now {
                return Action::Nothing;
            }
            self.due = None;
            self.received(now);
            return self.ack(false);
        }
        let unresponsive = self.last_received.is_some_and(|then| now - then >= timeout) && !self.is_over();
        if !unresponsive {
            return Action::Nothing;
        }
        self.last_received = Some(now);
        self.tries += 1;
        if self.tries > tries {
            self.state = State::Over;
            return Action::Nothing;
        }
        if self.state == State::Requested {
            self.retransmitted = true;
            return Action::Request { again: true };
        }
        self.ack(true)
    }

    fn received(&mut self, now: Instant) {
        self.last_received = Some(now);
        self.tries = 0;
    }

    fn ack(&mut self, again: bool) -> Action {
        self.in_window = 0;
        match self.state {
            State::Receiving { tid } => Action::Ack { tid, block: self.last as u16, again },
            _ => Action::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(block: u16, length: usize) -> Vec<u8> {
        let mut bytes = vec![0, 3, (block >> 8) as u8, block as u8];
        bytes.resize(4 + length, 7);
        bytes
    }

    fn ack(block: u16) -> Action {
        Action::Ack { tid: 9, block, again: false }
    }

    #[test]
    fn each_of_two_gaps_in_a_window_is_reported_once() {
        let now = Instant::now();
        let mut t = Transfer::new(Some(4096), 4, 0.0, 1, None);
        assert_eq!(t.start(now), Action::Request { again: false });
        assert_eq!(t.receive(now, 9, b"\0\x06blksize\x00512\0windowsize\x004\0"), ack(0));
        assert_eq!(t.receive(now, 9, &data(1, 512)), Action::Nothing);
        assert_eq!(t.receive(now, 9, &data(3, 512)), ack(1));
        assert_eq!(t.receive(now, 9, &data(4, 512)), Action::Nothing);
        // The window again from block 2 on, and block 2 is lost again.
        assert_eq!(t.receive(now, 9, &data(3, 512)), ack(1));
        assert_eq!(t.receive(now, 9, &data(4, 512)), Action::Nothing);
        for block in 2..5 {
            assert_eq!(t.receive(now, 9, &data(block, 512)), Action::Nothing);
        }
        assert_eq!(t.receive(now, 8, &data(5, 0)), Action::Nothing, "from an unknown TID");
        assert_eq!(t.receive(now, 9, &data(5, 0)), ack(5));
        assert!(t.is_over() && t.took.is_some());
        assert_eq!(t.content.len(), 2048);
    }

    #[test]
    fn silence_is_answered_ten_times_and_no_more() {
        let mut now = Instant::now();
        let mut t = Transfer::new(Some(4096), 1, 0.0, 1, None);
        t.start(now);
        for _ in 0..10 {
            assert_eq!(t.expire(now, TICK, 10), Action::Nothing);
            now += TICK;
            assert!(t.expire(now, TICK, 10).is_repeat());
        }
        assert!(t.retransmitted && !t.is_over());
        now += TICK;
        assert_eq!(t.expire(now, TICK, 10), Action::Nothing);
        assert!(t.is_over() && t.took.is_none());
    }

    #[test]
    fn a_slow_reader_acknowledges_late_and_keeps_nothing() {
        let now = Instant::now();
        let mut t = Transfer::new(None, 1, 0.0, 1, Some(TICK));
        t.start(now);
        assert_eq!(t.receive(now, 9, b"\0\x06blksize\x00512\0"), ack(0));
        assert_eq!(t.receive(now, 9, &data(1, 512)), Action::Opened);
        assert_eq!(t.receive(now, 9, &data(1, 512)), Action::Nothing, "again");
        assert_eq!(t.expire(now + TICK, TICK * 9, 10), ack(1));
        assert_eq!(t.receive(now, 9, &data(2, 512)), Action::Nothing);
        assert_eq!(t.content.len(), 0);
    }

    const TICK: Duration = Duration::from_millis(100);
}

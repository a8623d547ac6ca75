//! Minimal reference servers: whole file in memory, absolute block numbers by trial, a fixed time-out of 200 ms.

use super::*;
use crate::rollover::Rollover;

pub const TIMEOUT: Duration = Duration::from_millis(200);

pub struct Grant {
    pub blksize: usize,
    pub windowsize: u64,
    pub rollover: Rollover,
}

/// Serves one read.
pub struct ReferenceServer<'a> {
    pub file: &'a [u8],
    pub grant: Grant,
    /// First unacknowledged block; 0 for the OACK.
    base: u64,
    sent_at: Time,
    pub done: bool,
}

impl<'a> ReferenceServer<'a> {
    pub fn new(file: &'a [u8], grant: Grant) -> Self {
        ReferenceServer { file, grant, base: 0, sent_at: at(0), done: false }
    }

    fn blocks(&self) -> u64 {
        (self.file.len() / self.grant.blksize) as u64 + 1
    }

    fn window(&mut self, now: Time) -> Vec<Vec<u8>> {
        self.sent_at = now;
        if self.base == 0 {
            let (blksize, windowsize) = (self.grant.blksize.to_string(), self.grant.windowsize.to_string());
            return vec![oack(&[("blksize", &blksize), ("windowsize", &windowsize), ("tsize", &self.file.len().to_string())])];
        }
        let last = (self.base + self.grant.windowsize - 1).min(self.blocks());
        let block = |number: u64| {
            let from = (number as usize - 1) * self.grant.blksize;
            data(self.grant.rollover.wire(number), &self.file[from..(from + self.grant.blksize).min(self.file.len())])
        };
        (self.base..=last).map(block).collect()
    }

    pub fn receive(&mut self, now: Time, datagram: &[u8]) -> Vec<Vec<u8>> {
        match Packet::parse(datagram).unwrap() {
            Packet::Request(_) => self.window(now),
            Packet::Ack { block } => {
                let sent = (self.base + self.grant.windowsize - 1).min(self.blocks());
                let acknowledged = (self.base..=sent).rev().find(|number| self.grant.rollover.wire(*number) == block);
                match acknowledged {
                    Some(number) if number == self.blocks() => {
                        self.done = true;
                        Vec::new()
                    }
                    Some(number) => {
                        self.base = number + 1;
                        self.window(now)
                    }
                    // In a window: the first block is missing. Repetitions are answered only after a while.
                    None if self.grant.windowsize > 1 && now - self.sent_at >= TIMEOUT / 4 => self.window(now),
                    None => Vec::new(),
                }
            }
            other => panic!("{other:?}"),
        }
    }

    pub fn deadline(&self) -> Time {
        self.sent_at.plus(TIMEOUT)
    }

    pub fn expire(&mut self, now: Time) -> Vec<Vec<u8>> {
        if self.done || now < self.deadline() { Vec::new() } else { self.window(now) }
    }
}

/// Receives one write.
pub struct ReferenceReceiver {
    pub grant: Grant,
    pub file: Vec<u8>,
    next: u64,
    in_window: u64,
    gap_answered: bool,
    last: Vec<u8>,
    sent_at: Time,
    pub done: bool,
}

impl ReferenceReceiver {
    pub fn new(grant: Grant) -> Self {
        ReferenceReceiver {
            grant,
            file: Vec::new(),
            next: 1,
            in_window: 0,
            gap_answered: false,
            last: Vec::new(),
            sent_at: at(0),
            done: false,
        }
    }

    fn say(&mut self, now: Time, datagram: Vec<u8>) -> Vec<Vec<u8>> {
        (self.sent_at, self.in_window, self.last) = (now, 0, datagram.clone());
        vec![datagram]
    }

    pub fn receive(&mut self, now: Time, datagram: &[u8]) -> Vec<Vec<u8>> {
        match Packet::parse(datagram).unwrap() {
            Packet::Request(_) if self.next > 1 => Vec::new(),
            Packet::Request(_) => {
                let (blksize, windowsize) = (self.grant.blksize.to_string(), self.grant.windowsize.to_string());
                self.say(now, oack(&[("blksize", &blksize), ("windowsize", &windowsize)]))
            }
            Packet::Data { block, data } if block == self.grant.rollover.wire(self.next) && !self.done => {
                self.file.extend(data);
                (self.next, self.in_window, self.gap_answered) = (self.next + 1, self.in_window + 1, false);
                self.done = data.len() < self.grant.blksize;
                let acknowledgement = ack(block);
                if self.done || self.in_window == self.grant.windowsize { self.say(now, acknowledgement) } else { Vec::new() }
            }
            Packet::Data { block, .. } => {
                let before = self.grant.rollover.wire(self.next - 1);
                let answer = ack(before);
                match block == before {
                    true if now - self.sent_at >= TIMEOUT / 4 => self.say(now, answer),
                    false if !std::mem::replace(&mut self.gap_answered, true) => self.say(now, answer),
                    _ => Vec::new(),
                }
            }
            other => panic!("{other:?}"),
        }
    }

    pub fn deadline(&self) -> Time {
        self.sent_at.plus(TIMEOUT)
    }

    pub fn expire(&mut self, now: Time) -> Vec<Vec<u8>> {
        if self.done || self.last.is_empty() || now < self.deadline() {
            return Vec::new();
        }
        // A time-out between windows: the last block in sequence, as after a gap.
        let again = if self.next > 1 { ack(self.grant.rollover.wire(self.next - 1)) } else { self.last.clone() };
        self.say(now, again)
    }
}

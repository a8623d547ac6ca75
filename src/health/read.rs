//! The tftp check as a state machine without I/O: a read of the canary whose bytes are verified and whose end is clean.
//!
//! The transfer is that of our client ([`guideway_tftp::client::Read`]); this adds what a check wants of it: a deadline for the whole, the expected
//! size and digest, and words that tell a dead server from one that answers the wrong thing.

use super::outcome::{Failure, Outcome};
use guideway_config::TftpProbe;
use guideway_config::duration::human;
use guideway_packet::time::Time;
use guideway_tftp::client::{self, Ask, Dally, Plan, Timing};
use guideway_tftp::packet::{ErrorCode, PORT};
use sha2::{Digest, Sha256};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// The longest canary whose size nobody said, in bytes. A check is no load test.
const MOST: u64 = 16 << 20;
/// A packet is repeated when nothing came for this part of the time-out, so that one lost packet does not fail a check.
const PATIENCE: u32 = 4;

/// One check.
#[derive(Debug)]
pub struct ReadCheck {
    read: client::Read,
    digest: Option<(Sha256, [u8; 32])>,
    size: Option<u64>,
    bytes: u64,
    end: Time,
    timeout: Duration,
    outcome: Option<Outcome>,
}

impl ReadCheck {
    /// Asks for the canary at `vip`; all of it may take `timeout`.
    pub fn new(probe: &TftpProbe, vip: IpAddr, timeout: Duration, now: Time) -> Self {
        let wait = (timeout / PATIENCE).max(Duration::from_millis(5));
        let timing = Timing { initial: wait, floor: wait, ceiling: wait, retries: 4 * PATIENCE, dally: Dally::Never };
        let window = (probe.windowsize > 1).then_some(Ask::Windowsize(probe.windowsize));
        let ask = [Ask::Tsize(0), Ask::Blksize(probe.blksize)].into_iter().chain(window).collect();
        let plan = Plan { ask, timing, ..Plan::new(SocketAddr::new(vip, PORT), probe.file.as_bytes()) };
        ReadCheck {
            read: client::Read::new(plan, now),
            digest: probe.sha256.map(|wanted| (Sha256::new(), wanted)),
            size: probe.size,
            bytes: 0,
            end: now.plus(timeout),
            timeout,
            outcome: None,
        }
    }

    /// Takes a datagram.
    pub fn receive(&mut self, now: Time, from: SocketAddr, datagram: &[u8]) {
        let data = self.read.receive(now, from, datagram);
        if self.outcome.is_some() {
            return;
        }
        if let Some(data) = data {
            self.bytes += data.len() as u64;
            if let Some((digest, _)) = &mut self.digest {
                digest.update(data);
            }
        }
        match self.read.outcome() {
            Some(Ok(())) => self.outcome = Some(self.verified()),
            Some(Err(failure)) => self.outcome = Some(Outcome::Failed(self.told(failure))),
            None => self.surplus(),
        }
    }

    /// Acts on time; nothing happens before [`ReadCheck::deadline`].
    pub fn expire(&mut self, now: Time) {
        if self.outcome.is_none() && now >= self.end {
            self.outcome = Some(Outcome::Failed(self.silence()));
            if self.read.tid().is_some() {
                self.stop("the check took too long");
            }
        } else {
            self.read.expire(now);
        }
    }

    /// Writes the next datagram to send into `out`, which it empties first; gives where it goes. To be asked until it gives nothing, also when
    /// the outcome is there: the server is owed its last acknowledgement, or an ERROR that ends its side.
    pub fn transmit(&mut self, out: &mut Vec<u8>) -> Option<SocketAddr> {
        self.read.transmit(out)
    }

    /// When [`ReadCheck::expire`] wants to be called.
    pub fn deadline(&self) -> Time {
        self.read.deadline().map_or(self.end, |deadline| deadline.min(self.end))
    }

    /// What came of it.
    pub fn outcome(&self) -> Option<&Outcome> {
        self.outcome.as_ref()
    }

    /// All bytes came: are they the right ones?
    fn verified(&mut self) -> Outcome {
        let wrong = |why: String| Outcome::Failed(Failure::Content(why));
        if let Some(size) = self.size.filter(|size| *size != self.bytes) {
            return wrong(format!("{} bytes came, {size} are expected", self.bytes));
        }
        let other = self.digest.take().is_some_and(|(digest, wanted)| digest.finalize()[..] != wanted);
        if other { wrong(format!("the {} bytes that came have another SHA-256 than expected", self.bytes)) } else { Outcome::Good }
    }

    /// Does not wait for the rest of what is too long already.
    fn surplus(&mut self) {
        let announced = self.read.agreed().tsize;
        let why = match (self.size, announced) {
            (Some(size), Some(announced)) if size != announced => format!("the server announces {announced} bytes, {size} are expected"),
            (Some(size), _) if self.bytes > size => format!("more than the {size} bytes that are expected"),
            (None, _) if self.bytes > MOST => format!("more than {MOST} bytes, too many for a check"),
            _ => return,
        };
        self.outcome = Some(Outcome::Failed(Failure::Content(why)));
        self.stop("not the expected file");
    }

    fn stop(&mut self, why: &'static str) {
        self.read.refuse(why.to_owned(), ErrorCode::NOT_DEFINED, why);
    }

    fn silence(&self) -> Failure {
        let timeout = human(self.timeout);
        if self.read.tid().is_none() {
            let strangers = match self.read.counters().strangers {
                0 => String::new(),
                count => format!("; {count} datagrams came from other addresses than the VIP"),
            };
            return Failure::Silent(format!("nothing came within {timeout}{strangers}"));
        }
        let block = self.bytes / u64::from(self.read.agreed().blksize.max(1)) + 1;
        Failure::Stalled(format!("in block {block}, with {} bytes after {timeout}", self.bytes))
    }

    fn told(&self, failure: &client::Failure) -> Failure {
        match failure {
            client::Failure::Server { code, text } => Failure::Refused(format!("TFTP error {} ({}): {text:?}", code.0, code.meaning())),
            client::Failure::NoAnswer { .. } | client::Failure::Closed { .. } | client::Failure::Silent { .. } => self.silence(),
            client::Failure::Size { .. } | client::Failure::Block { .. } => Failure::Content(failure.to_string()),
            client::Failure::Options(_) | client::Failure::Here(_) => Failure::Other(failure.to_string()),
        }
    }
}

#[cfg(test)]
#[path = "read/tests.rs"]
mod tests;

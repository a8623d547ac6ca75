//! The tftp check as a state machine without I/O: reads the canary, verifies its bytes, and ends the transfer cleanly.
//!
//! The transfer is that of our client ([`guideway_tftp::client::Read`]). This module adds a deadline for all of it, the expected size and
//! digest, and messages that distinguish a dead server from one with wrong content.

use super::outcome::{Failure, Outcome};
use guideway_config::TftpProbe;
use guideway_config::duration::human;
use guideway_packet::time::Time;
use guideway_tftp::client::{self, Dally, RequestOption, Timing, TransferPlan};
use guideway_tftp::packet::{ErrorCode, PORT};
use sha2::{Digest, Sha256};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Maximum size of a canary without an expected size, in bytes. A check is not a load test.
const MAX_SIZE: u64 = 16 << 20;
/// Fraction of the time-out after which a packet is sent again, so that one lost packet does not fail a check.
const RETRANSMISSIONS: u32 = 4;

/// One check.
#[derive(Debug)]
pub struct TftpCheck {
    read: client::Read,
    digest: Option<(Sha256, [u8; 32])>,
    /// Ports that the server may answer from.
    tid_range: Option<(u16, u16)>,
    size: Option<u64>,
    bytes: u64,
    end: Time,
    timeout: Duration,
    outcome: Option<Outcome>,
}

impl TftpCheck {
    /// Starts to read the canary at `vip`; the whole check may take `timeout`.
    pub fn new(probe: &TftpProbe, vip: IpAddr, timeout: Duration, now: Time) -> Self {
        let wait = (timeout / RETRANSMISSIONS).max(Duration::from_millis(5));
        let timing = Timing { initial: wait, min_rto: wait, max_rto: wait, retries: 4 * RETRANSMISSIONS, dally: Dally::Never };
        let window = (probe.windowsize > 1).then_some(RequestOption::Windowsize(probe.windowsize));
        let ask = [RequestOption::Tsize(0), RequestOption::Blksize(probe.blksize)].into_iter().chain(window).collect();
        let plan = TransferPlan { ask, timing, ..TransferPlan::new(SocketAddr::new(vip, PORT), probe.file.as_bytes()) };
        TftpCheck {
            read: client::Read::new(plan, now),
            digest: probe.sha256.map(|wanted| (Sha256::new(), wanted)),
            tid_range: None,
            size: probe.size,
            bytes: 0,
            end: now.plus(timeout),
            timeout,
            outcome: None,
        }
    }

    /// Also requires that the server answers from a port of its `tid_range`, if it has one: directors send packets to other ports elsewhere.
    pub fn with_tid_range(self, tid_range: Option<(u16, u16)>) -> Self {
        TftpCheck { tid_range, ..self }
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
            Some(Ok(())) => self.outcome = Some(self.verify()),
            Some(Err(failure)) => self.outcome = Some(Outcome::Failed(self.map_failure(failure))),
            None => self.check_size(),
        }
    }

    /// Acts on time; nothing happens before [`TftpCheck::deadline`].
    pub fn expire(&mut self, now: Time) {
        if self.outcome.is_none() && now >= self.end {
            self.outcome = Some(Outcome::Failed(self.timeout_failure()));
            if self.read.tid().is_some() {
                self.abort("the check took too long");
            }
        } else {
            self.read.expire(now);
        }
    }

    /// Writes the next datagram to send into `out`, which it empties first, and returns its destination. Must be called until it returns
    /// `None`, also after the result is known: the server still needs the last acknowledgement, or an ERROR that ends its transfer.
    pub fn transmit(&mut self, out: &mut Vec<u8>) -> Option<SocketAddr> {
        self.read.transmit(out)
    }

    /// Returns the time at which [`TftpCheck::expire`] must be called.
    pub fn deadline(&self) -> Time {
        self.read.deadline().map_or(self.end, |deadline| deadline.min(self.end))
    }

    /// Returns the result.
    pub fn outcome(&self) -> Option<&Outcome> {
        self.outcome.as_ref()
    }

    /// Checks the bytes of a complete transfer.
    fn verify(&mut self) -> Outcome {
        let wrong_content = |why: String| Outcome::Failed(Failure::WrongContent(why));
        if let Some(size) = self.size.filter(|size| *size != self.bytes) {
            return wrong_content(format!("received {} bytes, expected {size}", self.bytes));
        }
        if let (Some((first, last)), Some(tid)) = (self.tid_range, self.read.tid())
            && !(first..=last).contains(&tid.port())
        {
            let why = format!(
                "answers from port {}, which is not in its tid_range {first}-{last}: limit the server to these ports (in.tftpd --port-range \
                 {first}:{last}, dnsmasq --tftp-port-range={first},{last})",
                tid.port()
            );
            return Outcome::Failed(Failure::WrongPort(why));
        }
        let other = self.digest.take().is_some_and(|(digest, wanted)| digest.finalize()[..] != wanted);
        if other { wrong_content(format!("the {} received bytes have an unexpected SHA-256", self.bytes)) } else { Outcome::Passed }
    }

    /// Aborts a transfer that is too long already.
    fn check_size(&mut self) {
        let announced = self.read.negotiated().tsize;
        let why = match (self.size, announced) {
            (Some(size), Some(announced)) if size != announced => format!("the server announces {announced} bytes, expected {size}"),
            (Some(size), _) if self.bytes > size => format!("more than the expected {size} bytes"),
            (None, _) if self.bytes > MAX_SIZE => format!("more than {MAX_SIZE} bytes, the limit for a check without `size`"),
            _ => return,
        };
        self.outcome = Some(Outcome::Failed(Failure::WrongContent(why)));
        self.abort("not the expected file");
    }

    fn abort(&mut self, why: &'static str) {
        self.read.refuse(why.to_owned(), ErrorCode::NOT_DEFINED, why);
    }

    fn timeout_failure(&self) -> Failure {
        let timeout = human(self.timeout);
        if self.read.tid().is_none() {
            let unknown_tids = match self.read.counters().unknown_tids {
                0 => String::new(),
                count => format!("; {count} datagrams came from addresses other than the VIP"),
            };
            return Failure::Timeout(format!("no answer within {timeout}{unknown_tids}"));
        }
        let block = self.bytes / u64::from(self.read.negotiated().blksize.max(1)) + 1;
        Failure::Stalled(format!("in block {block}, with {} bytes after {timeout}", self.bytes))
    }

    fn map_failure(&self, failure: &client::Failure) -> Failure {
        match failure {
            client::Failure::Server { code, text } => Failure::Refused(format!("TFTP error {} ({}): {text:?}", code.0, code.meaning())),
            client::Failure::NoAnswer { .. } | client::Failure::Closed { .. } | client::Failure::Unresponsive { .. } => {
                self.timeout_failure()
            }
            client::Failure::Size { .. } | client::Failure::Block { .. } => Failure::WrongContent(failure.to_string()),
            client::Failure::Options(_) | client::Failure::Local(_) => Failure::Other(failure.to_string()),
        }
    }
}

#[cfg(test)]
mod tests;

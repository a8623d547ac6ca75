//! Options that a client requests and a server grants: RFC 2347 (options), 2348 (blksize), 2349 (timeout, tsize), 7440 (windowsize),
//! and utimeout and rollover of tftp-hpa.

use crate::packet::{DEFAULT_BLKSIZE, Mode, Options, put_request};
use crate::rollover::Rollover;

/// One option of a request. A list of options has the order of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestOption {
    /// Bytes of a block, 8–65464.
    Blksize(u16),
    /// Blocks of a window, 1–65535.
    Windowsize(u16),
    /// Retransmission time-out of the server in seconds, 1–255.
    Timeout(u8),
    /// The same in microseconds, 10,000–255,000,000.
    Utimeout(u32),
    /// Bytes of the file; 0 in a read request, where the server fills it in.
    Tsize(u64),
    /// Number of the block after block 65535.
    Rollover(Rollover),
}

impl RequestOption {
    /// Its name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            RequestOption::Blksize(_) => "blksize",
            RequestOption::Windowsize(_) => "windowsize",
            RequestOption::Timeout(_) => "timeout",
            RequestOption::Utimeout(_) => "utimeout",
            RequestOption::Tsize(_) => "tsize",
            RequestOption::Rollover(_) => "rollover",
        }
    }

    fn value(self) -> u64 {
        match self {
            RequestOption::Blksize(value) | RequestOption::Windowsize(value) => value.into(),
            RequestOption::Timeout(value) => value.into(),
            RequestOption::Utimeout(value) => value.into(),
            RequestOption::Tsize(value) => value,
            RequestOption::Rollover(Rollover::Zero) => 0,
            RequestOption::Rollover(Rollover::One) => 1,
        }
    }
}

/// The bytes of a request.
pub fn request(write: bool, file: &[u8], mode: Mode, requested: &[RequestOption]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64 + file.len());
    let values: Vec<_> = requested.iter().map(|ask| (ask.name(), ask.value().to_string())).collect();
    let pairs = values.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
    put_request(&mut bytes, write, file, mode.name().as_bytes(), pairs);
    bytes
}

/// The parameters of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NegotiatedOptions {
    /// Bytes of a block.
    pub blksize: u16,
    /// Blocks of a window.
    pub windowsize: u16,
    /// Bytes of the file, if the server announced them.
    pub tsize: Option<u64>,
    /// Number of the block after block 65535; `None` if not negotiated, to be learned from the server.
    pub rollover: Option<Rollover>,
}

impl Default for NegotiatedOptions {
    /// RFC 1350.
    fn default() -> Self {
        NegotiatedOptions { blksize: DEFAULT_BLKSIZE, windowsize: 1, tsize: None, rollover: None }
    }
}

/// Reasons to refuse an OACK.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadOack {
    /// An option that was not requested: "the server MUST NOT include … options which have not been specified" (RFC 2347).
    #[error("the server acknowledged the option `{0}`, which was not requested")]
    NotRequested(String),
    /// A value that the option's RFC forbids.
    #[error("the server acknowledged {name} with `{value}`; allowed: {allowed}")]
    Value {
        /// The option.
        name: &'static str,
        /// Its value in the OACK.
        value: String,
        /// What the RFC allows.
        allowed: String,
    },
    /// The same option more than once.
    #[error("the server acknowledged {0} twice")]
    Twice(&'static str),
}

impl NegotiatedOptions {
    /// Checks an OACK against the request.
    ///
    /// # Errors
    /// When it has an option that was not requested, or an invalid value. The answer is ERROR 8.
    pub fn from_oack(oack: Options<'_>, requested: &[RequestOption], write: bool) -> Result<Self, BadOack> {
        let mut negotiated = NegotiatedOptions::default();
        let mut seen = 0u64;
        for (name, value) in oack.iter() {
            let at = requested.iter().position(|ask| name.eq_ignore_ascii_case(ask.name().as_bytes()));
            let at = at.ok_or_else(|| BadOack::NotRequested(shown(name)))?;
            let ask = requested[at];
            if seen & 1 << at.min(63) != 0 {
                return Err(BadOack::Twice(ask.name()));
            }
            seen |= 1 << at.min(63);
            negotiated.take(ask, value, write)?;
        }
        Ok(negotiated)
    }

    fn take(&mut self, ask: RequestOption, value: &[u8], write: bool) -> Result<(), BadOack> {
        // Digits only: `parse` alone would accept a plus sign.
        let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
        let number: Option<u64> = digits.then(|| std::str::from_utf8(value).ok()?.parse().ok()).flatten();
        let bad = |allowed: String| BadOack::Value { name: ask.name(), value: shown(value), allowed };
        let between = |low: u64, high: u16| {
            let fits = number.filter(|n| (low..=u64::from(high)).contains(n)).and_then(|n| u16::try_from(n).ok());
            fits.ok_or_else(|| bad(format!("{low} to {high}, the requested value")))
        };
        match ask {
            // "this value must be less than or equal to the value specified by the client" (RFC 2348).
            RequestOption::Blksize(requested) => self.blksize = between(8.min(u64::from(requested)), requested)?,
            // RFC 7440 section 3: the same.
            RequestOption::Windowsize(requested) => self.windowsize = between(1, requested)?,
            RequestOption::Tsize(_) if !write => self.tsize = Some(number.ok_or_else(|| bad("a number of bytes".to_owned()))?),
            // RFC 2349: the server echoes the others, or leaves them out.
            _ if number != Some(ask.value()) => return Err(bad(format!("{}, the requested value", ask.value()))),
            RequestOption::Rollover(rollover) => self.rollover = Some(rollover),
            RequestOption::Tsize(size) => self.tsize = Some(size),
            RequestOption::Timeout(_) | RequestOption::Utimeout(_) => {}
        }
        Ok(())
    }
}

/// Formats a peer's bytes for output: shortened, without control characters.
pub(super) fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).chars().map(|c| if c.is_control() { '·' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{Packet, put_oack};

    fn check(requested: &[RequestOption], oack: &[(&str, &str)], write: bool) -> Result<NegotiatedOptions, BadOack> {
        let mut bytes = Vec::new();
        put_oack(&mut bytes, oack.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())));
        let Ok(Packet::Oack(options)) = Packet::parse(&bytes) else { panic!("{bytes:?}") };
        NegotiatedOptions::from_oack(options, requested, write)
    }

    const ASKED: [RequestOption; 6] = [
        RequestOption::Tsize(0),
        RequestOption::Blksize(1428),
        RequestOption::Windowsize(16),
        RequestOption::Timeout(3),
        RequestOption::Utimeout(20_000),
        RequestOption::Rollover(Rollover::One),
    ];

    #[test]
    fn a_request_has_the_options_in_the_order_asked() {
        let bytes = request(false, b"/f", Mode::Netascii, &[RequestOption::Tsize(0), RequestOption::Blksize(1432)]);
        assert_eq!(bytes, b"\0\x01/f\0netascii\0tsize\x000\0blksize\x001432\0");
        assert_eq!(request(true, b"f", Mode::Octet, &[]), b"\0\x02f\0octet\0");
    }

    #[test]
    fn options_missing_in_the_oack_were_not_granted() {
        let some = check(&ASKED, &[("BLKSIZE", "512"), ("tsize", "99"), ("rollover", "1")], false).unwrap();
        assert_eq!(some, NegotiatedOptions { blksize: 512, windowsize: 1, tsize: Some(99), rollover: Some(Rollover::One) });
        let all = [("blksize", "8"), ("windowsize", "16"), ("timeout", "3"), ("utimeout", "20000")];
        assert_eq!(check(&ASKED, &all, false).map(|a| (a.blksize, a.windowsize)), Ok((8, 16)));
        assert_eq!(check(&[], &[], false), Ok(NegotiatedOptions::default()));
    }

    #[test]
    fn invalid_values_are_refused() {
        for (name, value) in [
            ("blksize", "7"),
            ("blksize", "1429"),
            ("blksize", "0"),
            ("blksize", ""),
            ("blksize", "+512"),
            ("blksize", "512 "),
            ("windowsize", "0"),
            ("windowsize", "17"),
            ("timeout", "4"),
            ("utimeout", "1"),
            ("rollover", "0"),
            ("tsize", "-1"),
            ("tsize", "99999999999999999999"),
        ] {
            let error = check(&ASKED, &[(name, value)], false).unwrap_err();
            assert!(matches!(error, BadOack::Value { .. }), "{name} {value}: {error}");
        }
        assert_eq!(check(&ASKED, &[("multicast", "")], false), Err(BadOack::NotRequested("multicast".into())));
        assert_eq!(check(&[], &[("blksize", "512")], false), Err(BadOack::NotRequested("blksize".into())));
        assert_eq!(check(&ASKED, &[("tsize", "1"), ("TSIZE", "1")], false), Err(BadOack::Twice("tsize")));
        let size = [RequestOption::Tsize(10)];
        assert_eq!(check(&size, &[("tsize", "10")], true).map(|a| a.tsize), Ok(Some(10)));
        assert!(check(&size, &[("tsize", "11")], true).is_err(), "a write's size is echoed");
    }
}

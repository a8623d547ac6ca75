//! Negotiation of options: `blksize` (RFC 2348), `timeout` and `tsize` (RFC 2349), `windowsize` (RFC 7440), and `utimeout` and `rollover`,
//! which no RFC defines but clients of tftp-hpa use.
//!
//! Unknown and invalid options are ignored, as RFC 2347 requires; the server never answers with ERROR 8. The OACK contains only requested
//! options, in the order of the request.

use super::packet::{self, DEFAULT_BLKSIZE, Options};
pub use super::rollover::Rollover;
use std::time::Duration;

/// Smallest and largest block size (RFC 2348).
pub const BLKSIZE: std::ops::RangeInclusive<u64> = 8..=65464;
/// Largest window in blocks for any limits: half the block numbers, so that an old ACK never looks like a new one.
pub const MAX_WINDOW: u16 = 32767;

/// Limits of granted options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest block size in bytes.
    pub blksize: u16,
    /// Whether blocks are also limited by the path's MTU, so that no datagram is fragmented. Much firmware cannot reassemble fragments.
    pub blksize_by_mtu: bool,
    /// Largest window in blocks, 1–32767.
    pub window: u16,
    /// Largest window in bytes. One block is always granted.
    pub window_bytes: u32,
    /// Number of the block after block 65535, unless the client requests one.
    pub rollover: Rollover,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { blksize: 65464, blksize_by_mtu: true, window: 64, window_bytes: 1 << 20, rollover: Rollover::Zero }
    }
}

/// The negotiated parameters of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Bytes of a full block.
    pub blksize: u16,
    /// Largest number of unacknowledged blocks.
    pub window: u16,
    /// Retransmission time-out requested by the client; `None` if the server measures it.
    pub timeout: Option<Duration>,
    /// Number of the block after block 65535.
    pub rollover: Rollover,
}

impl Terms {
    /// Returns the terms of a transfer without options (RFC 1350).
    pub fn plain(limits: &Limits) -> Terms {
        Terms { blksize: DEFAULT_BLKSIZE, window: 1, timeout: None, rollover: limits.rollover }
    }
}

/// Returns the largest block that fits one packet of the path, after 32 bytes of headers over IPv4, 52 over IPv6.
pub fn blksize_of_mtu(mtu: u32, v6: bool) -> u16 {
    u16::try_from(mtu.saturating_sub(if v6 { 52 } else { 32 })).unwrap_or(u16::MAX).max(8)
}

/// Negotiates the terms of a transfer and writes the OACK (empty if no option was granted). `blksize_cap` returns the path's limit; it is
/// called only for a block size above the default. `size` is the size in bytes after translation, if known; for a write, the announced
/// size.
pub fn negotiate(
    requested: Options<'_>,
    limits: &Limits,
    mut blksize_cap: impl FnMut() -> u16,
    size: Option<u64>,
) -> (Terms, Option<Vec<u8>>) {
    let mut terms = Terms::plain(limits);
    let mut granted: Vec<(&'static str, u64)> = Vec::new();
    let mut window = None;
    for (name, value) in requested.iter() {
        let Some(name) = NAMES.into_iter().find(|n| n.as_bytes().eq_ignore_ascii_case(name)) else { continue };
        let Some(value) = number(value) else { continue };
        if granted.iter().any(|(n, _)| *n == name) {
            continue;
        }
        let answer = match name {
            "blksize" if BLKSIZE.contains(&value) => {
                let cap = limits.blksize.min(if value > u64::from(DEFAULT_BLKSIZE) { blksize_cap() } else { u16::MAX });
                terms.blksize = u16::try_from(value).unwrap_or(u16::MAX).min(cap.max(8));
                u64::from(terms.blksize)
            }
            "timeout" if (1..=255).contains(&value) => {
                terms.timeout = Some(Duration::from_secs(value));
                value
            }
            "utimeout" if (10_000..=255_000_000).contains(&value) => {
                terms.timeout = Some(Duration::from_micros(value));
                value
            }
            "tsize" => match size {
                Some(size) => size,
                None => continue,
            },
            "windowsize" if (1..=65535).contains(&value) => {
                // The limit in bytes depends on the block size, which may follow later in the packet.
                window = Some(u16::try_from(value).unwrap_or(u16::MAX).min(limits.window).clamp(1, MAX_WINDOW));
                value
            }
            "rollover" if value <= 1 => {
                terms.rollover = if value == 0 { Rollover::Zero } else { Rollover::One };
                value
            }
            _ => continue,
        };
        granted.push((name, answer));
    }
    if let Some(window) = window {
        let by_bytes = limits.window_bytes / u32::from(terms.blksize);
        terms.window = window.min(u16::try_from(by_bytes).unwrap_or(u16::MAX)).max(1);
        granted.iter_mut().filter(|(name, _)| *name == "windowsize").for_each(|(_, value)| *value = u64::from(terms.window));
    }
    let oack = (!granted.is_empty()).then(|| {
        let texts: Vec<_> = granted.iter().map(|(name, value)| (*name, value.to_string())).collect();
        let mut bytes = Vec::with_capacity(64);
        packet::put_oack(&mut bytes, texts.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())));
        bytes
    });
    (terms, oack)
}

/// Returns the file size that a client announces in a write request (RFC 2349).
pub fn announced(requested: Options<'_>) -> Option<u64> {
    requested.get("tsize").and_then(number)
}

const NAMES: [&str; 6] = ["blksize", "timeout", "utimeout", "tsize", "windowsize", "rollover"];

/// Parses a decimal number without sign or space.
fn number(text: &[u8]) -> Option<u64> {
    let digits = (1..=19).contains(&text.len()) && text.iter().all(u8::is_ascii_digit);
    digits.then(|| text.iter().fold(0, |n, digit| n * 10 + u64::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{Packet, put_request};

    /// Negotiates options written as `blksize=1428 tsize=0`, over an Ethernet path, for a file of 70,000 bytes.
    fn answer(limits: &Limits, requested: &str) -> (Terms, String) {
        let pairs: Vec<_> = requested.split_whitespace().filter_map(|pair| pair.split_once('=')).collect();
        let mut bytes = Vec::new();
        put_request(&mut bytes, false, b"f", b"octet", pairs.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes())));
        let Ok(Packet::Request(request)) = Packet::parse(&bytes) else { panic!("no request") };
        let (terms, oack) = negotiate(request.options, limits, || blksize_of_mtu(1500, false), Some(70_000));
        let text = oack.map_or(String::new(), |oack| match Packet::parse(&oack) {
            Ok(Packet::Oack(options)) => options
                .iter()
                .map(|(n, v)| format!("{}={}", String::from_utf8_lossy(n), String::from_utf8_lossy(v)))
                .collect::<Vec<_>>()
                .join(" "),
            other => panic!("{other:?}"),
        });
        (terms, text)
    }

    #[test]
    fn options_of_common_clients() {
        let limits = Limits::default();
        for (client, requested, acknowledged) in [
            ("plain", "", ""),
            ("curl", "tsize=0 blksize=512 timeout=6", "tsize=70000 blksize=512 timeout=6"),
            ("iPXE", "blksize=1432 tsize=0", "blksize=1432 tsize=70000"),
            ("EDK2", "tsize=0 blksize=1468 windowsize=4", "tsize=70000 blksize=1468 windowsize=4"),
            ("a path with a small MTU", "blksize=8192", "blksize=1468"),
            ("upper case", "BLKSIZE=1024", "blksize=1024"),
            ("unknown options", "multicast= cookie=abc tsize=0", "tsize=70000"),
            ("the first one counts", "blksize=1024 blksize=512", "blksize=1024"),
            ("tftp-hpa", "utimeout=250000 rollover=1", "utimeout=250000 rollover=1"),
        ] {
            assert_eq!(answer(&limits, requested).1, acknowledged, "{client}");
        }
    }

    #[test]
    fn invalid_options_are_ignored() {
        for requested in ["blksize=7", "blksize=0", "blksize=65465", "blksize=-1", "blksize=abc", "blksize=", "timeout=0", "timeout=256"]
            .into_iter()
            .chain(["windowsize=0", "windowsize=65536", "rollover=2", "utimeout=1", "tsize=x", "blksize=99999999999999999999"])
        {
            assert_eq!(answer(&Limits::default(), requested), (Terms::plain(&Limits::default()), String::new()), "{requested}");
        }
    }

    #[test]
    fn windows_are_capped_by_count_and_by_bytes_wherever_the_block_size_stands() {
        let limits = Limits { blksize_by_mtu: false, ..Limits::default() };
        assert_eq!(answer(&limits, "windowsize=65535").1, "windowsize=64");
        let small = Limits { window_bytes: 4096, ..limits };
        assert_eq!(answer(&small, "windowsize=64 blksize=1400").1, "windowsize=2 blksize=1400");
        assert_eq!(answer(&Limits { window_bytes: 100, ..limits }, "windowsize=8").0.window, 1, "one block is always granted");
    }

    #[test]
    fn an_unknown_size_is_not_acknowledged() {
        let bytes = b"\0\x01f\0octet\0tsize\x000\0";
        let Ok(Packet::Request(request)) = Packet::parse(bytes) else { panic!("no request") };
        assert_eq!(negotiate(request.options, &Limits::default(), || 1468, None).1, None);
    }

    #[test]
    fn block_sizes_of_paths() {
        assert_eq!((blksize_of_mtu(1500, false), blksize_of_mtu(1500, true)), (1468, 1448));
        assert_eq!((blksize_of_mtu(65536, false), blksize_of_mtu(10, true)), (65504, 8));
    }
}

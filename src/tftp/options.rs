//! What a client asked for and what it gets: `blksize` (RFC 2348), `timeout` and `tsize` (RFC 2349), `windowsize` (RFC 7440), and two that no
//! RFC knows but tftp-hpa's clients use, `utimeout` and `rollover`.
//!
//! Unknown and invalid options are ignored, as RFC 2347 wants; ERROR 8 is never the answer. An option that was not asked for is never
//! acknowledged, and those that were stand in the OACK in the order asked.

use super::packet::{self, DEFAULT_BLKSIZE, Options};
use std::time::Duration;

/// Smallest and largest block size (RFC 2348).
pub const BLKSIZE: std::ops::RangeInclusive<u64> = 8..=65464;
/// Largest window in blocks, whatever the limits say: half the block numbers, so that an old ACK is never taken for a new one.
pub const MAX_WINDOW: u16 = 32767;

/// What the server grants at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest block size in bytes.
    pub blksize: u16,
    /// Whether blocks are also held below the path's MTU, so that no datagram is fragmented. Much firmware cannot reassemble.
    pub blksize_by_mtu: bool,
    /// Largest window in blocks, 1–32767.
    pub window: u16,
    /// Largest window in bytes. One block is always granted.
    pub window_bytes: u32,
    /// What follows block 65535 when the client asks for nothing.
    pub rollover: Rollover,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { blksize: 65464, blksize_by_mtu: true, window: 64, window_bytes: 1 << 20, rollover: Rollover::Zero }
    }
}

/// The number of the block after block 65535. No RFC says; 0 is what nearly all do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rollover {
    /// 0.
    #[default]
    Zero,
    /// 1.
    One,
}

/// What holds for a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Bytes of a full block.
    pub blksize: u16,
    /// Blocks that may be under way unacknowledged.
    pub window: u16,
    /// After how long the client wants an unanswered packet to be repeated; without, the server measures.
    pub timeout: Option<Duration>,
    /// What follows block 65535.
    pub rollover: Rollover,
}

impl Terms {
    /// What holds when the client asks for nothing (RFC 1350).
    pub fn plain(limits: &Limits) -> Terms {
        Terms { blksize: DEFAULT_BLKSIZE, window: 1, timeout: None, rollover: limits.rollover }
    }
}

/// Largest block that fits a packet of the path: 32 bytes of headers over IPv4, 52 over IPv6.
pub fn blksize_of_mtu(mtu: u32, v6: bool) -> u16 {
    u16::try_from(mtu.saturating_sub(if v6 { 52 } else { 32 })).unwrap_or(u16::MAX).max(8)
}

/// The terms of a transfer, and the OACK that says them (nothing when no option was granted). `blksize_cap` is what the path allows, asked
/// only when a block size above the default is wanted; `size` is the size in bytes after translation, if known; of a write, what was
/// announced.
pub fn negotiate(asked: Options<'_>, limits: &Limits, mut blksize_cap: impl FnMut() -> u16, size: Option<u64>) -> (Terms, Option<Vec<u8>>) {
    let mut terms = Terms::plain(limits);
    let mut granted: Vec<(&'static str, u64)> = Vec::new();
    let mut window = None;
    for (name, value) in asked.iter() {
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
                // Its share of bytes depends on the block size, which may be asked for later in the packet.
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

/// The size of its file that a client announces with a write request (RFC 2349).
pub fn announced(asked: Options<'_>) -> Option<u64> {
    asked.get("tsize").and_then(number)
}

const NAMES: [&str; 6] = ["blksize", "timeout", "utimeout", "tsize", "windowsize", "rollover"];

/// A decimal number without sign or space.
fn number(text: &[u8]) -> Option<u64> {
    let digits = (1..=19).contains(&text.len()) && text.iter().all(u8::is_ascii_digit);
    digits.then(|| text.iter().fold(0, |n, digit| n * 10 + u64::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{Packet, put_request};

    /// The answer to options written as `blksize=1428 tsize=0`, over an Ethernet path, for a file of 70,000 bytes.
    fn answer(limits: &Limits, asked: &str) -> (Terms, String) {
        let pairs: Vec<_> = asked.split_whitespace().filter_map(|pair| pair.split_once('=')).collect();
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
    fn what_clients_ask() {
        let limits = Limits::default();
        for (client, asked, said) in [
            ("plain", "", ""),
            ("curl", "tsize=0 blksize=512 timeout=6", "tsize=70000 blksize=512 timeout=6"),
            ("iPXE", "blksize=1432 tsize=0", "blksize=1432 tsize=70000"),
            ("EDK2", "tsize=0 blksize=1468 windowsize=4", "tsize=70000 blksize=1468 windowsize=4"),
            ("a path too narrow", "blksize=8192", "blksize=1468"),
            ("upper case", "BLKSIZE=1024", "blksize=1024"),
            ("unknown options", "multicast= cookie=abc tsize=0", "tsize=70000"),
            ("the first one counts", "blksize=1024 blksize=512", "blksize=1024"),
            ("tftp-hpa", "utimeout=250000 rollover=1", "utimeout=250000 rollover=1"),
        ] {
            assert_eq!(answer(&limits, asked).1, said, "{client}");
        }
    }

    #[test]
    fn what_is_invalid_is_ignored() {
        for asked in ["blksize=7", "blksize=0", "blksize=65465", "blksize=-1", "blksize=abc", "blksize=", "timeout=0", "timeout=256"]
            .into_iter()
            .chain(["windowsize=0", "windowsize=65536", "rollover=2", "utimeout=1", "tsize=x", "blksize=99999999999999999999"])
        {
            assert_eq!(answer(&Limits::default(), asked), (Terms::plain(&Limits::default()), String::new()), "{asked}");
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
    fn a_size_that_is_not_known_is_not_said() {
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

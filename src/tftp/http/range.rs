//! Ranges of bytes (RFC 9110 section 14).

use std::ops::Range;

/// What a `Range` field asks of content.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// All of it: the field is invalid or asks for several ranges, which a server may ignore.
    All,
    /// These bytes.
    Part(Range<u64>),
    /// Nothing that it has.
    Nothing,
}

/// Reads the field's value for content of `size` bytes.
pub(super) fn wanted(field: &[u8], size: u64) -> Wanted {
    let parse = || {
        let (unit, ranges) = std::str::from_utf8(field).ok()?.split_once('=')?;
        let (first, last) = ranges.trim().split_once('-').filter(|_| unit.trim().eq_ignore_ascii_case("bytes"))?;
        let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().unwrap_or(u64::MAX));
        match (first, last) {
            ("", "") => None,
            ("", suffix) => Some(size.saturating_sub(number(suffix)?)..size),
            (first, "") => Some(number(first)?..size),
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                (first <= last).then(|| first..last.saturating_add(1).min(size))
            }
        }
    };
    match parse() {
        None => Wanted::All,
        Some(range) if range.start < range.end => Wanted::Part(range),
        Some(_) => Wanted::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_and_invalid_ones_ignored() {
        for (field, expected) in [
            ("bytes=0-0", Wanted::Part(0..1)),
            ("bytes=5-", Wanted::Part(5..10)),
            ("Bytes = 5-99999999999999999999999", Wanted::Part(5..10)),
            ("bytes=-3", Wanted::Part(7..10)),
            ("bytes=-30", Wanted::Part(0..10)),
            ("bytes=-0", Wanted::Nothing),
            ("bytes=10-", Wanted::Nothing),
            ("bytes=99999999999999999999999-", Wanted::Nothing),
            ("bytes=10-12", Wanted::Nothing),
            ("bytes=3-2", Wanted::All),
            ("bytes=0-1,4-5", Wanted::All),
            ("bytes=-", Wanted::All),
            ("bytes=+1-2", Wanted::All),
            ("bytes=a-2", Wanted::All),
            ("blocks=0-1", Wanted::All),
            ("bytes", Wanted::All),
        ] {
            assert_eq!(wanted(field.as_bytes(), 10), expected, "{field}");
        }
        assert_eq!(wanted(b"bytes=0-", 0), Wanted::Nothing);
        assert_eq!(wanted(b"bytes=\xff-", 10), Wanted::All);
    }
}

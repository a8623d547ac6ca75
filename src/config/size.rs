//! Sizes with units: one parser for flags, configuration files and scripts.

use std::ops::RangeInclusive;

const UNITS: [(&str, u64); 5] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
/// Powers of 1000, and short forms.
const OTHER_UNITS: [(&str, u64); 10] = [
    ("", 1),
    ("K", 1 << 10),
    ("k", 1000),
    ("kB", 1000),
    ("M", 1_000_000),
    ("MB", 1_000_000),
    ("G", 1_000_000_000),
    ("GB", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("TB", 1_000_000_000_000),
];

/// Parses a size in bytes within limits: `1048576`, `1MiB`, `64 KiB`; `1.5MiB` is not accepted. `k`, `M`, `G`, `T` without `iB` are powers of 1000.
///
/// # Errors
/// A phrase about the text: it is not a size, or out of range.
pub fn parse_size(text: &str, limits: &RangeInclusive<u64>) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let unit = UNITS.iter().chain(&OTHER_UNITS).find(|(name, _)| *name == unit.trim_start());
    let Some((_, factor)) = unit.filter(|_| !number.is_empty()) else {
        return Err("is not a size; write a whole number with a unit (B, KiB, MiB, GiB, TiB), such as \"10GiB\"".to_owned());
    };
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(*factor)).filter(|bytes| limits.contains(bytes));
    bytes.ok_or_else(|| format!("is out of range; allowed: {} to {}", format_size(*limits.start()), format_size(*limits.end())))
}

/// Formats a size as [`parse_size`] reads it.
pub fn format_size(bytes: u64) -> String {
    let fits = |(_, factor): &&(&str, u64)| bytes >= *factor && bytes.is_multiple_of(*factor);
    UNITS.iter().find(fits).map_or_else(|| format!("{bytes}B"), |(unit, factor)| format!("{}{unit}", bytes / factor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        let size = |text: &str| parse_size(text, &(0..=1 << 60)).ok();
        assert_eq!(size("1MiB"), Some(1 << 20));
        assert_eq!(size("0"), Some(0));
        assert_eq!(size(" 64 KiB"), Some(65536));
        assert_eq!(size("5GiB"), Some(5 << 30));
        assert_eq!(size("2TiB"), Some(2 << 40));
        assert_eq!(size("3MB"), Some(3_000_000));
        for bad in ["", "MiB", "1.5MiB", "-1", "99999999999999999999", "1PiB", "2000000TiB"] {
            assert_eq!(size(bad), None, "{bad:?}");
        }
        assert_eq!(parse_size("5GiB", &(1..=4 << 30)), Err("is out of range; allowed: 1B to 4GiB".to_owned()));
    }

    #[test]
    fn sizes_are_formatted_as_they_are_read() {
        for (bytes, text) in [(0, "0B"), (1, "1B"), (4096, "4KiB"), (4097, "4097B"), (10 << 30, "10GiB"), (1 << 40, "1TiB")] {
            assert_eq!((format_size(bytes).as_str(), parse_size(text, &(0..=1 << 60))), (text, Ok(bytes)));
        }
    }
}

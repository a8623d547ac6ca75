//! Sizes with units, as in flags and scripts.

/// Parses a size in bytes: `1048576`, `1MiB`, `64KiB`; `1.5MiB` is not accepted. `k`, `M`, `G` without `iB` are powers of 1000.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim() {
        "" | "B" => 1,
        "kB" | "k" => 1000,
        "MB" | "M" => 1_000_000,
        "GB" | "G" => 1_000_000_000,
        "KiB" | "K" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(format!("`{unit}` is not a unit of size: use B, KiB, MiB or GiB")),
    };
    let number: u64 = number.parse().map_err(|_| "a size is a whole number with or without a unit, for example 1MiB".to_owned())?;
    match number.checked_mul(factor) {
        Some(size) if size <= 4 << 30 => Ok(size),
        _ => Err("is too large; a size is at most 4GiB".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(parse_size("1MiB"), Ok(1 << 20));
        assert_eq!(parse_size("0"), Ok(0));
        assert_eq!(parse_size("64 KiB"), Ok(65536));
        assert_eq!(parse_size("4GiB"), Ok(4 << 30));
        for bad in ["", "MiB", "1.5MiB", "-1", "5GiB", "99999999999999999999", "1TiB"] {
            assert!(parse_size(bad).is_err(), "{bad:?}");
        }
    }
}

//! Durations as operators write them: `200ms`, `60s`, `1m30s`, `2h`.

use std::time::Duration;

/// Why a text is not a duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// The text is empty.
    #[error("is empty; write a number with a unit (ms, s, m, h), such as \"60s\"")]
    Empty,
    /// A part does not start with digits.
    #[error("is not a duration; write whole numbers with a unit (ms, s, m, h), such as \"60s\" or \"1m30s\"")]
    NoNumber,
    /// A number without a unit, or with an unknown unit.
    #[error("lacks a known unit; write ms, s, m or h after every number, such as \"60s\"")]
    Unit,
    /// A repeated unit, or a larger unit after a smaller one.
    #[error("has its units out of order; write each of h, m, s, ms at most once, the largest first, such as \"1m30s\"")]
    Order,
    /// More than 2^64 − 1 milliseconds.
    #[error("is too long; the limit is 2^64 - 1 milliseconds")]
    TooLong,
}

/// Units in milliseconds, the largest first.
const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Parses whole numbers with units, the largest unit first, with or without spaces.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(DurationError::Empty);
    }
    let mut total: u64 = 0;
    let mut allowed = 0;
    while !rest.is_empty() {
        let (number, behind) = split(rest, |c| c.is_ascii_digit());
        if number.is_empty() {
            return Err(DurationError::NoNumber);
        }
        let number: u64 = number.parse().map_err(|_| DurationError::TooLong)?;
        let (unit, behind) = split(behind.trim_start(), char::is_alphabetic);
        let (index, (_, factor)) = UNITS.iter().enumerate().find(|(_, (name, _))| *name == unit).ok_or(DurationError::Unit)?;
        if index < allowed {
            return Err(DurationError::Order);
        }
        allowed = index + 1;
        total = number.checked_mul(*factor).and_then(|part| total.checked_add(part)).ok_or(DurationError::TooLong)?;
        rest = behind.trim_start();
    }
    Ok(Duration::from_millis(total))
}

/// Formats a duration as [`parse`] reads it; cuts off everything below a millisecond.
pub fn human(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (name, factor) in UNITS {
        if rest >= factor {
            text.push_str(&format!("{}{name}", rest / factor));
            rest %= factor;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

fn split(text: &str, wanted: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !wanted(c)).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_as_operators_write_them() {
        for (text, milliseconds) in [
            ("200ms", 200),
            ("60s", 60_000),
            ("10m", 600_000),
            ("2h", 7_200_000),
            ("1m30s", 90_000),
            ("1h 1m 1s 1ms", 3_661_001),
            (" 5 s ", 5_000),
            ("0s", 0),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
    }

    #[test]
    fn invalid_durations_give_the_reason() {
        for (text, error) in [
            ("", DurationError::Empty),
            ("  ", DurationError::Empty),
            ("s", DurationError::NoNumber),
            ("-1s", DurationError::NoNumber),
            ("60", DurationError::Unit),
            ("1.5s", DurationError::Unit),
            ("60sec", DurationError::Unit),
            ("60µs", DurationError::Unit),
            ("30s1m", DurationError::Order),
            ("1s1s", DurationError::Order),
            ("99999999999999999999s", DurationError::TooLong),
            ("18446744073709551615h", DurationError::TooLong),
            ("18446744073709551s 616ms", DurationError::TooLong),
        ] {
            assert_eq!(parse(text), Err(error), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in ".{0,40}") {
            let _ = parse(&text);
        }

        #[test]
        fn formatted_durations_are_parsed_back(milliseconds in any::<u64>()) {
            let duration = Duration::from_millis(milliseconds);
            prop_assert_eq!(parse(&human(duration)), Ok(duration));
        }
    }
}

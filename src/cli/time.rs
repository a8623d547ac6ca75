//! Times for people, in UTC.

/// Formats seconds since 1970-01-01 UTC as `2026-11-30 21:40:05.120Z`.
pub(super) fn utc(unix: f64) -> String {
    let milliseconds = (unix * 1000.0).round() as i64;
    let (days, of_day) = (milliseconds.div_euclid(86_400_000), milliseconds.rem_euclid(86_400_000));
    let (year, month, day) = date(days);
    let (hour, minute, second, milli) = (of_day / 3_600_000, of_day / 60_000 % 60, of_day / 1000 % 60, of_day % 1000);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{milli:03}Z")
}

/// Returns year, month and day of a number of days since 1970-01-01, in the Gregorian calendar. Years are counted from March, so that the
/// leap day is the last of its year; 400 of them have 146,097 days.
fn date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right_around_leap_days() {
        for (unix, text) in [
            (0.0, "1970-01-01 00:00:00.000Z"),
            (951_782_400.0, "2000-02-29 00:00:00.000Z"),
            (1_709_251_199.999_6, "2024-03-01 00:00:00.000Z"),
            (1_796_074_805.12, "2026-11-30 21:40:05.120Z"),
            (4_107_542_400.0, "2100-03-01 00:00:00.000Z"),
        ] {
            assert_eq!(utc(unix), text);
        }
    }
}

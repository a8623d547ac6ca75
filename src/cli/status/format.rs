//! Parts of every status: lines, numbers, tables, and how long a daemon runs.

use super::super::print;
use std::fmt::{Display, Write};

/// Appends a line. Writing to a string cannot fail.
pub(super) fn line(out: &mut String, text: impl Display) {
    let _ = writeln!(out, "{text}");
}

/// Formats names with their numbers in two columns.
pub(super) fn numbers(numbers: impl IntoIterator<Item = (impl Display, u64)>) -> String {
    print::columns(numbers.into_iter().map(|(name, number)| [name.to_string(), number.to_string()]), &[1])
}

/// Appends an empty line and a table.
pub(super) fn rows(out: &mut String, titles: &[&str], entries: impl IntoIterator<Item = Vec<String>>) {
    let titles = titles.iter().map(ToString::to_string).collect();
    out.push('\n');
    out.push_str(&print::columns(std::iter::once(titles).chain(entries), &[]));
}

/// `3 d 4 h`, `5 min 6 s`
pub(super) fn uptime(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

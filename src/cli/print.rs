//! Printing that tolerates a closed pipe (`guideway status | head -1`).

use comfy_table::{CellAlignment, Table, presets};
use guideway_daemon::systemd::{is_journal, with_priority};
use serde::Serialize;
use std::fmt::Display;
use std::io::{ErrorKind, Write};

/// Prints a line to stdout. Returns `false` on any error but a closed pipe.
pub fn line(text: impl Display) -> bool {
    let mut out = std::io::stdout().lock();
    let written = writeln!(out, "{text}").and_then(|()| out.flush());
    written.is_ok_or_broken_pipe()
}

/// Prints a line to stderr, as an error where that is the journal. Ignores failures.
pub fn error(text: impl Display) {
    let (text, mut stderr) = (format!("{text}\n").into_bytes(), std::io::stderr().lock());
    let _ = if is_journal(&stderr) { stderr.write_all(&with_priority(3, &text)) } else { stderr.write_all(&text) };
}

/// Returns a document as indented JSON.
pub fn json(document: &impl Serialize) -> String {
    // Our documents have only strings as keys, so this cannot fail.
    serde_json::to_string_pretty(document).unwrap_or_default()
}

/// Returns a document as JSON on one line.
pub fn compact_json(document: &impl Serialize) -> String {
    serde_json::to_string(document).unwrap_or_default()
}

/// Returns rows as columns with two spaces between them, a line for each row. Columns whose number is in `right` end at the same place.
pub fn columns<R: IntoIterator<Item = impl Display>>(rows: impl IntoIterator<Item = R>, right: &[usize]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    for row in rows {
        table.add_row(row.into_iter().map(|cell| cell.to_string()));
    }
    table.column_iter_mut().for_each(|column| {
        column.set_padding((0, 2));
    });
    for index in right {
        if let Some(column) = table.column_mut(*index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    if table.is_empty() { String::new() } else { format!("{}\n", table.trim_fmt()) }
}

/// Returns a text with two spaces before each line.
pub fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

trait IgnoreBrokenPipe {
    fn is_ok_or_broken_pipe(&self) -> bool;
}

impl IgnoreBrokenPipe for std::io::Result<()> {
    fn is_ok_or_broken_pipe(&self) -> bool {
        self.as_ref().err().is_none_or(|e| e.kind() == ErrorKind::BrokenPipe)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_longest_cell() {
        let rows = [["backend", "weight", "state"], ["täst", "7", "up"], ["a-long-name", "1000", ""]];
        assert_eq!(columns(rows, &[1]), "backend      weight  state\ntäst              7  up\na-long-name    1000\n");
        assert_eq!(columns([[""; 0]; 0], &[]), "");
        assert_eq!(indented("a\nb\n"), "  a\n  b\n");
    }
}

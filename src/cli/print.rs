//! Printing that survives a reader who has gone (`guideway status | head -1`).

use std::fmt::Display;
use std::io::{ErrorKind, Write};

/// Prints a line to stdout; `false` when it could not be written and somebody should know.
pub fn line(text: impl Display) -> bool {
    let mut out = std::io::stdout().lock();
    let written = writeln!(out, "{text}").and_then(|()| out.flush());
    written.is_ok_or_gone()
}

/// Prints a line to stderr. When that fails there is nobody left to tell.
pub fn error(text: impl Display) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

trait OkOrGone {
    fn is_ok_or_gone(&self) -> bool;
}

impl OkOrGone for std::io::Result<()> {
    fn is_ok_or_gone(&self) -> bool {
        self.as_ref().err().is_none_or(|e| e.kind() == ErrorKind::BrokenPipe)
    }
}

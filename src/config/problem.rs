//! One thing that is wrong with a file, or that it cannot promise: where, what, and what is allowed.

use serde::Serialize;
use std::fmt::{self, Display, Formatter};
use std::path::Path;

/// Whether a file can be used in spite of a [`Problem`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The file is refused.
    Error,
    /// The file is used, but does not do all that its author may expect.
    Warning,
}

/// One error or warning about a file.
///
/// Its `Display` is for a single file whose name is known; [`Problem::in_file`] puts the file in front.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Error or warning.
    pub severity: Severity,
    /// Line in the file, from 1; 0 when the problem is in no line (a change that needs a restart).
    pub line: usize,
    /// Column in characters, from 1; 0 with line 0.
    pub column: usize,
    /// The key by position, `pool[0].backends[2].tid_range`; empty for a syntax error.
    pub key: String,
    /// The key by name, for people: `pool.boot.backends.t2.tid_range`.
    pub place: String,
    /// What the file says there, as TOML; absent for lists, tables, missing and unknown keys, and never the fleet's key.
    pub value: Option<String>,
    /// What is wrong and what is allowed.
    pub message: String,
}

impl Problem {
    /// The problem as one line that starts with the file: `boot.toml:12: pool.boot.name = "a b": …`.
    pub fn in_file<'a>(&'a self, file: &'a Path) -> impl Display + 'a {
        InFile { file, problem: self }
    }
}

struct InFile<'a> {
    file: &'a Path,
    problem: &'a Problem,
}

impl Display for InFile<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if self.problem.line > 0 {
            write!(f, "{}:", self.problem.line)?;
        }
        f.write_str(" ")?;
        self.problem.say(f)
    }
}

impl Display for Problem {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "line {}: ", self.line)?;
        }
        self.say(f)
    }
}

impl Problem {
    fn say(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.severity == Severity::Warning {
            f.write_str("warning: ")?;
        }
        match (&self.place, &self.value) {
            (place, _) if place.is_empty() => {}
            (place, Some(value)) => write!(f, "{place} = {value}: ")?,
            (place, None) => write!(f, "{place}: ")?,
        }
        f.write_str(&self.message)
    }
}

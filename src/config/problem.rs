//! An error or warning about a file: where it is, what is wrong, and what is allowed.

use serde::Serialize;
use std::fmt::{self, Display, Formatter};
use std::path::Path;

/// Whether a file with a [`Problem`] can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The file is refused.
    Error,
    /// The file is used, but does not do everything that its author may expect.
    Warning,
}

/// One error or warning about a file.
///
/// Its `Display` omits the file name; [`Problem::in_file`] puts it in front.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Error or warning.
    pub severity: Severity,
    /// Line in the file, from 1; 0 when the problem has no line (a change that needs a restart).
    pub line: usize,
    /// Column in characters, from 1; 0 with line 0.
    pub column: usize,
    /// The key by position, `pool[0].backends[2].tid_range`; empty for a syntax error.
    pub key: String,
    /// The key by name, for operators: `pool.boot.backends.t2.tid_range`.
    pub path: String,
    /// The value in the file, as TOML; absent for lists, tables, missing and unknown keys, and always for the fleet's key.
    pub value: Option<String>,
    /// What is wrong and what is allowed.
    pub message: String,
}

impl Problem {
    /// Formats the problem as one line that starts with the file: `boot.toml:12: pool.boot.name = "a b": …`.
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
        self.problem.fmt_message(f)
    }
}

impl Display for Problem {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "line {}: ", self.line)?;
        }
        self.fmt_message(f)
    }
}

impl Problem {
    fn fmt_message(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.severity == Severity::Warning {
            f.write_str("warning: ")?;
        }
        match (&self.path, &self.value) {
            (path, _) if path.is_empty() => {}
            (path, Some(value)) => write!(f, "{path} = {value}: ")?,
            (path, None) => write!(f, "{path}: ")?,
        }
        f.write_str(&self.message)
    }
}

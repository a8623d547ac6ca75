//! The result of one check.

use std::fmt;

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The backend passes.
    Passed,
    /// The backend fails.
    Failed(Failure),
    /// The check could not be made for a reason on this host. It says nothing about the backend and does not count.
    NotRun(String),
}

/// How a backend failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// There was no answer.
    Timeout(String),
    /// It refused: a TFTP ERROR, a refused connection, an unexpected status.
    Refused(String),
    /// It answered with wrong content.
    WrongContent(String),
    /// It started to answer, and then stopped.
    Stalled(String),
    /// It answers from a port that is not its own: acknowledgements would reach another backend.
    WrongPort(String),
    /// Any other failure.
    Other(String),
}

impl Outcome {
    /// All names of [`Outcome::name`].
    pub const NAMES: [&str; 8] = ["passed", "timeout", "refused", "wrong_content", "stalled", "wrong_port", "other", "not_run"];

    /// Returns its name in status and metrics.
    pub fn name(&self) -> &'static str {
        Self::NAMES[self.index()]
    }

    /// Returns its index in [`Outcome::NAMES`].
    pub fn index(&self) -> usize {
        match self {
            Outcome::Passed => 0,
            Outcome::Failed(Failure::Timeout(_)) => 1,
            Outcome::Failed(Failure::Refused(_)) => 2,
            Outcome::Failed(Failure::WrongContent(_)) => 3,
            Outcome::Failed(Failure::Stalled(_)) => 4,
            Outcome::Failed(Failure::WrongPort(_)) => 5,
            Outcome::Failed(Failure::Other(_)) => 6,
            Outcome::NotRun(_) => 7,
        }
    }

    /// Returns whether the backend passed; `None` when the check could not be made.
    pub fn passed(&self) -> Option<bool> {
        match self {
            Outcome::Passed => Some(true),
            Outcome::Failed(_) => Some(false),
            Outcome::NotRun(_) => None,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Passed => f.write_str("passed"),
            Outcome::Failed(failure) => failure.fmt(f),
            Outcome::NotRun(why) => write!(f, "not checked: {why}"),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Timeout(why) => write!(f, "timeout: {why}"),
            Failure::Refused(why) => write!(f, "refused: {why}"),
            Failure::WrongContent(why) => write!(f, "wrong content: {why}"),
            Failure::Stalled(why) => write!(f, "stalled: {why}"),
            Failure::WrongPort(why) => write!(f, "wrong port: {why}"),
            Failure::Other(why) => f.write_str(why),
        }
    }
}

/// Formats bytes of a peer for operators: short, and without control characters.
pub(super) fn printable(bytes: &[u8]) -> String {
    const MAX_BYTES: usize = 120;
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_BYTES)]);
    let dots = if bytes.len() > MAX_BYTES { "…" } else { "" };
    text.trim_end().chars().map(|c| if c.is_control() { '·' } else { c }).chain(dots.chars()).collect()
}

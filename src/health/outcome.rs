//! What came of one check.

use std::fmt;

/// What came of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The backend does its work.
    Good,
    /// It does not.
    Failed(Failure),
    /// The check could not be made, for a reason on this host: it says nothing of the backend and counts for nothing.
    NotMade(String),
}

/// How a backend failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nothing came.
    Silent(String),
    /// It answered that it will not: a TFTP ERROR, a refused connection, another status than wanted.
    Refused(String),
    /// It answered with something else than it should.
    Content(String),
    /// It began, and fell silent.
    Stalled(String),
    /// Anything else.
    Other(String),
}

impl Outcome {
    /// Every word of [`Outcome::name`].
    pub const NAMES: [&str; 7] = ["good", "silent", "refused", "wrong_content", "stalled", "other", "not_made"];

    /// Its word in status and metrics.
    pub fn name(&self) -> &'static str {
        Self::NAMES[self.index()]
    }

    /// Its place in [`Outcome::NAMES`].
    pub fn index(&self) -> usize {
        match self {
            Outcome::Good => 0,
            Outcome::Failed(Failure::Silent(_)) => 1,
            Outcome::Failed(Failure::Refused(_)) => 2,
            Outcome::Failed(Failure::Content(_)) => 3,
            Outcome::Failed(Failure::Stalled(_)) => 4,
            Outcome::Failed(Failure::Other(_)) => 5,
            Outcome::NotMade(_) => 6,
        }
    }

    /// Whether the backend did its work; `None` when the check could not be made.
    pub fn good(&self) -> Option<bool> {
        match self {
            Outcome::Good => Some(true),
            Outcome::Failed(_) => Some(false),
            Outcome::NotMade(_) => None,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Good => f.write_str("good"),
            Outcome::Failed(failure) => failure.fmt(f),
            Outcome::NotMade(why) => write!(f, "not checked: {why}"),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Silent(why) => write!(f, "silent: {why}"),
            Failure::Refused(why) => write!(f, "refused: {why}"),
            Failure::Content(why) => write!(f, "wrong content: {why}"),
            Failure::Stalled(why) => write!(f, "stalled: {why}"),
            Failure::Other(why) => f.write_str(why),
        }
    }
}

/// Bytes of a peer for people: short, and nothing that moves a terminal's cursor.
pub(super) fn shown(bytes: &[u8]) -> String {
    const MOST: usize = 120;
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(MOST)]);
    let dots = if bytes.len() > MOST { "…" } else { "" };
    text.trim_end().chars().map(|c| if c.is_control() { '·' } else { c }).chain(dots.chars()).collect()
}

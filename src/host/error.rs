//! What can go wrong with the lab, in sentences for people.

use std::fmt::Display;

/// Why the lab did not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The flags contradict each other or ask for what a program cannot do. Exit code 2.
    #[error("{0}")]
    Usage(String),
    /// Something that the lab needs is not here.
    #[error("{what}: {mend}")]
    Missing {
        /// What is not here, or may not be used.
        what: String,
        /// What to do about it.
        mend: String,
    },
    /// A step failed.
    #[error("{doing}: {reason}")]
    Failed {
        /// What was being done.
        doing: String,
        /// What the kernel, a program or a file said.
        reason: String,
    },
}

impl Error {
    /// A step that failed for `reason`.
    pub fn failed(doing: impl Into<String>, reason: impl Display) -> Self {
        Error::Failed { doing: doing.into(), reason: reason.to_string() }
    }
}

/// Says what was being done when something failed.
pub trait Doing<T> {
    /// Turns any error into [`Error::Failed`].
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T, E: Display> Doing<T> for Result<T, E> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|e| Error::failed(what(), e))
    }
}

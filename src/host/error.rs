//! Errors of the lab and of host setup, as sentences for operators.

use std::fmt::Display;

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The flags contradict each other or require something that a program cannot do. Exit code 2.
    #[error("{0}")]
    Usage(String),
    /// A requirement is missing.
    #[error("{what}: {hint}")]
    Missing {
        /// The missing or forbidden thing.
        what: String,
        /// The remedy.
        hint: String,
    },
    /// A step failed.
    #[error("{context}: {reason}")]
    Failed {
        /// The failed step.
        context: String,
        /// The error of the kernel, a program or a file.
        reason: String,
    },
}

impl Error {
    /// Creates the error of a step that failed for `reason`.
    pub fn failed(context: impl Into<String>, reason: impl Display) -> Self {
        Error::Failed { context: context.into(), reason: reason.to_string() }
    }
}

/// Adds the failed step to an error.
pub trait Context<T> {
    /// Turns any error into [`Error::Failed`].
    fn with_context(self, what: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T, E: Display> Context<T> for Result<T, E> {
    fn with_context(self, what: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|e| Error::failed(what(), e))
    }
}

//! Errors of a store.

/// Why an intent was not committed, or health not published. Nothing has changed, except with [`CommitError::Unknown`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// Another writer was faster.
    #[error("the intent has changed meanwhile: its generation is {now}, not {base}; read it again and repeat the change")]
    Changed {
        /// The generation that the change was based on.
        base: u64,
        /// The generation of the current intent.
        now: u64,
    },
    /// The store cannot be written.
    #[error("{0}")]
    Unavailable(String),
    /// The change is too large for the store; the message names the limit.
    #[error("{0}")]
    TooLarge(String),
    /// Another health controller leads.
    #[error("this process does not lead, so it may not publish health")]
    NotLeading,
    /// The store did not answer a write: it may or may not have been executed.
    #[error("{0}; the result of the change is unknown: read the intent again")]
    Unknown(String),
}

/// Why a store could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ReadError(pub String);

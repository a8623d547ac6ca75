//! Errors at the start of a server.

use std::io;

/// A failed operation and its cause.
#[derive(Debug, thiserror::Error)]
#[error("{doing}: {source}")]
pub struct Error {
    /// The operation.
    pub doing: String,
    /// The kernel's error.
    pub source: io::Error,
}

impl Error {
    pub(super) fn new(doing: impl Into<String>, source: impl Into<io::Error>) -> Error {
        Error { doing: doing.into(), source: source.into() }
    }
}

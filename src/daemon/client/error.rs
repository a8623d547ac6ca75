//! Errors of a client.

use serde_json::Value;

/// Reasons for which a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens there.
    #[error("nobody answers at {endpoint}: {reason}; does it run, and may you reach it?")]
    Connect {
        /// The socket or URL.
        endpoint: String,
        /// What the kernel or TLS said.
        reason: std::io::Error,
    },
    /// The answer did not come in time, broke off, or was no HTTP.
    #[error("asking {endpoint} for {path}: {reason}")]
    InvalidResponse {
        /// The socket or URL.
        endpoint: String,
        /// What was asked for.
        path: String,
        /// What went wrong.
        reason: String,
    },
    /// The director refused.
    #[error("{endpoint} refuses {path} ({status}): {why}")]
    Refused {
        /// The socket or URL.
        endpoint: String,
        /// What was asked for.
        path: String,
        /// The HTTP status code.
        status: u16,
        /// Why, with every problem.
        why: String,
        /// The whole document; null if it was none.
        document: Box<Value>,
    },
    /// A file or a URL that is needed to ask cannot be used.
    #[error("{0}")]
    Config(String),
}

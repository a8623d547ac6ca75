//! How a request ends.

use super::counters::Counter;
use super::packet::ErrorCode;
use std::borrow::Cow;

/// Outcome of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The client acknowledged the last block. By HTTP: the kernel took the last byte, or the client has this version already.
    Done,
    /// All blocks were sent, and only the last acknowledgement is missing.
    Unconfirmed,
    /// The client ended it before any data: it only requested the size, or refused the options.
    Probed,
    /// The client ended it in the middle, with this code and text.
    Aborted(ErrorCode, String),
    /// The client never answered.
    HalfOpen,
    /// The client never answered, and its transfer was evicted for another one.
    Evicted,
    /// The client stopped answering.
    TimedOut,
    /// The client sent a new request from the same port.
    Restarted,
    /// The handler refused, or was too slow. Without a code, the client got no answer.
    Refused(Option<ErrorCode>, Cow<'static, str>),
    /// The content could not be read, with the reason.
    Failed(String),
    /// Another server continues it.
    HandedOver,
    /// The server was stopped.
    Stopped,
}

impl Outcome {
    /// Returns the name for logs and counters.
    pub fn name(&self) -> &'static str {
        match self {
            Outcome::Done => "done",
            Outcome::Unconfirmed => "unconfirmed",
            Outcome::Probed => "probed",
            Outcome::Aborted(..) => "aborted",
            Outcome::HalfOpen => "half_open",
            Outcome::Evicted => "evicted",
            Outcome::TimedOut => "timed_out",
            Outcome::Restarted => "restarted",
            Outcome::Refused(..) => "refused",
            Outcome::Failed(_) => "failed",
            Outcome::HandedOver => "handed_over",
            Outcome::Stopped => "stopped",
        }
    }

    /// Returns the counter of requests that end so.
    pub fn counter(&self) -> Counter {
        match self {
            Outcome::Done => Counter::Done,
            Outcome::Unconfirmed => Counter::Unconfirmed,
            Outcome::Probed => Counter::Probed,
            Outcome::Aborted(..) => Counter::Aborted,
            Outcome::HalfOpen => Counter::HalfOpen,
            Outcome::Evicted => Counter::Evicted,
            Outcome::TimedOut => Counter::TimedOut,
            Outcome::Restarted => Counter::Restarted,
            Outcome::Refused(..) => Counter::Refused,
            Outcome::Failed(_) => Counter::Failed,
            Outcome::HandedOver => Counter::HandedOver,
            Outcome::Stopped => Counter::Stopped,
        }
    }
}

//! Subject of a message until its peer acknowledges it.

use super::super::key::Key;
use crate::takeover::Id;

/// Subject of a message.
#[derive(Clone, Debug)]
pub enum SentMessage {
    /// A hello.
    Hello,
    /// A checkpoint of a transfer at this block.
    Checkpoint(Key, u64),
    /// A query with this nonce.
    Query(u64),
    /// The end of transfers.
    Ended(Box<[Id]>),
}

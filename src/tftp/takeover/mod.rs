//! Takeover: the protocol between servers. When a server dies during a transfer, another one continues it, and the client sees a pause.
//!
//! Before its first answer, the *owner* of a transfer sends a [`Checkpoint`] to its two successors (`guideway_hash::successors`), and again after
//! progress. A successor stores checkpoints in a bounded [`CheckpointStore`]. A server that gets a packet of an unknown transfer looks into its own
//! store, then sends a *query* to the servers that may know the transfer. So a restarted owner gets its state back and remains the owner, and no packet
//! is forwarded. This module has no I/O and no clock; the engine's `takeover` uses it.
//!
//! | File | Contents |
//! |---|---|
//! | `membership` | the servers of the pool, their ports, the peers of a transfer |
//! | `checkpoint` | the state of a transfer |
//! | `wire` | the signed datagrams |
//! | `codec` | Numbers and addresses in their bytes. |
//! | `replay` | replay protection without clocks |
//! | `link` | unacknowledged messages to a peer |
//! | `checkpoint_store` | the checkpoints of a successor |

pub mod checkpoint;
pub mod checkpoint_store;
pub mod codec;
pub mod link;
pub mod membership;
pub mod replay;
pub mod wire;

pub use checkpoint::{Checkpoint, Id};
pub use checkpoint_store::CheckpointStore;
pub use membership::{Member, Membership};

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Default UDP port for checkpoints.
pub const PORT: u16 = 6970;

/// Settings of takeover.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Listening address for checkpoints.
    pub listen: SocketAddr,
    /// Longest time for which a first answer waits until a successor confirms the checkpoint.
    pub checkpoint_timeout: Duration,
    /// Limits of the checkpoints stored for other servers.
    pub checkpoint_store: checkpoint_store::Limits,
    /// The pool; it may change while the server runs.
    pub membership: Arc<Membership>,
}

/// Default of [`Settings::checkpoint_timeout`]: several round trips within a building, and negligible for a client that waits a second.
pub const CHECKPOINT_TIMEOUT: Duration = Duration::from_millis(3);

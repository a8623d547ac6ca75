//! Takeover: what servers tell one another, so that when one dies in mid-transfer another goes on and the client sees a pause.
//!
//! Before its first answer the *owner* of a transfer sends a [`Note`] to its two heirs (`guideway_hash::heirs`), and again when much has changed. An heir keeps
//! notes in a bounded [`Memory`]. Whoever gets a packet of a transfer that it does not know *asks back*: its own memory first, then those who may know.
//! So an owner that was restarted gets its state back and remains the owner, and nothing has to be handed on. Nothing in this module does I/O or knows
//! the time; the engine's `takeover` uses it.
//!
//! | file | is |
//! |---|---|
//! | `plan` | who the servers of the pool are, which ports are whose, who is told and asked |
//! | `note` | what is known of a transfer |
//! | `wire` | the datagrams, signed |
//! | `fresh` | no note is taken twice, without clocks |
//! | `link` | what was said to a peer and not heard yet |
//! | `memory` | the notes that an heir keeps |

pub mod fresh;
pub mod link;
pub mod memory;
pub mod note;
pub mod plan;
pub mod wire;

pub use memory::Memory;
pub use note::{Id, Note};
pub use plan::{Member, Plan};

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Port that notes are sent to when none is said.
pub const PORT: u16 = 6970;

/// How a server takes part.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where notes come to.
    pub listen: SocketAddr,
    /// Longest time that a first answer waits for an heir to say that it has the note.
    pub wait: Duration,
    /// Bounds of what is kept for others.
    pub memory: memory::Limits,
    /// The pool; it may change while the server runs.
    pub plan: Arc<Plan>,
}

/// Longest wait for an heir by default: several times what an answer takes in one building, and nothing to a client that waits a second.
pub const WAIT: Duration = Duration::from_millis(3);

//! Changes of the intent that were made.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The last changes of the intent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct History {
    /// The changes, the newest first.
    pub changes: Vec<IntentChange>,
}

/// A change of the intent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IntentChange {
    /// The generation of the change.
    pub generation: u64,
    /// The generation of the intent before.
    pub base: u64,
    /// When it was made, in milliseconds since 1970-01-01 UTC.
    pub at: u64,
    /// The user, token or certificate.
    pub who: String,
    /// The way of the change, such as the peer of a connection.
    pub from: String,
    /// The reason that the operator gave.
    #[schema(required)]
    pub reason: Option<String>,
    /// What it changed: a line for each VIP, pool and backend that was added (`+`), removed (`-`) or changed (`~`).
    pub what: Vec<String>,
    /// Whether its intent is kept, for a rollback to it. An intent that is too large for the store is not.
    pub intent_kept: bool,
}

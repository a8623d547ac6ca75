//! The history that a cluster state belongs to.

use serde::{Deserialize, Serialize};

/// The history that a cluster state belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lineage {
    /// Random id that the first commit into an empty store chooses; empty for a store that was written before there were any.
    pub id: String,
    /// When an operator last decided that the contents of the store are right, in milliseconds since 1970-01-01 UTC; 0: never.
    pub accepted: u64,
}

impl Lineage {
    /// Creates a new history.
    pub(super) fn new() -> Lineage {
        Lineage { id: format!("{:016x}", fastrand::u64(..)), accepted: 0 }
    }

    /// Returns this lineage, or a new one if it has no id.
    pub(super) fn or_new(self) -> Lineage {
        if self.id.is_empty() { Lineage { accepted: self.accepted, ..Lineage::new() } } else { self }
    }

    /// Returns this lineage as an operator accepts it now, later than each of `others`.
    pub(super) fn accepted_now(self, others: &[u64]) -> Lineage {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let accepted = others.iter().fold(now, |latest, other| latest.max(other.saturating_add(1)));
        Lineage { accepted, ..self.or_new() }
    }
}

//! The history of the intent: who changed it, from where, when, why, what, and the intent that resulted.
//!
//! An entry is written together with its change. A store keeps the last [`MAX_ENTRIES`], fewer if intents are large.

use super::CommitError;
use guideway_config::Intent;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::time::{SystemTime, UNIX_EPOCH};

/// Maximum number of entries.
pub const MAX_ENTRIES: usize = 1000;
/// Maximum size of the entries together, in bytes, if all are as large as the newest.
const MAX_BYTES: usize = 32 << 20;
/// Number of entries that are kept however large they are.
const MIN_ENTRIES: usize = 20;
/// Maximum number of lines that say what a change changed.
const MAX_LINES: usize = 64;
/// Longest reason, in characters.
pub const MAX_REASON: usize = 500;

/// Who changes the intent, from where, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The user, token or certificate.
    pub who: String,
    /// The way of the change, such as the peer of a connection.
    pub from: String,
    /// The reason that the operator gave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A change of the intent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// The generation of the change. 0 in etcd: the revision of the key.
    pub generation: u64,
    /// The generation of the intent before.
    pub base: u64,
    /// Time of the change, in milliseconds since 1970-01-01 UTC.
    pub at: u64,
    /// Who, from where, and why.
    #[serde(flatten)]
    pub origin: Origin,
    /// What it changed, see [`Intent::differences`].
    pub changes: Vec<String>,
    /// The intent after the change, see [`Intent::to_json`]. Null: it was too large for the store.
    pub intent: Value,
}

impl HistoryEntry {
    /// Describes the change from `before`, if that is known, to `after`.
    pub(super) fn new(origin: &Origin, base: u64, before: Option<&Intent>, after: &Intent) -> HistoryEntry {
        let mut changes =
            before.map_or_else(|| vec!["in place of an intent that could not be used".to_owned()], |before| before.differences(after));
        if changes.len() > MAX_LINES {
            let more = changes.split_off(MAX_LINES).len();
            changes.push(format!("and {more} more"));
        }
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let at = u64::try_from(at.as_millis()).unwrap_or(u64::MAX);
        HistoryEntry { generation: 0, base, at, origin: origin.clone(), changes, intent: after.to_json() }
    }

    /// Returns the intent after the change.
    ///
    /// # Errors
    /// Returns a sentence that says why there is none.
    pub fn intent(&self) -> Result<Intent, String> {
        if self.intent.is_null() {
            return Err(format!("the intent of generation {} was too large for the history", self.generation));
        }
        let checked = Intent::from_json(&self.intent);
        let errors: Vec<String> = checked.errors().map(ToString::to_string).collect();
        checked.config.ok_or_else(|| format!("the intent of generation {} cannot be used any more: {}", self.generation, errors.join("; ")))
    }

    /// Returns how many entries of `bytes` bytes are kept.
    pub(super) fn kept(bytes: usize) -> usize {
        (MAX_BYTES / bytes.max(1)).clamp(MIN_ENTRIES, MAX_ENTRIES)
    }
}

/// Sorts entries, the newest first, and removes those of changes that never happened: their writer died before the change, and another
/// change has the same base.
pub(super) fn happened(mut entries: Vec<HistoryEntry>, intent_generation: u64) -> Vec<HistoryEntry> {
    entries.sort_by_key(|entry| std::cmp::Reverse(entry.generation));
    let mut newest = intent_generation;
    entries.retain(|entry| {
        let happened = entry.generation <= newest;
        if happened {
            newest = newest.min(entry.base);
        }
        happened
    });
    entries
}

/// Writes a change of the intent, or one that was refused, into the log.
pub(super) fn audit(entry: &HistoryEntry, outcome: &Result<u64, CommitError>) {
    let Origin { who, from, reason } = &entry.origin;
    let (reason, what) = (reason.as_deref().unwrap_or_default(), entry.changes.join("; "));
    match outcome {
        Ok(generation) => tracing::info!(target: "guideway::audit", %who, %from, %reason, generation, %what, "intent changed"),
        Err(error) => audit_refused(&entry.origin, &what, error),
    }
}

/// Writes a refused change into the log.
pub fn audit_refused(origin: &Origin, what: &str, why: &dyn std::fmt::Display) {
    let Origin { who, from, reason } = origin;
    let reason = reason.as_deref().unwrap_or_default();
    tracing::warn!(target: "guideway::audit", %who, %from, %reason, %what, error = %why, "change of the intent refused");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_whose_change_never_happened_is_left_out() {
        let entry = |generation, base| HistoryEntry { generation, base, ..HistoryEntry::default() };
        let numbers = |entries: Vec<HistoryEntry>| entries.iter().map(|entry| entry.generation).collect::<Vec<_>>();
        let all = vec![entry(1, 0), entry(5, 1), entry(6, 1), entry(8, 6), entry(9, 8)];
        assert_eq!(numbers(happened(all, 8)), [8, 6, 1], "5 has the base of 6, and 9 is newer than the intent");
        assert_eq!((HistoryEntry::kept(1), HistoryEntry::kept(MAX_BYTES / 50), HistoryEntry::kept(usize::MAX)), (1000, 50, 20));
    }
}

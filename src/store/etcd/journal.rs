//! The history in etcd: a key for each change of the intent, written in the transaction of the change.
//!
//! Key and value say when: the key holds the revision that the change was based on, so that keys sort in order, and the revision at which
//! etcd wrote it is the generation of the change.

use super::super::{CommitError, HistoryEntry, ReadError};
use super::Etcd;
use super::api::{Range, delete_range, keys, last, put};
use serde_json::Value;

/// Maximum number of entries that one change removes.
const MAX_REMOVED: usize = 64;

impl Etcd {
    /// Returns the operations that write an entry and remove the oldest ones.
    pub(super) async fn journal(&self, revision: u64, entry: &HistoryEntry) -> Result<Vec<Value>, CommitError> {
        let value = serde_json::to_vec(entry).unwrap_or_default();
        let (first, end) = self.keys.journal_range();
        let oldest = self.client.call::<Range>("kv/range", &keys(&first, &end, MAX_REMOVED + 1)).await;
        let oldest = oldest.map_err(|why| CommitError::Unavailable(why.to_string()))?;
        let count = usize::try_from(oldest.count).unwrap_or(usize::MAX);
        let excess = (count + 1).saturating_sub(HistoryEntry::kept(value.len()));
        let mut operations = vec![put(&self.keys.journal(revision), &value, 0)];
        // The first key that stays; with one entry too many, the second.
        if let Some(stays) = oldest.kvs.get(excess.min(MAX_REMOVED)).filter(|_| excess > 0) {
            operations.push(delete_range(&first, &stays.key));
        }
        Ok(operations)
    }

    pub(in super::super) async fn history(&self, limit: usize) -> Result<Vec<HistoryEntry>, ReadError> {
        let (first, end) = self.keys.journal_range();
        let found = self.client.call::<Range>("kv/range", &last(&first, &end, limit)).await.map_err(|why| ReadError(why.to_string()))?;
        let entries = found.kvs.iter().map(|kv| {
            let entry: HistoryEntry = serde_json::from_slice(&kv.value)
                .map_err(|why| ReadError(format!("the key {} is no change: {why}; delete the key", kv.key)))?;
            Ok(HistoryEntry { generation: kv.mod_revision, ..entry })
        });
        entries.collect()
    }
}

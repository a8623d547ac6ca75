//! Builds the cluster state from etcd's keys and values. The result depends on nothing else, so all directors get the same state from the
//! same keys.
//!
//! An intent counts only as a whole, as a commit wrote it. A commit checks everything and gives the change its generation. A key that was
//! written or deleted by hand is detected here: it is newer than `intent/generation`, or the number of pools differs from the recorded one.

use super::super::{ClusterState, Health, Lineage, PoolHealth};
use super::api::KeyValue;
use super::keys::{HEALTH, HEALTH_GENERATION, INTENT_GENERATION, POOL, VIPS};
use guideway_config::Intent;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The value of `intent/generation` and `health/generation`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct GenerationRecord {
    /// Unique id of the change: a writer whose connection broke recognises its own change by it.
    pub(super) id: String,
    /// Seconds since 1970-01-01 UTC.
    pub(super) at: u64,
    /// Number of pools in the intent.
    #[serde(default)]
    pub(super) pools: usize,
    /// The intent's `active_key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) active_key: Option<String>,
    /// The lineage of the intent; empty in health, and in an intent that was written before there were any.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) lineage: Lineage,
}

fn is_default(lineage: &Lineage) -> bool {
    *lineage == Lineage::default()
}

/// A value and the revision that wrote it.
#[derive(Debug)]
struct Entry {
    value: Vec<u8>,
    revision: u64,
}

/// The keys of the cluster state, by their part below the prefix.
#[derive(Debug, Default)]
pub(super) struct Keyspace {
    entries: BTreeMap<String, Entry>,
}

impl Keyspace {
    /// Records a written key; `short` is its part below the prefix.
    pub(super) fn put(&mut self, short: &str, kv: KeyValue) {
        self.entries.insert(short.to_owned(), Entry { value: kv.value, revision: kv.mod_revision });
    }

    /// Records a deleted key.
    pub(super) fn delete(&mut self, short: &str) {
        self.entries.remove(short);
    }

    /// Returns the revision of a key; 0 if it does not exist.
    pub(super) fn revision(&self, short: &str) -> u64 {
        self.entries.get(short).map_or(0, |entry| entry.revision)
    }

    /// Returns the value of a key, if it exists and is JSON.
    pub(super) fn value(&self, short: &str) -> Option<Value> {
        serde_json::from_slice(&self.entries.get(short)?.value).ok()
    }

    /// Returns the names of all pools of the intent.
    pub(super) fn pools(&self) -> impl Iterator<Item = &str> {
        self.under_prefix(POOL).map(|(name, _)| name)
    }

    fn under_prefix<'s>(&'s self, directory: &'s str) -> impl Iterator<Item = (&'s str, &'s Entry)> {
        let entries = self.entries.range(directory.to_owned()..);
        entries.map_while(move |(key, entry)| Some((key.strip_prefix(directory)?, entry)))
    }

    /// Returns the cluster state. Shares unchanged parts with `last` instead of parsing them again.
    ///
    /// # Errors
    /// Returns a sentence that names the invalid key.
    pub(super) fn cluster_state(&self, last: &ClusterState) -> Result<ClusterState, String> {
        let intent_generation = self.revision(INTENT_GENERATION);
        let health_generation = self.revision(HEALTH_GENERATION);
        self.check_complete(intent_generation)?;
        let intent = if intent_generation == last.intent_generation { last.intent.clone() } else { Arc::new(self.intent()?) };
        // Health that was written by hand is another cluster state and needs another generation; the leading controller soon overwrites it.
        let manual = self.under_prefix(HEALTH).map(|(_, entry)| entry.revision).max().unwrap_or(0);
        let generation = intent_generation.max(health_generation).max(manual);
        Ok(ClusterState { generation, intent_generation, lineage: self.lineage(), intent, health: self.health(&last.health)? })
    }

    /// Returns whether the intent is as its last commit wrote it.
    fn check_complete(&self, generation: u64) -> Result<(), String> {
        let manual = |key: &str| {
            format!(
                "the key {key} was written without `guideway`, which checks an intent as a whole and counts its changes; any commit repairs it, such as `guideway store import --replace`"
            )
        };
        if let Some((name, _)) = self.under_prefix(POOL).find(|(_, entry)| entry.revision > generation) {
            return Err(manual(&format!("{POOL}{name}")));
        }
        if self.revision(VIPS) > generation {
            return Err(manual(VIPS));
        }
        if generation == 0 {
            return Ok(());
        }
        let generation_record = self.generation_record(INTENT_GENERATION).ok_or_else(|| manual(INTENT_GENERATION))?;
        let pools = self.pools().count();
        if pools != generation_record.pools {
            return Err(format!("{} (there are {pools} pools; the last commit left {})", manual(POOL), generation_record.pools));
        }
        if !self.entries.contains_key(VIPS) {
            return Err(manual(VIPS));
        }
        Ok(())
    }

    /// Returns the lineage of the intent.
    pub(super) fn lineage(&self) -> Lineage {
        self.generation_record(INTENT_GENERATION).map(|generation_record| generation_record.lineage).unwrap_or_default()
    }

    /// Returns the names of all pools with health, valid or not.
    pub(super) fn pools_with_health(&self) -> impl Iterator<Item = &str> {
        self.under_prefix(HEALTH).map(|(name, _)| name)
    }

    fn generation_record(&self, key: &str) -> Option<GenerationRecord> {
        serde_json::from_slice(&self.entries.get(key)?.value).ok()
    }

    fn intent(&self) -> Result<Intent, String> {
        let read = |key: &str, entry: &Entry| -> Result<Value, String> {
            serde_json::from_slice(&entry.value).map_err(|why| format!("the key {key} is not JSON: {why}"))
        };
        let vips = self.entries.get(VIPS).map_or(Ok(json!([])), |entry| read(VIPS, entry))?;
        let mut pools = Vec::new();
        for (name, entry) in self.under_prefix(POOL) {
            let pool = read(&format!("{POOL}{name}"), entry)?;
            if pool.get("name").and_then(Value::as_str) != Some(name) {
                return Err(format!("the key {POOL}{name} holds a pool with another name"));
            }
            pools.push(pool);
        }
        let active_key = self.generation_record(INTENT_GENERATION).and_then(|generation_record| generation_record.active_key);
        let checked = Intent::from_json(&json!({"vip": vips, "pool": pools, "active_key": active_key}));
        let errors: Vec<String> = checked.errors().map(|error| format!("intent: {error}")).collect();
        checked.config.ok_or_else(|| errors.join("\n"))
    }

    fn health(&self, last: &Health) -> Result<Health, String> {
        let mut health = Health::new();
        for (name, entry) in self.under_prefix(HEALTH) {
            let read: PoolHealth = serde_json::from_slice(&entry.value)
                .map_err(|why| format!("the key {HEALTH}{name} is not the health of a pool: {why}; delete the key"))?;
            let same = last.get(name).filter(|previous| ***previous == read);
            health.insert(name.to_owned(), same.cloned().unwrap_or_else(|| Arc::new(read)));
        }
        Ok(health)
    }
}

/// Returns the keys below `intent/` that hold `intent`, without the generation.
pub(super) fn intent_entries(intent: &Intent) -> BTreeMap<String, Value> {
    let mut document = intent.to_json();
    let part = |document: &mut Value, key: &str| document.get_mut(key).map(Value::take).unwrap_or_default();
    let mut intent_entries = BTreeMap::from([(VIPS.to_owned(), part(&mut document, "vip"))]);
    if let Value::Array(pools) = part(&mut document, "pool") {
        let name = |pool: &Value| pool.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        intent_entries.extend(pools.into_iter().map(|pool| (format!("{POOL}{}", name(&pool)), pool)));
    }
    intent_entries
}

#[cfg(test)]
mod tests;

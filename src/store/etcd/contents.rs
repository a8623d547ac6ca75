//! From etcd's keys and values to the set: what this says depends on nothing but them, so all directors make the same of the same keys.
//!
//! An intent counts only as a whole, as a commit wrote it. So a key that somebody put or deleted by hand, past the commit that checks everything and
//! gives the change its generation, is found here: it is younger than `intent/generation`, or the number of pools is not the one that is noted there.

use super::super::{Health, PoolHealth, Set};
use super::api::KeyValue;
use super::keys::{HEALTH, HEALTH_GENERATION, INTENT_GENERATION, POOL, VIPS};
use guideway_config::Intent;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What `intent/generation` and `health/generation` hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    /// Unlike that of any other change: by it a writer whose connection broke recognises its own.
    pub(super) id: String,
    /// Seconds since 1970-01-01 UTC.
    pub(super) at: u64,
    /// How many pools the intent has.
    #[serde(default)]
    pub(super) pools: usize,
    /// The intent's `active_key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) active_key: Option<String>,
}

/// A value and the revision that wrote it.
#[derive(Debug)]
struct Entry {
    value: Vec<u8>,
    revision: u64,
}

/// The keys of the set, by their part below the prefix.
#[derive(Debug, Default)]
pub(super) struct Contents {
    entries: BTreeMap<String, Entry>,
}

impl Contents {
    /// A key was written; `short` is its part below the prefix.
    pub(super) fn put(&mut self, short: &str, kv: KeyValue) {
        self.entries.insert(short.to_owned(), Entry { value: kv.value, revision: kv.mod_revision });
    }

    /// A key was deleted.
    pub(super) fn delete(&mut self, short: &str) {
        self.entries.remove(short);
    }

    /// The revision of a key; 0 if it is not there.
    pub(super) fn revision(&self, short: &str) -> u64 {
        self.entries.get(short).map_or(0, |entry| entry.revision)
    }

    /// The value of a key, if it is there and JSON.
    pub(super) fn value(&self, short: &str) -> Option<Value> {
        serde_json::from_slice(&self.entries.get(short)?.value).ok()
    }

    /// The names of all pools of the intent.
    pub(super) fn pools(&self) -> impl Iterator<Item = &str> {
        self.below(POOL).map(|(name, _)| name)
    }

    fn below<'s>(&'s self, directory: &'s str) -> impl Iterator<Item = (&'s str, &'s Entry)> {
        let behind = self.entries.range(directory.to_owned()..);
        behind.map_while(move |(key, entry)| Some((key.strip_prefix(directory)?, entry)))
    }

    /// The set. What has not changed since `last` is shared with it and not read again.
    ///
    /// # Errors
    /// A sentence that names the key which cannot be used.
    pub(super) fn set(&self, last: &Set) -> Result<Set, String> {
        let intent_generation = self.revision(INTENT_GENERATION);
        let health_generation = self.revision(HEALTH_GENERATION);
        self.whole(intent_generation)?;
        let intent = if intent_generation == last.intent_generation { last.intent.clone() } else { Arc::new(self.intent()?) };
        // Health that somebody put by hand is another set, so it has another generation; the controller that leads soon writes over it.
        let by_hand = self.below(HEALTH).map(|(_, entry)| entry.revision).max().unwrap_or(0);
        let generation = intent_generation.max(health_generation).max(by_hand);
        Ok(Set { generation, intent_generation, intent, health: self.health(&last.health)? })
    }

    /// Whether the intent is as its last commit wrote it.
    fn whole(&self, generation: u64) -> Result<(), String> {
        let by_hand = |key: &str| {
            format!(
                "the key {key} was written past `guideway`, which checks an intent as a whole and counts its changes; any commit puts it right, such \
                 as `guideway store import --replace`"
            )
        };
        if let Some((name, _)) = self.below(POOL).find(|(_, entry)| entry.revision > generation) {
            return Err(by_hand(&format!("{POOL}{name}")));
        }
        if self.revision(VIPS) > generation {
            return Err(by_hand(VIPS));
        }
        if generation == 0 {
            return Ok(());
        }
        let mark = self.mark(INTENT_GENERATION).ok_or_else(|| by_hand(INTENT_GENERATION))?;
        let pools = self.pools().count();
        if pools != mark.pools {
            return Err(format!("{} (there are {pools} pools; the last commit left {})", by_hand(POOL), mark.pools));
        }
        if !self.entries.contains_key(VIPS) {
            return Err(by_hand(VIPS));
        }
        Ok(())
    }

    fn mark(&self, key: &str) -> Option<Mark> {
        serde_json::from_slice(&self.entries.get(key)?.value).ok()
    }

    fn intent(&self) -> Result<Intent, String> {
        let read = |key: &str, entry: &Entry| -> Result<Value, String> {
            serde_json::from_slice(&entry.value).map_err(|why| format!("the key {key} is not JSON: {why}"))
        };
        let vips = self.entries.get(VIPS).map_or(Ok(json!([])), |entry| read(VIPS, entry))?;
        let mut pools = Vec::new();
        for (name, entry) in self.below(POOL) {
            let pool = read(&format!("{POOL}{name}"), entry)?;
            if pool.get("name").and_then(Value::as_str) != Some(name) {
                return Err(format!("the key {POOL}{name} holds a pool of another name"));
            }
            pools.push(pool);
        }
        let active_key = self.mark(INTENT_GENERATION).and_then(|mark| mark.active_key);
        let checked = Intent::from_json(&json!({"vip": vips, "pool": pools, "active_key": active_key}));
        let errors: Vec<String> = checked.errors().map(|error| format!("intent: {error}")).collect();
        checked.config.ok_or_else(|| errors.join("\n"))
    }

    fn health(&self, last: &Health) -> Result<Health, String> {
        let mut health = Health::new();
        for (name, entry) in self.below(HEALTH) {
            let read: PoolHealth = serde_json::from_slice(&entry.value)
                .map_err(|why| format!("the key {HEALTH}{name} is no health of a pool: {why}; delete it"))?;
            let same = last.get(name).filter(|known| ***known == read);
            health.insert(name.to_owned(), same.cloned().unwrap_or_else(|| Arc::new(read)));
        }
        Ok(health)
    }
}

/// The keys below `intent/` that hold `intent`, without the generation.
pub(super) fn values(intent: &Intent) -> BTreeMap<String, Value> {
    let mut document = intent.to_json();
    let part = |document: &mut Value, key: &str| document.get_mut(key).map(Value::take).unwrap_or_default();
    let mut values = BTreeMap::from([(VIPS.to_owned(), part(&mut document, "vip"))]);
    if let Value::Array(pools) = part(&mut document, "pool") {
        let name = |pool: &Value| pool.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        values.extend(pools.into_iter().map(|pool| (format!("{POOL}{}", name(&pool)), pool)));
    }
    values
}

#[cfg(test)]
mod tests;

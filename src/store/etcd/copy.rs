//! The copy of the last good set on this host, with which a director starts when etcd is away.

use super::super::replace::replace;
use super::super::{Seen, Set};
use guideway_config::Intent;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// A copy is written at most so often.
const REST: Duration = Duration::from_secs(1);

/// Writes every good set, or the newest of those of a second, to `path`.
pub(super) async fn keep(path: PathBuf, mut seen: watch::Receiver<Seen>) {
    // Not by its generation alone: health that is deleted by hand has none.
    let mut written = Arc::<Set>::default();
    loop {
        let good = {
            let now = seen.borrow_and_update();
            (now.trouble.is_none() && now.set != written).then(|| now.set.clone())
        };
        if let Some(set) = good {
            written = set.clone();
            let path = path.clone();
            let write = move || replace(&path, &serde_json::to_vec(&to_json(&set)).unwrap_or_default());
            if let Ok(Err(why)) = tokio::task::spawn_blocking(write).await {
                tracing::warn!("the copy of the set (store.cache): {why}");
            }
            tokio::time::sleep(REST).await;
        }
        if seen.changed().await.is_err() {
            return;
        }
    }
}

/// The set of a copy.
///
/// # Errors
/// A sentence that names the file.
pub(super) fn read(path: &Path) -> Result<Set, String> {
    let wrong = |why: &dyn std::fmt::Display| format!("store.cache = {:?}: {why}", path.display());
    let bytes = std::fs::read(path).map_err(|why| wrong(&why))?;
    let document: Value = serde_json::from_slice(&bytes).map_err(|why| wrong(&why))?;
    from_json(&document).ok_or_else(|| wrong(&"is no copy of a set"))
}

fn to_json(set: &Set) -> Value {
    json!({
        "generation": set.generation,
        "intent_generation": set.intent_generation,
        "intent": set.intent.to_json(),
        "health": set.health,
    })
}

fn from_json(copy: &Value) -> Option<Set> {
    let number = |key: &str| copy.get(key).and_then(Value::as_u64);
    Some(Set {
        generation: number("generation")?,
        intent_generation: number("intent_generation")?,
        intent: Arc::new(Intent::from_json(copy.get("intent")?).config?),
        health: serde_json::from_value(copy.get("health")?.clone()).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::super::super::{Observation, Observed, PoolHealth};
    use super::*;

    #[test]
    fn a_set_survives_being_copied() {
        let text = "[[pool]]\nname = \"boot\"\nbackends = [{ name = \"t1\", address = \"10.0.2.21\", tid_range = \"20000-20999\" }]\n";
        let intent = guideway_config::read_intent(text).config.unwrap();
        let slow = Observed { state: Observation::Slow { percent: 20 }, since: 5, why: "came back".to_owned() };
        let pool = PoolHealth { backends: [("t1".to_owned(), slow)].into() };
        let set =
            Set { generation: 9, intent_generation: 7, intent: Arc::new(intent), health: [("boot".to_owned(), Arc::new(pool))].into() };
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("copy.json");
        assert!(read(&path).is_err_and(|why| why.contains("copy.json")));
        replace(&path, to_json(&set).to_string().as_bytes()).unwrap();
        assert_eq!(read(&path), Ok(set));
        replace(&path, b"{}").unwrap();
        assert!(read(&path).is_err_and(|why| why.contains("is no copy of a set")));
    }
}

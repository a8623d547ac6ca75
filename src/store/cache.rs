//! The cache: a copy of the last valid cluster state on this host. A director starts with it when the store is unavailable,
//! empty or older.

use super::atomic_write::atomic_write;
use super::{ClusterState, StoreView};
use guideway_config::Intent;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Minimum time between two writes.
const MIN_WRITE_INTERVAL: Duration = Duration::from_secs(1);

/// Writes every valid cluster state to `path`, at most one per second.
pub async fn write_cache(path: PathBuf, mut view: watch::Receiver<StoreView>) {
    // Compares more than the generation: health that is deleted by hand does not change it.
    let mut written = Arc::<ClusterState>::default();
    loop {
        let good = {
            let now = view.borrow_and_update();
            (now.stale.is_none() && now.cluster != written).then(|| now.cluster.clone())
        };
        if let Some(cluster) = good {
            written = cluster.clone();
            let path = path.clone();
            let write = move || atomic_write(&path, &serde_json::to_vec(&to_json(&cluster)).unwrap_or_default());
            if let Ok(Err(why)) = tokio::task::spawn_blocking(write).await {
                tracing::warn!(error = %why, "store.cache not written");
            }
            tokio::time::sleep(MIN_WRITE_INTERVAL).await;
        }
        if view.changed().await.is_err() {
            return;
        }
    }
}

/// Reads the cluster state of a cache.
///
/// # Errors
/// Returns a sentence that names the file.
pub fn read(path: &Path) -> Result<ClusterState, String> {
    let wrong = |why: &dyn std::fmt::Display| format!("store.cache = {:?}: {why}", path.display());
    let bytes = std::fs::read(path).map_err(|why| wrong(&why))?;
    let document: Value = serde_json::from_slice(&bytes).map_err(|why| wrong(&why))?;
    from_json(&document).ok_or_else(|| wrong(&"is not a copy of a cluster state"))
}

/// Returns the document of a cluster state.
pub fn to_json(cluster: &ClusterState) -> Value {
    json!({
        "generation": cluster.generation,
        "intent_generation": cluster.intent_generation,
        "lineage": cluster.lineage,
        "intent": cluster.intent.to_json(),
        "health": cluster.health,
    })
}

/// Reads the document of a cluster state.
pub fn from_json(cache: &Value) -> Option<ClusterState> {
    let number = |key: &str| cache.get(key).and_then(Value::as_u64);
    Some(ClusterState {
        generation: number("generation")?,
        intent_generation: number("intent_generation")?,
        // Absent in a copy of an older version.
        lineage: cache.get("lineage").map_or_else(|| Some(Default::default()), |lineage| serde_json::from_value(lineage.clone()).ok())?,
        intent: Arc::new(Intent::from_json(cache.get("intent")?).config?),
        health: serde_json::from_value(cache.get("health")?.clone()).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Lineage, Observation, Observed, PoolHealth};
    use super::*;

    #[test]
    fn a_cluster_state_survives_the_cache() {
        let text = "[[pool]]\nname = \"boot\"\nbackends = [{ name = \"t1\", address = \"10.0.2.21\", tid_range = \"20000-20999\" }]\n";
        let intent = guideway_config::read_intent(text).config.unwrap();
        let slow = Observed { state: Observation::Slow { percent: 20 }, since: 5, why: "came back".to_owned(), unknown: false };
        let pool = PoolHealth { backends: [("t1".to_owned(), slow)].into() };
        let cluster = ClusterState {
            generation: 9,
            intent_generation: 7,
            lineage: Lineage { id: "a".to_owned(), accepted: 3 },
            intent: Arc::new(intent),
            health: [("boot".to_owned(), Arc::new(pool))].into(),
        };
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("copy.json");
        assert!(read(&path).is_err_and(|why| why.contains("copy.json")));
        atomic_write(&path, to_json(&cluster).to_string().as_bytes()).unwrap();
        assert_eq!(read(&path), Ok(cluster));
        atomic_write(&path, b"{}").unwrap();
        assert!(read(&path).is_err_and(|why| why.contains("is not a copy of a cluster state")));
    }
}

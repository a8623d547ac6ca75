//! Opens the store of a section `[store]` and waits for its first cluster state.

use super::cache::write_cache;
use super::etcd::Etcd;
use super::file::File;
use super::known::Known;
use super::{Store, StoreView};
use guideway_config as config;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// Time that etcd has before the cache is used.
const CACHE_FALLBACK_DELAY: Duration = Duration::from_secs(2);
/// Interval of the log message of a waiting process.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Why a store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file that `[store]` names cannot be read, or its directory cannot be created.
    #[error("the store: {0}")]
    Io(#[from] io::Error),
    /// No valid cluster state was read in time.
    #[error("no cluster state could be read from the store within {waited:?}: {why}")]
    Timeout {
        /// The time limit.
        waited: Duration,
        /// The last reason.
        why: String,
    },
}

/// Opens the store and waits for a cluster state without a limit. When the store does not answer within 2 s, or holds an older state, uses the
/// copy in `cache`, and keeps it up to date. Logs the reason for the wait. Needs a tokio runtime, in which the store runs.
///
/// # Errors
/// Returns an error when a file that `[store]` names cannot be used.
pub async fn open(config: &config::Store) -> Result<Store, OpenError> {
    let store = start(config)?;
    let mut view = store.watch();
    if let Some(cache) = config.cache() {
        tokio::spawn(write_cache(cache.to_owned(), store.watch()));
    }
    while timeout(LOG_INTERVAL, first_state(&mut view)).await.is_err() {
        let why = view.borrow().stale.as_ref().map(|stale| stale.why.clone()).unwrap_or_default();
        tracing::warn!(reason = %why, "waiting for the first cluster state of the store");
    }
    Ok(store)
}

/// Opens the store and waits at most `wait_limit` for a cluster state: for commands.
///
/// # Errors
/// Also returns an error when there is no cluster state in time.
pub async fn open_timeout(config: &config::Store, wait_limit: Duration) -> Result<Store, OpenError> {
    let store = start(config)?;
    ready(&store, wait_limit).await?;
    Ok(store)
}

/// Waits for a cluster state.
///
/// # Errors
/// Returns an error when there is none within `wait_limit`.
pub async fn ready(store: &Store, wait_limit: Duration) -> Result<(), OpenError> {
    let mut view = store.watch();
    if timeout(wait_limit, first_state(&mut view)).await.is_err() {
        let why = view.borrow().stale.as_ref().map(|stale| stale.why.clone()).unwrap_or_default();
        return Err(OpenError::Timeout { waited: wait_limit, why });
    }
    Ok(())
}

/// A stale view with generation 0 contains no cluster state.
async fn first_state(view: &mut watch::Receiver<StoreView>) {
    if view.wait_for(|view| view.stale.is_none() || view.cluster.generation > 0).await.is_err() {
        std::future::pending().await
    }
}

/// Opens the store without waiting, for commands that show or repair it: they read the cache and do not write it. Needs a tokio runtime.
///
/// # Errors
/// Returns an error when a file that `[store]` names cannot be used.
pub fn start(config: &config::Store) -> Result<Store, OpenError> {
    let known = Known::load(config.cache());
    let state = known.state().clone();
    let (store, view) = match config {
        config::Store::File { path, .. } => {
            let file = File::start(path, known)?;
            let view = file.view().clone();
            (Store::File(Arc::new(file)), view)
        }
        config::Store::Etcd(etcd) => {
            let etcd = Etcd::start(etcd, known)?;
            let view = etcd.view().clone();
            (Store::Etcd(Arc::new(etcd)), view)
        }
    };
    if state.generation > 0 {
        tokio::spawn(async move {
            sleep(CACHE_FALLBACK_DELAY).await;
            Known::show(&state, &view);
        });
    }
    Ok(store)
}

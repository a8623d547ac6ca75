//! From the section `[store]` to a store from which a set was read.

use super::etcd::Etcd;
use super::file::File;
use super::{Seen, Store};
use guideway_config as config;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// How long etcd may take before a copy of its last set is used.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often somebody who waits is told for what.
const REMINDER: Duration = Duration::from_secs(10);

/// Why a store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file that `[store]` names cannot be read, or its directory cannot be made.
    #[error("the store: {0}")]
    Io(#[from] io::Error),
    /// Nothing good was read in time.
    #[error("no set could be read from the store within {waited:?}: {why}")]
    Nothing {
        /// So long was waited.
        waited: Duration,
        /// The last trouble.
        why: String,
    },
}

/// Opens the store and waits until there is a set, for as long as that takes: from the store, or, when etcd does not answer within 2 s, from the copy
/// that `cache` names. Says what it waits for. Needs a runtime of tokio, in which the store then lives.
///
/// # Errors
/// When a file that `[store]` names cannot be used.
pub async fn open(config: &config::Store) -> Result<Store, OpenError> {
    let store = start(config)?;
    let mut seen = store.watch();
    while timeout(REMINDER, there(&mut seen)).await.is_err() {
        let why = seen.borrow().trouble.as_ref().map(|trouble| trouble.why.clone()).unwrap_or_default();
        tracing::warn!("waiting for a first set from the store: {why}");
    }
    Ok(store)
}

/// The same, but without a set within `patience` it is given up: for commands.
///
/// # Errors
/// Also when there is no set in time.
pub async fn open_within(config: &config::Store, patience: Duration) -> Result<Store, OpenError> {
    let store = start(config)?;
    ready(&store, patience).await?;
    Ok(store)
}

/// Waits until there is a set.
///
/// # Errors
/// When there is none within `patience`.
pub async fn ready(store: &Store, patience: Duration) -> Result<(), OpenError> {
    let mut seen = store.watch();
    if timeout(patience, there(&mut seen)).await.is_err() {
        let why = seen.borrow().trouble.as_ref().map(|trouble| trouble.why.clone()).unwrap_or_default();
        return Err(OpenError::Nothing { waited: patience, why });
    }
    Ok(())
}

/// A set of generation 0 with trouble is none.
async fn there(seen: &mut watch::Receiver<Seen>) {
    if seen.wait_for(|seen| seen.trouble.is_none() || seen.set.generation > 0).await.is_err() {
        std::future::pending().await
    }
}

/// Opens the store and waits for nothing: for those who mend it. Needs a runtime of tokio.
///
/// # Errors
/// When a file that `[store]` names cannot be used.
pub fn start(config: &config::Store) -> Result<Store, OpenError> {
    match config {
        config::Store::File { path } => Ok(Store::File(Arc::new(File::start(path)?))),
        config::Store::Etcd(etcd) => {
            let store = Arc::new(Etcd::start(etcd)?);
            if let Some(cache) = etcd.cache.clone() {
                let waiting = Arc::downgrade(&store);
                tokio::spawn(async move {
                    sleep(PATIENCE).await;
                    if let Some(store) = waiting.upgrade() {
                        store.begin_with_copy(&cache);
                    }
                });
            }
            Ok(Store::Etcd(store))
        }
    }
}

//! The store in a directory, for the processes of one host: directors, a health controller, commands.
//!
//! | file | contents | written by |
//! |---|---|---|
//! | `intent.toml` | the intent: `[[vip]]` and `[[pool]]` as in a director's file | operators, with any editor; commits |
//! | `state.json` | the cluster state in force: its generations, the SHA-256 of its intent, health | every change, under the lock |
//! | `active.toml` | the intent in force: the last valid `intent.toml` | every change, under the lock |
//! | `intent.edited.toml` | the last edited `intent.toml` that a commit replaced | commits |
//! | `history/GENERATION.json` | a change: who, from where, when, why, what, and the intent after it | every change of the intent, before `state.json` |
//! | `lock` | locked (flock) while something is written | |
//! | `leader` | locked by the health controller that leads, with its name in it | |
//! | `directors/NAME.json` | presence record of a director; `NAME.lock` is locked while the director runs | directors |
//! | `suspicions/NAME.json` | backends that a director suspects, if there are any; `NAME.lock` as above | directors |
//!
//! A commit rewrites `intent.toml` without the comments of operators. Its first lines say so, and the file with the comments is kept beside
//! it. (To keep the comments, a commit would have to merge into a text and guess their new place, for example when a pool is renamed.)
//!
//! Readers take everything from `state.json` and `active.toml`, so all have the same cluster state with the same generation, also after a
//! restart. A process that sees an `intent.toml` other than the one in force checks it. If it is valid, the process puts it in force as one
//! change with one generation. If it is invalid, nothing changes, and every process reports why. The kernel reports changes (inotify) on
//! local disks only, not over NFS.

mod disk;
mod edits;
mod follow;
mod history;
mod leases;
#[cfg(test)]
mod tests;

use super::known::Known;
use super::{ClusterState, CommitError, HistoryEntry, Origin, PoolHealth, ReadError, StoreView};
use disk::Disk;
use follow::FollowHandle;
use guideway_config::Intent;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tokio::sync::watch;

/// See [`super::Store::File`].
#[derive(Debug)]
pub struct File {
    disk: Arc<Disk>,
    view: watch::Sender<StoreView>,
    /// Whether this process leads over health.
    leads: watch::Sender<bool>,
    /// See [`Known::campaigns`].
    campaigns: Arc<AtomicBool>,
    _follow_handle: FollowHandle,
}

impl File {
    /// Creates the directory if it is missing and starts to follow it; the view is stale until the first cluster state was read. `known` is what
    /// this host knows already.
    pub(super) fn start(directory: &Path, known: Known) -> io::Result<File> {
        let disk = Arc::new(Disk::open(directory)?);
        let campaigns = known.campaigns();
        let (view, follow_handle) = follow::start(disk.clone(), known)?;
        Ok(File { disk, view, leads: watch::Sender::new(false), campaigns, _follow_handle: follow_handle })
    }

    /// Returns where views are published.
    pub(super) fn view(&self) -> &watch::Sender<StoreView> {
        &self.view
    }

    pub(super) async fn restore(&self, copy: ClusterState, entry: HistoryEntry) -> Result<u64, CommitError> {
        self.on_disk(move |disk| disk.restore(&copy, entry).map_err(|why| CommitError::Unavailable(why.to_string()))).await
    }

    pub(super) async fn accept(&self, origin: Origin) -> Result<u64, CommitError> {
        let known = self.view.borrow().cluster.lineage.accepted;
        self.on_disk(move |disk| disk.accept(known, &origin).map_err(|why| CommitError::Unavailable(why.to_string()))).await
    }

    pub(super) fn watch(&self) -> watch::Receiver<StoreView> {
        self.view.subscribe()
    }

    pub(super) async fn commit(&self, base: u64, intent: Intent, entry: HistoryEntry) -> Result<u64, CommitError> {
        self.on_disk(move |disk| disk.commit(base, &intent, entry)).await
    }

    pub(super) fn history(&self, limit: usize) -> Result<Vec<HistoryEntry>, ReadError> {
        self.disk.history(limit).map_err(|why| ReadError(why.to_string()))
    }

    pub(super) fn intent_generation(&self) -> Result<u64, ReadError> {
        self.disk.intent_generation().map_err(|why| ReadError(why.to_string()))
    }

    pub(super) async fn publish(&self, pools: &[(String, PoolHealth)]) -> Result<u64, CommitError> {
        if !*self.leads.borrow() {
            return Err(CommitError::NotLeading);
        }
        let (pools, lineage) = (pools.to_vec(), self.view.borrow().cluster.lineage.clone());
        self.on_disk(move |disk| disk.publish(&pools, &lineage)).await
    }

    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Disk) -> Result<T, CommitError> + Send + 'static,
    ) -> Result<T, CommitError> {
        let disk = self.disk.clone();
        let done = tokio::task::spawn_blocking(move || work(&disk)).await;
        done.unwrap_or_else(|_| Err(CommitError::Unavailable("the process is ending".to_owned())))
    }
}

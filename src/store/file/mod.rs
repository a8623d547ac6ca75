//! The set in a directory, for the processes of one host: directors, a health controller, commands.
//!
//! | file | is | written by |
//! |---|---|---|
//! | `intent.toml` | what people want: `[[vip]]` and `[[pool]]` as in a director's file | people, with any editor; commits |
//! | `set.json` | the set in force: its generations, the SHA-256 of its intent, health | every change, under the lock |
//! | `in-force.toml` | the intent in force: the last `intent.toml` that was good | as before |
//! | `intent.by-hand.toml` | the last `intent.toml` of people that a commit replaced | commits |
//! | `lock` | locked (flock) while something is written | |
//! | `leader` | locked by the health controller that leads, with its name in it | |
//! | `directors/NAME.json` | what a director says of itself; `NAME.lock` is locked while it is there | directors |
//! | `suspicions/NAME.json` | which backends a director suspects, if it suspects some; `NAME.lock` as before | directors |
//!
//! A commit writes `intent.toml` anew, without the comments that people wrote there; its first lines say so, and the file with the comments stays
//! beside it. (To keep them a commit would have to merge into a text; what people lose by that is where their words went when a pool is renamed.)
//!
//! Readers take everything from `set.json` and `in-force.toml`, so all have the same set with the same generation, at once and after a restart. Whoever
//! sees an `intent.toml` that is not the one in force checks it, and if it is good, puts it in force, as one change with one generation. If it is bad,
//! nothing changes and everybody says why. The kernel tells of changes (inotify), which it does on the disks of this host only, not over NFS.

mod disk;
mod edit;
mod follow;
mod people;
#[cfg(test)]
mod tests;

use super::{CommitError, PoolHealth, ReadError, Seen};
use disk::Disk;
use follow::Following;
use guideway_config::Intent;
use std::io;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::watch;

/// See [`super::Store::File`].
#[derive(Debug)]
pub struct File {
    disk: Arc<Disk>,
    seen: watch::Sender<Seen>,
    /// Whether this process leads over health.
    leads: watch::Sender<bool>,
    _following: Following,
}

impl File {
    /// Makes the directory if it is not there and begins to follow it; until the first set was read there is trouble.
    pub(super) fn start(directory: &Path) -> io::Result<File> {
        let disk = Arc::new(Disk::open(directory)?);
        let (seen, following) = follow::start(disk.clone())?;
        Ok(File { disk, seen, leads: watch::Sender::new(false), _following: following })
    }

    pub(super) fn watch(&self) -> watch::Receiver<Seen> {
        self.seen.subscribe()
    }

    pub(super) async fn commit(&self, base: u64, intent: Intent) -> Result<u64, CommitError> {
        self.on_disk(move |disk| disk.commit(base, &intent)).await
    }

    pub(super) fn intent_generation(&self) -> Result<u64, ReadError> {
        self.disk.intent_generation().map_err(|why| ReadError(why.to_string()))
    }

    pub(super) async fn publish(&self, pools: &[(String, PoolHealth)]) -> Result<u64, CommitError> {
        if !*self.leads.borrow() {
            return Err(CommitError::NotLeading);
        }
        let pools = pools.to_vec();
        self.on_disk(move |disk| disk.publish(&pools)).await
    }

    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Disk) -> Result<T, CommitError> + Send + 'static,
    ) -> Result<T, CommitError> {
        let disk = self.disk.clone();
        let done = tokio::task::spawn_blocking(move || work(&disk)).await;
        done.unwrap_or_else(|_| Err(CommitError::Away("the process is about to end".to_owned())))
    }
}

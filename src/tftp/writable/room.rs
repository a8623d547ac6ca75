//! How much room there is in a directory that clients write to: files and bytes, those of files under way included.

use super::{Inner, Settings, TEMPORARY};
use crate::handler::Refusal;
use crate::packet::ErrorCode;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A full directory is counted anew no sooner than this: somebody may have removed files.
const AGAIN: Duration = Duration::from_secs(10);

/// What is used.
#[derive(Debug, Default)]
pub(super) struct Used {
    /// On disk: when it was counted, and what was kept since.
    files: usize,
    bytes: u64,
    /// Under way.
    pub(super) open: usize,
    coming: u64,
    /// Files that were ever kept, which a count must not overlap with.
    kept: u64,
    counted: Option<Instant>,
    counting: bool,
}

/// Whether another file may come.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Space {
    Free,
    /// It is being counted.
    Unsure,
    Full,
}

impl Used {
    fn has_room(&self, settings: &Settings) -> bool {
        self.files < settings.files && settings.total.is_none_or(|total| self.bytes < total)
    }
}

impl Inner {
    pub(super) fn used(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is room. When there seems to be none it is counted, now and then, by a thread, for the disk may take its time.
    pub(super) fn space(self: &Arc<Self>) -> Space {
        let mut used = self.used();
        if used.has_room(&self.settings) {
            return Space::Free;
        }
        if used.counting {
            return Space::Unsure;
        }
        if used.counted.is_some_and(|at| at.elapsed() < AGAIN) {
            return Space::Full;
        }
        (used.counting, used.counted) = (true, Some(Instant::now()));
        drop(used);
        let again = Arc::clone(self);
        let counting = std::thread::Builder::new().name("tftp count".to_owned()).spawn(move || {
            if let Err(error) = again.count() {
                tracing::warn!("the directory that clients write to cannot be counted: {error}");
            }
        });
        match counting {
            Ok(_) => Space::Unsure,
            Err(error) => {
                tracing::warn!("no thread for counting the directory that clients write to: {error}");
                self.used().counting = false;
                Space::Full
            }
        }
    }

    /// Counts what is there.
    ///
    /// # Errors
    /// When the directory cannot be read; what was known stays.
    pub(super) fn count(&self) -> io::Result<()> {
        let before = self.used().kept;
        let counted = walk(&self.root, self.settings.files);
        let mut used = self.used();
        (used.counting, used.counted) = (false, Some(Instant::now()));
        let (files, bytes) = counted?;
        // A file that came meanwhile is in it or not: what was known is better.
        if used.kept == before {
            (used.files, used.bytes) = (files, bytes);
        }
        if !used.has_room(&self.settings) {
            tracing::warn!(
                files = used.files,
                bytes = used.bytes,
                "the directory that clients write to is full: remove files, or raise writable_files or writable_total"
            );
        }
        Ok(())
    }
}

/// Files, and their bytes, in a directory and those below it; no more are looked at once there are too many.
fn walk(root: &OwnedFd, most: usize) -> io::Result<(usize, u64)> {
    let root = PathBuf::from(format!("/proc/self/fd/{}", root.as_raw_fd()));
    let (mut files, mut bytes) = (0, 0);
    let mut todo = vec![root.read_dir()?];
    while let Some(directory) = todo.pop() {
        // What vanishes meanwhile, or may not be read, is not counted.
        for entry in directory.flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                todo.extend(entry.path().read_dir());
            } else if !entry.file_name().as_bytes().starts_with(TEMPORARY.as_bytes()) {
                files += 1;
                bytes += entry.metadata().map_or(0, |metadata| metadata.len());
            }
            if files > most {
                return Ok((files, bytes));
            }
        }
    }
    Ok((files, bytes))
}

/// ERROR 3 for a directory without room.
pub(super) fn full() -> Refusal {
    Refusal::new(ErrorCode::DISK_FULL, "the directory is full")
}

/// The place of a file that is being written, and of its bytes.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) inner: Arc<Inner>,
    bytes: u64,
    kept: bool,
}

impl Turn {
    /// A place; nothing when all are taken, or may be when those under way are kept.
    pub(super) fn take(inner: &Arc<Inner>) -> Option<Turn> {
        let mut used = inner.used();
        if used.open >= inner.settings.concurrent || used.files.saturating_add(used.open) >= inner.settings.files {
            return None;
        }
        used.open += 1;
        drop(used);
        Some(Turn { inner: Arc::clone(inner), bytes: 0, kept: false })
    }

    /// Room for more bytes of it.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn grow(&mut self, bytes: u64) -> Result<(), Refusal> {
        let mut used = self.inner.used();
        let sum = used.bytes.saturating_add(used.coming).saturating_add(bytes);
        if self.inner.settings.total.is_some_and(|total| sum > total) {
            return Err(full());
        }
        used.coming += bytes;
        drop(used);
        self.bytes += bytes;
        Ok(())
    }

    /// It has its name.
    pub(super) fn keep(&mut self) {
        self.kept = true;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut used = self.inner.used();
        used.open -= 1;
        used.coming -= self.bytes;
        if self.kept {
            used.files += 1;
            used.bytes += self.bytes;
            used.kept += 1;
        }
    }
}

#[cfg(test)]
impl Used {
    /// The last count was long ago.
    pub(super) fn long_ago(&mut self) {
        self.counted = None;
    }
}

#[cfg(test)]
impl Inner {
    /// Files and bytes on disk.
    pub(super) fn used_now(&self) -> (usize, u64) {
        let used = self.used();
        (used.files, used.bytes)
    }
}

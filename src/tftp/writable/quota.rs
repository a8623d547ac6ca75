//! Quota of a directory that clients write to: files and bytes, running uploads included.

use crate::handler::Refusal;
use crate::packet::ErrorCode;
use crate::root::{OpenRoot, Root};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Shortest interval between two counts of a full directory, from which files may have been removed.
const RECOUNT_AFTER: Duration = Duration::from_secs(10);

/// Prefix of temporary names. Clients cannot write such a name, because it starts with a dot.
pub(super) const TEMPORARY: &str = ".guideway-upload-";

/// Limits of uploads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Largest file in bytes.
    pub limit: u64,
    /// Largest number of files in the directory and below it, including files that clients did not write.
    pub files: usize,
    /// Largest sum of their sizes in bytes; `None` if number and size of files are limit enough.
    pub total: Option<u64>,
    /// Largest number of uploads at once.
    pub concurrent: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { limit: 1 << 20, files: 10_000, total: None, concurrent: 64 }
    }
}

/// A directory, and how much of it is used.
#[derive(Debug)]
pub(super) struct Quota {
    root: Root,
    pub(super) settings: Settings,
    usage: Mutex<Usage>,
}

/// Files and bytes in use.
#[derive(Debug, Default)]
pub(super) struct Usage {
    /// Files on disk: those of the last count, and those stored since.
    files: usize,
    bytes: u64,
    /// Running uploads.
    pub(super) open: usize,
    reserved: u64,
    /// Number of files ever stored, and of those that are being given their names, to detect one that is stored during a count.
    kept: u64,
    storing: usize,
    counted: Option<Instant>,
    /// Device and inode of the directory that was counted.
    directory: (u64, u64),
    counting: bool,
}

/// Whether there is room for another file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Space {
    Free,
    /// The directory is being counted.
    Counting,
    Full,
}

impl Usage {
    fn is_below_limits(&self, settings: &Settings) -> bool {
        self.files < settings.files && settings.total.is_none_or(|total| self.bytes < total)
    }
}

impl Quota {
    /// Nothing is counted yet.
    pub(super) fn new(root: Root, settings: Settings) -> Quota {
        Quota { root, settings, usage: Mutex::default() }
    }

    pub(super) fn usage(&self) -> MutexGuard<'_, Usage> {
        self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the directory. One that has replaced another is counted first. May block.
    pub(super) fn directory(&self) -> Arc<OpenRoot> {
        let root = self.root.current();
        let known = self.usage().directory;
        if known != root.id()
            && let Err(error) = self.count()
        {
            tracing::warn!("cannot count the writable directory: {error}");
        }
        root
    }

    /// Returns whether there is room. A full directory is counted again at intervals, on a thread, because the disk may be slow.
    pub(super) fn space(self: &Arc<Self>) -> Space {
        let mut usage = self.usage();
        if usage.is_below_limits(&self.settings) {
            return Space::Free;
        }
        if usage.counting {
            return Space::Counting;
        }
        if usage.counted.is_some_and(|at| at.elapsed() < RECOUNT_AFTER) {
            return Space::Full;
        }
        (usage.counting, usage.counted) = (true, Some(Instant::now()));
        drop(usage);
        let again = Arc::clone(self);
        let counting = std::thread::Builder::new().name("tftp count".to_owned()).spawn(move || {
            if let Err(error) = again.count() {
                tracing::warn!("cannot count the writable directory: {error}");
            }
        });
        match counting {
            Ok(_) => Space::Counting,
            Err(error) => {
                tracing::warn!("cannot start a thread to count the writable directory: {error}");
                self.usage().counting = false;
                Space::Full
            }
        }
    }

    /// Counts files and bytes.
    ///
    /// # Errors
    /// When the directory cannot be read. The earlier count stays.
    pub(super) fn count(&self) -> io::Result<()> {
        let before = self.usage().kept;
        let root = self.root.current();
        let counted = walk(&root, self.settings.files);
        let mut usage = self.usage();
        (usage.counting, usage.counted) = (false, Some(Instant::now()));
        let (files, bytes) = counted?;
        // If a file was stored meanwhile, the count may or may not include it: keep the earlier one.
        if usage.kept == before && usage.storing == 0 {
            (usage.files, usage.bytes, usage.directory) = (files, bytes, root.id());
        }
        if !usage.is_below_limits(&self.settings) {
            tracing::warn!(
                files = usage.files,
                bytes = usage.bytes,
                "writable directory is full: remove files, or raise writable_files or writable_total"
            );
        }
        Ok(())
    }
}

/// Counts files and bytes in a directory and below it; stops when there are too many.
fn walk(root: &OpenRoot, most: usize) -> io::Result<(usize, u64)> {
    let root = PathBuf::from(format!("/proc/self/fd/{}", root.fd().as_raw_fd()));
    let (mut files, mut bytes) = (0, 0);
    let mut todo = vec![root.read_dir()?];
    while let Some(directory) = todo.pop() {
        // Entries that vanish meanwhile or cannot be read are not counted.
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

/// Returns ERROR 3 for a full directory.
pub(super) fn full() -> Refusal {
    Refusal::new(ErrorCode::DISK_FULL, "the directory is full")
}

/// Reserved room for a file that is being written, and its bytes.
#[derive(Debug)]
pub(super) struct UploadSlot {
    pub(super) quota: Arc<Quota>,
    bytes: u64,
    storing: bool,
    kept: bool,
}

impl UploadSlot {
    /// Reserves a slot; `None` when none is free, or may be free once running uploads are stored.
    pub(super) fn take(quota: &Arc<Quota>) -> Option<UploadSlot> {
        let mut usage = quota.usage();
        if usage.open >= quota.settings.concurrent || usage.files.saturating_add(usage.open) >= quota.settings.files {
            return None;
        }
        usage.open += 1;
        drop(usage);
        Some(UploadSlot { quota: Arc::clone(quota), bytes: 0, storing: false, kept: false })
    }

    /// Reserves more bytes for it.
    ///
    /// # Errors
    /// When there is no room.
    pub(super) fn grow(&mut self, bytes: u64) -> Result<(), Refusal> {
        let mut usage = self.quota.usage();
        let sum = usage.bytes.saturating_add(usage.reserved).saturating_add(bytes);
        if self.quota.settings.total.is_some_and(|total| sum > total) {
            return Err(full());
        }
        usage.reserved += bytes;
        drop(usage);
        self.bytes += bytes;
        Ok(())
    }

    /// Records that the file is about to get its name.
    pub(super) fn storing(&mut self) {
        self.quota.usage().storing += usize::from(!self.storing);
        self.storing = true;
    }

    /// Records that the file is stored.
    pub(super) fn persist(&mut self) {
        self.kept = true;
    }
}

impl Drop for UploadSlot {
    fn drop(&mut self) {
        let mut usage = self.quota.usage();
        usage.open -= 1;
        usage.reserved -= self.bytes;
        usage.storing -= usize::from(self.storing);
        if self.kept {
            usage.files += 1;
            usage.bytes += self.bytes;
            usage.kept += 1;
        }
    }
}

#[cfg(test)]
impl Usage {
    /// Makes the last count expire.
    pub(super) fn expire_count(&mut self) {
        self.counted = None;
    }
}

#[cfg(test)]
impl Quota {
    /// Returns files and bytes on disk.
    pub(super) fn usage_now(&self) -> (usize, u64) {
        let usage = self.usage();
        (usage.files, usage.bytes)
    }
}

//! Small files are read when they are opened: nothing that happens to the file later reaches a transfer, and blocks need no system call.

use guideway_sys::read_cached;
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Largest file that is read at once. Larger ones are mapped, or read in chunks.
const MAX_SIZE: u64 = 64 * 1024 - 1;
/// Bytes of all snapshots together.
const MAX_TOTAL: u64 = 64 << 20;
/// Longest step of a file system's clock. A file that was written within this time may be written again without another time.
const CLOCK_STEP: Duration = Duration::from_millis(20);
/// Reads of a file that changes meanwhile.
const ATTEMPTS: usize = 3;

static TOTAL: AtomicU64 = AtomicU64::new(0);

/// The bytes of a file.
#[derive(Debug)]
pub(super) struct Snapshot(Box<[u8]>);

/// How a file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Only bytes that the kernel has in memory.
    Cached,
    /// It may block.
    Blocking,
}

impl Snapshot {
    /// Reads a file that had these metadata. `None` if it is large, changes all the time, or there is no room.
    ///
    /// # Errors
    /// When it cannot be read; for [`Access::Cached`], `WouldBlock` when it is not in memory.
    pub fn read(file: &File, metadata: &Metadata, access: Access) -> io::Result<Option<Snapshot>> {
        let size = metadata.len();
        if size > MAX_SIZE {
            return Ok(None);
        }
        if TOTAL.fetch_add(size, Relaxed) + size > MAX_TOTAL {
            TOTAL.fetch_sub(size, Relaxed);
            return Ok(None);
        }
        // From here on its drop returns the room.
        let mut snapshot = Snapshot(vec![0; size as usize].into());
        for _ in 0..ATTEMPTS {
            if snapshot.fill(file, access)? && is_same(metadata, &file.metadata()?) {
                if !is_fresh(metadata) {
                    return Ok(Some(snapshot));
                }
                // A write within the same step of the clock does not show in the metadata.
                let first = snapshot.0.clone();
                if snapshot.fill(file, access)? && first == snapshot.0 && is_same(metadata, &file.metadata()?) {
                    return Ok(Some(snapshot));
                }
            }
        }
        Ok(None)
    }

    /// Returns the bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Reads the file. Returns whether it has the expected size.
    fn fill(&mut self, file: &File, access: Access) -> io::Result<bool> {
        let mut len = 0;
        while len < self.0.len() {
            let rest = &mut self.0[len..];
            let read = match access {
                Access::Cached => read_cached(file.as_fd(), rest, len as u64),
                Access::Blocking => file.read_at(rest, len as u64),
            };
            match read {
                Ok(0) => return Ok(false),
                Ok(more) => len += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Some file systems cannot tell what is in memory.
                Err(_) if access == Access::Cached => return Err(io::ErrorKind::WouldBlock.into()),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        TOTAL.fetch_sub(self.0.len() as u64, Relaxed);
    }
}

/// Returns whether the bytes are the same by these metadata.
fn is_same(one: &Metadata, other: &Metadata) -> bool {
    let of = |metadata: &Metadata| (metadata.len(), metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec());
    of(one) == of(other)
}

/// Returns whether the file was changed a moment ago.
fn is_fresh(metadata: &Metadata) -> bool {
    let nanoseconds = Duration::from_nanos(u64::try_from(metadata.ctime_nsec()).unwrap_or_default());
    let changed = Duration::from_secs(u64::try_from(metadata.ctime()).unwrap_or_default()) + nanoseconds;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(changed) < CLOCK_STEP
}

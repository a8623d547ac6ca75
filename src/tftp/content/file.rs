//! Files, and other content that is read on threads that may block.
//!
//! An event loop takes only bytes that the kernel has in memory (`RWF_NOWAIT`, populated pages of a mapping). All others are read in chunks on other
//! threads. So is everything of file systems that may wait for another host: opening, metadata and closing, too.

use super::changes::Watch;
use super::chunks::{BlockingRead, Chunked};
use super::digests::Digests;
use super::pages::Pages;
pub(crate) use super::snapshot::Access;
use super::snapshot::Snapshot;
use super::source::{Borrowed, Source, Version};
use guideway_sys::{FileState, file_state};
use nix::sys::statfs::fstatfs;
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};

/// Content that is read at any offset, on threads that may block.
pub trait ReadAt: Send + Sync + 'static {
    /// Returns the size in bytes, if known. It is binding.
    fn size(&self) -> Option<u64>;

    /// Returns a tag that changes with the bytes; without one, other servers cannot take over transfers of this content.
    fn version(&self) -> Option<Version> {
        None
    }

    /// Reads at `offset` and returns the number of bytes, 0 only at the end.
    ///
    /// # Errors
    /// An error ends the transfers that wait for these bytes.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
}

/// Magic numbers of file systems that never wait for another host (statfs(2)): ext, XFS, Btrfs, tmpfs, ramfs, F2FS, SquashFS, ISO 9660, EROFS, ZFS,
/// bcachefs, FAT, overlayfs.
const LOCAL_FILE_SYSTEMS: [i64; 13] = [
    0xef53,
    0x5846_5342,
    0x9123_683e,
    0x0102_1994,
    0x8584_58f6,
    0xf2f5_2010,
    0x7371_7368,
    0x9660,
    0xe0f5_e1e2,
    0x2fc1_2fc1,
    0xca45_1a4e,
    0x4d44,
    0x794c_7630,
];

/// Returns whether operations on a file never wait for another host. May block itself.
pub(crate) fn is_local(file: impl AsFd) -> bool {
    fstatfs(file).is_ok_and(|found| LOCAL_FILE_SYSTEMS.contains(&(found.filesystem_type().0 & 0xffff_ffff)))
}

/// Reads of an open file.
#[derive(Debug)]
pub(crate) struct FileReader {
    file: Chunked<OpenFile>,
    local: bool,
    /// Whether the file system can read without waiting.
    nowait: AtomicBool,
}

#[derive(Debug)]
struct OpenFile {
    file: File,
    /// On file systems that may wait: what must not change, checked after each read.
    digests: Option<Digests>,
    pages: Pages,
}

impl BlockingRead for OpenFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn check(&self, start: u64, bytes: &[u8]) -> io::Result<()> {
        match &self.digests {
            Some(digests) => digests.check(self, start, bytes, || file_state(self.file.as_fd()), changed),
            None => Ok(()),
        }
    }
}

impl FileReader {
    /// Reads `file`, which fails when it changes if there is a `state`. `local` files never wait for another host.
    pub fn new(file: File, local: bool, state: Option<FileState>) -> FileReader {
        let digests = state.filter(|_| !local).map(Digests::new);
        let file = Chunked::new(OpenFile { file, digests, pages: Pages::default() }, !local);
        FileReader { file, local, nowait: AtomicBool::new(local) }
    }

    /// Returns the file.
    pub fn file(&self) -> &File {
        &self.file.reader().file
    }

    /// As [`Source::poll_read_at`].
    pub fn poll_read_at(&self, context: &mut Context<'_>, offset: u64, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        if self.nowait.load(Relaxed) {
            match guideway_sys::read_cached(self.file().as_fd(), buffer, offset) {
                Ok(len) => return Poll::Ready(Ok(len)),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN | libc::EINTR) => {}
                    Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL) => self.nowait.store(false, Relaxed),
                    _ => return Poll::Ready(Err(error)),
                },
            }
        }
        self.file.poll_read_at(context, offset, buffer)
    }

    /// As [`Source::borrow_at`], for a file of `size` bytes.
    pub fn borrow_at(&self, size: u64, offset: u64, len: usize) -> Option<Borrowed<'_>> {
        if !self.local {
            return None;
        }
        let populate = |chunk| {
            let file = Arc::clone(self.file.shared());
            super::chunks::run_elsewhere(move || {
                let open = file.reader();
                open.pages.populate(&open.file, size, chunk);
            });
        };
        self.file.reader().pages.borrow_at(size, offset, len, populate)
    }
}

/// Metadata that changes when a file is written. It is the same for copies of a file with the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    seconds: i64,
    nanoseconds: i64,
    size: u64,
}

impl Stamp {
    /// Takes it from metadata.
    pub fn of(metadata: &Metadata) -> Stamp {
        Stamp { seconds: metadata.mtime(), nanoseconds: metadata.mtime_nsec(), size: metadata.len() }
    }
}

/// Metadata that changes when a file is written, whatever its writer sets afterwards: no program can set the time of the last change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct LocalStamp {
    stamp: Stamp,
    changed: (i64, i64),
}

impl LocalStamp {
    fn of(metadata: &Metadata) -> LocalStamp {
        LocalStamp { stamp: Stamp::of(metadata), changed: (metadata.ctime(), metadata.ctime_nsec()) }
    }

    /// Returns whether `now` may be the metadata of other bytes.
    fn allows_change(&self, now: &LocalStamp, watch: Option<&Watch>) -> bool {
        match watch {
            // A write within one step of the clock changes no time.
            Some(watch) if self == now => watch.was_modified(),
            Some(watch) => self.stamp.size != now.stamp.size || !watch.only_metadata_changed(),
            // The time of the last change says nothing alone: links that come and go change it, too.
            None => self.stamp != now.stamp,
        }
    }

    fn state(&self) -> FileState {
        let time = |seconds, nanoseconds: i64| (seconds, u32::try_from(nanoseconds).unwrap_or_default());
        let Stamp { seconds, nanoseconds, size } = self.stamp;
        FileState { size, modified: time(seconds, nanoseconds), changed: time(self.changed.0, self.changed.1) }
    }
}

fn changed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the file changed while it was read")
}

/// The content of a regular file. The kernel sends the bytes of large ones from the page cache.
#[derive(Debug)]
pub(crate) struct FileContent {
    reader: FileReader,
    stamp: LocalStamp,
    /// The bytes of small files.
    snapshot: Option<Snapshot>,
    /// Other files on local file systems.
    watch: Option<Watch>,
}

impl FileContent {
    /// Takes an open file. May block.
    pub fn new(file: File) -> io::Result<FileContent> {
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        let local = is_local(&file);
        FileContent::of(file, &metadata, local, Access::Blocking)
    }

    /// Takes an open file with its metadata.
    ///
    /// # Errors
    /// When its bytes are needed and cannot be read; with [`Access::Cached`], `WouldBlock` when they are not in memory.
    pub fn of(file: File, metadata: &Metadata, local: bool, access: Access) -> io::Result<FileContent> {
        let mut stamp = LocalStamp::of(metadata);
        let snapshot = Snapshot::read(&file, metadata, access)?;
        let watch = if local && snapshot.is_none() { Watch::new(&file) } else { None };
        if let Some(watch) = &watch {
            // What happened before it was watched is in the metadata.
            for _ in 0..3 {
                watch.reset();
                stamp = LocalStamp::of(&file.metadata()?);
                if !watch.was_modified() {
                    break;
                }
            }
        }
        Ok(FileContent { reader: FileReader::new(file, local, Some(stamp.state())), stamp, snapshot, watch })
    }

    /// Returns whether it has these metadata.
    pub fn is_unchanged(&self, metadata: &Metadata) -> bool {
        self.stamp == LocalStamp::of(metadata)
    }

    fn was_changed(&self) -> io::Result<bool> {
        let now = LocalStamp::of(&self.reader.file().metadata()?);
        Ok(self.stamp.allows_change(&now, self.watch.as_ref()))
    }
}

impl Source for FileContent {
    fn size(&self) -> Option<u64> {
        Some(self.stamp.stamp.size)
    }

    fn version(&self) -> Version {
        // Without the time of the last change, which differs between servers with copies of one file.
        let Stamp { seconds, nanoseconds, size } = self.stamp.stamp;
        Version::of(&[&seconds.to_be_bytes(), &nanoseconds.to_be_bytes(), &size.to_be_bytes()])
    }

    fn poll_read_at(&self, context: &mut Context<'_>, offset: u64, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        if let Some(snapshot) = &self.snapshot {
            let left = usize::try_from(offset).ok().and_then(|offset| snapshot.bytes().get(offset..)).unwrap_or_default();
            let len = left.len().min(buffer.len());
            buffer[..len].copy_from_slice(&left[..len]);
            return Poll::Ready(Ok(len));
        }
        let Poll::Ready(len) = self.reader.poll_read_at(context, offset, buffer)? else { return Poll::Pending };
        // Checked when the end is read: a client that got bytes of two versions must not get the last block.
        if offset + len as u64 >= self.stamp.stamp.size {
            self.check()?;
        }
        Poll::Ready(Ok(len))
    }

    fn check(&self) -> io::Result<()> {
        // Those of other file systems are checked as they are read.
        if self.snapshot.is_none() && self.reader.local && self.was_changed()? { Err(changed()) } else { Ok(()) }
    }

    fn borrow_at(&self, offset: u64, len: usize) -> Option<Borrowed<'_>> {
        if let Some(snapshot) = &self.snapshot {
            let offset = usize::try_from(offset).ok()?;
            return snapshot.bytes().get(offset..offset.checked_add(len)?).map(Borrowed::from);
        }
        self.reader.borrow_at(self.stamp.stamp.size, offset, len)
    }
}

/// Content of a [`ReadAt`].
pub(super) struct CustomReader {
    reader: Chunked<Box<dyn ReadAt>>,
    size: Option<u64>,
    version: Version,
}

impl BlockingRead for Box<dyn ReadAt> {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        (**self).read_at(offset, buffer)
    }
}

impl CustomReader {
    pub(super) fn new(reader: impl ReadAt) -> CustomReader {
        let (size, version) = (reader.size(), reader.version().unwrap_or(Version([0; 16])));
        CustomReader { reader: Chunked::new(Box::new(reader), true), size, version }
    }
}

impl Source for CustomReader {
    fn size(&self) -> Option<u64> {
        self.size
    }

    fn version(&self) -> Version {
        self.version
    }

    fn poll_read_at(&self, context: &mut Context<'_>, offset: u64, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        self.reader.poll_read_at(context, offset, buffer)
    }
}

#[cfg(test)]
#[cfg(feature = "handlers")]
mod tests;

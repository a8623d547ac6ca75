//! The handler that serves the regular files below a directory, and nothing else.
//!
//! The kernel enforces this: `openat2` with `RESOLVE_BENEATH` resolves the whole name in one step, so that no `..`, symbolic link or
//! concurrent rename leads out of the directory.

use super::content::{Borrowed, Content, Pages, Version};
use super::handler::{Handler, Opened, Opening, Refusal, Request};
use super::name::normalize;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};

/// How names are resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectoryOptions {
    /// Whether symbolic links below the root are followed.
    pub symlinks: bool,
    /// Whether a name that does not exist is also searched in any case of ASCII letters.
    pub ignore_case: bool,
}

impl Default for DirectoryOptions {
    fn default() -> Self {
        DirectoryOptions { symlinks: true, ignore_case: false }
    }
}

/// Serves the files below a directory.
#[derive(Clone, Debug)]
pub struct Directory(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    root: OwnedFd,
    options: DirectoryOptions,
    /// Open files by device and inode: clients that fetch the same file share one descriptor.
    open: Mutex<HashMap<(u64, u64), Weak<OpenFile>>>,
}

impl Directory {
    /// Serves the files below `root`.
    ///
    /// # Errors
    /// When it cannot be opened or is not a directory, or when the kernel is older than 5.6 and lacks `openat2`.
    pub fn new(root: impl Into<PathBuf>, options: DirectoryOptions) -> io::Result<Directory> {
        let root: PathBuf = root.into();
        let file = File::open(&root)?;
        if !file.metadata()?.is_dir() {
            return Err(io::Error::new(io::ErrorKind::NotADirectory, "not a directory"));
        }
        let inner = Inner { root: file.into(), options, open: Mutex::default() };
        match inner.openat(Path::new(".")) {
            Err(Errno::ENOSYS) => Err(io::Error::new(io::ErrorKind::Unsupported, "the kernel lacks openat2 (Linux 5.6)")),
            _ => Ok(Directory(Arc::new(inner))),
        }
    }
}

impl Handler for Directory {
    fn open(&self, request: &Request<'_>) -> Opening {
        let path = match path(request.file) {
            Ok(path) => path,
            Err(refusal) => return Opening::refuse(refusal),
        };
        match self.0.open(&path) {
            Err(refusal) if self.0.options.ignore_case && refusal == Refusal::not_found() => {
                // Reading directories may be slow.
                let inner = Arc::clone(&self.0);
                Opening::job(move || inner.folded(&path).map_or_else(|| Err(Refusal::not_found()), |path| inner.open(&path)))
            }
            opened => Opening::Now(opened),
        }
    }
}

/// Returns the path below the root for a client's name.
fn path(file: &[u8]) -> Result<PathBuf, Refusal> {
    Ok(OsString::from_vec(normalize(file)?).into())
}

impl Inner {
    fn openat(&self, path: &Path) -> nix::Result<OwnedFd> {
        let mut resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        if !self.options.symlinks {
            resolve |= ResolveFlag::RESOLVE_NO_SYMLINKS;
        }
        // Without O_NONBLOCK, opening a FIFO would wait for a writer.
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        openat2(self.root.as_fd(), path, OpenHow::new().flags(flags).resolve(resolve))
    }

    fn open(&self, path: &Path) -> Opened {
        let file = File::from(self.openat(path).map_err(refusal)?);
        let metadata = file.metadata().map_err(|_| Refusal::failed("the file cannot be read"))?;
        if !metadata.is_file() {
            return Err(Refusal::not_found());
        }
        Ok(self.shared(file, &metadata))
    }

    /// Returns the file as other transfers have it open, or this one.
    fn shared(&self, file: File, metadata: &Metadata) -> Arc<OpenFile> {
        let stamp = Stamp::of(metadata);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (metadata.dev(), metadata.ino());
        if let Some(known) = open.get(&key).and_then(Weak::upgrade)
            && known.stamp == stamp
        {
            return known;
        }
        let file = Arc::new(OpenFile { file, stamp, pages: Pages::default() });
        if open.len() == open.capacity() {
            open.retain(|_, file| file.strong_count() > 0);
        }
        open.insert(key, Arc::downgrade(&file));
        file
    }

    /// Returns the path on disk that differs only in the case of ASCII letters, if there is one.
    fn folded(&self, path: &Path) -> Option<PathBuf> {
        let mut found = PathBuf::new();
        for part in path.components() {
            let part = match part {
                std::path::Component::Normal(part) => part,
                std::path::Component::CurDir => continue,
                _ => return None,
            };
            let exact = found.join(part);
            if self.openat(&exact).is_ok() {
                found = exact;
                continue;
            }
            let directory = if found.as_os_str().is_empty() { Path::new(".") } else { &found };
            let mut entries = nix::dir::Dir::from_fd(self.openat(directory).ok()?).ok()?;
            let same = |name: &OsStr| name.as_bytes().eq_ignore_ascii_case(part.as_bytes());
            let entry =
                entries.iter().flatten().map(|e| OsStr::from_bytes(e.file_name().to_bytes()).to_owned()).filter(|n| same(n)).min()?;
            found.push(entry);
        }
        Some(found)
    }
}

fn refusal(errno: Errno) -> Refusal {
    match errno {
        // RESOLVE_BENEATH reports a name that leads out as EXDEV.
        Errno::EXDEV | Errno::EACCES | Errno::EPERM | Errno::ELOOP => Refusal::access(),
        Errno::ENOENT | Errno::ENOTDIR | Errno::ENAMETOOLONG | Errno::ENXIO | Errno::EINVAL => Refusal::not_found(),
        Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM => Refusal::failed("the server is busy"),
        _ => Refusal::failed("the file cannot be read"),
    }
}

/// Metadata that changes when a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    seconds: i64,
    nanoseconds: i64,
    size: u64,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Stamp {
        Stamp { seconds: metadata.mtime(), nanoseconds: metadata.mtime_nsec(), size: metadata.len() }
    }
}

/// An open file. The kernel sends its bytes from the page cache.
#[derive(Debug)]
struct OpenFile {
    file: File,
    stamp: Stamp,
    pages: Pages,
}

impl Content for OpenFile {
    fn size(&self) -> Option<u64> {
        Some(self.stamp.size)
    }

    fn version(&self) -> Version {
        Version::of(&[&self.stamp.seconds.to_be_bytes(), &self.stamp.nanoseconds.to_be_bytes(), &self.stamp.size.to_be_bytes()])
    }

    fn poll_read_at(&self, _: &mut Context<'_>, offset: u64, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let len = self.file.read_at(buffer, offset)?;
        // Checked when the end is read: a client that got bytes of two versions must not get the last block.
        if offset + len as u64 >= self.stamp.size && Stamp::of(&self.file.metadata()?) != self.stamp {
            return Poll::Ready(Err(io::Error::other("the file changed while it was read")));
        }
        Poll::Ready(Ok(len))
    }

    fn borrow_at(&self, offset: u64, len: usize) -> Option<Borrowed<'_>> {
        self.pages.borrow_at(&self.file, self.stamp.size, offset, len)
    }
}

#[cfg(test)]
mod tests;

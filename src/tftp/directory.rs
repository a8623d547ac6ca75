//! The handler that serves the regular files below a directory, and nothing else.
//!
//! The kernel enforces this: `openat2` with `RESOLVE_BENEATH` resolves the whole name in one step, so that no `..`, symbolic link or
//! concurrent rename leads out of the directory.
//!
//! A name that the kernel can resolve from memory (`RESOLVE_CACHED`), on a local file system, is opened at once. All others are opened on threads that
//! may block: one for all requests for a name at a time, and at most a few for each of two kinds of places, the root's own file system and those mounted
//! below it, so that a mount that hangs delays no other file.

use super::content::Content;
use super::content::file::{FileContent, is_local};
use super::handler::{Handler, Opened, Refusal};
use super::name::normalize;
use super::request::Request;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use tokio::sync::{Semaphore, watch};

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

/// Openings at once on the root's own file system, and on those mounted below it.
const MAX_OPENING: usize = 16;

/// Serves the files below a directory.
#[derive(Clone, Debug)]
pub struct Directory(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    root: OwnedFd,
    /// Whether the root's file system never waits for another host.
    local: bool,
    options: DirectoryOptions,
    /// Open files by device and inode: clients that fetch the same file share one descriptor.
    open: Mutex<HashMap<(u64, u64), Weak<FileContent>>>,
    /// Openings that run now, by path.
    opening: Mutex<HashMap<PathBuf, watch::Receiver<Option<Opened>>>>,
    own_places: Arc<Semaphore>,
    mounted_places: Arc<Semaphore>,
}

/// What an opening may do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// Only what needs no wait.
    Cached,
    /// The root's own file system.
    Own,
    /// Everything below the root.
    Mounted,
}

/// Why a file is not open.
enum NotOpen {
    /// It needs a further reach.
    Further,
    Refused(Refusal),
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
        let places = || Arc::new(Semaphore::new(MAX_OPENING));
        let inner = Inner {
            local: is_local(&file),
            root: file.into(),
            options,
            open: Mutex::default(),
            opening: Mutex::default(),
            own_places: places(),
            mounted_places: places(),
        };
        match inner.openat(Path::new("."), Reach::Mounted) {
            Err(Errno::ENOSYS) => Err(io::Error::new(io::ErrorKind::Unsupported, "the kernel lacks openat2 (Linux 5.6)")),
            _ => Ok(Directory(Arc::new(inner))),
        }
    }
}

impl Handler for Directory {
    async fn open(&self, request: Request) -> Opened {
        let path = path(request.file())?;
        let mut opening = {
            let mut running = lock(&self.0.opening);
            match running.get(&path) {
                Some(opening) => opening.clone(),
                None => {
                    let (sender, receiver) = watch::channel(None);
                    running.insert(path.clone(), receiver.clone());
                    // Further requests share it, so it goes on when this one is gone.
                    tokio::spawn(Arc::clone(&self.0).open_for_all(path, sender));
                    receiver
                }
            }
        };
        match opening.wait_for(Option::is_some).await {
            Ok(opened) => opened.clone().unwrap_or_else(|| Err(Refusal::silent())),
            // Its task panicked.
            Err(_) => Err(Refusal::failed("the file cannot be read")),
        }
    }

    fn open_now(&self, request: &Request) -> Option<Opened> {
        let path = match path(request.file()) {
            Ok(path) => path,
            Err(refusal) => return Some(Err(refusal)),
        };
        if !self.0.local {
            return None;
        }
        match self.0.open(&path, Reach::Cached) {
            Ok(content) => Some(Ok(content)),
            Err(NotOpen::Refused(refusal)) if !self.0.options.ignore_case || refusal != Refusal::not_found() => Some(Err(refusal)),
            Err(_) => None,
        }
    }
}

/// Returns the path below the root for a client's name.
fn path(file: &[u8]) -> Result<PathBuf, Refusal> {
    Ok(OsString::from_vec(normalize(file)?).into())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    /// Opens a file for all requests that wait for it.
    async fn open_for_all(self: Arc<Inner>, path: PathBuf, sender: watch::Sender<Option<Opened>>) {
        /// However it ends, later requests open the file anew.
        struct Entry(Arc<Inner>, PathBuf);
        impl Drop for Entry {
            fn drop(&mut self) {
                lock(&self.0.opening).remove(&self.1);
            }
        }
        let entry = Entry(Arc::clone(&self), path);
        let mut opened = Err(NotOpen::Further);
        for (reach, places) in [(Reach::Own, &self.own_places), (Reach::Mounted, &self.mounted_places)] {
            if !matches!(opened, Err(NotOpen::Further)) {
                break;
            }
            let Ok(place) = Arc::clone(places).acquire_owned().await else { return };
            let (inner, path) = (Arc::clone(&self), entry.1.clone());
            let open = tokio::task::spawn_blocking(move || {
                let _held = place;
                inner.open_in_any_case(&path, reach)
            });
            let Ok(done) = open.await else { return };
            opened = done;
        }
        drop(entry);
        let refused = |why| if let NotOpen::Refused(refusal) = why { refusal } else { Refusal::access() };
        // Without a receiver, no client waits any more.
        let _sent = sender.send(Some(opened.map_err(refused)));
    }

    fn openat(&self, path: &Path, reach: Reach) -> nix::Result<OwnedFd> {
        let mut resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        if !self.options.symlinks {
            resolve |= ResolveFlag::RESOLVE_NO_SYMLINKS;
        }
        if reach != Reach::Mounted {
            resolve |= ResolveFlag::RESOLVE_NO_XDEV;
        }
        if reach == Reach::Cached {
            resolve |= ResolveFlag::from_bits_retain(RESOLVE_CACHED);
        }
        // Without O_NONBLOCK, opening a FIFO would wait for a writer.
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        openat2(self.root.as_fd(), path, OpenHow::new().flags(flags).resolve(resolve))
    }

    fn open_in_any_case(&self, path: &Path, reach: Reach) -> Result<Content, NotOpen> {
        match self.open(path, reach) {
            Err(NotOpen::Refused(refusal)) if self.options.ignore_case && refusal == Refusal::not_found() => {
                if reach == Reach::Own {
                    return Err(NotOpen::Further);
                }
                self.folded(path).map_or(Err(NotOpen::Refused(refusal)), |path| self.open(&path, Reach::Mounted))
            }
            opened => opened,
        }
    }

    fn open(&self, path: &Path, reach: Reach) -> Result<Content, NotOpen> {
        let file = File::from(self.openat(path, reach).map_err(|errno| match (errno, reach) {
            // Not in memory; on another file system, or out of the root; a kernel without RESOLVE_CACHED.
            (Errno::EAGAIN | Errno::EXDEV | Errno::EINVAL, Reach::Cached) | (Errno::EXDEV, Reach::Own) => NotOpen::Further,
            (errno, _) => NotOpen::Refused(refusal(errno)),
        })?);
        let metadata = file.metadata().map_err(|_| NotOpen::Refused(Refusal::failed("the file cannot be read")))?;
        if !metadata.is_file() {
            return Err(NotOpen::Refused(Refusal::not_found()));
        }
        let local = if reach == Reach::Mounted { is_local(&file) } else { self.local };
        let mut open = lock(&self.open);
        let key = (metadata.dev(), metadata.ino());
        if let Some(known) = open.get(&key).and_then(Weak::upgrade)
            && known.is_unchanged(&metadata)
        {
            return Ok(Content(known));
        }
        let file = Arc::new(FileContent::of(file, &metadata, local));
        if open.len() == open.capacity() {
            open.retain(|_, file| file.strong_count() > 0);
        }
        open.insert(key, Arc::downgrade(&file));
        Ok(Content(file))
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
            if self.openat(&exact, Reach::Mounted).is_ok() {
                found = exact;
                continue;
            }
            let directory = if found.as_os_str().is_empty() { Path::new(".") } else { &found };
            let mut entries = nix::dir::Dir::from_fd(self.openat(directory, Reach::Mounted).ok()?).ok()?;
            let same = |name: &OsStr| name.as_bytes().eq_ignore_ascii_case(part.as_bytes());
            let entry =
                entries.iter().flatten().map(|e| OsStr::from_bytes(e.file_name().to_bytes()).to_owned()).filter(|n| same(n)).min()?;
            found.push(entry);
        }
        Some(found)
    }
}

/// `RESOLVE_CACHED` of openat2(2): fail with EAGAIN unless the whole name is in the kernel's cache.
const RESOLVE_CACHED: u64 = 0x20;

fn refusal(errno: Errno) -> Refusal {
    match errno {
        // RESOLVE_BENEATH reports a name that leads out as EXDEV.
        Errno::EXDEV | Errno::EACCES | Errno::EPERM | Errno::ELOOP => Refusal::access(),
        Errno::ENOENT | Errno::ENOTDIR | Errno::ENAMETOOLONG | Errno::ENXIO | Errno::EINVAL => Refusal::not_found(),
        Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::EAGAIN => Refusal::overloaded(),
        _ => Refusal::failed("the file cannot be read"),
    }
}

#[cfg(test)]
#[cfg(feature = "handlers")]
mod tests;

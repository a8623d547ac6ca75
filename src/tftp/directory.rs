//! The handler that serves the regular files below a directory, and nothing else.
//!
//! Symbolic links are followed as long as they stay below the directory. Absolute ones may name their target as the host sees it, or as it looks after
//! chroot(2) to the directory.
//!
//! In a process of root only files are served that everybody may read by their own mode (`o+r`); the modes of their directories do not count.
//!
//! A name that the kernel can resolve from memory (`RESOLVE_CACHED`), on a local file system, is opened at once. All others are opened on threads that
//! may block: one for all requests for a name at a time, and at most a few for each of two kinds of places, the root's own file system and those mounted
//! below it, so that a mount that hangs delays no other file.

use super::content::Content;
use super::content::file::{Access, FileContent, is_local};
use super::handler::{Handler, Opened, Refusal};
use super::name::normalize;
use super::request::Request;
use super::root::{OpenRoot, Reach, Root};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::geteuid;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
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
/// Openings that run or wait, by name. Beyond it requests are overload, and are not answered.
const MAX_WAITING: usize = 4096;

/// Serves the files below a directory.
#[derive(Clone, Debug)]
pub struct Directory(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    root: Root,
    options: DirectoryOptions,
    /// Open files by device and inode: clients that fetch the same file share one descriptor.
    open: Mutex<HashMap<(u64, u64), Weak<FileContent>>>,
    /// Openings that run now, by path.
    opening: Mutex<HashMap<PathBuf, watch::Receiver<Option<Opened>>>>,
    own_places: Arc<Semaphore>,
    mounted_places: Arc<Semaphore>,
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
    /// When it cannot be opened or is not a directory.
    pub fn new(root: impl Into<PathBuf>, options: DirectoryOptions) -> io::Result<Directory> {
        let root: PathBuf = root.into();
        let places = || Arc::new(Semaphore::new(MAX_OPENING));
        Ok(Directory(Arc::new(Inner {
            root: Root::open(&root)?,
            options,
            open: Mutex::default(),
            opening: Mutex::default(),
            own_places: places(),
            mounted_places: places(),
        })))
    }
}

impl Handler for Directory {
    async fn open(&self, request: Request) -> Opened {
        let path = path(request.file())?;
        let mut opening = {
            let mut running = lock(&self.0.opening);
            match running.get(&path) {
                Some(opening) => opening.clone(),
                None if running.len() >= MAX_WAITING => return Err(Refusal::overloaded()),
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
        let root = self.0.root.current_now().filter(|root| root.local)?;
        match self.0.open(&root, &path, Reach::Cached) {
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
        struct Entry(Arc<Inner>, Option<PathBuf>);
        impl Drop for Entry {
            fn drop(&mut self) {
                if let Some(path) = self.1.take() {
                    lock(&self.0.opening).remove(&path);
                }
            }
        }
        let mut entry = Entry(Arc::clone(&self), Some(path.clone()));
        let mut opened = Err(NotOpen::Further);
        for (reach, places) in [(Reach::Own, &self.own_places), (Reach::Mounted, &self.mounted_places)] {
            if !matches!(opened, Err(NotOpen::Further)) {
                break;
            }
            let Ok(place) = Arc::clone(places).acquire_owned().await else { return };
            {
                // The clients may have gone meanwhile; one receiver is the entry's own.
                let mut running = lock(&self.opening);
                if sender.receiver_count() <= 1 {
                    running.remove(&path);
                    entry.1 = None;
                    return;
                }
            }
            let (inner, path) = (Arc::clone(&self), path.clone());
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

    fn openat(&self, root: &OpenRoot, path: &Path, reach: Reach) -> nix::Result<OwnedFd> {
        // Without O_NONBLOCK, opening a FIFO would wait for a writer.
        root.open(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY, reach, self.options.symlinks)
    }

    fn open_in_any_case(&self, path: &Path, reach: Reach) -> Result<Content, NotOpen> {
        let root = self.root.current();
        match self.open(&root, path, reach) {
            Err(NotOpen::Refused(refusal)) if self.options.ignore_case && refusal == Refusal::not_found() => {
                self.folded(&root, path, reach)?.map_or(Err(NotOpen::Refused(refusal)), |path| self.open(&root, &path, reach))
            }
            opened => opened,
        }
    }

    fn open(&self, root: &OpenRoot, path: &Path, reach: Reach) -> Result<Content, NotOpen> {
        let file = File::from(self.openat(root, path, reach).map_err(|errno| match (errno, reach) {
            // Not in memory; on another file system, or out of the root; a kernel without RESOLVE_CACHED.
            (Errno::EAGAIN | Errno::EXDEV | Errno::EINVAL, Reach::Cached) | (Errno::EXDEV, Reach::Own) => NotOpen::Further,
            (errno, _) => NotOpen::Refused(refusal(errno)),
        })?);
        let metadata = file.metadata().map_err(|_| NotOpen::Refused(Refusal::failed("the file cannot be read")))?;
        if !metadata.is_file() {
            return Err(NotOpen::Refused(Refusal::not_found()));
        }
        if metadata.mode() & READABLE_BY_OTHERS == 0 && geteuid().is_root() {
            let file = path.display();
            tracing::warn!(%file, "not served by a process of root, because not everybody may read it: chmod o+r, or set `user`");
            return Err(NotOpen::Refused(Refusal::access()));
        }
        let local = if reach == Reach::Mounted { is_local(&file) } else { root.local };
        let key = (metadata.dev(), metadata.ino());
        let known = lock(&self.open).get(&key).and_then(Weak::upgrade);
        if let Some(known) = known.filter(|known| known.is_unchanged(&metadata)) {
            return Ok(Content(known));
        }
        let access = if reach == Reach::Cached { Access::Cached } else { Access::Blocking };
        // Without the lock: an event loop waits for it, and this may wait for another host.
        let file = FileContent::of(file, &metadata, local, access).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock if reach == Reach::Cached => NotOpen::Further,
            _ => NotOpen::Refused(Refusal::failed("the file cannot be read")),
        })?;
        let mut open = lock(&self.open);
        if let Some(known) = open.get(&key).and_then(Weak::upgrade).filter(|known| known.is_unchanged(&metadata)) {
            return Ok(Content(known));
        }
        let file = Arc::new(file);
        if open.len() == open.capacity() {
            open.retain(|_, file| file.strong_count() > 0);
        }
        open.insert(key, Arc::downgrade(&file));
        Ok(Content(file))
    }

    /// Returns the path on disk that differs only in the case of ASCII letters, if there is one within reach.
    fn folded(&self, root: &OpenRoot, path: &Path, reach: Reach) -> Result<Option<PathBuf>, NotOpen> {
        let openat = |path: &Path| match self.openat(root, path, reach) {
            Err(Errno::EXDEV) if reach == Reach::Own => Err(NotOpen::Further),
            opened => Ok(opened.ok()),
        };
        let mut found = PathBuf::new();
        for part in path.components() {
            let part = match part {
                std::path::Component::Normal(part) => part,
                std::path::Component::CurDir => continue,
                _ => return Ok(None),
            };
            let exact = found.join(part);
            if openat(&exact)?.is_some() {
                found = exact;
                continue;
            }
            let directory = if found.as_os_str().is_empty() { Path::new(".") } else { &found };
            let Some(mut entries) = openat(directory)?.and_then(|directory| nix::dir::Dir::from_fd(directory).ok()) else {
                return Ok(None);
            };
            let same = |name: &OsStr| name.as_bytes().eq_ignore_ascii_case(part.as_bytes());
            let names = entries.iter().flatten().map(|entry| OsStr::from_bytes(entry.file_name().to_bytes()).to_owned());
            let Some(name) = names.filter(|name| same(name)).min() else { return Ok(None) };
            found.push(name);
        }
        Ok(Some(found))
    }
}

/// The bit of a file's mode with which every user may read it.
const READABLE_BY_OTHERS: u32 = 0o004;

fn refusal(errno: Errno) -> Refusal {
    match errno {
        // A name that leads out is EXDEV.
        Errno::EXDEV | Errno::EACCES | Errno::EPERM | Errno::ELOOP => Refusal::access(),
        Errno::ENOENT | Errno::ENOTDIR | Errno::ENAMETOOLONG | Errno::ENXIO | Errno::EINVAL => Refusal::not_found(),
        Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::EAGAIN => Refusal::overloaded(),
        _ => Refusal::failed("the file cannot be read"),
    }
}

#[cfg(test)]
#[cfg(feature = "handlers")]
mod tests;

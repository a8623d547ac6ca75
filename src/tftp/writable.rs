//! The directory that clients may write to: new files only, none beyond a size, not too many, none outside of it, complete or not there at all.
//!
//! A file is written without a name (`O_TMPFILE`) and linked when its bytes are on disk, so that a crash leaves nothing. On file systems
//! without that it has a hidden temporary name in the directory, which is removed by the next start when nobody writes to it any more.

mod room;

use super::directory::path;
use super::handler::Refusal;
use super::packet::ErrorCode;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, Flock, FlockArg, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{Mode, fstatat};
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};
use room::{Space, Turn, Used, full};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// How temporary names begin. No client can write such a name, for it begins with a dot.
const TEMPORARY: &str = ".guideway-upload-";
/// Bytes that are gathered before they are written.
const BUFFER: usize = 64 * 1024;
/// Configurations of switches have secrets in them.
const MODE: Mode = Mode::from_bits_truncate(0o640);

/// What clients may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Bytes of a file at most.
    pub limit: u64,
    /// Files at most in the directory and below it, those that clients did not write included.
    pub files: usize,
    /// Bytes of them at most; without, the number of files and their size are bound enough.
    pub total: Option<u64>,
    /// Files at most that are being written at once.
    pub concurrent: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { limit: 1 << 20, files: 10_000, total: None, concurrent: 64 }
    }
}

/// A directory that takes new files.
#[derive(Clone, Debug)]
pub struct Writable(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    root: OwnedFd,
    settings: Settings,
    /// Whether the file system has files without a name.
    nameless: bool,
    used: Mutex<Used>,
    names: AtomicU64,
}

impl Writable {
    /// New files go to `root` and, with names that say so, to directories below it. Removes what a crash may have left there.
    ///
    /// # Errors
    /// When it cannot be opened, is no directory, or the kernel is older than 5.6 and lacks `openat2`.
    pub fn new(root: impl AsRef<Path>, settings: Settings) -> io::Result<Writable> {
        Writable::with(root.as_ref(), settings, true)
    }

    fn with(root: &Path, settings: Settings, nameless: bool) -> io::Result<Writable> {
        let file = File::open(root)?;
        if !file.metadata()?.is_dir() {
            return Err(io::Error::new(io::ErrorKind::NotADirectory, "not a directory"));
        }
        clean(root)?;
        let mut inner = Inner { root: file.into(), settings, nameless, used: Mutex::default(), names: AtomicU64::new(0) };
        if matches!(inner.parent(Path::new("")), Err(Errno::ENOSYS)) {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "the kernel lacks openat2 (Linux 5.6)"));
        }
        inner.nameless = nameless && !matches!(nameless_file(&inner.root), Err(Errno::EOPNOTSUPP));
        inner.count()?;
        Ok(Writable(Arc::new(inner)))
    }

    /// Bytes of a file at most.
    pub fn limit(&self) -> u64 {
        self.0.settings.limit
    }

    /// Whether a file of this name, as a client wrote it, can be begun.
    ///
    /// # Errors
    /// Why not: it exists, leads out, names no file of a directory that exists, or there is no room.
    pub fn check(&self, file: &[u8]) -> Result<(), Refusal> {
        self.0.place(file)?;
        if self.0.space() == Space::Full { Err(full()) } else { Ok(()) }
    }

    /// Begins a file; nothing when too many are being written, or when it takes a moment to know whether there is room.
    ///
    /// # Errors
    /// As for [`Writable::check`], and when the disk is full.
    pub fn begin(&self, file: &[u8]) -> Result<Option<Draft>, Refusal> {
        let (parent, name) = self.0.place(file)?;
        match self.0.space() {
            Space::Free => {}
            Space::Unsure => return Ok(None),
            Space::Full => return Err(full()),
        }
        let Some(turn) = Turn::take(&self.0) else { return Ok(None) };
        let (file, temporary) = if self.0.nameless {
            (nameless_file(&parent).map_err(refusal)?.into(), None)
        } else {
            let (file, temporary) = self.0.named_file()?;
            (file, Some(temporary))
        };
        Ok(Some(Draft { file: BufWriter::with_capacity(BUFFER, file), written: 0, parent, name, temporary, turn }))
    }
}

/// A file without a name in a directory.
fn nameless_file(directory: &OwnedFd) -> nix::Result<OwnedFd> {
    openat(directory, ".", OFlag::O_TMPFILE | OFlag::O_WRONLY | OFlag::O_CLOEXEC, MODE)
}

/// Removes temporary files that nobody has open.
fn clean(root: &Path) -> io::Result<()> {
    for entry in root.read_dir()? {
        let entry = entry?;
        if entry.file_name().as_bytes().starts_with(TEMPORARY.as_bytes()) && entry.file_type()?.is_file() {
            // Another server may be at work in the same directory.
            if let Ok(_ours) = Flock::lock(File::open(entry.path())?, FlockArg::LockExclusiveNonblock) {
                std::fs::remove_file(entry.path())?;
            }
        }
    }
    Ok(())
}

impl Inner {
    /// A directory below the root, never through a symbolic link.
    fn parent(&self, path: &Path) -> nix::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS | ResolveFlag::RESOLVE_NO_SYMLINKS;
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        openat2(self.root.as_fd(), path, OpenHow::new().flags(flags).resolve(resolve))
    }

    /// Where a file of this name goes.
    fn place(&self, file: &[u8]) -> Result<(OwnedFd, OsString), Refusal> {
        let path: PathBuf = path(file).ok_or_else(unnamed)?;
        // Nothing hidden: not our own temporary files, nor what programs take for their configuration.
        let plain = |part: Component<'_>| matches!(part, Component::Normal(name) if name.as_bytes()[0] != b'.');
        if !path.components().all(plain) {
            return Err(Refusal::access());
        }
        if path.as_os_str().as_bytes().ends_with(b"/") {
            return Err(unnamed());
        }
        let name = path.file_name().ok_or_else(unnamed)?;
        let parent = self.parent(path.parent().unwrap_or(Path::new(""))).map_err(refusal)?;
        match fstatat(&parent, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(_) => Err(refusal(Errno::EEXIST)),
            Err(Errno::ENOENT) => Ok((parent, name.to_owned())),
            Err(errno) => Err(refusal(errno)),
        }
    }

    fn named_file(self: &Arc<Inner>) -> Result<(File, Temporary), Refusal> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        loop {
            let name = format!("{TEMPORARY}{}-{}", std::process::id(), self.names.fetch_add(1, Ordering::Relaxed));
            match openat(&self.root, name.as_str(), flags, MODE) {
                Ok(fd) => {
                    let file = File::from(fd);
                    let temporary = |lock| Temporary { place: Arc::clone(self), name, _lock: lock };
                    let lock = file.try_clone().ok().and_then(|again| Flock::lock(again, FlockArg::LockExclusiveNonblock).ok());
                    return Ok((file, temporary(lock)));
                }
                // Left by a process of this number.
                Err(Errno::EEXIST) => {}
                Err(errno) => return Err(refusal(errno)),
            }
        }
    }
}

fn unnamed() -> Refusal {
    Refusal::new(ErrorCode::ILLEGAL, "no name of a file")
}

fn refusal(errno: Errno) -> Refusal {
    match errno {
        Errno::EEXIST => Refusal::new(ErrorCode::EXISTS, "the file exists"),
        Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG => Refusal::new(ErrorCode::DISK_FULL, "the disk is full"),
        Errno::ENOENT | Errno::ENOTDIR => Refusal::new(ErrorCode::NOT_FOUND, "no such directory"),
        Errno::EXDEV | Errno::EACCES | Errno::EPERM | Errno::ELOOP | Errno::EROFS => Refusal::access(),
        Errno::ENAMETOOLONG | Errno::EINVAL | Errno::EILSEQ => unnamed(),
        Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM => Refusal::failed("the server is busy"),
        _ => Refusal::failed("the file cannot be stored"),
    }
}

fn io_refusal(error: &io::Error) -> Refusal {
    error.raw_os_error().map_or_else(|| Refusal::failed("the file cannot be stored"), |code| refusal(Errno::from_raw(code)))
}

/// A temporary name; removed when dropped.
#[derive(Debug)]
struct Temporary {
    place: Arc<Inner>,
    name: String,
    _lock: Option<Flock<File>>,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(error) = unlinkat(&self.place.root, self.name.as_str(), UnlinkatFlags::NoRemoveDir) {
            tracing::warn!("the temporary file {} stays: {error}", self.name);
        }
    }
}

/// A file that is being written. Dropped, it never was.
#[derive(Debug)]
pub struct Draft {
    file: BufWriter<File>,
    written: u64,
    parent: OwnedFd,
    name: OsString,
    temporary: Option<Temporary>,
    turn: Turn,
}

impl Draft {
    /// Appends bytes.
    ///
    /// # Errors
    /// When the file becomes too large, or the directory or the disk is full.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        self.written += bytes.len() as u64;
        let limit = self.turn.inner.settings.limit;
        if self.written > limit {
            return Err(too_large(limit));
        }
        self.turn.grow(bytes.len() as u64)?;
        self.file.write_all(bytes).map_err(|error| io_refusal(&error))
    }

    /// Bytes so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// The file is complete: puts it on disk and gives it its name. It waits for the disk.
    ///
    /// # Errors
    /// When somebody else put a file there meanwhile, or the disk is full.
    pub fn keep(mut self) -> Result<(), Refusal> {
        let (parent, name, temporary) = (self.parent, self.name, self.temporary);
        let kept = self.file.into_inner().map_err(io::IntoInnerError::into_error).and_then(|file| {
            file.sync_all()?;
            link(&file, temporary.as_ref(), &parent, &name)?;
            self.turn.keep();
            File::from(parent).sync_all()
        });
        kept.map_err(|error| {
            tracing::warn!("a file written by a client is not kept: {}: {error}", name.as_bytes().escape_ascii());
            io_refusal(&error)
        })
    }
}

/// Gives a file its name; never another file's.
fn link(file: &File, temporary: Option<&Temporary>, parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match temporary {
        Some(temporary) => linkat(&temporary.place.root, temporary.name.as_str(), parent, name, AtFlags::empty())?,
        None => {
            let own = format!("/proc/self/fd/{}", file.as_raw_fd());
            linkat(AT_FDCWD, own.as_str(), parent, name, AtFlags::AT_SYMLINK_FOLLOW)?;
        }
    }
    Ok(())
}

/// ERROR 3 for a file beyond the limit, in bytes.
pub fn too_large(limit: u64) -> Refusal {
    Refusal::new(ErrorCode::DISK_FULL, format!("the file is too large: at most {limit} bytes"))
}

#[cfg(test)]
mod tests;

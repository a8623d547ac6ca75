//! The directory that clients may write to. It takes new files only, within limits of size and number, and only complete ones.
//!
//! A file is written without a name (`O_TMPFILE`) and linked when its bytes are on disk, so that a crash leaves nothing. On file systems
//! without `O_TMPFILE` it has a hidden temporary name, which the next start removes if no process writes to it. On those without hard links it is
//! renamed.

mod quota;

pub use quota::Settings;

use super::handler::{Accepted, Destination, Handler, Opened, Refusal, SharedHandler, run_blocking};
use super::name::{NameError, normalize};
use super::packet::{ErrorCode, Mode as TransferMode};
use super::request::Request;
use super::root::{OpenRoot, Reach, Root};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, Flock, FlockArg, OFlag, RenameFlags, openat, renameat2};
use nix::sys::stat::{Mode, fstatat};
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};
use quota::{Quota, Space, TEMPORARY, UploadSlot, full};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes that are buffered before a write.
const BUFFER: usize = 64 * 1024;
/// Mode of uploaded files. Configurations of switches contain secrets.
const MODE: Mode = Mode::from_bits_truncate(0o640);

/// A directory that takes new files.
#[derive(Clone, Debug)]
pub struct Writable(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    quota: Arc<Quota>,
    /// Whether files without a name are tried.
    nameless: bool,
    names: AtomicU64,
}

impl Writable {
    /// Opens `root` for new files; names may include existing directories below it. Removes temporary files of crashed processes.
    ///
    /// # Errors
    /// When it cannot be opened or is not a directory.
    pub fn new(root: impl AsRef<Path>, settings: Settings) -> io::Result<Writable> {
        Writable::with(root.as_ref(), settings, true)
    }

    fn with(root: &Path, settings: Settings, nameless: bool) -> io::Result<Writable> {
        let quota = Quota::new(Root::open(root)?, settings);
        clean(root)?;
        quota.directory();
        quota.count()?;
        Ok(Writable(Arc::new(Inner { quota: Arc::new(quota), nameless, names: AtomicU64::new(0) })))
    }

    /// Returns the largest file in bytes.
    pub fn limit(&self) -> u64 {
        self.0.quota.settings.limit
    }

    /// Checks whether a client may upload a file of this name.
    ///
    /// # Errors
    /// When the file exists, its name leads out or is invalid, its directory does not exist, or there is no room.
    pub fn check(&self, file: &[u8]) -> Result<(), Refusal> {
        self.0.place(file)?;
        if self.0.quota.space() == Space::Full { Err(full()) } else { Ok(()) }
    }

    /// Starts a file; `None` when too many are being written, or while the used space is being counted.
    ///
    /// # Errors
    /// As for [`Writable::check`], and when the disk is full.
    pub fn begin(&self, file: &[u8]) -> Result<Option<TemporaryFile>, Refusal> {
        let (root, parent, name) = self.0.place(file)?;
        match self.0.quota.space() {
            Space::Free => {}
            Space::Counting => return Ok(None),
            Space::Full => return Err(full()),
        }
        let Some(slot) = UploadSlot::take(&self.0.quota) else { return Ok(None) };
        let nameless = if self.0.nameless { nameless_file(&parent) } else { Err(Errno::EOPNOTSUPP) };
        let (file, temporary) = match nameless {
            Ok(file) => (file.into(), None),
            // open(2) names the first for file systems, the others for old kernels; FUSE answers ENOSYS.
            Err(Errno::EOPNOTSUPP | Errno::EISDIR | Errno::EINVAL | Errno::ENOSYS) => {
                let (file, temporary) = self.0.named_file(root)?;
                (file, Some(temporary))
            }
            Err(errno) => return Err(refusal(errno)),
        };
        Ok(Some(TemporaryFile { file: BufWriter::with_capacity(BUFFER, file), written: 0, parent, name, temporary, slot }))
    }
}

/// Creates a file without a name in a directory.
fn nameless_file(directory: &OwnedFd) -> nix::Result<OwnedFd> {
    openat(directory, ".", OFlag::O_TMPFILE | OFlag::O_WRONLY | OFlag::O_CLOEXEC, MODE)
}

/// Removes temporary files that no process has open.
fn clean(root: &Path) -> io::Result<()> {
    for entry in root.read_dir()? {
        let entry = entry?;
        if entry.file_name().as_bytes().starts_with(TEMPORARY.as_bytes()) && entry.file_type()?.is_file() {
            // Another server may use the same directory.
            if let Ok(_ours) = Flock::lock(File::open(entry.path())?, FlockArg::LockExclusiveNonblock) {
                std::fs::remove_file(entry.path())?;
            }
        }
    }
    Ok(())
}

impl Inner {
    /// Returns the root, the directory and the name for a file. No symbolic link leads to the directory.
    fn place(&self, file: &[u8]) -> Result<(Arc<OpenRoot>, OwnedFd, OsString), Refusal> {
        let path = match normalize(file) {
            Ok(name) => PathBuf::from(OsString::from_vec(name)),
            Err(NameError::ParentDirectory) => return Err(Refusal::access()),
            Err(_) => return Err(invalid_name()),
        };
        // No hidden names: they may be our temporary files, or configuration of programs.
        if path.components().any(|part| part.as_os_str().as_bytes().starts_with(b".")) {
            return Err(Refusal::access());
        }
        let name = path.file_name().ok_or_else(invalid_name)?;
        let directory = path.parent().filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let root = self.quota.directory();
        let parent = root.open(directory, OFlag::O_RDONLY | OFlag::O_DIRECTORY, Reach::Mounted, false).map_err(refusal)?;
        match fstatat(&parent, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(_) => Err(refusal(Errno::EEXIST)),
            Err(Errno::ENOENT) => Ok((root, parent, name.to_owned())),
            Err(errno) => Err(refusal(errno)),
        }
    }

    fn named_file(&self, root: Arc<OpenRoot>) -> Result<(File, TemporaryName), Refusal> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        loop {
            let name = format!("{TEMPORARY}{}-{}", std::process::id(), self.names.fetch_add(1, Ordering::Relaxed));
            match openat(root.fd(), name.as_str(), flags, MODE) {
                Ok(fd) => {
                    let file = File::from(fd);
                    let temporary = |lock| TemporaryName { root, name, _lock: lock };
                    let lock = file.try_clone().ok().and_then(|again| Flock::lock(again, FlockArg::LockExclusiveNonblock).ok());
                    return Ok((file, temporary(lock)));
                }
                // Left by an earlier process with this id.
                Err(Errno::EEXIST) => {}
                Err(errno) => return Err(refusal(errno)),
            }
        }
    }
}

fn invalid_name() -> Refusal {
    Refusal::new(ErrorCode::ILLEGAL, "no name of a file")
}

fn refusal(errno: Errno) -> Refusal {
    match errno {
        Errno::EEXIST => Refusal::new(ErrorCode::EXISTS, "the file exists"),
        Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG => Refusal::new(ErrorCode::DISK_FULL, "the disk is full"),
        Errno::ENOENT | Errno::ENOTDIR => Refusal::new(ErrorCode::NOT_FOUND, "no such directory"),
        Errno::EXDEV | Errno::EACCES | Errno::EPERM | Errno::ELOOP | Errno::EROFS => Refusal::access(),
        Errno::ENAMETOOLONG | Errno::EINVAL | Errno::EILSEQ => invalid_name(),
        Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM => Refusal::overloaded(),
        _ => Refusal::failed("the file cannot be stored"),
    }
}

fn io_refusal(error: &io::Error) -> Refusal {
    error.raw_os_error().map_or_else(|| Refusal::failed("the file cannot be stored"), |code| refusal(Errno::from_raw(code)))
}

/// A temporary name, removed on drop.
#[derive(Debug)]
struct TemporaryName {
    root: Arc<OpenRoot>,
    name: String,
    _lock: Option<Flock<File>>,
}

impl Drop for TemporaryName {
    fn drop(&mut self) {
        match unlinkat(self.root.fd(), self.name.as_str(), UnlinkatFlags::NoRemoveDir) {
            // It was renamed.
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(error) => tracing::warn!("cannot remove temporary file {}: {error}", self.name),
        }
    }
}

/// A file that is being written. Dropping it discards the file.
#[derive(Debug)]
pub struct TemporaryFile {
    file: BufWriter<File>,
    written: u64,
    parent: OwnedFd,
    name: OsString,
    temporary: Option<TemporaryName>,
    slot: UploadSlot,
}

impl TemporaryFile {
    /// Appends bytes.
    ///
    /// # Errors
    /// When the file becomes too large, or the directory or the disk is full.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        self.written += bytes.len() as u64;
        let limit = self.slot.quota.settings.limit;
        if self.written > limit {
            return Err(too_large(limit));
        }
        self.slot.grow(bytes.len() as u64)?;
        self.file.write_all(bytes).map_err(|error| io_refusal(&error))
    }

    /// Returns the bytes written so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Syncs the complete file to disk and gives it its name. Blocks.
    ///
    /// # Errors
    /// When the file was created in the meantime, or the disk is full.
    pub fn persist(mut self) -> Result<(), Refusal> {
        let (parent, name, temporary) = (self.parent, self.name, self.temporary);
        let kept = self.file.into_inner().map_err(io::IntoInnerError::into_error).and_then(|file| {
            file.sync_all()?;
            self.slot.storing();
            link(&file, temporary.as_ref(), &parent, &name)?;
            self.slot.persist();
            Ok(())
        });
        // The file is there, and a client that sent it again would hear that it exists.
        if kept.is_ok()
            && let Err(error) = File::from(parent).sync_all()
        {
            tracing::warn!("upload stored, but a crash of the host may lose its name: {}: {error}", name.as_bytes().escape_ascii());
        }
        kept.map_err(|error| {
            tracing::warn!("upload discarded: {}: {error}", name.as_bytes().escape_ascii());
            io_refusal(&error)
        })
    }
}

/// Gives a file its name, without replacing another file.
fn link(file: &File, temporary: Option<&TemporaryName>, parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match temporary {
        Some(temporary) => match linkat(temporary.root.fd(), temporary.name.as_str(), parent, name, AtFlags::empty()) {
            // FAT and some FUSE file systems have no hard links.
            Err(Errno::EPERM | Errno::EOPNOTSUPP | Errno::ENOSYS) => {
                let renamed = renameat2(temporary.root.fd(), temporary.name.as_str(), parent, name, RenameFlags::RENAME_NOREPLACE);
                // The name is valid, but the file system has no such rename.
                renamed.map_err(|errno| if errno == Errno::EINVAL { Errno::EOPNOTSUPP } else { errno })?;
            }
            linked => linked?,
        },
        None => {
            let own = format!("/proc/self/fd/{}", file.as_raw_fd());
            linkat(AT_FDCWD, own.as_str(), parent, name, AtFlags::AT_SYMLINK_FOLLOW)?;
        }
    }
    Ok(())
}

/// A handler for reads with one for uploads beside it.
#[derive(Clone, Debug)]
pub struct WithUploads {
    files: SharedHandler,
    uploads: SharedHandler,
}

impl WithUploads {
    /// Reads with `files`, writes with `uploads`, such as a [`Writable`].
    pub fn new(files: impl Handler, uploads: impl Handler) -> WithUploads {
        WithUploads { files: SharedHandler::new(files), uploads: SharedHandler::new(uploads) }
    }
}

impl Handler for WithUploads {
    async fn open(&self, request: Request) -> Opened {
        self.files.open(request).await
    }

    fn open_now(&self, request: &Request) -> Option<Opened> {
        self.files.open_now(request)
    }

    fn accepts_uploads(&self) -> bool {
        self.uploads.accepts_uploads()
    }

    async fn store(&self, request: Request) -> Accepted {
        self.uploads.store(request).await
    }
}

/// Uploads; no file is readable.
impl Handler for Writable {
    async fn open(&self, _: Request) -> Opened {
        Err(Refusal::not_found())
    }

    fn accepts_uploads(&self) -> bool {
        true
    }

    async fn store(&self, request: Request) -> Accepted {
        let limit = self.limit();
        // In netascii more bytes are sent than are stored.
        if request.mode == TransferMode::Octet && request.announced_size().is_some_and(|size| size > limit) {
            return Err(too_large(limit));
        }
        let upload = Upload { writable: self.clone(), name: request.file().into(), file: None };
        run_blocking(move || {
            upload.writable.check(&upload.name)?;
            Ok(Box::new(upload) as Box<dyn Destination>)
        })
        .await
    }
}

/// One upload. It takes a slot and a file when the first bytes have arrived.
struct Upload {
    writable: Writable,
    name: Box<[u8]>,
    file: Option<TemporaryFile>,
}

impl Destination for Upload {
    fn limit(&self) -> Option<u64> {
        Some(self.writable.limit())
    }

    fn begin(&mut self) -> Result<(), Refusal> {
        self.file = Some(self.writable.begin(&self.name)?.ok_or_else(Refusal::overloaded)?);
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        self.file.as_mut().map_or(Ok(()), |file| file.write(bytes))
    }

    fn finish(self: Box<Self>) -> Result<(), Refusal> {
        self.file.map_or(Ok(()), TemporaryFile::persist)
    }
}

/// Returns ERROR 3 for a file beyond the limit, in bytes.
pub fn too_large(limit: u64) -> Refusal {
    Refusal::new(ErrorCode::DISK_FULL, format!("the file is too large: at most {limit} bytes"))
}

#[cfg(test)]
mod tests;

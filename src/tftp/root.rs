//! A directory below which names are resolved, and never out of it.
//!
//! The kernel enforces this: `openat2` with `RESOLVE_BENEATH` resolves the whole name in one step, so that no `..`, symbolic link or concurrent rename
//! leads out. Where a filter of system calls blocks `openat2`, and for absolute symbolic links, which `RESOLVE_BENEATH` refuses, names are
//! resolved here, one component at a time.
//!
//! A directory that is replaced is opened anew: its name may be a symbolic link to the current release, or the place of a mount.

use super::content::file::is_local;
use arc_swap::ArcSwap;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat};
use nix::sys::stat::{Mode, SFlag, fstat};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// `RESOLVE_CACHED` of openat2(2): fail with EAGAIN unless the whole name is in the kernel's cache.
const RESOLVE_CACHED: u64 = 0x20;

/// Most symbolic links in one name, as in path_resolution(7).
const MAX_LINKS: usize = 40;

/// What the resolution of a name may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Only what needs no wait.
    Cached,
    /// The root's own file system.
    Own,
    /// Everything below the root.
    Mounted,
}

/// The name of a directory, and the directory that has it now.
#[derive(Debug)]
pub(crate) struct Root {
    path: PathBuf,
    current: ArcSwap<OpenRoot>,
}

/// An open directory.
#[derive(Debug)]
pub(crate) struct OpenRoot {
    fd: OwnedFd,
    /// Device and inode.
    id: (u64, u64),
    /// Whether its file system never waits for another host.
    pub local: bool,
    /// Whether the kernel resolves names. If not, a filter of system calls blocks `openat2`, or the kernel is older than 5.6.
    openat2: bool,
    /// Absolute names of the directory: as configured, and without symbolic links.
    names: Vec<PathBuf>,
}

impl Root {
    /// Opens a directory.
    ///
    /// # Errors
    /// When it cannot be opened or read, or is not a directory.
    pub fn open(path: &Path) -> io::Result<Root> {
        let root = OpenRoot::of(path, directory(path)?)?;
        root.open(Path::new("."), OFlag::O_RDONLY | OFlag::O_DIRECTORY, Reach::Mounted, false)?;
        if !root.openat2 {
            tracing::warn!(
                root = %path.display(),
                "openat2 is blocked by a filter of system calls, or the kernel is older than 5.6: names are resolved in single steps, which is slower"
            );
        }
        Ok(Root { path: path.to_owned(), current: ArcSwap::from_pointee(root) })
    }

    /// Returns the directory that has the name now; the earlier one while none has it, or none that can be opened. May block.
    pub fn current(&self) -> Arc<OpenRoot> {
        let known = self.current.load_full();
        let Ok(found) = directory(&self.path) else { return known };
        if guideway_sys::file_id(found.as_fd()).is_ok_and(|id| id == known.id) {
            return known;
        }
        match OpenRoot::of(&self.path, found) {
            Ok(root) => {
                tracing::info!(root = %self.path.display(), "directory was replaced, and is opened anew");
                let root = Arc::new(root);
                self.current.store(Arc::clone(&root));
                root
            }
            Err(_) => known,
        }
    }

    /// As [`Root::current`], without a wait; `None` if that is not possible.
    pub fn current_now(&self) -> Option<Arc<OpenRoot>> {
        let known = self.current.load_full();
        if !known.openat2 {
            return None;
        }
        let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC);
        match openat2(AT_FDCWD, &self.path, how.resolve(ResolveFlag::from_bits_retain(RESOLVE_CACHED))) {
            Ok(found) => guideway_sys::file_id(found.as_fd()).is_ok_and(|id| id == known.id).then_some(known),
            // Not in memory, or a kernel without RESOLVE_CACHED.
            Err(Errno::EAGAIN | Errno::EINVAL) => None,
            Err(_) => Some(known),
        }
    }
}

fn directory(path: &Path) -> io::Result<File> {
    File::options().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(path)
}

impl OpenRoot {
    fn of(path: &Path, file: File) -> io::Result<OpenRoot> {
        let mut names = vec![std::path::absolute(path)?];
        names.extend(path.canonicalize().ok().filter(|real| *real != names[0]));
        let (id, local) = (guideway_sys::file_id(file.as_fd())?, is_local(&file));
        let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_BENEATH);
        // An old filter of system calls answers EPERM where it should answer ENOSYS.
        let openat2 = !matches!(openat2(file.as_fd(), Path::new("."), how), Err(Errno::ENOSYS | Errno::EPERM));
        Ok(OpenRoot { fd: file.into(), id, local, openat2, names })
    }

    /// Returns the descriptor.
    pub fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Returns device and inode.
    pub fn id(&self) -> (u64, u64) {
        self.id
    }

    /// Opens a file or a directory. Names that need a further reach fail with EAGAIN (`Cached`) or EXDEV (`Cached`, `Own`); those that lead out fail
    /// with EXDEV, and the log names the symbolic link.
    pub fn open(&self, path: &Path, flags: OFlag, reach: Reach, symlinks: bool) -> nix::Result<OwnedFd> {
        let flags = flags | OFlag::O_CLOEXEC;
        if !self.openat2 {
            return if reach == Reach::Mounted { self.walk(path, flags, symlinks) } else { Err(Errno::EXDEV) };
        }
        let mut resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        if !symlinks {
            resolve |= ResolveFlag::RESOLVE_NO_SYMLINKS;
        }
        if reach != Reach::Mounted {
            resolve |= ResolveFlag::RESOLVE_NO_XDEV;
        }
        if reach == Reach::Cached {
            resolve |= ResolveFlag::from_bits_retain(RESOLVE_CACHED);
        }
        match openat2(self.fd.as_fd(), path, OpenHow::new().flags(flags).resolve(resolve)) {
            // Perhaps an absolute link.
            Err(Errno::EXDEV) if reach == Reach::Mounted && symlinks => self.walk(path, flags, symlinks),
            opened => opened,
        }
    }

    /// Opens a file or a directory, one component at a time. The kernel follows no symbolic link and no `..`.
    fn walk(&self, path: &Path, flags: OFlag, symlinks: bool) -> nix::Result<OwnedFd> {
        let mut rest = Vec::new();
        push(&mut rest, path);
        let mut parents: Vec<OwnedFd> = Vec::new();
        let mut links = 0;
        // The last symbolic link, and whether its absolute target was read as one of a changed root.
        let mut link: Option<(PathBuf, bool)> = None;
        let leads_out = |link: &Option<(PathBuf, bool)>| {
            if let Some((target, _)) = link {
                let (root, file, target) = (self.names[0].display(), path.display(), target.display());
                tracing::warn!(%root, %file, %target, "symbolic link leads out of the directory, so the file is not served");
            }
            Errno::EXDEV
        };
        while let Some(part) = rest.pop() {
            let parent = parents.last().unwrap_or(&self.fd);
            if part == ".." {
                parents.pop().ok_or_else(|| leads_out(&link))?;
                continue;
            }
            let found = match openat(parent, part.as_os_str(), OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty()) {
                Err(Errno::ENOENT) if link.as_ref().is_some_and(|(_, changed_root)| *changed_root) => return Err(leads_out(&link)),
                found => found?,
            };
            match SFlag::from_bits_truncate(fstat(&found)?.st_mode & SFlag::S_IFMT.bits()) {
                SFlag::S_IFLNK => {
                    links += 1;
                    if !symlinks || links > MAX_LINKS {
                        return Err(Errno::ELOOP);
                    }
                    let target = PathBuf::from(readlinkat(&found, "")?);
                    let below = self.names.iter().find_map(|name| target.strip_prefix(name).ok());
                    if target.is_absolute() {
                        parents.clear();
                    }
                    push(&mut rest, below.unwrap_or(&target));
                    let changed_root = target.is_absolute() && below.is_none();
                    link = Some((target, changed_root));
                }
                SFlag::S_IFDIR => parents.push(found),
                _ if !rest.is_empty() => return Err(Errno::ENOTDIR),
                _ => return openat(parent, part.as_os_str(), flags | OFlag::O_NOFOLLOW, Mode::empty()),
            }
        }
        openat(parents.last().unwrap_or(&self.fd), ".", flags, Mode::empty())
    }
}

/// Puts the components of a path on a stack, the first on top.
fn push(stack: &mut Vec<OsString>, path: &Path) {
    let parts = path.as_os_str().as_bytes().split(|&byte| byte == b'/').filter(|part| !matches!(*part, b"" | b"."));
    stack.extend(parts.rev().map(|part| OsStr::from_bytes(part).to_owned()));
}

#[cfg(test)]
mod tests;

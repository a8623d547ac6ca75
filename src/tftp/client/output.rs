//! Output of a fetched file: it appears complete under its name, or not at all.
//!
//! A regular file is written without a name (`O_TMPFILE`) and linked when it is complete, so that even SIGKILL leaves nothing. File systems
//! without `O_TMPFILE` get a temporary name beside the final one.

use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, RenameFlags, open, renameat2};
use nix::sys::stat::Mode;
use nix::unistd::linkat;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// Bytes that are buffered before a write.
const BUFFER: usize = 1 << 20;
/// Temporary names that are tried.
const TRIES: u32 = 100;

/// Destination of a file.
#[derive(Debug)]
pub struct Output {
    file: BufWriter<File>,
    destination: Destination,
    force: bool,
}

#[derive(Debug)]
enum Destination {
    /// A file without a name, and its directory.
    Nameless(PathBuf),
    /// A temporary name, removed unless the file is kept.
    Named { temporary: PathBuf, to: PathBuf },
    /// Standard output, a device or a pipe: bytes are written as they arrive.
    Direct,
}

impl Output {
    /// Opens `to`. With `force`, an existing file is replaced at the end.
    ///
    /// # Errors
    /// Errors of the file system; `AlreadyExists` when the file exists and `force` is not set.
    pub fn create(to: &Path, force: bool) -> io::Result<Self> {
        let direct = |file| Output { file: BufWriter::with_capacity(BUFFER, file), destination: Destination::Direct, force };
        if to == Path::new("-") {
            return Ok(direct(File::from(std::os::fd::AsFd::as_fd(&io::stdout()).try_clone_to_owned()?)));
        }
        // The file is replaced, not a symbolic link to it.
        let to = if force { to.canonicalize().unwrap_or_else(|_| to.to_owned()) } else { to.to_owned() };
        match to.metadata() {
            Ok(there) if there.is_dir() => return Err(io::Error::new(ErrorKind::IsADirectory, "it is a directory")),
            Ok(there) if !there.is_file() => return Ok(direct(OpenOptions::new().write(true).open(&to)?)),
            Ok(_) if !force => return Err(exists()),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let (file, destination) =
            match open(directory(&to), OFlag::O_TMPFILE | OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::from_bits_truncate(0o666)) {
                Ok(file) => (File::from(file), Destination::Nameless(to)),
                Err(nix::Error::EOPNOTSUPP | nix::Error::EISDIR | nix::Error::ENOENT | nix::Error::EINVAL) => {
                    let (file, temporary) = free_name(&to, |name| OpenOptions::new().write(true).create_new(true).open(name))?;
                    (file, Destination::Named { temporary, to })
                }
                Err(error) => return Err(error.into()),
            };
        Ok(Output { file: BufWriter::with_capacity(BUFFER, file), destination, force })
    }

    /// Gives the complete file its name.
    ///
    /// # Errors
    /// Errors of the file system; `AlreadyExists` when the file was created in the meantime and `force` is not set.
    pub fn persist(mut self) -> io::Result<()> {
        self.file.flush()?;
        match &self.destination {
            Destination::Direct => Ok(()),
            Destination::Nameless(to) => {
                let own = format!("/proc/self/fd/{}", self.file.get_ref().as_raw_fd());
                let link =
                    |name: &Path| linkat(AT_FDCWD, own.as_str(), AT_FDCWD, name, AtFlags::AT_SYMLINK_FOLLOW).map_err(io::Error::from);
                if !self.force {
                    return link(to);
                }
                let ((), temporary) = free_name(to, link)?;
                std::fs::rename(&temporary, to).inspect_err(|_| drop(std::fs::remove_file(&temporary)))
            }
            Destination::Named { temporary, to } if self.force => std::fs::rename(temporary, to),
            Destination::Named { temporary, to } => {
                renameat2(AT_FDCWD, temporary.as_path(), AT_FDCWD, to.as_path(), RenameFlags::RENAME_NOREPLACE).map_err(io::Error::from)
            }
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Destination::Named { temporary, .. } = &self.destination {
            // After a rename it no longer exists.
            let _gone = std::fs::remove_file(temporary);
        }
    }
}

fn exists() -> io::Error {
    io::Error::new(ErrorKind::AlreadyExists, "the file exists; --force replaces it")
}

fn directory(file: &Path) -> &Path {
    file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Calls `body` with a free hidden name beside `to`.
fn free_name<T>(to: &Path, body: impl Fn(&Path) -> io::Result<T>) -> io::Result<(T, PathBuf)> {
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(to.file_name().ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, "it names no file"))?);
    for number in 0..TRIES {
        let mut name = hidden.clone();
        name.push(format!(".{}-{number}.part", std::process::id()));
        let path = directory(to).join(name);
        match body(&path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            done => return done.map(|done| (done, path)),
        }
    }
    Err(io::Error::new(ErrorKind::AlreadyExists, "no free temporary name beside it"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> = directory.read_dir().unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn the_file_appears_complete_at_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let to = directory.path().join("f");
        let mut output = Output::create(&to, false).unwrap();
        output.write_all(&vec![7; BUFFER + 1]).unwrap();
        assert!(!to.exists());
        output.persist().unwrap();
        assert_eq!(std::fs::read(&to).unwrap().len(), BUFFER + 1);
        assert_eq!(names(directory.path()), ["f"]);
        assert_eq!(Output::create(&to, false).unwrap_err().kind(), ErrorKind::AlreadyExists);
    }

    #[test]
    fn an_unfinished_file_leaves_the_old_one() {
        let directory = tempfile::tempdir().unwrap();
        let to = directory.path().join("f");
        std::fs::write(&to, "old").unwrap();
        let mut output = Output::create(&to, true).unwrap();
        output.write_all(b"half").unwrap();
        output.flush().unwrap();
        drop(output);
        assert_eq!((std::fs::read_to_string(&to).unwrap().as_str(), names(directory.path()).len()), ("old", 1));
    }

    #[test]
    fn force_replaces_the_file_behind_a_link() {
        let directory = tempfile::tempdir().unwrap();
        let (file, link) = (directory.path().join("f"), directory.path().join("link"));
        std::fs::write(&file, "old").unwrap();
        std::os::unix::fs::symlink("f", &link).unwrap();
        let mut output = Output::create(&link, true).unwrap();
        output.write_all(b"new").unwrap();
        output.persist().unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "new");
        assert!(link.is_symlink());
        assert_eq!(names(directory.path()), ["f", "link"]);
    }

    #[test]
    fn the_first_file_wins_without_force() {
        let directory = tempfile::tempdir().unwrap();
        let to = directory.path().join("f");
        let output = Output::create(&to, false).unwrap();
        std::fs::write(&to, "other").unwrap();
        assert_eq!(output.persist().unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read_to_string(&to).unwrap(), "other");
    }

    #[test]
    fn a_device_is_written_and_not_replaced() {
        let mut output = Output::create(Path::new("/dev/null"), true).unwrap();
        output.write_all(b"x").unwrap();
        output.persist().unwrap();
        assert!(!Path::new("/dev/null").metadata().unwrap().is_file());
        assert_eq!(Output::create(Path::new("/tmp"), true).unwrap_err().kind(), ErrorKind::IsADirectory);
    }
}

//! Reports in a file, which another program may move away.

use super::outage::Outage;
use super::queue::{Line, Sink};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Appends lines to a file.
pub struct FileSink {
    path: PathBuf,
    file: Option<File>,
    /// Whether the file ends in the middle of a line, because the disk was full.
    torn: bool,
    outage: Outage,
}

/// Opens a file for appending.
fn open(path: &Path) -> io::Result<File> {
    // A named pipe without a reader is an error instead of a wait.
    let file = File::options().append(true).create(true).mode(0o640).custom_flags(nix::libc::O_NONBLOCK).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("is not a regular file; for a socket, set `socket`")) }
}

impl FileSink {
    /// Opens the file, and creates it if it does not exist.
    ///
    /// # Errors
    /// When that is not possible.
    pub fn open(path: &Path) -> io::Result<FileSink> {
        Ok(FileSink { file: Some(open(path)?), path: path.to_owned(), torn: false, outage: Outage::default() })
    }

    /// Returns whether another program has moved or removed the file.
    fn is_gone(&self) -> bool {
        let Some(Ok(ours)) = self.file.as_ref().map(File::metadata) else { return true };
        self.path.metadata().map_or(true, |now| (now.dev(), now.ino()) != (ours.dev(), ours.ino()))
    }

    /// Appends lines and returns how many of them are whole, and the error that stopped it.
    fn append(&mut self, lines: &[Line]) -> (usize, Option<io::Error>) {
        if self.is_gone() {
            self.torn = false;
            self.file = None;
            match open(&self.path) {
                Ok(file) => self.file = Some(file),
                Err(error) => return (0, Some(error)),
            }
        }
        let Some(mut file) = self.file.as_ref() else { return (0, None) };
        let begin = if self.torn { "\n" } else { "" };
        let text: Vec<u8> = [begin].into_iter().chain(lines.iter().map(|line| &**line)).flat_map(str::bytes).collect();
        let mut written = 0;
        while written < text.len() {
            match file.write(&text[written..]) {
                Ok(0) => return self.stopped(&text[..written], begin.len(), io::ErrorKind::WriteZero.into()),
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return self.stopped(&text[..written], begin.len(), error),
            }
        }
        self.torn = false;
        (lines.len(), None)
    }

    fn stopped(&mut self, written: &[u8], begin: usize, error: io::Error) -> (usize, Option<io::Error>) {
        self.torn = written.last().map_or(self.torn, |last| *last != b'\n');
        let lines = written.get(begin..).unwrap_or_default().iter().filter(|byte| **byte == b'\n').count();
        (lines, Some(error))
    }
}

impl Sink for FileSink {
    fn deliver(&mut self, lines: &[Line], _: &dyn Fn(Duration) -> bool) -> usize {
        let (count, error) = self.append(lines);
        self.outage.update(&self.path.display(), error.map(|error| error.to_string()));
        count
    }

    fn reopen(&mut self) {
        // The next line opens it anew, unless that works now.
        self.file = open(&self.path).ok();
        self.torn = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_moved_or_removed_is_opened_anew() {
        let directory = tempfile::tempdir().unwrap();
        let (path, moved) = (directory.path().join("log"), directory.path().join("log.1"));
        let mut sink = FileSink::open(&path).unwrap();
        let deliver = |sink: &mut FileSink, line: &str| sink.deliver(&[line.into()], &|_| false);
        assert_eq!(deliver(&mut sink, "a\n"), 1);
        std::fs::rename(&path, &moved).unwrap();
        assert_eq!(deliver(&mut sink, "b\n"), 1);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(deliver(&mut sink, "c\n"), 1);
        assert_eq!([&moved, &path].map(|path| std::fs::read_to_string(path).unwrap()), ["a\n", "c\n"]);
        std::fs::rename(&path, &moved).unwrap();
        sink.reopen();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "", "a compressed file is closed without a further line");
        let missing = directory.path().join("missing/log");
        assert!(FileSink::open(&missing).is_err());
        assert!(FileSink::open(directory.path()).is_err());
    }

    #[test]
    fn a_full_disk_costs_the_lines_that_did_not_fit_and_joins_none() {
        if !nix::unistd::geteuid().is_root() {
            assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "this test needs root, and CI promised it");
            println!("SKIPPED: needs root");
            return;
        }
        // The mount namespace of this thread ends with it, and so does its mount.
        let thread = std::thread::spawn(|| {
            let directory = tempfile::tempdir().unwrap();
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
            let mount = |source: &str, target: &Path, kind: Option<&str>, flags, data: Option<&str>| {
                nix::mount::mount(Some(source), target, kind, flags, data).unwrap();
            };
            let none = nix::mount::MsFlags::empty();
            mount("none", Path::new("/"), None, nix::mount::MsFlags::MS_REC | nix::mount::MsFlags::MS_PRIVATE, None);
            mount("tmpfs", directory.path(), Some("tmpfs"), none, Some("size=64k"));
            let path = directory.path().join("log");
            let mut sink = FileSink::open(&path).unwrap();
            let lines: Vec<Line> = (0..100).map(|_| format!("{}\n", "x".repeat(999)).into()).collect();
            assert_eq!(sink.deliver(&lines, &|_| false), 65, "65,536 bytes are 65 lines and a part");
            assert_eq!(sink.deliver(&lines, &|_| false), 0);
            // Somebody makes room elsewhere.
            mount("tmpfs", directory.path(), None, nix::mount::MsFlags::MS_REMOUNT, Some("size=128k"));
            assert_eq!(sink.deliver(&["last\n".into()], &|_| false), 1);
            let text = std::fs::read_to_string(&path).unwrap();
            assert_eq!((text.lines().count(), text.lines().last()), (67, Some("last")));
            drop(sink);
            nix::mount::umount(directory.path()).unwrap();
        });
        thread.join().unwrap();
    }
}

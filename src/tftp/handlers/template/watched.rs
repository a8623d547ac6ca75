//! A file that is read again after a change. While it is broken, its last valid content is used.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Identity and modification time of a file, which show that it was replaced or rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    file: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// Returns the stamp of the file at `path`.
    pub(super) fn of(path: &Path) -> io::Result<Stamp> {
        Ok(Stamp::from(&fs::metadata(path)?))
    }
}

impl From<&Metadata> for Stamp {
    fn from(about: &Metadata) -> Self {
        Stamp {
            file: (about.dev(), about.ino()),
            size: about.size(),
            modified: (about.mtime(), about.mtime_nsec()),
            changed: (about.ctime(), about.ctime_nsec()),
        }
    }
}

/// The parsed content of a file.
pub(super) struct Watched<T> {
    path: PathBuf,
    read: fn(&[u8], &str) -> Result<T, String>,
    /// Argument of `read`.
    key: String,
    state: Mutex<State<T>>,
}

struct State<T> {
    /// Stamp of the last attempt; `None` before the first one and for a missing file.
    stamp: Option<Stamp>,
    last_good: Option<Arc<T>>,
    error: Option<String>,
}

impl<T> Watched<T> {
    /// Watches a file, which is read at the first [`get`](Watched::get).
    pub(super) fn new(path: PathBuf, key: String, read: fn(&[u8], &str) -> Result<T, String>) -> Watched<T> {
        Watched { path, read, key, state: Mutex::new(State { stamp: None, last_good: None, error: None }) }
    }

    /// Returns the content of the file, or its last valid content while it is broken. Blocks.
    ///
    /// # Errors
    /// When it is broken and was never valid.
    pub(super) fn get(&self) -> Result<Arc<T>, String> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // The stamp is taken first, so that a later write shows at the next call.
        let stamp = Stamp::of(&self.path);
        let known = stamp.as_ref().is_ok_and(|stamp| state.stamp == Some(*stamp));
        if !known {
            let read = match &stamp {
                Ok(_) => fs::read(&self.path).map_err(|error| error.to_string()).and_then(|bytes| (self.read)(&bytes, &self.key)),
                Err(error) => Err(error.to_string()),
            };
            state.stamp = stamp.ok();
            match read {
                Ok(last_good) => {
                    if state.error.take().is_some() {
                        tracing::info!(file = %self.path.display(), "file is valid again");
                    }
                    state.last_good = Some(Arc::new(last_good));
                }
                // A missing file is tried at every request, but logged once.
                Err(error) if state.error.as_ref() == Some(&error) => {}
                Err(error) => {
                    let kept = if state.last_good.is_some() { ", using its last valid content" } else { "" };
                    tracing::error!(file = %self.path.display(), error, "cannot use the file{kept}");
                    state.error = Some(error);
                }
            }
        }
        match &state.last_good {
            Some(last_good) => Ok(last_good.clone()),
            None => Err(state.error.clone().unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(bytes: &[u8], _: &str) -> Result<u32, String> {
        String::from_utf8_lossy(bytes).trim().parse().map_err(|_| "not a number".to_owned())
    }

    #[test]
    fn a_broken_file_keeps_its_last_valid_content() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("n");
        let watched = Watched::new(path.clone(), String::new(), number);
        assert!(watched.get().is_err(), "no file yet");
        fs::write(&path, "x").unwrap();
        assert_eq!(watched.get(), Err("not a number".into()));
        let put = |text: &str| {
            fs::write(directory.path().join("new"), text).unwrap();
            fs::rename(directory.path().join("new"), &path).unwrap();
            watched.get().map(|n| *n)
        };
        assert_eq!(put("1"), Ok(1));
        assert_eq!(put("2"), Ok(2), "same size, another file");
        assert_eq!(put("many"), Ok(2));
        fs::remove_file(&path).unwrap();
        assert_eq!(watched.get().map(|n| *n), Ok(2));
        assert_eq!(put("4"), Ok(4));
    }
}

//! A file that is read anew when it has changed, and as it was while it is broken.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Which file it is and when it was changed: enough to see a file that was replaced, and one that was written anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    file: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// Of the file of this name.
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

/// What a file says, as `read` reads it.
pub(super) struct Watched<T> {
    path: PathBuf,
    read: fn(&[u8], &str) -> Result<T, String>,
    /// Handed to `read`.
    key: String,
    state: Mutex<State<T>>,
}

struct State<T> {
    /// Of the last attempt; nothing before the first one and when there was no file.
    stamp: Option<Stamp>,
    good: Option<Arc<T>>,
    error: Option<String>,
}

impl<T> Watched<T> {
    /// The file is not read before it is asked for.
    pub(super) fn new(path: PathBuf, key: String, read: fn(&[u8], &str) -> Result<T, String>) -> Watched<T> {
        Watched { path, read, key, state: Mutex::new(State { stamp: None, good: None, error: None }) }
    }

    /// What the file says; while it is broken, what it said before. It blocks.
    ///
    /// # Errors
    /// When it is broken and was never good.
    pub(super) fn get(&self) -> Result<Arc<T>, String> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // The stamp comes first: what is written after it shows at the next look.
        let stamp = Stamp::of(&self.path);
        let known = stamp.as_ref().is_ok_and(|stamp| state.stamp == Some(*stamp));
        if !known {
            let read = match &stamp {
                Ok(_) => fs::read(&self.path).map_err(|error| error.to_string()).and_then(|bytes| (self.read)(&bytes, &self.key)),
                Err(error) => Err(error.to_string()),
            };
            state.stamp = stamp.ok();
            match read {
                Ok(good) => {
                    if state.error.take().is_some() {
                        tracing::info!(file = %self.path.display(), "the file is good again");
                    }
                    state.good = Some(Arc::new(good));
                }
                // A file that is missing is looked for at every request, but told of once.
                Err(error) if state.error.as_ref() == Some(&error) => {}
                Err(error) => {
                    let kept = if state.good.is_some() { "; what it said before is used on" } else { "" };
                    tracing::error!(file = %self.path.display(), error, "the file cannot be used{kept}");
                    state.error = Some(error);
                }
            }
        }
        match &state.good {
            Some(good) => Ok(good.clone()),
            None => Err(state.error.clone().unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(bytes: &[u8], _: &str) -> Result<u32, String> {
        String::from_utf8_lossy(bytes).trim().parse().map_err(|_| "no number".to_owned())
    }

    #[test]
    fn a_broken_file_keeps_what_it_said() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("n");
        let watched = Watched::new(path.clone(), String::new(), number);
        assert!(watched.get().is_err(), "no file yet");
        fs::write(&path, "x").unwrap();
        assert_eq!(watched.get(), Err("no number".into()));
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

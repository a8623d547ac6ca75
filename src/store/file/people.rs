//! Who leads over health, which directors are there and what they say, on one host: locks that end with their process.

use super::super::background::{Background, Stop};
use super::super::replace::replace;
use super::super::word::Topic;
use super::super::{Leadership, Presence, ReadError};
use super::File;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde_json::Value;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::sleep;

const LEADER: &str = "leader";
/// How often somebody who stands by tries the lock.
const LOOK: Duration = Duration::from_millis(250);
/// A director's word is written at most so often.
const REST: Duration = Duration::from_millis(200);

impl File {
    pub(in super::super) fn lead(&self, name: &str) -> Leadership {
        let (path, name, leads) = (self.disk.path(LEADER), name.to_owned(), self.leads.clone());
        let background = Background::start(move |stop| async move {
            let lead = async {
                let mut lock = hold(&path).await;
                let told = lock.set_len(0).and_then(|()| lock.write_all(name.as_bytes()));
                if let Err(why) = told {
                    tracing::warn!("{}: {why}", path.display());
                }
                leads.send_replace(true);
                std::future::pending::<()>().await;
            };
            until(stop, lead).await;
            leads.send_replace(false);
        });
        Leadership::new(self.leads.subscribe(), background)
    }

    pub(in super::super) fn leader(&self) -> Result<Option<String>, ReadError> {
        let path = self.disk.path(LEADER);
        let name = held(&path).and_then(|held| if held { fs::read_to_string(&path).map(Some) } else { Ok(None) });
        name.map_err(|why| ReadError(format!("{}: {why}", path.display())))
    }

    pub(in super::super) fn say(&self, topic: Topic, name: &str, mut word: watch::Receiver<Value>) -> Presence {
        let (directory, name) = (self.disk.path(topic.directory()), name.to_owned());
        Presence::new(Background::start(move |stop| async move {
            let path = directory.join(format!("{name}.json"));
            let present = async {
                if let Err(why) = fs::create_dir_all(&directory) {
                    tracing::warn!("{}: {why}", directory.display());
                }
                let _lock = hold(&directory.join(format!("{name}.lock"))).await;
                loop {
                    let text = Some(word.borrow_and_update().clone()).filter(|word| !word.is_null()).map(|word| word.to_string());
                    let told = match text {
                        Some(text) => replace(&path, text.as_bytes()),
                        None => fs::remove_file(&path).or_else(|why| if why.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(why) }),
                    };
                    if let Err(why) = told {
                        tracing::warn!("{why}");
                    }
                    sleep(REST).await;
                    if word.changed().await.is_err() {
                        std::future::pending::<()>().await;
                    }
                }
            };
            until(stop, present).await;
        }))
    }

    pub(in super::super) fn said(&self, topic: Topic) -> Result<Vec<(String, Value)>, ReadError> {
        let directory = self.disk.path(topic.directory());
        let wrong = |why: io::Error| ReadError(format!("{}: {why}", directory.display()));
        let entries = match fs::read_dir(&directory) {
            Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(wrong)?,
        };
        let mut words = Vec::new();
        for entry in entries {
            let path: PathBuf = entry.map_err(wrong)?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".lock")) else { continue };
            if held(&path).map_err(wrong)? {
                let text = fs::read(directory.join(format!("{name}.json"))).unwrap_or_default();
                words.push((name.to_owned(), serde_json::from_slice(&text).unwrap_or_default()));
            }
        }
        words.sort_by(|one: &(String, Value), other| one.0.cmp(&other.0));
        Ok(words)
    }
}

/// Works until told to stop.
async fn until(stop: Stop, work: impl Future<Output = ()>) {
    tokio::select! {
        _ = stop => {}
        () = work => {}
    }
}

/// Waits for the lock.
async fn hold(path: &Path) -> Flock<fs::File> {
    let mut said = false;
    loop {
        let opened = OpenOptions::new().create(true).truncate(false).write(true).open(path);
        match opened.map(|file| Flock::lock(file, FlockArg::LockExclusiveNonblock)) {
            Ok(Ok(lock)) => return lock,
            Ok(Err((_, Errno::EWOULDBLOCK))) => {}
            Ok(Err((_, errno))) if !said => tracing::warn!("{}: {errno}", path.display()),
            Err(why) if !said => tracing::warn!("{}: {why}", path.display()),
            _ => {}
        }
        said = true;
        sleep(LOOK).await;
    }
}

/// Whether somebody holds the lock.
fn held(path: &Path) -> io::Result<bool> {
    let file = match fs::File::open(path) {
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(false),
        file => file?,
    };
    match Flock::lock(file, FlockArg::LockSharedNonblock) {
        Ok(_) => Ok(false),
        Err((_, Errno::EWOULDBLOCK)) => Ok(true),
        Err((_, errno)) => Err(errno.into()),
    }
}

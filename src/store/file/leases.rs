//! Leadership over health and presence records of directors on one host: locks that end with their process.

use super::super::atomic_write::atomic_write;
use super::super::background_task::{BackgroundTask, Stop};
use super::super::presence::PresenceTopic;
use super::super::{Leadership, Presence, ReadError};
use super::File;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde_json::Value;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

const LEADER: &str = "leader";
/// Interval at which a standby tries the lock.
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// Minimum time between two writes of a presence record.
const MIN_WRITE_INTERVAL: Duration = Duration::from_millis(200);
/// Interval at which a held lock is compared with the file at its path.
const LOCK_CHECK_INTERVAL: Duration = Duration::from_secs(1);

impl File {
    pub(in super::super) fn campaign(&self, name: &str) -> Leadership {
        self.campaigns.store(true, Ordering::Relaxed);
        let (path, name, leads) = (self.disk.path(LEADER), name.to_owned(), self.leads.clone());
        let background_task = BackgroundTask::start(move |stop| async move {
            let hold_lock = async {
                loop {
                    let mut lock = acquire_lock(&path).await;
                    let written = lock.set_len(0).and_then(|()| lock.write_all(name.as_bytes()));
                    if let Err(why) = written {
                        tracing::warn!("{}: {why}", path.display());
                    }
                    leads.send_replace(true);
                    while is_at(&lock, &path) {
                        sleep(POLL_INTERVAL).await;
                    }
                    leads.send_replace(false);
                    tracing::warn!("{} is gone: health leadership lost", path.display());
                }
            };
            run_until(stop, hold_lock).await;
            leads.send_replace(false);
        });
        Leadership::new(self.leads.subscribe(), background_task)
    }

    pub(in super::super) fn leader(&self) -> Result<Option<String>, ReadError> {
        let path = self.disk.path(LEADER);
        let name = is_locked(&path).and_then(|is_locked| if is_locked { fs::read_to_string(&path).map(Some) } else { Ok(None) });
        name.map_err(|why| ReadError(format!("{}: {why}", path.display())))
    }

    pub(in super::super) fn publish_presence(&self, topic: PresenceTopic, name: &str, mut record: watch::Receiver<Value>) -> Presence {
        let (directory, name) = (self.disk.path(topic.directory()), name.to_owned());
        Presence::new(BackgroundTask::start(move |stop| async move {
            let path = directory.join(format!("{name}.json"));
            let present = async {
                loop {
                    if let Err(why) = fs::create_dir_all(&directory) {
                        tracing::warn!("{}: {why}", directory.display());
                    }
                    let lock_path = directory.join(format!("{name}.lock"));
                    let lock = acquire_lock(&lock_path).await;
                    while is_at(&lock, &lock_path) {
                        let text =
                            Some(record.borrow_and_update().clone()).filter(|record| !record.is_null()).map(|record| record.to_string());
                        let written = match text {
                            Some(text) => atomic_write(&path, text.as_bytes()),
                            None => {
                                fs::remove_file(&path).or_else(|why| if why.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(why) })
                            }
                        };
                        if let Err(why) = written {
                            tracing::warn!("{why}");
                        }
                        sleep(MIN_WRITE_INTERVAL).await;
                        // A closed channel: the process still runs, but says nothing new.
                        let _late = timeout(LOCK_CHECK_INTERVAL, async {
                            if record.changed().await.is_err() {
                                std::future::pending::<()>().await;
                            }
                        })
                        .await;
                    }
                }
            };
            run_until(stop, present).await;
        }))
    }

    pub(in super::super) fn read_presence(&self, topic: PresenceTopic) -> Result<Vec<(String, Value)>, ReadError> {
        let directory = self.disk.path(topic.directory());
        let read_error = |why: io::Error| ReadError(format!("{}: {why}", directory.display()));
        let entries = match fs::read_dir(&directory) {
            Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(read_error)?,
        };
        let mut records = Vec::new();
        for entry in entries {
            let path: PathBuf = entry.map_err(read_error)?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".lock")) else { continue };
            if is_locked(&path).map_err(read_error)? {
                let text = fs::read(directory.join(format!("{name}.json"))).unwrap_or_default();
                records.push((name.to_owned(), serde_json::from_slice(&text).unwrap_or_default()));
            }
        }
        records.sort_by(|one: &(String, Value), other| one.0.cmp(&other.0));
        Ok(records)
    }
}

/// Runs until stopped.
async fn run_until(stop: Stop, work: impl Future<Output = ()>) {
    tokio::select! {
        _ = stop => {}
        () = work => {}
    }
}

/// Waits for the lock.
async fn acquire_lock(path: &Path) -> Flock<fs::File> {
    let mut warned = false;
    loop {
        let opened = OpenOptions::new().create(true).truncate(false).write(true).open(path);
        match opened.map(|file| Flock::lock(file, FlockArg::LockExclusiveNonblock)) {
            Ok(Ok(lock)) => return lock,
            Ok(Err((_, Errno::EWOULDBLOCK))) => {}
            Ok(Err((_, errno))) if !warned => tracing::warn!("{}: {errno}", path.display()),
            Err(why) if !warned => tracing::warn!("{}: {why}", path.display()),
            _ => {}
        }
        warned = true;
        sleep(POLL_INTERVAL).await;
    }
}

/// Returns whether a held lock is still the file at `path`: not when the directory was removed and made again.
fn is_at(lock: &fs::File, path: &Path) -> bool {
    let id = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    matches!((lock.metadata().map(id), fs::metadata(path).map(id)), (Ok(held), Ok(there)) if held == there)
}

/// Returns whether a process holds the lock.
fn is_locked(path: &Path) -> io::Result<bool> {
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

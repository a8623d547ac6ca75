//! What stands in the directory, read and written as a whole; the only place that knows the files of the set.

use super::super::replace::replace;
use super::super::{CommitError, Health, PoolHealth, Set};
use guideway_config::Intent;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What people write.
pub(super) const INTENT: &str = "intent.toml";
const BY_HAND: &str = "intent.by-hand.toml";
const IN_FORCE: &str = "in-force.toml";
pub(super) const SET: &str = "set.json";
const LOCK: &str = "lock";
/// How long the lock is waited for; it is held for milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often a reader tries to see both files of the same change.
const TRIES: usize = 100;

/// The first lines of an intent that was committed.
const HEADER: &str = "\
# What the directors of this host serve. Edit it, and it is in force as soon as it is saved, if it is good.\n\
# A change by API or command writes it anew without your comments; the file with them is kept as intent.by-hand.toml.\n\n";

/// `set.json`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    generation: u64,
    intent_generation: u64,
    /// SHA-256 of the text in force, in hex.
    intent_sha256: String,
    /// Whether that text was written by people.
    by_hand: bool,
    health: Health,
}

/// An `intent.toml` that is not the one in force.
pub(super) struct Edit {
    /// Its text; absent when the file is gone.
    pub(super) text: Option<String>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Disk {
    directory: PathBuf,
}

impl Disk {
    pub(super) fn open(directory: &Path) -> io::Result<Disk> {
        let made = fs::create_dir_all(directory);
        made.map_err(|why| io::Error::new(why.kind(), format!("store.path = {:?}: {why}", directory.display())))?;
        Ok(Disk { directory: directory.to_owned() })
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The set in force, and what people have made of its intent since. `last` is what was read before.
    pub(super) fn read(&self, last: &Set) -> io::Result<(Set, Option<Edit>)> {
        for _ in 0..TRIES {
            let record = self.record()?;
            let written = self.text(INTENT)?;
            let same = |text: &String| sha256(text) == record.intent_sha256;
            let edit = match &written {
                Some(text) => !same(text),
                None => record.intent_generation > 0,
            };
            let intent = if record.intent_generation == last.intent_generation {
                last.intent.clone()
            } else {
                // A writer that died half way has left one of the two as it was.
                let Some(text) = self.text(IN_FORCE)?.filter(same).or(written.clone().filter(same)) else {
                    std::thread::sleep(Duration::from_millis(1));
                    continue;
                };
                Arc::new(intent(&text).map_err(|why| io::Error::other(format!("{}: {why}", self.path(IN_FORCE).display())))?)
            };
            let Record { generation, intent_generation, health, .. } = record;
            return Ok((Set { generation, intent_generation, intent, health }, edit.then_some(Edit { text: written })));
        }
        let (set, text) = (self.path(SET), self.path(IN_FORCE));
        Err(io::Error::other(format!("{} is not what {} says is in force; save {INTENT} once more", text.display(), set.display())))
    }

    /// Puts an edit in force that was found good, unless the file has changed again.
    pub(super) fn take(&self, text: &str) -> io::Result<()> {
        let _lock = self.lock()?;
        let mut record = self.record()?;
        let digest = sha256(text);
        if record.intent_sha256 == digest || self.text(INTENT)?.as_deref() != Some(text) {
            return Ok(());
        }
        replace(&self.path(IN_FORCE), text.as_bytes())?;
        record.generation += 1;
        record = Record { intent_generation: record.generation, intent_sha256: digest, by_hand: true, ..record };
        self.write(&record)
    }

    pub(super) fn commit(&self, base: u64, intent: &Intent) -> Result<u64, CommitError> {
        let commit = || -> io::Result<Result<u64, CommitError>> {
            let _lock = self.lock()?;
            let mut record = self.record()?;
            if record.intent_generation != base {
                return Ok(Err(CommitError::Changed { base, now: record.intent_generation }));
            }
            let before = self.text(INTENT)?;
            if let Some(text) = &before {
                if sha256(text) != record.intent_sha256 {
                    let path = self.path(INTENT);
                    let why = format!("{} was edited and is not in force yet, or has errors: mend it or put it back", path.display());
                    return Ok(Err(CommitError::Away(why)));
                }
                if record.by_hand {
                    replace(&self.path(BY_HAND), text.as_bytes())?;
                }
            }
            let text = format!("{HEADER}{}", intent.to_toml());
            replace(&self.path(IN_FORCE), text.as_bytes())?;
            replace(&self.path(INTENT), text.as_bytes())?;
            record.generation += 1;
            record = Record { intent_generation: record.generation, intent_sha256: sha256(&text), by_hand: false, ..record };
            self.write(&record)?;
            Ok(Ok(record.generation))
        };
        commit().unwrap_or_else(|why| Err(CommitError::Away(why.to_string())))
    }

    pub(super) fn publish(&self, pools: &[(String, PoolHealth)]) -> Result<u64, CommitError> {
        let publish = || -> io::Result<u64> {
            let _lock = self.lock()?;
            let mut record = self.record()?;
            record.generation += 1;
            PoolHealth::update(&mut record.health, pools);
            self.write(&record)?;
            Ok(record.generation)
        };
        publish().map_err(|why| CommitError::Away(why.to_string()))
    }

    pub(super) fn intent_generation(&self) -> io::Result<u64> {
        Ok(self.record()?.intent_generation)
    }

    fn record(&self) -> io::Result<Record> {
        let Some(text) = self.text(SET)? else { return Ok(Record::default()) };
        serde_json::from_str(&text).map_err(|why| {
            let path = self.path(SET);
            io::Error::other(format!("{} cannot be read: {why}; remove it, and {INTENT} is taken anew", path.display()))
        })
    }

    fn write(&self, record: &Record) -> io::Result<()> {
        replace(&self.path(SET), &serde_json::to_vec(record).map_err(io::Error::other)?)
    }

    fn text(&self, name: &str) -> io::Result<Option<String>> {
        let path = self.path(name);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(why) => Err(io::Error::new(why.kind(), format!("{}: {why}", path.display()))),
        }
    }

    fn lock(&self) -> io::Result<Flock<File>> {
        let path = self.path(LOCK);
        let named = |why: io::Error| io::Error::new(why.kind(), format!("{}: {why}", path.display()));
        let mut file = OpenOptions::new().create(true).append(true).open(&path).map_err(named)?;
        let until = Instant::now() + PATIENCE;
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => return Ok(lock),
                Err((back, Errno::EWOULDBLOCK | Errno::EINTR)) if Instant::now() < until => file = back,
                Err((_, Errno::EWOULDBLOCK)) => return Err(named(io::Error::other(format!("somebody holds this lock for {PATIENCE:?}")))),
                Err((_, errno)) => return Err(named(errno.into())),
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The intent of a text.
///
/// # Errors
/// Every error of it, a line each.
pub(super) fn intent(text: &str) -> Result<Intent, String> {
    let checked = guideway_config::read_intent(text);
    let errors: Vec<String> = checked.errors().map(ToString::to_string).collect();
    checked.config.ok_or_else(|| errors.join("\n"))
}

fn sha256(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

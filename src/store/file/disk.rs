//! The files of the store's directory, read and written as a whole; the only place that knows their format.

use super::super::atomic_write::atomic_write;
use super::super::history;
use super::super::{ClusterState, CommitError, Health, HistoryEntry, Lineage, Origin, PoolHealth};
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

/// The file that operators edit.
pub(super) const INTENT: &str = "intent.toml";
const EDITED_INTENT: &str = "intent.edited.toml";
const ACTIVE_INTENT: &str = "active.toml";
pub(super) const STATE: &str = "state.json";
const LOCK: &str = "lock";
/// Maximum time to wait for the lock; it is held for milliseconds.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);
/// Number of attempts of a reader to see both files of the same change.
const TRIES: usize = 100;

/// The first lines of a committed intent.
const HEADER: &str = "\
# VIPs and pools of the directors on this host. An edit takes effect as soon as it is saved, if it is valid.\n\
# A change by the API or a command rewrites this file without your comments; the file with them is kept as intent.edited.toml.\n\n";

/// `state.json`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    generation: u64,
    intent_generation: u64,
    /// SHA-256 of the text in force, in hex.
    intent_sha256: String,
    /// Whether an operator wrote that text.
    manual: bool,
    /// Empty in a file that was written before there were any.
    #[serde(default)]
    lineage: Lineage,
    health: Health,
}

/// The last intent that was read, so that an unchanged text is not parsed again.
#[derive(Debug, Default)]
pub(super) struct IntentCache {
    sha256: String,
    intent: Arc<Intent>,
}

/// An `intent.toml` that is not the intent in force.
pub(super) struct PendingEdit {
    /// Its text; absent when the file is gone.
    pub(super) text: Option<String>,
}

/// The files; see the module.
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

    /// Reads the cluster state in force, and an edited intent if there is one. Contents that cannot be used are `InvalidData`.
    pub(super) fn read(&self, last: &mut IntentCache) -> io::Result<(ClusterState, Option<PendingEdit>)> {
        for _ in 0..TRIES {
            let record = self.record()?;
            let written = self.text(INTENT)?;
            let same = |text: &String| sha256(text) == record.intent_sha256;
            let edit = match &written {
                Some(text) => !same(text),
                None => record.intent_generation > 0,
            };
            if record.intent_sha256 != last.sha256 {
                // A writer that died half way left one of the two unchanged.
                let found = match record.intent_sha256.as_str() {
                    // Nothing was committed yet.
                    "" => Some(String::new()),
                    _ => self.text(ACTIVE_INTENT)?.filter(same).or(written.clone().filter(same)),
                };
                let Some(text) = found else {
                    std::thread::sleep(Duration::from_millis(1));
                    continue;
                };
                let intent = intent(&text).map_err(|why| invalid(format!("{}: {why}", self.path(ACTIVE_INTENT).display())))?;
                *last = IntentCache { sha256: record.intent_sha256, intent: Arc::new(intent) };
            }
            let Record { generation, intent_generation, lineage, health, .. } = record;
            let cluster = ClusterState { generation, intent_generation, lineage, intent: last.intent.clone(), health };
            return Ok((cluster, edit.then_some(PendingEdit { text: written })));
        }
        let (state, text) = (self.path(STATE), self.path(ACTIVE_INTENT));
        Err(invalid(format!("{} does not match {}; `guideway store restore` repairs it", text.display(), state.display())))
    }

    /// Puts a valid edit in force, unless the file has changed again.
    pub(super) fn activate(&self, text: &str) -> io::Result<()> {
        let _lock = self.lock()?;
        let mut record = self.record()?;
        let digest = sha256(text);
        if record.intent_sha256 == digest || self.text(INTENT)?.as_deref() != Some(text) {
            return Ok(());
        }
        let parsed = intent(text).map_err(invalid)?;
        let entry = self.entry(&record, &parsed, &self.editor());
        record.generation += 1;
        self.write_history(&HistoryEntry { generation: record.generation, ..entry.clone() })?;
        atomic_write(&self.path(ACTIVE_INTENT), text.as_bytes())?;
        let lineage = record.lineage.or_new();
        record = Record { intent_generation: record.generation, intent_sha256: digest, manual: true, lineage, ..record };
        self.write(&record)?;
        history::audit(&entry, &Ok(record.generation));
        Ok(())
    }

    /// Writes `copy` as the state in force, whatever there is now.
    pub(super) fn restore(&self, copy: &ClusterState, entry: HistoryEntry) -> io::Result<u64> {
        fs::create_dir_all(&self.directory)?;
        let _lock = self.lock()?;
        // It may be what is broken.
        let there = self.record().unwrap_or_default();
        if let Some(text) = self.text(INTENT)?.filter(|text| there.manual || sha256(text) != there.intent_sha256) {
            atomic_write(&self.path(EDITED_INTENT), text.as_bytes())?;
        }
        let lineage = if copy.lineage.id.is_empty() { there.lineage.clone() } else { copy.lineage.clone() };
        let record = Record {
            generation: there.generation.max(copy.generation),
            lineage: lineage.accepted_now(&[there.lineage.accepted, copy.lineage.accepted]),
            health: copy.health.clone(),
            ..Record::default()
        };
        self.write_intent(&format!("{HEADER}{}", copy.intent.to_toml()), record, entry)
    }

    /// Declares what is there as right: the edited intent, or else the one in force. `known` is when an operator last did so.
    pub(super) fn accept(&self, known: u64, origin: &Origin) -> io::Result<u64> {
        let _lock = self.lock()?;
        let record = self.record()?;
        let text = match self.text(INTENT)? {
            Some(text) => text,
            None => self.text(ACTIVE_INTENT)?.unwrap_or_else(|| HEADER.to_owned()),
        };
        let entry = self.entry(&record, &intent(&text).map_err(invalid)?, origin);
        let lineage = record.lineage.clone().accepted_now(&[record.lineage.accepted, known]);
        self.write_intent(&text, Record { lineage, manual: true, ..record }, entry)
    }

    /// Describes the change of the intent in force to `after`.
    fn entry(&self, record: &Record, after: &Intent, origin: &Origin) -> HistoryEntry {
        let before = match record.intent_generation {
            0 => Some(Intent::default()),
            _ => self.text(ACTIVE_INTENT).ok().flatten().and_then(|text| intent(&text).ok()),
        };
        HistoryEntry::new(origin, record.intent_generation, before.as_ref(), after)
    }

    /// Writes an intent as the next generation after that of `record`.
    fn write_intent(&self, text: &str, record: Record, entry: HistoryEntry) -> io::Result<u64> {
        self.write_history(&HistoryEntry { generation: record.generation + 1, base: record.intent_generation, ..entry })?;
        atomic_write(&self.path(ACTIVE_INTENT), text.as_bytes())?;
        if self.text(INTENT)?.as_deref() != Some(text) {
            atomic_write(&self.path(INTENT), text.as_bytes())?;
        }
        let generation = record.generation + 1;
        self.write(&Record { generation, intent_generation: generation, intent_sha256: sha256(text), ..record })?;
        Ok(generation)
    }

    pub(super) fn commit(&self, base: u64, intent: &Intent, entry: HistoryEntry) -> Result<u64, CommitError> {
        let commit = move || -> io::Result<Result<u64, CommitError>> {
            let _lock = self.lock()?;
            let mut record = self.record()?;
            if record.intent_generation != base {
                return Ok(Err(CommitError::Changed { base, now: record.intent_generation }));
            }
            let before = self.text(INTENT)?;
            if let Some(text) = &before {
                if sha256(text) != record.intent_sha256 {
                    let path = self.path(INTENT);
                    let why = format!("{} was edited and is not in force yet, or has errors: correct or restore it", path.display());
                    return Ok(Err(CommitError::Unavailable(why)));
                }
                if record.manual {
                    atomic_write(&self.path(EDITED_INTENT), text.as_bytes())?;
                }
            }
            let lineage = record.lineage.or_new();
            record = Record { manual: false, lineage, ..record };
            self.write_intent(&format!("{HEADER}{}", intent.to_toml()), record, entry).map(Ok)
        };
        commit().unwrap_or_else(|why| Err(CommitError::Unavailable(why.to_string())))
    }

    /// Publishes health, unless the directory holds another history than `lineage`.
    pub(super) fn publish(&self, pools: &[(String, PoolHealth)], lineage: &Lineage) -> Result<u64, CommitError> {
        let publish = || -> io::Result<u64> {
            let _lock = self.lock()?;
            let mut record = self.record()?;
            if !lineage.id.is_empty() && record.lineage.id != lineage.id {
                return Err(invalid(format!("{} was emptied or replaced", self.directory.display())));
            }
            record.lineage = record.lineage.or_new();
            record.generation += 1;
            PoolHealth::update(&mut record.health, pools);
            self.write(&record)?;
            Ok(record.generation)
        };
        publish().map_err(|why| CommitError::Unavailable(why.to_string()))
    }

    /// Returns the changes, at most `limit`, the newest first.
    pub(super) fn history(&self, limit: usize) -> io::Result<Vec<HistoryEntry>> {
        self.read_history(self.record()?.intent_generation, limit)
    }

    pub(super) fn intent_generation(&self) -> io::Result<u64> {
        Ok(self.record()?.intent_generation)
    }

    fn record(&self) -> io::Result<Record> {
        let Some(text) = self.text(STATE)? else { return Ok(Record::default()) };
        serde_json::from_str(&text).map_err(|why| {
            let path = self.path(STATE);
            invalid(format!("{} cannot be read: {why}; `guideway store restore` repairs it", path.display()))
        })
    }

    fn write(&self, record: &Record) -> io::Result<()> {
        atomic_write(&self.path(STATE), &serde_json::to_vec(record).map_err(io::Error::other)?)
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
        let until = Instant::now() + LOCK_TIMEOUT;
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => return Ok(lock),
                Err((back, Errno::EWOULDBLOCK | Errno::EINTR)) if Instant::now() < until => file = back,
                Err((_, Errno::EWOULDBLOCK)) => {
                    return Err(named(io::Error::other(format!("another process has held this lock for {LOCK_TIMEOUT:?}"))));
                }
                Err((_, errno)) => return Err(named(errno.into())),
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

pub(super) fn invalid(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Parses the intent of a text.
///
/// # Errors
/// Returns all errors of the text, one a line.
pub(super) fn intent(text: &str) -> Result<Intent, String> {
    let checked = guideway_config::read_intent(text);
    let errors: Vec<String> = checked.errors().map(ToString::to_string).collect();
    checked.config.ok_or_else(|| errors.join("\n"))
}

fn sha256(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

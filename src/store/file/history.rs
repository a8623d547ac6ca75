//! The history in the store's directory: a file for each change of the intent. It is written before `state.json`, which makes the change
//! happen; a writer that dies between the two leaves an entry that readers leave out.

use super::super::atomic_write::atomic_write;
use super::super::{HistoryEntry, Origin, history};
use super::disk::{Disk, INTENT, invalid};
use nix::unistd::{Uid, User};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

const HISTORY: &str = "history";

impl Disk {
    /// Returns who edited `intent.toml`: all that is known is whose file it is.
    pub(super) fn editor(&self) -> Origin {
        let path = self.path(INTENT);
        let owner = fs::metadata(&path).map(|metadata| Uid::from_raw(metadata.uid())).ok();
        let name = |uid: Uid| User::from_uid(uid).ok().flatten().map_or_else(|| format!("uid {uid}"), |user| user.name);
        let who = owner.map_or_else(|| "unknown".to_owned(), name);
        Origin { who, from: format!("an edit of {}, which is theirs", path.display()), reason: None }
    }

    /// Writes an entry, and removes the oldest if there are too many. The caller holds the lock.
    pub(super) fn write_history(&self, entry: &HistoryEntry) -> io::Result<()> {
        let directory = self.path(HISTORY);
        fs::create_dir_all(&directory)?;
        let bytes = serde_json::to_vec(entry).map_err(io::Error::other)?;
        atomic_write(&directory.join(format!("{:020}.json", entry.generation)), &bytes)?;
        for (_, path) in self.history_files()?.into_iter().skip(HistoryEntry::kept(bytes.len())) {
            fs::remove_file(path)?;
        }
        Ok(())
    }

    /// Returns the entries of changes up to the intent of generation `newest`, at most `limit`, the newest first.
    pub(super) fn read_history(&self, newest: u64, limit: usize) -> io::Result<Vec<HistoryEntry>> {
        let mut entries: Vec<HistoryEntry> = Vec::new();
        for (_, path) in self.history_files()?.into_iter().filter(|(generation, _)| *generation <= newest) {
            if entries.len() >= limit {
                break;
            }
            let bytes = match fs::read(&path) {
                // Another process has removed the oldest meanwhile.
                Err(why) if why.kind() == io::ErrorKind::NotFound => continue,
                bytes => bytes?,
            };
            entries.push(serde_json::from_slice(&bytes).map_err(|why| invalid(format!("{}: {why}", path.display())))?);
            entries = history::happened(entries, newest);
        }
        Ok(entries)
    }

    /// Returns the files with their generations, the newest first.
    fn history_files(&self) -> io::Result<Vec<(u64, PathBuf)>> {
        let entries = match fs::read_dir(self.path(HISTORY)) {
            Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut files = Vec::new();
        for entry in entries {
            let path = entry?.path();
            let generation = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".json")?.parse().ok());
            files.extend(generation.map(|generation| (generation, path)));
        }
        files.sort_unstable_by_key(|(generation, _)| std::cmp::Reverse(*generation));
        Ok(files)
    }
}

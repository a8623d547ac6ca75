//! The directory of the cache: partial files, complete files, and files of earlier server processes.
//!
//! A file has a temporary name until it is complete and on disk. Its description (URL, validators, size, tag) follows its bytes, so that
//! one rename publishes both.

use super::meta::Meta;
use super::object::Object;
use crate::content::Version;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

/// Last bytes of every file of the cache; the last digit is the version of this layout.
const MAGIC: &[u8; 8] = b"gwcache1";
/// Size of the trailer: length of the description in eight bytes, and the magic.
const END: u64 = 16;
const MAX_DESCRIPTION: u64 = 64 << 10;
const PARTIAL: &str = "part";
const COMPLETE: &str = "whole";

pub(super) struct Disk {
    directory: PathBuf,
    next: AtomicU64,
    /// Lock of the directory, held while it is used.
    _lock: Flock<File>,
}

#[derive(Serialize, Deserialize)]
struct Description {
    url: String,
    size: u64,
    version: [u8; 16],
    meta: Meta,
}

/// A complete file of the cache. It need not be open, because there may be more files than descriptors.
#[derive(Clone, Debug)]
pub(super) struct CachedFile {
    meta: Meta,
    pub(super) size: u64,
    version: Version,
    pub(super) path: PathBuf,
}

impl CachedFile {
    /// Opens it for readers.
    pub(super) fn open(&self) -> io::Result<Object> {
        let file = File::open(&self.path)?;
        if file.metadata()?.len() < self.size {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the file in the cache was cut short"));
        }
        Ok(Object::whole(self.meta.clone(), self.size, self.version, file, self.path.clone()))
    }
}

/// A complete file of an earlier server process.
pub(super) struct Found {
    pub(super) url: String,
    pub(super) cached: CachedFile,
    pub(super) written: SystemTime,
}

impl Disk {
    /// Locks the directory, creates it if needed, and removes partial files of earlier server processes.
    pub(super) fn open(directory: &Path) -> io::Result<(Disk, Vec<Found>)> {
        fs::create_dir_all(directory)?;
        let lock = File::options().create(true).write(true).truncate(false).open(directory.join("lock"))?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
            nix::errno::Errno::EAGAIN => {
                let message =
                    format!("{} is already the cache of another handler or server; each needs its own directory", directory.display());
                io::Error::new(io::ErrorKind::ResourceBusy, message)
            }
            errno => errno.into(),
        })?;
        let mut found = Vec::new();
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some(PARTIAL) => remove(&path),
                Some(COMPLETE) => match load_entry(&path) {
                    Ok(whole) => found.push(whole),
                    Err(error) => {
                        tracing::warn!(file = %path.display(), %error, "damaged cache file removed");
                        remove(&path);
                    }
                },
                _ => {}
            }
        }
        // Numbers continue after those of all existing files.
        let number = |found: &Found| found.cached.path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<u64>().ok());
        let next = found.iter().filter_map(number).max().map_or(0, |last| last.saturating_add(1));
        Ok((Disk { directory: directory.to_owned(), next: AtomicU64::new(next), _lock: lock }, found))
    }

    /// Creates an empty file for a new object.
    pub(super) fn create(&self, meta: Meta) -> io::Result<Object> {
        let path = self.directory.join(format!("{}.{PARTIAL}", self.next.fetch_add(1, Ordering::Relaxed)));
        let file = File::options().create_new(true).read(true).write(true).open(&path)?;
        Ok(Object::partial(meta, file, path))
    }
}

/// Syncs a complete object to disk under its final name. Blocks.
pub(super) fn settle(object: &Object, url: &str, size: u64, version: Version) -> io::Result<CachedFile> {
    let description = Description { url: url.to_owned(), size, version: version.0, meta: object.meta.clone() };
    let mut end = serde_json::to_vec(&description)?;
    end.extend((end.len() as u64).to_be_bytes());
    end.extend(MAGIC);
    object.file().write_all_at(&end, size)?;
    object.file().sync_data()?;
    let path = object.path().with_extension(COMPLETE);
    object.rename(&path)?;
    Ok(CachedFile { meta: object.meta.clone(), size, version, path })
}

/// Removes a file of the cache.
pub(super) fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(file = %path.display(), %error, "cannot remove cache file");
    }
}

fn load_entry(path: &Path) -> io::Result<Found> {
    let invalid = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
    let mut file = File::open(path)?;
    let about = file.metadata()?;
    let start = about.len().checked_sub(END).ok_or_else(|| invalid("it is too short"))?;
    let mut end = [0; END as usize];
    file.read_exact_at(&mut end, start)?;
    let (len, magic) = end.split_at(8);
    let len = len.try_into().map(u64::from_be_bytes).unwrap_or(u64::MAX);
    if magic != MAGIC || len > MAX_DESCRIPTION || len > start {
        return Err(invalid("it has no description"));
    }
    file.seek(SeekFrom::Start(start - len))?;
    let mut text = Vec::new();
    (&mut file).take(len).read_to_end(&mut text)?;
    let description: Description = serde_json::from_slice(&text)?;
    if description.size != start - len {
        return Err(invalid("its size is not the one that it was written with"));
    }
    let Description { url, size, version, meta } = description;
    let cached = CachedFile { meta, size, version: Version(version), path: path.to_owned() };
    Ok(Found { url, cached, written: about.modified()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Source;
    use crate::handlers::testing::read_source;

    fn keep(disk: &Disk, url: &str, bytes: &[u8]) -> Object {
        let object = disk.create(Meta { size: None, etag: Some("\"e\"".into()), last_modified: None, settled: false }).unwrap();
        object.write(0, bytes).unwrap();
        settle(&object, url, bytes.len() as u64, Version([7; 16])).unwrap();
        object
    }

    #[test]
    fn complete_files_are_reused_and_partial_ones_removed() {
        let directory = tempfile::tempdir().unwrap();
        let (disk, found) = Disk::open(directory.path()).unwrap();
        assert!(found.is_empty());
        keep(&disk, "http://h/a", b"aaa");
        let cut = keep(&disk, "http://h/b", b"bbb").path();
        let partial = disk.create(Meta { size: Some(9), etag: None, last_modified: None, settled: false }).unwrap();
        partial.write(0, b"cc").unwrap();
        assert!(
            Disk::open(directory.path()).is_err_and(|e| e.to_string().contains("another")),
            "two servers would remove each other's files"
        );
        drop((disk, partial));
        let text = fs::read(&cut).unwrap();
        fs::write(&cut, &text[1..]).unwrap();

        let (disk, found) = Disk::open(directory.path()).unwrap();
        assert_eq!(found.len(), 1);
        let object = found[0].cached.open().unwrap();
        assert_eq!((found[0].url.as_str(), object.version()), ("http://h/a", Version([7; 16])));
        assert_eq!(read_source(&object).unwrap(), b"aaa");
        let mut left: Vec<_> = fs::read_dir(directory.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["0.whole", "lock"]);
        assert_eq!(disk.create(object.meta.clone()).unwrap().path().file_name().unwrap(), "1.part");
    }
}

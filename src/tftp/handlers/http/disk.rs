//! The cache's directory: files that come, files that are whole, and what an earlier server left there.
//!
//! A file comes under a temporary name and gets its lasting one when it is whole and on the disk. Behind its bytes stands what it is: URL,
//! validators, size, tag; so one rename makes bytes and description appear together.

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

/// Ends every file of the cache; its last digit is the version of this layout.
const MAGIC: &[u8; 8] = b"gwcache1";
/// Length of the description in eight bytes, and the magic.
const END: u64 = 16;
const LONGEST_DESCRIPTION: u64 = 64 << 10;
const COMING: &str = "part";
const WHOLE: &str = "whole";

pub(super) struct Disk {
    directory: PathBuf,
    next: AtomicU64,
    /// Held as long as the directory is used.
    _lock: Flock<File>,
}

#[derive(Serialize, Deserialize)]
struct Description {
    url: String,
    size: u64,
    version: [u8; 16],
    meta: Meta,
}

/// A whole file of the cache that need not be open: there may be more of them than descriptors.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    meta: Meta,
    pub(super) size: u64,
    version: Version,
    pub(super) path: PathBuf,
}

impl Kept {
    /// Opens it for those who read.
    pub(super) fn open(&self) -> io::Result<Object> {
        let file = File::open(&self.path)?;
        if file.metadata()?.len() < self.size {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the file in the cache was cut short"));
        }
        Ok(Object::whole(self.meta.clone(), self.size, self.version, file, self.path.clone()))
    }
}

/// A whole file that an earlier server left.
pub(super) struct Found {
    pub(super) url: String,
    pub(super) kept: Kept,
    pub(super) written: SystemTime,
}

impl Disk {
    /// Takes the directory, makes it if need be, and removes what was still coming when an earlier server ended.
    pub(super) fn open(directory: &Path) -> io::Result<(Disk, Vec<Found>)> {
        fs::create_dir_all(directory)?;
        let lock = File::options().create(true).write(true).truncate(false).open(directory.join("lock"))?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
            nix::errno::Errno::EAGAIN => {
                let message = format!("{} is the cache of another handler or server; each needs one of its own", directory.display());
                io::Error::new(io::ErrorKind::ResourceBusy, message)
            }
            errno => errno.into(),
        })?;
        let mut found = Vec::new();
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some(COMING) => remove(&path),
                Some(WHOLE) => match take_over(&path) {
                    Ok(whole) => found.push(whole),
                    Err(error) => {
                        tracing::warn!(file = %path.display(), %error, "a file in the cache is damaged and is removed");
                        remove(&path);
                    }
                },
                _ => {}
            }
        }
        // Numbers go on behind those of every file that is there.
        let number = |found: &Found| found.kept.path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<u64>().ok());
        let next = found.iter().filter_map(number).max().map_or(0, |last| last.saturating_add(1));
        Ok((Disk { directory: directory.to_owned(), next: AtomicU64::new(next), _lock: lock }, found))
    }

    /// A new, empty file for an object that comes.
    pub(super) fn create(&self, meta: Meta) -> io::Result<Object> {
        let path = self.directory.join(format!("{}.{COMING}", self.next.fetch_add(1, Ordering::Relaxed)));
        let file = File::options().create_new(true).read(true).write(true).open(&path)?;
        Ok(Object::coming(meta, file, path))
    }
}

/// Puts an object of which every byte is there to the disk, for later servers, too. It blocks.
pub(super) fn settle(object: &Object, url: &str, size: u64, version: Version) -> io::Result<Kept> {
    let description = Description { url: url.to_owned(), size, version: version.0, meta: object.meta.clone() };
    let mut end = serde_json::to_vec(&description)?;
    end.extend((end.len() as u64).to_be_bytes());
    end.extend(MAGIC);
    object.file().write_all_at(&end, size)?;
    object.file().sync_data()?;
    let path = object.path().with_extension(WHOLE);
    object.rename(&path)?;
    Ok(Kept { meta: object.meta.clone(), size, version, path })
}

/// Removes a file of the cache.
pub(super) fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(file = %path.display(), %error, "a file in the cache cannot be removed");
    }
}

fn take_over(path: &Path) -> io::Result<Found> {
    let invalid = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
    let mut file = File::open(path)?;
    let about = file.metadata()?;
    let start = about.len().checked_sub(END).ok_or_else(|| invalid("it is too short"))?;
    let mut end = [0; END as usize];
    file.read_exact_at(&mut end, start)?;
    let (len, magic) = end.split_at(8);
    let len = len.try_into().map(u64::from_be_bytes).unwrap_or(u64::MAX);
    if magic != MAGIC || len > LONGEST_DESCRIPTION || len > start {
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
    let kept = Kept { meta, size, version: Version(version), path: path.to_owned() };
    Ok(Found { url, kept, written: about.modified()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Content;
    use crate::handlers::testing::read_all;

    fn keep(disk: &Disk, url: &str, bytes: &[u8]) -> Object {
        let object = disk.create(Meta { size: None, etag: Some("\"e\"".into()), last_modified: None, settled: false }).unwrap();
        object.write(0, bytes).unwrap();
        settle(&object, url, bytes.len() as u64, Version([7; 16])).unwrap();
        object
    }

    #[test]
    fn what_was_whole_is_taken_over_and_the_rest_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let (disk, found) = Disk::open(directory.path()).unwrap();
        assert!(found.is_empty());
        keep(&disk, "http://h/a", b"aaa");
        let cut = keep(&disk, "http://h/b", b"bbb").path();
        let coming = disk.create(Meta { size: Some(9), etag: None, last_modified: None, settled: false }).unwrap();
        coming.write(0, b"cc").unwrap();
        assert!(
            Disk::open(directory.path()).is_err_and(|e| e.to_string().contains("another")),
            "two servers would remove each other's files"
        );
        drop((disk, coming));
        let text = fs::read(&cut).unwrap();
        fs::write(&cut, &text[1..]).unwrap();

        let (disk, found) = Disk::open(directory.path()).unwrap();
        assert_eq!(found.len(), 1);
        let object = found[0].kept.open().unwrap();
        assert_eq!((found[0].url.as_str(), object.version()), ("http://h/a", Version([7; 16])));
        assert_eq!(read_all(&object).unwrap(), b"aaa");
        let mut left: Vec<_> = fs::read_dir(directory.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["0.whole", "lock"]);
        assert_eq!(disk.create(object.meta.clone()).unwrap().path().file_name().unwrap(), "1.part");
    }
}

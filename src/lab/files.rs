//! The files that are fetched: a few different ones, each under a name of its own for every transfer.

use guideway_host::error::{Context, Error};
use nix::sys::statvfs::statvfs;
use sha2::{Digest, Sha256};
use siphasher::sip::SipHasher13;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// Most files with different content.
const MAX_DISTINCT: u32 = 4;

/// What names of files begin with.
const PREFIX: &str = "transfer-";

/// SHA-256 of a file.
pub type Sha256Digest = [u8; 32];

/// The files, on the lab's tmpfs.
#[derive(Clone, Debug)]
pub struct Files {
    /// The directory that servers serve, unless each has one of its own.
    pub root: PathBuf,
    /// The directory that clients fetch to.
    pub download_dir: PathBuf,
    /// The directories of servers that have one of their own, and whether the files there have changed.
    server_roots: Arc<Mutex<Vec<(PathBuf, bool)>>>,
    digests: Vec<Sha256Digest>,
    /// Those of what the files change to.
    changed: Vec<Sha256Digest>,
}

impl Files {
    /// Makes the files for `transfers` transfers, of `size` bytes each, below `directory`.
    ///
    /// # Errors
    /// When they do not fit, together with `concurrency` copies.
    pub fn make(directory: &Path, size: u64, transfers: u32, concurrency: u32, seed: u64) -> Result<Self, Error> {
        let distinct = transfers.min(MAX_DISTINCT);
        check_free_space(directory, size.saturating_mul(u64::from(distinct + concurrency.min(transfers))))?;
        let (root, download_dir) = (directory.join("served"), directory.join("fetched"));
        let files = Files { root, download_dir, server_roots: Arc::default(), digests: Vec::new(), changed: Vec::new() };
        for directory in [&files.root, &files.download_dir] {
            std::fs::create_dir(directory).with_context(|| format!("making {}", directory.display()))?;
        }
        let make = |number| {
            let path = files.content(number);
            write_file(&path, size, seed ^ u64::from(number) << 32).with_context(|| format!("writing {}", path.display()))
        };
        let digests = (0..distinct).map(make).collect::<Result<_, _>>()?;
        Ok(Files { digests, ..files })
    }

    /// Gives each of these servers a directory of its own, and makes what their files may change to: as long, and other bytes.
    ///
    /// # Errors
    /// When the directories cannot be made, or the files do not fit.
    pub fn with_server_roots(mut self, names: &[String], size: u64, seed: u64) -> Result<Self, Error> {
        check_free_space(&self.root, size.saturating_mul(self.digests.len() as u64))?;
        for name in names {
            let server_root = self.root.join(name);
            std::fs::create_dir(&server_root).with_context(|| format!("making {}", server_root.display()))?;
            self.server_roots().push((server_root, false));
        }
        let make = |number| {
            let path = self.new_content(number);
            write_file(&path, size, !seed ^ u64::from(number) << 32).with_context(|| format!("writing {}", path.display()))
        };
        self.changed = (0..self.digests.len() as u32).map(make).collect::<Result<_, _>>()?;
        Ok(self)
    }

    /// What the server at this place of the list serves.
    pub fn server_root(&self, server: usize) -> PathBuf {
        self.server_roots().get(server).map_or_else(|| self.root.clone(), |(server_root, _)| server_root.clone())
    }

    /// Changes every file on the disk of the server at this place, those that are being fetched too: a new file under the old name.
    pub fn replace_files(&self, server: usize) -> std::io::Result<()> {
        let mut server_roots = self.server_roots();
        let Some((server_root, changed)) = server_roots.get_mut(server) else { return Ok(()) };
        *changed = true;
        for number in 0..self.changed.len() as u32 {
            // As if it had been written now.
            std::fs::File::options().write(true).open(self.new_content(number))?.set_modified(SystemTime::now())?;
        }
        for entry in std::fs::read_dir(&*server_root)? {
            let entry = entry?;
            let number = entry.file_name().to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse().ok());
            if let Some(number) = number {
                let temporary = server_root.join("new");
                std::fs::hard_link(self.new_content(self.content_index(number)), &temporary)?;
                std::fs::rename(&temporary, entry.path())?;
            }
        }
        Ok(())
    }

    fn server_roots(&self) -> MutexGuard<'_, Vec<(PathBuf, bool)>> {
        self.server_roots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file that transfer `number` sends.
    pub fn source(&self, number: u32) -> PathBuf {
        self.content(self.content_index(number))
    }

    /// Where transfer `number` put its file: one server has it.
    pub fn uploaded(&self, number: u32) -> Vec<PathBuf> {
        let servers = self.server_roots();
        let roots = servers.iter().map(|(root, _)| root).chain(servers.is_empty().then_some(&self.root));
        roots.map(|root| root.join(Self::name(number))).filter(|file| file.exists()).collect()
    }

    fn content(&self, number: u32) -> PathBuf {
        self.root.join(format!("content-{number}"))
    }

    fn new_content(&self, number: u32) -> PathBuf {
        self.root.join(format!("new-content-{number}"))
    }

    /// The name under which transfer `number` asks for its file.
    pub fn name(number: u32) -> String {
        format!("{PREFIX}{number}")
    }

    /// Puts the file of transfer `number` in place.
    pub fn link_file(&self, number: u32) -> std::io::Result<()> {
        let (content, name) = (self.content_index(number), Self::name(number));
        let server_roots = self.server_roots();
        if server_roots.is_empty() {
            return std::fs::hard_link(self.content(content), self.root.join(name));
        }
        server_roots.iter().try_for_each(|(server_root, changed)| {
            let content = if *changed { self.new_content(content) } else { self.content(content) };
            std::fs::hard_link(content, server_root.join(&name))
        })
    }

    /// Takes it away again.
    pub fn unlink_file(&self, number: u32) {
        let (name, server_roots) = (Self::name(number), self.server_roots());
        // They are gone at the latest with the tmpfs.
        if server_roots.is_empty() {
            let _gone = std::fs::remove_file(self.root.join(&name));
        }
        for (server_root, _) in &*server_roots {
            let _gone = std::fs::remove_file(server_root.join(&name));
        }
    }

    /// Whether transfer `number` may have this SHA-256: that of its file, or of the one that it changed to. A mixture has neither.
    pub fn accepts(&self, number: u32, digest: &Sha256Digest) -> bool {
        let index = self.content_index(number) as usize;
        [&self.digests, &self.changed].into_iter().any(|digests| digests.get(index) == Some(digest))
    }

    /// Writes the SHA-256 of transfer `number` to a file, as `sha256sum` does.
    pub fn write_digest(&self, number: u32, to: &Path) -> std::io::Result<()> {
        let digest = self.digests.get(self.content_index(number) as usize).ok_or(std::io::ErrorKind::NotFound)?;
        let digits: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        std::fs::write(to, format!("{digits}  {}\n", Self::name(number)))
    }

    fn content_index(&self, number: u32) -> u32 {
        number % (self.digests.len() as u32).max(1)
    }
}

fn check_free_space(directory: &Path, needed: u64) -> Result<(), Error> {
    let room = statvfs(directory).with_context(|| "asking for room on the tmpfs".to_owned())?;
    let available = room.blocks_available() * room.fragment_size();
    if needed > available {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        let message = format!(
            "--size and --concurrency: the files need {} MiB of memory at once, and the lab's tmpfs has {} MiB: give smaller ones",
            mib(needed),
            mib(available)
        );
        return Err(Error::Usage(message));
    }
    Ok(())
}

fn write_file(path: &Path, size: u64, seed: u64) -> std::io::Result<Sha256Digest> {
    let mut file = BufWriter::new(std::fs::File::create(path)?);
    let mut hash = Sha256::new();
    let random = SipHasher13::new_with_keys(seed, 0x6775_6964_6577_6179);
    let mut block = Vec::with_capacity(1 << 16);
    let (mut left, mut counter) = (size, 0u64);
    while left > 0 {
        block.clear();
        while block.len() < 1 << 16 {
            block.extend_from_slice(&random.hash(&counter.to_be_bytes()).to_be_bytes());
            counter += 1;
        }
        let length = usize::try_from(left.min(block.len() as u64)).unwrap_or(block.len());
        hash.update(&block[..length]);
        file.write_all(&block[..length])?;
        left -= length as u64;
    }
    file.flush()?;
    Ok(hash.finalize().into())
}

/// SHA-256 and length of a file.
pub fn sha256_of(path: &Path) -> std::io::Result<(Sha256Digest, u64)> {
    let mut file = std::fs::File::open(path)?;
    let (mut hash, mut length, mut buffer) = (Sha256::new(), 0, vec![0u8; 1 << 16]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((hash.finalize().into(), length)),
            read => {
                hash.update(&buffer[..read]);
                length += read as u64;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_differ_and_are_what_their_sums_say() {
        let directory = tempfile::tempdir().unwrap();
        let files = Files::make(directory.path(), 100_001, 10, 2, 7).unwrap();
        for number in 0..10 {
            files.link_file(number).unwrap();
            let (digest, length) = sha256_of(&files.root.join(Files::name(number))).unwrap();
            assert!(files.accepts(number, &digest) && length == 100_001);
            assert!(!files.accepts(number + 1, &digest), "neighbours have other content");
            files.unlink_file(number);
        }
        assert_eq!(std::fs::read_dir(&files.root).unwrap().count(), 4, "only the contents stay");
    }

    #[test]
    fn files_change_on_one_disk_alone_and_both_contents_are_known() {
        let directory = tempfile::tempdir().unwrap();
        let files = Files::make(directory.path(), 5000, 10, 2, 7).unwrap();
        let files = files.with_server_roots(&["t1".to_owned(), "t2".to_owned()], 5000, 7).unwrap();
        let digest = |server_root: usize, number: u32| sha256_of(&files.server_root(server_root).join(Files::name(number))).unwrap();
        files.link_file(0).unwrap();
        files.replace_files(1).unwrap();
        files.link_file(1).unwrap();
        for number in [0, 1] {
            let (old, new) = (digest(0, number), digest(1, number));
            assert!(old.0 != new.0 && old.1 == new.1);
            assert!(files.accepts(number, &old.0) && files.accepts(number, &new.0) && !files.accepts(number + 2, &new.0));
            files.unlink_file(number);
        }
        assert!((0..2).all(|server_root| std::fs::read_dir(files.server_root(server_root)).unwrap().count() == 0));
    }

    #[test]
    fn what_cannot_fit_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let said = Files::make(directory.path(), 1 << 60, 1, 1, 0).unwrap_err();
        assert!(matches!(said, Error::Usage(_)), "{said}");
    }
}

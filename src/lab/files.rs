//! The files that are fetched: a few different ones, each under a name of its own for every transfer.

use super::error::{Doing, Error};
use nix::sys::statvfs::statvfs;
use sha2::{Digest, Sha256};
use siphasher::sip::SipHasher13;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};

/// Most files with different content.
const DISTINCT: u32 = 4;

/// SHA-256 of a file.
pub type Sum = [u8; 32];

/// The files, on the lab's tmpfs.
#[derive(Clone, Debug)]
pub struct Files {
    /// The directory that servers serve.
    pub root: PathBuf,
    /// The directory that clients fetch to.
    pub fetched: PathBuf,
    sums: Vec<Sum>,
}

impl Files {
    /// Makes the files for `transfers` transfers, of `size` bytes each, below `directory`.
    ///
    /// # Errors
    /// When they do not fit, together with `concurrency` copies.
    pub fn make(directory: &Path, size: u64, transfers: u32, concurrency: u32, seed: u64) -> Result<Self, Error> {
        let distinct = transfers.min(DISTINCT);
        check_room(directory, size.saturating_mul(u64::from(distinct + concurrency.min(transfers))))?;
        let files = Files { root: directory.join("served"), fetched: directory.join("fetched"), sums: Vec::new() };
        for directory in [&files.root, &files.fetched] {
            std::fs::create_dir(directory).doing(|| format!("making {}", directory.display()))?;
        }
        let make = |number| {
            let path = files.content(number);
            write_file(&path, size, seed ^ u64::from(number) << 32).doing(|| format!("writing {}", path.display()))
        };
        let sums = (0..distinct).map(make).collect::<Result<_, _>>()?;
        Ok(Files { sums, ..files })
    }

    fn content(&self, number: u32) -> PathBuf {
        self.root.join(format!("content-{number}"))
    }

    /// The name under which transfer `number` asks for its file.
    pub fn name(number: u32) -> String {
        format!("transfer-{number}")
    }

    /// Puts the file of transfer `number` in place.
    pub fn offer(&self, number: u32) -> std::io::Result<()> {
        std::fs::hard_link(self.content(self.which(number)), self.root.join(Self::name(number)))
    }

    /// Takes it away again.
    pub fn withdraw(&self, number: u32) {
        // It is gone at the latest with the tmpfs.
        let _gone = std::fs::remove_file(self.root.join(Self::name(number)));
    }

    /// The SHA-256 that transfer `number` must have.
    pub fn sum(&self, number: u32) -> Option<Sum> {
        self.sums.get(self.which(number) as usize).copied()
    }

    fn which(&self, number: u32) -> u32 {
        number % (self.sums.len() as u32).max(1)
    }
}

fn check_room(directory: &Path, needed: u64) -> Result<(), Error> {
    let room = statvfs(directory).doing(|| "asking for room on the tmpfs".to_owned())?;
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

fn write_file(path: &Path, size: u64, seed: u64) -> std::io::Result<Sum> {
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
pub fn sum_of(path: &Path) -> std::io::Result<(Sum, u64)> {
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
            files.offer(number).unwrap();
            let (sum, length) = sum_of(&files.root.join(Files::name(number))).unwrap();
            assert_eq!((Some(sum), length), (files.sum(number), 100_001));
            files.withdraw(number);
        }
        assert_ne!(files.sum(0), files.sum(1));
        assert_eq!(files.sum(0), files.sum(4));
        assert_eq!(std::fs::read_dir(&files.root).unwrap().count(), 4, "only the contents stay");
    }

    #[test]
    fn what_cannot_fit_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let said = Files::make(directory.path(), 1 << 60, 1, 1, 0).unwrap_err();
        assert!(matches!(said, Error::Usage(_)), "{said}");
    }
}

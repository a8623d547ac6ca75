//! Tells whether a file on a file system of another host has other bytes, when its metadata have changed: `touch`, a link, or a copy over it with the
//! same bytes.
//!
//! The digest of each chunk is kept when it is read. When the metadata have changed, all of them are read again and compared. A file that passes is the
//! same version with new metadata.

use super::chunks::{BlockingRead, read_chunk};
use super::source::Version;
use guideway_sys::FileState;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, PoisonError};

/// Comparisons of a file that is changed all the time.
const ATTEMPTS: usize = 3;

/// Digests of the chunks that were read, and the metadata under which they are valid.
#[derive(Debug)]
pub(super) struct Digests(Mutex<Known>);

#[derive(Debug)]
struct Known {
    state: FileState,
    chunks: BTreeMap<u64, Version>,
}

impl Digests {
    pub fn new(state: FileState) -> Digests {
        Digests(Mutex::new(Known { state, chunks: BTreeMap::new() }))
    }

    /// Checks a chunk that `reader` has read. `state` returns the file's metadata of now. Blocks.
    ///
    /// # Errors
    /// `changed` when a byte of this or of an earlier chunk has changed, or the metadata cannot be read.
    pub fn check(
        &self,
        reader: &impl BlockingRead,
        start: u64,
        bytes: &[u8],
        state: impl Fn() -> io::Result<FileState>,
        changed: impl Fn() -> io::Error,
    ) -> io::Result<()> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let digest = Version::of(&[bytes]);
        if *known.chunks.entry(start).or_insert(digest) != digest {
            return Err(changed());
        }
        let mut now = state()?;
        for _ in 0..ATTEMPTS {
            if now == known.state {
                return Ok(());
            }
            if now.size != known.state.size {
                return Err(changed());
            }
            for (start, digest) in &known.chunks {
                if Version::of(&[&read_chunk(reader, *start)?]) != *digest {
                    return Err(changed());
                }
            }
            known.state = now;
            now = state()?;
        }
        Err(changed())
    }
}

//! Content as event loops read it, and its version.

use sha2::{Digest, Sha256};
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;
use std::task::{Context, Poll};

/// A value that is dropped when a transfer ends.
pub(crate) type KeepAlive = Arc<dyn Send + Sync>;

/// Bytes as event loops read them. Foreign code never implements it: everything here runs on the loop and must not block.
///
/// Reads take an offset, which windows, retransmissions and takeover need.
pub(crate) trait Source: Send + Sync {
    /// See [`Content::size`](super::Content::size).
    fn size(&self) -> Option<u64>;

    /// See [`Content::version`](super::Content::version).
    fn version(&self) -> Version;

    /// Returns the version if that needs no computation.
    fn known_version(&self) -> Option<Version> {
        Some(self.version())
    }

    /// Returns the wrapped content, and a value to hold until the transfer ends, if this content only tracks how long another one is sent.
    ///
    /// The engine then uses the wrapped content, so that its transfers share reads.
    fn inner(&self) -> Option<(Arc<dyn Source>, KeepAlive)> {
        None
    }

    /// Reads at `offset` into `buffer` and returns the number of bytes: fewer than requested if no more are available, 0 only at the end.
    ///
    /// If bytes arrive later, it returns `Pending` and wakes `context`'s waker once some are available. Bytes that were read once must not change.
    ///
    /// # Errors
    /// An error ends the transfer. The client gets an ERROR with a general text; the log gets the error.
    fn poll_read_at(&self, context: &mut Context<'_>, offset: u64, buffer: &mut [u8]) -> Poll<io::Result<usize>>;

    /// Returns the `len` bytes at `offset` as a borrowed slice, to be sent without a copy; `None` if the content does not support that, or the bytes
    /// are not in memory now.
    ///
    /// It is called for content of known size only, and never for the last byte, which is always read. So a content can detect at its end
    /// that it was changed. Bytes that were borrowed once must be available again.
    fn borrow_at(&self, offset: u64, len: usize) -> Option<Borrowed<'_>> {
        let _ = (offset, len);
        None
    }

    /// Returns whether all bytes that were read belong to one version. Asked before the last bytes of a part that ends before the content does; a
    /// read of its end checks that itself.
    ///
    /// # Errors
    /// As of a read.
    fn check(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Bytes that only the kernel may read. They may be a mapped file: after a truncation, reading them raises SIGBUS, whereas a system call
/// only fails.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Borrowed<'a> {
    start: *const u8,
    len: usize,
    of: PhantomData<&'a [u8]>,
}

impl<'a> Borrowed<'a> {
    /// Creates a slice of mapped memory that lives for `'a`.
    pub fn of_memory(start: *const u8, len: usize) -> Borrowed<'a> {
        Borrowed { start, len, of: PhantomData }
    }

    /// Returns their address.
    pub fn start(self) -> *const u8 {
        self.start
    }

    /// Returns their number.
    pub fn len(self) -> usize {
        self.len
    }

    /// Returns a part of them, cut at the end.
    pub fn part(self, range: Range<usize>) -> Borrowed<'a> {
        let (start, end) = (range.start.min(self.len), range.end.min(self.len));
        Borrowed { start: self.start.wrapping_add(start), len: end.saturating_sub(start), of: PhantomData }
    }

    /// Returns an invalid address range, with which a system call fails.
    pub fn invalid(len: usize) -> Borrowed<'a> {
        Borrowed { start: std::ptr::null(), len, of: PhantomData }
    }
}

impl<'a> From<&'a [u8]> for Borrowed<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Borrowed { start: bytes.as_ptr(), len: bytes.len(), of: PhantomData }
    }
}

/// Tag of the bytes of a content.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Version(pub [u8; 16]);

impl Version {
    /// Computes a tag from values that identify the bytes: an ETag, or modification time and size, or the bytes themselves.
    pub fn of(parts: &[&[u8]]) -> Version {
        let mut hasher = Sha256::new();
        for part in parts {
            hasher.update((part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
        let digest: [u8; 32] = hasher.finalize().into();
        Version(std::array::from_fn(|index| digest[index]))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Version({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_tell_parts_apart() {
        assert_eq!(Version::of(&[b"ab", b"c"]), Version::of(&[b"ab", b"c"]));
        assert_ne!(Version::of(&[b"ab", b"c"]), Version::of(&[b"a", b"bc"]));
        assert_eq!(Version::of(&[]).to_string(), "e3b0c44298fc1c149afbf4c8996fb924", "the SHA-256 of nothing, truncated");
    }
}

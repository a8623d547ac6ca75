//! Content of transfers: bytes that are readable at any offset, with an optional size, and a tag that changes with the bytes.

pub mod netascii;

use guideway_sys::Mapping;
use sha2::{Digest, Sha256};
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

/// A value that is dropped when a transfer ends.
pub type KeepAlive = Arc<dyn Send + Sync>;

/// Bytes to send. One content may serve many transfers at once.
///
/// Reads take an offset, which windows, retransmissions and takeover need.
pub trait Content: Send + Sync {
    /// Returns the size in bytes, if known. It is binding: the client may get it as `tsize`, exactly so many bytes are sent, and a content
    /// that ends early fails the transfer.
    fn size(&self) -> Option<u64>;

    /// Returns the tag of the bytes. It changes with the bytes; two servers with the same bytes should have the same tag.
    fn version(&self) -> Version;

    /// Returns the wrapped content, and a value to hold until the transfer ends, if this content only tracks how long another one is sent.
    ///
    /// The engine then uses the wrapped content, so that its transfers share reads.
    fn inner(&self) -> Option<(Arc<dyn Content>, KeepAlive)> {
        None
    }

    /// Reads at `offset` into `buffer` and returns the number of bytes: fewer than requested if no more are available, 0 only at the end.
    ///
    /// Runs on the event loop and must not block. If bytes arrive later, it returns `Pending` and wakes `context`'s waker once some are
    /// available. Bytes that were read once must not change.
    ///
    /// # Errors
    /// An error ends the transfer. The client gets an ERROR with a general text; the log gets the error.
    fn poll_read_at(&self, context: &mut Context<'_>, offset: u64, buffer: &mut [u8]) -> Poll<io::Result<usize>>;

    /// Returns the `len` bytes at `offset` as a borrowed slice, to be sent without a copy; `None` if the content does not support that.
    ///
    /// It is called for content of known size only, and never for the last byte, which is always read. So a content can detect at its end
    /// that it was changed. Bytes that were borrowed once must be available again.
    fn borrow_at(&self, offset: u64, len: usize) -> Option<Borrowed<'_>> {
        let _ = (offset, len);
        None
    }
}

/// Bytes that only the kernel may read. They may be a mapped file: after a truncation, reading them raises SIGBUS, whereas a system call
/// only fails.
#[derive(Clone, Copy, Debug)]
pub struct Borrowed<'a> {
    start: *const u8,
    len: usize,
    of: PhantomData<&'a [u8]>,
}

impl<'a> Borrowed<'a> {
    /// Returns their address.
    pub fn start(self) -> *const u8 {
        self.start
    }

    /// Returns their number.
    pub fn len(self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.len == 0
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

/// The pages of a file, mapped when they are first borrowed.
#[derive(Debug, Default)]
pub struct Pages(OnceLock<Option<Mapping>>);

impl Pages {
    /// Smallest file that is mapped: for smaller ones, a mapping costs more than reads.
    const MIN_MAPPED_SIZE: u64 = 64 * 1024;

    /// Returns bytes of `file`, which must have the same size each time; `None` if it is small or cannot be mapped.
    pub fn borrow_at(&self, file: impl AsFd, size: u64, offset: u64, len: usize) -> Option<Borrowed<'_>> {
        if size < Self::MIN_MAPPED_SIZE {
            return None;
        }
        let map = || Mapping::file(file.as_fd(), usize::try_from(size).ok()?).ok();
        let mapping = self.0.get_or_init(map).as_ref()?;
        let whole = Borrowed { start: mapping.start().as_ptr(), len: mapping.len(), of: PhantomData };
        let offset = usize::try_from(offset).ok()?;
        Some(whole.part(offset..offset.checked_add(len)?)).filter(|borrowed| borrowed.len == len)
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

/// Content in memory. A clone shares the bytes.
#[derive(Clone, Debug)]
pub struct Bytes {
    bytes: Arc<[u8]>,
    /// Computed when it is first needed: a transfer needs it for every checkpoint.
    version: Arc<OnceLock<Version>>,
}

impl Bytes {
    /// Creates content with these bytes.
    pub fn new(bytes: impl Into<Arc<[u8]>>) -> Bytes {
        Bytes { bytes: bytes.into(), version: Arc::default() }
    }
}

impl PartialEq for Bytes {
    fn eq(&self, other: &Bytes) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Bytes {}

impl Content for Bytes {
    fn size(&self) -> Option<u64> {
        Some(self.bytes.len() as u64)
    }

    fn version(&self) -> Version {
        *self.version.get_or_init(|| Version::of(&[&self.bytes]))
    }

    fn poll_read_at(&self, _: &mut Context<'_>, offset: u64, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let left = usize::try_from(offset).ok().and_then(|offset| self.bytes.get(offset..)).unwrap_or_default();
        let len = left.len().min(buffer.len());
        buffer[..len].copy_from_slice(&left[..len]);
        Poll::Ready(Ok(len))
    }

    fn borrow_at(&self, offset: u64, len: usize) -> Option<Borrowed<'_>> {
        let offset = usize::try_from(offset).ok()?;
        self.bytes.get(offset..offset.checked_add(len)?).map(Borrowed::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    #[test]
    fn bytes_in_memory_are_read_at_any_offset() {
        let content = Bytes::new(*b"abcdef");
        let mut buffer = [0; 4];
        let mut read = |offset| match content.poll_read_at(&mut Context::from_waker(Waker::noop()), offset, &mut buffer) {
            Poll::Ready(Ok(len)) => buffer[..len].to_vec(),
            other => panic!("{other:?}"),
        };
        assert_eq!((read(0), read(4), read(6), read(u64::MAX)), (b"abcd".to_vec(), b"ef".to_vec(), vec![], vec![]));
        assert_eq!(content.size(), Some(6));
    }

    #[test]
    fn versions_tell_parts_apart() {
        assert_eq!(Version::of(&[b"ab", b"c"]), Version::of(&[b"ab", b"c"]));
        assert_ne!(Version::of(&[b"ab", b"c"]), Version::of(&[b"a", b"bc"]));
        assert_eq!(Version::of(&[]).to_string(), "e3b0c44298fc1c149afbf4c8996fb924", "the SHA-256 of nothing, truncated");
    }
}

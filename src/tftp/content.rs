//! What a transfer sends: bytes that can be read at any offset, with a size when it is known and a tag that changes when they do.

use guideway_sys::Mapping;
use sha2::{Digest, Sha256};
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

/// Kept until a transfer ends, and dropped then.
pub type Keep = Arc<dyn Send + Sync>;

/// Bytes to be sent. One content may serve many transfers at once.
///
/// Reading at an offset, instead of reading on, is what makes windows, repeated blocks and going on with another server's transfer possible.
pub trait Content: Send + Sync {
    /// Size in bytes when it is known. It is a promise: the client is told, exactly so much is sent, and a content that ends early fails the
    /// transfer.
    fn size(&self) -> Option<u64>;

    /// Changes when the bytes change. Two servers with the same bytes should agree on it.
    fn version(&self) -> Version;

    /// Of a content that only stands in front of another one to know how long it is sent: the other one, and what is to be kept as long.
    ///
    /// The engine works with the other one then, so that transfers of it share what is read.
    fn behind(&self) -> Option<(Arc<dyn Content>, Keep)> {
        None
    }

    /// Reads at `offset` into `buffer` and says how many bytes: fewer than asked when no more are at hand, 0 only at the end.
    ///
    /// It runs on the event loop and must not wait. Bytes that come later are `Pending`, after which `context`'s waker is woken when there
    /// are some. Bytes that were read once must stay the same.
    ///
    /// # Errors
    /// What ends the transfer; the client gets an ERROR with a general text, the log the error.
    fn poll_read_at(&self, context: &mut Context<'_>, offset: u64, buffer: &mut [u8]) -> Poll<io::Result<usize>>;

    /// The `len` bytes at `offset`, to be sent from where they are without being read; nothing when the content does not lend them.
    ///
    /// Only a content of known size is asked, and never for its last byte, which is always read: a content that finds out at its end whether
    /// it was changed must say so there. What it lent once it must lend again.
    fn lend(&self, offset: u64, len: usize) -> Option<Lent<'_>> {
        let _ = (offset, len);
        None
    }
}

/// Bytes that are for the kernel alone. They may be a file's, and whoever looked at them when somebody has cut it would be killed; a
/// system call that is given them only fails.
#[derive(Clone, Copy, Debug)]
pub struct Lent<'a> {
    start: *const u8,
    len: usize,
    of: PhantomData<&'a [u8]>,
}

impl<'a> Lent<'a> {
    /// Where they are.
    pub fn start(self) -> *const u8 {
        self.start
    }

    /// How many.
    pub fn len(self) -> usize {
        self.len
    }

    /// Some of them, as far as they are there.
    pub fn part(self, range: Range<usize>) -> Lent<'a> {
        let (start, end) = (range.start.min(self.len), range.end.min(self.len));
        Lent { start: self.start.wrapping_add(start), len: end.saturating_sub(start), of: PhantomData }
    }

    /// Bytes that are nowhere: a system call that is given them fails.
    pub fn nowhere(len: usize) -> Lent<'a> {
        Lent { start: std::ptr::null(), len, of: PhantomData }
    }
}

impl<'a> From<&'a [u8]> for Lent<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Lent { start: bytes.as_ptr(), len: bytes.len(), of: PhantomData }
    }
}

/// The pages of a file, mapped when they are first lent.
#[derive(Debug, Default)]
pub struct Pages(OnceLock<Option<Mapping>>);

impl Pages {
    /// Files below this size are read: setting up a mapping would cost more.
    const WORTH_IT: u64 = 64 * 1024;

    /// Bytes of `file`, whose size is the same each time; nothing when it is small or the kernel maps no more files.
    pub fn lend(&self, file: impl AsFd, size: u64, offset: u64, len: usize) -> Option<Lent<'_>> {
        if size < Self::WORTH_IT {
            return None;
        }
        let map = || Mapping::file(file.as_fd(), usize::try_from(size).ok()?).ok();
        let mapping = self.0.get_or_init(map).as_ref()?;
        let whole = Lent { start: mapping.start().as_ptr(), len: mapping.len(), of: PhantomData };
        let offset = usize::try_from(offset).ok()?;
        Some(whole.part(offset..offset.checked_add(len)?)).filter(|lent| lent.len == len)
    }
}

/// Tag of a content's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Version(pub [u8; 16]);

impl Version {
    /// The tag of whatever identifies the bytes: an ETag, or time of change and size, or the bytes themselves.
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

/// Content in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bytes(Arc<[u8]>);

impl Bytes {
    /// These bytes.
    pub fn new(bytes: impl Into<Arc<[u8]>>) -> Bytes {
        Bytes(bytes.into())
    }
}

impl Content for Bytes {
    fn size(&self) -> Option<u64> {
        Some(self.0.len() as u64)
    }

    fn version(&self) -> Version {
        Version::of(&[&self.0])
    }

    fn poll_read_at(&self, _: &mut Context<'_>, offset: u64, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let left = usize::try_from(offset).ok().and_then(|offset| self.0.get(offset..)).unwrap_or_default();
        let len = left.len().min(buffer.len());
        buffer[..len].copy_from_slice(&left[..len]);
        Poll::Ready(Ok(len))
    }

    fn lend(&self, offset: u64, len: usize) -> Option<Lent<'_>> {
        let offset = usize::try_from(offset).ok()?;
        self.0.get(offset..offset.checked_add(len)?).map(Lent::from)
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
        assert_eq!(Version::of(&[]).to_string(), "e3b0c44298fc1c149afbf4c8996fb924", "the SHA-256 of nothing, cut");
    }
}

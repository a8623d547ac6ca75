//! Content in memory.

use super::source::{Borrowed, Source, Version};
use std::io;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

/// Bytes in memory. A clone shares them and their hash.
#[derive(Clone, Debug)]
pub struct Bytes {
    bytes: Arc<[u8]>,
    /// Computed when it is first needed, never on an event loop.
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

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Bytes {
        Bytes::new(bytes)
    }
}

impl From<String> for Bytes {
    fn from(text: String) -> Bytes {
        Bytes::new(text.into_bytes())
    }
}

impl From<&str> for Bytes {
    fn from(text: &str) -> Bytes {
        Bytes::new(text.as_bytes())
    }
}

impl From<&[u8]> for Bytes {
    fn from(bytes: &[u8]) -> Bytes {
        Bytes::new(bytes)
    }
}

impl<const N: usize> From<[u8; N]> for Bytes {
    fn from(bytes: [u8; N]) -> Bytes {
        Bytes::new(bytes)
    }
}

impl Source for Bytes {
    fn size(&self) -> Option<u64> {
        Some(self.bytes.len() as u64)
    }

    fn version(&self) -> Version {
        *self.version.get_or_init(|| Version::of(&[&self.bytes]))
    }

    fn known_version(&self) -> Option<Version> {
        self.version.get().copied()
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
        assert_eq!(
            (content.known_version(), content.version(), content.known_version().is_some()),
            (None, Version::of(&[b"abcdef"]), true)
        );
    }
}

//! Content as netascii (RFC 764): LF becomes CR LF, CR becomes CR NUL.
//!
//! The translated bytes are a [`Content`] again, readable at any offset, so that transfers need not know modes. Marks at every 64 KiB map a
//! translated offset to its place in the original.

use super::{Content, Version};
use crate::netascii::encode_byte;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

/// Number of translated bytes between two marks.
const SPACING: u64 = 64 * 1024;
/// Number of bytes read at once.
const CHUNK: usize = 4096;

/// A content in netascii.
pub struct Netascii {
    inner: Arc<dyn Content>,
    size: Option<u64>,
    /// In ascending order; the first one is the start.
    marks: Mutex<Vec<Mark>>,
}

/// A position: number of original bytes, and of translated bytes that they give.
#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    raw: u64,
    translated: u64,
}

impl Netascii {
    /// Translates `inner`, with unknown size.
    pub fn new(inner: Arc<dyn Content>) -> Netascii {
        Netascii { inner, size: None, marks: Mutex::new(vec![Mark::default()]) }
    }

    /// Translates `inner` and determines the size by reading all of it. `Pending` only when `inner` is.
    ///
    /// # Errors
    /// When `inner` cannot be read.
    pub fn measured(inner: Arc<dyn Content>, context: &mut Context<'_>) -> Poll<io::Result<Netascii>> {
        let mut netascii = Netascii::new(inner);
        let end = ready!(netascii.walk(context, Mark::default(), u64::MAX, &mut |_| true))?;
        netascii.size = Some(end.translated);
        Poll::Ready(Ok(netascii))
    }

    /// Translates from `at` on and passes every translated byte from `from` on to `take`, until `take` returns `false` or the content ends.
    /// Records marks and returns the final position.
    fn walk(&self, context: &mut Context<'_>, mut at: Mark, from: u64, take: &mut dyn FnMut(u8) -> bool) -> Poll<io::Result<Mark>> {
        let mut chunk = [0; CHUNK];
        loop {
            let len = match self.inner.poll_read_at(context, at.raw, &mut chunk)? {
                Poll::Ready(0) => return Poll::Ready(Ok(at)),
                Poll::Ready(len) => len,
                Poll::Pending => return Poll::Pending,
            };
            for &byte in &chunk[..len] {
                let (pair, count) = encode_byte(byte);
                for &translated in &pair[..count] {
                    if at.translated >= from && from != u64::MAX && !take(translated) {
                        return Poll::Ready(Ok(at));
                    }
                    at.translated += 1;
                }
                at.raw += 1;
                self.mark(at);
            }
        }
    }

    fn mark(&self, at: Mark) {
        // Most positions are not marks and need no lock.
        if at.translated % SPACING > 1 {
            return;
        }
        let mut marks = self.marks();
        if marks.last().is_none_or(|last| at.translated >= last.translated + SPACING - 1) {
            marks.push(at);
        }
    }

    fn marks(&self) -> MutexGuard<'_, Vec<Mark>> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Content for Netascii {
    fn size(&self) -> Option<u64> {
        self.size
    }

    fn version(&self) -> Version {
        self.inner.version()
    }

    fn poll_read_at(&self, context: &mut Context<'_>, offset: u64, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let start = {
            let marks = self.marks();
            let behind = marks.partition_point(|mark| mark.translated <= offset);
            marks.get(behind.saturating_sub(1)).copied().unwrap_or_default()
        };
        let mut len = 0;
        let walked = self.walk(context, start, offset, &mut |byte| {
            let Some(place) = buffer.get_mut(len) else { return false };
            *place = byte;
            len += 1;
            true
        });
        match walked {
            // Bytes that were read before the content became pending can be sent.
            Poll::Pending if len > 0 => Poll::Ready(Ok(len)),
            Poll::Pending => Poll::Pending,
            Poll::Ready(end) => Poll::Ready(end.map(|_| len)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Bytes;
    use proptest::prelude::*;
    use std::task::Waker;

    fn plain(bytes: &[u8]) -> Vec<u8> {
        bytes
            .iter()
            .flat_map(|&b| match b {
                b'\n' => b"\r\n".to_vec(),
                b'\r' => b"\r\0".to_vec(),
                other => vec![other],
            })
            .collect()
    }

    fn measured(bytes: &[u8]) -> Netascii {
        let content: Arc<dyn Content> = Arc::new(Bytes::new(bytes));
        match Netascii::measured(content, &mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(netascii)) => netascii,
            _ => panic!("bytes in memory are never pending"),
        }
    }

    fn read(netascii: &Netascii, offset: u64, len: usize) -> Vec<u8> {
        let mut buffer = vec![0; len];
        match netascii.poll_read_at(&mut Context::from_waker(Waker::noop()), offset, &mut buffer) {
            Poll::Ready(Ok(len)) => buffer[..len].to_vec(),
            other => panic!("{other:?}"),
        }
    }

    proptest! {
        #[test]
        fn any_offset_reads_as_the_plain_translation(bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), Just(b'x')], 0..300),
                                                     offset in 0usize..700, len in 0usize..100) {
            let (netascii, all) = (measured(&bytes), plain(&bytes));
            prop_assert_eq!(netascii.size(), Some(all.len() as u64));
            let expected = &all[offset.min(all.len())..(offset + len).min(all.len())];
            prop_assert_eq!(read(&netascii, offset as u64, len), expected);
        }
    }

    #[test]
    fn marks_lead_to_the_same_bytes() {
        let bytes: Vec<u8> = (0..300_000u32).map(|n| if n % 3 == 0 { b'\n' } else { n as u8 }).collect();
        let (netascii, all) = (measured(&bytes), plain(&bytes));
        assert!(netascii.marks().len() > 4, "{}", netascii.marks().len());
        for offset in [0, 1, 65535, 65536, 65537, 131_071, 200_001, all.len() - 1] {
            assert_eq!(read(&netascii, offset as u64, 600), all[offset..(offset + 600).min(all.len())], "{offset}");
        }
    }
}

//! Content as netascii (RFC 764): LF becomes CR LF, CR becomes CR NUL.
//!
//! The translated bytes are content again, readable at any offset, so that transfers need not know modes. Marks at every 64 KiB, and the end of the
//! last read, map a translated offset to its place in the original. The size is not known without a translation of all bytes: requests are easily
//! forged, so the client gets no `tsize`, as from tftp-hpa.

use super::source::{Source, Version};
use crate::netascii::encode_byte;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

/// Number of translated bytes between two marks.
const SPACING: u64 = 64 * 1024;
/// Number of bytes read at once.
const CHUNK: usize = 4096;

/// A content in netascii.
pub struct Netascii {
    inner: Arc<dyn Source>,
    marks: Mutex<Marks>,
}

#[derive(Debug)]
struct Marks {
    /// In ascending order; the first one is the start.
    spaced: Vec<Mark>,
    /// The end of the last read.
    last: Mark,
}

/// A position: number of original bytes, and of translated bytes that they give.
#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    raw: u64,
    translated: u64,
}

impl Netascii {
    /// Translates `inner`.
    pub fn new(inner: Arc<dyn Source>) -> Netascii {
        Netascii { inner, marks: Mutex::new(Marks { spaced: vec![Mark::default()], last: Mark::default() }) }
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
                // A read may end between the two.
                let before = at;
                for &translated in &pair[..count] {
                    if at.translated >= from && !take(translated) {
                        return Poll::Ready(Ok(before));
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
        if marks.spaced.last().is_none_or(|last| at.translated >= last.translated + SPACING - 1) {
            marks.spaced.push(at);
        }
    }

    fn marks(&self) -> MutexGuard<'_, Marks> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source for Netascii {
    fn size(&self) -> Option<u64> {
        None
    }

    fn version(&self) -> Version {
        self.inner.version()
    }

    fn poll_read_at(&self, context: &mut Context<'_>, offset: u64, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let start = {
            let marks = self.marks();
            let behind = marks.spaced.partition_point(|mark| mark.translated <= offset);
            let mark = marks.spaced.get(behind.saturating_sub(1)).copied().unwrap_or_default();
            if (mark.translated..=offset).contains(&marks.last.translated) { marks.last } else { mark }
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
            Poll::Ready(end) => Poll::Ready(end.map(|end| {
                self.marks().last = end;
                len
            })),
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

    fn netascii(bytes: &[u8]) -> Netascii {
        Netascii::new(Arc::new(Bytes::new(bytes)))
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
            let (netascii, all) = (netascii(&bytes), plain(&bytes));
            prop_assert_eq!(netascii.size(), None);
            read(&netascii, (offset / 2) as u64, len);
            let expected = &all[offset.min(all.len())..(offset + len).min(all.len())];
            prop_assert_eq!(read(&netascii, offset as u64, len), expected);
        }
    }

    #[test]
    fn marks_lead_to_the_same_bytes() {
        let bytes: Vec<u8> = (0..300_000u32).map(|n| if n % 3 == 0 { b'\n' } else { n as u8 }).collect();
        let (netascii, all) = (netascii(&bytes), plain(&bytes));
        assert!(
            (0..all.len()).step_by(600).all(|offset| read(&netascii, offset as u64, 600) == all[offset..(offset + 600).min(all.len())])
        );
        assert!(netascii.marks().spaced.len() > 4);
        for offset in [0, 1, 65535, 65536, 65537, 131_071, 200_001, all.len() - 1] {
            assert_eq!(read(&netascii, offset as u64, 600), all[offset..(offset + 600).min(all.len())], "{offset}");
        }
    }
}

//! Fetches the bytes of one version of a file, by one stream at a time, and goes on with a part when the stream breaks.

use super::object::Object;
use super::origin::{Answer, Origin, OriginError, Question};
use crate::content::Version;
use hyper::body::Incoming;
use sha2::{Digest, Sha256};
use std::io;
use std::os::unix::fs::FileExt;
use std::time::Duration;

/// Attempts to go on that bring nothing before giving up; with the pauses between them about 1.5 s, so that a client is told before its own
/// patience ends.
const ATTEMPTS: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// A stream brings so much before it goes where another transfer waits.
const SHORTEST_RUN: u64 = 1 << 20;
/// A file whose size is not told before has at most so many bytes: room cannot be made for it in time.
pub(super) const LARGEST_UNTOLD: u64 = 64 << 20;

/// Bytes that the origin sends.
pub(super) struct Stream {
    pub(super) body: Incoming,
    /// Where they belong.
    pub(super) at: u64,
    /// So many come before those that are wanted.
    pub(super) skip: u64,
}

/// Why the rest of a version does not come.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error(transparent)]
    Origin(#[from] OriginError),
    #[error("the origin's connection ended early, and the file has no validator by which it could be continued")]
    NotContinuable,
    #[error("the file was changed at the origin while it was fetched")]
    Changed,
    #[error("the file is not at the origin any more")]
    Gone,
    #[error("the origin sends more than the {0} bytes that the file has")]
    TooMuch(u64),
    #[error("the origin does not tell the size of a file that has more than {LARGEST_UNTOLD} bytes")]
    Untold,
    #[error("the origin sends nothing")]
    Nothing,
    #[error("the cache cannot be written: {0}")]
    Disk(#[from] io::Error),
}

impl FetchError {
    /// Whether what is here of the version can be continued later.
    pub(super) fn is_continuable(&self) -> bool {
        matches!(self, FetchError::Origin(_) | FetchError::Nothing)
    }

    fn is_worth_a_try(&self) -> bool {
        match self {
            FetchError::Origin(OriginError::Ask(_)) | FetchError::Nothing => true,
            FetchError::Origin(OriginError::Status(status)) => status.is_server_error(),
            _ => false,
        }
    }
}

/// Fills `object`, beginning with `stream`; gives its size.
pub(super) async fn fill(origin: &Origin, url: &str, object: &Object, stream: Stream) -> Result<u64, FetchError> {
    let mut next = stream.at;
    let mut stream = Some(stream);
    let mut failed = 0;
    loop {
        let before = next;
        let round = match stream.take() {
            Some(stream) => pour(origin, object, stream, &mut next).await,
            None => continued(origin, url, object, next).await.map(|continued| stream = continued),
        };
        let Some(size) = object.meta.size else { return round.map(|()| next) };
        match round {
            Ok(()) if object.hole(0, size).is_none() => return Ok(size),
            Ok(()) if stream.is_some() || next != before => {}
            round => {
                let error = round.err().unwrap_or(FetchError::Nothing);
                if object.meta.validator().is_none() {
                    return Err(if error.is_worth_a_try() { FetchError::NotContinuable } else { error });
                }
                failed = if next == before { failed + 1 } else { 1 };
                if failed >= ATTEMPTS || !error.is_worth_a_try() {
                    return Err(error);
                }
                tracing::debug!(url, %error, next, "a fetch is to be continued");
                tokio::time::sleep(FIRST_PAUSE * 2u32.pow(failed - 1)).await;
            }
        }
    }
}

/// Asks for the first hole at or behind `next`.
async fn continued(origin: &Origin, url: &str, object: &Object, next: u64) -> Result<Option<Stream>, FetchError> {
    let Some(hole) = object.meta.size.and_then(|size| object.hole(next, size)) else { return Ok(None) };
    let at = hole.start;
    match origin.ask(url, Question::Part(&object.meta, hole)).await? {
        Answer::Part(body, skip) => Ok(Some(Stream { body, at, skip })),
        Answer::Whole(..) | Answer::Unchanged => Err(FetchError::Changed),
        Answer::Missing | Answer::Forbidden => Err(FetchError::Gone),
    }
}

/// Writes a stream to where it belongs, until it ends, comes to what is there already, or is wanted elsewhere. `next` is then where to go on.
async fn pour(origin: &Origin, object: &Object, mut stream: Stream, next: &mut u64) -> Result<(), FetchError> {
    let start = stream.at;
    *next = stream.at;
    while let Some(piece) = origin.client.piece(&mut stream.body).await.map_err(OriginError::from)? {
        let skipped = stream.skip.min(piece.len() as u64);
        stream.skip -= skipped;
        let piece = usize::try_from(skipped).ok().and_then(|skipped| piece.get(skipped..)).unwrap_or_default();
        if piece.is_empty() {
            continue;
        }
        let end = *next + piece.len() as u64;
        match object.meta.size {
            Some(size) if end > size => return Err(FetchError::TooMuch(size)),
            None if end > LARGEST_UNTOLD => return Err(FetchError::Untold),
            _ => {}
        }
        object.write(*next, piece)?;
        *next = end;
        if object.meta.size.is_some() {
            let filled = object.filled(end);
            if filled > end {
                *next = filled;
                return Ok(());
            }
            if end - start >= SHORTEST_RUN
                && object.meta.validator().is_some()
                && let Some(elsewhere) = object.wanted_elsewhere(end)
            {
                *next = elsewhere;
                return Ok(());
            }
        }
    }
    Ok(())
}

/// The tag of the bytes themselves, the same as that of a content in memory. It blocks.
pub(super) fn hashed(object: &Object, size: u64) -> io::Result<Version> {
    let mut hasher = Sha256::new();
    hasher.update(size.to_be_bytes());
    let (mut at, mut buffer) = (0, vec![0; 1 << 16]);
    while at < size {
        let len = buffer.len().min(usize::try_from(size - at).unwrap_or(usize::MAX));
        object.file().read_exact_at(&mut buffer[..len], at)?;
        hasher.update(&buffer[..len]);
        at += len as u64;
    }
    let digest: [u8; 32] = hasher.finalize().into();
    Ok(Version(std::array::from_fn(|index| digest[index])))
}

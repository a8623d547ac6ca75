//! Fetches the bytes of one version of a file, one stream at a time, and continues with a range request when the stream breaks.

use super::object::Object;
use super::origin::{Origin, OriginError, OriginRequest, OriginResponse, Target};
use crate::content::Version;
use hyper::body::Incoming;
use sha2::{Digest, Sha256};
use std::io;
use std::os::unix::fs::FileExt;
use std::time::Duration;

/// Attempts to continue without a new byte before the fetch fails. With pauses this takes about 1.5 s, so that clients get an ERROR before
/// they time out.
const ATTEMPTS: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Bytes that a stream delivers before it moves to an offset at which another transfer waits.
const SHORTEST_RUN: u64 = 1 << 20;
/// Largest file of unannounced size, because the cache cannot make room for it in advance.
pub(super) const MAX_UNKNOWN_LENGTH: u64 = 64 << 20;

/// A running download from the origin.
pub(super) struct Stream {
    pub(super) body: Incoming,
    /// Offset of the next byte.
    pub(super) at: u64,
    /// Bytes to skip before that offset.
    pub(super) skip: u64,
}

/// Reasons why a fetch failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error(transparent)]
    Origin(#[from] OriginError),
    #[error("the connection to the origin ended early, and the file has no validator to continue with")]
    NotContinuable,
    #[error("the file changed at the origin during the fetch")]
    Changed,
    #[error("the file no longer exists at the origin")]
    Gone,
    #[error("the origin sent more than the announced {0} bytes")]
    TooLarge(u64),
    #[error("the file exceeds {MAX_UNKNOWN_LENGTH} bytes, and the origin did not announce its size")]
    UnknownLength,
    #[error("the origin sent nothing")]
    Nothing,
    #[error("cannot write to the cache: {0}")]
    Disk(#[from] io::Error),
}

impl FetchError {
    /// Returns whether the partial version can be continued later.
    pub(super) fn is_continuable(&self) -> bool {
        matches!(self, FetchError::Origin(_) | FetchError::Nothing)
    }

    fn is_retryable(&self) -> bool {
        match self {
            FetchError::Origin(OriginError::Ask(_)) | FetchError::Nothing => true,
            FetchError::Origin(OriginError::Status(status)) => status.is_server_error(),
            _ => false,
        }
    }
}

/// Fills `object`, starting with `stream`; returns its size.
pub(super) async fn fill(origin: &Origin, target: &Target, object: &Object, stream: Stream) -> Result<u64, FetchError> {
    let mut next = stream.at;
    let mut stream = Some(stream);
    let mut failed = 0;
    loop {
        let before = next;
        let round = match stream.take() {
            Some(stream) => copy_body(origin, object, stream, &mut next).await,
            None => continued(origin, target, object, next).await.map(|continued| stream = continued),
        };
        let Some(size) = object.meta.size else { return round.map(|()| next) };
        match round {
            Ok(()) if object.hole(0, size).is_none() => return Ok(size),
            Ok(()) if stream.is_some() || next != before => {}
            round => {
                let error = round.err().unwrap_or(FetchError::Nothing);
                if object.meta.validator().is_none() {
                    return Err(if error.is_retryable() { FetchError::NotContinuable } else { error });
                }
                failed = if next == before { failed + 1 } else { 1 };
                if failed >= ATTEMPTS || !error.is_retryable() {
                    return Err(error);
                }
                tracing::debug!(url = target.url, %error, next, "fetch interrupted, continuing");
                tokio::time::sleep(FIRST_PAUSE * 2u32.pow(failed - 1)).await;
            }
        }
    }
}

/// Requests the first hole at or after `next`.
async fn continued(origin: &Origin, target: &Target, object: &Object, next: u64) -> Result<Option<Stream>, FetchError> {
    let Some(hole) = object.meta.size.and_then(|size| object.hole(next, size)) else { return Ok(None) };
    let at = hole.start;
    match origin.send(target, OriginRequest::Part(&object.meta, hole)).await? {
        OriginResponse::Part(body, skip) => Ok(Some(Stream { body, at, skip })),
        OriginResponse::Complete(..) | OriginResponse::Unchanged => Err(FetchError::Changed),
        OriginResponse::Missing | OriginResponse::Forbidden => Err(FetchError::Gone),
    }
}

/// Writes a stream into the object until it ends, reaches bytes that exist already, or is needed elsewhere. `next` is then the offset to
/// continue at.
async fn copy_body(origin: &Origin, object: &Object, mut stream: Stream, next: &mut u64) -> Result<(), FetchError> {
    let start = stream.at;
    *next = stream.at;
    while let Some(piece) = origin.client.next_chunk(&mut stream.body).await.map_err(OriginError::from)? {
        let skipped = stream.skip.min(piece.len() as u64);
        stream.skip -= skipped;
        let piece = usize::try_from(skipped).ok().and_then(|skipped| piece.get(skipped..)).unwrap_or_default();
        if piece.is_empty() {
            continue;
        }
        let end = *next + piece.len() as u64;
        match object.meta.size {
            Some(size) if end > size => return Err(FetchError::TooLarge(size)),
            None if end > MAX_UNKNOWN_LENGTH => return Err(FetchError::UnknownLength),
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
                && let Some(elsewhere) = object.wanted_offset(end)
            {
                *next = elsewhere;
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Computes the tag from the bytes, as for content in memory. Blocks.
pub(super) fn hash_file(object: &Object, size: u64) -> io::Result<Version> {
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

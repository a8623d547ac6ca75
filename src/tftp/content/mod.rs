//! Content of transfers: bytes, files, streams, or data that is read at any offset, with an optional size and a tag that changes with the bytes.

mod bytes;
mod changes;
mod chunks;
mod digests;
pub(crate) mod file;
pub(crate) mod netascii;
mod pages;
mod snapshot;
mod source;
mod stream;

pub use bytes::Bytes;
pub(crate) use chunks::run_elsewhere;
pub use file::ReadAt;
pub use source::Version;
pub(crate) use source::{Borrowed, KeepAlive, Source};

use file::{CustomReader, FileContent};
use futures_core::Stream;
use std::fmt;
use std::fs::File;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use stream::Streamed;
use tokio::io::AsyncRead;

/// Content to send. A clone shares it; one content may serve many transfers at once, unless it is a stream.
#[derive(Clone)]
pub struct Content(pub(crate) Arc<dyn Source>);

impl Content {
    /// Returns content in memory. Its tag is the hash of the bytes, which is computed once for all clones of one [`Bytes`].
    pub fn bytes(bytes: impl Into<Bytes>) -> Content {
        Content::from_source(bytes.into())
    }

    /// Returns the content of a regular file. Bytes that are not cached by the kernel are read on other threads. Files below 64 KiB are read at once.
    /// A larger one that is changed during a transfer fails it.
    ///
    /// # Errors
    /// When its metadata cannot be read, or it is not a regular file.
    pub fn file(file: File) -> io::Result<Content> {
        Ok(Content::from_source(FileContent::new(file)?))
    }

    /// Returns content that is read once from front to back; without `size`, it ends where the reader does. Other servers cannot take over its
    /// transfers. Must be called in a runtime of Tokio, as handlers are.
    pub fn reader(reader: impl AsyncRead + Send + 'static, size: Option<u64>) -> Content {
        Content::from_source(Streamed::reader(reader, size))
    }

    /// As [`Content::reader`], from a stream of pieces.
    pub fn stream<B: AsRef<[u8]> + Send>(stream: impl Stream<Item = io::Result<B>> + Send + 'static, size: Option<u64>) -> Content {
        Content::from_source(Streamed::stream(stream, size))
    }

    /// Returns content that is read at any offset, on threads that may block. With a size and a version, other servers can take over its transfers.
    pub fn random_access(reader: impl ReadAt) -> Content {
        Content::from_source(CustomReader::new(reader))
    }

    pub(crate) fn from_source(source: impl Source + 'static) -> Content {
        Content(Arc::new(source))
    }

    /// Returns the size in bytes, if known. It is binding: the client may get it as `tsize`, exactly so many bytes are sent, and a content that ends
    /// early fails the transfer.
    pub fn size(&self) -> Option<u64> {
        self.0.size()
    }

    /// Reads at `offset` into `buffer` and returns the number of bytes: fewer than requested if no more are available, 0 only at the end.
    ///
    /// # Errors
    /// When the content cannot be read.
    pub async fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        poll_fn(|context| self.0.poll_read_at(context, offset, buffer)).await
    }

    /// Returns the tag of the bytes. It changes with the bytes; two servers with the same bytes should have the same tag. May hash the bytes.
    pub fn version(&self) -> Version {
        self.0.version()
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Content").field("size", &self.size()).finish_non_exhaustive()
    }
}

impl<B: Into<Bytes>> From<B> for Content {
    fn from(bytes: B) -> Content {
        Content::bytes(bytes)
    }
}

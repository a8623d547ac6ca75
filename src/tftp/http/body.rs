//! The bytes of an answer.

use crate::content::Content;
use crate::engine::ServiceTransfer;
use crate::report::Outcome;
use hyper::body::{Body, Bytes, Frame, SizeHint};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Sleep, sleep};

/// Bytes that are read at once.
const CHUNK: usize = 64 * 1024;

/// The body of an answer.
pub(super) enum AnswerBody {
    /// A text, or nothing.
    Text(Bytes),
    /// Bytes of content.
    Content(Box<ContentBody>),
}

/// Transfers of a connection whose last byte was read, but is not yet written.
#[derive(Default)]
pub(super) struct Unwritten(Mutex<Vec<ServiceTransfer>>);

impl Unwritten {
    /// Ends them: all bytes are written.
    pub(super) fn written(&self) {
        let transfers = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        transfers.into_iter().for_each(|mut transfer| transfer.ends(Outcome::Done));
    }

    fn add(&self, transfer: Option<ServiceTransfer>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(transfer);
    }
}

/// Content, or a part of it, as it is read.
pub(super) struct ContentBody {
    content: Content,
    /// `None` once the last byte was read.
    transfer: Option<ServiceTransfer>,
    unwritten: Arc<Unwritten>,
    offset: u64,
    /// Bytes that are left; `None` if the size is unknown.
    left: Option<u64>,
    buffer: Vec<u8>,
    patience: Duration,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl ContentBody {
    /// Reads `left` bytes from `offset`, or all if their number is unknown. Bytes that do not come within `patience` fail it.
    /// Then the transfer goes to `unwritten`.
    pub(super) fn new(
        content: Content,
        transfer: ServiceTransfer,
        offset: u64,
        left: Option<u64>,
        patience: Duration,
        unwritten: Arc<Unwritten>,
    ) -> ContentBody {
        let mut body =
            ContentBody { content, transfer: Some(transfer), unwritten, offset, left, buffer: Vec::new(), patience, deadline: None };
        if left == Some(0) {
            body.end();
        }
        body
    }

    fn end(&mut self) {
        self.unwritten.add(self.transfer.take());
    }

    fn fail(&mut self, error: io::Error) -> io::Error {
        if let Some(transfer) = &mut self.transfer {
            transfer.fails(&error);
        }
        error
    }

    /// Reads the next bytes; none at the end.
    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        let len = self.left.map_or(CHUNK, |left| usize::try_from(left).unwrap_or(CHUNK).min(CHUNK));
        if len == 0 {
            return Poll::Ready(Ok(Bytes::new()));
        }
        self.buffer.resize(len, 0);
        let Poll::Ready(read) = self.content.0.poll_read_at(context, self.offset, &mut self.buffer) else {
            let patience = self.patience;
            ready!(self.deadline.get_or_insert_with(|| Box::pin(sleep(patience))).as_mut().poll(context));
            return Poll::Ready(Err(self.fail(io::ErrorKind::TimedOut.into())));
        };
        self.deadline = None;
        let len = match read {
            Err(error) => return Poll::Ready(Err(self.fail(error))),
            Ok(0) if self.left.is_some() => return Poll::Ready(Err(self.fail(io::Error::other("the content is shorter than its size")))),
            Ok(len) => len,
        };
        self.offset += len as u64;
        if let Some(transfer) = &mut self.transfer {
            transfer.sent(len as u64);
        }
        self.left = self.left.map(|left| left - len as u64);
        if self.left == Some(0)
            && self.content.size().is_some_and(|size| self.offset < size)
            && let Err(error) = self.content.0.check()
        {
            return Poll::Ready(Err(self.fail(error)));
        }
        if len == 0 || self.left == Some(0) {
            self.end();
        }
        let mut bytes = std::mem::take(&mut self.buffer);
        bytes.truncate(len);
        Poll::Ready(Ok(bytes.into()))
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let bytes = match self.get_mut() {
            AnswerBody::Text(text) => Ok(std::mem::take(text)),
            AnswerBody::Content(content) => ready!(content.poll_read(context)),
        };
        Poll::Ready(match bytes {
            Ok(bytes) if bytes.is_empty() => None,
            bytes => Some(bytes.map(Frame::data)),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.size_hint().exact() == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            AnswerBody::Text(text) => SizeHint::with_exact(text.len() as u64),
            AnswerBody::Content(content) => content.left.map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}

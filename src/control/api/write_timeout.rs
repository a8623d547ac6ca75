//! A connection that ends when its peer takes nothing of what it is sent for a while.

use std::future::Future;
use std::io::{Error, ErrorKind, Result};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// How long a peer may take nothing.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// See the module.
pub struct WriteTimeout<S> {
    stream: S,
    deadline: Option<Pin<Box<Sleep>>>,
    timeout: Duration,
}

impl<S> WriteTimeout<S> {
    /// Over `stream`.
    pub fn new(stream: S) -> WriteTimeout<S> {
        WriteTimeout { stream, deadline: None, timeout: WRITE_TIMEOUT }
    }

    /// What comes of waiting for the peer to take something.
    fn check_deadline<T>(&mut self, context: &mut Context<'_>, outcome: Poll<Result<T>>) -> Poll<Result<T>> {
        if outcome.is_ready() {
            self.deadline = None;
            return outcome;
        }
        let timeout = self.timeout;
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(sleep(timeout)));
        deadline.as_mut().poll(context).map(|()| Err(Error::from(ErrorKind::TimedOut)))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WriteTimeout<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WriteTimeout<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.check_deadline(context, outcome)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_flush(context);
        self.check_deadline(context, outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_shutdown(context);
        self.check_deadline(context, outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    #[tokio::test]
    async fn who_reads_nothing_is_left() {
        let (ours, theirs) = tokio::io::duplex(16);
        let mut ours = WriteTimeout { stream: ours, deadline: None, timeout: Duration::from_millis(50) };
        ours.write_all(&[0; 16]).await.unwrap();
        assert_eq!(ours.write_all(&[0; 16]).await.unwrap_err().kind(), ErrorKind::TimedOut);
        drop(theirs);
    }
}

//! Metrics for Prometheus: the text exposition format 0.0.4, and the small HTTP server that gives it to whoever scrapes.

use axum::Router;
use axum::http::{StatusCode, header};
use axum::routing::get;
use axum::serve::Listener;
use std::fmt::{Display, Write};
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};

/// What the format calls itself.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Connections at a time. The address is open to whoever reaches it, and what a stranger holds open the daemon lacks: descriptors, above all.
const MOST: usize = 16;
/// How long a connection may go without an answer that was sent.
const PATIENCE: Duration = Duration::from_secs(60);

/// What kind of number a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows; its name ends with `_total`.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// A document in the making.
#[derive(Debug, Default)]
pub struct Exposition(String);

impl Exposition {
    /// Begins a metric: its samples come next. `help` is one sentence.
    pub fn metric(&mut self, name: &str, kind: Kind, help: &str) -> Metric<'_> {
        let word = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {word}");
        Metric { out: &mut self.0, name: name.to_owned() }
    }

    /// The document.
    pub fn finish(self) -> String {
        self.0
    }
}

/// A metric whose samples are being written.
#[derive(Debug)]
pub struct Metric<'e> {
    out: &'e mut String,
    name: String,
}

impl Metric<'_> {
    /// A sample; labels are names and values of any text.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) -> &mut Self {
        self.out.push_str(&self.name);
        for (index, (name, text)) in labels.iter().enumerate() {
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.out, "{}{name}=\"{text}\"", if index == 0 { '{' } else { ',' });
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.out, "{end} {value}");
        self
    }
}

/// The address cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("metrics cannot be served at {address}: {source}; `metrics` can name another address and port")]
pub struct Error {
    /// The address.
    pub address: SocketAddr,
    /// What the system says.
    pub source: std::io::Error,
}

/// Binds the address; to be called before privileges are dropped.
///
/// # Errors
/// When the system refuses the address.
pub fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    let bind = || {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        tracing::info!("metrics at http://{}/metrics", listener.local_addr()?);
        Ok(listener)
    };
    bind().map_err(|source| Error { address, source })
}

/// Answers `GET /metrics` with what `render` gives, until the runtime ends.
///
/// # Errors
/// When the listener cannot be used.
pub async fn serve(listener: TcpListener, render: impl Fn() -> String + Clone + Send + Sync + 'static) -> std::io::Result<()> {
    serve_within(listener, render, MOST, PATIENCE).await
}

async fn serve_within(
    listener: TcpListener,
    render: impl Fn() -> String + Clone + Send + Sync + 'static,
    most: usize,
    patience: Duration,
) -> std::io::Result<()> {
    let metrics = move || {
        let text = render();
        async move { ([(header::CONTENT_TYPE, CONTENT_TYPE)], text) }
    };
    let router = Router::new().route("/metrics", get(metrics));
    let router = router.fallback(|| async { (StatusCode::NOT_FOUND, "see /metrics\n") });
    let listener = tokio::net::TcpListener::from_std(listener)?;
    axum::serve(Limited { listener, places: Arc::new(Semaphore::new(most)), patience }, router).await
}

/// Takes a connection only when there is a place for it; the others wait in the kernel.
struct Limited {
    listener: tokio::net::TcpListener,
    places: Arc<Semaphore>,
    patience: Duration,
}

impl Listener for Limited {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        // Nobody closes the semaphore, so that this is always a place.
        let place = self.places.clone().acquire_owned().await.ok();
        let (stream, address) = Listener::accept(&mut self.listener).await;
        (Connection { stream, end: Box::pin(sleep(self.patience)), patience: self.patience, _place: place }, address)
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that ends when nothing was sent on it for a while: its peer asks nothing, too slowly, or does not read.
struct Connection {
    stream: TcpStream,
    end: Pin<Box<Sleep>>,
    patience: Duration,
    _place: Option<OwnedSemaphorePermit>,
}

impl Connection {
    /// What comes of waiting for the peer.
    fn or_end<T>(&mut self, context: &mut Context<'_>, outcome: Poll<std::io::Result<T>>) -> Poll<std::io::Result<T>> {
        if outcome.is_pending() {
            ready!(self.end.as_mut().poll(context));
            return Poll::Ready(Err(std::io::ErrorKind::TimedOut.into()));
        }
        outcome
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.or_end(context, outcome)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(context, bytes);
        if matches!(outcome, Poll::Ready(Ok(_))) {
            let end = Instant::now() + self.patience;
            self.end.as_mut().reset(end);
        }
        self.or_end(context, outcome)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write as _};

    #[test]
    fn who_asks_nothing_makes_room_for_who_does() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.spawn(serve_within(listener, || "a 1\n".to_owned(), 2, Duration::from_millis(200)));
        let connect = || {
            let stream = std::net::TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            stream
        };
        // One says nothing, one not all; there is a place for each, and none for the third.
        let mut silent = [connect(), connect()];
        silent[1].write_all(b"GET /metrics HT").unwrap();
        let mut asks = connect();
        asks.write_all(b"GET /metrics HTTP/1.1\r\nHost: d1\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        asks.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\na 1\n"), "{answer}");
        for stream in &mut silent {
            let ended = stream.read(&mut [0; 16]);
            assert!(matches!(&ended, Ok(0)) || ended.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset), "{ended:?}");
        }
    }

    #[test]
    fn any_text_is_escaped() {
        let mut out = Exposition::default();
        out.metric("a_total", Kind::Counter, "Of a\nkind \\ of.").sample(&[("x", "q\"\\\n"), ("y", "{,}=")], 3).sample(&[], u64::MAX);
        out.metric("b_seconds", Kind::Gauge, "Of another.").sample(&[], 1.5);
        let text = out.finish();
        let expected = "# HELP a_total Of a\\nkind \\\\ of.\n# TYPE a_total counter\na_total{x=\"q\\\"\\\\\\n\",y=\"{,}=\"} 3\n\
            a_total 18446744073709551615\n# HELP b_seconds Of another.\n# TYPE b_seconds gauge\nb_seconds 1.5\n";
        assert_eq!(text, expected);
        let samples = guideway_testbed::exposition::parse(&text);
        assert_eq!((samples.len(), samples["b_seconds"]), (3, 1.5));
    }
}

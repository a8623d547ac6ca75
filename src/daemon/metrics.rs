//! Metrics for Prometheus: the text exposition format 0.0.4, and a small HTTP server for it.

use axum::Router;
use axum::http::{StatusCode, header};
use axum::routing::get;
use axum::serve::Listener;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet, prometheus_text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};

/// The media type of the format.
pub const CONTENT_TYPE: &str = prometheus_text::CONTENT_TYPE;

/// Maximum number of connections. Any peer that reaches the address may connect, and its connections must not use up the daemon's
/// descriptors.
const MAX_CONNECTIONS: usize = 16;
/// Time without a sent response after which a connection is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Type of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows; its name ends with `_total`.
    Counter,
    /// May grow and shrink.
    Gauge,
}

/// The metrics of one scrape. `prometheus-client` writes them.
#[derive(Debug, Default)]
pub struct Exposition(Vec<Metric>);

impl Exposition {
    /// Starts a metric; its samples follow. `help` is one sentence.
    pub fn metric(&mut self, name: &str, kind: MetricKind, help: &str) -> &mut Metric {
        self.0.push(Metric { name: name.to_owned(), kind, help: help.to_owned(), samples: Vec::new() });
        let last = self.0.len() - 1;
        &mut self.0[last]
    }

    /// Name, type and help of each metric, in their order.
    pub fn described(&self) -> impl Iterator<Item = (&str, MetricKind, &str)> {
        self.0.iter().map(|metric| (metric.name.as_str(), metric.kind, metric.help.as_str()))
    }

    /// The document of a scrape.
    pub fn finish(self) -> String {
        let (mut registry, mut text) = (Registry::default(), String::new());
        registry.register_collector(Box::new(self));
        // Writing to a string cannot fail.
        let _ = prometheus_text::encode(&mut text, &registry);
        text
    }
}

impl Collector for Exposition {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        for metric in &self.0 {
            // The encoder appends `_total` to the name of a counter.
            let (kind, name) = match metric.kind {
                MetricKind::Counter => (MetricType::Counter, metric.name.trim_end_matches("_total")),
                MetricKind::Gauge => (MetricType::Gauge, metric.name.as_str()),
            };
            let mut family = encoder.encode_descriptor(name, &metric.help, None, kind)?;
            for (labels, value) in &metric.samples {
                let mut sample = family.encode_family(labels)?;
                match (metric.kind, value) {
                    (MetricKind::Counter, Value::Whole(value)) => sample.encode_counter::<NoLabelSet, _, u64>(value, None)?,
                    (MetricKind::Counter, Value::Real(value)) => sample.encode_counter::<NoLabelSet, _, u64>(value, None)?,
                    (MetricKind::Gauge, Value::Whole(value)) => sample.encode_gauge(value)?,
                    (MetricKind::Gauge, Value::Real(value)) => sample.encode_gauge(value)?,
                }
            }
        }
        Ok(())
    }
}

/// A metric and its samples.
#[derive(Debug)]
pub struct Metric {
    name: String,
    kind: MetricKind,
    help: String,
    samples: Vec<(Vec<(String, String)>, Value)>,
}

impl Metric {
    /// Adds a sample; labels are names and values of any text.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: impl Into<Value>) -> &mut Self {
        let labels = labels.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        self.samples.push((labels, value.into()));
        self
    }
}

/// The value of a sample.
#[derive(Clone, Copy, Debug)]
pub enum Value {
    /// A count, exact.
    Whole(u64),
    /// Anything else.
    Real(f64),
}

impl From<u64> for Value {
    fn from(value: u64) -> Value {
        Value::Whole(value)
    }
}

impl From<usize> for Value {
    fn from(value: usize) -> Value {
        Value::Whole(value as u64)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Value {
        Value::Real(value)
    }
}

/// The address cannot be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve metrics at {address}: {source}; set another address and port in `metrics`")]
pub struct Error {
    /// The address.
    pub address: SocketAddr,
    /// The error of the system.
    pub source: std::io::Error,
}

/// Binds the address. Must be called before privileges are dropped.
///
/// # Errors
/// Returns an error when the system refuses the address.
pub fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    let bind = || {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        tracing::info!("metrics at http://{}/metrics", listener.local_addr()?);
        Ok(listener)
    };
    bind().map_err(|source| Error { address, source })
}

/// Serves `GET /metrics` with the result of `render` until the runtime ends.
///
/// # Errors
/// Returns an error when the listener cannot be used.
pub async fn serve(listener: TcpListener, render: impl Fn() -> String + Clone + Send + Sync + 'static) -> std::io::Result<()> {
    serve_with_limits(listener, render, MAX_CONNECTIONS, IDLE_TIMEOUT).await
}

async fn serve_with_limits(
    listener: TcpListener,
    render: impl Fn() -> String + Clone + Send + Sync + 'static,
    max_connections: usize,
    idle_timeout: Duration,
) -> std::io::Result<()> {
    let metrics = move || {
        let text = render();
        async move { ([(header::CONTENT_TYPE, CONTENT_TYPE)], text) }
    };
    let router = Router::new().route("/metrics", get(metrics));
    let router = router.fallback(|| async { (StatusCode::NOT_FOUND, "see /metrics\n") });
    let listener = tokio::net::TcpListener::from_std(listener)?;
    axum::serve(LimitedListener { listener, permits: Arc::new(Semaphore::new(max_connections)), idle_timeout }, router).await
}

/// Accepts a connection only when there is a permit for it; the others wait in the kernel.
struct LimitedListener {
    listener: tokio::net::TcpListener,
    permits: Arc<Semaphore>,
    idle_timeout: Duration,
}

impl Listener for LimitedListener {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        // The semaphore is never closed, so there is always a permit.
        let permit = self.permits.clone().acquire_owned().await.ok();
        let (stream, address) = Listener::accept(&mut self.listener).await;
        (Connection { stream, deadline: Box::pin(sleep(self.idle_timeout)), idle_timeout: self.idle_timeout, _permit: permit }, address)
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that ends when nothing was sent on it for a while: its peer sends no request, is too slow, or does not read.
struct Connection {
    stream: TcpStream,
    deadline: Pin<Box<Sleep>>,
    idle_timeout: Duration,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Connection {
    /// The result of waiting for the peer.
    fn check_deadline<T>(&mut self, context: &mut Context<'_>, outcome: Poll<std::io::Result<T>>) -> Poll<std::io::Result<T>> {
        if outcome.is_pending() {
            ready!(self.deadline.as_mut().poll(context));
            return Poll::Ready(Err(std::io::ErrorKind::TimedOut.into()));
        }
        outcome
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.check_deadline(context, outcome)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(context, bytes);
        if matches!(outcome, Poll::Ready(Ok(_))) {
            let deadline = Instant::now() + self.idle_timeout;
            self.deadline.as_mut().reset(deadline);
        }
        self.check_deadline(context, outcome)
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
    fn idle_connections_make_room_for_requests() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.spawn(serve_with_limits(listener, || "a 1\n".to_owned(), 2, Duration::from_millis(200)));
        let connect = || {
            let stream = std::net::TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            stream
        };
        // One client sends nothing, the other half a request. Each takes a place, and the third client gets none.
        let mut idle = [connect(), connect()];
        idle[1].write_all(b"GET /metrics HT").unwrap();
        let mut active = connect();
        active.write_all(b"GET /metrics HTTP/1.1\r\nHost: d1\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        active.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\na 1\n"), "{answer}");
        for stream in &mut idle {
            let ended = stream.read(&mut [0; 16]);
            assert!(matches!(&ended, Ok(0)) || ended.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset), "{ended:?}");
        }
    }

    #[test]
    fn any_text_is_escaped() {
        let mut out = Exposition::default();
        out.metric("a_total", MetricKind::Counter, "Of a\nkind \\ of.")
            .sample(&[("x", "q\"\\\n"), ("y", "{,}=")], 3u64)
            .sample(&[], u64::MAX);
        out.metric("b_seconds", MetricKind::Gauge, "Of another.").sample(&[], 1.5);
        let text = out.finish();
        let expected = "# HELP a_total Of a\\nkind \\\\ of.\n# TYPE a_total counter\na_total{x=\"q\\\"\\\\\\n\",y=\"{,}=\"} 3\n\
            a_total 18446744073709551615\n# HELP b_seconds Of another.\n# TYPE b_seconds gauge\nb_seconds 1.5\n";
        assert_eq!(text, expected);
        let samples = guideway_testbed::exposition::parse(&text);
        assert_eq!((samples.len(), samples["b_seconds"]), (3, 1.5));
    }
}

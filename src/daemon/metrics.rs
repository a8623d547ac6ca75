//! Metrics for Prometheus: the text exposition format 0.0.4, and a small HTTP server for it.

use crate::connections::{Connections, Limits, Place};
use crate::histogram::Histogram;
use axum::Router;
use axum::body::Bytes;
use axum::http::{StatusCode, header};
use axum::routing::get;
use axum::serve::Listener;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet, prometheus_text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

/// The media type of the format.
pub const CONTENT_TYPE: &str = prometheus_text::CONTENT_TYPE;

/// Maximum number of connections. Any peer that reaches the address may connect, and its connections must not use up the daemon's
/// descriptors.
const MAX_CONNECTIONS: usize = 64;
/// Time until the first response, and then between two, after which a connection is closed. Prometheus keeps its connection from scrape to
/// scrape.
const TIMEOUTS: Timeouts = Timeouts { first: Duration::from_secs(10), idle: Duration::from_secs(60) };
/// A document is given to all who ask within this time,
const MIN_RENDER_INTERVAL: Duration = Duration::from_millis(50);
/// and for so many times as long as it took: scrapes never cost the daemon more than a tenth of a CPU.
const RENDER_COST_FACTOR: u32 = 10;

#[derive(Clone, Copy)]
struct Timeouts {
    first: Duration,
    idle: Duration,
}

/// Type of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows; its name ends with `_total`.
    Counter,
    /// May grow and shrink.
    Gauge,
    /// Counts values in buckets.
    Histogram,
}

impl MetricKind {
    /// Returns its name in the format.
    pub fn name(self) -> &'static str {
        match self {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Histogram => "histogram",
        }
    }
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
                MetricKind::Histogram => (MetricType::Histogram, metric.name.as_str()),
            };
            let mut family = encoder.encode_descriptor(name, &metric.help, None, kind)?;
            for (labels, value) in &metric.samples {
                let mut sample = family.encode_family(labels)?;
                match (metric.kind, value) {
                    (MetricKind::Counter, Value::Whole(value)) => sample.encode_counter::<NoLabelSet, _, u64>(value, None)?,
                    (MetricKind::Counter, Value::Real(value)) => sample.encode_counter::<NoLabelSet, _, u64>(value, None)?,
                    (_, Value::Histogram(value)) => {
                        sample.encode_histogram::<NoLabelSet>(value.sum(), value.count(), &value.buckets(), None)?;
                    }
                    (_, Value::Whole(value)) => sample.encode_gauge(value)?,
                    (_, Value::Real(value)) => sample.encode_gauge(value)?,
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
#[derive(Clone, Debug)]
pub enum Value {
    /// A count, exact.
    Whole(u64),
    /// Anything else.
    Real(f64),
    /// The value of a histogram.
    Histogram(Histogram),
}

impl From<Histogram> for Value {
    fn from(value: Histogram) -> Value {
        Value::Histogram(value)
    }
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

/// Serves `GET /metrics` with the result of `render` until the process ends, on a thread of its own: scrapes delay nothing else.
///
/// # Errors
/// Returns an error when there is no thread for it.
pub fn start(listener: TcpListener, render: impl Fn() -> String + Send + Sync + 'static) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("metrics".to_owned()).spawn(move || {
        let _ = nix::sys::signal::SigSet::all().thread_block();
        if let Err(error) = runtime.block_on(serve(listener, render, MAX_CONNECTIONS, TIMEOUTS)) {
            tracing::error!(%error, "metrics end");
        }
    })?;
    Ok(())
}

async fn serve(
    listener: TcpListener,
    render: impl Fn() -> String + Send + Sync + 'static,
    max_connections: usize,
    timeouts: Timeouts,
) -> std::io::Result<()> {
    let document = Arc::new(Document { render, last: Mutex::default() });
    let metrics = move || {
        let text = document.get();
        async move { ([(header::CONTENT_TYPE, CONTENT_TYPE)], text) }
    };
    let router = Router::new().route("/metrics", get(metrics));
    let router = router.fallback(|| async { (StatusCode::NOT_FOUND, "see /metrics\n") });
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let limits = Limits { strangers: max_connections, authenticated: 0, authenticate_within: None };
    axum::serve(LimitedListener { listener, connections: Connections::new(limits), timeouts }, router).await
}

/// The newest document, made at a bounded rate.
struct Document<R> {
    render: R,
    last: Mutex<Option<(Bytes, Instant)>>,
}

impl<R: Fn() -> String> Document<R> {
    fn get(&self) -> Bytes {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let began = Instant::now();
        if let Some((text, until)) = &*last
            && began < *until
        {
            return text.clone();
        }
        let text = Bytes::from((self.render)());
        let until = began + (began.elapsed() * RENDER_COST_FACTOR).max(MIN_RENDER_INTERVAL);
        *last = Some((text.clone(), until));
        text
    }
}

/// Accepts every connection; when there are too many, others end.
struct LimitedListener {
    listener: tokio::net::TcpListener,
    connections: Arc<Connections>,
    timeouts: Timeouts,
}

impl Listener for LimitedListener {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let (stream, address) = Listener::accept(&mut self.listener).await;
        let place = self.connections.admit(address.ip());
        (Connection { stream, deadline: Box::pin(sleep(self.timeouts.first)), idle_timeout: self.timeouts.idle, place }, address)
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that ends when nothing was sent on it for a while, because its peer sends no request, is too slow, or does not read; and
/// when another connection needs its place.
struct Connection {
    stream: TcpStream,
    deadline: Pin<Box<Sleep>>,
    idle_timeout: Duration,
    place: Place,
}

impl Connection {
    /// The result of waiting for the peer.
    fn check_deadline<T>(&mut self, context: &mut Context<'_>, outcome: Poll<std::io::Result<T>>) -> Poll<std::io::Result<T>> {
        if outcome.is_pending() && (self.deadline.as_mut().poll(context).is_ready() || Pin::new(&mut self.place).poll(context).is_ready()) {
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

    /// A server with two places; it closes a connection after `first` without a request.
    fn server(first: Duration) -> (SocketAddr, tokio::runtime::Runtime) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let timeouts = Timeouts { first, idle: Duration::from_secs(60) };
        runtime.spawn(serve(listener, || "a 1\n".to_owned(), 2, timeouts));
        (address, runtime)
    }

    fn connect(address: SocketAddr) -> std::net::TcpStream {
        let stream = std::net::TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    fn scrape(mut stream: std::net::TcpStream) -> String {
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: d1\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn is_closed(stream: &mut std::net::TcpStream) -> bool {
        let ended = stream.read(&mut [0; 16]);
        matches!(&ended, Ok(0)) || ended.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset)
    }

    #[test]
    fn idle_connections_delay_nobody() {
        let (address, _runtime) = server(Duration::from_secs(60));
        // One client sends nothing, the other half a request. They have all places, and keep them for a minute if nobody else comes.
        let mut idle = [connect(address), connect(address)];
        idle[1].write_all(b"GET /metrics HT").unwrap();
        let began = Instant::now();
        let answer = scrape(connect(address));
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\na 1\n"), "{answer}");
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        assert!(is_closed(&mut idle[0]), "the oldest makes room");
    }

    #[test]
    fn slow_connections_are_closed() {
        let (address, _runtime) = server(Duration::from_millis(200));
        let mut slow = [connect(address), connect(address)];
        slow[1].write_all(b"GET /metrics HT").unwrap();
        assert!(slow.iter_mut().all(is_closed));
    }

    #[test]
    fn a_document_is_made_at_a_bounded_rate() {
        let made = std::sync::atomic::AtomicU32::new(0);
        let render = || {
            std::thread::sleep(Duration::from_millis(20));
            made.fetch_add(1, std::sync::atomic::Ordering::Relaxed).to_string()
        };
        let document = Document { render, last: Mutex::default() };
        let began = Instant::now();
        (0..1000).for_each(|_| drop(document.get()));
        let most = 1 + began.elapsed().as_millis() / 200;
        assert!(u128::from(made.load(std::sync::atomic::Ordering::Relaxed)) <= most, "{made:?} in {:?}", began.elapsed());
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

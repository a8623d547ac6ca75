//! Status of a running server: a document for `guideway status`, and metrics for Prometheus.

use super::reload::Applied;
use super::reports::Reports;
use super::transfer_metrics::TransferMetrics;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use guideway_api::error::Error;
use guideway_api::server::{CacheStatus, Capacity, Checkpoints, ServerKind, ServerStatus};
use guideway_api::status::{KeyIds, Maintenance, Reloaded, Reloads};
use guideway_daemon::metrics::{Exposition, MetricKind};
use guideway_hash::KeyId;
use guideway_tftp::engine::{ServerHandle, TakeoverStatus};
use guideway_tftp::handlers::http::{Cache, CacheReport};
use guideway_tftp::report::{Counter, Statistics};
use guideway_tftp::takeover::checkpoint_store::Limits;
use indexmap::IndexMap;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use tokio::net::UnixListener;
use tokio::sync::oneshot;

/// The parts of a running server that its status is made from.
pub struct Status {
    /// Its name.
    pub name: String,
    /// Listening addresses.
    pub listen: Vec<SocketAddr>,
    /// Source address of the answers, one for each event loop.
    pub tids: Vec<SocketAddr>,
    /// Listening addresses of HTTP.
    pub http: Vec<SocketAddr>,
    /// Event loops.
    pub loops: usize,
    /// Largest number of transfers, in all loops together.
    pub capacity: usize,
    /// Its counters.
    pub statistics: Statistics,
    /// The caches of its handlers, by their names.
    pub caches: Mutex<Vec<(String, Cache)>>,
    /// Checkpoints stored for other servers: limits and current use.
    pub checkpoints: Option<(Limits, Arc<TakeoverStatus>)>,
    /// When it started.
    pub started: Instant,
    /// Metrics of its transfers.
    pub transfers: Arc<TransferMetrics>,
    /// Targets of reports.
    pub reports: Arc<Reports>,
    /// Whether it answers no new requests, and who is told.
    pub maintenance: MaintenanceState,
    /// Asks the thread of the signals for a reload.
    pub requests: ReloadRequests,
    /// Reloads so far, and changes that require a restart.
    pub reloads: Mutex<(Reloads, Vec<String>)>,
}

/// Whether the server answers no new requests.
#[derive(Default)]
pub struct MaintenanceState {
    on: AtomicBool,
    server: OnceLock<ServerHandle>,
}

impl MaintenanceState {
    /// Names the server, once it runs.
    pub fn set_server(&self, server: ServerHandle) {
        let _first = self.server.set(server);
    }

    fn set(&self, on: bool) {
        if let Some(server) = self.server.get() {
            server.pause(on);
            if self.on.swap(on, Relaxed) != on {
                tracing::info!(on, "maintenance");
            }
        }
    }
}

/// Clients of the control socket that wait for a reload.
#[derive(Default)]
pub struct ReloadRequests(Mutex<Vec<oneshot::Sender<ReloadResult>>>);

/// The number of reloads so far, or the reasons for which the file was refused.
pub type ReloadResult = Result<u64, String>;

impl ReloadRequests {
    /// Asks for a reload as a signal does, and waits for its result; `None` when the server ends.
    async fn request(&self) -> Option<ReloadResult> {
        let (sender, result) = oneshot::channel();
        self.lock().push(sender);
        kill(Pid::this(), Signal::SIGHUP).ok()?;
        result.await.ok()
    }

    /// Answers all that wait.
    pub fn answer(&self, result: &ReloadResult) {
        for waiting in self.lock().drain(..) {
            // One whose client has gone has no receiver.
            let _sent = waiting.send(result.clone());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<oneshot::Sender<ReloadResult>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The ids of the keys under which checkpoints are accepted. The first one is active.
fn keys(keys: &[KeyId]) -> KeyIds {
    let known: Vec<String> = keys.iter().map(ToString::to_string).collect();
    KeyIds { active: known.first().cloned(), known }
}

/// Returns the seconds since 1970-01-01 UTC.
pub(super) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// The counters by name, and the number of open transfers.
pub(super) fn counters(statistics: &Statistics) -> IndexMap<String, u64> {
    let totals = statistics.totals();
    totals.iter().chain([("open", totals.open())]).map(|(name, value)| (name.to_owned(), value)).collect()
}

impl Status {
    /// The caches of its handlers, by their names.
    pub fn caches(&self) -> MutexGuard<'_, Vec<(String, Cache)>> {
        self.caches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reloads(&self) -> MutexGuard<'_, (Reloads, Vec<String>)> {
        self.reloads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a reload and returns its number.
    ///
    /// # Errors
    /// The reasons for which the file was refused.
    pub(super) fn record(&self, result: Result<Applied, String>) -> ReloadResult {
        let mut reloads = self.reloads();
        reloads.0.last = unix_seconds();
        match result {
            Ok(Applied { caches, restart_required }) => {
                reloads.0.accepted += 1;
                (reloads.0.last_error, reloads.1) = (None, restart_required);
                *self.caches() = caches;
                Ok(reloads.0.accepted)
            }
            Err(why) => {
                reloads.0.refused += 1;
                reloads.0.last_error = Some(why.clone());
                Err(why)
            }
        }
    }

    fn maintenance(&self) -> Maintenance {
        Maintenance {
            on: self.maintenance.on.load(Relaxed),
            forwarded: None,
            running: Some(self.statistics.totals().open()),
            takeover: self.checkpoints.is_some(),
        }
    }

    /// The document of `GET /v1/status`.
    pub fn document(&self) -> ServerStatus {
        let cache = |(name, cache): &(String, Cache)| {
            let CacheReport { hits, misses, coalesced, negative_hits, files, bytes, limit } = cache.report();
            CacheStatus { handler: name.clone(), hits, misses, coalesced, negative_hits, files, bytes, limit }
        };
        let checkpoints = |(limits, checkpoints): &(Limits, Arc<TakeoverStatus>)| Checkpoints {
            peers: checkpoints.peers.load(Relaxed),
            key: keys(&checkpoints.keys.load()),
            transfers: checkpoints.transfers.load(Relaxed),
            transfers_limit: limits.transfers,
            bytes: checkpoints.bytes.load(Relaxed),
            bytes_limit: limits.bytes,
        };
        let counters = counters(&self.statistics);
        let (reload, restart_required) = self.reloads().clone();
        ServerStatus {
            kind: ServerKind::Tftpd,
            name: self.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: self.started.elapsed().as_secs(),
            listen: self.listen.clone(),
            tids: self.tids.clone(),
            http: self.http.clone(),
            loops: self.loops,
            maintenance: self.maintenance().on,
            capacity: Capacity { used: counters.get("open").copied().unwrap_or_default(), limit: self.capacity },
            counters,
            checkpoints: self.checkpoints.as_ref().map(checkpoints),
            caches: self.caches().iter().map(cache).collect(),
            reload,
            restart_required,
        }
    }

    /// The document of `GET /metrics`.
    pub fn metrics(&self) -> String {
        self.exposition().finish()
    }

    /// Every metric of a server with its samples.
    pub fn exposition(&self) -> Exposition {
        let totals = self.statistics.totals();
        let mut out = Exposition::default();
        let labels = [("name", self.name.as_str()), ("version", env!("CARGO_PKG_VERSION"))];
        out.metric("guideway_tftpd_info", MetricKind::Gauge, "Always 1; the labels say which server this is.").sample(&labels, 1u64);
        let uptime = self.started.elapsed().as_secs();
        out.metric("guideway_tftpd_uptime_seconds", MetricKind::Gauge, "Seconds since the server started.").sample(&[], uptime);
        out.metric("guideway_tftpd_transfers_open", MetricKind::Gauge, "Transfers and openings that run now.").sample(&[], totals.open());
        out.metric("guideway_tftpd_transfers_limit", MetricKind::Gauge, "Transfers for which there is room.").sample(&[], self.capacity);
        let ended = out.metric("guideway_tftpd_transfers_ended_total", MetricKind::Counter, "Requests passed to a handler, by outcome.");
        for counter in Counter::ALL.iter().filter(|counter| counter.is_end()) {
            ended.sample(&[("outcome", counter.name())], totals.get(*counter));
        }
        for counter in Counter::ALL.iter().filter(|counter| !counter.is_end()) {
            out.metric(&format!("guideway_tftpd_{}_total", metric(*counter)), MetricKind::Counter, counter.explain())
                .sample(&[], totals.get(*counter));
        }
        self.transfers.write(&mut out);
        self.reports.write(&mut out);
        self.reload_metrics(&mut out);
        if let Some((limits, checkpoints)) = &self.checkpoints {
            let mut gauge = |name: &str, help: &str, value: u64| {
                out.metric(&format!("guideway_tftpd_{name}"), MetricKind::Gauge, help).sample(&[], value);
            };
            gauge("takeover_peers", "Other servers of the pool that answer.", checkpoints.peers.load(Relaxed));
            gauge("checkpoints", "Checkpoints of other servers' transfers that are stored.", checkpoints.transfers.load(Relaxed));
            gauge("checkpoints_limit", "Checkpoints for which there is room.", limits.transfers as u64);
            gauge("checkpoint_bytes", "Bytes that stored checkpoints take.", checkpoints.bytes.load(Relaxed));
            gauge("checkpoint_limit_bytes", "Bytes of checkpoints for which there is room.", limits.bytes as u64);
        }
        self.cache_metrics(&mut out);
        out
    }

    fn reload_metrics(&self, out: &mut Exposition) {
        let (reloads, restart_required) = self.reloads().clone();
        let counts = out.metric("guideway_tftpd_reloads_total", MetricKind::Counter, "Files accepted or refused since the start.");
        counts.sample(&[("outcome", "accepted")], reloads.accepted).sample(&[("outcome", "refused")], reloads.refused);
        let mut gauge = |name: &str, help: &str, value: u64| {
            out.metric(&format!("guideway_tftpd_{name}"), MetricKind::Gauge, help).sample(&[], value);
        };
        let successful = u64::from(reloads.last_error.is_none());
        gauge("last_reload_successful", "1 when the last reload was accepted; the start counts.", successful);
        gauge("last_reload_timestamp_seconds", "When the file was last read, in seconds since 1970-01-01 UTC.", reloads.last);
        gauge("restart_required_keys", "Keys of the file whose change requires a restart.", restart_required.len() as u64);
    }

    fn cache_metrics(&self, out: &mut Exposition) {
        let reports: Vec<_> = self.caches().iter().map(|(name, cache)| (name.clone(), cache.report())).collect();
        let mut put = |name: &str, kind, help: &str, value: fn(&CacheReport) -> u64| {
            let metric = out.metric(&format!("guideway_tftpd_cache_{name}"), kind, help);
            for (name, report) in &reports {
                metric.sample(&[("handler", name)], value(report));
            }
        };
        put("hits_total", MetricKind::Counter, "Requests answered without asking the origin.", |r| r.hits);
        put("misses_total", MetricKind::Counter, "Requests for which the origin was asked.", |r| r.misses);
        put("coalesced_total", MetricKind::Counter, "Requests that shared a running fetch.", |r| r.coalesced);
        put(
            "negative_hits_total",
            MetricKind::Counter,
            "Requests refused because the origin had just said that the file does not exist.",
            |r| r.negative_hits,
        );
        put("files", MetricKind::Gauge, "Files in the cache, partial ones included.", |r| r.files);
        put("bytes", MetricKind::Gauge, "Bytes of the files in the cache.", |r| r.bytes);
        put("limit_bytes", MetricKind::Gauge, "Bytes for which the cache has room.", |r| r.limit);
    }
}

/// The name of a counter as a metric, with the unit last.
fn metric(counter: Counter) -> &'static str {
    match counter {
        Counter::BytesSent => "sent_bytes",
        other => other.name(),
    }
}

/// Serves the control socket until the runtime ends.
///
/// # Errors
/// When the listener cannot be used.
pub async fn serve(listener: UnixListener, status: Arc<Status>) -> std::io::Result<()> {
    let refused = |status: StatusCode, error: &str| (status, Json(Error { error: error.to_owned(), ..Error::default() }));
    let unknown = move || async move { refused(StatusCode::NOT_FOUND, "no such resource: see /v1/status, or /v1/reload") };
    let shown = |State(status): State<Arc<Status>>| async move { Json(status.document()) };
    let reload = move |State(status): State<Arc<Status>>| async move {
        match status.requests.request().await {
            Some(Ok(generation)) => Ok(Json(Reloaded { generation })),
            Some(Err(why)) => Err(refused(StatusCode::UNPROCESSABLE_ENTITY, &why)),
            None => Err(refused(StatusCode::SERVICE_UNAVAILABLE, "the server is ending")),
        }
    };
    let maintenance = |State(status): State<Arc<Status>>| async move { Json(status.maintenance()) };
    let set = |on| {
        move |State(status): State<Arc<Status>>| async move {
            status.maintenance.set(on);
            Json(status.maintenance())
        }
    };
    let routes = Router::new().route("/v1/maintenance", get(maintenance));
    let routes = routes.route("/v1/maintenance/on", post(set(true))).route("/v1/maintenance/off", post(set(false)));
    let routes = routes.route("/v1/status", get(shown)).route("/v1/reload", post(reload));
    axum::serve(listener, routes.fallback(unknown).with_state(status)).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use guideway_testbed::exposition::parse;
    use guideway_tftp::report::Counters;

    #[test]
    fn every_counter_is_a_metric_and_the_sums_agree() {
        let counters = Arc::new(Counters::default());
        for (index, counter) in Counter::ALL.iter().enumerate() {
            counters.add(*counter, index as u64 + 1);
        }
        counters.add(Counter::Started, 1000);
        let statistics = Statistics::new(vec![counters]);
        let status = Status {
            name: "t1".into(),
            listen: vec!["127.0.0.1:69".parse().unwrap()],
            tids: Vec::new(),
            http: Vec::new(),
            loops: 1,
            capacity: 5000,
            statistics: statistics.clone(),
            caches: Mutex::default(),
            checkpoints: Some((Limits::default(), Arc::default())),
            started: Instant::now(),
            transfers: Arc::default(),
            reports: Arc::default(),
            maintenance: MaintenanceState::default(),
            requests: ReloadRequests::default(),
            reloads: Mutex::default(),
        };
        let samples = parse(&status.metrics());
        let of = |name: &str| samples[&format!("guideway_tftpd_{name}")] as u64;
        let totals = statistics.totals();
        assert_eq!(of("sent_bytes_total"), totals.get(Counter::BytesSent));
        let (mut sum, mut seen) = (0, 0);
        for counter in Counter::ALL {
            let value = if counter.is_end() {
                of(&format!("transfers_ended_total{{outcome=\"{}\"}}", counter.name()))
            } else {
                of(&format!("{}_total", metric(*counter)))
            };
            assert_eq!(value, totals.get(*counter), "{counter:?}");
            sum += if counter.is_end() { value } else { 0 };
            seen += 1;
        }
        assert_eq!((sum + of("transfers_open"), seen), (of("started_total"), Counter::ALL.len()));
        let document = status.document();
        assert_eq!((document.capacity.used, document.capacity.limit), (totals.open(), 5000));
        assert_eq!((of("checkpoints"), of("checkpoints_limit")), (0, Limits::default().transfers as u64));
        assert_eq!(document.checkpoints.map(|checkpoints| checkpoints.bytes_limit), Some(Limits::default().bytes));
        assert_eq!(document.counters["done"], totals.get(Counter::Done));
    }
}

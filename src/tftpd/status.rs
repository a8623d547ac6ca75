//! What a running server tells of itself: a document for `guideway status`, and numbers for Prometheus.

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use guideway_daemon::metrics::{Exposition, Kind};
use guideway_hash::KeyId;
use guideway_tftp::engine::Occupancy;
use guideway_tftp::handlers::http::{Cache, CacheReport};
use guideway_tftp::report::{Counter, Statistics};
use guideway_tftp::takeover::memory::Limits;
use serde_json::{Map, Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;
use tokio::net::UnixListener;

/// A server seen from outside.
pub struct Status {
    /// Its name.
    pub name: String,
    /// Where it takes requests.
    pub listen: Vec<SocketAddr>,
    /// Where its answers come from, loop by loop.
    pub tids: Vec<SocketAddr>,
    /// Event loops.
    pub loops: usize,
    /// Transfers that it has room for, in all loops together.
    pub places: usize,
    /// Its counters.
    pub statistics: Statistics,
    /// The caches of its handlers, by their names.
    pub caches: Vec<(String, Cache)>,
    /// What is kept of other servers' transfers: bounds, and how much it is.
    pub kept: Option<(Limits, Arc<Occupancy>)>,
    /// When it started.
    pub started: Instant,
}

/// The ids of the keys that notes are believed under, of which the first is in use: as a director shows its own.
fn keys(keys: &[KeyId]) -> Value {
    let known: Vec<String> = keys.iter().map(ToString::to_string).collect();
    json!({"active": known.first(), "known": known})
}

/// The counters under their names, and how many transfers are open.
pub(super) fn counters(statistics: &Statistics) -> Value {
    let totals = statistics.totals();
    let mut map: Map<String, Value> = totals.iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
    map.insert("open".to_owned(), totals.open().into());
    Value::Object(map)
}

impl Status {
    /// The document of `GET /v1/status`.
    pub fn to_json(&self) -> Value {
        let cache = |(name, cache): &(String, Cache)| {
            let CacheReport { hits, misses, joined, absent, files, bytes, limit } = cache.report();
            json!({"handler": name, "hits": hits, "misses": misses, "joined": joined, "absent": absent, "files": files, "bytes": bytes, "limit": limit})
        };
        let counters = counters(&self.statistics);
        json!({
            "kind": "tftpd",
            "name": self.name,
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_seconds": self.started.elapsed().as_secs(),
            "listen": self.listen,
            "tids": self.tids,
            "loops": self.loops,
            "places": {"taken": counters["open"], "limit": self.places},
            "counters": counters,
            "notes": self.kept.as_ref().map(|(limits, kept)| json!({
                "peers": kept.peers.load(Relaxed),
                "key": keys(&kept.keys.load()),
                "transfers": kept.transfers.load(Relaxed), "transfers_limit": limits.transfers,
                "bytes": kept.bytes.load(Relaxed), "bytes_limit": limits.bytes,
            })),
            "caches": self.caches.iter().map(cache).collect::<Vec<_>>(),
        })
    }

    /// The document of `GET /metrics`.
    pub fn metrics(&self) -> String {
        let totals = self.statistics.totals();
        let mut out = Exposition::default();
        let labels = [("name", self.name.as_str()), ("version", env!("CARGO_PKG_VERSION"))];
        out.metric("guideway_tftpd_info", Kind::Gauge, "Always 1; the labels say which server this is.").sample(&labels, 1);
        let uptime = self.started.elapsed().as_secs();
        out.metric("guideway_tftpd_uptime_seconds", Kind::Gauge, "Seconds since the server started.").sample(&[], uptime);
        out.metric("guideway_tftpd_transfers_open", Kind::Gauge, "Transfers and openings under way.").sample(&[], totals.open());
        out.metric("guideway_tftpd_transfers_limit", Kind::Gauge, "Transfers that there is room for.").sample(&[], self.places);
        let mut ended =
            out.metric("guideway_tftpd_transfers_ended_total", Kind::Counter, "Requests that a handler was asked about, by their end.");
        for counter in Counter::ALL.iter().filter(|counter| counter.is_end()) {
            ended.sample(&[("outcome", counter.name())], totals.get(*counter));
        }
        for counter in Counter::ALL.iter().filter(|counter| !counter.is_end()) {
            out.metric(&format!("guideway_tftpd_{}_total", metric(*counter)), Kind::Counter, counter.explain())
                .sample(&[], totals.get(*counter));
        }
        if let Some((limits, kept)) = &self.kept {
            let mut gauge = |name: &str, help: &str, value: u64| {
                out.metric(&format!("guideway_tftpd_notes_{name}"), Kind::Gauge, help).sample(&[], value);
            };
            gauge("peers", "Other servers of the pool that answer.", kept.peers.load(Relaxed));
            gauge("transfers", "Transfers of other servers that are known.", kept.transfers.load(Relaxed));
            gauge("transfers_limit", "Transfers of other servers that there is room for.", limits.transfers as u64);
            gauge("bytes", "Bytes that notes of other servers take.", kept.bytes.load(Relaxed));
            gauge("limit_bytes", "Bytes that there is room for.", limits.bytes as u64);
        }
        self.cache_metrics(&mut out);
        out.finish()
    }

    fn cache_metrics(&self, out: &mut Exposition) {
        let reports: Vec<_> = self.caches.iter().map(|(name, cache)| (name, cache.report())).collect();
        if reports.is_empty() {
            return;
        }
        let mut put = |name: &str, kind, help: &str, value: fn(&CacheReport) -> u64| {
            let mut metric = out.metric(&format!("guideway_tftpd_cache_{name}"), kind, help);
            for (name, report) in &reports {
                metric.sample(&[("handler", name)], value(report));
            }
        };
        put("hits_total", Kind::Counter, "Requests answered without asking the origin.", |r| r.hits);
        put("misses_total", Kind::Counter, "Requests for which the origin was asked.", |r| r.misses);
        put("joined_total", Kind::Counter, "Requests that joined a question to the origin that was under way.", |r| r.joined);
        put("absent_total", Kind::Counter, "Requests refused because the origin had just said that there is no such file.", |r| r.absent);
        put("files", Kind::Gauge, "Files in the cache, in part or whole.", |r| r.files);
        put("bytes", Kind::Gauge, "Bytes of the files in the cache.", |r| r.bytes);
        put("limit_bytes", Kind::Gauge, "Bytes that the cache has room for.", |r| r.limit);
    }
}

/// A counter's name in metrics, where the unit stands last.
fn metric(counter: Counter) -> &'static str {
    match counter {
        Counter::BytesSent => "sent_bytes",
        other => other.name(),
    }
}

/// Answers on the control socket, until the runtime ends.
///
/// # Errors
/// When the listener cannot be used.
pub async fn serve(listener: UnixListener, status: Arc<Status>) -> std::io::Result<()> {
    let unknown = || async { (StatusCode::NOT_FOUND, Json(json!({"error": "there is no such resource: see /v1/status"}))) };
    let shown = |State(status): State<Arc<Status>>| async move { Json(status.to_json()) };
    axum::serve(listener, Router::new().route("/v1/status", get(shown)).fallback(unknown).with_state(status)).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use guideway_testbed::exposition::parse;
    use guideway_tftp::report::Counters;

    #[test]
    fn every_counter_is_told_and_the_sums_agree() {
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
            loops: 1,
            places: 5000,
            statistics: statistics.clone(),
            caches: Vec::new(),
            kept: Some((Limits::default(), Arc::default())),
            started: Instant::now(),
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
        let json = status.to_json();
        assert_eq!((json["places"]["taken"].as_u64(), json["places"]["limit"].as_u64()), (Some(totals.open()), Some(5000)));
        assert_eq!((of("notes_transfers"), of("notes_transfers_limit")), (0, Limits::default().transfers as u64));
        assert_eq!(json["notes"]["bytes_limit"], Limits::default().bytes);
        assert_eq!((&json["kind"], &json["counters"]["done"]), (&json!("tftpd"), &json!(totals.get(Counter::Done))));
    }
}

//! What a controller tells of itself: the document of its control socket, and numbers for Prometheus.

use super::{Controller, Watched};
use crate::machine::Phase;
use crate::outcome::Outcome;
use guideway_daemon::metrics::{Exposition, Kind};
use guideway_store::Observation;
use serde_json::{Map, Value, json};

impl Controller {
    /// The parts of `GET /v1/status` that are the controller's own.
    pub fn to_json(&self) -> Value {
        let pools = self.pools.iter().map(|(name, pool)| {
            let watched = || pool.backends.values().filter_map(|id| self.backends.get(id));
            json!({
                "pool": &**name,
                "check": pool.check.label(),
                "vip": pool.vip,
                "backends": pool.backends.len(),
                "failing": watched().filter(|w| matches!(w.machine.phase(), Phase::Down(_))).count(),
                "min_healthy": pool.check.min_healthy,
                "floor": pool.kept > 0,
                "kept": pool.kept,
            })
        });
        let backends = self.pools.values().flat_map(|pool| pool.backends.values()).filter_map(|id| self.backends.get(id));
        let outcomes: Map<String, Value> =
            Outcome::NAMES.iter().zip(self.counts.outcomes).map(|(name, count)| ((*name).to_owned(), count.into())).collect();
        json!({
            "leading": self.leading,
            "generation": self.generation,
            "trouble": self.trouble.as_ref().map(|trouble| json!({"seconds": trouble.since.elapsed().as_secs(), "why": trouble.why})),
            "checks": {
                "backends": self.backends.len(),
                "in_flight": self.in_flight,
                "limit": self.concurrency,
                "per_second": (self.counts.per_second * 10.0).round() / 10.0,
                "behind_seconds": self.counts.behind.as_secs_f64(),
                "for_suspicion": self.counts.hurried,
                "outcomes": outcomes,
            },
            "changes": {"fell": self.counts.fell, "returned": self.counts.returned},
            "publishing": {"done": self.counts.published, "failed": self.counts.refused, "waiting": self.pending.values().filter(|p| p.is_waiting()).count()},
            "pools": pools.collect::<Vec<_>>(),
            "backends": backends.map(Watched::to_json).collect::<Vec<_>>(),
        })
    }

    /// Writes what Prometheus is told.
    pub fn metrics(&self, out: &mut Exposition) {
        let mut put = |name: &str, kind, help: &str, value: f64| {
            out.metric(&format!("guideway_health_{name}"), kind, help).sample(&[], value);
        };
        put("leading", Kind::Gauge, "1 when this controller publishes.", f64::from(u8::from(self.leading)));
        put("generation", Kind::Gauge, "Generation of the set that was read from the store.", self.generation as f64);
        put(
            "store_trouble",
            Kind::Gauge,
            "1 when the store is away or holds what cannot be used.",
            f64::from(u8::from(self.trouble.is_some())),
        );
        put("backends", Kind::Gauge, "Backends that are checked.", self.backends.len() as f64);
        put("checks_in_flight", Kind::Gauge, "Checks under way.", self.in_flight as f64);
        put("checks_limit", Kind::Gauge, "Checks that may be under way at a time.", self.concurrency as f64);
        put("behind_seconds", Kind::Gauge, "How much later than due the last check began.", self.counts.behind.as_secs_f64());
        put(
            "suspicion_checks_total",
            Kind::Counter,
            "Checks before their time, because directors suspected a backend.",
            self.counts.hurried as f64,
        );
        put("falls_total", Kind::Counter, "Backends that went down.", self.counts.fell as f64);
        put("returns_total", Kind::Counter, "Backends that came back.", self.counts.returned as f64);
        put("published_total", Kind::Counter, "Pools written to the store.", self.counts.published as f64);
        put("publishing_failed_total", Kind::Counter, "Pools that the store did not take, each attempt.", self.counts.refused as f64);
        let mut checks = out.metric("guideway_health_checks_total", Kind::Counter, "Checks, by what came of them.");
        for (name, count) in Outcome::NAMES.iter().zip(self.counts.outcomes) {
            checks.sample(&[("outcome", name)], count);
        }
        let mut kept =
            out.metric("guideway_health_pool_kept", Kind::Gauge, "Backends that fail and are held up by the pool's min_healthy.");
        for (name, pool) in &self.pools {
            kept.sample(&[("pool", name)], pool.kept);
        }
        let watched = || self.pools.values().flat_map(|pool| pool.backends.values()).filter_map(|id| self.backends.get(id));
        let mut each = |name: &str, help: &str, value: fn(&Watched) -> f64| {
            let mut metric = out.metric(&format!("guideway_health_backend_{name}"), Kind::Gauge, help);
            for watched in watched() {
                metric.sample(&[("pool", &watched.target.pool), ("backend", &watched.target.backend)], value(watched));
            }
        };
        each("share", "Part of its weight that a backend gets: 1 up, 0 down, between them in its slow start.", |watched| {
            match watched.shown.state {
                Observation::Up => 1.0,
                Observation::Slow { percent } => f64::from(percent) / 100.0,
                Observation::Down => 0.0,
            }
        });
        each("good", "1 when the last check of a backend was good.", |watched| {
            f64::from(u8::from(watched.last.as_ref().is_none_or(|last| last.outcome == Outcome::Good)))
        });
        each("check_seconds", "How long the last check of a backend took.", |watched| {
            watched.last.as_ref().map_or(0.0, |last| last.took.as_secs_f64())
        });
    }
}

impl Watched {
    fn to_json(&self) -> Value {
        let state = match self.shown.state {
            Observation::Up => "up",
            Observation::Slow { .. } => "slow",
            Observation::Down => "down",
        };
        let percent = match self.shown.state {
            Observation::Up => 100,
            Observation::Slow { percent } => percent,
            Observation::Down => 0,
        };
        let last = self.last.as_ref().map(|last| {
            json!({"outcome": last.outcome.name(), "text": last.outcome.to_string(), "seconds": last.took.as_secs_f64(), "at": last.unix})
        });
        json!({
            "pool": &*self.target.pool,
            "name": &*self.target.backend,
            "address": self.target.address,
            "state": state,
            "percent": percent,
            "kept": self.kept,
            "since": self.shown.since,
            "why": self.shown.why,
            "good_in_a_row": self.machine.passes(),
            "failed_in_a_row": self.machine.fails(),
            "checks": self.checks,
            "failed": self.failed,
            "last": last,
        })
    }
}

//! What a controller tells of itself: the document of its control socket, and numbers for Prometheus.

use super::{CheckedBackend, Controller};
use crate::outcome::Outcome;
use crate::state_machine::Phase;
use guideway_api::backend::HealthState;
use guideway_api::health::{self, CheckOutcome, CheckedPool, CheckingStatus, Checks, Publishing, StaleSeconds, Transitions};
use guideway_api::status::StaleReason;
use guideway_daemon::metrics::{Exposition, MetricKind};
use guideway_store::{Observation, Stale};

impl Controller {
    /// The parts of `GET /v1/status` that are the controller's own.
    pub fn document(&self) -> CheckingStatus {
        let pools = self.pools.iter().map(|(name, pool)| {
            let checked_backend = || pool.backends.values().filter_map(|id| self.backends.get(id));
            CheckedPool {
                pool: name.to_string(),
                check: pool.check.label(),
                vip: pool.vip,
                backends: pool.backends.len(),
                failing: checked_backend().filter(|w| matches!(w.machine.phase(), Phase::Down(_))).count(),
                min_healthy: pool.check.min_healthy,
                floor: pool.held_up > 0,
                held_up: pool.held_up,
                unknown: checked_backend().filter(|backend| backend.is_shown_unknown()).count(),
            }
        });
        let backends = self.pools.values().flat_map(|pool| pool.backends.values()).filter_map(|id| self.backends.get(id));
        let stale =
            |stale: &Stale| StaleSeconds { seconds: stale.since.elapsed().as_secs(), reason: stale_reason(stale), why: stale.why.clone() };
        CheckingStatus {
            leading: self.leading,
            generation: self.generation,
            stale: self.stale.as_ref().map(stale),
            checks: Checks {
                backends: self.backends.len(),
                in_flight: self.in_flight,
                limit: self.concurrency,
                per_second: (self.counts.per_second * 10.0).round() / 10.0,
                behind_seconds: self.counts.behind.as_secs_f64(),
                for_suspicion: self.counts.expedited,
                outcomes: CheckOutcome::ALL.into_iter().zip(self.counts.outcomes).collect(),
            },
            changes: Transitions { went_down: self.counts.went_down, came_up: self.counts.came_up },
            publishing: Publishing {
                done: self.counts.published,
                failed: self.counts.refused,
                waiting: self.pending.values().filter(|p| p.has_unpublished()).count(),
            },
            pools: pools.collect(),
            backends: backends.map(CheckedBackend::document).collect(),
        }
    }

    /// Writes what Prometheus is told.
    pub fn metrics(&self, out: &mut Exposition) {
        let mut put = |name: &str, kind, help: &str, value: f64| {
            out.metric(&format!("guideway_health_{name}"), kind, help).sample(&[], value);
        };
        put("leader", MetricKind::Gauge, "1 when this controller publishes.", f64::from(u8::from(self.leading)));
        put("generation", MetricKind::Gauge, "Generation of the cluster state that was read from the store.", self.generation as f64);
        put(
            "store_stale",
            MetricKind::Gauge,
            "1 when the store is unavailable or holds something unusable.",
            f64::from(u8::from(self.stale.is_some())),
        );
        put(
            "store_rolled_back",
            MetricKind::Gauge,
            "1 when the store was emptied, rolled back or replaced: nothing is published until an operator decides.",
            f64::from(u8::from(self.stale.as_ref().is_some_and(|stale| stale_reason(stale) == StaleReason::RolledBack))),
        );
        put("backends", MetricKind::Gauge, "Backends that are checked.", self.backends.len() as f64);
        put("checks_in_flight", MetricKind::Gauge, "Checks under way.", self.in_flight as f64);
        put("checks_limit", MetricKind::Gauge, "Checks that may be under way at a time.", self.concurrency as f64);
        put("check_delay_seconds", MetricKind::Gauge, "How much later than due the last check began.", self.counts.behind.as_secs_f64());
        put(
            "suspicion_checks_total",
            MetricKind::Counter,
            "Checks before their time, because directors suspected a backend.",
            self.counts.expedited as f64,
        );
        put("backend_down_transitions_total", MetricKind::Counter, "Backends that went down.", self.counts.went_down as f64);
        put("backend_up_transitions_total", MetricKind::Counter, "Backends that came back.", self.counts.came_up as f64);
        put("pools_published_total", MetricKind::Counter, "Pools written to the store.", self.counts.published as f64);
        put("publish_failures_total", MetricKind::Counter, "Pools that the store did not take, each attempt.", self.counts.refused as f64);
        let checks = out.metric("guideway_health_checks_total", MetricKind::Counter, "Checks, by what came of them.");
        for (name, count) in Outcome::NAMES.iter().zip(self.counts.outcomes) {
            checks.sample(&[("outcome", name)], count);
        }
        let held_up = out.metric(
            "guideway_health_pool_backends_held_up",
            MetricKind::Gauge,
            "Backends that fail and are held up by the pool's min_healthy.",
        );
        for (name, pool) in &self.pools {
            held_up.sample(&[("pool", name)], pool.held_up);
        }
        let checked_backend = || self.pools.values().flat_map(|pool| pool.backends.values()).filter_map(|id| self.backends.get(id));
        let mut each = |name: &str, help: &str, value: fn(&CheckedBackend) -> f64| {
            let metric = out.metric(&format!("guideway_health_backend_{name}"), MetricKind::Gauge, help);
            for checked_backend in checked_backend() {
                metric.sample(
                    &[("pool", &checked_backend.target.pool), ("backend", &checked_backend.target.backend)],
                    value(checked_backend),
                );
            }
        };
        each("weight_ratio", "Part of its weight that a backend gets: 1 up, 0 down, between them in its slow start.", |checked_backend| {
            match checked_backend.shown.state {
                Observation::Up => 1.0,
                Observation::Slow { percent } => f64::from(percent) / 100.0,
                Observation::Down => 0.0,
            }
        });
        each("check_passed", "1 when the last check of a backend was good; 0 also before the first one.", |checked_backend| {
            f64::from(u8::from(checked_backend.last.as_ref().is_some_and(|last| last.outcome == Outcome::Passed)))
        });
        each("unknown", "1 while it is not known whether a backend works, because no check could be made.", |checked_backend| {
            f64::from(u8::from(checked_backend.is_shown_unknown()))
        });
        each("check_seconds", "How long the last check of a backend took.", |checked_backend| {
            checked_backend.last.as_ref().map_or(0.0, |last| last.took.as_secs_f64())
        });
    }
}

/// Returns the kind of trouble as documents show it.
fn stale_reason(stale: &Stale) -> StaleReason {
    match stale.reason {
        guideway_store::StaleReason::Unavailable => StaleReason::Unavailable,
        guideway_store::StaleReason::Invalid => StaleReason::Invalid,
        guideway_store::StaleReason::RolledBack => StaleReason::RolledBack,
    }
}

impl CheckedBackend {
    /// Returns whether nobody knows if it works: no check could be made yet, or for long.
    fn is_shown_unknown(&self) -> bool {
        self.shown.unknown || self.shown.why.is_empty()
    }

    fn document(&self) -> health::CheckedBackend {
        let (state, percent) = match self.shown.state {
            Observation::Up => (HealthState::Up, 100),
            Observation::Slow { percent } => (HealthState::Slow, percent),
            Observation::Down => (HealthState::Down, 0),
        };
        let state = if self.is_shown_unknown() { HealthState::Unknown } else { state };
        let last = self.last.as_ref().map(|last| health::LastCheck {
            outcome: CheckOutcome::ALL[last.outcome.index()],
            text: last.outcome.to_string(),
            seconds: last.took.as_secs_f64(),
            at: last.unix,
        });
        health::CheckedBackend {
            pool: self.target.pool.to_string(),
            name: self.target.backend.to_string(),
            address: self.target.address,
            state,
            percent,
            held_up: self.held_up,
            since: self.shown.since,
            why: if self.is_shown_unknown() { self.unknown_because() } else { self.shown.why.clone() },
            good_in_a_row: self.machine.passes(),
            failed_in_a_row: self.machine.fails(),
            checks: self.checks,
            failed: self.failed,
            last,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_have_the_same_names_in_documents() {
        assert_eq!(CheckOutcome::ALL.map(CheckOutcome::name), Outcome::NAMES);
    }
}

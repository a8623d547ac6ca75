//! Metrics of transfers by handler, reason and ERROR code, and histograms. They are made from reports, off the event loops.

use super::hunting::is_hunting;
use guideway_daemon::histogram::Histogram;
use guideway_daemon::metrics::{Exposition, MetricKind};
use guideway_tftp::packet::ErrorCode;
use guideway_tftp::report::{Outcome, TransferReport};
use indexmap::IndexMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Upper bounds in seconds.
const DURATIONS: &[f64] = &[0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0];
/// Upper bounds in seconds.
const DELAYS: &[f64] = &[0.0001, 0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];
/// Upper bounds in bytes a second.
const RATES: &[f64] = &[1e4, 3e4, 1e5, 3e5, 1e6, 3e6, 1e7, 3e7, 1e8, 3e8, 1e9];
/// Handlers that have metrics of their own. A reload may bring others; those beyond are counted together.
const MAX_HANDLERS: usize = 128;
const OTHER_HANDLERS: &str = "(other)";
/// Codes that RFC 1350 and RFC 2347 define. A client may send any other.
const KNOWN_CODES: u16 = 9;

/// Counts ended requests.
#[derive(Debug)]
pub struct TransferMetrics(Mutex<Counts>);

#[derive(Debug)]
struct Counts {
    handlers: IndexMap<String, HandlerCounts>,
    /// ERRORs sent and received, by code; the last one is of all other codes.
    errors: [[u64; KNOWN_CODES as usize + 1]; 2],
    round_trips: Histogram,
}

/// The counts of a handler.
#[derive(Debug)]
struct HandlerCounts {
    outcomes: IndexMap<&'static str, u64>,
    failures: IndexMap<&'static str, u64>,
    hunting: u64,
    durations: Histogram,
    rates: Histogram,
    first_answers: Histogram,
}

impl Default for HandlerCounts {
    fn default() -> Self {
        let (outcomes, failures) = (IndexMap::new(), IndexMap::new());
        let [durations, rates, first_answers] = [DURATIONS, RATES, DELAYS].map(Histogram::new);
        HandlerCounts { outcomes, failures, hunting: 0, durations, rates, first_answers }
    }
}

impl Default for TransferMetrics {
    fn default() -> Self {
        TransferMetrics(Mutex::new(Counts { handlers: IndexMap::new(), errors: Default::default(), round_trips: Histogram::new(DELAYS) }))
    }
}

impl Counts {
    /// Returns the counts of a handler; the name is empty for requests that no handler has seen.
    fn handler(&mut self, name: &str) -> &mut HandlerCounts {
        let name = if self.handlers.contains_key(name) || self.handlers.len() < MAX_HANDLERS { name } else { OTHER_HANDLERS };
        self.handlers.entry(name.to_owned()).or_default()
    }
}

impl TransferMetrics {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an ended request.
    pub fn record(&self, report: &TransferReport) {
        let mut counts = self.counts();
        let error = match &report.outcome {
            Outcome::Refused(code, _) => code.map(|code| (0, code)),
            Outcome::Failed(_) => Some((0, ErrorCode::NOT_DEFINED)),
            Outcome::Aborted(code, _) => Some((1, *code)),
            _ => None,
        };
        if let Some((direction, code)) = error {
            counts.errors[direction][usize::from(code.0.min(KNOWN_CODES))] += 1;
        }
        if !report.round_trip.is_zero() {
            counts.round_trips.observe(report.round_trip.as_secs_f64());
        }
        let handler = counts.handler(report.handler.as_deref().unwrap_or_default());
        *handler.outcomes.entry(report.outcome.name()).or_default() += 1;
        match report.reason() {
            Some("not_found") if is_hunting(report.file()) => handler.hunting += 1,
            Some(reason) => *handler.failures.entry(reason).or_default() += 1,
            None => {}
        }
        if report.terms.is_some() && !report.taken_over {
            handler.first_answers.observe(report.opening.as_secs_f64());
        }
        if report.outcome == Outcome::Done {
            handler.durations.observe(report.duration.as_secs_f64());
            if let Some(rate) = rate(report) {
                handler.rates.observe(rate);
            }
        }
    }

    /// Adds the metrics of a scrape.
    pub fn write(&self, out: &mut Exposition) {
        let counts = self.counts();
        let mut by_handler = |name: &str, kind, help: &str, label: &str, values: &dyn Fn(&HandlerCounts) -> Vec<(&'static str, u64)>| {
            let metric = out.metric(name, kind, help);
            for (handler, counts) in &counts.handlers {
                for (value, count) in values(counts) {
                    let labels = [("handler", handler.as_str()), (label, value)];
                    metric.sample(if label.is_empty() { &labels[..1] } else { &labels }, count);
                }
            }
        };
        let list = |counts: &IndexMap<&'static str, u64>| counts.iter().map(|(name, count)| (*name, *count)).collect::<Vec<_>>();
        let counter = MetricKind::Counter;
        by_handler("guideway_tftpd_handler_requests_total", counter, "Ended requests, by handler and outcome.", "outcome", &|counts| {
            list(&counts.outcomes)
        });
        by_handler(
            "guideway_tftpd_failures_total",
            counter,
            "Requests whose client does not have its file, by handler and reason, without those of hunting.",
            "reason",
            &|counts| list(&counts.failures),
        );
        by_handler(
            "guideway_tftpd_hunting_misses_total",
            counter,
            "Missing files that PXELINUX, GRUB, U-Boot and iPXE try before a general name, by handler.",
            "",
            &|counts| vec![("", counts.hunting)],
        );
        let errors = out.metric("guideway_tftpd_errors_total", counter, "ERRORs that ended requests, by code and direction.");
        for (direction, codes) in ["sent", "received"].iter().zip(&counts.errors) {
            for (code, count) in codes.iter().enumerate() {
                let code = if code == usize::from(KNOWN_CODES) { "other".to_owned() } else { code.to_string() };
                errors.sample(&[("code", &code), ("direction", direction)], *count);
            }
        }
        let mut histogram = |name: &str, help: &str, of: &dyn Fn(&HandlerCounts) -> &Histogram| {
            let metric = out.metric(name, MetricKind::Histogram, help);
            for (handler, counts) in &counts.handlers {
                metric.sample(&[("handler", handler)], of(counts).clone());
            }
        };
        histogram("guideway_tftpd_transfer_duration_seconds", "Time from the request to the end of complete transfers.", &|counts| {
            &counts.durations
        });
        histogram("guideway_tftpd_transfer_rate_bytes_per_second", "Rate of complete transfers after the first answer.", &|counts| {
            &counts.rates
        });
        histogram("guideway_tftpd_first_answer_seconds", "Time from a request to its first DATA or OACK.", &|counts| &counts.first_answers);
        out.metric("guideway_tftpd_round_trip_seconds", MetricKind::Histogram, "Smoothed round trips at the end of transfers.")
            .sample(&[], counts.round_trips.clone());
    }
}

/// Returns bytes a second of the part of a transfer after its first answer, if that took a measurable time.
pub fn rate(report: &TransferReport) -> Option<f64> {
    let bytes = if report.write { report.bytes_received } else { report.bytes_sent };
    let seconds = report.duration.saturating_sub(report.opening).as_secs_f64();
    (seconds > 0.0).then(|| bytes as f64 / seconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use guideway_testbed::exposition::parse;
    use guideway_tftp::handlers::testing::report;
    use std::time::Duration;

    #[test]
    fn faults_are_counted_by_handler_and_reason_and_apart_from_hunting() {
        let metrics = TransferMetrics::default();
        let not_found = || Outcome::Refused(Some(ErrorCode::NOT_FOUND), "file not found".into());
        for (file, handler, outcome) in [
            ("pxelinux.cfg/C0A80001", "files", not_found()),
            ("pxelinux.cfg/default", "files", not_found()),
            ("f", "files", Outcome::Aborted(ErrorCode(3), "disk full".to_owned())),
            ("f", "files", Outcome::Aborted(ErrorCode(60_000), String::new())),
            ("f", "logic", Outcome::Refused(None, "the server is overloaded".into())),
            ("f", "files", Outcome::Done),
        ] {
            let mut report = report(file.as_bytes(), outcome);
            report.handler = Some(handler.into());
            report.overloaded = handler == "logic";
            (report.bytes_sent, report.opening, report.duration) = (2_000_000, Duration::from_millis(20), Duration::from_millis(1020));
            report.round_trip = Duration::from_millis(3);
            metrics.record(&report);
        }
        let mut out = Exposition::default();
        metrics.write(&mut out);
        let samples = parse(&out.finish());
        for (name, value) in [
            ("handler_requests_total{handler=\"files\",outcome=\"refused\"}", 2.0),
            ("handler_requests_total{handler=\"files\",outcome=\"done\"}", 1.0),
            ("hunting_misses_total{handler=\"files\"}", 1.0),
            ("failures_total{handler=\"files\",reason=\"not_found\"}", 1.0),
            ("failures_total{handler=\"files\",reason=\"client_error\"}", 2.0),
            ("failures_total{handler=\"logic\",reason=\"overloaded\"}", 1.0),
            ("errors_total{code=\"1\",direction=\"sent\"}", 2.0),
            ("errors_total{code=\"3\",direction=\"received\"}", 1.0),
            ("errors_total{code=\"other\",direction=\"received\"}", 1.0),
            ("transfer_duration_seconds_bucket{handler=\"files\",le=\"1\"}", 0.0),
            ("transfer_duration_seconds_bucket{handler=\"files\",le=\"2.5\"}", 1.0),
            ("transfer_rate_bytes_per_second_sum{handler=\"files\"}", 2_000_000.0),
            ("round_trip_seconds_count", 6.0),
        ] {
            assert_eq!(samples.get(&format!("guideway_tftpd_{name}")), Some(&value), "{name}: {samples:?}");
        }
    }

    #[test]
    fn a_thousand_handlers_are_a_bounded_number_of_series() {
        let metrics = TransferMetrics::default();
        for number in 0..1000 {
            let mut report = report(b"f", Outcome::Done);
            report.handler = Some(format!("h{number}").into());
            metrics.record(&report);
        }
        assert_eq!(metrics.counts().handlers.len(), MAX_HANDLERS + 1);
    }
}

//! How long clients waited at most, for each kind of client: those whose server died beside those that only had the same machine.

use crate::clients::Client;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// The longest pauses of one kind of client's transfers, in seconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PauseStats {
    /// The kind.
    pub client: &'static str,
    /// Whether another server went on with these transfers.
    pub taken_over: bool,
    /// How many there were.
    pub transfers: usize,
    /// Half of them waited no longer at a time.
    pub p50: f64,
    /// Nine in ten.
    pub p90: f64,
    /// Ninety-nine in a hundred.
    pub p99: f64,
    /// None waited longer.
    pub max: f64,
    /// The longest that is as promised: detection and one time-out of the client. None where the script names no detection.
    pub limit: Option<f64>,
}

/// The groups of pauses: a client's program, and whether the transfer was taken over.
type ClientKind = (&'static str, bool);
/// The longest pause that is as promised, and all that were.
type LimitAndPauses = (Option<Duration>, Vec<Duration>);

/// Collects pauses.
#[derive(Debug, Default)]
pub struct PauseCollector(BTreeMap<ClientKind, LimitAndPauses>);

impl PauseCollector {
    /// One transfer's longest pause.
    pub fn add(&mut self, client: Client, taken_over: bool, pause: Duration, detection: Option<Duration>) {
        let limit = detection.map(|detection| detection + client.retransmit_timeout());
        let place = self.0.entry((client.name(), taken_over)).or_insert((limit, Vec::new()));
        place.1.push(pause);
    }

    /// The distributions.
    pub fn summary(self) -> Vec<PauseStats> {
        let one = |((client, taken_over), (limit, mut all)): (ClientKind, LimitAndPauses)| {
            all.sort_unstable();
            PauseStats {
                client,
                taken_over,
                transfers: all.len(),
                p50: quantile(&all, 0.5),
                p90: quantile(&all, 0.9),
                p99: quantile(&all, 0.99),
                max: quantile(&all, 1.0),
                limit: limit.map(seconds),
            }
        };
        self.0.into_iter().map(one).collect()
    }
}

impl PauseStats {
    /// Returns a sentence if a client waited longer than promised.
    pub fn limit_problem(&self) -> Option<String> {
        let limit = self.limit.filter(|limit| self.max > *limit)?;
        Some(format!("a {} client waited {:.3} s: detection and one time-out of it are {limit:.3} s", self.client, self.max))
    }

    /// Human-readable text.
    pub fn line(&self) -> String {
        let of = if self.taken_over { "taken over" } else { "others" };
        let limit = self.limit.map(|limit| format!(", promised {limit:.3}")).unwrap_or_default();
        format!(
            "pauses of {:<10} {of:<10} {:>4}: p50 {:.3} s, p90 {:.3}, p99 {:.3}, longest {:.3}{limit}",
            self.client, self.transfers, self.p50, self.p90, self.p99, self.max
        )
    }
}

/// The smallest pause that this share of all does not go beyond (nearest rank).
fn quantile(sorted: &[Duration], share: f64) -> f64 {
    let rank = (share * sorted.len() as f64).ceil().max(1.0) as usize;
    sorted.get(rank - 1).map_or(0.0, |pause| seconds(*pause))
}

/// Seconds, to the millisecond.
pub fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_grouped_by_client_and_takeover_and_the_limit_is_checked() {
        let ms = Duration::from_millis;
        let mut all = PauseCollector::default();
        (1..=100).for_each(|n| all.add(Client::Curl, true, ms(n * 10), Some(ms(300))));
        all.add(Client::Curl, false, ms(3), Some(ms(300)));
        all.add(Client::Guideway, true, ms(5000), Some(ms(300)));
        let summary = all.summary();
        assert_eq!(
            summary.iter().map(|p| (p.client, p.taken_over)).collect::<Vec<_>>(),
            [("curl", false), ("curl", true), ("guideway", true)]
        );
        let curl = &summary[1];
        assert_eq!((curl.p50, curl.p90, curl.p99, curl.max, curl.transfers), (0.5, 0.9, 0.99, 1.0, 100));
        assert_eq!(curl.limit_problem(), None);
        assert!(summary[2].limit_problem().is_some_and(|said| said.contains("a guideway client waited 5.000 s")));
        let mut without = PauseCollector::default();
        without.add(Client::Guideway, true, ms(50_000), None);
        assert_eq!(without.summary()[0].limit_problem(), None);
    }
}

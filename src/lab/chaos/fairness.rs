//! The share of each network in a boot storm, relative to its max-min fair share.
//!
//! For every second, as the test router sees it: a network *wants* as many transfers as it has clients that sent a request in that second and had no answer before.
//! It *got* those that were answered in that second. A second is contended if a client that sent a request in it had to wait. The fair shares of a second are the
//! max-min fair division of all transfers that were got, among what the networks wanted. The index is Jain's over the networks' (transfers got) ÷ (fair share),
//! each summed over contended seconds: 1 when every network got the same part of its fair share.

use crate::transfer_log::TransferRecord;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How fair a storm was.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct FairnessReport {
    /// Jain's index over networks, all contended seconds together.
    pub fairness: f64,
    /// The lowest index of a contended second, of those in which networks got at least two transfers on average.
    pub worst_second: f64,
    /// The lowest part of its fair share that a network got.
    pub min_share: f64,
    /// Seconds in which a client had to wait.
    pub contended_seconds: usize,
    /// Seconds from the first request of the slowest client to its last block.
    pub slowest_client: f64,
    /// Seconds from the first request to the first request of the last client.
    pub all_requested: f64,
    /// Seconds from the first request to the last block.
    pub all_done: f64,
}

/// What networks wanted and got in one second.
type SecondDemand = BTreeMap<usize, (u32, u32)>;

impl FairnessReport {
    /// Computes it; `network` returns the network of a client.
    pub fn compute(records: &[TransferRecord], network: impl Fn(&TransferRecord) -> Option<usize>) -> Option<FairnessReport> {
        let start = records.iter().map(|record| record.requested_at).min()?;
        let second = |at: Instant| (at - start).as_secs();
        let mut seconds: BTreeMap<u64, SecondDemand> = BTreeMap::new();
        let mut waited: BTreeSet<u64> = BTreeSet::new();
        for record in records {
            let Some(place) = network(record) else { continue };
            let answered = record.answered_at.map(second);
            let requested: BTreeSet<u64> =
                record.requests.iter().map(|at| second(*at)).filter(|s| answered.is_none_or(|a| *s <= a)).collect();
            for one in &requested {
                let (wanted, got) = seconds.entry(*one).or_default().entry(place).or_default();
                *wanted += 1;
                *got += u32::from(answered == Some(*one));
                waited.extend((answered != Some(*one)).then_some(*one));
            }
            // The answer to the last request of the second before.
            if let Some(late) = answered.filter(|late| !requested.contains(late)) {
                let (wanted, got) = seconds.entry(late).or_default().entry(place).or_default();
                (*wanted, *got) = (*wanted + 1, *got + 1);
            }
        }
        let since = |times: &mut dyn Iterator<Item = Instant>| times.max().map_or(Duration::ZERO, |last| last - start).as_secs_f64();
        let report = contended(&seconds, &waited);
        Some(FairnessReport {
            slowest_client: records.iter().map(|r| (r.last_progress - r.requested_at).as_secs_f64()).fold(0.0, f64::max),
            all_requested: since(&mut records.iter().map(|r| r.requested_at)),
            all_done: since(&mut records.iter().map(|r| r.last_progress)),
            ..report
        })
    }
}

fn contended(seconds: &BTreeMap<u64, SecondDemand>, waited: &BTreeSet<u64>) -> FairnessReport {
    let mut sums: BTreeMap<usize, (f64, f64)> = BTreeMap::new();
    let mut worst = 1.0f64;
    for second in seconds.iter().filter(|(second, _)| waited.contains(second)).map(|(_, second)| second) {
        let got: u32 = second.values().map(|(_, got)| got).sum();
        let fair = max_min(&second.values().map(|(wanted, _)| *wanted).collect::<Vec<_>>(), got);
        let parts: Vec<f64> = second.values().zip(&fair).map(|((_, got), fair)| f64::from(*got) / fair.max(f64::MIN_POSITIVE)).collect();
        if got as usize >= 2 * second.len() {
            worst = worst.min(jain(&parts));
        }
        for ((network, (_, got)), fair) in second.iter().zip(&fair) {
            let sum = sums.entry(*network).or_default();
            *sum = (sum.0 + f64::from(*got), sum.1 + fair);
        }
    }
    let parts: Vec<f64> = sums.values().filter(|(_, fair)| *fair > 0.0).map(|(got, fair)| got / fair).collect();
    FairnessReport {
        fairness: jain(&parts),
        worst_second: worst,
        min_share: parts.iter().copied().fold(1.0, f64::min),
        contended_seconds: waited.len(),
        ..FairnessReport::default()
    }
}

/// Returns the max-min fair shares of `total` for these demands (Bertsekas and Gallager, "Data Networks", section 6.5.2).
fn max_min(wanted: &[u32], total: u32) -> Vec<f64> {
    let mut sorted = wanted.to_vec();
    sorted.sort_unstable();
    let (mut left, mut share) = (f64::from(total), f64::INFINITY);
    for (n, want) in sorted.iter().enumerate() {
        let part = left / (sorted.len() - n) as f64;
        if part < f64::from(*want) {
            share = part;
            break;
        }
        left -= f64::from(*want);
    }
    wanted.iter().map(|want| f64::from(*want).min(share)).collect()
}

/// Returns Jain's fairness index: 1 when all got the same, 1/n when one got everything (Jain, Chiu, Hawe, DEC-TR-301, 1984).
pub fn jain(got: &[f64]) -> f64 {
    let (sum, squares) = got.iter().fold((0.0, 0.0), |(sum, squares), x| (sum + x, squares + x * x));
    if squares == 0.0 { 1.0 } else { sum * sum / (got.len() as f64 * squares) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transfer_log::TransferLog;
    use guideway_packet::wire::build;
    use guideway_packet::wire::l4::UDP;
    use guideway_tftp::packet::{put_data_header, put_request};
    use std::net::IpAddr;

    #[test]
    fn jains_index() {
        assert!((jain(&[3.0, 3.0, 3.0]) - 1.0).abs() < 1e-9);
        assert!((jain(&[5.0, 0.0, 0.0, 0.0]) - 0.25).abs() < 1e-9);
        assert!((jain(&[1.0, 2.0]) - 0.9).abs() < 1e-9);
    }

    #[test]
    fn max_min_fair_is_what_nobody_can_better_but_from_who_has_less() {
        assert_eq!(max_min(&[1, 10, 100], 30), [1.0, 10.0, 19.0]);
        assert_eq!(max_min(&[50, 50, 2], 20), [9.0, 9.0, 2.0]);
        assert_eq!(max_min(&[3, 4], 100), [3.0, 4.0]);
    }

    /// A storm in which `wants[n]` clients of network n ask at once, and `gets[n]` of them are answered in the first second, the others in the third.
    fn storm(wants: &[u16], gets: &[u16]) -> FairnessReport {
        let vip: IpAddr = "192.0.2.69".parse().unwrap();
        let (transfer_log, start) = (TransferLog::new(vip), Instant::now());
        let udp = |from: u16, to: u16, tftp: &[u8]| {
            let mut bytes = [from.to_be_bytes(), to.to_be_bytes(), (tftp.len() as u16 + 8).to_be_bytes(), [0, 0]].concat();
            bytes.extend_from_slice(tftp);
            bytes
        };
        let (mut request, mut data) = (Vec::new(), Vec::new());
        put_request(&mut request, false, b"boot", b"octet", []);
        put_data_header(&mut data, 1);
        for (network, (want, get)) in wants.iter().zip(gets).enumerate() {
            let client = IpAddr::from([10, 64, network as u8, 1]);
            for number in 0..*want {
                let port = 1000 + number;
                let ask = |ms| {
                    transfer_log
                        .on_delivered(build::ip(client, vip, UDP, &udp(port, 69, &request)).bytes(), start + Duration::from_millis(ms));
                };
                ask(10);
                let at = if number < *get {
                    500
                } else {
                    ask(2010);
                    2500
                };
                transfer_log
                    .on_delivered(build::ip(vip, client, UDP, &udp(20_000, port, &data)).bytes(), start + Duration::from_millis(at));
            }
        }
        let network = |record: &TransferRecord| if let IpAddr::V4(a) = record.client.0 { Some(usize::from(a.octets()[2])) } else { None };
        FairnessReport::compute(&transfer_log.records(), network).unwrap()
    }

    #[test]
    fn a_storm_is_fair_when_small_networks_get_all_and_large_ones_alike() {
        let fair = storm(&[2, 40, 200], &[2, 29, 29]);
        assert!(fair.fairness > 0.999 && fair.min_share > 0.99 && fair.contended_seconds == 1, "{fair:?}");
        assert!((fair.slowest_client - 2.49).abs() < 0.01 && (fair.all_done - 2.49).abs() < 0.01, "{fair:?}");
        let proportional = storm(&[2, 40, 200], &[1, 10, 49]);
        assert!(proportional.fairness < 0.8 && proportional.min_share < 0.4, "{proportional:?}");
    }
}

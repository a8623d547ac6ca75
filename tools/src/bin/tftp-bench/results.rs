//! What was measured, and how it compares with what is to be reached.

use crate::metrics::{self, Metric, Sample, median};
use crate::servers::{Kind, Server};
use crate::workloads::{self, WINDOW, Workload};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// All samples of one work with one server.
#[derive(Debug)]
pub struct Cell {
    /// What was done.
    pub work: Workload,
    /// Which server.
    pub kind: Kind,
    /// The measurements that succeeded.
    pub samples: Vec<Sample>,
    /// Why there are no more.
    pub refused: Option<String>,
}

/// The middle of some measurements, and their extremes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// Median.
    pub median: f64,
    /// Smallest.
    pub least: f64,
    /// Largest.
    pub most: f64,
    /// How many.
    pub count: usize,
}

/// Everything that was measured.
#[derive(Debug, Default)]
pub struct Results {
    /// The servers, in the order of the tables.
    pub servers: Vec<Server>,
    cells: BTreeMap<(Workload, Kind), Cell>,
}

/// One goal.
#[derive(Clone, Debug)]
pub struct Row {
    /// What is to be reached.
    pub name: String,
    /// Our median.
    pub value: Option<f64>,
    /// Of value and reference.
    pub unit: &'static str,
    /// What it is compared with, and whose it is.
    pub reference: Option<(f64, String)>,
    /// Value divided by reference.
    pub ratio: Option<f64>,
    /// The goal in words.
    pub goal: String,
    /// Whether it is reached; nothing when value or reference is missing.
    pub ok: Option<bool>,
}

/// A bound for a ratio or a value.
#[derive(Clone, Copy, Debug)]
enum Bound {
    Most(f64),
    Least(f64),
}

impl Bound {
    fn holds(self, number: f64) -> bool {
        match self {
            Bound::Most(bound) => number <= bound,
            Bound::Least(bound) => number >= bound,
        }
    }
}

impl Results {
    /// The cell of a work and a server, made when it is missing.
    pub fn cell(&mut self, work: Workload, kind: Kind) -> &mut Cell {
        self.cells.entry((work, kind)).or_insert_with(|| Cell { work, kind, samples: Vec::new(), refused: None })
    }

    /// Why a cell is not as full as it should be.
    pub fn refused(&self, work: Workload, kind: Kind) -> Option<&str> {
        self.cells.get(&(work, kind))?.refused.as_deref()
    }

    /// What was measured of one metric.
    pub fn spread(&self, work: Workload, kind: Kind, metric: Metric) -> Option<Spread> {
        let samples = &self.cells.get(&(work, kind))?.samples;
        let mut numbers: Vec<f64> = samples.iter().filter_map(|s| s.iter().find(|(m, _)| *m == metric).map(|(_, n)| *n)).collect();
        numbers.sort_by(f64::total_cmp);
        let (&least, &most) = (numbers.first()?, numbers.last()?);
        Some(Spread { median: median(&numbers), least, most, count: numbers.len() })
    }

    fn median(&self, work: Workload, kind: Kind, metric: Metric) -> Option<f64> {
        self.spread(work, kind, metric).map(|s| s.median)
    }

    /// The best of the peers, by `better`.
    fn best(&self, work: Workload, metric: Metric, better: fn(f64, f64) -> bool) -> Option<(f64, String)> {
        let peers = self.servers.iter().filter(|s| s.kind != Kind::Guideway);
        let all = peers.filter_map(|s| Some((self.median(work, s.kind, metric)?, s.name.clone())));
        all.reduce(|a, b| if better(b.0, a.0) { b } else { a })
    }

    fn of(&self, kind: Kind, work: Workload, metric: Metric) -> Option<(f64, String)> {
        let server = self.servers.iter().find(|s| s.kind == kind)?;
        self.median(work, kind, metric).map(|n| (n, server.name.clone()))
    }

    /// The goals. `burst` is how many requests are a burst, `open` how many transfers are held open.
    pub fn goals(&self, burst: usize, open: usize) -> Vec<Row> {
        use metrics::{CPU, FAILED, MB_PER_CPU_S, MB_PER_S, MEDIAN, PER_SECOND, PSS, REPEATED, UNFINISHED, US_PER_BLOCK};
        let single = |blksize, window| Workload::Single { blksize, window };
        let concurrent = |window| Workload::Concurrent { window };
        let more = |a: f64, b: f64| a > b;
        let less = |a: f64, b: f64| a < b;
        let ours = |work, metric| self.median(work, Kind::Guideway, metric);
        let mut rows = Vec::new();
        let mut ratio = |name: String, unit, value: Option<f64>, reference: Option<(f64, String)>, bound: Bound| {
            let ratio = value.zip(reference.as_ref()).map(|(v, (r, _))| v / r);
            let goal = match bound {
                Bound::Most(n) => format!("≤ {n} × the reference"),
                Bound::Least(n) => format!("≥ {n} × the reference"),
            };
            rows.push(Row { name, value, unit, reference, ratio, goal, ok: ratio.map(|r| bound.holds(r)) });
        };
        let lockstep = single(workloads::ETHERNET_BLKSIZE, 1);
        let name = "single, blksize 1428, windowsize 1: server CPU per block".to_owned();
        ratio(name, "µs", ours(lockstep, US_PER_BLOCK), self.best(lockstep, US_PER_BLOCK, less), Bound::Most(0.75));
        for (blksize, least) in [(workloads::ETHERNET_BLKSIZE, 2.0), (8192, 1.5)] {
            let work = single(blksize, WINDOW);
            for (metric, unit) in [(MB_PER_S, "MB/s"), (MB_PER_CPU_S, "MB per CPU s of both ends")] {
                // The reference of the goal is in.tftpd 7; where that is missing, the best that is here.
                let reference = self.of(Kind::InTftpdSid, work, metric).or_else(|| self.best(work, metric, more));
                let name = format!("single, blksize {blksize}, windowsize {WINDOW}, both ends on one CPU");
                ratio(name, unit, ours(work, metric), reference, Bound::Least(least));
            }
            let work = Workload::Gro { blksize, window: WINDOW };
            let reference = self.of(Kind::InTftpdSid, work, MB_PER_CPU_S).or_else(|| self.best(work, MB_PER_CPU_S, more));
            let name = format!("the same, and the client's socket takes segments together (UDP_GRO), blksize {blksize}");
            ratio(name, "MB per CPU s of both ends", ours(work, MB_PER_CPU_S), reference, Bound::Least(least));
        }
        let dnsmasq = || self.of(Kind::Dnsmasq, concurrent(1), CPU);
        ratio("many × 1 MiB, windowsize 1: server CPU".to_owned(), "s", ours(concurrent(1), CPU), dnsmasq(), Bound::Most(0.6));
        let name = format!("many × 1 MiB, windowsize {WINDOW}: server CPU (against windowsize 1)");
        ratio(name, "s", ours(concurrent(WINDOW), CPU), dnsmasq(), Bound::Most(0.25));
        let reference = self.of(Kind::Dnsmasq, Workload::Short, PER_SECOND);
        ratio("short transfers".to_owned(), "1/s", ours(Workload::Short, PER_SECOND), reference, Bound::Least(1.5));
        let mut fixed = |name: String, unit, value: Option<f64>, most: f64, reference| {
            let goal = if most == 0.0 { "none".to_owned() } else { format!("≤ {most} {unit}") };
            rows.push(Row { name, value, unit, reference, ratio: None, goal, ok: value.map(|v| v <= most) });
        };
        let reference = self.best(Workload::Open { transfers: 200 }, PSS, less).map(|(n, who)| (n, format!("{who} with 200")));
        fixed(format!("{open} open transfers: PSS"), "MiB", ours(Workload::Open { transfers: open }, PSS), 24.0, reference);
        for (window, most) in [(WINDOW, 0.5), (1, 2.0)] {
            let work = Workload::Loss { window };
            fixed(format!("1 MiB at 1 % loss, windowsize {window}: median"), "s", ours(work, MEDIAN), most, self.best(work, MEDIAN, less));
        }
        let lost = [REPEATED, FAILED, UNFINISHED]
            .into_iter()
            .map(|metric| ours(Workload::Burst, metric))
            .reduce(|a, b| a.zip(b).map(|(a, b)| f64::max(a, b)))
            .flatten();
        fixed(format!("burst of {burst} requests: lost"), "", lost, 0.0, self.best(Workload::Burst, REPEATED, less));
        rows
    }

    /// For machines.
    pub fn json(&self, rows: &[Row], about: Value) -> Value {
        let rows = rows.iter().map(|row| {
            json!({
                "name": row.name, "value": row.value, "unit": row.unit, "reference": row.reference.as_ref().map(|r| r.0),
                "reference_of": row.reference.as_ref().map(|r| &r.1), "ratio": row.ratio, "goal": row.goal, "ok": row.ok,
            })
        });
        let measured = self.cells.values().map(|cell| {
            let name = self.servers.iter().find(|s| s.kind == cell.kind).map_or(cell.kind.name(), |s| &s.name);
            let metrics: Vec<Metric> = cell.samples.first().map(|s| s.iter().map(|(m, _)| *m).collect()).unwrap_or_default();
            let spread = |m: &Metric| self.spread(cell.work, cell.kind, *m);
            let values: serde_json::Map<String, Value> = metrics
                .iter()
                .filter_map(|m| {
                    spread(m).map(|s| (m.0.to_owned(), json!({ "median": s.median, "least": s.least, "most": s.most, "n": s.count })))
                })
                .collect();
            json!({ "work": cell.work.to_string(), "server": name, "values": values, "refused": cell.refused })
        });
        json!({ "about": about, "rows": rows.collect::<Vec<_>>(), "measured": measured.collect::<Vec<_>>() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_compares_medians() {
        let mut results = Results::default();
        for (kind, name) in [(Kind::Guideway, "guideway tftpd"), (Kind::Dnsmasq, "dnsmasq 2.90"), (Kind::Fbtftp, "fbtftp 0.5")] {
            results.servers.push(Server::named(kind, name));
        }
        for (kind, numbers) in [(Kind::Guideway, [0.3, 0.1, 0.2]), (Kind::Dnsmasq, [0.5, 0.4, 0.6])] {
            for n in numbers {
                results.cell(Workload::Concurrent { window: 1 }, kind).samples.push(vec![(metrics::CPU, n)]);
            }
        }
        let goals = results.goals(2_000, 10_000);
        let row = goals.iter().find(|r| r.name.contains("windowsize 1: server CPU") && r.unit == "s").unwrap();
        assert_eq!((row.value, row.ratio, row.ok), (Some(0.2), Some(0.4), Some(true)));
        assert_eq!(row.reference, Some((0.5, "dnsmasq 2.90".to_owned())));
        assert!(goals.iter().all(|r| r.ok.is_none() || r.name == row.name), "nothing else was measured");
        let spread = results.spread(Workload::Concurrent { window: 1 }, Kind::Dnsmasq, metrics::CPU).unwrap();
        assert_eq!(spread, Spread { median: 0.5, least: 0.4, most: 0.6, count: 3 });
        let json = results.json(&goals, json!({}));
        assert_eq!(json["rows"].as_array().map(Vec::len), Some(goals.len()));
    }
}

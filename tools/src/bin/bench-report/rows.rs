//! From what benchmarks said to rows: medians, ratios, spread, and whether each goal is reached.

use crate::recording::Measurement;
use serde_json::{Value, json};

/// What a row is compared with.
#[derive(Clone, Copy, Debug)]
pub enum Reference {
    /// What the benchmark measures beside it.
    Beside(&'static str),
    /// A number that is not measured here, and where it is from.
    Fixed(f64, &'static str),
    /// Nothing: the number is only stated.
    None,
}

/// A bound for the ratio.
#[derive(Clone, Copy, Debug)]
pub enum RatioLimit {
    /// At most so much.
    AtMost(f64),
    /// At most one part of so many.
    AtMostFraction(f64),
    /// At least so much.
    AtLeast(f64),
    /// None.
    None,
}

/// A row that a report has.
#[derive(Clone, Copy, Debug)]
pub struct Goal {
    /// Its name.
    pub name: &'static str,
    /// The name in what the benchmarks say.
    pub benchmark: &'static str,
    /// What it is, human-readable.
    pub what: &'static str,
    /// What it is compared with.
    pub reference: Reference,
    /// Which ratio is to be reached.
    pub bound: RatioLimit,
    /// Nanoseconds for each packet are to be shown, and compared, as packets a second.
    pub rate: bool,
}

const fn goal(name: &'static str, what: &'static str, reference: Reference, bound: RatioLimit) -> Goal {
    Goal { name, benchmark: name, what, reference, bound, rate: false }
}

const SIPHASH: Reference = Reference::Beside("SipHash-1-3 of 13 bytes");
const HOT: Reference = Reference::Beside("path_hot");
const TID: Reference = Reference::Beside("path_tid_1m");
const READS: Reference = Reference::Beside("one SipHash + twice a prefetched random read");
const CRATE: Reference = Reference::Beside("crate maglev 0.2.1");

/// All rows, in the order of the report. A new benchmark that prints a `paired` line needs one here to be judged; without, it is shown as it is.
pub const GOALS: &[Goal] = &[
    goal("path_hot", "path, GRE in, GRE out, one flow", SIPHASH, RatioLimit::AtMost(3.0)),
    goal("path_1m", "path, 1,048,576 established flows, random order", SIPHASH, RatioLimit::AtMost(5.0)),
    goal("path_tid_1m", "path, TFTP acknowledgements by TID range, 1,048,576 clients", SIPHASH, RatioLimit::AtMost(2.0)),
    goal("path_tid_1m_repeat", "the same while another client repeats a request", TID, RatioLimit::AtMost(1.1)),
    goal("path_new_full", "path, every packet a new flow, table full", SIPHASH, RatioLimit::AtMost(8.0)),
    goal("path_v6", "path, IPv6 in GRE over IPv6, one flow", HOT, RatioLimit::AtMost(1.4)),
    goal("loop_memory", "a worker's whole loop over queues in memory", HOT, RatioLimit::AtMost(1.3)),
    goal("flow_lookup_1m", "flow table: hash and lookup, 1,000,000 flows, batches of 32", READS, RatioLimit::AtMost(1.0)),
    goal("flow_lookup_10m", "the same, 10,000,000 flows", READS, RatioLimit::AtMost(1.0)),
    goal("flow_bytes_1m", "memory for each stored flow at 85 % load", Reference::Fixed(16.0, "the limit"), RatioLimit::AtMost(1.0)),
    goal("flow_bytes_10m", "the same, 10,000,000 flows", Reference::Fixed(16.0, "the limit"), RatioLimit::AtMost(1.0)),
    goal("maglev_100", "Maglev table, 65537 slots, 100 backends", CRATE, RatioLimit::AtMostFraction(20.0)),
    goal("maglev_100_less_one", "the same after one was removed", CRATE, RatioLimit::AtMostFraction(20.0)),
    goal("maglev_1000", "Maglev table, 65537 slots, 1000 backends", CRATE, RatioLimit::AtMostFraction(150.0)),
    goal("maglev_1000_less_one", "the same after one was removed", CRATE, RatioLimit::AtMostFraction(150.0)),
    goal("maglev_655373", "Maglev table, 655373 slots, 1000 backends", Reference::Beside("ten times maglev_1000"), RatioLimit::AtMost(1.5)),
    Goal {
        name: "maglev_655373_paper",
        benchmark: "maglev_655373",
        what: "the same",
        reference: Reference::Fixed(22.9, "the paper"),
        bound: RatioLimit::AtMost(1.0),
        rate: false,
    },
    Goal {
        name: "af_xdp",
        benchmark: "af_xdp",
        what: "director over AF_XDP on veth, one core, 64 bytes",
        reference: Reference::Beside("swapping MACs on the same rings"),
        bound: RatioLimit::AtLeast(0.9),
        rate: true,
    },
    goal("steer_2", "software steering to 2 workers", Reference::Beside("1 worker"), RatioLimit::None),
    goal("siphash13_by_trait", "SipHash-1-3 of 13 bytes by std::hash::Hasher", Reference::Beside("SipHasher13::hash"), RatioLimit::None),
    goal(INSTRUCTIONS, "instructions of path_hot, counted by callgrind", Reference::None, RatioLimit::None),
];

/// The row of fixed work.
pub const INSTRUCTIONS: &str = "path_hot_instructions";

/// The middle of some numbers, and their extremes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// Smallest.
    pub min: f64,
    /// Median; of an even number, the mean of the two in the middle.
    pub median: f64,
    /// Largest.
    pub max: f64,
}

impl Spread {
    /// Of some numbers; nothing of none.
    pub fn of(mut numbers: Vec<f64>) -> Option<Spread> {
        numbers.sort_by(f64::total_cmp);
        let (&min, &max) = (numbers.first()?, numbers.last()?);
        let middle = numbers.len() / 2;
        let median = if numbers.len() % 2 == 1 { numbers[middle] } else { (numbers[middle - 1] + numbers[middle]) / 2.0 };
        Some(Spread { min, median, max })
    }
}

/// A row of the report.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// What it is.
    pub what: String,
    /// Median over the rounds; nothing when it was not measured.
    pub value: Option<f64>,
    /// Of value and reference.
    pub unit: String,
    /// Median of the reference, and what it is.
    pub reference: Option<(f64, String)>,
    /// Value divided by reference, each round for itself.
    pub ratio: Option<Spread>,
    /// The goal in words; empty without one.
    pub goal: String,
    /// Whether it is reached; nothing without a goal, or without a number.
    pub ok: Option<bool>,
    /// By which part of the goal it is missed.
    pub missed: Option<f64>,
    /// How many rounds measured it.
    pub rounds: usize,
}

/// The rows of some rounds: those of [`GOALS`], then whatever else was said, but for points of curves.
pub fn rows(measurements: &[Measurement]) -> Vec<Row> {
    let mut rows: Vec<Row> = GOALS.iter().map(|goal| row(goal, measurements)).collect();
    for one in measurements {
        if curve(&one.name).is_none()
            && !GOALS.iter().any(|goal| goal.benchmark == one.name)
            && !rows.iter().any(|row| row.name == one.name)
        {
            rows.push(plain(one, measurements));
        }
    }
    rows
}

/// A benchmark that no goal is known of.
fn plain(one: &Measurement, measurements: &[Measurement]) -> Row {
    let same: Vec<&Measurement> = measurements.iter().filter(|other| other.name == one.name).collect();
    let median = |numbers: Vec<f64>| Spread::of(numbers).map(|spread| spread.median);
    Row {
        name: one.name.clone(),
        what: String::new(),
        value: median(same.iter().map(|measurement| measurement.value).collect()),
        unit: one.unit.clone(),
        reference: median(same.iter().filter_map(|measurement| measurement.reference).collect()).map(|number| (number, String::new())),
        ratio: Spread::of(same.iter().filter_map(|measurement| Some(measurement.value / measurement.reference?)).collect()),
        goal: String::new(),
        ok: None,
        missed: None,
        rounds: same.len(),
    }
}

fn row(goal: &Goal, measurements: &[Measurement]) -> Row {
    let converted = |number: f64| if goal.rate { 1000.0 / number } else { number };
    let same: Vec<&Measurement> = measurements.iter().filter(|measurement| measurement.name == goal.benchmark).collect();
    let beside = |measurement: &&Measurement| match goal.reference {
        Reference::Beside(_) => measurement.reference.map(converted),
        Reference::Fixed(number, _) => Some(number),
        Reference::None => None,
    };
    let (Reference::Beside(name) | Reference::Fixed(_, name)) = goal.reference else {
        return Row { name: goal.name.to_owned(), what: goal.what.to_owned(), ..row_without_goal(same.first().copied(), measurements) };
    };
    let ratio = Spread::of(same.iter().filter_map(|measurement| Some(converted(measurement.value) / beside(measurement)?)).collect());
    let unit = if goal.rate { Some("Mpps") } else { same.first().map(|measurement| measurement.unit.as_str()) };
    let ok = ratio.and_then(|ratio| goal.bound.is_met(ratio.median));
    Row {
        name: goal.name.to_owned(),
        what: goal.what.to_owned(),
        value: Spread::of(same.iter().map(|measurement| converted(measurement.value)).collect()).map(|spread| spread.median),
        unit: unit.unwrap_or_default().to_owned(),
        reference: Spread::of(same.iter().filter_map(beside).collect()).map(|spread| (spread.median, name.to_owned())),
        ratio,
        goal: goal.bound.text(),
        ok,
        missed: ratio.filter(|_| ok == Some(false)).and_then(|ratio| goal.bound.excess(ratio.median)),
        rounds: same.len(),
    }
}

fn row_without_goal(first: Option<&Measurement>, measurements: &[Measurement]) -> Row {
    let missing = Measurement { name: String::new(), unit: String::new(), value: 0.0, reference: None };
    plain(first.unwrap_or(&missing), measurements)
}

impl RatioLimit {
    fn limit(self) -> Option<f64> {
        match self {
            RatioLimit::AtMost(limit) | RatioLimit::AtLeast(limit) => Some(limit),
            RatioLimit::AtMostFraction(parts) => Some(1.0 / parts),
            RatioLimit::None => None,
        }
    }

    fn is_met(self, ratio: f64) -> Option<bool> {
        let limit = self.limit()?;
        Some(if matches!(self, RatioLimit::AtLeast(_)) { ratio >= limit } else { ratio <= limit })
    }

    /// How far beyond the limit, as a part of it.
    fn excess(self, ratio: f64) -> Option<f64> {
        self.limit().map(|limit| (ratio / limit - 1.0).abs())
    }

    fn text(self) -> String {
        match self {
            RatioLimit::AtMost(limit) => format!("≤ {limit}"),
            RatioLimit::AtMostFraction(parts) => format!("≤ 1/{parts}"),
            RatioLimit::AtLeast(limit) => format!("≥ {limit}"),
            RatioLimit::None => String::new(),
        }
    }
}

impl Row {
    /// For programs.
    pub fn to_json(&self) -> Value {
        json!({
            "name": self.name,
            "what": self.what,
            "value": self.value,
            "unit": self.unit,
            "reference": self.reference.as_ref().map(|(number, _)| number),
            "reference_is": self.reference.as_ref().map(|(_, name)| name),
            "ratio": self.ratio.map(|ratio| ratio.median),
            "spread": self.ratio.map(|ratio| [ratio.min, ratio.max]),
            "goal": self.goal,
            "ok": self.ok,
            "missed_by": self.missed,
            "rounds": self.rounds,
        })
    }
}

/// The curves that benchmarks have points of, by the first word of a point's name; the second is where it lies.
pub const CURVES: [&str; 3] = ["flows", "batch", "frame"];

/// Curve and place of a point by its name.
pub fn curve(name: &str) -> Option<(&'static str, u64)> {
    let (first, place) = name.split_once('_')?;
    let curve = CURVES.into_iter().find(|curve| *curve == first)?;
    Some((curve, place.parse().ok()?))
}

/// The points of a curve, in order, each with its spread over the rounds.
pub fn points(name: &str, measurements: &[Measurement]) -> Vec<(u64, Spread)> {
    let on = |measurement: &Measurement| curve(&measurement.name).filter(|(curve, _)| *curve == name).map(|(_, place)| place);
    let mut places: Vec<u64> = measurements.iter().filter_map(on).collect();
    places.sort_unstable();
    places.dedup();
    let at = |place| {
        measurements.iter().filter(move |measurement| on(measurement) == Some(place)).map(|measurement| measurement.value).collect()
    };
    places.into_iter().filter_map(|place| Some((place, Spread::of(at(place))?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measurement(name: &str, value: f64, reference: Option<f64>) -> Measurement {
        Measurement { name: name.to_owned(), unit: "ns/packet".to_owned(), value, reference }
    }

    fn of<'r>(rows: &'r [Row], name: &str) -> &'r Row {
        rows.iter().find(|row| row.name == name).unwrap()
    }

    #[test]
    fn the_ratio_is_that_of_each_round_and_its_median_is_judged() {
        // The machine was twice as slow in the second round.
        let all =
            [measurement("path_hot", 20.0, Some(8.0)), measurement("path_hot", 40.0, Some(16.0)), measurement("path_hot", 32.0, Some(8.0))];
        let rows = rows(&all);
        let hot = of(&rows, "path_hot");
        assert_eq!(hot.ratio, Some(Spread { min: 2.5, median: 2.5, max: 4.0 }));
        assert_eq!((hot.value, hot.ok, hot.missed, hot.rounds), (Some(32.0), Some(true), None, 3));
        let missing = of(&rows, "path_1m");
        assert_eq!((missing.value, missing.ratio, missing.ok), (None, None, None));
    }

    #[test]
    fn a_missed_goal_says_by_how_much() {
        let rows = rows(&[
            measurement("path_tid_1m", 24.0, Some(8.0)),
            measurement("maglev_100", 1.0, Some(10.0)),
            measurement("af_xdp", 1000.0, Some(810.0)),
        ]);
        let tid = of(&rows, "path_tid_1m");
        assert_eq!((tid.ok, tid.missed), (Some(false), Some(0.5)));
        assert_eq!(of(&rows, "maglev_100").missed, Some(1.0));
        let xdp = of(&rows, "af_xdp");
        assert_eq!((xdp.value, xdp.unit.as_str(), xdp.goal.as_str()), (Some(1.0), "Mpps", "≥ 0.9"));
        assert!((xdp.missed.unwrap() - 0.1).abs() < 1e-9);
    }

    #[test]
    fn one_number_may_be_held_against_two_references_and_unknown_rows_are_shown() {
        let rows = rows(&[
            measurement("maglev_655373", 20.0, Some(10.0)),
            measurement("new_one", 3.0, Some(2.0)),
            measurement("flows_16", 9.0, None),
        ]);
        assert_eq!(of(&rows, "maglev_655373").ok, Some(false));
        assert_eq!(of(&rows, "maglev_655373_paper").ok, Some(true));
        assert_eq!(of(&rows, "new_one").ratio.map(|ratio| ratio.median), Some(1.5));
        assert!(!rows.iter().any(|row| row.name.starts_with("flows")));
    }

    #[test]
    fn points_come_in_order() {
        let all = [measurement("batch_64", 9.0, None), measurement("batch_8", 20.0, None), measurement("batch_64", 11.0, None)];
        let found: Vec<_> = points("batch", &all).into_iter().map(|(at, spread)| (at, spread.median)).collect();
        assert_eq!(found, [(8, 20.0), (64, 10.0)]);
    }
}

//! The report as one page of Markdown with pictures, and the part of it that a README shows.

use crate::machine;
use crate::plot::{Curve, Plot};
use crate::recording::Recording;
use crate::rows::{self, Row, Spread};
use serde_json::{Value, json};
use std::fmt::Write;

/// Around the part of a README that is rewritten.
pub const BEGIN: &str = "<!-- bench-report: begin -->";
/// Its end.
pub const END: &str = "<!-- bench-report: end -->";
/// The picture that a README shows.
pub const PICTURE: &str = "flows";

/// Everything that a report says.
pub struct Report {
    /// What was measured.
    pub recording: Recording,
    /// Its rows.
    pub rows: Vec<Row>,
}

/// What others cost by the number of flows. `benches/README.md` says how they were measured.
const PEERS: [(&str, &[(u64, f64)]); 2] = [
    (
        "katran, the XDP program alone (measured separately on a like machine)",
        &[(1, 112.0), (1000, 126.0), (10_000, 173.0), (100_000, 267.0), (1_000_000, 456.0), (3_000_000, 564.0)],
    ),
    ("VPP lb, whole path (measured separately on a like machine)", &[(1, 66.0), (100_000, 95.0), (1_000_000, 109.0)]),
];

fn peers() -> impl Iterator<Item = Curve> {
    let once = |&(place, ns): &(u64, f64)| (place, Spread { min: ns, median: ns, max: ns });
    PEERS.into_iter().map(move |(name, points)| Curve { name, points: points.iter().map(once).collect() })
}

/// Name and content of each picture.
pub type Pictures = Vec<(&'static str, String)>;

impl Report {
    /// The report of a recording.
    pub fn new(recording: Recording) -> Report {
        Report { rows: rows::rows(&recording.measurements), recording }
    }

    /// Goals that are missed.
    pub fn missed(&self) -> usize {
        self.rows.iter().filter(|row| row.ok == Some(false)).count()
    }

    /// Goals for which there is no number.
    pub fn unmeasured(&self) -> usize {
        self.rows.iter().filter(|row| row.ok.is_none() && !row.goal.is_empty()).count()
    }

    /// The curves.
    pub fn pictures(&self) -> Pictures {
        let points = |curve: &str| rows::points(curve, &self.recording.measurements);
        let to_rate =
            |(place, cost): (u64, Spread)| (place, Spread { min: 1000.0 / cost.max, median: 1000.0 / cost.median, max: 1000.0 / cost.min });
        let ours = |points: Vec<(u64, Spread)>| vec![Curve { name: "Guideway: median and extremes of the rounds", points }];
        let plots = [
            (
                PICTURE,
                Plot {
                    title: "ns for each packet, by the number of flows",
                    x_label: "established flows",
                    curves: ours(points("flows")).into_iter().chain(peers()).collect(),
                },
            ),
            ("batch", Plot { title: "ns for each packet, by the size of the batch", x_label: "packets", curves: ours(points("batch")) }),
            (
                "frame",
                Plot {
                    title: "Millions of packets a second, by their size",
                    x_label: "bytes of a frame",
                    curves: ours(points("frame").into_iter().map(to_rate).collect()),
                },
            ),
        ];
        plots.into_iter().filter_map(|(name, plot)| Some((name, plot.svg()?))).collect()
    }

    /// For programs.
    pub fn to_json(&self) -> Value {
        let curve = |name: &'static str| {
            let points = rows::points(name, &self.recording.measurements);
            let points: Vec<Value> = points.iter().map(|(at, s)| json!({ "at": at, "ns": s.median, "spread": [s.min, s.max] })).collect();
            (name.to_owned(), Value::from(points))
        };
        json!({
            "machine": self.recording.machine,
            "rounds": self.recording.rounds,
            "rows": self.rows.iter().map(Row::to_json).collect::<Vec<_>>(),
            "curves": rows::CURVES.map(curve).into_iter().collect::<serde_json::Map<_, _>>(),
            "notes": self.recording.skipped,
        })
    }

    /// The page.
    pub fn page(&self) -> String {
        let mut text = format!("# What Guideway costs\n\n{}\n\n{}", self.origin(), self.table());
        for note in &self.recording.skipped {
            let _infallible = write!(text, "\nNot measured: {note}.\n");
        }
        for (name, _) in self.pictures() {
            let _infallible = write!(text, "\n![{name}]({name}.svg)\n");
        }
        text
    }

    /// The part for a README, whose picture is at `picture`.
    pub fn section(&self, picture: &str) -> String {
        let mut text = format!("{BEGIN}\n{}\n\n{}", self.origin(), self.table());
        if self.pictures().iter().any(|(name, _)| *name == PICTURE) {
            let _infallible = write!(text, "\n![cost of a packet against the number of flows]({picture})\n");
        }
        text + END
    }

    fn origin(&self) -> String {
        let machine = self.recording.machine.as_ref().map_or("an unknown machine".to_owned(), machine::describe);
        let rounds = match self.recording.rounds {
            1 => "One round".to_owned(),
            rounds => format!("{rounds} rounds"),
        };
        format!(
            "{rounds} on {machine}. Each row runs in turns with its reference, and their medians are compared within a round; shown are the \
             medians over the rounds, and the extremes of the ratio in parentheses."
        )
    }

    fn table(&self) -> String {
        let mut text = "| row | is | value | reference | ratio | goal | reached |\n|---|---|---:|---:|---:|---|---|\n".to_owned();
        for row in self.rows.iter().filter(|row| row.value.is_some() || !row.goal.is_empty()) {
            let value = row.value.map_or("–".to_owned(), |value| format!("{} {}", number(value), row.unit));
            let reference = match &row.reference {
                Some((reference, name)) if row.value.is_some() => format!("{} {name}", number(*reference)).trim().to_owned(),
                _ => "–".to_owned(),
            };
            let ratio = row.ratio.map_or("–".to_owned(), spread);
            let reached = match (row.ok, row.missed) {
                (Some(true), _) => "yes".to_owned(),
                (Some(false), Some(by)) => format!("**no**, by {:.0} %", (100.0 * by).max(1.0)),
                (Some(false), None) => "**no**".to_owned(),
                (None, _) if row.goal.is_empty() => String::new(),
                (None, _) => "not measured".to_owned(),
            };
            let _infallible =
                writeln!(text, "| `{}` | {} | {value} | {reference} | {ratio} | {} | {reached} |", row.name, row.what, row.goal);
        }
        text
    }
}

/// The text of a README with its part rewritten.
///
/// # Errors
/// When it has no such part.
pub fn replace_section(readme: &str, section: &str) -> Result<String, String> {
    let missing = || format!("the README has no lines `{BEGIN}` and `{END}` to write between");
    let (before, rest) = readme.split_once(BEGIN).ok_or_else(missing)?;
    let (_, after) = rest.split_once(END).ok_or_else(missing)?;
    Ok(format!("{before}{section}{after}"))
}

fn spread(ratio: Spread) -> String {
    let [min, median, max] = [ratio.min, ratio.median, ratio.max].map(number);
    if min == max { median } else { format!("{median} ({min}–{max})") }
}

/// With three digits that count, or all before the point.
fn number(number: f64) -> String {
    let decimals = match number.abs() {
        n if n >= 100.0 => 0,
        n if n >= 10.0 => 1,
        n if n >= 0.095 => 2,
        _ => 4,
    };
    format!("{number:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_readme_is_rewritten_between_its_marks_only() {
        let readme = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        let text = replace_section(&readme, &format!("{BEGIN}\nnew\n{END}")).unwrap();
        assert_eq!(text, format!("before\n{BEGIN}\nnew\n{END}\nafter\n"));
        assert!(replace_section("nothing", "new").unwrap_err().contains(BEGIN));
    }

    #[test]
    fn numbers_have_the_digits_that_count() {
        assert_eq!([23.94, 6.58, 0.0029, 1234.5, 0.5].map(number), ["23.9", "6.58", "0.0029", "1234", "0.50"]);
        assert_eq!(spread(Spread { min: 2.0, median: 2.5, max: 3.0 }), "2.50 (2.00–3.00)");
    }
}

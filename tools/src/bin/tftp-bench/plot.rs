//! Bar charts as SVG, small enough to be written by hand.

use crate::metrics::{self, Metric};
use crate::results::Results;
use crate::servers::Kind;
use crate::workloads::{self, WINDOW, Workload};
use std::fmt::Write;

/// A chart: bars of one length scale in groups, one group for each server.
pub struct Chart {
    /// The file's name without its end.
    pub name: &'static str,
    /// What it shows, with the unit, and which way is better.
    pub title: &'static str,
    /// The bars of a group: what each is, and where its number comes from.
    pub series: Vec<(String, Workload, Metric)>,
    /// Whether each tenfold is as long as the next, for numbers that differ by orders of magnitude.
    pub logarithmic: bool,
}

/// All charts.
pub fn charts(open: usize) -> Vec<Chart> {
    let windows = |f: fn(u16) -> (Workload, Metric)| {
        let bar = |window| (format!("windowsize {window}"), f(window).0, f(window).1);
        vec![bar(1), bar(WINDOW)]
    };
    let single = |window| {
        let bar =
            move |blksize| (format!("blksize {blksize}, windowsize {window}"), Workload::Single { blksize, window }, metrics::MB_PER_CPU_S);
        [512, workloads::ETHERNET_BLKSIZE, 8192].map(bar)
    };
    vec![
        Chart {
            name: "single",
            title: "One transfer: MB for each CPU second of both ends (more is better)",
            series: single(1).into_iter().chain(single(WINDOW)).collect(),
            logarithmic: false,
        },
        Chart {
            name: "crowd",
            title: "200 × 1 MiB: server CPU s for each GiB (less is better)",
            series: windows(|window| (Workload::Concurrent { window }, metrics::CPU_PER_GIB)),
            logarithmic: false,
        },
        Chart {
            name: "short",
            title: "Short transfers a second (more is better)",
            series: vec![("2 KiB, 32 at a time".to_owned(), Workload::Short, metrics::PER_SECOND)],
            logarithmic: true,
        },
        Chart {
            name: "memory",
            title: "Memory with open transfers, MiB (less is better)",
            series: [200, open].map(|transfers| (format!("{transfers} transfers"), Workload::Open { transfers }, metrics::PSS)).into(),
            logarithmic: true,
        },
        Chart {
            name: "loss",
            title: "1 MiB at 1 % loss: median s (less is better)",
            series: windows(|window| (Workload::Loss { window }, metrics::MEDIAN)),
            logarithmic: true,
        },
    ]
}

const LABELS: f64 = 170.0;
const BARS: f64 = 520.0;
const BAR: f64 = 14.0;
const COLOURS: [&str; 6] = ["#4878a8", "#6fa0cc", "#a3c4e0", "#b5651d", "#d98f4e", "#ecc094"];
const COLOUR_OF_OURS: &str = "#d8efd3";

/// The chart as SVG; nothing when none of its numbers were measured.
pub fn svg(chart: &Chart, results: &Results) -> Option<String> {
    let number = |kind: Kind, (_, work, metric): &(String, Workload, Metric)| results.spread(*work, kind, *metric).map(|s| s.median);
    let servers: Vec<_> = results.servers.iter().filter(|s| chart.series.iter().any(|bar| number(s.kind, bar).is_some())).collect();
    let all: Vec<f64> =
        servers.iter().flat_map(|s| chart.series.iter().filter_map(|bar| number(s.kind, bar))).filter(|n| *n > 0.0).collect();
    let (least, most) = (all.iter().copied().reduce(f64::min)?, all.iter().copied().reduce(f64::max)?);
    // A logarithmic axis begins at the power of ten below the smallest number.
    let floor = 10f64.powf((least * 0.999).log10().floor());
    let length = |n: f64| {
        if chart.logarithmic { BARS * (n.max(floor) / floor).log10() / (most / floor).log10().max(0.1) } else { BARS * n / most }
    };
    let group = BAR * chart.series.len() as f64 + 8.0;
    let top = 34.0 + 16.0 * chart.series.len() as f64;
    let (width, height) = (LABELS + BARS + 80.0, top + group * servers.len() as f64 + 24.0);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"10\" y=\"20\" font-size=\"14\" font-weight=\"bold\">{}</text>\n",
        escaped(chart.title)
    );
    let mut put = |text: std::fmt::Arguments<'_>| {
        let _infallible = writeln!(out, "{text}");
    };
    for (i, (name, ..)) in chart.series.iter().enumerate() {
        let y = 32.0 + 16.0 * i as f64;
        put(format_args!("<rect x=\"{LABELS}\" y=\"{y}\" width=\"10\" height=\"10\" fill=\"{}\"/>", COLOURS[i % COLOURS.len()]));
        put(format_args!("<text x=\"{}\" y=\"{}\">{}</text>", LABELS + 16.0, y + 9.0, escaped(name)));
    }
    for (row, server) in servers.iter().enumerate() {
        let y = top + group * row as f64;
        if server.kind == Kind::Guideway {
            put(format_args!("<rect x=\"0\" y=\"{}\" width=\"{width}\" height=\"{group}\" fill=\"{COLOUR_OF_OURS}\"/>", y - 4.0));
        }
        let middle = y + (group - 8.0) / 2.0 + 4.0;
        put(format_args!("<text x=\"{}\" y=\"{middle}\" text-anchor=\"end\">{}</text>", LABELS - 8.0, escaped(&server.name)));
        for (i, bar) in chart.series.iter().enumerate() {
            let y = y + BAR * i as f64;
            let Some(n) = number(server.kind, bar) else { continue };
            let (long, colour) = (length(n), COLOURS[i % COLOURS.len()]);
            put(format_args!("<rect x=\"{LABELS}\" y=\"{y}\" width=\"{long:.1}\" height=\"{}\" fill=\"{colour}\"/>", BAR - 2.0));
            put(format_args!("<text x=\"{:.1}\" y=\"{}\">{}</text>", LABELS + long + 5.0, y + 10.0, short(n)));
        }
    }
    let axis = if chart.logarithmic { format!("logarithmic, from {floor}") } else { "from 0".to_owned() };
    put(format_args!("<text x=\"{LABELS}\" y=\"{}\" fill=\"#777\">{axis}</text>", height - 8.0));
    out.push_str("</svg>\n");
    Some(out)
}

fn short(n: f64) -> String {
    if n >= 100.0 { format!("{n:.0}") } else { format!("{n:.2}") }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::servers::Server;

    #[test]
    fn the_longest_bar_fills_the_chart() {
        let mut results = Results::default();
        for (kind, name, n) in [(Kind::Guideway, "guideway tftpd", 80_000.0), (Kind::Fbtftp, "fb<tftp", 570.0)] {
            results.servers.push(Server::named(kind, name));
            results.cell(Workload::Short, kind).samples.push(vec![(metrics::PER_SECOND, n)]);
        }
        let chart = charts(10_000).into_iter().find(|c| c.name == "short").unwrap();
        let text = svg(&chart, &results).unwrap();
        assert!(text.contains("width=\"520.0\"") && text.contains("80000") && text.contains("fb&lt;tftp"), "{text}");
        assert!(svg(&charts(10_000)[0], &results).is_none(), "nothing was measured of it");
    }
}

//! Tables in Markdown.

use crate::metrics::{self, Metric};
use crate::results::{Results, Row, Spread};
use crate::servers::{Kind, Server};
use crate::workloads::{WINDOW, Workload};
use std::fmt::Write;

/// A column: its head, what it shows, with how many decimals.
type Column = (String, Workload, Metric, usize);

/// A table.
#[derive(Clone, Debug)]
pub struct Table {
    /// Its heading.
    pub title: String,
    /// Its columns.
    pub columns: Vec<Column>,
}

/// All tables of these works.
pub fn tables(all: &[Workload]) -> Vec<Table> {
    use metrics::{
        CLIENT_BUSY, CPU, CPU_PER_GIB, FAILED, MB_PER_CPU_S, MB_PER_S, MEDIAN, OPENED, PER_SECOND, PROCESSES, PSS, PSS_BEFORE, REPEATED,
        RESENDS, UNFINISHED, US_PER_BLOCK, US_PER_TRANSFER, WALL,
    };
    let mut tables = Vec::new();
    let singles: Vec<Workload> = all.iter().copied().filter(|w| matches!(w, Workload::Single { .. } | Workload::Gro { .. })).collect();
    let head = |work: &Workload| match work {
        Workload::Single { blksize, window } => format!("{blksize} w{window}"),
        Workload::Gro { blksize, window } => format!("{blksize} w{window} GRO"),
        other => other.to_string(),
    };
    for (title, metric, decimals) in [
        ("One transfer, both ends on one CPU: MB/s", MB_PER_S, 0),
        ("The same: MB for each second of CPU time of both ends", MB_PER_CPU_S, 0),
        ("The same: server CPU, µs for each block", US_PER_BLOCK, 2),
        ("The same: server CPU, s for each GiB", CPU_PER_GIB, 2),
    ] {
        tables.push(Table { title: title.to_owned(), columns: singles.iter().map(|w| (head(w), *w, metric, decimals)).collect() });
    }
    for work in all.iter().filter(|w| !singles.contains(w)) {
        let columns: &[(&str, Metric, usize)] = match work {
            Workload::Single { .. } | Workload::Gro { .. } => &[],
            Workload::Concurrent { .. } => &[
                ("wall s", WALL, 2),
                ("server CPU s", CPU, 2),
                ("CPU s/GiB", CPU_PER_GIB, 2),
                ("failed", FAILED, 0),
                ("unfinished", UNFINISHED, 0),
                ("client resends", RESENDS, 0),
                ("client busy %", CLIENT_BUSY, 0),
            ],
            Workload::Short => &[
                ("transfers/s", PER_SECOND, 0),
                ("server CPU µs each", US_PER_TRANSFER, 1),
                ("failed", FAILED, 0),
                ("unfinished", UNFINISHED, 0),
                ("client resends", RESENDS, 0),
                ("client busy %", CLIENT_BUSY, 0),
            ],
            Workload::Open { .. } => &[
                ("PSS MiB", PSS, 1),
                ("before MiB", PSS_BEFORE, 1),
                ("processes", PROCESSES, 0),
                ("opened", OPENED, 0),
                ("retransmitted", REPEATED, 0),
            ],
            Workload::Loss { .. } => &[
                ("median s", MEDIAN, 2),
                ("wall s", WALL, 2),
                ("failed", FAILED, 0),
                ("unfinished", UNFINISHED, 0),
                ("client resends", RESENDS, 0),
            ],
            Workload::Burst => &[("had to repeat", REPEATED, 0), ("failed", FAILED, 0), ("unfinished", UNFINISHED, 0), ("wall s", WALL, 2)],
        };
        let columns = columns.iter().map(|(head, metric, decimals)| ((*head).to_owned(), *work, *metric, *decimals)).collect();
        tables.push(Table { title: work.to_string(), columns });
    }
    tables.retain(|t| !t.columns.is_empty());
    tables
}

/// A table in Markdown.
pub fn markdown(table: &Table, results: &Results) -> String {
    let mut text = format!("### {}\n\n| server |", table.title);
    for (head, ..) in &table.columns {
        let _infallible = write!(text, " {head} |");
    }
    text.push_str("\n|---|");
    table.columns.iter().for_each(|_| text.push_str("---:|"));
    text.push('\n');
    for server in &results.servers {
        if table.columns.iter().any(|(_, work, ..)| work.is_for(server.kind)) {
            let _infallible = write!(text, "| {} |", server.name);
            for (_, work, metric, decimals) in &table.columns {
                let _infallible = write!(text, " {} |", cell(results, server, *work, *metric, *decimals));
            }
            text.push('\n');
        }
    }
    text
}

fn cell(results: &Results, server: &Server, work: Workload, metric: Metric, decimals: usize) -> String {
    let Some(spread) = results.spread(work, server.kind, metric) else {
        return results.refused(work, server.kind).unwrap_or("–").replace('|', "/");
    };
    let blksize = results.spread(work, server.kind, metrics::BLKSIZE).map(|s| s.median);
    let cut = match (work, blksize) {
        (Workload::Single { blksize: requested, .. } | Workload::Gro { blksize: requested, .. }, Some(granted))
            if granted < f64::from(requested) =>
        {
            format!(" [{granted}]")
        }
        _ => String::new(),
    };
    format!("{}{cut}", with_spread(spread, decimals))
}

/// The median, and in parentheses the extremes when they look different.
pub fn with_spread(spread: Spread, decimals: usize) -> String {
    let show = |n: f64| format!("{n:.decimals$}");
    let (median, least, most) = (show(spread.median), show(spread.least), show(spread.most));
    if least == most { median } else { format!("{median} ({least}–{most})") }
}

/// The goals in Markdown.
pub fn goals(rows: &[Row]) -> String {
    let mut text = "### Goals\n\n| work | guideway | reference | ratio | goal | reached |\n|---|---:|---:|---:|---|---|\n".to_owned();
    let number = |n: f64| if n.abs() >= 100.0 { format!("{n:.0}") } else { format!("{n:.2}") };
    for row in rows {
        let value = row.value.map_or("–".to_owned(), |v| format!("{} {}", number(v), row.unit).trim().to_owned());
        let reference = row.reference.as_ref().map_or("–".to_owned(), |(n, who)| format!("{} ({who})", number(*n)));
        let ratio = row.ratio.map_or(String::new(), |r| format!("{r:.2}"));
        let ok = row.ok.map_or("not measured", |ok| if ok { "yes" } else { "**no**" });
        let _infallible = writeln!(text, "| {} | {value} | {reference} | {ratio} | {} | {ok} |", row.name, row.goal);
    }
    text
}

/// Notes: what did not work, in sentences.
pub fn notes(results: &Results, workloads: &[Workload], missing: &[(Kind, String)]) -> String {
    let mut text = String::new();
    for (kind, why) in missing {
        let _infallible = writeln!(text, "- {} is missing: {why}", kind.name());
    }
    for server in &results.servers {
        for work in workloads {
            if let Some(why) = results.refused(*work, server.kind)
                && why != NO_WINDOWS
            {
                let _infallible = writeln!(text, "- {}, {work}: {why}", server.name);
            }
        }
    }
    text
}

/// What stands in a cell that asks for windows of a server that has none.
pub const NO_WINDOWS: &str = "no windows";

/// How to read the tables.
pub fn window_note() -> String {
    format!(
        "w1, w{WINDOW}: windowsize. GRO: the client's socket takes segments together (UDP_GRO), so that what a server hands over as one \
         is not cut apart by its own CPU, which on a wire is the network card's work; firmware has no such socket. [n]: the block size \
         that the server cut the request to. Medians, in parentheses the extremes."
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_shows_what_is_known() {
        let mut results = Results::default();
        let work = Workload::Single { blksize: 8192, window: 1 };
        results.servers.push(Server::named(Kind::Dnsmasq, "dnsmasq 2.90"));
        results.cell(work, Kind::Dnsmasq).samples.push(vec![(metrics::MB_PER_S, 230.4), (metrics::BLKSIZE, 2263.0)]);
        results.cell(work, Kind::Dnsmasq).samples.push(vec![(metrics::MB_PER_S, 240.0), (metrics::BLKSIZE, 2263.0)]);
        results.cell(Workload::Burst, Kind::Dnsmasq).refused = Some("it ended".to_owned());
        let text = markdown(&tables(&[work, Workload::Burst])[0], &results);
        assert!(text.contains("| dnsmasq 2.90 | 235 (230–240) [2263] |"), "{text}");
        let text = markdown(&tables(&[Workload::Burst])[0], &results);
        assert!(text.contains("| dnsmasq 2.90 | it ended | it ended | it ended |"), "{text}");
        assert!(notes(&results, &[Workload::Burst], &[]).contains("burst of requests: it ended"));
        assert!(goals(&results.goals(1, 1)).contains("not measured"));
    }
}

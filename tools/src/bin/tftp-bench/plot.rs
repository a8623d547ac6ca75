//! Bar charts as SVG.

use crate::metrics::{self, Metric};
use crate::results::Results;
use crate::servers::{Kind, Server};
use crate::workloads::{self, WINDOW, Workload};
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

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
            name: "concurrent",
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

const WIDTH: i32 = 770;
/// Room for the servers' names.
const NAMES: i32 = 150;
/// Room for the number of the longest bar.
const NUMBER: i32 = 60;
/// Room for the axis.
const AXIS: i32 = 44;
/// At most so many numbers at the axis. From ten on, a logarithmic one would label 80000 and 90000, which touch.
const AXIS_LABELS: usize = 6;
const BAR: i32 = 15;
const GAP: i32 = 9;
const FONT: (&str, i32) = ("sans-serif", 15);
const COLOURS: [RGBColor; 6] = [
    RGBColor(0x2f, 0x5f, 0x8f),
    RGBColor(0x6f, 0xa0, 0xcc),
    RGBColor(0xa3, 0xc4, 0xe0),
    RGBColor(0xb5, 0x65, 0x1d),
    RGBColor(0xd9, 0x8f, 0x4e),
    RGBColor(0xec, 0xc0, 0x94),
];
const COLOUR_OF_OURS: RGBColor = RGBColor(0xd8, 0xef, 0xd3);
const GREY: RGBColor = RGBColor(0x55, 0x55, 0x55);

/// What a chart draws of a server: its name, whether it is ours, and its numbers in the order of the series.
struct Group<'r> {
    name: &'r str,
    ours: bool,
    bars: Vec<Option<f64>>,
}

/// The chart as SVG; nothing when none of its numbers were measured.
pub fn svg(chart: &Chart, results: &Results) -> Option<String> {
    let number = |kind: Kind, (_, work, metric): &(String, Workload, Metric)| results.spread(*work, kind, *metric).map(|s| s.median);
    let group = |server: &'_ Server| chart.series.iter().map(|bar| number(server.kind, bar)).collect::<Vec<_>>();
    let groups = results.servers.iter().map(|s| Group { name: &s.name, ours: s.kind == Kind::Guideway, bars: group(s) });
    let groups: Vec<Group> = groups.filter(|group| group.bars.iter().any(Option::is_some)).collect();
    let all = || groups.iter().flat_map(|group| group.bars.iter().copied().flatten()).filter(|n| *n > 0.0);
    let (least, most) = (all().reduce(f64::min)?, all().reduce(f64::max)?);
    let mut out = String::new();
    let drawn = if chart.logarithmic {
        // The axis begins at the power of ten below the smallest number.
        let floor = 10f64.powf((least * 0.999).log10().floor());
        draw(&mut out, chart, &groups, (floor..most).log_scale(), floor, "logarithmic")
    } else {
        draw(&mut out, chart, &groups, 0.0..most, 0.0, "")
    };
    // Into a string, nothing can fail.
    drawn.ok().map(|()| out)
}

fn draw<X>(
    out: &mut String,
    chart: &Chart,
    groups: &[Group<'_>],
    axis: X,
    floor: f64,
    about: &str,
) -> Result<(), DrawingAreaErrorKind<std::io::Error>>
where
    X: AsRangedCoord<Value = f64>,
    X::CoordDescType: ValueFormatter<f64>,
{
    let (count, rows) = (chart.series.len() as i32, groups.len() as i32);
    let (top, tall) = (40 + 18 * count, BAR * count + GAP);
    let height = top + tall * rows + AXIS;
    let root = SVGBackend::with_string(out, (WIDTH as u32, height as u32)).into_drawing_area();
    // White, so that it can be read on a dark page, too.
    root.fill(&WHITE)?;
    let text = |h, v| FONT.into_font().color(&BLACK).pos(Pos::new(h, v));
    root.draw(&Text::new(chart.title, (10, 10), ("sans-serif", 18, FontStyle::Bold).into_font()))?;
    for (i, ((name, ..), colour)) in (0..).zip(chart.series.iter().zip(COLOURS.iter().cycle())) {
        let y = 36 + 18 * i;
        root.draw(&Rectangle::new([(NAMES, y), (NAMES + 11, y + 11)], colour.filled()))?;
        root.draw(&Text::new(name.as_str(), (NAMES + 18, y + 6), text(HPos::Left, VPos::Center)))?;
    }
    for (row, group) in (0..).zip(groups) {
        let (from, to) = (top + tall * row, top + tall * (row + 1));
        if group.ours {
            root.draw(&Rectangle::new([(0, from), (WIDTH, to)], COLOUR_OF_OURS.filled()))?;
        }
        root.draw(&Text::new(group.name, (NAMES - 8, i32::midpoint(from, to)), text(HPos::Right, VPos::Center)))?;
    }
    // Downwards one for each server.
    let mut bars = ChartBuilder::on(&root)
        .margin_top(top)
        .margin_right(NUMBER)
        .margin_left(NAMES)
        .x_label_area_size(AXIS)
        .build_cartesian_2d(axis, f64::from(rows)..0.0)?;
    bars.configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .x_labels(AXIS_LABELS)
        .x_max_light_lines(0)
        .bold_line_style(RGBColor(0xcc, 0xcc, 0xcc))
        .label_style(FONT.into_font().color(&BLACK))
        .x_label_formatter(&|n| ((n * 1e6).round() / 1e6).to_string())
        .x_desc(about)
        .axis_desc_style(FONT.into_font().color(&GREY))
        .draw()?;
    let place = |row: i32, pixels: i32| f64::from(row) + f64::from(pixels) / f64::from(tall);
    for (row, group) in (0..).zip(groups) {
        for (i, (bar, colour)) in (0..).zip(group.bars.iter().zip(COLOURS.iter().cycle())) {
            let Some(n) = *bar else { continue };
            let (from, end) = (GAP / 2 + BAR * i, n.max(floor));
            bars.draw_series([Rectangle::new([(floor, place(row, from)), (end, place(row, from + BAR - 2))], colour.filled())])?;
            let number = Text::new(short(n), (5, 1), text(HPos::Left, VPos::Center));
            bars.draw_series([EmptyElement::at((end, place(row, from + BAR / 2 - 1))) + number])?;
        }
    }
    root.present()
}

fn short(n: f64) -> String {
    if n >= 100.0 { format!("{n:.0}") } else { format!("{n:.2}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Width of each bar of this colour, but not of the legend's square.
    fn widths(svg: &str, colour: &str) -> Vec<i32> {
        let bars = svg.lines().filter(|line| line.contains("<rect") && line.contains(colour));
        bars.map(|bar| bar.split_once("width=\"").unwrap().1.split_once('"').unwrap().0.parse().unwrap()).skip(1).collect()
    }

    fn chart(name: &str) -> Chart {
        charts(10_000).into_iter().find(|c| c.name == name).unwrap()
    }

    #[test]
    fn the_longest_bar_fills_the_chart_and_each_has_its_number() {
        let mut results = Results::default();
        for (kind, name, n) in [(Kind::Guideway, "guideway tftpd", 2.0), (Kind::Fbtftp, "fb<tftp", 32.0)] {
            results.servers.push(Server::named(kind, name));
            results.cell(Workload::Concurrent { window: 1 }, kind).samples.push(vec![(metrics::CPU_PER_GIB, n)]);
        }
        results.servers.push(Server::named(Kind::Atftpd, "not measured"));
        let text = svg(&chart("concurrent"), &results).unwrap();
        let [ours, theirs] = widths(&text, "#2F5F8F")[..] else { panic!("{text}") };
        assert_eq!((theirs, (theirs - 16 * ours).abs() < 16), (WIDTH - NAMES - NUMBER - 1, true), "{text}");
        for label in ["2.00", "32.00", "fb&lt;tftp", "guideway tftpd", "windowsize 16"] {
            assert!(text.lines().any(|line| line == label), "{label} is missing: {text}");
        }
        assert!(!text.contains("not measured") && svg(&chart("single"), &results).is_none(), "{text}");
    }

    #[test]
    fn each_tenfold_of_a_logarithmic_chart_is_as_long_as_the_next() {
        let mut results = Results::default();
        for (kind, n) in [(Kind::Guideway, 100_000.0), (Kind::Atftpd, 10_000.0), (Kind::Fbtftp, 1000.0)] {
            results.servers.push(Server::named(kind, kind.name()));
            results.cell(Workload::Short, kind).samples.push(vec![(metrics::PER_SECOND, n)]);
        }
        let text = svg(&chart("short"), &results).unwrap();
        let [long, middle, brief] = widths(&text, "#2F5F8F")[..] else { panic!("{text}") };
        assert!((long - middle - (middle - brief)).abs() <= 1 && long > middle && text.contains("logarithmic"), "{text}");
    }
}

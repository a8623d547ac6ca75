//! Curves as SVG.

use crate::rows::Spread;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Curves in one picture.
pub struct Plot {
    /// What it shows, with the unit.
    pub title: &'static str,
    /// What the horizontal axis is; it is logarithmic.
    pub x_label: &'static str,
    /// Ours first.
    pub curves: Vec<Curve>,
}

/// One of them.
pub struct Curve {
    /// Its name in the legend; a picture with one curve has none.
    pub name: &'static str,
    /// Its points, from left to right.
    pub points: Vec<(u64, Spread)>,
}

const SIZE: (u32, u32) = (720, 460);
const COLOURS: [RGBColor; 3] = [RGBColor(0x1f, 0x5f, 0x9e), RGBColor(0xb5, 0x65, 0x1d), RGBColor(0x4d, 0x7d, 0x3a)];
const GREY: RGBColor = RGBColor(0x55, 0x55, 0x55);
const FONT: (&str, i32) = ("sans-serif", 15);
/// Room left and right of the points, as a part of the axis.
const MARGIN: f64 = 0.05;
/// Room above the highest point.
const HEADROOM: f64 = 1.1;
/// From one point to the next.
const STEEP: f64 = 1.2;

impl Plot {
    /// The picture; nothing when our curve has fewer than two points.
    pub fn svg(&self) -> Option<String> {
        let ours = self.curves.first().filter(|curve| curve.points.len() > 1)?;
        let all = || self.curves.iter().flat_map(|curve| &curve.points);
        let (first, last) = (all().map(|(place, _)| *place).min()? as f64, all().map(|(place, _)| *place).max()? as f64);
        let most = all().map(|(_, spread)| spread.max).fold(0.0, f64::max);
        let mut out = String::new();
        // Into a string, nothing can fail.
        self.draw(&mut out, &ticks(ours, last / first), (first, last), most).ok()?;
        Some(out)
    }

    fn draw(
        &self,
        out: &mut String,
        ticks: &[f64],
        (first, last): (f64, f64),
        most: f64,
    ) -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
        let root = SVGBackend::with_string(out, SIZE).into_drawing_area();
        // White, so that it can be read on a dark page, too.
        root.fill(&WHITE)?;
        let margin = (last / first).powf(MARGIN);
        let x_axis = (first / margin..last * margin).log_scale().with_key_points(ticks.to_vec());
        let mut chart = ChartBuilder::on(&root)
            .caption(self.title, ("sans-serif", 18, FontStyle::Bold))
            .margin(10)
            .x_label_area_size(46)
            .y_label_area_size(44)
            .build_cartesian_2d(x_axis, 0.0..most * HEADROOM)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .y_max_light_lines(0)
            .bold_line_style(RGBColor(0xdd, 0xdd, 0xdd))
            .label_style(FONT.into_font().color(&GREY))
            .x_label_formatter(&|place| with_thousands(*place as u64))
            .y_label_formatter(&|number| trimmed(*number))
            .x_desc(self.x_label)
            .draw()?;
        for (curve, colour) in self.curves.iter().zip(COLOURS.iter().cycle()) {
            let medians = curve.points.iter().map(|(place, spread)| (*place as f64, spread.median));
            let line = chart.draw_series(LineSeries::new(medians, colour.stroke_width(2)))?;
            line.label(curve.name).legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(3)));
            let next = curve.points.iter().skip(1).map(Some).chain([None]);
            for ((place, spread), next) in curve.points.iter().zip(next) {
                let place = *place as f64;
                let bar = ErrorBar::new_vertical(place, spread.min, spread.median, spread.max, colour.filled(), 6);
                chart.draw_series([bar])?;
                // Where the curve rises steeply, it would run through a label above the point.
                let steep = next.is_some_and(|(_, next)| next.median > STEEP * spread.median);
                let side = if steep { HPos::Right } else { HPos::Center };
                let style = FONT.into_font().color(colour).pos(Pos::new(side, VPos::Bottom));
                let label = EmptyElement::at((place, spread.max)) + Text::new(trimmed(spread.median), (0, -4), style);
                chart.draw_series([label])?;
            }
        }
        if self.curves.len() > 1 {
            let legend = FONT.into_font().color(&BLACK);
            chart.configure_series_labels().position(SeriesLabelPosition::UpperLeft).label_font(legend).background_style(WHITE).draw()?;
        }
        root.present()
    }
}

/// Where the horizontal axis is labelled: at powers of ten when there are several of them, otherwise at the points.
fn ticks(ours: &Curve, span: f64) -> Vec<f64> {
    if span < 1000.0 {
        return ours.points.iter().map(|(place, _)| *place as f64).collect();
    }
    (0..u64::MAX.ilog10()).map(|power| 10f64.powf(f64::from(power))).collect()
}

fn trimmed(number: f64) -> String {
    let text = format!("{number:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

/// A number with commas between thousands.
pub fn with_thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flat(n: f64) -> Spread {
        Spread { min: n, median: n, max: n }
    }

    /// The corners of the first polyline of this colour that is thick enough to be a curve.
    fn corners(svg: &str, colour: &str) -> Vec<(i32, i32)> {
        let line = svg.lines().find(|line| line.contains("<polyline") && line.contains(colour)).unwrap();
        let points = line.split_once("points=\"").unwrap().1.split_once('"').unwrap().0;
        points
            .split_whitespace()
            .map(|point| point.split_once(',').unwrap())
            .map(|(x, y)| (x.parse().unwrap(), y.parse().unwrap()))
            .collect()
    }

    fn has(svg: &str, text: &str) -> bool {
        svg.lines().any(|line| line == text)
    }

    #[test]
    fn curves_share_a_logarithmic_axis_and_points_are_labelled() {
        let curve = |name, points| Curve { name, points };
        let ours = curve("ours", vec![(1, flat(20.0)), (1000, flat(25.5)), (1_000_000, flat(41.0))]);
        let plot =
            Plot { title: "t", x_label: "flows", curves: vec![ours, curve("theirs", vec![(1000, flat(51.0)), (10_000, flat(82.0))])] };
        let text = plot.svg().unwrap();
        let (ours, theirs) = (corners(&text, "#1F5F9E"), corners(&text, "#B5651D"));
        let [(x0, y0), (x1, y1), (x2, y2)] = ours[..] else { panic!("{ours:?}") };
        assert!((x2 - x1 - (x1 - x0)).abs() <= 1 && y0 > y1 && y1 > y2, "{ours:?}");
        assert!(theirs[0].0 == x1 && (theirs[1].0 - x1 - (x2 - x1) / 3).abs() <= 1 && theirs[1].1 < y2, "{theirs:?}");
        for label in ["ours", "theirs", "flows", "25.5", "41", "82", "1,000,000", "100"] {
            assert!(has(&text, label), "{label} is missing: {text}");
        }
        assert!(Plot { curves: vec![curve("ours", vec![(1, flat(2.0))])], ..plot }.svg().is_none());
    }

    #[test]
    fn a_short_axis_is_labelled_at_its_points_and_one_curve_needs_no_legend() {
        let curves = vec![Curve { name: "ours", points: vec![(8, flat(3.0)), (64, flat(2.0))] }];
        let text = Plot { title: "t", x_label: "packets", curves }.svg().unwrap();
        assert!(has(&text, "8") && has(&text, "64") && !has(&text, "ours"), "{text}");
    }

    #[test]
    fn thousands_are_grouped() {
        assert_eq!([0, 999, 1000, 1_234_567].map(with_thousands), ["0", "999", "1,000", "1,234,567"]);
    }
}

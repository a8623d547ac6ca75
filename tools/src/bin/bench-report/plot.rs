//! Curves as SVG, small enough to be written by hand.

use crate::rows::Spread;
use std::fmt::Write;

/// One curve in one picture.
pub struct Plot {
    /// What it shows, with the unit.
    pub title: &'static str,
    /// What the horizontal axis is; it is logarithmic.
    pub x_label: &'static str,
    /// Its points, from left to right.
    pub points: Vec<(u64, Spread)>,
}

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 50.0;
const RIGHT: f64 = 30.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 48.0;
/// About as many horizontal lines.
const LINES: f64 = 5.0;

impl Plot {
    /// The picture; nothing when there are fewer than two points.
    pub fn svg(&self) -> Option<String> {
        let [(first, _), .., (last, _)] = self.points[..] else { return None };
        let most = self.points.iter().map(|(_, spread)| spread.max).fold(0.0, f64::max);
        let step = step(most / LINES);
        let top = (most / step).ceil() * step;
        let (low, high) = ((first as f64).ln(), (last as f64).ln());
        let x = |place: u64| LEFT + (WIDTH - LEFT - RIGHT) * ((place as f64).ln() - low) / (high - low);
        let y = |number: f64| HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * number / top;
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
             <text x=\"10\" y=\"20\" font-size=\"14\" font-weight=\"bold\">{}</text>\n",
            self.title
        );
        let mut put = |text: std::fmt::Arguments<'_>| {
            let _infallible = writeln!(out, "{text}");
        };
        for line in 0..=(top / step).round() as u32 {
            let (number, right) = (f64::from(line) * step, WIDTH - RIGHT);
            let (at, label) = (y(number), y(number) + 4.0);
            put(format_args!("<line x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{right}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>"));
            put(format_args!("<text x=\"{}\" y=\"{label:.1}\" text-anchor=\"end\" fill=\"#555\">{}</text>", LEFT - 6.0, trimmed(number)));
        }
        let line: Vec<String> = self.points.iter().map(|(place, spread)| format!("{:.1},{:.1}", x(*place), y(spread.median))).collect();
        put(format_args!("<polyline points=\"{}\" fill=\"none\" stroke=\"#4878a8\" stroke-width=\"2\"/>", line.join(" ")));
        for (place, spread) in &self.points {
            let (x, y1, y2, at) = (x(*place), y(spread.min), y(spread.max), y(spread.median));
            put(format_args!("<line x1=\"{x:.1}\" y1=\"{y1:.1}\" x2=\"{x:.1}\" y2=\"{y2:.1}\" stroke=\"#4878a8\"/>"));
            put(format_args!("<circle cx=\"{x:.1}\" cy=\"{at:.1}\" r=\"3\" fill=\"#4878a8\"/>"));
            put(format_args!("<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>", y2 - 7.0, trimmed(spread.median)));
            let below = HEIGHT - BOTTOM + 16.0;
            put(format_args!("<text x=\"{x:.1}\" y=\"{below}\" text-anchor=\"middle\" fill=\"#555\">{}</text>", with_thousands(*place)));
        }
        put(format_args!(
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\" fill=\"#555\">{}</text>",
            WIDTH - RIGHT,
            HEIGHT - 12.0,
            self.x_label
        ));
        out.push_str("</svg>\n");
        Some(out)
    }
}

/// 1, 2 or 5 times a power of ten, not less than `least`.
fn step(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|digit| digit * power).into_iter().find(|step| *step >= least).unwrap_or(10.0 * power)
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

    #[test]
    fn the_curve_goes_from_edge_to_edge_and_stays_inside() {
        let plot = Plot { title: "t", x_label: "flows", points: vec![(1, flat(20.0)), (1024, flat(25.5)), (1 << 20, flat(41.0))] };
        let text = plot.svg().unwrap();
        assert!(text.contains("<polyline points=\"50.0,") && text.contains(" 530.0,"), "{text}");
        assert!(text.contains(">25.5<") && text.contains(">1,048,576<") && text.contains(">41<"), "{text}");
        assert!(Plot { points: vec![(1, flat(2.0))], ..plot }.svg().is_none());
    }

    #[test]
    fn steps_are_round_and_thousands_grouped() {
        assert_eq!([0.3, 1.0, 3.0, 7.0, 60.0].map(step), [0.5, 1.0, 5.0, 10.0, 100.0]);
        assert_eq!([0, 999, 1000, 1_234_567].map(with_thousands), ["0", "999", "1,000", "1,234,567"]);
    }
}

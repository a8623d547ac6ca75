//! A drawing of boxes, lines and labels that knows where each label stands, so that a test can see whether two overlap.

use svg::node::element::{Definitions, Line, Marker, Path, Polygon, Rectangle, Text};
use svg::{Document, Node};

/// Colors of one picture.
#[derive(Debug)]
pub struct Theme {
    /// Part of the file's name.
    pub name: &'static str,
    /// Text.
    pub ink: &'static str,
    /// Text of less weight.
    pub faint: &'static str,
    /// Lines that carry no highlighted packet, borders.
    pub line: &'static str,
    /// Inside of boxes.
    pub fill: &'static str,
    /// A read request.
    pub request: &'static str,
    /// An acknowledgement.
    pub acknowledgement: &'static str,
    /// Data on its way to the client.
    pub data: &'static str,
}

/// On a light and on a dark page.
pub const THEMES: [Theme; 2] = [
    Theme {
        name: "light",
        ink: "#1f2328",
        faint: "#59636e",
        line: "#8c959f",
        fill: "#f6f8fa",
        request: "#bc4c00",
        acknowledgement: "#1a7f37",
        data: "#0969da",
    },
    Theme {
        name: "dark",
        ink: "#f0f6fc",
        faint: "#9198a1",
        line: "#656c76",
        fill: "#151b23",
        request: "#f0883e",
        acknowledgement: "#3fb950",
        data: "#58a6ff",
    },
];

/// Width of a character, in parts of the size of the type: more than the average of the usual sans-serif types.
const CHARACTER_WIDTH: f64 = 0.56;

/// How a label stands to its point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// It begins there.
    Start,
    /// Its middle is there.
    Middle,
}

/// Left, top, right, bottom.
pub type Bounds = [f64; 4];

/// The drawing.
#[derive(Debug)]
pub struct Canvas {
    document: Document,
    size: (f64, f64),
    labels: Vec<(String, Bounds)>,
}

impl Canvas {
    /// An empty drawing with a title for those who cannot see it.
    pub fn new(size: (f64, f64), title: &str, theme: &Theme) -> Canvas {
        let markers = ["request", "acknowledgement", "data", "line"]
            .into_iter()
            .zip([theme.request, theme.acknowledgement, theme.data, theme.line])
            .map(|(name, color)| arrow_head(name, color));
        let document = Document::new()
            .set("viewBox", (0, 0, size.0, size.1))
            .set("width", size.0)
            .set("height", size.1)
            .set("font-family", "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif")
            .set("role", "img")
            .add(svg::node::element::Title::new(title))
            .add(markers.fold(Definitions::new(), Definitions::add));
        Canvas { document, size, labels: Vec::new() }
    }

    /// A box with round corners.
    pub fn rectangle(&mut self, [left, top, right, bottom]: Bounds, theme: &Theme) {
        let rectangle = Rectangle::new().set("x", left).set("y", top).set("width", right - left).set("height", bottom - top);
        self.add(rectangle.set("rx", 6).set("fill", theme.fill).set("stroke", theme.line));
    }

    /// Text.
    pub fn label(&mut self, (x, y): (f64, f64), size: f64, color: &str, anchor: Anchor, bold: bool, text: &str) {
        let width = text.chars().count() as f64 * size * CHARACTER_WIDTH * if bold { 1.06 } else { 1.0 };
        let left = if anchor == Anchor::Middle { x - width / 2.0 } else { x };
        self.labels.push((text.to_owned(), [left, y - size, left + width, y + size * 0.25]));
        let label = Text::new(text).set("x", x).set("y", y).set("font-size", size).set("fill", color);
        let label = label.set("text-anchor", if anchor == Anchor::Middle { "middle" } else { "start" });
        self.add(if bold { label.set("font-weight", 600) } else { label });
    }

    /// A straight line without a head.
    pub fn line(&mut self, from: (f64, f64), to: (f64, f64), color: &str) {
        let line = Line::new().set("x1", from.0).set("y1", from.1).set("x2", to.0).set("y2", to.1);
        self.add(line.set("stroke", color).set("stroke-width", 1).set("opacity", 0.6));
    }

    /// A path with a head at its end, named after its color; `data` is as SVG wants it.
    pub fn arrow(&mut self, data: &str, head: &str, color: &str, dashes: Option<&str>) {
        let path = Path::new().set("d", data).set("fill", "none").set("stroke", color).set("stroke-width", 2);
        let path = path.set("marker-end", format!("url(#{head})"));
        self.add(if let Some(dashes) = dashes { path.set("stroke-dasharray", dashes) } else { path });
    }

    /// The file.
    pub fn to_svg(&self) -> String {
        format!("{}\n", self.document)
    }

    fn add(&mut self, node: impl Into<Box<dyn Node>>) {
        self.document.append(node);
    }

    /// Labels that lie on one another, or leave the picture.
    pub fn faults(&self) -> Vec<String> {
        let overlap = |a: &Bounds, b: &Bounds| a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3];
        let mut faults = Vec::new();
        for (index, (text, bounds)) in self.labels.iter().enumerate() {
            if bounds[0] < 0.0 || bounds[1] < 0.0 || bounds[2] > self.size.0 || bounds[3] > self.size.1 {
                faults.push(format!("{text:?} leaves the picture"));
            }
            let others = self.labels[index + 1..].iter().filter(|(_, other)| overlap(bounds, other));
            faults.extend(others.map(|(other, _)| format!("{text:?} lies on {other:?}")));
        }
        faults
    }
}

fn arrow_head(name: &str, color: &str) -> Marker {
    let head = Polygon::new().set("points", "0,0 8,4 0,8").set("fill", color);
    let marker = Marker::new().set("id", name).set("markerWidth", 8).set("markerHeight", 8).set("refX", 7).set("refY", 4);
    marker.set("orient", "auto").set("markerUnits", "userSpaceOnUse").add(head)
}

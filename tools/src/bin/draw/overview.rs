//! The README's picture: clients, an ECMP router, directors, backends, and the direct way back.

use crate::canvas::{Anchor, Canvas, Theme};

const SIZE: (f64, f64) = (980.0, 434.0);
/// Left and right edge of each column of boxes.
const CLIENTS: (f64, f64) = (20.0, 140.0);
const ROUTER: (f64, f64) = (232.0, 344.0);
const DIRECTORS: (f64, f64) = (458.0, 618.0);
const BACKENDS: (f64, f64) = (760.0, 960.0);
/// Half the height of a box.
const HALF: f64 = 22.0;
/// Middles of the boxes in a column.
const CLIENT_ROWS: [f64; 3] = [136.0, 196.0, 256.0];
const DIRECTOR_ROWS: [f64; 3] = [126.0, 196.0, 266.0];
const BACKEND_ROWS: [f64; 4] = [106.0, 166.0, 226.0, 286.0];
const ROUTER_ROW: f64 = 196.0;
/// Height at which data goes back.
const WAY_BACK: f64 = 346.0;

/// Draws it.
pub fn draw(theme: &Theme) -> Canvas {
    let title = "A request and an acknowledgement of one transfer reach the same backend through different directors";
    let mut canvas = Canvas::new(SIZE, title, theme);
    links(&mut canvas, theme);
    boxes(&mut canvas, theme);
    control(&mut canvas, theme);
    highlighted(&mut canvas, theme);
    legend(&mut canvas, theme);
    canvas
}

/// Every way that a packet may take.
fn links(canvas: &mut Canvas, theme: &Theme) {
    for row in CLIENT_ROWS {
        canvas.line((CLIENTS.1, row), (ROUTER.0, ROUTER_ROW), theme.line);
    }
    for director in DIRECTOR_ROWS {
        canvas.line((ROUTER.1, ROUTER_ROW), (DIRECTORS.0, director), theme.line);
        for backend in BACKEND_ROWS {
            canvas.line((DIRECTORS.1, director), (BACKENDS.0, backend), theme.line);
        }
    }
}

fn boxes(canvas: &mut Canvas, theme: &Theme) {
    let mut put = |(left, right): (f64, f64), row: f64, half: f64, name: &str, detail: &str| {
        canvas.rectangle([left, row - half, right, row + half], theme);
        let middle = (left + right) / 2.0;
        let first = if detail.is_empty() { row + 5.0 } else { row - 3.0 };
        canvas.label((middle, first), 14.0, theme.ink, Anchor::Middle, true, name);
        if !detail.is_empty() {
            canvas.label((middle, row + 14.0), 11.5, theme.faint, Anchor::Middle, false, detail);
        }
    };
    for (row, name) in CLIENT_ROWS.into_iter().zip(["server", "phone", "switch"]) {
        put(CLIENTS, row, HALF, name, "boots by TFTP");
    }
    put(ROUTER, ROUTER_ROW, 30.0, "router", "ECMP");
    for (row, name) in DIRECTOR_ROWS.into_iter().zip(["director d1", "director d2", "director d3"]) {
        put(DIRECTORS, row, HALF, name, "the same tables");
    }
    let backends =
        [("backend t1", "20000–20999"), ("backend t2", "21000–21999"), ("backend t3", "22000–22999"), ("backend t4", "23000–23999")];
    for (row, (name, range)) in BACKEND_ROWS.into_iter().zip(backends) {
        put(BACKENDS, row, HALF, name, &format!("server ports {range}"));
    }
    let between = |left: f64, right: f64| (left + right) / 2.0;
    canvas.label((between(ROUTER.1, DIRECTORS.0), 100.0), 12.0, theme.faint, Anchor::Middle, false, "GRE or plain");
    canvas.label((between(DIRECTORS.1, BACKENDS.0), 92.0), 12.0, theme.faint, Anchor::Middle, false, "GRE");
}

/// What gives directors their tables.
fn control(canvas: &mut Canvas, theme: &Theme) {
    let (left, right, bottom) = (388.0, 688.0, 52.0);
    canvas.rectangle([left, 12.0, right, bottom], theme);
    let text = "pools and health: file, API or etcd";
    canvas.label(((left + right) / 2.0, 37.0), 13.0, theme.ink, Anchor::Middle, false, text);
    let middle = (DIRECTORS.0 + DIRECTORS.1) / 2.0;
    canvas.arrow(&format!("M{middle},{bottom} V{}", DIRECTOR_ROWS[0] - HALF - 1.0), "line", theme.line, Some("5 4"));
}

/// One transfer: its request goes through d1, its acknowledgements through d2, both to t2; data comes straight back.
fn highlighted(canvas: &mut Canvas, theme: &Theme) {
    let (client, request, acknowledgement) = (CLIENT_ROWS[0], DIRECTOR_ROWS[0], DIRECTOR_ROWS[1]);
    let backend = BACKEND_ROWS[1];
    let mut way = |offset: f64, director: f64, name: &str, color: &str| {
        for (from, to) in [
            ((CLIENTS.1, client + offset), (ROUTER.0, ROUTER_ROW + offset)),
            ((ROUTER.1, ROUTER_ROW + offset), (DIRECTORS.0, director + offset)),
            ((DIRECTORS.1, director + offset), (BACKENDS.0, backend + offset)),
        ] {
            canvas.arrow(&format!("M{},{} L{},{}", from.0, from.1, to.0, to.1), name, color, None);
        }
    };
    way(-6.0, request, "request", theme.request);
    way(6.0, acknowledgement, "acknowledgement", theme.acknowledgement);
    let (right, left) = (BACKENDS.1 + 10.0, CLIENTS.0 - 10.0);
    let back = format!("M{},{backend} H{right} V{WAY_BACK} H{left} V{client} H{}", BACKENDS.1, CLIENTS.0 - 1.0);
    canvas.arrow(&back, "data", theme.data, None);
    let text = "data goes straight to the client, sent from the VIP; no director sees it";
    canvas.label(((left + right) / 2.0, WAY_BACK - 8.0), 12.0, theme.data, Anchor::Middle, false, text);
}

fn legend(canvas: &mut Canvas, theme: &Theme) {
    let rows = [
        (
            "request",
            theme.request,
            "Request to VIP:69. Every director computes the same Maglev table, so each of them picks t2 for this client.",
        ),
        (
            "acknowledgement",
            theme.acknowledgement,
            "Acknowledgement to VIP:21007. The port lies in the range of t2: no hash, no state, whichever director gets it.",
        ),
    ];
    for ((name, color, text), y) in rows.into_iter().zip([384.0, 414.0]) {
        canvas.arrow(&format!("M20,{y} H64"), name, color, None);
        canvas.label((74.0, y + 4.5), 13.0, theme.ink, Anchor::Start, false, text);
    }
}

#[cfg(test)]
mod tests {
    use crate::canvas::THEMES;

    #[test]
    fn no_label_lies_on_another() {
        for theme in &THEMES {
            assert_eq!(super::draw(theme).faults(), [""; 0]);
        }
    }
}

//! The table in Markdown: a row for each event, all its seeds together, Guideway beside plain ECMP.

use serde_json::Value;
use std::fmt::Write;

/// The table.
pub fn table(rows: &[Value], baseline: &[Value]) -> String {
    let mut out = String::from(
        "| event in mid-transfer | transfers | failed (allowed) | wrong bytes | pause: median, longest | plain ECMP to in.tftpd: failed |\n",
    );
    out.push_str("|---|---|---|---|---|---|\n");
    let mut seen: Vec<&Value> = Vec::new();
    for row in rows {
        if seen.contains(&&row["event"]) {
            continue;
        }
        seen.push(&row["event"]);
        let of = |all: &'_ [Value]| all.iter().filter(|other| other["event"] == row["event"]).cloned().collect::<Vec<Value>>();
        let (ours, theirs) = (of(rows), of(baseline));
        let sum = |all: &[Value], key: &str| all.iter().filter_map(|row| row[key].as_u64()).sum::<u64>();
        let longest = |key: &str| ours.iter().filter_map(|row| row[key].as_f64()).fold(0.0, f64::max);
        let compared = if theirs.is_empty() {
            "—".to_owned()
        } else {
            format!("{} of {}", sum(&theirs, "failed") + sum(&theirs, "wrong_bytes"), sum(&theirs, "transfers"))
        };
        let verdict = if ours.iter().all(|row| row["ok"] == true) { "" } else { " **not as promised**" };
        // Writing to a String cannot fail.
        let _infallible = writeln!(
            out,
            "| {}{verdict} | {} | {} ({}) | {} | {:.2} s, {:.2} s | {compared} |",
            row["event"].as_str().unwrap_or("?"),
            sum(&ours, "transfers"),
            sum(&ours, "failed"),
            sum(&ours, "allowed"),
            sum(&ours, "wrong_bytes"),
            longest("pause_p50"),
            longest("pause_max"),
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn seeds_of_one_event_are_one_row() {
        let row = |event: &str, failed, ok| json!({"event": event, "transfers": 40, "failed": failed, "allowed": 1, "wrong_bytes": 0, "pause_p50": 0.5, "pause_max": 2.0, "ok": ok});
        let table = table(&[row("a", 0, true), row("a", 1, true), row("b", 2, false)], &[row("a", 30, false)]);
        let lines: Vec<&str> = table.lines().skip(2).collect();
        assert_eq!(lines[0], "| a | 80 | 1 (2) | 0 | 0.50 s, 2.00 s | 30 of 40 |");
        assert_eq!(lines[1], "| b **not as promised** | 40 | 2 (1) | 0 | 0.50 s, 2.00 s | — |");
    }
}

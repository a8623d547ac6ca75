//! The status of a TFTP server.

use super::super::{BAD_USAGE, common, print};
use super::{rows, uptime};
use guideway_tftp::report::Counter;
use guideway_tftpd::config;
use serde_json::Value;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// The control socket of the server with this file.
pub(super) fn socket(file: &Path) -> Result<PathBuf, u8> {
    let checked = config::load(file).map_err(|error| common::bad(&error.to_string()))?;
    for problem in checked.errors() {
        print::error(problem.in_file(file));
    }
    let (_, server) = checked.config.ok_or(BAD_USAGE)?;
    let missing = || common::bad(&format!("{}: without [server] the server has no control socket; name it by --socket", file.display()));
    server.map(|server| server.control_socket()).ok_or_else(missing)
}

/// The status for people.
pub(super) fn table(status: &Value) -> String {
    let list = |key: &str| {
        let all: Vec<&str> = status[key].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        all.join(", ")
    };
    let text = |key: &str| status[key].as_str().unwrap_or_default();
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let (counters, places) = (&status["counters"], &status["places"]);
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(
        out,
        "{} (guideway {}), up {}, {} loop(s), {} of {} places taken",
        text("name"),
        text("version"),
        uptime(number(&status["uptime_seconds"])),
        status["loops"],
        places["taken"],
        places["limit"],
    );
    let _ = writeln!(out, "requests at {}\nanswers from {}\n", list("listen"), list("tids"));
    let _ = writeln!(out, "{:<28} {:>14}", "open", number(&counters["open"]));
    // How requests ended first, then the rest; what never happened is of no interest there.
    let (ends, others): (Vec<&Counter>, Vec<&Counter>) = Counter::ALL.iter().partition(|counter| counter.is_end());
    for counter in ends {
        let _ = writeln!(out, "{:<28} {:>14}", counter.name(), number(&counters[counter.name()]));
    }
    let _ = writeln!(out);
    for counter in others.into_iter().filter(|counter| number(&counters[counter.name()]) > 0) {
        let _ = writeln!(out, "{:<28} {:>14}", counter.name(), number(&counters[counter.name()]));
    }
    let notes = &status["notes"];
    if notes.is_object() {
        let (transfers, limit, peers) = (&notes["transfers"], &notes["transfers_limit"], &notes["peers"]);
        let _ = writeln!(out, "\n{transfers} of {limit} notes of other servers' transfers kept; {peers} other server(s) answer");
        let known: Vec<&str> = notes["key"]["known"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        if let Some((active, also)) = known.split_first() {
            let also = if also.is_empty() { String::new() } else { format!(" (also believed: {})", also.join(", ")) };
            let _ = writeln!(out, "key id {active}{also}");
        }
    }
    if status["caches"].as_array().is_some_and(|caches| !caches.is_empty()) {
        let keys = ["handler", "hits", "misses", "joined", "absent", "files", "bytes", "limit"];
        rows(&mut out, &["CACHE OF", "HITS", "MISSES", "JOINED", "ABSENT", "FILES", "BYTES", "LIMIT"], &status["caches"], &keys);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_table_shows_ends_places_and_caches() {
        let status = json!({
            "kind": "tftpd", "name": "t1", "version": "0.1.0", "uptime_seconds": 61, "loops": 1, "listen": ["127.0.0.1:69"], "tids": ["127.0.0.1:20001"],
            "places": {"taken": 3, "limit": 100}, "counters": {"open": 3, "done": 7, "repeated": 2, "writes": 0},
            "notes": {"transfers": 2, "transfers_limit": 9, "peers": 1, "key": {"active": "00ff", "known": ["00ff", "11ee"]}},
            "caches": [{"handler": "images", "hits": 5, "misses": 1, "joined": 0, "absent": 0, "files": 1, "bytes": 4096, "limit": 8192}],
        });
        let shown = table(&status);
        for part in [
            "t1 (guideway 0.1.0), up 1 min 1 s, 1 loop(s), 3 of 100 places taken",
            "answers from 127.0.0.1:20001",
            "images    5",
            "key id 00ff (also believed: 11ee)",
        ] {
            assert!(shown.contains(part), "{part} in\n{shown}");
        }
        let number = |name: &str| shown.lines().find_map(|line| line.strip_prefix(name)).map(|rest| rest.trim().to_owned());
        assert_eq!((number("done"), number("timed_out"), number("repeated")), (Some("7".into()), Some("0".into()), Some("2".into())));
        assert_eq!(number("writes"), None, "what never happened");
    }
}

//! The status of a TFTP server.

use super::super::time::utc;
use super::super::{BAD_USAGE, common, print};
use super::format::{line, numbers, rows, uptime};
use guideway_api::server::ServerStatus;
use guideway_tftp::report::Counter;
use guideway_tftpd::config;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Returns the control socket of the server with this file.
pub(super) fn socket(file: &Path) -> Result<PathBuf, u8> {
    let checked = config::load(file).map_err(|error| common::usage_error(&error.to_string()))?;
    for problem in checked.errors() {
        print::error(problem.in_file(file));
    }
    let (_, server) = checked.config.ok_or(BAD_USAGE)?;
    let missing =
        || common::usage_error(&format!("{}: without [server] the server has no control socket; name it by --socket", file.display()));
    server.map(|server| server.control_socket()).ok_or_else(missing)
}

/// Formats the status.
pub(super) fn table(status: &ServerStatus) -> String {
    let list = |addresses: &[SocketAddr]| addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let count = |name: &str| status.counters.get(name).copied().unwrap_or(0);
    let (capacity, uptime) = (&status.capacity, uptime(status.uptime_seconds));
    let mut out = String::new();
    line(
        &mut out,
        format_args!(
            "{} (guideway {}), up {uptime}, {} loop(s), {} of {} places taken",
            status.name, status.version, status.loops, capacity.used, capacity.limit,
        ),
    );
    if status.maintenance {
        line(&mut out, format_args!("in maintenance: it answers no new requests"));
    }
    let reload = &status.reload;
    if reload.accepted + reload.refused > 0 {
        let (accepted, refused, last) = (reload.accepted, reload.refused, utc(reload.last as f64));
        let result = reload.last_error.as_ref().map_or_else(|| "accepted".to_owned(), |why| format!("refused: {why}"));
        line(&mut out, format_args!("{accepted} reload(s), {refused} refused, the last one at {last} {result}"));
    }
    for change in &status.restart_required {
        line(&mut out, format_args!("restart required for {change}"));
    }
    line(&mut out, format_args!("requests at {}\nanswers from {}\n", list(&status.listen), list(&status.tids)));
    if !status.http.is_empty() {
        line(&mut out, format_args!("HTTP at {}\n", list(&status.http)));
    }
    // First the ways in which requests ended, then other counters that are not 0.
    let (ends, others): (Vec<&Counter>, Vec<&Counter>) = Counter::ALL.iter().partition(|counter| counter.is_end());
    let ends = std::iter::once("open").chain(ends.into_iter().map(|counter| counter.name()));
    out.push_str(&numbers(ends.map(|name| (name, count(name)))));
    out.push('\n');
    let others = others.into_iter().map(|counter| (counter.name(), count(counter.name())));
    out.push_str(&numbers(others.filter(|(_, count)| *count > 0)));
    if let Some(checkpoints) = &status.checkpoints {
        let (transfers, limit, peers) = (checkpoints.transfers, checkpoints.transfers_limit, checkpoints.peers);
        line(&mut out, format_args!("\n{transfers} of {limit} checkpoints of other servers stored; {peers} other server(s) answer"));
        if let Some(active) = &checkpoints.key.active {
            let others = checkpoints.key.others();
            let also = if others.is_empty() { String::new() } else { format!(" (also accepted: {})", others.join(", ")) };
            line(&mut out, format_args!("key id {active}{also}"));
        }
    }
    if !status.caches.is_empty() {
        let caches = status.caches.iter().map(|cache| {
            let numbers = [cache.hits, cache.misses, cache.coalesced, cache.negative_hits, cache.files, cache.bytes, cache.limit];
            std::iter::once(cache.handler.clone()).chain(numbers.map(|number| number.to_string())).collect()
        });
        rows(&mut out, &["CACHE OF", "HITS", "MISSES", "JOINED", "ABSENT", "FILES", "BYTES", "LIMIT"], caches);
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
            "kind": "tftpd", "name": "t1", "version": "0.1.0", "uptime_seconds": 61, "loops": 1, "listen": ["127.0.0.1:69"], "http": ["127.0.0.1:80"], "tids": ["127.0.0.1:20001"],
            "capacity": {"used": 3, "limit": 100}, "counters": {"open": 3, "done": 7, "retransmitted": 2, "writes": 0},
            "checkpoints": {"transfers": 2, "transfers_limit": 9, "bytes": 0, "bytes_limit": 9, "peers": 1, "key": {"active": "00ff", "known": ["00ff", "11ee"]}},
            "caches": [{"handler": "images", "hits": 5, "misses": 1, "coalesced": 0, "negative_hits": 0, "files": 1, "bytes": 4096, "limit": 8192}],
            "reload": {"accepted": 2, "refused": 1, "last_error": "no such file", "last": 1_796_074_805}, "restart_required": ["server.loops: 1 → 2"],
        });
        let shown = table(&serde_json::from_value(status).unwrap());
        for part in [
            "t1 (guideway 0.1.0), up 1 min 1 s, 1 loop(s), 3 of 100 places taken",
            "answers from 127.0.0.1:20001",
            "images    5",
            "2 reload(s), 1 refused, the last one at 2026-11-30 21:40:05.000Z refused: no such file",
            "restart required for server.loops: 1 → 2",
            "key id 00ff (also accepted: 11ee)",
        ] {
            assert!(shown.contains(part), "{part} in\n{shown}");
        }
        let number = |name: &str| shown.lines().find_map(|line| line.strip_prefix(name)).map(|rest| rest.trim().to_owned());
        assert_eq!((number("done"), number("timed_out"), number("retransmitted")), (Some("7".into()), Some("0".into()), Some("2".into())));
        assert_eq!(number("writes"), None, "what never happened");
    }
}

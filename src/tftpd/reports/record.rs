//! The report of an ended request as a line of JSON. `README.md` lists the fields; a test compares.

use guideway_tftp::packet::Options;
use guideway_tftp::report::TransferReport;
use guideway_tftp::request::without_garbage;
use serde::Serialize;
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::net::IpAddr;
use std::time::{Duration, UNIX_EPOCH};

/// One line.
#[derive(Debug, Serialize)]
struct Record<'a> {
    server: &'a str,
    started: f64,
    protocol: &'static str,
    operation: &'static str,
    client: IpAddr,
    client_port: u16,
    vip: IpAddr,
    tid: u16,
    file: Cow<'a, str>,
    mode: Option<&'static str>,
    handler: Option<&'a str>,
    requested_options: Map<String, Value>,
    options: Map<String, Value>,
    blksize: Option<u16>,
    windowsize: Option<u16>,
    size: Option<u64>,
    outcome: &'static str,
    reason: Option<&'static str>,
    error_code: Option<u16>,
    error_text: Option<Cow<'a, str>>,
    taken_over: bool,
    duration_seconds: f64,
    first_answer_seconds: f64,
    round_trip_seconds: Option<f64>,
    bytes_sent: u64,
    bytes_received: u64,
    packets_sent: u64,
    packets_retransmitted: u64,
    timeouts: u64,
    blocks_acknowledged: u64,
    acks: u64,
    acks_ignored: u64,
}

/// Returns options by their names in lower case. The first of several equal ones counts.
fn by_name(options: Options<'_>) -> Map<String, Value> {
    let mut map = Map::new();
    for (name, value) in options.iter() {
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        map.entry(name).or_insert_with(|| String::from_utf8_lossy(value).into());
    }
    map
}

/// Returns seconds to the microsecond.
fn seconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1e6
}

/// Returns the report of the server `server` as JSON with a line feed.
pub fn line(server: &str, report: &TransferReport) -> String {
    let error = report.error();
    let record = Record {
        server,
        started: (seconds(report.started_at().duration_since(UNIX_EPOCH).unwrap_or_default()) * 1e3).round() / 1e3,
        protocol: report.protocol.name(),
        operation: if report.write { "write" } else { "read" },
        client: report.client.ip().to_canonical(),
        client_port: report.client.port(),
        vip: report.vip.to_canonical(),
        tid: report.tid,
        file: String::from_utf8_lossy(without_garbage(report.file())),
        mode: report.mode.map(|mode| mode.name()),
        handler: report.handler.as_deref(),
        requested_options: by_name(report.options()),
        options: by_name(report.acknowledged()),
        blksize: report.terms.map(|terms| terms.blksize),
        windowsize: report.terms.map(|terms| terms.window),
        size: report.size,
        outcome: report.outcome.name(),
        reason: report.reason(),
        error_code: error.as_ref().map(|(code, _)| code.0),
        error_text: error.map(|(_, text)| text),
        taken_over: report.taken_over,
        duration_seconds: seconds(report.duration),
        first_answer_seconds: seconds(report.opening),
        round_trip_seconds: (!report.round_trip.is_zero()).then(|| seconds(report.round_trip)),
        bytes_sent: report.bytes_sent,
        bytes_received: report.bytes_received,
        packets_sent: report.packets_sent,
        packets_retransmitted: report.retransmitted,
        timeouts: report.timeouts,
        blocks_acknowledged: report.blocks_acknowledged,
        acks: report.acks,
        acks_ignored: report.acks_ignored,
    };
    // A struct of strings and numbers always has a form in JSON.
    let mut line = serde_json::to_string(&record).unwrap_or_default();
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use guideway_tftp::handlers::testing::report;
    use guideway_tftp::packet::ErrorCode;
    use guideway_tftp::report::Outcome;

    #[test]
    fn the_guide_lists_the_fields() {
        let record: Value = serde_json::from_str(&line("t1", &report(b"f", Outcome::Done))).unwrap();
        let guide = include_str!("../README.md").split("| Field | Unit or values | Description |").nth(1).unwrap();
        let rows = guide.lines().skip(2).take_while(|line| line.starts_with('|'));
        let named: Vec<&str> =
            rows.flat_map(|row| row.split('|').nth(1).unwrap().split(',')).map(|name| name.trim().trim_matches('`')).collect();
        assert_eq!(named, record.as_object().unwrap().keys().collect::<Vec<_>>());
    }

    #[test]
    fn any_bytes_of_a_client_are_one_line() {
        let outcome = Outcome::Aborted(ErrorCode(9999), "\"\n\0\u{fffd}".to_owned());
        let line = line("t1", &report(b"a\n\"\\\xfe\xff\xff", outcome));
        assert_eq!(line.matches('\n').count(), 1);
        let record: Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&record["file"], &record["error_text"]), (&"a\n\"\\\u{fffd}".into(), &"\"\n\0\u{fffd}".into()));
        assert_eq!((&record["error_code"], &record["options"]["blksize"], &record["size"]), (&9999.into(), &"1428".into(), &Value::Null));
    }
}

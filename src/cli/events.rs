//! `guideway events`: what happens at a director, as it happens.

use super::common::{columns, failed, plain};
use super::running::DirectorArgs;
use super::{DONE, print};
use serde_json::Value;

/// Follow what happens at a running director: backends that come, go, drain, fall and rise; reloads, neighbours, the store
#[derive(Debug, clap::Args)]
#[command(after_help = "Ends with Ctrl-C, with the director, or after --count events.\n\n\
    Example:\n  guideway events\n  guideway events --since 0 --count 5 --json")]
pub struct Args {
    /// Begin after the event of this id; 0: with the oldest that is kept
    #[arg(long, value_name = "ID")]
    since: Option<u64>,
    /// End after so many events
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Print each event as a JSON document on a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    director: DirectorArgs,
}

/// Runs the command.
pub fn run(args: &Args) -> u8 {
    let client = match args.director.client() {
        Ok(client) => client,
        Err(code) => return code,
    };
    let path = args.since.map_or_else(|| "/v1/events".to_owned(), |since| format!("/v1/events?since={since}"));
    let (mut left, mut heard) = (args.count.unwrap_or(u64::MAX), true);
    let followed = client.follow(&path, |line| {
        let Some(event) = line.strip_prefix("data:").and_then(|data| serde_json::from_str::<Value>(data).ok()) else { return true };
        heard = print::line(if args.json { event.to_string() } else { text(&event).trim_end().to_owned() });
        left -= 1;
        left > 0 && heard
    });
    match followed {
        Ok(()) if heard => DONE,
        Ok(()) => failed("standard output cannot be written"),
        Err(error) => failed(&error.to_string()),
    }
}

/// An event for people.
fn text(event: &Value) -> String {
    if event["why"].is_string() && event["data"].is_null() {
        return format!("{}: {}\n", plain(&event["event"]), plain(&event["why"]));
    }
    let data = &event["data"];
    let head = format!("{}  {}  generation {}", plain(&event["id"]), plain(&event["event"]), event["generation"]);
    let whom = if data["backend"].is_string() { format!(": {}/{}", plain(&data["pool"]), plain(&data["backend"])) } else { String::new() };
    let why = data["why"].as_str().map(|why| format!("  {why}\n")).unwrap_or_default();
    let accepted = match data["accepted"].as_bool() {
        Some(true) => ": taken over",
        Some(false) => ": refused",
        None => "",
    };
    let rows: Vec<[String; 3]> = data["changes"].as_array().into_iter().flatten().map(row).collect();
    let more = data["more"].as_u64().filter(|more| *more > 0).map(|more| format!("  and {more} more\n")).unwrap_or_default();
    format!("{head}{accepted}{whom}\n{why}{}{more}", columns(&rows))
}

fn row(change: &Value) -> [String; 3] {
    let what = if change["backend"].is_string() {
        format!("{}/{}", plain(&change["pool"]), plain(&change["backend"]))
    } else if change["vip"].is_string() {
        format!("{} {}", plain(&change["vip"]), plain(&change["service"]))
    } else {
        plain(&change["address"])
    };
    let more = ["state", "neighbour", "why"].iter().map(|key| plain(&change[*key])).find(|text| !text.is_empty());
    [format!("  {}", plain(&change["change"])), what, more.unwrap_or_default()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_event_is_a_line_and_a_line_for_each_change() {
        let event = json!({"id": 7, "time": 1.5, "generation": 3, "event": "set_changed", "data": {"changes": [
            {"change": "backend_drained", "pool": "boot", "backend": "t1", "address": "10.0.2.21", "weight": 100, "state": "drained"},
            {"change": "vip_paused", "vip": "192.0.2.69", "service": "tftp", "pool": "boot", "paused": true},
        ], "more": 2}});
        let shown = text(&event);
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines[0], "7  set_changed  generation 3");
        assert_eq!(lines[1], "  backend_drained  boot/t1          drained");
        assert_eq!(lines[3], "  and 2 more");
        let suspected = json!({"id": 8, "generation": 3, "event": "suspected", "data": {"pool": "boot", "backend": "t1", "why": "mute"}});
        assert_eq!(text(&suspected), "8  suspected  generation 3: boot/t1\n  mute\n");
        assert_eq!(text(&json!({"event": "cut_off", "why": "too slow"})), "cut_off: too slow\n");
    }
}

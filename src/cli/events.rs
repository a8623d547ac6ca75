//! `guideway events`: follows the events of a director.

use super::common::failed;
use super::target::DirectorArgs;
use super::{DONE, print, time};
use guideway_api::event::{Changes, EventData, NeighbourChange, StateChange, StreamMessage};
use std::fmt::Display;

/// Follow the events of a running director: changes of backends and VIPs, reloads, neighbours, the store
#[derive(Debug, clap::Args)]
#[command(after_help = "Ends with Ctrl-C, with the director, or after --count events.\n\n\
    Example:\n  guideway events\n  guideway events --since 0 --count 5 --json")]
pub struct Args {
    /// Begin after the event of this id, which --json shows; 0: with the oldest that is kept
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
    let (mut left, mut printed) = (args.count.unwrap_or(u64::MAX), true);
    let followed = client.follow(&path, |line| {
        let Some(data) = line.strip_prefix("data:").map(str::trim) else { return true };
        let shown = match serde_json::from_str::<StreamMessage>(data) {
            Ok(message) if !args.json => text(&message).trim_end().to_owned(),
            // Events of another version are shown as they are.
            _ => data.to_owned(),
        };
        printed = print::line(shown);
        left -= 1;
        left > 0 && printed
    });
    match followed {
        Ok(()) if printed => DONE,
        Ok(()) => failed("standard output cannot be written"),
        Err(error) => failed(&error.to_string()),
    }
}

/// Formats a message of the stream.
fn text(message: &StreamMessage) -> String {
    let event = match message {
        StreamMessage::Event(event) => event,
        StreamMessage::Lost(lost) => return format!("{}: {}\n", lost.event.name(), lost.why),
    };
    let (more, details) = match &event.data {
        EventData::StateChanged(changes) => (String::new(), listed(changes, state_row)),
        EventData::Neighbours(changes) => (String::new(), listed(changes, neighbour_row)),
        EventData::StateRejected(rejected) => (String::new(), rejected.why.clone()),
        EventData::StoreUnavailable(store) => (String::new(), store.why.clone()),
        EventData::StoreAvailable(_) => (String::new(), String::new()),
        EventData::Reload(reload) => {
            let outcome = if reload.accepted { ": accepted" } else { ": refused" };
            (outcome.to_owned(), reload.why.clone().unwrap_or_default())
        }
        EventData::Suspected(suspected) => (format!(": {}/{}", suspected.pool, suspected.backend), suspected.why.clone()),
    };
    let head = format!("{}  {}  generation {}{more}", time::utc(event.time), event.data.name(), event.generation);
    format!("{head}\n{}", print::indented(&details))
}

fn listed<T, const N: usize>(changes: &Changes<T>, row: fn(&T) -> [String; N]) -> String {
    let mut text = print::columns(changes.changes.iter().map(row), &[]);
    if changes.more > 0 {
        text.push_str(&format!("and {} more\n", changes.more));
    }
    text
}

fn state_row(change: &StateChange) -> [String; 4] {
    match change {
        StateChange::Backend(changed) => {
            let state = changed.state.map(|state| state.to_string()).unwrap_or_default();
            [changed.change.name().to_owned(), format!("{}/{}", changed.pool, changed.backend), format!("weight {}", changed.weight), state]
        }
        StateChange::Vip(changed) => {
            [changed.change.name().to_owned(), format!("{} {}", changed.vip, changed.service), String::new(), String::new()]
        }
    }
}

fn neighbour_row(change: &NeighbourChange) -> [String; 3] {
    let row = |change: &str, address: &dyn Display, more: &str| [change.to_owned(), address.to_string(), more.to_owned()];
    match change {
        NeighbourChange::Resolved { address, neighbour } => row("resolved", address, neighbour),
        NeighbourChange::Lost { address, why } => row("lost", address, why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn an_event_is_a_line_and_a_line_for_each_change() {
        let text = |message: Value| text(&serde_json::from_value(message).unwrap());
        let shown = text(json!({"id": 7, "time": 1.5, "generation": 3, "event": "state_changed", "data": {"changes": [
            {"change": "backend_drained", "pool": "boot", "backend": "t1", "address": "10.0.2.21", "weight": 100, "state": "drained"},
            {"change": "vip_paused", "vip": "192.0.2.69", "service": "tftp", "pool": "boot", "paused": true},
        ], "more": 2}}));
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines[0], "1970-01-01 00:00:01.500Z  state_changed  generation 3");
        assert_eq!(lines[1], "  backend_drained  boot/t1          weight 100  drained");
        assert_eq!(lines[3], "  and 2 more");
        let suspected =
            json!({"id": 8, "time": 2.0, "generation": 3, "event": "suspected", "data": {"pool": "boot", "backend": "t1", "why": "mute"}});
        assert_eq!(text(suspected), "1970-01-01 00:00:02.000Z  suspected  generation 3: boot/t1\n  mute\n");
        let lost = json!({"id": 9, "time": 2.0, "generation": 3, "event": "neighbours", "data": {"changes": [
            {"change": "lost", "address": "10.0.2.21", "why": "no answer"}], "more": 0}});
        assert_eq!(text(lost), "1970-01-01 00:00:02.000Z  neighbours  generation 3\n  lost  10.0.2.21  no answer\n");
        assert_eq!(text(json!({"event": "cut_off", "after": 1, "oldest": 2, "why": "too slow"})), "cut_off: too slow\n");
    }
}

//! Reads an intent as TOML or JSON.

use super::document::{Checked, read_sections};
use super::load::{intent_ignoring, intent_sections};
use super::{Intent, Problem, Severity};
use serde_json::{Map, Value};

/// Reads and checks the text of an intent: a TOML document with `[[vip]]` and `[[pool]]`, as in a director's file, and nothing else.
pub fn read_intent(text: &str) -> Checked<Intent> {
    read_sections(text, intent_sections)
}

/// Reads and checks the intent of a file that may hold other sections, such as a director's. Ignores everything except `[[vip]]` and
/// `[[pool]]`.
pub fn read_embedded_intent(text: &str) -> Checked<Intent> {
    read_sections(text, |reader, document| {
        intent_ignoring(reader, document, &["director", "neighbour", "announce", "store", "api", "health"])
    })
}

impl Intent {
    /// Reads a JSON document with the keys of the file: `{"vip": [...], "pool": [...]}`. A `null` stands for an absent key.
    pub fn from_json(document: &Value) -> Checked<Intent> {
        // JSON is turned into TOML, so one checker serves both. Only the line numbers are lost.
        match toml::to_string(&without_nulls(document)) {
            Ok(text) => {
                let mut checked = read_intent(&text);
                for problem in &mut checked.problems {
                    (problem.line, problem.column) = (0, 0);
                    problem.message = without_lines(&problem.message);
                }
                checked
            }
            Err(why) => {
                let message = format!("cannot be read: {why}; expected {{\"vip\": [...], \"pool\": [...]}}");
                let problem = Problem {
                    severity: Severity::Error,
                    line: 0,
                    column: 0,
                    path: String::new(),
                    key: String::new(),
                    value: None,
                    message,
                };
                Checked { config: None, problems: vec![problem] }
            }
        }
    }
}

/// Removes references to lines from a message: the text with these lines is internal.
fn without_lines(message: &str) -> String {
    let mut message = message.to_owned();
    for (before, after) in [("; the first is in line ", ""), (" (line ", ")"), (" in line ", "")] {
        while let Some(at) = message.find(before) {
            let number = &message[at + before.len()..];
            let behind = number.trim_start_matches(|c: char| c.is_ascii_digit());
            let Some(behind) = behind.strip_prefix(after).filter(|behind| behind.len() < number.len()) else { break };
            message = format!("{}{behind}", &message[..at]);
        }
    }
    message
}

fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let present = map.iter().filter(|(_, value)| !value.is_null()).map(|(key, value)| (key.clone(), without_nulls(value)));
            Value::Object(present.collect::<Map<_, _>>())
        }
        Value::Array(items) => Value::Array(items.iter().map(without_nulls).collect()),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const TEXT: &str = r#"
active_key = "0123456789abcdef"
[[vip]]
address = "192.0.2.69"
service = { protocol = "tftp", key = "client" }
pool = "boot"
writes = "forward"
clients = ["10.0.0.0/8", "2001:db8::/32"]
admission = { per_vip = 5000, per_prefix = 200, prefix_v4 = 22 }
[[vip]]
address = "192.0.2.53"
service = { protocol = "udp", ports = [53, "8000-8100"] }
pool = "names"
idle = "1m30s"
paused = true
[[pool]]
name = "boot"
takeover = true
backends = [
  { name = "t1", address = "10.0.2.21", tid_range = "20000-20999" },
  { name = "t2", address = "10.0.2.22", tid_range = 21000, weight = 7, drain = true },
]
[[pool]]
name = "names"
table_size = 1009
backends = [{ name = "n1", address = "10.0.2.31" }]
"#;

    #[test]
    fn an_intent_survives_a_round_trip_through_json() {
        let read = read_intent(TEXT);
        let intent = read.config.unwrap();
        assert!(intent.pools[0].backends[1].drain && !intent.pools[0].backends[0].drain);
        assert_eq!(Intent::from_json(&intent.to_json()).config, Some(intent));
        assert_eq!(Intent::from_json(&json!({})).config, Some(Intent::default()));
    }

    #[test]
    fn errors_in_json_are_those_of_a_file_without_lines() {
        let pool = json!({"name": "boot", "backends": [{"name": "t1", "address": "10.0.2.21", "weight": 1001, "tid_range": null}]});
        let checked = Intent::from_json(&json!({"vip": [], "pool": [pool]}));
        assert!(checked.config.is_none());
        let messages: Vec<String> = checked.errors().map(ToString::to_string).collect();
        assert_eq!(messages.len(), 1);
        assert!(messages[0].starts_with("pool.boot.backends.t1.weight = 1001: "), "{messages:?}");
        let pool = json!({"name": "boot", "takeover": true, "backends": [{"name": "t1", "address": "10.0.2.21"}]});
        let messages: Vec<String> = Intent::from_json(&json!({"pool": [pool]})).errors().map(ToString::to_string).collect();
        assert!(messages.len() == 1 && messages[0].starts_with("pool.boot.takeover = true: needs a tid_range"), "{messages:?}");
        let twice = json!({"name": "boot", "backends": []});
        let checked = Intent::from_json(&json!({"pool": [twice, twice]}));
        assert_eq!(checked.errors().next().unwrap().message, "is also the name of the pool; give each pool its own name");
        assert_eq!(without_lines("a service (line 27) needs; the first is in line 3 of"), "a service needs of");
        assert_eq!(without_lines("stands in line of"), "stands in line of");
        for bad in [json!([]), json!(1), json!({"vip": 3}), json!({"director": {}}), json!({"pool": [{"name": "a", "name2": 1e300}]})] {
            let checked = Intent::from_json(&bad);
            assert!(checked.config.is_none() && checked.errors().count() > 0, "{bad}");
        }
    }
}

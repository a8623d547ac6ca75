//! Inventory of machines: rows of a CSV or JSON file, or answers of a service.

use super::watched::Watched;
use crate::handlers::client::{Client, get};
use crate::handlers::concurrency::ConcurrencyLimit;
use crate::handlers::url_path::url_path;
use hyper::{StatusCode, Uri};
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Largest answer of a service about one machine, in bytes.
const MAX_ANSWER: usize = 1 << 20;

/// Source of an inventory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A CSV file whose first line names the columns.
    Csv(PathBuf),
    /// A JSON file: a list of objects, or an object with an object for each key.
    Json(PathBuf),
    /// A service that answers `URL/key` with a JSON object, or 404.
    Http {
        /// Prefix of the URLs of keys.
        url: Uri,
        /// File with the certificate authorities of an https service; `None` for those that the host trusts.
        ca: Option<PathBuf>,
    },
}

/// All machines by key.
pub(super) type Machines = HashMap<String, Value>;

pub(super) enum Inventory {
    File(Watched<Machines>),
    Service(Box<Service>),
}

pub(super) struct Service {
    url: Uri,
    client: Client,
    gate: ConcurrencyLimit,
}

impl Inventory {
    pub(super) fn new(source: Source, key: String, timeout: Duration, concurrency: usize) -> io::Result<Inventory> {
        Ok(match source {
            Source::Csv(path) => Inventory::File(Watched::new(path, key, csv)),
            Source::Json(path) => Inventory::File(Watched::new(path, key, json)),
            Source::Http { url, ca } => {
                let client = Client::new(&url, ca.as_deref(), timeout)?;
                Inventory::Service(Box::new(Service { url, client, gate: ConcurrencyLimit::new(concurrency) }))
            }
        })
    }
}

impl Service {
    /// Returns the entry of a machine; `None` if there is none.
    pub(super) async fn look_up(&self, key: &str) -> Result<Option<Value>, String> {
        let _place = self.gate.enter().await.map_err(|refusal| refusal.text.into_owned())?;
        // A key is one part of the path, but url_path keeps slashes.
        let url = format!("{}{}", self.url, url_path(key.as_bytes()).replace('/', "%2F"));
        let answer = self.client.send(get(&url).map_err(|e| e.to_string())?).await.map_err(|e| e.to_string())?;
        match answer.status() {
            StatusCode::OK => {
                let bytes = self.client.read_body(answer.into_body(), MAX_ANSWER).await.map_err(|e| e.to_string())?;
                match serde_json::from_slice(&bytes) {
                    Ok(Value::Object(machine)) => Ok(Some(Value::Object(machine))),
                    Ok(_) => Err("the answer of the service is not a JSON object".to_owned()),
                    Err(error) => Err(format!("the answer of the service is not JSON: {error}")),
                }
            }
            StatusCode::NOT_FOUND | StatusCode::GONE => Ok(None),
            status => Err(format!("the service answered with status {status}")),
        }
    }
}

/// Normalizes a key: lower case, and link-layer addresses with colons.
pub(super) fn canonical(key: &str) -> String {
    let key = key.trim().to_ascii_lowercase();
    let digits: String = key.chars().filter(|c| !matches!(c, ':' | '-' | '.')).collect();
    let separated = digits.len() == 12 && matches!(key.len(), 12 | 14 | 17);
    if !separated || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return key;
    }
    digits.as_bytes().chunks(2).map(|pair| String::from_utf8_lossy(pair)).collect::<Vec<_>>().join(":")
}

fn insert(machines: &mut Machines, key: &str, machine: Map<String, Value>, place: &str) -> Result<(), String> {
    let key = canonical(key);
    if key.is_empty() {
        return Err(format!("{place}: the key is empty"));
    }
    match machines.insert(key.clone(), Value::Object(machine)) {
        Some(_) => Err(format!("{place}: duplicate key {key:?}")),
        None => Ok(()),
    }
}

fn csv(bytes: &[u8], key: &str) -> Result<Machines, String> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).comment(Some(b'#')).from_reader(bytes);
    let names = reader.headers().map_err(|error| error.to_string())?.clone();
    let Some(column) = names.iter().position(|name| name == key) else {
        let has = names.iter().collect::<Vec<_>>().join(", ");
        return Err(format!("no column {key:?}; columns in the first line: {}", if has.is_empty() { "none" } else { &has }));
    };
    let mut machines = Machines::new();
    for row in reader.records() {
        let row = row.map_err(|error| error.to_string())?;
        let place = format!("line {}", row.position().map_or(0, csv::Position::line));
        let machine = names.iter().zip(&row).map(|(name, value)| (name.to_owned(), Value::from(value))).collect();
        insert(&mut machines, row.get(column).unwrap_or_default(), machine, &place)?;
    }
    Ok(machines)
}

fn json(bytes: &[u8], key: &str) -> Result<Machines, String> {
    let mut machines = Machines::new();
    match serde_json::from_slice(bytes).map_err(|error| error.to_string())? {
        Value::Object(all) => {
            for (name, machine) in all {
                let Value::Object(machine) = machine else { return Err(format!("{name:?} is not an object")) };
                insert(&mut machines, &name, machine, "the object")?;
            }
        }
        Value::Array(all) => {
            for (index, machine) in all.into_iter().enumerate() {
                let place = format!("machine {index} (from 0)");
                let Value::Object(machine) = machine else { return Err(format!("{place} is not an object")) };
                let Some(name) = machine.get(key).and_then(Value::as_str).map(str::to_owned) else {
                    return Err(format!("{place} has no string {key:?}"));
                };
                insert(&mut machines, &name, machine, &place)?;
            }
        }
        _ => return Err("expected a list of objects, or an object of objects".to_owned()),
    }
    Ok(machines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json as value;

    #[test]
    fn one_spelling_for_one_machine() {
        for mac in ["02:00:00:00:0A:11", "02-00-00-00-0a-11", "0200.0000.0a11", "020000000A11", " 02:00:00:00:0a:11 "] {
            assert_eq!(canonical(mac), "02:00:00:00:0a:11", "{mac}");
        }
        assert_eq!(canonical("SN-0001"), "sn-0001");
        assert_eq!(canonical("10.0.0.17"), "10.0.0.17");
        assert_eq!(canonical("2001:db8::10:0:1"), "2001:db8::10:0:1");
    }

    #[test]
    fn csv_and_json_say_the_same() {
        let table = csv(b"mac, name\n# a remark\n02-00-00-00-00-01, one\n020000000002,\"t,wo\"\n", "mac").unwrap();
        assert_eq!(table["02:00:00:00:00:01"], value!({"mac": "02-00-00-00-00-01", "name": "one"}));
        assert_eq!(table["02:00:00:00:00:02"]["name"], "t,wo");
        let list = json(br#"[{"mac": "02-00-00-00-00-01", "name": "one"}, {"mac": "020000000002", "name": "t,wo"}]"#, "mac").unwrap();
        assert_eq!(list, table);
        let object = json(br#"{"020000000001": {"name": "one", "disks": [1, 2]}}"#, "mac").unwrap();
        assert_eq!(object["02:00:00:00:00:01"]["disks"][1], 2);
    }

    #[test]
    fn errors_name_the_line_and_the_reason() {
        for (wrong, why) in [
            (csv(b"name, serial\none, 2\n", "mac"), "no column \"mac\"; columns in the first line: name, serial"),
            (csv(b"", "mac"), "no column \"mac\"; columns in the first line: none"),
            (csv(b"mac,name\n1,a\n1,b\n", "mac"), "line 3: duplicate key \"1\""),
            (csv(b"mac,name\n,a\n", "mac"), "line 2: the key is empty"),
            (csv(b"mac,name\n1\n", "mac"), "line: 2"),
            (json(b"{", "mac"), "EOF"),
            (json(b"3", "mac"), "expected a list"),
            (json(br#"[{"name": "a"}]"#, "mac"), "machine 0 (from 0) has no string \"mac\""),
            (json(br#"{"a": 1}"#, "mac"), "\"a\" is not an object"),
        ] {
            let error = wrong.unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}

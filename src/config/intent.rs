//! The intent: what people want served, apart from the one director that reads it. A director's file may hold it, or a store that all directors share.

use super::duration::human;
use super::load::{Checked, intent_sections};
use super::text::port_range_text;
use super::{Backend, Check, Config, Director, Key, Pool, Probe, Problem, Service, Severity, Vip};
use guideway_hash::{FleetKey, KeyId};
use serde_json::{Map, Value, json};
use std::net::IpAddr;

/// VIPs and pools.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Intent {
    /// `[[vip]]`
    pub vips: Vec<Vip>,
    /// `[[pool]]`
    pub pools: Vec<Pool>,
    /// `active_key`: which of their keys the directors use; without, that of their files.
    pub active_key: Option<KeyId>,
}

/// Reads and checks the text of an intent: a TOML document with `[[vip]]` and `[[pool]]`, each as in a director's file, and nothing else.
pub fn read_intent(text: &str) -> Checked<Intent> {
    super::load::read_sections(text, intent_sections)
}

/// The same for any file that may hold an intent beside other things, such as a director's: what is no `[[vip]]` and no `[[pool]]` is passed over.
pub fn read_any_intent(text: &str) -> Checked<Intent> {
    super::load::read_sections(text, |reader, document| {
        super::load::intent_beside(reader, document, &["director", "neighbour", "announce", "store", "api", "health"])
    })
}

impl Intent {
    /// From a JSON document with the keys of the file: `{"vip": [...], "pool": [...]}`. A `null` is a key that is left out.
    pub fn from_json(document: &Value) -> Checked<Intent> {
        // One checker for all: what it says of TOML, it says of JSON, for lines are the only thing that JSON loses on the way.
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
                    place: String::new(),
                    key: String::new(),
                    value: None,
                    message,
                };
                Checked { config: None, problems: vec![problem] }
            }
        }
    }

    /// The document that [`Intent::from_json`] reads, every default written out.
    pub fn to_json(&self) -> Value {
        let mut document = json!({
            "vip": self.vips.iter().map(Vip::to_json).collect::<Vec<_>>(),
            "pool": self.pools.iter().map(Pool::to_json).collect::<Vec<_>>(),
        });
        if let (Some(id), Some(document)) = (self.active_key, document.as_object_mut()) {
            document.insert("active_key".to_owned(), json!(id.to_string()));
        }
        document
    }

    /// The VIP at which a tftp check of `pool` asks: the one that it names, or that of the first tftp service that uses the pool.
    pub fn vip_of_check(&self, pool: &Pool) -> Option<IpAddr> {
        let named = match pool.check.as_ref().map(|check| &check.probe) {
            Some(Probe::Tftp(probe)) => probe.vip,
            _ => None,
        };
        let tftp = |vip: &&Vip| vip.pool == pool.name && matches!(vip.service, Service::Tftp { .. });
        named.or_else(|| self.vips.iter().find(tftp).map(|vip| vip.address))
    }

    /// The pool of this name.
    pub fn pool(&self, name: &str) -> Option<&Pool> {
        self.pools.iter().find(|pool| pool.name == name)
    }
}

impl Config {
    /// The key that is used; nothing when the director does not have the one that is wanted.
    pub fn active_key(&self) -> Option<FleetKey> {
        let Some(wanted) = self.active_key else { return Some(self.director.key) };
        self.director.keys().find(|key| key.id() == wanted)
    }

    /// What the file wants served.
    pub fn intent(&self) -> Intent {
        Intent { vips: self.vips.clone(), pools: self.pools.clone(), active_key: self.active_key }
    }

    /// What of the intent this director cannot serve. A file that holds both is checked for this when it is read.
    pub fn clashes(&self) -> Vec<String> {
        let own = |address: IpAddr| self.director.address.contains(address);
        let site = |address: &IpAddr| self.director.other_site.contains(address);
        let sites = self.vips.iter().map(|vip| vip.address).filter(site).map(|address| (format!("vip {address}"), address));
        let sites = sites.chain(self.pools.iter().flat_map(|pool| {
            let backends = pool.backends.iter().filter(|backend| site(&backend.address));
            backends.map(|backend| (format!("pool.{}.backends.{}", pool.name, backend.name), backend.address))
        }));
        let sites = sites.map(|(place, address)| format!("{place}: {address} is an address of a director of the other site"));
        let vips = self.vips.iter().filter(|vip| own(vip.address));
        let vips = vips
            .map(|vip| format!("vip {}: is the director's own address; a VIP is an address that no machine has for itself", vip.address));
        let backends = self.pools.iter().flat_map(|pool| pool.backends.iter().map(move |backend| (pool, backend)));
        let backends = backends.filter(|(_, backend)| own(backend.address)).map(|(pool, backend)| {
            format!(
                "pool.{}.backends.{}: {} is an address of this director; a backend is another machine",
                pool.name, backend.name, backend.address
            )
        });
        let key = self.active_key.filter(|_| self.active_key().is_none()).map(|id| {
            let known: Vec<String> = self.director.keys().map(|key| key.id().to_string()).collect();
            format!("active_key: this director has no key {id}; it has {}. Add it as `next_key` and reload", known.join(" and "))
        });
        vips.chain(backends).chain(sites).chain(key).collect()
    }

    /// The same director with another intent.
    pub fn with(&self, intent: &Intent) -> Config {
        Config {
            active_key: intent.active_key,
            announce: self.announce.clone(),
            vips: intent.vips.clone(),
            pools: intent.pools.clone(),
            director: self.director.clone(),
            neighbours: self.neighbours.clone(),
            store: self.store.clone(),
            api: self.api.clone(),
        }
    }
}

impl Director {
    /// The keys that this director has.
    pub fn keys(&self) -> impl Iterator<Item = FleetKey> {
        std::iter::once(self.key).chain(self.next_key)
    }
}

impl Vip {
    /// One element of `[[vip]]`.
    pub fn to_json(&self) -> Value {
        let mut document = json!({
            "address": self.address,
            "service": self.service.to_json(),
            "pool": self.pool,
            "idle": human(self.idle),
            "paused": self.paused,
        });
        if let (Service::Tftp { .. }, Some(document)) = (&self.service, document.as_object_mut()) {
            document.extend(self.guard.to_json());
        }
        document
    }
}

impl Service {
    fn to_json(&self) -> Value {
        let ports = |ports: &[(u16, u16)]| -> Vec<Value> {
            ports.iter().map(|range| if range.0 == range.1 { json!(range.0) } else { json!(port_range_text(*range)) }).collect()
        };
        match self {
            Service::Tftp { key: Key::Flow } => json!({"protocol": "tftp", "key": "flow"}),
            Service::Tftp { key: Key::Client } => json!({"protocol": "tftp", "key": "client"}),
            Service::Udp { ports: list } => json!({"protocol": "udp", "ports": ports(list)}),
            Service::Tcp { ports: list } => json!({"protocol": "tcp", "ports": ports(list)}),
        }
    }
}

impl Pool {
    /// One element of `[[pool]]`.
    pub fn to_json(&self) -> Value {
        json!({
            "name": self.name,
            "table_size": self.table_size,
            "takeover": self.takeover,
            "check": self.check.as_ref().map(Check::to_json),
            "backends": self.backends.iter().map(Backend::to_json).collect::<Vec<_>>(),
        })
    }
}

impl Backend {
    /// One element of `backends`.
    pub fn to_json(&self) -> Value {
        let mut document = json!({"name": self.name, "address": self.address, "weight": self.weight, "drain": self.drain});
        if let (Some(range), Some(document)) = (self.tid_range, document.as_object_mut()) {
            document.insert("tid_range".to_owned(), json!(port_range_text(range)));
        }
        document
    }
}

/// A message without the lines of a text that nobody has seen.
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
            let kept = map.iter().filter(|(_, value)| !value.is_null()).map(|(key, value)| (key.clone(), without_nulls(value)));
            Value::Object(kept.collect::<Map<_, _>>())
        }
        Value::Array(items) => Value::Array(items.iter().map(without_nulls).collect()),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn an_intent_survives_the_way_through_json() {
        let read = read_intent(TEXT);
        let intent = read.config.unwrap();
        assert!(intent.pools[0].backends[1].drain && !intent.pools[0].backends[0].drain);
        assert_eq!(Intent::from_json(&intent.to_json()).config, Some(intent));
        assert_eq!(Intent::from_json(&json!({})).config, Some(Intent::default()));
    }

    #[test]
    fn what_is_wrong_in_json_is_said_as_in_a_file_but_without_lines() {
        let pool = json!({"name": "boot", "backends": [{"name": "t1", "address": "10.0.2.21", "weight": 1001, "tid_range": null}]});
        let said = Intent::from_json(&json!({"vip": [], "pool": [pool]}));
        assert!(said.config.is_none());
        let said: Vec<String> = said.errors().map(ToString::to_string).collect();
        assert_eq!(said.len(), 1);
        assert!(said[0].starts_with("pool.boot.backends.t1.weight = 1001: "), "{said:?}");
        let pool = json!({"name": "boot", "takeover": true, "backends": [{"name": "t1", "address": "10.0.2.21"}]});
        let said: Vec<String> = Intent::from_json(&json!({"pool": [pool]})).errors().map(ToString::to_string).collect();
        assert!(said.len() == 1 && said[0].starts_with("pool.boot.takeover = true: needs a tid_range"), "{said:?}");
        let twice = json!({"name": "boot", "backends": []});
        let said = Intent::from_json(&json!({"pool": [twice, twice]}));
        assert_eq!(said.errors().next().unwrap().message, "is also the name of the pool; the name of a pool is unique");
        assert_eq!(without_lines("a service (line 27) needs; the first is in line 3 of"), "a service needs of");
        assert_eq!(without_lines("stands in line of"), "stands in line of");
        for bad in [json!([]), json!(1), json!({"vip": 3}), json!({"director": {}}), json!({"pool": [{"name": "a", "name2": 1e300}]})] {
            let checked = Intent::from_json(&bad);
            assert!(checked.config.is_none() && checked.errors().count() > 0, "{bad}");
        }
    }
}

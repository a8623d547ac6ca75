//! Differences between two intents.

use super::{Backend, Intent, Pool, Vip};
use serde_json::Value;
use std::collections::BTreeMap;

impl Intent {
    /// Returns a line for each VIP, pool and backend that `after` adds (`+`), removes (`-`) or changes (`~`, with the keys that change).
    pub fn differences(&self, after: &Intent) -> Vec<String> {
        let mut lines = Vec::new();
        if self.active_key != after.active_key {
            let id = |intent: &Intent| intent.active_key.map_or_else(|| "none".to_owned(), |id| id.to_string());
            lines.push(format!("~ active_key: {} becomes {}", id(self), id(after)));
        }
        lines.extend(compare(&vips(self), &vips(after), Vip::to_json));
        lines.extend(compare(&pools(self), &pools(after), |pool| pool.to_json()));
        lines.extend(compare(&backends(self), &backends(after), |backend| backend.to_json()));
        lines
    }
}

fn vips(intent: &Intent) -> BTreeMap<String, Vip> {
    intent.vips.iter().map(|vip| (format!("VIP {} {}", vip.address, vip.service.label()), vip.clone())).collect()
}

fn pools(intent: &Intent) -> BTreeMap<String, Pool> {
    intent.pools.iter().map(|pool| (format!("pool {}", pool.name), Pool { backends: Vec::new(), ..pool.clone() })).collect()
}

fn backends(intent: &Intent) -> BTreeMap<String, &Backend> {
    let of = |pool: &'_ Pool, backend: &Backend| format!("backend {}/{}", pool.name, backend.name);
    intent.pools.iter().flat_map(|pool| pool.backends.iter().map(move |backend| (of(pool, backend), backend))).collect()
}

fn compare<T: PartialEq>(old: &BTreeMap<String, T>, new: &BTreeMap<String, T>, document: impl Fn(&T) -> Value) -> Vec<String> {
    let mut lines: Vec<String> = old.keys().filter(|name| !new.contains_key(*name)).map(|name| format!("- {name}")).collect();
    for (name, now) in new {
        match old.get(name) {
            None => lines.push(format!("+ {name}")),
            Some(before) if before != now => lines.push(format!("~ {name}{}", changed_keys(&document(before), &document(now)))),
            Some(_) => {}
        }
    }
    lines
}

/// Returns the keys of a table that change, such as `: weight 100 becomes 50`.
fn changed_keys(before: &Value, after: &Value) -> String {
    let keys = |value: &'_ Value| value.as_object().map(|object| object.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
    let mut all = [keys(before), keys(after)].concat();
    all.sort();
    all.dedup();
    let text = |value: Option<&Value>| value.filter(|value| !value.is_null()).map_or_else(|| "none".to_owned(), ToString::to_string);
    let changed = all.iter().filter(|key| before.get(key) != after.get(key));
    let changed: Vec<String> = changed.map(|key| format!("{key} {} becomes {}", text(before.get(key)), text(after.get(key)))).collect();
    if changed.is_empty() { String::new() } else { format!(": {}", changed.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read_intent;

    #[test]
    fn every_kind_of_change_is_told() {
        let intent = |vip: &str, idle: u8, size: u32, backends: &[(&str, u16)]| {
            let backends: Vec<String> = backends
                .iter()
                .enumerate()
                .map(|(at, (name, weight))| format!("{{ name = \"{name}\", address = \"10.0.2.{}\", weight = {weight} }}", at + 1))
                .collect();
            let text = format!(
                "[[vip]]\naddress = \"{vip}\"\nservice = \"tftp\"\npool = \"boot\"\nidle = \"{idle}s\"\n\
                 [[pool]]\nname = \"boot\"\ntable_size = {size}\nbackends = [{}]\n",
                backends.join(", ")
            );
            read_intent(&text).config.unwrap()
        };
        let old = intent("192.0.2.69", 60, 1009, &[("t1", 100), ("t2", 100)]);
        assert_eq!(old.differences(&old), [""; 0]);
        let new = intent("192.0.2.70", 60, 503, &[("t1", 7), ("t3", 100)]);
        assert_eq!(
            old.differences(&new),
            [
                "- VIP 192.0.2.69 tftp",
                "+ VIP 192.0.2.70 tftp",
                "~ pool boot: table_size 1009 becomes 503",
                "- backend boot/t2",
                "~ backend boot/t1: weight 100 becomes 7",
                "+ backend boot/t3"
            ]
        );
        assert_eq!(
            old.differences(&intent("192.0.2.69", 61, 1009, &[("t1", 100), ("t2", 100)])),
            ["~ VIP 192.0.2.69 tftp: idle \"1m\" becomes \"1m1s\""]
        );
        assert_eq!(Intent::default().differences(&old).len(), 4);
    }
}

//! The keys of an intent that a change sets to other values, besides the backends of pools.

use guideway_api::plan::ChangedSetting;
use guideway_config::Intent;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// Keys that say which VIP or pool it is, and those whose changes the plan shows in another way.
const SHOWN_ELSEWHERE: [&str; 4] = ["name", "address", "backends", "paused"];

/// Returns the keys that differ, of VIPs and pools that are in both.
pub(super) fn changes(before: &Intent, after: &Intent) -> Vec<ChangedSetting> {
    let (before_tables, after_tables) = (tables(before), tables(after));
    let mut changes = Vec::new();
    for (table, was) in &before_tables {
        let Some(is) = after_tables.get(table) else { continue };
        for key in was.keys().chain(is.keys()).collect::<BTreeSet<_>>() {
            let (old, new) = (was.get(key), is.get(key));
            if old != new && !SHOWN_ELSEWHERE.contains(&key.as_str()) {
                let full = if table.is_empty() { key.clone() } else { format!("{table}.{key}") };
                changes.push(ChangedSetting { before: text(old), after: text(new), effect: effect(key, new), key: full });
            }
        }
    }
    changes
}

/// Returns the tables of an intent by their path; the keys of the intent itself have an empty one.
fn tables(intent: &Intent) -> BTreeMap<String, Map<String, Value>> {
    let object = |value: Value| match value {
        Value::Object(object) => object,
        _ => Map::new(),
    };
    let mut root = object(intent.to_json());
    root.retain(|_, value| !value.is_array());
    let pools = intent.pools.iter().map(|pool| (format!("pool.{}", pool.name), object(pool.to_json())));
    let vips = intent.vips.iter().map(|vip| (format!("vip.{} {}", vip.address, vip.service.label()), object(vip.to_json())));
    pools.chain(vips).chain([(String::new(), root)]).collect()
}

fn text(value: Option<&Value>) -> Option<String> {
    value.filter(|value| !value.is_null()).map(ToString::to_string)
}

fn effect(key: &str, after: Option<&Value>) -> Option<String> {
    let said = match (key, after) {
        ("takeover", Some(Value::Bool(true))) => {
            "packets of a backend that is down go to its successors, which continue its transfers: every server of the pool must run with \
             [takeover] and the same pool and key, or such a transfer fails"
        }
        ("takeover", _) => "transfers of a backend that is down fail: no other server gets their packets",
        ("check", None | Some(Value::Null)) => "nobody checks the backends any more: all count as up, also those that are down now",
        _ => return None,
    };
    Some(said.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_that_changes_is_named() {
        let intent = |more: &str, idle: &str| {
            let text = format!(
                "vip = [{{ address = \"192.0.2.69\", service = \"tftp\", pool = \"boot\"{idle} }}]\n[[pool]]\nname = \"boot\"\n{more}\n\
                 backends = [{{ name = \"t1\", address = \"10.0.2.21\", tid_range = \"20000-20999\" }}]"
            );
            guideway_config::read_intent(&text).config.unwrap()
        };
        let keys = |before: &Intent, after: &Intent| changes(before, after).into_iter().map(|change| change.key).collect::<Vec<_>>();
        let plain = intent("", "");
        assert!(changes(&plain, &plain).is_empty());
        let on = intent("takeover = true\ntable_size = 1009", "");
        assert_eq!(keys(&plain, &on), ["pool.boot.table_size", "pool.boot.takeover"]);
        let takeover = changes(&plain, &on).remove(1);
        assert_eq!((takeover.before.as_deref(), takeover.after.as_deref()), (Some("false"), Some("true")));
        assert!(takeover.effect.unwrap().contains("[takeover]"));
        let checked = intent("check = { kind = \"icmp\" }", "");
        assert_eq!(keys(&plain, &checked), ["pool.boot.check"]);
        assert!(changes(&checked, &plain)[0].effect.as_ref().unwrap().contains("count as up"));
        assert_eq!(keys(&plain, &intent("", ", idle = \"70s\"")), ["vip.192.0.2.69 tftp.idle"]);
    }
}

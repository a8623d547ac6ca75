//! Differences between two intents.

use guideway_config::{Backend, Intent, Pool, Vip};
use std::collections::BTreeMap;

/// Returns a line for each VIP, pool and backend that is added, removed or changed.
pub(super) fn diff(old: &Intent, new: &Intent) -> Vec<String> {
    let vips = |intent: &Intent| -> BTreeMap<String, Vip> {
        intent.vips.iter().map(|vip| (format!("VIP {} {}", vip.address, vip.service.label()), vip.clone())).collect()
    };
    let pools = |intent: &Intent| -> BTreeMap<String, Pool> {
        intent.pools.iter().map(|pool| (format!("pool {}", pool.name), Pool { backends: Vec::new(), ..pool.clone() })).collect()
    };
    let backends = |intent: &Intent| -> BTreeMap<String, Backend> {
        let of = |pool: &Pool| {
            let name = pool.name.clone();
            pool.backends.clone().into_iter().map(move |backend| (format!("backend {name}/{}", backend.name), backend)).collect::<Vec<_>>()
        };
        intent.pools.iter().flat_map(of).collect()
    };
    let mut lines = compare(&vips(old), &vips(new));
    lines.extend(compare(&pools(old), &pools(new)));
    lines.extend(compare(&backends(old), &backends(new)));
    lines
}

fn compare<T: PartialEq>(old: &BTreeMap<String, T>, new: &BTreeMap<String, T>) -> Vec<String> {
    let mut lines: Vec<String> = old.keys().filter(|name| !new.contains_key(*name)).map(|name| format!("- {name}")).collect();
    for (name, now) in new {
        match old.get(name) {
            None => lines.push(format!("+ {name}")),
            Some(before) if before != now => lines.push(format!("~ {name}")),
            Some(_) => {}
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use guideway_config::read_intent;

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
        assert_eq!(diff(&old, &old), [""; 0]);
        let new = intent("192.0.2.70", 60, 503, &[("t1", 7), ("t3", 100)]);
        assert_eq!(
            diff(&old, &new),
            [
                "- VIP 192.0.2.69 tftp",
                "+ VIP 192.0.2.70 tftp",
                "~ pool boot",
                "- backend boot/t2",
                "~ backend boot/t1",
                "+ backend boot/t3"
            ]
        );
        assert_eq!(diff(&old, &intent("192.0.2.69", 61, 1009, &[("t1", 100), ("t2", 100)])), ["~ VIP 192.0.2.69 tftp"]);
        assert_eq!(diff(&Intent::default(), &old).len(), 4);
    }
}

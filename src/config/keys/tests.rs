use super::*;
use crate::health::read_health;
use crate::{FileKind, read};
use std::collections::BTreeSet;

fn samples() -> Vec<Sample> {
    let mut samples = Vec::new();
    let mut add = |path, kinds: &[&'static str], text: &str| {
        samples.extend(kinds.iter().map(|kind| Sample { path, kind, text: text.replace('?', kind) }));
    };
    add("", &[""], "");
    add("director", &[""], "[director]");
    add("director.io", &["af_xdp", "af_packet", "netmap", "pcap"], "[director]\nio = { kind = '?' }");
    add("vip", &[""], "[[vip]]");
    add("vip.service", &["tftp", "udp", "tcp"], "[[vip]]\nservice = { protocol = '?' }");
    add("vip.admission", &[""], "[[vip]]\nadmission = {}");
    add("pool", &[""], "[[pool]]");
    add("pool.backends", &[""], "[[pool]]\nbackends = [{}]");
    add("pool.check", &["tftp", "udp", "tcp", "http", "icmp", "exec"], "[[pool]]\ncheck = { kind = '?' }");
    add("pool.check.expect", &[""], "[[pool]]\ncheck = { kind = 'udp', expect = {} }");
    add("neighbour", &[""], "[[neighbour]]");
    add("announce", &[""], "[announce]");
    add("api", &[""], "[api]");
    add("store", &["file", "etcd"], "[store]\nkind = '?'");
    add("health", &[""], "[health]");
    samples
}

fn read_either(text: &str) {
    match FileKind::of_text(text) {
        Some(FileKind::Health) => drop(read_health(text)),
        _ => drop(read(text)),
    }
}

#[test]
fn readers_ask_for_the_keys_of_the_tables() {
    let all = [DIRECTOR, STORE, HEALTH].concat();
    let director: Vec<Section> = all.iter().copied().filter(|section| section.path != "health").collect();
    let (health, others): (Vec<_>, Vec<_>) = samples().into_iter().partition(|sample| sample.path == "health");
    assert_eq!(differences(&director, &others, read_either), [""; 0]);
    let of_health: Vec<Section> = all.iter().copied().filter(|section| section.path == "health").collect();
    assert_eq!(differences(&of_health, &health, read_either), [""; 0]);
    let top = record(|| read_either("[health]")).remove("").unwrap();
    assert_eq!(top, BTreeSet::from(["active_key", "health", "pool", "store", "vip"]));
}

#[test]
fn a_key_stands_once_and_a_section_is_found_by_its_name() {
    let all = [DIRECTOR, STORE, HEALTH].concat();
    let mut seen = BTreeSet::new();
    for section in &all {
        let kinds = if section.kinds.is_empty() { &[""] } else { section.kinds };
        for (key, kind) in section.keys.iter().flat_map(|key| kinds.iter().map(move |kind| (key, kind))) {
            assert!(seen.insert((section.full_name(key), *kind)), "{} {kind}", section.full_name(key));
        }
    }
    let called = |text: &str| all.iter().filter(|section| section.is_called(text)).map(|section| section.path).collect::<BTreeSet<_>>();
    assert_eq!(called("check"), BTreeSet::from(["pool.check"]));
    assert_eq!(called("pool"), BTreeSet::from(["pool", "pool.backends", "pool.check", "pool.check.expect"]));
    assert_eq!(called("poo"), BTreeSet::new());
}

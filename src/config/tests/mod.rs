//! Tests of the exact errors and warnings about files.

mod announce;
mod command;
mod director;
mod pool;
mod reload;
mod request_policy;
mod service;
mod store;
mod syntax;
mod warnings;

use super::*;
use guideway_hash::FleetKey;
use ipnet::IpNet;
use proptest::prelude::*;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

/// The sample that users start from.
const SAMPLE: &str = include_str!("sample.toml");

const DIRECTOR: &str = r#"[director]
name = "d1"
address = "10.0.1.11"
key = "000102030405060708090a0b0c0d0e0f"
io = { kind = "af_xdp", interface = "eth0" }
routers = ["10.0.0.0/24"]
"#;

const POOL: &str = r#"[[pool]]
name = "boot"
backends = [{ name = "t1", address = "10.0.2.21", tid_range = "20000-20999" }]
"#;

const VIP: &str = r#"[[vip]]
address = "192.0.2.69"
service = "tftp"
pool = "boot"
"#;

/// Returns a valid file in which `line` replaces the director's line of the same key, or follows its last one.
fn with_director(line: &str) -> String {
    let key = |l: &str| l.split('=').next().unwrap().trim().to_owned();
    let same = |l: &str| l.contains('=') && key(l) == key(line);
    let mut lines: Vec<&str> = DIRECTOR.lines().map(|l| if same(l) { line } else { l }).collect();
    if !DIRECTOR.lines().any(same) {
        lines.push(line);
    }
    format!("{}\n{VIP}{POOL}", lines.join("\n"))
}

/// Returns a file with a valid director in lines 1 to 6 and the rest from line 7 on.
fn with_rest(rest: &str) -> String {
    format!("{DIRECTOR}{rest}")
}

/// Returns all messages of one severity. Also asserts that there is a configuration if and only if there is no error.
fn messages(text: &str, severity: Severity) -> Vec<String> {
    let checked = read(text);
    let errors = checked.errors().count();
    assert_eq!(checked.config.is_some(), errors == 0, "{:#?}", checked.problems);
    checked.problems.iter().filter(|p| p.severity == severity).map(ToString::to_string).collect()
}

#[track_caller]
fn errors(text: &str, expected: &[&str]) {
    assert_eq!(messages(text, Severity::Error), expected, "in:\n{text}");
}

#[track_caller]
fn warnings(text: &str, expected: &[&str]) {
    errors(text, &[]);
    assert_eq!(messages(text, Severity::Warning), expected, "in:\n{text}");
}

fn good(text: &str) -> Config {
    errors(text, &[]);
    read(text).config.unwrap()
}

#[test]
fn the_sample_has_the_expected_values() {
    let config = good(SAMPLE);
    assert_eq!(config.director.name, "d1");
    assert_eq!(config.director.address, Addresses { v4: Some(Ipv4Addr::new(10, 0, 1, 11)), v6: None });
    assert_eq!(config.director.key, FleetKey::new([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]));
    assert_eq!(config.director.io, Io::Pcap { mac: [2, 0, 0, 0, 1, 0x11], mtu: 1500 });
    assert_eq!(config.director.routers, ["10.0.0.0/24".parse::<IpNet>().unwrap()]);
    assert_eq!(config.director.socket, PathBuf::from("/run/guideway/d1.sock"));
    assert_eq!((config.director.unmatched, config.director.icmp_echo), (Unmatched::Host, Echo::Forward));
    assert_eq!((config.director.flows, config.director.retire), (1_048_576, Duration::from_secs(600)));

    assert_eq!(config.vips.len(), 2);
    assert_eq!((&config.vips[0].service, config.vips[0].pool.as_str()), (&Service::Tftp { key: HashKey::Flow }, "boot"));
    assert_eq!((config.vips[0].idle, config.vips[0].paused), (Duration::from_secs(60), false));
    assert_eq!(config.vips[1].address, "192.0.2.53".parse::<IpAddr>().unwrap());
    assert_eq!(config.vips[1].service, Service::Udp { ports: vec![(53, 53)] });

    assert_eq!((config.pools[0].name.as_str(), config.pools[0].table_size), ("boot", 65_537));
    let t2 =
        Backend { name: "t2".into(), address: "10.0.2.22".parse().unwrap(), weight: 200, tid_range: Some((21_000, 21_999)), drain: false };
    assert_eq!((config.pools[0].backends.len(), &config.pools[0].backends[1]), (3, &t2));
    let n1 = Backend { name: "n1".into(), address: "10.0.2.31".parse().unwrap(), weight: 100, tid_range: None, drain: false };
    assert_eq!(config.pools[1].backends[0], n1);
    assert_eq!(config.neighbours, [Neighbour { address: "10.0.2.21".parse().unwrap(), mac: [2, 0, 0, 0, 2, 0x21] }]);
}

#[test]
fn every_error_of_a_file_is_reported_at_once() {
    let text = r#"[director]
name = "d 1"
address = ["10.0.1.11", "10.0.1.12"]
key = "0001"
io = { kind = "dpdk" }
flows = 10

[[vip]]
address = "224.0.0.1"
service = "tfpt"
pool = "bot"
idle = 60
poll = "boot"

[[pool]]
name = "boot"
table_size = 65536
backends = [
  { name = "t1", address = "10.0.2.21", tid_range = "20000-19000" },
  { name = "t1", address = "10.0.2.21", weight = 1001 },
]
[[neighbour]]
address = "10.0.2.21"
"#;
    errors(
        text,
        &[
            "line 2: director.name = \"d 1\": is not a valid name; a name has 1 to 63 characters of a-z, A-Z, 0-9, '-', '_' and '.'",
            "line 3: director.address[1] = \"10.0.1.12\": is a second IPv4 address; a director has at most one IPv4 and one IPv6 address",
            "line 4: director.key: has 4 characters; write 32 hex digits (16 bytes), the same on every director of the fleet",
            "line 5: director.io.kind = \"dpdk\": is not allowed. Allowed: \"af_xdp\", \"af_packet\", \"netmap\" or \"pcap\"",
            "line 6: director.flows = 10: is out of range; allowed: a number of flows, 1024 to 67108864",
            "line 9: vip[0].address = \"224.0.0.1\": is a multicast address; give the unicast address of one machine",
            "line 10: vip[0].service = \"tfpt\": is not a service; did you mean \"tftp\"? Allowed: \"tftp\", or a table such as { protocol = \"udp\", ports = [53] }",
            "line 11: vip[0].pool = \"bot\": is not a pool of this file; did you mean \"boot\"?",
            "line 12: vip[0].idle = 60: expected a duration in quotes, such as \"60s\", found an integer",
            "line 13: vip[0].poll: unknown key; did you mean \"pool\"? Known: address, service, pool, idle, paused, writes, clients, \
             admission",
            "line 17: pool.boot.table_size = 65536: is not prime, and the Maglev table needs a prime size; the next prime is 65537",
            "line 19: pool.boot.backends.t1.tid_range = \"20000-19000\": has a first port above the last; write the lower one first",
            "line 20: pool.boot.backends[1].name = \"t1\": is also the name of the backend in line 19; give each backend of a pool its own name",
            "line 20: pool.boot.backends.t1.address = \"10.0.2.21\": is also the address of t1 in line 19; give each backend of a pool its own address",
            "line 20: pool.boot.backends.t1.weight = 1001: is out of range; allowed: a weight, 0 to 1000",
            "line 22: neighbour[0].mac: is missing; example: mac = \"02:00:00:00:02:21\"",
        ],
    );
}

#[test]
fn a_problem_has_file_line_column_key_and_value() {
    let checked = read(&with_director("flows = 10"));
    let problem = checked.errors().next().unwrap();
    assert_eq!((problem.line, problem.column), (7, 9));
    assert_eq!(problem.in_file("boot.toml".as_ref()).to_string().split(": is").next(), Some("boot.toml:7: director.flows = 10"));

    let checked = read(&with_rest(&format!("{VIP}{}", POOL.replace("20000-20999", "80"))));
    let problem = checked.errors().next().unwrap();
    assert_eq!(problem.key, "pool[0].backends[0].tid_range");
    assert_eq!(problem.path, "pool.boot.backends.t1.tid_range");
    assert_eq!(problem.value.as_deref(), Some("\"80\""));
}

#[test]
fn control_characters_of_a_file_are_escaped() {
    let text = with_director("name = \"\\u001b[2J\\u0007\"");
    let all = messages(&text, Severity::Error).join("\n");
    assert!(all.contains(r#"director.name = "\u{1b}[2J\u{7}""#), "{all}");
    let text = format!("{DIRECTOR}\"\\u001b\" = 1\n");
    assert!(messages(&text, Severity::Error).join("\n").contains(r#"director."\u{1b}": unknown key"#));
}

/// A position in a text, a length to cut out there, and a text to insert.
fn mutation() -> impl Strategy<Value = (prop::sample::Index, usize, String)> {
    let pieces = prop::sample::select(vec![
        "[",
        "]",
        "{",
        "}",
        "=",
        "\"",
        "\n",
        ",",
        "0",
        "-",
        ".",
        "[[pool]]",
        "[[vip]]",
        "[vip]",
        "vip = 1\n",
        "\u{0}",
        "é",
        "'''",
        "nan",
        "1979-05-27",
        "true",
        "99999999999999999999",
        "-1",
        "\"tftp\"",
        "{ protocol = \"udp\", ports = [69, \"1-65535\"] }",
        "paused = ",
        "[[neighbour]]",
    ]);
    (any::<prop::sample::Index>(), 0..40usize, prop_oneof![pieces.prop_map(str::to_owned), ".{0,3}"])
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,200}") {
        messages(&text, Severity::Error);
    }

    #[test]
    fn any_toml_like_text_is_read_or_refused(text in "([a-z]{1,8}|\\[\\[?(vip|pool|director)\\]\\]?|[=\\[\\]{}\",.\n #0-9'-]){0,60}") {
        messages(&text, Severity::Error);
    }

    #[test]
    fn a_mutated_sample_is_read_or_refused(mutations in prop::collection::vec(mutation(), 1..4)) {
        let mut text: Vec<char> = SAMPLE.chars().collect();
        for (at, cut, put) in mutations {
            let start = at.index(text.len() + 1);
            let end = (start + cut).min(text.len());
            text.splice(start..end, put.chars());
        }
        messages(&text.into_iter().collect::<String>(), Severity::Error);
    }
}

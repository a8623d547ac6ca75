//! `[director]`

use super::*;

#[track_caller]
fn director(line: &str, expected: &str) {
    errors(&with_director(line), &[expected]);
}

#[test]
fn the_section_must_be_there() {
    errors("", &["line 1: director: is missing; example: [director]"]);
    errors("director = 1\n", &["line 1: director = 1: expected a table: [director], found an integer"]);
    errors(
        "# nothing\n\n[director]\n",
        &[
            "line 3: director.name: is missing; example: name = \"d1\"",
            "line 3: director.address: is missing; example: address = \"10.0.1.11\"",
            "line 3: director.key: is missing; example: key = \"…\" with 32 hex digits (openssl rand -hex 16)",
            "line 3: director.io: is missing; example: io = { kind = \"af_xdp\", interface = \"eth0\" }",
        ],
    );
}

#[test]
fn names() {
    for name in ["", "a b", "a/b", "ä", &"x".repeat(64)] {
        let found = messages(&with_director(&format!("name = \"{name}\"")), Severity::Error);
        assert_eq!(found.len(), 1, "{name}: {found:?}");
        assert!(found[0].ends_with("is not a valid name; a name has 1 to 63 characters of a-z, A-Z, 0-9, '-', '_' and '.'"), "{found:?}");
    }
    assert_eq!(good(&with_director(&format!("name = \"{}\"", "x".repeat(63)))).director.name.len(), 63);
    director("name = 7", "line 2: director.name = 7: expected a name in quotes, found an integer");
    director("name = 7.5", "line 2: director.name = 7.5: expected a name in quotes, found a number with a fraction");
    director("name = []", "line 2: director.name: expected a name in quotes, found a list");
    director("name = { a = 1 }", "line 2: director.name: expected a name in quotes, found a table");
    director("name = 1979-05-27", "line 2: director.name = 1979-05-27: expected a name in quotes, found a date or time");
}

#[test]
fn sources_of_gre() {
    let prefix = |text: &str| good(&with_director(text)).director.source_prefix.map(|prefix| prefix.to_string());
    assert_eq!(prefix("source_prefix = \"10.0.3.16/28\"").as_deref(), Some("10.0.3.16/28"));
    assert_eq!(prefix(""), None);
    for (text, expected) in [
        ("\"10.0.3.1\"", "has length 32; allowed: /8 to /31, such as /28 for 16 sources"),
        ("\"10.0.0.0/7\"", "has length 7; allowed: /8 to /31, such as /28 for 16 sources"),
        ("\"10.0.3.17/28\"", "has bits beyond its prefix length; write 10.0.3.16/28"),
        ("\"2001:db8::/64\"", "is an IPv6 prefix; GRE over IPv6 needs none, because its flow label differs by client"),
        ("\"x\"", "is neither a prefix nor an address; write it like 10.0.0.0/24, 2001:db8::/64 or 10.0.0.1"),
    ] {
        director(&format!("source_prefix = {text}"), &format!("line 7: director.source_prefix = {text}: {expected}"));
    }
    director(
        "source_prefix = 28",
        "line 7: director.source_prefix = 28: expected an IPv4 prefix in quotes, such as \"10.0.1.16/28\", found an integer",
    );
    director(
        "source_prefix = \"10.0.2.16/28\"",
        "line 7: director.source_prefix = \"10.0.2.16/28\": contains 10.0.2.21, the address of a backend (line 14); choose a prefix that only this director has",
    );
    director(
        "source_prefix = \"192.0.2.64/28\"",
        "line 7: director.source_prefix = \"192.0.2.64/28\": contains 192.0.2.69, the address of a VIP (line 9); choose a prefix that only this director has",
    );
    let without_v4 = with_director("source_prefix = \"10.0.3.16/28\"").replace("\"10.0.1.11\"", "\"2001:db8::11\"");
    let found = messages(&without_v4, Severity::Error);
    let expected = "line 7: director.source_prefix = \"10.0.3.16/28\": has no effect: director.address has no IPv4 address, so no GRE leaves over IPv4; remove this key or add the address";
    assert!(found.iter().any(|found| found == expected), "{found:#?}");
}

#[test]
fn addresses() {
    for (line, expected) in [
        ("address = \"10.0.1\"", " = \"10.0.1\": is not an IP address; write it like 10.0.1.11 or 2001:db8::11"),
        ("address = \"10.0.1.1/24\"", " = \"10.0.1.1/24\": is a prefix; give an address without a prefix length"),
        ("address = \"0.0.0.0\"", " = \"0.0.0.0\": is the unspecified address; give the unicast address of one machine"),
        ("address = \"::\"", " = \"::\": is the unspecified address; give the unicast address of one machine"),
        ("address = \"127.0.0.1\"", " = \"127.0.0.1\": is a loopback address; give the unicast address of one machine"),
        ("address = \"ff02::1\"", " = \"ff02::1\": is a multicast address; give the unicast address of one machine"),
        ("address = \"255.255.255.255\"", " = \"255.255.255.255\": is the broadcast address; give the unicast address of one machine"),
        (
            "address = \"::ffff:10.0.0.1\"",
            " = \"::ffff:10.0.0.1\": is an IPv4 address in IPv6 form (write it as IPv4); give the unicast address of one machine",
        ),
        ("address = []", ": is an empty list; give one IPv4 address, one IPv6 address, or one of each"),
        ("address = 1", " = 1: expected an address in quotes, or a list of at most one IPv4 and one IPv6 address, found an integer"),
        (
            "address = [\"10.0.0.9\", \"2001:db8::1\", \"2001:db8::2\"]",
            "[2] = \"2001:db8::2\": is a second IPv6 address; a director has at most one IPv4 and one IPv6 address",
        ),
        (
            "address = [\"10.0.0.9\", true]",
            "[1] = true: expected an address in quotes, or a list of at most one IPv4 and one IPv6 address, found a boolean",
        ),
    ] {
        director(line, &format!("line 3: director.address{expected}"));
    }
    let both = good(&with_director("address = [\"2001:db8::1\", \"10.0.1.11\"]")).director.address;
    assert_eq!(both, Addresses { v4: Some(Ipv4Addr::new(10, 0, 1, 11)), v6: Some("2001:db8::1".parse().unwrap()) });
}

#[test]
fn the_fleet_key_is_never_shown() {
    let secret = "5ec2e75ec2e75ec2e75ec2e75ec2e75e";
    for (line, expected) in [
        (format!("key = \"{}\"", &secret[..31]), "has 31 characters"),
        (format!("key = \"{}ä\"", &secret[..31]), "has a character that is not a hex digit"),
        (format!("key = [\"{secret}\"]"), "expected 32 hex digits in quotes, found a list"),
        (format!("key = {secret}"), "this is not TOML"),
        ("key = 5222075".to_owned(), "expected 32 hex digits in quotes, found an integer"),
        (format!("key = \"{secret}"), "this is not TOML"),
        (format!("kye = \"{secret}\""), "unknown key; did you mean \"key\"?"),
        (format!("key = \"{secret}\"\nkey = \"{secret}\""), "is already set in the same table"),
    ] {
        let text = with_director(&line);
        let found = format!("{:?}{}", read(&text), messages(&text, Severity::Error).join("\n"));
        assert!(found.contains(expected), "{line}: {found}");
        assert!(!found.contains("5ec2e7") && !found.contains("5222075"), "{line}: {found}");
    }
    assert_eq!(good(&with_director("key = \"000102030405060708090A0B0C0D0E0F\"")).director.key, good(SAMPLE).director.key);
}

#[test]
fn kinds_of_io() {
    for (line, expected) in [
        ("io = \"af_xdp\"", " = \"af_xdp\": expected a table such as { kind = \"af_xdp\", interface = \"eth0\" }, found a string"),
        ("io = {}", ".kind: is missing; example: kind = \"af_xdp\""),
        (
            "io = { kind = \"afxdp\" }",
            ".kind = \"afxdp\": is not allowed; did you mean \"af_xdp\"? Allowed: \"af_xdp\", \"af_packet\", \"netmap\" or \"pcap\"",
        ),
        ("io = { kind = \"dpdk\" }", ".kind = \"dpdk\": is not allowed. Allowed: \"af_xdp\", \"af_packet\", \"netmap\" or \"pcap\""),
        (
            "io = { kind = \"netmap\", interface = \"eth0\", workers = 2 }",
            ".workers: unknown key. Known: kind, interface, cpus, rings, host_rings",
        ),
        (
            "io = { kind = \"netmap\", interface = \"eth0\", rings = \"vale0:1\" }",
            ".rings = \"vale0:1\": needs `host_rings`, the netmap port that leads to the interface's own stack: give both or neither",
        ),
        (
            "io = { kind = \"netmap\", interface = \"eth0\", host_rings = \"netmap:sw\" }",
            ".host_rings = \"netmap:sw\": needs `rings`, the netmap port that packets enter and leave by: give both or neither",
        ),
        (
            "io = { kind = \"netmap\", interface = \"eth0\", rings = \"netmap:x{\", host_rings = \"netmap:sw\" }",
            ".rings = \"netmap:x{\": is not a netmap port: `x{` is no pipe: after `{` (one end) or `}` (the other) comes a number, 0 to 4095, and nothing else",
        ),
        ("io = { kind = \"af_xdp\" }", ".interface: is missing; example: interface = \"eth0\""),
        (
            "io = { kind = \"af_xdp\", interface = \"a-name-too-long!\" }",
            ".interface = \"a-name-too-long!\": is not an interface name; such a name has 1 to 15 characters, no space, '/' or ':'",
        ),
        ("io = { kind = \"af_xdp\", interface = \"eth0\", workers = 2 }", ".workers: unknown key. Known: kind, interface, cpus"),
        (
            "io = { kind = \"af_packet\", interface = \"eth0\", workers = 65 }",
            ".workers = 65: is out of range; allowed: a number of workers, 1 to 64",
        ),
        (
            "io = { kind = \"af_packet\", interface = \"eth0\", cpus = 1 }",
            ".cpus = 1: expected a list of CPU numbers, such as [2, 3], found an integer",
        ),
        (
            "io = { kind = \"af_packet\", interface = \"eth0\", cpus = [0, -1] }",
            ".cpus[1] = -1: is out of range; allowed: a CPU number, 0 to 1023",
        ),
        ("io = { kind = \"pcap\" }", ".mac: is missing; example: mac = \"02:00:00:00:01:11\""),
        ("io = { kind = \"pcap\", mac = \"02:00:00:00:01:11\", mtu = 1279 }", ".mtu = 1279: is out of range; allowed: bytes, 1280 to 9216"),
    ] {
        director(line, &format!("line 5: director.io{expected}"));
    }
    let io = |line| good(&with_director(line)).director.io;
    assert_eq!(
        io("io = { kind = \"af_xdp\", interface = \"eth0\", cpus = [2, 3] }"),
        Io::AfXdp { interface: "eth0".into(), cpus: vec![2, 3] }
    );
    assert_eq!(
        io("io = { kind = \"netmap\", interface = \"eth0\", cpus = [1] }"),
        Io::Netmap { interface: "eth0".into(), netmap_ports: None, cpus: vec![1] }
    );
    let netmap_ports = NetmapPorts { rings: "vale0:gw".parse().unwrap(), host_rings: "netmap:sw".parse().unwrap() };
    assert_eq!(
        io("io = { kind = \"netmap\", interface = \"eth0\", rings = \"vale0:gw\", host_rings = \"netmap:sw\" }"),
        Io::Netmap { interface: "eth0".into(), netmap_ports: Some(netmap_ports), cpus: vec![] }
    );
    assert_eq!(
        io("io = { kind = \"af_packet\", interface = \"veth-0123456789\", workers = 4 }"),
        Io::AfPacket { interface: "veth-0123456789".into(), workers: 4, cpus: vec![] }
    );
    assert_eq!(
        io("io = { kind = \"pcap\", mac = \"02:00:00:00:0A:0f\", mtu = 0x2400 }"),
        Io::Pcap { mac: [2, 0, 0, 0, 10, 15], mtu: 9216 }
    );
}

#[test]
fn link_layer_addresses() {
    let error = "is not a link-layer address; write six pairs of hex digits with colons, like 02:00:00:00:01:11";
    for (mac, expected) in [
        ("", error),
        ("02:00:00:00:01", error),
        ("02:00:00:00:01:11:22", error),
        ("02-00-00-00-01-11", error),
        ("2:0:0:0:1:11", error),
        ("02:00:00:00:01:1g", error),
        ("02:00:00:00:01:+1", error),
        ("00:00:00:00:00:00", "is the zero address; give the link-layer address of one interface"),
        (
            "ff:ff:ff:ff:ff:ff",
            "is a multicast address (the lowest bit of its first byte is set); give the link-layer address of one interface",
        ),
    ] {
        director(&format!("io = {{ kind = \"pcap\", mac = \"{mac}\" }}"), &format!("line 5: director.io.mac = \"{mac}\": {expected}"));
    }
}

#[test]
fn routers() {
    director(
        "routers = \"10.0.0.0/24\"",
        "line 6: director.routers = \"10.0.0.0/24\": expected a list of prefixes and addresses, such as [\"10.0.0.0/24\"], found a string",
    );
    director(
        "routers = [\"10.0.0.0/33\"]",
        "line 6: director.routers[0] = \"10.0.0.0/33\": is neither a prefix nor an address; write it like 10.0.0.0/24, 2001:db8::/64 or 10.0.0.1",
    );
    let plain = good(&with_director("routers = [\"10.0.0.1\", \"10.0.0.7/24\"]")).director.routers;
    assert_eq!(plain, ["10.0.0.1/32".parse::<IpNet>().unwrap(), "10.0.0.0/24".parse::<IpNet>().unwrap()]);
}

#[test]
fn remote_site() {
    let remote_sites = |text: &str| good(&with_director(text)).director.remote_site;
    assert_eq!(remote_sites("remote_site = [\"10.9.1.11\", \"10.9.1.12\"]").len(), 2);
    assert!(remote_sites("remote_site = []").is_empty());
    for (list, at, error) in [
        ("\"10.9.1.11\"", "", " = \"10.9.1.11\": expected a list of addresses, such as [\"10.9.1.11\"], found a string"),
        ("[\"10.9.1.11\", \"10.9.1.11\"]", "[1]", " = \"10.9.1.11\": is in this list twice; remove one of them"),
        (
            "[\"10.0.1.11\"]",
            "[0]",
            " = \"10.0.1.11\": is an address of this director (line 3); directors of the remote site must be other machines",
        ),
        ("[\"10.0.2.21\"]", "[0]", " = \"10.0.2.21\": is the address of backend t1 (line 14); name directors of the remote site only"),
        ("[\"192.0.2.69\"]", "[0]", " = \"192.0.2.69\": is a VIP (line 9); name the directors' own addresses"),
        (
            "[\"2001:db8::9\"]",
            "[0]",
            " = \"2001:db8::9\": is an IPv6 address, but director.address has no IPv6 address to send from; add one",
        ),
    ] {
        director(&format!("remote_site = {list}"), &format!("line 7: director.remote_site{at}{error}"));
    }
    let many: Vec<String> = (0..257).map(|n| format!("\"10.9.{}.{}\"", n / 250, n % 250 + 1)).collect();
    let found = messages(&with_director(&format!("remote_site = [{}]", many.join(", "))), Severity::Error);
    assert!(found.len() == 1 && found[0].ends_with("names 257 addresses; at most 256 are allowed"), "{found:?}");
}

#[test]
fn fleet() {
    assert_eq!(good(&with_director("fleet = [\"10.0.1.11\", \"10.0.1.12\"]")).director.fleet.len(), 2);
    assert!(good(&with_director("fleet = []")).director.fleet.is_empty());
    for (list, at, error) in [
        ("\"10.0.1.11\"", "", " = \"10.0.1.11\": expected a list of addresses, such as [\"10.0.1.11\", \"10.0.1.12\"], found a string"),
        (
            "[\"10.0.1.12\"]",
            "",
            ": lacks this director (director.address, line 3); name one address of every director, the same list on all",
        ),
        ("[\"10.0.1.11\", \"192.0.2.69\"]", "[1]", " = \"192.0.2.69\": is a VIP (line 9); name the directors' own addresses"),
        (
            "[\"10.0.1.11\", \"2001:db8::9\"]",
            "[1]",
            " = \"2001:db8::9\": is an IPv6 address, but director.address has no IPv6 address to send from; add one",
        ),
    ] {
        director(&format!("fleet = {list}"), &format!("line 7: director.fleet{at}{error}"));
    }
    director(
        "remote_site = [\"10.9.1.11\"]\nfleet = [\"10.0.1.11\", \"10.9.1.11\"]",
        "line 8: director.fleet[1] = \"10.9.1.11\": is also in remote_site (line 7); the directors there are another fleet",
    );
    let both = "fleet = [\"10.0.1.11\", \"2001:db8:1::11\"]";
    let two = with_director(both).replace("address = \"10.0.1.11\"", "address = [\"10.0.1.11\", \"2001:db8:1::11\"]");
    errors(
        &two,
        &["line 7: director.fleet[1] = \"2001:db8:1::11\": is a second address of this director; name one address of every director"],
    );
}

#[test]
fn other_keys() {
    director(
        "socket = \"d1.sock\"",
        "line 7: director.socket = \"d1.sock\": is not a socket path; write an absolute path such as \"/run/guideway/d1.sock\"",
    );
    director(
        &format!("socket = \"/{}\"", "x".repeat(107)),
        &format!("line 7: director.socket = \"/{}…\": has 108 bytes; the path of a socket has at most 107", "x".repeat(59)),
    );
    director(
        "unmatched = \"hots\"",
        "line 7: director.unmatched = \"hots\": is not allowed; did you mean \"host\"? Allowed: \"host\" or \"drop\"",
    );
    director("unmatched = true", "line 7: director.unmatched = true: expected \"host\" or \"drop\", found a boolean");
    director(
        "icmp_echo = \"Answer\"",
        "line 7: director.icmp_echo = \"Answer\": is not allowed; did you mean \"answer\"? Allowed: \"forward\", \"answer\" or \"drop\"",
    );
    for flows in ["1023", "67108865", "-1", "99999999999999999999999"] {
        director(
            &format!("flows = {flows}"),
            &format!("line 7: director.flows = {flows}: is out of range; allowed: a number of flows, 1024 to 67108864"),
        );
    }
    director("retire = \"25h\"", "line 7: director.retire = \"25h\": is out of range; allowed: 0s to 24h");
    director(
        "retire = \"10\"",
        "line 7: director.retire = \"10\": lacks a known unit; write ms, s, m or h after every number, such as \"60s\"",
    );
    for steering in ["1", "65"] {
        director(
            &format!("steering = {steering}"),
            &format!("line 7: director.steering = {steering}: is out of range; allowed: a number of workers, 2 to 64"),
        );
    }
    director(
        "cluster = \"x\"",
        "line 7: director.cluster: unknown key. Known: name, address, source_prefix, key, next_key, io, routers, remote_site, fleet, socket, metrics, unmatched, icmp_echo, flows, retire, steering, mark",
    );
    let config =
        good(&with_director("socket = \"/tmp/d.sock\"\nunmatched = \"drop\"\nicmp_echo = \"answer\"\nflows = 1_024\nretire = \"0s\""))
            .director;
    assert_eq!(config.metrics, None, "never open by default");
    let scraped = good(&with_director("metrics = \"127.0.0.1:9068\""));
    assert_eq!(scraped.director.metrics, Some("127.0.0.1:9068".parse().unwrap()));
    assert_eq!(config.socket, PathBuf::from("/tmp/d.sock"));
    assert_eq!((config.unmatched, config.icmp_echo, config.flows, config.retire), (Unmatched::Drop, Echo::Answer, 1024, Duration::ZERO));
}

#[test]
fn steering_conflicts_with_workers_and_pcap() {
    let with = |io: &str| format!("io = {{ kind = {io} }}\nsteering = 4");
    director(
        &with("\"af_packet\", interface = \"eth0\", workers = 2"),
        "line 6: director.steering = 4: conflicts with io.workers = 2; steering creates the workers: remove `workers`",
    );
    director(
        &with("\"pcap\", mac = \"02:00:00:00:01:11\""),
        "line 6: director.steering = 4: conflicts with io.kind = \"pcap\"; a replay has one worker: remove `steering`",
    );
    assert_eq!(good(&with_director(&with("\"af_packet\", interface = \"eth0\""))).director.steering, 4);
    assert_eq!(good(&with_director("flows = 1024")).director.steering, 0);
}

#[test]
fn neighbours() {
    let rest = |neighbours: &str| with_rest(&format!("{neighbours}{VIP}{POOL}"));
    let one = "[[neighbour]]\naddress = \"10.0.2.21\"\nmac = \"02:00:00:00:02:21\"\n";
    errors(&rest(&one.repeat(2)), &["line 11: neighbour[1].address = \"10.0.2.21\": already has an entry in line 8; keep one of them"]);
    errors(
        &rest("[[neighbour]]\nadress = \"10.0.2.21\"\nmac = 1\n"),
        &[
            "line 7: neighbour[0].address: is missing; example: address = \"10.0.2.21\"",
            "line 8: neighbour[0].adress: unknown key; did you mean \"address\"? Known: address, mac",
            "line 9: neighbour[0].mac = 1: expected a link-layer address in quotes, found an integer",
        ],
    );
    errors(
        &rest("[neighbour]\naddress = \"10.0.2.21\"\nmac = \"02:00:00:00:02:21\"\n"),
        &["line 7: neighbour: is a list: write [[neighbour]], in two brackets, not [neighbour]"],
    );
    errors(
        &rest("[[neighbor]]\n"),
        &[
            "line 7: neighbor: unknown key; did you mean \"neighbour\"? Known: director, active_key, vip, pool, neighbour, announce, store, api",
        ],
    );
}

//! `[[vip]]` and its services.

use super::*;

/// Returns a file with `[[vip]]` in line 7 whose service is in line 9.
fn with_service(service: &str) -> String {
    with_rest(&format!("[[vip]]\naddress = \"192.0.2.69\"\nservice = {service}\npool = \"boot\"\n{POOL}"))
}

/// Returns a file with two services on the same VIP, in lines 9 and 13.
fn with_services(one: &str, two: &str) -> String {
    let vip = |service| format!("[[vip]]\naddress = \"192.0.2.69\"\nservice = {service}\npool = \"boot\"\n");
    with_rest(&format!("{}{}{POOL}", vip(one), vip(two)))
}

#[test]
fn services() {
    for (service, expected) in [
        ("\"udp\"", " = \"udp\": has no ports; write { protocol = \"udp\", ports = [53] }"),
        ("\"http\"", " = \"http\": is not a service. Allowed: \"tftp\", or a table such as { protocol = \"udp\", ports = [53] }"),
        ("69", " = 69: expected \"tftp\", or a table such as { protocol = \"udp\", ports = [53] }, found an integer"),
        ("{}", ".protocol: is missing; example: protocol = \"udp\""),
        ("{ protocol = \"sctp\", ports = [1] }", ".protocol = \"sctp\": is not allowed. Allowed: \"tftp\", \"udp\" or \"tcp\""),
        ("{ protocol = \"udp\" }", ".ports: is missing; example: ports = [53, \"8000-8100\"]"),
        ("{ protocol = \"udp\", ports = [] }", ".ports: is an empty list; name at least one port, such as [53]"),
        (
            "{ protocol = \"udp\", ports = 53 }",
            ".ports = 53: expected a list of ports and ranges, such as [53, \"8000-8100\"], found an integer",
        ),
        ("{ protocol = \"udp\", ports = [0] }", ".ports[0] = 0: is out of range; allowed: a port, 1 to 65535"),
        ("{ protocol = \"tcp\", ports = [1, 65536] }", ".ports[1] = 65536: is out of range; allowed: a port, 1 to 65535"),
        ("{ protocol = \"tcp\", ports = [\"1-70000\"] }", ".ports[0] = \"1-70000\": is out of range; allowed: ports 1 to 65535"),
        (
            "{ protocol = \"tcp\", ports = [\"http\"] }",
            ".ports[0] = \"http\": is not a port range; write it like \"20000-20999\", both included, or \"20000\" for one port",
        ),
        ("{ protocol = \"tcp\", ports = [\"9-8\"] }", ".ports[0] = \"9-8\": has a first port above the last; write the lower one first"),
        (
            "{ protocol = \"tcp\", ports = [1.5] }",
            ".ports[0] = 1.5: expected a port, or a range of ports in quotes such as \"20000-20999\", found a number with a fraction",
        ),
        (
            "{ protocol = \"tcp\", ports = [80], key = \"client\" }",
            ".key = \"client\": is only for a tftp service; udp and tcp choose by both addresses and both ports; remove it",
        ),
        (
            "{ protocol = \"tftp\", ports = [69] }",
            ".ports: is not for a tftp service, which has port 69 and every port from 1024 on; remove it",
        ),
        (
            "{ protocol = \"tftp\", key = \"clients\" }",
            ".key = \"clients\": is not allowed; did you mean \"client\"? Allowed: \"flow\" or \"client\"",
        ),
        ("{ protocol = \"tftp\", kye = \"client\" }", ".kye: unknown key; did you mean \"key\"? Known: protocol, key, ports"),
    ] {
        errors(&with_service(service), &[&format!("line 9: vip[0].service{expected}")]);
    }
    let service = |text| good(&with_service(text)).vips.remove(0).service;
    assert_eq!(service("{ protocol = \"tftp\" }"), Service::Tftp { key: HashKey::Flow });
    assert_eq!(service("{ protocol = \"tftp\", key = \"client\" }"), Service::Tftp { key: HashKey::Client });
    assert_eq!(service("{ protocol = \"udp\", ports = [53, \"123\"] }"), Service::Udp { ports: vec![(53, 53), (123, 123)] });
}

#[test]
fn ports_come_out_sorted_and_disjoint() {
    let text = with_service("{ protocol = \"tcp\", ports = [\"8000-8100\", 22, 8101, \"65534-65535\", \"8050 - 8060\", 8100, 23] }");
    assert_eq!(good(&text).vips[0].service, Service::Tcp { ports: vec![(22, 23), (8000, 8101), (65534, 65535)] });
    let twice: Vec<_> = messages(&text, Severity::Warning).into_iter().filter(|w| w.contains("this list")).collect();
    assert_eq!(
        twice,
        [
            "line 9: warning: vip[0].service.ports[4] = \"8050 - 8060\": repeats ports of this list",
            "line 9: warning: vip[0].service.ports[5] = 8100: repeats ports of this list",
        ]
    );
}

#[test]
fn a_port_belongs_to_one_service_of_a_vip() {
    let first = "{ protocol = \"udp\", ports = [53, \"500-600\"] }";
    errors(
        &with_services(first, "{ protocol = \"udp\", ports = [\"550-700\"] }"),
        &[
            "line 13: vip[1].service: claims udp port 550-600, which the service in line 9 of the same VIP already has; give each port to one service",
        ],
    );
    errors(
        &with_services(first, "{ protocol = \"udp\", ports = [\"50-60\"] }"),
        &[
            "line 13: vip[1].service: claims udp port 53, which the service in line 9 of the same VIP already has; give each port to one service",
        ],
    );
    errors(&with_services(first, "{ protocol = \"tcp\", ports = [53] }"), &[]);
    errors(&with_services(first, "{ protocol = \"udp\", ports = [\"54-499\"] }"), &[]);
    errors(&with_services(first, "{ protocol = \"udp\", ports = [53] }").replacen("192.0.2.69", "192.0.2.70", 1), &[]);
    errors(
        &with_services("\"tftp\"", "{ protocol = \"tftp\", key = \"client\" }"),
        &["line 13: vip[1].service: is a second tftp service of this VIP; the first is in line 9"],
    );
}

#[test]
fn an_exact_udp_port_may_not_take_what_transfers_need() {
    errors(
        &with_services("{ protocol = \"udp\", ports = [53, 69] }", "\"tftp\""),
        &[
            "line 9: vip[0].service.ports[1] = 69: takes udp port 69, which the tftp service of the same VIP (line 13) needs for its requests: an exact port wins, and no transfer could start; use another port or another VIP",
        ],
    );
    let stolen = "lies in the TID range 20000-20999 of t1, whose transfers reach the same VIP (line 13): an exact port wins and would take their packets; use ports outside of all TID ranges of the pool, or another VIP";
    for ports in ["20000", "20999", "\"19000-20000\"", "\"20999-30000\"", "\"20100-20200\"", "\"1024-65535\""] {
        errors(
            &with_services(&format!("{{ protocol = \"udp\", ports = [{ports}] }}"), "\"tftp\""),
            &[&format!("line 9: vip[0].service.ports[0] = {ports}: {stolen}")],
        );
    }
    for fine in ["{ protocol = \"udp\", ports = [19999, 21000] }", "{ protocol = \"tcp\", ports = [69, 20000] }"] {
        errors(&with_services(fine, "\"tftp\""), &[]);
    }
}

#[test]
fn other_keys() {
    let vip = |line: &str| with_rest(&format!("{VIP}{line}\n{POOL}"));
    errors(
        &with_rest(&format!("[[vip]]\n{POOL}")),
        &[
            "line 7: vip[0].address: is missing; example: address = \"192.0.2.69\"",
            "line 7: vip[0].service: is missing; example: service = \"tftp\"",
            "line 7: vip[0].pool: is missing; example: pool = \"boot\"",
        ],
    );
    errors(&vip("idle = \"999ms\""), &["line 11: vip[0].idle = \"999ms\": is out of range; allowed: 1s to 12h"]);
    errors(&vip("idle = \"12h1ms\""), &["line 11: vip[0].idle = \"12h1ms\": is out of range; allowed: 1s to 12h"]);
    errors(&vip("paused = \"yes\""), &["line 11: vip[0].paused = \"yes\": expected true or false, found a string"]);
    errors(
        &with_rest(&format!("{}{POOL}", VIP.replace("\"boot\"", "\"dns\""))),
        &["line 10: vip[0].pool = \"dns\": is not a pool of this file; write a [[pool]] of this name"],
    );
    errors(
        &with_rest(&format!("{}{POOL}", VIP.replace("[[vip]]", "[vip]"))),
        &["line 7: vip: is a list: write [[vip]], in two brackets, not [vip]"],
    );
    let config = good(&vip("idle = \"1m30s\"\npaused = true"));
    assert_eq!((config.vips[0].idle, config.vips[0].paused), (Duration::from_secs(90), true));
}

#[test]
fn a_vip_must_not_be_a_machine() {
    let vip = |address: &str| with_rest(&format!("{}{POOL}", VIP.replace("192.0.2.69", address)));
    errors(
        &vip("10.0.1.11"),
        &["line 8: vip[0].address = \"10.0.1.11\": is the director's own address (line 3); a VIP must not be the address of a machine"],
    );
    errors(
        &vip("10.0.2.21"),
        &["line 8: vip[0].address = \"10.0.2.21\": is the address of backend t1 (line 13); a VIP must not be the address of a machine"],
    );
}

//! Warnings.

use super::*;

#[test]
fn a_valid_file_with_tid_ranges_has_no_warnings() {
    warnings(&with_rest(&format!("{VIP}{POOL}")), &[]);
}

#[test]
fn transfers_may_move_without_tid_ranges() {
    let text = with_rest(&format!("{VIP}{}", POOL.replace(", tid_range = \"20000-20999\"", "")));
    warnings(
        &text,
        &[
            "line 10: warning: vip[0].pool = \"boot\": has no TID ranges (line 11), so a running transfer may move to another server. When backends, weights or health change, or when routers then send its packets to another director, the Maglev table may choose another server, unless the flow table of that director has the flow. Requests that a server leaves unanswered are not sent to another server, because another director could not know where their transfers are. This applies to servers on random ports and to single-port servers. To keep transfers on their servers, give every backend a tid_range and its server the same ports (in.tftpd --port-range, dnsmasq --tftp-port-range)",
        ],
    );
    let beside = text.replace(
        "[[vip]]",
        "[[vip]]\naddress = \"192.0.2.69\"\nservice = { protocol = \"udp\", ports = [53, 5353] }\npool = \"boot\"\n[[vip]]",
    );
    let found = messages(&beside, Severity::Warning);
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!(
        found[0],
        "line 9: warning: vip[0].service.ports[1] = 5353: takes packets of the tftp service (line 13) when a server chooses this port for a transfer: its pool has no TID ranges to prevent that"
    );
}

#[test]
fn routers_beside_a_server_of_this_host() {
    let text = with_rest(&format!("{VIP}{}", POOL.replace("10.0.2.21", "10.0.1.11")));
    let found = messages(&text, Severity::Warning);
    assert!(found.len() == 1 && found[0].contains("director.routers[0] = \"10.0.0.0/24\": must hold no health controller"), "{found:?}");
    warnings(&text.replace("10.0.0.0/24", "10.0.0.1"), &[]);
}

#[test]
fn routers() {
    let no_routers = "warning: director.routers: is empty: the director refuses all GRE and accepts plain ingress only; add the prefixes of your routers, such as [\"10.0.0.0/24\"]";
    warnings(&with_director("routers = []"), &[&format!("line 1: {no_routers}")]);
    warnings(
        &with_director("routers = [\"10.0.0.0/24\"]").replace("routers = [\"10.0.0.0/24\"]\n", ""),
        &[&format!("line 1: {no_routers}")],
    );
    warnings(
        &with_director("routers = [\"0.0.0.0/0\", \"10.0.0.7/24\", \"2001:db8::1\"]"),
        &[
            "line 6: warning: director.routers[0] = \"0.0.0.0/0\": accepts GRE from every address; name only the prefixes of your routers",
            "line 6: warning: director.routers[1] = \"10.0.0.7/24\": has bits beyond its prefix length; 10.0.0.0/24 is used",
            "line 6: warning: director.routers[2] = \"2001:db8::1\": cannot send GRE to this director: director.address has no IPv6 address",
        ],
    );
}

#[test]
fn parts_without_effect() {
    warnings(DIRECTOR, &["line 1: warning: vip: is missing: a director without a VIP forwards nothing"]);
    let spare = POOL.replace("boot", "spare");
    warnings(&with_rest(&format!("{VIP}{POOL}{spare}")), &["line 14: warning: pool.spare: is used by no [[vip]]"]);
    warnings(
        &with_rest(&format!("{VIP}[[pool]]\nname = \"boot\"\nbackends = []\n")),
        &["line 11: warning: pool.boot.backends: is empty: every packet for this pool is dropped with reason no_backend"],
    );
    let elsewhere = with_director("remote_site = [\"10.9.1.11\"]").replace(POOL, "[[pool]]\nname = \"boot\"\nbackends = []\n");
    warnings(&elsewhere, &["line 12: warning: pool.boot.backends: is empty: every packet for this pool goes to the remote site"]);
    let held = with_director("remote_site = [\"10.9.1.11\"]");
    let floor = "has a check with min_healthy = 50 (default 50): this percentage of its backends never counts as down, so requests never go to director.remote_site, even when all backends are down; set min_healthy = 0 in the check";
    let check = |more: &str| held.replace("name = \"boot\"\n", &format!("name = \"boot\"\ncheck = {{ kind = \"icmp\"{more} }}\n"));
    let no_store = "line 14: warning: pool.boot.check: has no effect on this director: without [store] no health controller can tell it what it sees, and every backend counts as up; move the pools into a store (guideway store import)";
    warnings(&check(""), &[&format!("line 12: warning: pool.boot: {floor}"), no_store]);
    warnings(&check(", min_healthy = 0"), &[no_store]);
    warnings(&held, &[]);
    let no_routers = held.replace("routers = [\"10.0.0.0/24\"]\n", "");
    warnings(&no_routers, &[]);
    warnings(
        &with_rest(&format!("{VIP}{}", POOL.replace("tid_range", "weight = 0, tid_range"))),
        &[
            "line 11: warning: pool.boot.backends: all have weight 0 or `drain = true`: no new flow gets a backend, and every packet of a new flow is dropped with reason no_backend",
        ],
    );
    warnings(
        &with_rest(&format!("{}{POOL}", VIP.replace("\"tftp\"", "{ protocol = \"udp\", ports = [53] }"))),
        &[
            "line 13: warning: pool.boot.backends.t1.tid_range = \"20000-20999\": has no effect: no tftp service uses this pool, and only TFTP transfers have TIDs",
        ],
    );
}

#[test]
fn static_neighbours() {
    let neighbour = "[[neighbour]]\naddress = \"10.0.2.21\"\nmac = \"02:00:00:00:02:21\"\n";
    let text = with_rest(&format!("{VIP}{POOL}{neighbour}"));
    warnings(
        &text,
        &[
            "line 14: warning: neighbour[0]: overrides the kernel's entry for this address and is never updated; static neighbours are for replay and tests",
        ],
    );
    let replay = |text: &str| text.replace("\"af_xdp\", interface = \"eth0\"", "\"pcap\", mac = \"02:00:00:00:01:11\"");
    warnings(&replay(&text), &[]);
    warnings(
        SAMPLE,
        &[
            "line 18: warning: pool.boot.backends: 2 of these have no [[neighbour]], and io pcap has no other source of link-layer addresses: packets for t2, t3 are dropped with reason neighbour_unresolved",
            "line 26: warning: pool.dns.backends: 2 of these have no [[neighbour]], and io pcap has no other source of link-layer addresses: packets for n1, n2 are dropped with reason neighbour_unresolved",
        ],
    );
}

#[test]
fn a_check_of_one_vip_of_several() {
    let second = VIP.replace("192.0.2.69", "192.0.2.70");
    let warnings = |check: &str| {
        let pool = POOL.replace("name = \"boot\"\n", &format!("name = \"boot\"\ncheck = {{ kind = {check} }}\n"));
        let checked = read_intent(&format!("{VIP}{second}{pool}"));
        assert_eq!(checked.errors().count(), 0, "{:?}", checked.problems);
        checked.warnings().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(
        warnings("\"tftp\", file = \"canary\""),
        [
            "line 11: warning: pool.boot.check: reads from 192.0.2.69 only; backends that do not serve 192.0.2.70 count as up; set `vip` to say that this is meant"
        ]
    );
    assert!(warnings("\"tftp\", file = \"canary\", vip = \"192.0.2.70\"").is_empty());
    assert!(warnings("\"icmp\"").is_empty());
}

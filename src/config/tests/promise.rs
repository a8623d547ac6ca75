//! Warnings.

use super::*;

#[test]
fn a_good_file_with_tid_ranges_promises_everything() {
    warnings(&with_rest(&format!("{VIP}{POOL}")), &[]);
}

#[test]
fn transfers_may_move_without_tid_ranges() {
    let text = with_rest(&format!("{VIP}{}", POOL.replace(", tid_range = \"20000-20999\"", "")));
    warnings(
        &text,
        &[
            "line 10: warning: vip[0].pool = \"boot\": has no TID ranges (line 11), so it is not promised that a running transfer stays with its server: when backends, weights or health change, or when routers send its packets to another director after such a change, the table may choose another server for them, unless the flow table of the director that they reach knows the flow. This holds for servers on random ports and for single-port servers alike. Give every backend a tid_range and its server the same ports (in.tftpd --port-range, dnsmasq --tftp-port-range) and transfers stay",
        ],
    );
    let beside = text.replace(
        "[[vip]]",
        "[[vip]]\naddress = \"192.0.2.69\"\nservice = { protocol = \"udp\", ports = [53, 5353] }\npool = \"boot\"\n[[vip]]",
    );
    let found = said(&beside, Severity::Warning);
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!(
        found[0],
        "line 9: warning: vip[0].service.ports[1] = 5353: takes packets from transfers of the tftp service (line 13) whose server happens to choose this port: its pool has no TID ranges that keep the two apart"
    );
}

#[test]
fn routers() {
    let nobody = "warning: director.routers: names no router, so GRE from anywhere is refused and only plain ingress is served; write the prefixes of your routers, such as [\"10.0.0.0/24\"]";
    warnings(&with_director("routers = []"), &[&format!("line 1: {nobody}")]);
    warnings(&with_director("routers = [\"10.0.0.0/24\"]").replace("routers = [\"10.0.0.0/24\"]\n", ""), &[&format!("line 1: {nobody}")]);
    warnings(
        &with_director("routers = [\"0.0.0.0/0\", \"10.0.0.7/24\", \"2001:db8::1\"]"),
        &[
            "line 6: warning: director.routers[0] = \"0.0.0.0/0\": believes GRE from every address there is; name only the prefixes of your routers",
            "line 6: warning: director.routers[1] = \"10.0.0.7/24\": has bits behind its prefix length; 10.0.0.0/24 is used",
            "line 6: warning: director.routers[2] = \"2001:db8::1\": can send us nothing: director.address has no IPv6 address for its GRE to go to",
        ],
    );
}

#[test]
fn what_does_nothing() {
    warnings(DIRECTOR, &["line 1: warning: vip: is missing: a director without a VIP forwards nothing"]);
    let spare = POOL.replace("boot", "spare");
    warnings(&with_rest(&format!("{VIP}{POOL}{spare}")), &["line 14: warning: pool.spare: is used by no [[vip]]"]);
    warnings(
        &with_rest(&format!("{VIP}[[pool]]\nname = \"boot\"\nbackends = []\n")),
        &["line 11: warning: pool.boot.backends: is empty: every packet for this pool is dropped with reason no_backend"],
    );
    let elsewhere = with_director("other_site = [\"10.9.1.11\"]").replace(POOL, "[[pool]]\nname = \"boot\"\nbackends = []\n");
    warnings(&elsewhere, &["line 12: warning: pool.boot.backends: is empty: every packet for this pool goes to the other site"]);
    let held = with_director("other_site = [\"10.9.1.11\"]");
    let floor = "has a check with min_healthy = 50 (50 unless it says otherwise): so many per cent of its backends never count as down, so its requests do not go to director.other_site even when all of them are; write min_healthy = 0 into its check";
    let check = |more: &str| held.replace("name = \"boot\"\n", &format!("name = \"boot\"\ncheck = {{ kind = \"icmp\"{more} }}\n"));
    warnings(&check(""), &[&format!("line 12: warning: pool.boot: {floor}")]);
    warnings(&check(", min_healthy = 0"), &[]);
    warnings(&held, &[]);
    let nobody = held.replace("routers = [\"10.0.0.0/24\"]\n", "");
    warnings(&nobody, &[]);
    warnings(
        &with_rest(&format!("{VIP}{}", POOL.replace("tid_range", "weight = 0, tid_range"))),
        &[
            "line 11: warning: pool.boot.backends: all have weight 0 or `drain = true`: no new flow finds a backend, and every packet of one is dropped with reason no_backend",
        ],
    );
    warnings(
        &with_rest(&format!("{}{POOL}", VIP.replace("\"tftp\"", "{ protocol = \"udp\", ports = [53] }"))),
        &[
            "line 13: warning: pool.boot.backends.t1.tid_range = \"20000-20999\": means nothing here: no tftp service uses this pool, and only transfers have TIDs",
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
            "line 14: warning: neighbour[0]: is used before what the kernel knows of this address, and is not kept up to date; static neighbours are meant for replay and tests",
        ],
    );
    let replay = |text: &str| text.replace("\"af_xdp\", interface = \"eth0\"", "\"pcap\", mac = \"02:00:00:00:01:11\"");
    warnings(&replay(&text), &[]);
    warnings(
        SAMPLE,
        &[
            "line 18: warning: pool.boot.backends: 2 of these have no [[neighbour]], and with io pcap nobody else knows their link-layer address: packets for t2, t3 are dropped with reason neighbour_unresolved",
            "line 26: warning: pool.dns.backends: 2 of these have no [[neighbour]], and with io pcap nobody else knows their link-layer address: packets for n1, n2 are dropped with reason neighbour_unresolved",
        ],
    );
}

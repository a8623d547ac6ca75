//! `[[pool]]` and its backends.

use super::*;
use std::fmt::Write;

/// Returns a file with `[[pool]]` in line 11, `head` in line 13, and one backend in each line from 15 on.
fn with_pool(head: &str, backends: &[&str]) -> String {
    let mut rest = format!("{VIP}[[pool]]\nname = \"boot\"\n{head}\nbackends = [\n");
    for backend in backends {
        writeln!(rest, "  {{ {backend} }},").unwrap();
    }
    with_rest(&format!("{rest}]\n"))
}

/// Returns a file whose pool has this number of valid backends.
fn with_many(head: &str, count: usize) -> String {
    let lines: Vec<String> =
        (0..count).map(|i| format!("name = \"t{i}\", address = \"10.{}.{}.{}\"", 1 + (i >> 16), (i >> 8) & 255, i & 255)).collect();
    with_pool(head, &lines.iter().map(String::as_str).collect::<Vec<_>>()).replace("10.0.1.11", "172.16.0.1")
}

#[test]
fn pools() {
    let rest = |rest: &str| with_rest(&format!("{VIP}{rest}"));
    errors(
        &rest("[[pool]]\n"),
        &[
            "line 10: vip[0].pool = \"boot\": is not a pool of this file; write a [[pool]] of this name",
            "line 11: pool[0].name: is missing; example: name = \"boot\"",
            "line 11: pool[0].backends: is missing; example: backends = [ { name = \"t1\", address = \"10.0.2.21\" } ]",
        ],
    );
    errors(
        &rest(&POOL.repeat(2)),
        &["line 15: pool[1].name = \"boot\": is also the name of the pool in line 12; give each pool its own name"],
    );
    errors(
        &rest("[[pool]]\nname = \"boot\"\nbackends = [\"t1\", { name = \"t2\", address = \"10.0.2.22\" }]\n"),
        &["line 13: pool.boot.backends[0] = \"t1\": expected a table such as { name = \"t1\", address = \"10.0.2.21\" }, found a string"],
    );
    errors(
        &rest("[[pool]]\nname = \"boot\"\nbackends = \"t1\"\nsize = 7\n"),
        &[
            "line 13: pool.boot.backends = \"t1\": expected a list of tables such as { name = \"t1\", address = \"10.0.2.21\" }, found a string; put it in brackets: [ … ]",
            "line 14: pool.boot.size: unknown key. Known: name, backends, table_size, takeover, check",
        ],
    );
    let nested = "[[pool]]\nname = \"a.b\"\n[[pool.backends]]\nname = \"x.y\"\naddress = \"10.0.2.21\"\nweight = -1\n";
    errors(
        &with_rest(&format!("{}{nested}", VIP.replace("\"boot\"", "\"a.b\""))),
        &["line 16: pool.\"a.b\".backends.\"x.y\".weight = -1: is out of range; allowed: a weight, 0 to 1000"],
    );
}

#[test]
fn sizes_of_tables() {
    let one = ["name = \"t1\", address = \"10.0.2.21\""];
    for (size, expected) in [
        ("1", "is out of range; allowed: a prime number of entries, 2 to 5000011"),
        ("5000012", "is out of range; allowed: a prime number of entries, 2 to 5000011"),
        ("-7", "is out of range; allowed: a prime number of entries, 2 to 5000011"),
        ("97", "is too small for 1 backend: each needs at least 100 entries; the next prime is 101"),
        ("65536", "is not prime, and the Maglev table needs a prime size; the next prime is 65537"),
        ("5000010", "is not prime, and the Maglev table needs a prime size; the next prime is 5000011"),
    ] {
        errors(&with_pool(&format!("table_size = {size}"), &one), &[&format!("line 13: pool.boot.table_size = {size}: {expected}")]);
    }
    for size in ["101", "65_537", "5000011"] {
        errors(&with_pool(&format!("table_size = {size}"), &one), &[]);
    }
    errors(
        &with_many("table_size = 1009", 11),
        &["line 13: pool.boot.table_size = 1009: is too small for 11 backends: each needs at least 100 entries; the next prime is 1103"],
    );
    errors(&with_many("", 655), &[]);
    errors(
        &with_many("", 656),
        &[
            "line 11: pool.boot.table_size: is missing, and the default of 65537 is too small for 656 backends: each needs at least 100 entries; write table_size = 65609",
        ],
    );
}

#[test]
fn too_many_backends() {
    errors(&with_many("", 50_001), &["line 11: pool.boot.backends: names 50001 backends; one pool has at most 50000"]);
    let half =
        |i: usize| with_many("table_size = 3250109", 32_501).split_off(with_rest(VIP).len()).replace("\"boot\"", &format!("\"boot{i}\""));
    let text = with_rest(&format!("{}{}{}", VIP.replace("boot", "boot0"), half(0), half(1))).replace("10.0.1.11", "172.16.0.1");
    errors(&text, &["line 32519: pool.boot1.backends: raises the total to 65002 backends; at most 65000 are allowed in all pools"]);
}

#[test]
fn a_server_of_the_directors_host_needs_an_io_that_keeps_packets_from_the_kernel() {
    let text = with_pool("", &["name = \"t1\", address = \"10.0.1.11\""]);
    errors(&text, &[]);
    errors(
        &text.replace("af_xdp", "af_packet"),
        &[
            "line 15: pool.boot.backends.t1.address = \"10.0.1.11\": is an address of this director (line 3): a server of its own host needs io \"af_xdp\" or \"netmap\", for with \"af_packet\" the host gets a copy of every packet",
        ],
    );
}

#[test]
fn backends() {
    for (backend, expected) in [
        ("address = \"10.0.2.21\"", "[0].name: is missing; example: name = \"t1\""),
        ("name = \"t1\"", ".t1.address: is missing; example: address = \"10.0.2.21\""),
        (
            "name = \"t1\", address = \"0.0.0.0\"",
            ".t1.address = \"0.0.0.0\": is the unspecified address; give the unicast address of one machine",
        ),
        (
            "name = \"t1\", address = \"2001:db8::1\"",
            ".t1.address = \"2001:db8::1\": is an IPv6 address, but director.address has no IPv6 address to send from; add one",
        ),
        ("name = \"t1\", address = \"10.0.2.21\", weight = 1001", ".t1.weight = 1001: is out of range; allowed: a weight, 0 to 1000"),
        (
            "name = \"t1\", address = \"10.0.2.21\", weight = \"1\"",
            ".t1.weight = \"1\": expected a weight, 0 to 1000, found a string; write it without quotes",
        ),
        (
            "name = \"t1\", address = \"10.0.2.21\", wieght = 1",
            ".t1.wieght: unknown key; did you mean \"weight\"? Known: name, address, weight, tid_range, drain",
        ),
    ] {
        errors(&with_pool("", &[backend]), &[&format!("line 15: pool.boot.backends{expected}")]);
    }
    errors(
        &with_pool(
            "",
            &["name = \"t1\", address = \"10.0.2.21\"", "name = \"t1\", address = \"10.0.2.22\"", "name = \"t2\", address = \"10.0.2.21\""],
        ),
        &[
            "line 16: pool.boot.backends[1].name = \"t1\": is also the name of the backend in line 15; give each backend of a pool its own name",
            "line 17: pool.boot.backends.t2.address = \"10.0.2.21\": is also the address of t1 in line 15; give each backend of a pool its own address",
        ],
    );
}

#[test]
fn tid_ranges() {
    let range = |written: &str| with_pool("", &[&format!("name = \"t1\", address = \"10.0.2.21\", tid_range = {written}")]);
    for (written, expected) in [
        ("\"20000\"", (20_000, 20_000)),
        ("20000", (20_000, 20_000)),
        ("\"1024-65535\"", (1024, 65_535)),
        ("\"20000 - 20999\"", (20_000, 20_999)),
    ] {
        assert_eq!(good(&range(written)).pools[0].backends[0].tid_range, Some(expected));
    }
    let shape = "is not a port range; write it like \"20000-20999\", both included, or \"20000\" for one port";
    for (written, expected) in [
        ("1023", "is out of range; allowed: a port, 1024 to 65535"),
        ("\"1023-2000\"", "is out of range; allowed: ports 1024 to 65535"),
        ("\"65000-65536\"", "is out of range; allowed: ports 1024 to 65535"),
        ("\"21000-20000\"", "has a first port above the last; write the lower one first"),
        ("\"99999999999\"", shape),
        ("\"20000-\"", shape),
        ("\"20000:20999\"", shape),
        ("\"+20000\"", shape),
        ("\"\"", shape),
        ("true", "expected a port, or a range of ports in quotes such as \"20000-20999\", found a boolean"),
    ] {
        errors(&range(written), &[&format!("line 15: pool.boot.backends.t1.tid_range = {written}: {expected}")]);
    }
}

#[test]
fn tid_ranges_are_disjoint_and_for_all_or_none() {
    let backend = |i: usize, range: &str| {
        let range = if range.is_empty() { String::new() } else { format!(", tid_range = \"{range}\"") };
        format!("name = \"t{i}\", address = \"10.0.2.{i}\"{range}")
    };
    let pool = |ranges: &[&str]| {
        let lines: Vec<String> = ranges.iter().enumerate().map(|(i, r)| backend(i, r)).collect();
        with_pool("", &lines.iter().map(String::as_str).collect::<Vec<_>>())
    };
    errors(&pool(&["2000-2999", "1024-1999", "3000"]), &[]);
    errors(
        &pool(&["20000-20999", "20999-21999"]),
        &[
            "line 16: pool.boot.backends.t1.tid_range = \"20999-21999\": overlaps the TID range 20000-20999 of t0 in line 15; the ranges of a pool must not overlap",
        ],
    );
    errors(
        &pool(&["25000", "20000-29999", "24000-24999"]),
        &[
            "line 16: pool.boot.backends.t1.tid_range = \"20000-29999\": overlaps the TID range 25000 of t0 in line 15; the ranges of a pool must not overlap",
            "line 17: pool.boot.backends.t2.tid_range = \"24000-24999\": overlaps the TID range 20000-29999 of t1 in line 16; the ranges of a pool must not overlap",
        ],
    );
    errors(
        &pool(&["", "20000-20999", "", "", "", "", ""]),
        &[
            "line 15: pool.boot.backends.t0.tid_range: is missing for t0, t2, t3, t4, t5 and 1 more while t1 has one; give a TID range to all backends of a pool or to none",
        ],
    );
}

//! `writes`, `clients` and `admission` of a `[[vip]]`.

use super::*;

/// Returns a file whose `[[vip]]` has `line` in line 11.
fn vip(line: &str) -> String {
    with_rest(&format!("{VIP}{line}\n{POOL}"))
}

#[test]
fn invalid_values_give_errors() {
    for (line, expected) in [
        ("writes = true", "writes = true: expected \"drop\" or \"forward\", found a boolean"),
        ("writes = \"allow\"", "writes = \"allow\": is not allowed. Allowed: \"drop\" or \"forward\""),
        ("clients = []", "clients: is an empty list, which matches no client; name prefixes, or remove the key to serve all clients"),
        ("clients = \"10.0.0.0/8\"", "clients = \"10.0.0.0/8\": expected a list of prefixes such as [\"10.0.0.0/8\"], found a string"),
        (
            "clients = [\"10.0.0.0/33\"]",
            "clients[0] = \"10.0.0.0/33\": is neither a prefix nor an address; write it like 10.0.0.0/24, 2001:db8::/64 or 10.0.0.1",
        ),
        (
            "clients = [\"2001:db8::/32\"]",
            "clients: names no IPv4 prefix, and only IPv4 clients reach 192.0.2.69: no client would be served; add one",
        ),
        ("admission = 500", "admission = 500: expected a table such as { per_vip = 5000, per_backend = 500 }, found an integer"),
        ("admission = {}", "admission: limits nothing; give at least one of per_vip, per_backend and per_prefix, in new requests a second"),
        ("admission = { per_vip = 0 }", "admission.per_vip = 0: is out of range; allowed: new requests a second, 1 to 10000000"),
        (
            "admission = { per_prefix = 5, prefix_v4 = 33 }",
            "admission.prefix_v4 = 33: is out of range; allowed: a prefix length in bits, 8 to 32",
        ),
        (
            "admission = { per_prefix = 5, prefix_v6 = 8 }",
            "admission.prefix_v6 = 8: is out of range; allowed: a prefix length in bits, 16 to 128",
        ),
        (
            "admission = { per_vip = 5, per_vips = 5 }",
            "admission.per_vips: unknown key; did you mean \"per_vip\"? Known: per_vip, per_backend, per_prefix, prefix_v4, \
             prefix_v6",
        ),
    ] {
        let messages = messages(&vip(line), Severity::Error);
        assert_eq!(messages.first().map(String::as_str), Some(&*format!("line 11: vip[0].{expected}")), "{messages:?}");
    }
}

#[test]
fn only_a_tftp_service_has_a_request_policy() {
    let vip = "[[vip]]\naddress = \"192.0.2.53\"\nservice = { protocol = \"udp\", ports = [53] }\npool = \"boot\"\n";
    for line in ["writes = \"drop\"", "clients = [\"10.0.0.0/8\"]", "admission = { per_vip = 5 }"] {
        let (key, value) = line.split_once(" = ").unwrap();
        let shown = if value.starts_with('"') { format!(" = {value}") } else { String::new() };
        let expected = format!("line 11: vip[0].{key}{shown}: is only for a tftp service; remove it");
        errors(&with_rest(&format!("{vip}{line}\n{POOL}")), &[&expected]);
    }
}

#[test]
fn defaults_and_values() {
    assert_eq!(
        good(&vip("")).vips[0].request_policy,
        RequestPolicy { writes: Writes::Drop, clients: None, admission: Admission::default() }
    );
    let lines = "writes = \"forward\"\nclients = [\"10.0.0.0/8\", \"198.51.100.7\"]\nadmission = { per_vip = 5000, per_backend = 500, prefix_v6 = 48 }";
    let request_policy = good(&vip(lines)).vips[0].request_policy.clone();
    let prefixes = ["10.0.0.0/8", "198.51.100.7/32"].map(|p| p.parse().unwrap());
    let admission = Admission { per_vip: Some(5000), per_backend: Some(500), prefix_v6: 48, ..Admission::default() };
    assert_eq!(request_policy, RequestPolicy { writes: Writes::Forward, clients: Some(prefixes.to_vec()), admission });
    let bits = "line 11: warning: vip[0].clients[0] = \"10.1.0.0/8\": has bits beyond its prefix length; 10.0.0.0/8 is used";
    warnings(&vip("clients = [\"10.1.0.0/8\"]"), &[bits]);
}

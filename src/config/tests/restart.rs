//! What a reload may change.

use super::*;

fn refused(before: &str, after: &str) -> Vec<String> {
    good(before).changes_needing_restart(&good(after)).iter().map(ToString::to_string).collect()
}

#[test]
fn a_reload_may_change_vips_pools_routers_neighbours_and_timeouts() {
    let before = with_director("flows = 1048576");
    let mut after = with_director("routers = [\"10.9.0.0/16\"]\nretire = \"1s\"\nunmatched = \"drop\"\nicmp_echo = \"drop\"");
    after = after.replace("192.0.2.69", "192.0.2.70").replace("10.0.2.21", "10.0.2.99").replace("boot", "other");
    after.push_str("[[neighbour]]\naddress = \"10.0.2.99\"\nmac = \"02:00:00:00:02:21\"\n");
    assert_ne!(good(&before), good(&after));
    assert_eq!(refused(&before, &after), [""; 0]);
}

#[test]
fn name_address_key_io_socket_and_flows_need_a_restart() {
    let before = with_director("flows = 1048576");
    let after = r#"[director]
name = "d2"
address = ["10.0.1.11", "2001:db8::1"]
key = "ff0102030405060708090a0b0c0d0e0f"
io = { kind = "af_packet", interface = "eth0", cpus = [1, 2] }
flows = 2048
metrics = "127.0.0.1:9068"
"#;
    assert_eq!(
        refused(&before, after),
        [
            "director.name = \"d2\": was \"d1\" when the director started; this needs a restart",
            "director.address = 10.0.1.11, 2001:db8::1: was 10.0.1.11 when the director started; this needs a restart",
            "director.io = af_packet on eth0, 1 worker, CPUs 1 2: was af_xdp on eth0 when the director started; this needs a restart",
            "director.socket = \"/run/guideway/d2.sock\": was \"/run/guideway/d1.sock\" when the director started; this needs a restart",
            "director.metrics = \"127.0.0.1:9068\": was off when the director started; this needs a restart",
            "director.flows = 2048: was 1048576 when the director started; this needs a restart",
            "director.key: is another key than when the director started; this needs a restart of every director of the fleet",
        ]
    );
}

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
            "director.name = \"d2\": was \"d1\" when the director started; restart the director to apply it",
            "director.address = 10.0.1.11, 2001:db8::1: was 10.0.1.11 when the director started; restart the director to apply it",
            "director.io = af_packet on eth0, 1 worker, CPUs 1 2: was af_xdp on eth0 when the director started; restart the director to apply it",
            "director.socket = \"/run/guideway/d2.sock\": was \"/run/guideway/d1.sock\" when the director started; restart the director to apply it",
            "director.metrics = \"127.0.0.1:9068\": was off when the director started; restart the director to apply it",
            "director.flows = 2048: was 1048576 when the director started; restart the director to apply it",
            "director.key: differs from the key in use; to change the key of a running fleet, add the new key as `next_key` on every director, then set `active_key` to its id",
        ]
    );
}

#[test]
fn active_key_may_name_the_next_key() {
    const NEW: &str = "ff0102030405060708090a0b0c0d0e0f";
    let before = good(SAMPLE);
    let old = before.director.key;
    let with_next_key = SAMPLE.replace("io = {", &format!("next_key = \"{NEW}\"\nio = {{"));
    let next_key_config = good(&with_next_key);
    assert_eq!(next_key_config.active_key(), Some(old), "a key that is known is not used yet");
    assert!(before.changes_needing_restart(&next_key_config).is_empty());
    let new = next_key_config.director.next_key.unwrap();
    assert_ne!(new.id(), old.id());

    let switched = good(&format!("active_key = \"{}\"\n{with_next_key}", new.id()));
    assert_eq!(switched.active_key(), Some(new));
    assert!(next_key_config.changes_needing_restart(&switched).is_empty());
    let settled = good(&with_next_key.replace("000102030405060708090a0b0c0d0e0f", NEW).replace(&format!("next_key = \"{NEW}\"\n"), ""));
    assert_eq!(settled.active_key(), Some(new));
    assert!(switched.changes_needing_restart(&settled).is_empty(), "the file follows what the fleet does already");
    assert_eq!(before.changes_needing_restart(&settled).len(), 1);

    let unknown = Intent { active_key: Some(new.id()), ..before.intent() };
    let conflicts = before.with_intent(&unknown).conflicts();
    assert!(
        conflicts.len() == 1 && conflicts[0].contains(&new.id().to_string()) && conflicts[0].contains(&old.id().to_string()),
        "{conflicts:?}"
    );
    assert!(conflicts.iter().all(|conflicts| !conflicts.contains("0001020304")), "keys are never shown");
    errors(
        &format!("active_key = \"{}\"\n{SAMPLE}", new.id()),
        &["line 1: active_key = \"ID\": is the id of neither director.key nor director.next_key"
            .replace("ID", &new.id().to_string())
            .as_str()],
    );
}

//! Whatever happens to a server, its clients get their files: real servers, killed for real, and real clients.
#![allow(clippy::unwrap_used, clippy::panic)]

mod fleet;

use fleet::{Fleet, KEY, key_of, pool, root, sha256};
use nix::sys::signal::Signal;
use std::time::Duration;

/// The client's port, which determines the successors.
const PORT: u16 = 4000;

/// With `-m` curl repeats an ACK after 5 s, otherwise after 72 s.
const CURL: &str = "-q -gsS -m 40 -o OUT tftp://VIP/image";

/// Our client, with these options.
fn get(options: &str) -> String {
    format!("tftp get -f -o OUT --bind CLIENT:{PORT} {options} tftp://VIP/image")
}

/// Starts a client, and lets something happen when so many ACKs have passed; the file must be right.
fn survives(
    fleet: &mut Fleet,
    (program, arguments): (&str, &str),
    expected: [u8; 32],
    acks: u64,
    event: impl FnOnce(&mut Fleet),
) -> Duration {
    let out = fleet.out();
    let _none = std::fs::remove_file(&out);
    fleet.longest_gap();
    let client = fleet.client(program, arguments, &out);
    fleet.wait_for_acks(acks);
    event(fleet);
    let output = client.wait();
    let longest_gap = fleet.longest_gap();
    assert!(output.status.success(), "{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    assert!(sha256(&out) == expected, "{program} {arguments}: wrong bytes");
    println!("{program} {arguments}: pause {longest_gap:?}");
    longest_gap
}

/// The owner dies, and the director finds it out a tenth of a second later.
fn dies(fleet: &mut Fleet, at: usize) {
    fleet.kill(at);
    std::thread::sleep(Duration::from_millis(100));
    fleet.set_alive(at, false);
}

fn comes_back(fleet: &mut Fleet, at: usize) {
    fleet.start(at);
    fleet.wait_for_peers(at);
    fleet.set_alive(at, true);
}

#[test]
fn a_successor_goes_on_when_the_owner_dies() {
    if !root() {
        return;
    }
    let mut fleet = Fleet::new(3);
    let expected = fleet.file("image", 3_000_001);
    let clients = [
        ("guideway", get("--windowsize 1"), 500),
        ("guideway", get("--windowsize 4"), 100),
        ("guideway", get("--windowsize 64 --blksize 512"), 30),
        ("guideway", get("--no-options"), 1000),
        ("curl", CURL.to_owned(), 500),
        ("atftp", "--tftp-timeout 1 --get -r image -l OUT VIP 69".to_owned(), 500),
    ];
    for (taken_over, (program, arguments, acks)) in clients.into_iter().enumerate() {
        survives(&mut fleet, (program, &arguments), expected, acks, |fleet| dies(fleet, 0));
        assert_eq!(fleet.counter(1, "taken_over") + fleet.counter(2, "taken_over"), taken_over as u64 + 1);
        comes_back(&mut fleet, 0);
    }
    for at in [1, 2] {
        fleet.until(at, "it forgets what has ended", |status| status["checkpoints"]["transfers"] == 0 && status["counters"]["open"] == 0);
    }
}

#[test]
fn block_numbers_that_have_wrapped_are_understood() {
    if !root() {
        return;
    }
    let mut fleet = Fleet::new(3);
    // 90,000 blocks; killed behind block 65,535.
    let expected = fleet.file("image", 8 * 90_000 + 3);
    for (options, acks) in [
        ("--blksize 8 --windowsize 1", 70_000),
        ("--blksize 8 --windowsize 4", 70_000 / 4),
        ("--blksize 8 --windowsize 64", 70_000 / 64),
        ("--blksize 8 --windowsize 16 --rollover 1", 70_000 / 16),
    ] {
        survives(&mut fleet, ("guideway", &get(options)), expected, acks, |fleet| dies(fleet, 0));
        comes_back(&mut fleet, 0);
    }
    assert_eq!(fleet.counter(1, "taken_over") + fleet.counter(2, "taken_over"), 4);
}

#[test]
fn an_owner_that_is_restarted_asks_back_and_goes_on() {
    if !root() {
        return;
    }
    let mut fleet = Fleet::new(3);
    let expected = fleet.file("image", 3_000_001);
    for (program, arguments) in [("guideway", get("--windowsize 1")), ("guideway", get("--windowsize 16")), ("curl", CURL.to_owned())] {
        survives(&mut fleet, (program, &arguments), expected, 100, |fleet| {
            fleet.kill(0);
            fleet.start(0);
        });
        assert_eq!(fleet.counter(0, "resumed"), 1, "{program} {arguments}");
    }
    assert_eq!(fleet.counter(1, "taken_over") + fleet.counter(2, "taken_over"), 0);
}

#[test]
fn a_second_death_is_survived_while_one_successor_lives() {
    if !root() {
        return;
    }
    let mut fleet = Fleet::new(4);
    let expected = fleet.file("image", 6_000_001);
    let [first, second] = fleet.successors(PORT, 0);
    survives(&mut fleet, ("guideway", &get("--windowsize 1")), expected, 500, |fleet| {
        dies(fleet, 0);
        fleet.until(first, "it takes over", |status| status["counters"]["taken_over"] == 1);
        fleet.wait_for_acks(300);
        dies(fleet, first);
    });
    assert_eq!(fleet.counter(second, "taken_over"), 1);
}

#[test]
fn a_server_that_was_cut_off_goes_on_where_others_have_got() {
    if !root() {
        return;
    }
    let mut fleet = Fleet::new(3);
    let expected = fleet.file("image", 6_000_001);
    let [first, _] = fleet.successors(PORT, 0);
    // The director thinks for a while that the owner is dead, again and again; the owner lives.
    survives(&mut fleet, ("guideway", &get("--windowsize 1")), expected, 300, |fleet| {
        for _ in 0..3 {
            fleet.set_alive(0, false);
            fleet.wait_for_acks(300);
            fleet.set_alive(0, true);
            fleet.wait_for_acks(300);
        }
    });
    assert!(fleet.counter(first, "taken_over") >= 1);
    for at in 0..3 {
        fleet.until(at, "whoever is not needed gives up", |status| status["counters"]["open"] == 0);
    }
}

#[test]
fn a_file_that_has_changed_is_an_error_and_never_mixed() {
    if !root() {
        return;
    }
    let mut fleet = Fleet::new(3);
    fleet.file("image", 3_000_001);
    let out = fleet.out();
    let client = fleet.client("guideway", &get("--windowsize 1"), &out);
    fleet.wait_for_acks(300);
    for at in [1, 2] {
        std::fs::write(fleet.root(at).join("image"), vec![7; 3_000_001]).unwrap();
    }
    dies(&mut fleet, 0);
    let output = client.wait();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("the file has changed"), "{said}");
    assert!(!out.exists());
    assert_eq!(fleet.counter(1, "resume_refused") + fleet.counter(2, "resume_refused"), 1);
}

#[test]
fn a_transfer_that_nobody_knows_is_an_error_and_a_flood_of_them_costs_little() {
    if !root() {
        return;
    }
    let fleet = Fleet::new(3);
    let socket = fleet.socket(PORT);
    let tid: std::net::SocketAddr = "192.0.2.69:20010".parse().unwrap();
    socket.send_to(b"\0\x04\0\x07", tid).unwrap();
    let mut answer = [0; 100];
    let (len, from) = socket.recv_from(&mut answer).unwrap();
    assert_eq!((&answer[..4], from), (&b"\0\x05\0\x05"[..], tid), "{:?}", &answer[..len]);
    assert_eq!((fleet.counter(0, "transfer_queries"), fleet.counter(0, "transfer_queries_unknown")), (1, 1));
    // The same client again and again, and with another death: still nobody knows, or not everybody answers.
    fleet.set_alive(0, false);
    socket.send_to(b"\0\x04\0\x07", tid).unwrap();
    let (len, from) = socket.recv_from(&mut answer).unwrap();
    assert_eq!((&answer[..4], from), (&b"\0\x05\0\x05"[..], tid), "a successor sends it from the owner's port: {:?}", &answer[..len]);
}

#[test]
fn short_transfers_pay_little_and_lone_servers_do_not_wait() {
    if !root() {
        return;
    }
    let mut fleet = Fleet::new(3);
    let expected = fleet.file("image", 1000);
    let out = fleet.out();
    let fetch = |fleet: &Fleet| {
        let output = fleet.client("guideway", &get(""), &out).wait();
        assert!(output.status.success() && sha256(&out) == expected, "{}", String::from_utf8_lossy(&output.stderr));
    };
    (0..10).for_each(|_| fetch(&fleet));
    assert_eq!((fleet.counter(0, "checkpoints_unconfirmed"), fleet.counter(0, "checkpoints_sent")), (0, 20));
    fleet.until(1, "ended transfers are forgotten", |status| status["checkpoints"]["transfers"] == 0);
    [1, 2].into_iter().for_each(|at| fleet.kill(at));
    fetch(&fleet);
    assert_eq!(fleet.counter(0, "checkpoints_unconfirmed"), 1, "nobody answers: it waits some milliseconds, no more");
}

#[test]
fn servers_that_join_the_pool_get_checkpoints_of_running_transfers() {
    if !root() {
        return;
    }
    let mut fleet = Fleet::new(3);
    let expected = fleet.file("image", 6_000_001);
    let reload = |fleet: &Fleet, at: usize, known: &[usize]| {
        fleet.configure(at, known);
        fleet.signal(at, Signal::SIGHUP);
        fleet.until(at, "it knows the pool", |status| status["checkpoints"]["peers"] == known.len() as u64 - 1);
    };
    // The first two do not know the third at first, and one of them dies when they do.
    reload(&fleet, 0, &[0, 1]);
    reload(&fleet, 1, &[0, 1]);
    survives(&mut fleet, ("guideway", &get("--windowsize 1")), expected, 300, |fleet| {
        assert_eq!(fleet.counter(2, "checkpoints_stored"), 0);
        reload(fleet, 0, &[0, 1, 2]);
        fleet.until(2, "it stores a checkpoint", |status| status["counters"]["checkpoints_stored"].as_u64() > Some(0));
        fleet.kill(1);
        fleet.set_alive(1, false);
        dies(fleet, 0);
    });
    assert_eq!(fleet.counter(2, "taken_over"), 1);
}

/// A key that the fleet is given.
const NEW: &str = "f0f1f2f3f4f5f6f7f8f9fafbfcfdfef0";

#[test]
fn a_fleet_changes_its_key_while_transfers_run() {
    if !root() {
        return;
    }
    let mut fleet = Fleet::new(5);
    let expected = fleet.file("image", 6_000_001);
    let all: Vec<usize> = (0..5).collect();
    let id = |fleet: &Fleet, at: usize| fleet.status(at)["checkpoints"]["key"]["active"].clone();
    let old_id = id(&fleet, 0);
    let known = |fleet: &Fleet, keys: &str, count: usize, uses_new: bool| {
        for at in 0..5 {
            fleet.configure_takeover(at, &format!("{keys}\n{}", pool(&all)));
            fleet.signal(at, Signal::SIGHUP);
            fleet.until(at, "it knows the keys", |status| {
                let key = &status["checkpoints"]["key"];
                key["known"].as_array().unwrap().len() == count && (key["active"] != old_id) == uses_new
            });
        }
    };
    let before = fleet.successors(PORT, 0);
    survives(&mut fleet, ("guideway", &get("--windowsize 1")), expected, 300, |fleet| {
        known(fleet, &format!("key = \"{KEY}\"\nnext_key = \"{NEW}\""), 2, false);
        // One after the other, so for a while some sign with the one and some with the other.
        known(fleet, &format!("key = \"{NEW}\"\nnext_key = \"{KEY}\""), 2, true);
        fleet.set_key(NEW);
        let [first, _] = fleet.successors(PORT, 0);
        fleet.until(first, "it stores a checkpoint", |status| status["checkpoints"]["transfers"] == 1);
        known(fleet, &format!("key = \"{NEW}\""), 1, true);
        dies(fleet, 0);
    });
    let after = fleet.successors(PORT, 0);
    assert!(after[0] != before[0] && !before.contains(&after[0]), "the successor is a new one: {before:?} {after:?}");
    assert_eq!(fleet.counter(after[0], "taken_over"), 1);
    for at in 1..5 {
        let counters = ["peer_messages_invalid", "transfer_queries"].map(|name| fleet.counter(at, name));
        assert_eq!(counters, [0, 0], "t{}: checkpoints are accepted under either key, and the successor had one", at + 1);
    }
}

#[test]
fn a_server_that_is_restarted_with_another_key_finds_its_transfers() {
    if !root() {
        return;
    }
    let mut fleet = Fleet::new(5);
    let expected = fleet.file("image", 3_000_001);
    let all: Vec<usize> = (0..5).collect();
    let keys = |first: &str, second: &str| format!("key = \"{first}\"\nnext_key = \"{second}\"\n{}", pool(&all));
    for at in 0..5 {
        fleet.configure_takeover(at, &keys(KEY, NEW));
        fleet.signal(at, Signal::SIGHUP);
        fleet.until(at, "it knows both", |status| status["checkpoints"]["key"]["known"].as_array().unwrap().len() == 2);
    }
    // A client whose successors by the old key are none by the new key.
    let apart = |port: &u16| {
        let old = fleet.successors(*port, 0);
        fleet.set_key(NEW);
        let new = fleet.successors(*port, 0);
        fleet.set_key(KEY);
        old.iter().all(|successor| !new.contains(successor))
    };
    let port = (4000..5000).find(apart).unwrap();
    let get = get("--windowsize 1").replace(&PORT.to_string(), &port.to_string());
    survives(&mut fleet, ("guideway", &get), expected, 300, |fleet| {
        fleet.kill(0);
        let file = fleet.configure_takeover(0, &keys(NEW, KEY));
        fleet.start_with(0, &file);
    });
    assert_eq!((fleet.counter(0, "resumed"), fleet.counter(0, "transfer_queries_unknown")), (1, 0));
}

#[test]
fn servers_change_their_key_with_the_store_of_directors() {
    if !root() {
        return;
    }
    let mut fleet = Fleet::new(2);
    let (director, store) = (fleet.directory().join("d1.toml"), fleet.directory().join("store"));
    let write = |keys: &str| {
        let text = format!(
            "[director]\nname = \"d1\"\naddress = \"10.0.1.11\"\nkey = \"{KEY}\"\n{keys}io = {{ kind = \"af_xdp\", interface = \"eth0\" }}\n\
             routers = [\"10.0.0.0/24\"]\n[store]\nkind = \"file\"\npath = \"{}\"\n",
            store.display()
        );
        std::fs::write(&director, text).unwrap();
    };
    let intent = |active: &str| {
        let text = format!("{active}[[vip]]\naddress = \"192.0.2.69\"\nservice = \"tftp\"\npool = \"boot\"\n{}", pool(&[0, 1]));
        std::fs::write(store.join("new"), text).unwrap();
        std::fs::rename(store.join("new"), store.join("intent.toml")).unwrap();
    };
    std::fs::create_dir(&store).unwrap();
    intent("");
    write("");
    for at in [0, 1] {
        fleet.kill(at);
        let file = fleet.configure_takeover(at, &format!("config = \"{}\"\n", director.display()));
        fleet.start_with(at, &file);
    }
    let uses = |fleet: &Fleet, key: &str| {
        let id = key_of(key).id().to_string();
        for at in [0, 1] {
            fleet.until(at, "it has the key", |status| status["checkpoints"]["key"]["active"] == id && status["checkpoints"]["peers"] == 1);
        }
    };
    uses(&fleet, KEY);
    // Known first, used later; nobody tells the servers.
    write(&format!("next_key = \"{NEW}\"\n"));
    intent(&format!("active_key = \"{}\"\n", key_of(NEW).id()));
    uses(&fleet, NEW);
}

use super::*;
use guideway_config::{self as config, Announce};
use guideway_control::{Facts, NextHops, Shown, Writer};
use guideway_dataplane::counters::Counters;
use nix::sched::{CloneFlags, unshare};
use std::process::Command;

const TABLE: u32 = 4754;

/// Runs `test` in a network namespace of its own.
fn in_namespace(test: impl AsyncFnOnce() + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "this test needs root, and CI promises it");
        println!("SKIPPED: needs root");
        return;
    }
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn ip(command: &str) -> String {
    let output = Command::new("ip").args(command.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What the table holds: `to dev`.
fn table() -> Vec<String> {
    let mut routes = Vec::new();
    for family in ["-4", "-6"] {
        // A table without a route is none, which `ip` reports as an error.
        let output = Command::new("ip").args([family, "route", "show", "table", &TABLE.to_string()]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        routes.extend(text.lines().map(|line| line.split_whitespace().take(3).collect::<Vec<_>>().join(" ")));
    }
    routes
}

fn announce() -> Announce {
    Announce { table: TABLE, linger: Duration::ZERO, interface: "gw-d1".to_owned() }
}

fn vips(vips: &[&str]) -> BTreeSet<IpAddr> {
    vips.iter().map(|vip| vip.parse().unwrap()).collect()
}

#[test]
fn the_table_becomes_what_is_wanted_whatever_it_was() {
    in_namespace(async || {
        let mut routes = Routes::make(&announce()).unwrap();
        assert_eq!(routes.reconcile(&vips(&[])).await.unwrap(), [].into());
        let both = vips(&["192.0.2.69", "2001:db8:69::69"]);
        for _ in 0..2 {
            assert_eq!(routes.reconcile(&both).await.unwrap(), [].into());
            assert_eq!(table(), ["192.0.2.69 dev gw-d1", "2001:db8:69::69 dev gw-d1"]);
        }
        ip("-4 route flush table 4754");
        // Neither of these is a VIP of ours: one leads elsewhere, one is a prefix.
        ip("link set lo up");
        ip("route add 192.0.2.70/32 dev lo table 4754");
        ip("route add 198.51.100.0/24 dev gw-d1 table 4754");
        let three = vips(&["192.0.2.69", "192.0.2.70", "2001:db8:69::70"]);
        let refused = routes.reconcile(&three).await.unwrap();
        let why = "kernel table 4754 has another route to it, which is not this director's: see `ip route show table 4754`";
        assert_eq!(refused, [("192.0.2.70".parse().unwrap(), why.to_owned())].into());
        assert_eq!(table(), ["192.0.2.69 dev gw-d1", "192.0.2.70 dev lo", "198.51.100.0/24 dev gw-d1", "2001:db8:69::70 dev gw-d1"],);
        routes.reconcile(&vips(&[])).await.unwrap();
        assert_eq!(table(), ["192.0.2.70 dev lo", "198.51.100.0/24 dev gw-d1"], "what is not ours stays");
    });
}

#[test]
fn the_device_takes_the_routes_along_and_must_be_the_directors_own() {
    in_namespace(async || {
        ip("tuntap add gw-d1 mode tun");
        let error = Routes::make(&announce()).unwrap_err();
        assert!(matches!(&error, Error::Taken(name) if name == "gw-d1"), "{error}");
        ip("link del gw-d1");
        let mut routes = Routes::make(&announce()).unwrap();
        routes.reconcile(&vips(&["192.0.2.69", "2001:db8:69::69"])).await.unwrap();
        assert_eq!(table().len(), 2);

        ip("link set gw-d1 down");
        let refused = routes.reconcile(&vips(&["192.0.2.69"])).await.unwrap();
        assert!(refused.values().all(|why| why.contains("`ip link set gw-d1 up`")) && refused.len() == 1, "{refused:?}");
        ip("link set gw-d1 up");
        assert_eq!(routes.reconcile(&vips(&["192.0.2.69"])).await.unwrap(), [].into());
        drop(routes);
        assert_eq!(table(), [""; 0]);
        assert!(!ip("link").contains("gw-d1"));
        Routes::make(&announce()).unwrap();
    });
}

#[test]
fn a_device_that_was_removed_is_told() {
    in_namespace(async || {
        let mut routes = Routes::make(&announce()).unwrap();
        ip("link del gw-d1");
        let refused = routes.reconcile(&vips(&["192.0.2.69"])).await.unwrap();
        assert!(refused.values().all(|why| why.contains("restart the director")) && refused.len() == 1, "{refused:?}");
    });
}

#[test]
fn a_full_device_holds_nobody_up() {
    in_namespace(async || {
        let mut routes = Routes::make(&announce()).unwrap();
        routes.reconcile(&vips(&["192.0.2.69"])).await.unwrap();
        ip("addr add 10.9.9.9/32 dev gw-d1");
        ip("rule add to 192.0.2.69 lookup 4754");
        // More packets than the device's queue has room for: the kernel drops them, and the sender is not held up.
        let socket = std::net::UdpSocket::bind("10.9.9.9:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        for packet in 0..5000 {
            let sent = socket.send_to(&[0; 1000], "192.0.2.69:69");
            assert!(sent.is_ok(), "packet {packet}: {sent:?}");
        }
    });
}

/// A director's view with one VIP that can be forwarded.
fn view() -> View {
    let checked = config::read(
        r#"
        vip = [{ address = "192.0.2.69", service = "tftp", pool = "p" }]
        pool = [{ name = "p", backends = [{ name = "t1", address = "10.0.2.21" }] }]
        neighbour = [{ address = "10.0.2.21", mac = "02:00:00:00:02:21" }]
        director = { name = "d1", address = "10.0.1.11", key = "000102030405060708090a0b0c0d0e0f", io = { kind = "af_xdp", interface = "e" } }
        "#,
    );
    let config = checked.config.unwrap();
    let (mut writer, hops) = (Writer::new(), NextHops::fixed(&config));
    View {
        snapshot: Arc::new(writer.apply(&config, &hops, Time::default()).unwrap()),
        vips: config.vips.iter().map(|vip| vip.address).collect(),
        keys: Default::default(),
        backends: writer.backends().collect(),
        hops,
    }
}

#[test]
fn a_stuck_worker_withdraws_everything_until_it_turns_again() {
    in_namespace(async || {
        let shown = Arc::new(Shown::default());
        let facts =
            Facts { name: "d1".into(), kind: "af_xdp", interface: "e".into(), mode: String::new(), cpus: vec![0], started: Instant::now() };
        let board = Arc::new(Board::new(facts, vec![shown.clone()], None));
        let view = view();
        let announcer = Announcer::start(Routes::make(&announce()).unwrap(), board.clone());
        board.show(view.clone());
        announcer.update(&view);
        // With a worker that turns, or not, until the VIP is announced, or it is said why not.
        let until = async |turning: bool, expected: Result<(), &str>| {
            let since = Instant::now();
            loop {
                let vip = board.status()["vips"][0].clone();
                let why = vip["not_announced_because"].as_str();
                if vip["announced"] == expected.is_ok()
                    && expected.err().is_none_or(|expected| why.is_some_and(|why| why.contains(expected)))
                {
                    return since.elapsed();
                }
                assert!(since.elapsed() < Duration::from_secs(20), "{expected:?}: still {vip}");
                if turning {
                    shown.set(&Counters::default(), 0);
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        until(true, Ok(())).await;
        assert_eq!(table(), ["192.0.2.69 dev gw-d1"]);
        let took = until(false, Err("worker 0 is stuck")).await;
        assert!(took > pulse::LOOK, "{took:?}");
        assert_eq!(table(), [""; 0]);
        let took = until(true, Ok(())).await;
        assert!(took >= damp::FIRST, "{took:?}");
        assert_eq!(table(), ["192.0.2.69 dev gw-d1"]);
        announcer.leave().await;
        assert_eq!(table(), [""; 0]);
        assert_eq!(board.status()["vips"][0]["not_announced_because"], "the director is ending");
    });
}

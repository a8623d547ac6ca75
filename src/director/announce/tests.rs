use super::*;
use guideway_config::{self as config, Announce};
use guideway_control::{DirectorInfo, NextHops, WorkerStatus, Writer};
use guideway_dataplane::counters::Counters;
use nix::sched::{CloneFlags, unshare};
use std::process::Command;

const TABLE: u32 = 4754;

/// Runs `test` in a network namespace of its own.
fn in_namespace(test: impl AsyncFnOnce() + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "this test needs root, which CI must provide");
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

/// Returns the routes of the table: `to dev`.
fn table() -> Vec<String> {
    let mut routes = Vec::new();
    for family in ["-4", "-6"] {
        // `ip` reports an empty table as an error.
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
fn the_table_is_reconciled_from_any_state() {
    in_namespace(async || {
        let mut routes = Routes::create(&announce()).unwrap();
        assert_eq!(routes.reconcile(&vips(&[])).await.unwrap(), [].into());
        let both = vips(&["192.0.2.69", "2001:db8:69::69"]);
        for _ in 0..2 {
            assert_eq!(routes.reconcile(&both).await.unwrap(), [].into());
            assert_eq!(table(), ["192.0.2.69 dev gw-d1", "2001:db8:69::69 dev gw-d1"]);
        }
        ip("-4 route flush table 4754");
        // Neither route is one of our VIPs: one leads elsewhere, one is a prefix.
        ip("link set lo up");
        ip("route add 192.0.2.70/32 dev lo table 4754");
        ip("route add 198.51.100.0/24 dev gw-d1 table 4754");
        let three = vips(&["192.0.2.69", "192.0.2.70", "2001:db8:69::70"]);
        let refused = routes.reconcile(&three).await.unwrap();
        let why = "kernel table 4754 has another route to it, which is not this director's: see `ip route show table 4754`";
        assert_eq!(refused, [("192.0.2.70".parse().unwrap(), why.to_owned())].into());
        assert_eq!(table(), ["192.0.2.69 dev gw-d1", "192.0.2.70 dev lo", "198.51.100.0/24 dev gw-d1", "2001:db8:69::70 dev gw-d1"],);
        routes.reconcile(&vips(&[])).await.unwrap();
        assert_eq!(table(), ["192.0.2.70 dev lo", "198.51.100.0/24 dev gw-d1"], "other routes stay");
    });
}

#[test]
fn routes_go_with_the_device_and_a_foreign_device_is_refused() {
    in_namespace(async || {
        ip("tuntap add gw-d1 mode tun");
        let error = Routes::create(&announce()).unwrap_err();
        assert!(matches!(&error, Error::DeviceExists(name) if name == "gw-d1"), "{error}");
        ip("link del gw-d1");
        let mut routes = Routes::create(&announce()).unwrap();
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
        Routes::create(&announce()).unwrap();
    });
}

#[test]
fn a_removed_device_is_reported() {
    in_namespace(async || {
        let mut routes = Routes::create(&announce()).unwrap();
        ip("link del gw-d1");
        let refused = routes.reconcile(&vips(&["192.0.2.69"])).await.unwrap();
        assert!(refused.values().all(|why| why.contains("restart the director")) && refused.len() == 1, "{refused:?}");
    });
}

#[test]
fn a_full_device_does_not_block_senders() {
    in_namespace(async || {
        let mut routes = Routes::create(&announce()).unwrap();
        routes.reconcile(&vips(&["192.0.2.69"])).await.unwrap();
        ip("addr add 10.9.9.9/32 dev gw-d1");
        ip("rule add to 192.0.2.69 lookup 4754");
        // Sends more packets than the device's queue holds: the kernel drops them, and the sender does not block.
        let socket = std::net::UdpSocket::bind("10.9.9.9:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        for packet in 0..5000 {
            let sent = socket.send_to(&[0; 1000], "192.0.2.69:69");
            assert!(sent.is_ok(), "packet {packet}: {sent:?}");
        }
    });
}

/// Returns a director's view with one reachable VIP.
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
    let (mut writer, hops) = (Writer::new(), NextHops::from_config(&config));
    View {
        snapshot: Arc::new(writer.apply(&config, &hops, Time::default()).unwrap()),
        vips: config.vips.iter().map(|vip| vip.address).collect(),
        keys: Default::default(),
        backends: writer.backends().collect(),
        hops,
        checked: Default::default(),
    }
}

#[test]
fn a_stuck_worker_withdraws_all_vips_until_it_polls_again() {
    in_namespace(async || {
        let shown = Arc::new(WorkerStatus::default());
        let info = DirectorInfo {
            name: "d1".into(),
            kind: "af_xdp",
            interface: "e".into(),
            mode: String::new(),
            cpus: vec![0],
            instance: Default::default(),
            started: Instant::now(),
        };
        let status = Arc::new(Status::new(info, vec![shown.clone()], None));
        let view = view();
        let announcer = Announcer::start(Routes::create(&announce()).unwrap(), status.clone());
        status.set_view(view.clone());
        announcer.update(&view, None);
        // Polls as a worker, or not, until the VIP has the expected state.
        let until = async |turning: bool, expected: Result<(), &str>| {
            let since = Instant::now();
            loop {
                let vip = status.document().vips.remove(0);
                let why = vip.not_announced_because.as_deref();
                if vip.announced == Some(expected.is_ok())
                    && expected.err().is_none_or(|expected| why.is_some_and(|why| why.contains(expected)))
                {
                    return since.elapsed();
                }
                assert!(since.elapsed() < Duration::from_secs(20), "{expected:?}: still {vip:?}");
                if turning {
                    shown.set(&Counters::default(), 0);
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        until(true, Ok(())).await;
        assert_eq!(table(), ["192.0.2.69 dev gw-d1"]);
        let took = until(false, Err("worker 0 is stuck")).await;
        assert!(took > watchdog::CHECK_INTERVAL, "{took:?}");
        assert_eq!(table(), [""; 0]);
        let took = until(true, Ok(())).await;
        assert!(took >= damping::MIN_REANNOUNCE_DELAY, "{took:?}");
        assert_eq!(table(), ["192.0.2.69 dev gw-d1"]);
        announcer.withdraw().await;
        assert_eq!(table(), [""; 0]);
        assert_eq!(status.document().vips[0].not_announced_because.as_deref(), Some("the director is ending"));
    });
}

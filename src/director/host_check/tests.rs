use super::*;
use guideway_config as config;
use guideway_control::NextHops;
use guideway_host::netns::Namespace;
use std::process::Command;

const FILE: &str = r#"
    [director]
    name = "hostcheck"
    address = "10.0.1.11"
    key = "000102030405060708090a0b0c0d0e0f"
    io = { kind = "af_xdp", interface = "gw0" }
    routers = ["10.0.1.1"]
    [[vip]]
    address = "192.0.2.69"
    service = "tftp"
    pool = "boot"
    [[pool]]
    name = "boot"
    backends = [{ name = "t1", address = "10.0.1.21" }, { name = "t2", address = "10.0.2.22" }]
"#;

fn config(text: &str) -> Config {
    let checked = config::read(text);
    checked.config.unwrap_or_else(|| panic!("{:#?}", checked.problems))
}

fn ip(command: &str) {
    let output = Command::new("ip").args(command.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {command}: {}", String::from_utf8_lossy(&output.stderr));
}

fn names(findings: &[Finding]) -> Vec<&'static str> {
    findings.iter().map(|finding| finding.check).collect()
}

/// A host with every fault that a namespace can have, mended command by command.
#[test]
fn each_fault_of_a_real_host_is_found_with_the_command_that_mends_it() {
    if !nix::unistd::geteuid().is_root() {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "this test needs root, and CI promised it");
        println!("SKIPPED: needs root");
        return;
    }
    let host = Namespace::new("hostcheck").unwrap();
    host.sysctl("ipv4/conf/all/rp_filter", "0").unwrap();
    host.run(|| {
        let config = config(FILE);
        assert_eq!(names(&examine(&config)), ["interface"]);
        ip("link set lo up");
        ip("link add gw0 numrxqueues 2 numtxqueues 2 type veth peer name gw1 numrxqueues 2 numtxqueues 2");
        host.sysctl("ipv4/conf/gw0/rp_filter", "1").unwrap();
        ip("addr add 192.0.2.69/32 dev gw0");
        let found = examine(&config);
        // No route: the interface is down. Two backends with the same reason are one finding.
        let expected = ["link", "address", "vip_on_this_host", "route_to_backend", "mtu_headroom", "receive_queues", "reverse_path_filter"];
        assert_eq!(names(&found), expected, "{found:#?}");
        assert_eq!(
            found[3].to_string(),
            "error: route_to_backend: backend 10.0.1.21 and 1 more: the kernel has no route to it\n  ip route get 10.0.1.21"
        );
        // The commands themselves, as an operator would run them.
        for finding in found.iter().filter(|finding| ["link", "address", "mtu_headroom", "reverse_path_filter"].contains(&finding.check)) {
            let done = Command::new("sh").args(["-c", &finding.command]).output().unwrap();
            assert!(done.status.success(), "{}", finding.command);
        }
        ip("link set gw1 up");
        ip("addr del 192.0.2.69/32 dev gw0");
        ip("addr add 10.0.1.11/24 dev gw0");
        let found = examine(&config);
        assert_eq!(names(&found), ["route_to_backend", "receive_queues"], "{found:#?}");
        assert_eq!((found[0].severity, found[0].command.as_str()), (Severity::Warning, "ip route get 10.0.2.22 from 10.0.1.11"));
        assert_eq!(found[1].command, "# `steering = 2` in [director]", "one thread can receive from both queues");
        let steering = self::config(&FILE.replace("routers =", "steering = 2\n    routers ="));
        assert_eq!(names(&examine(&steering)), ["route_to_backend"]);
        // A server of this host; another address of the host is nobody's.
        let local = self::config(&FILE.replace("10.0.1.21", "10.0.1.11").replace("10.0.2.22", "10.0.1.13"));
        ip("addr add 10.0.1.13/24 dev gw0");
        ip("addr add 192.0.2.69/32 dev lo");
        let found = examine(&local);
        assert_eq!(names(&found), ["arp", "route_to_backend", "receive_queues"], "{found:#?}");
        assert!(found[1].message.starts_with("backend 10.0.1.13: ") && found[1].message.contains("an address of this host"), "{found:#?}");
        assert!(Command::new("sh").args(["-c", &found[0].command]).output().unwrap().status.success());
        assert_eq!(names(&examine(&local)), ["route_to_backend", "receive_queues"]);
        ip("addr del 192.0.2.69/32 dev lo");
        ip("addr del 10.0.1.13/24 dev gw0");
        ip("route add 10.0.2.0/24 via 10.0.1.1");
        ip("link set gw0 mtu 1500");
        let af_packet = self::config(&FILE.replace("af_xdp", "af_packet"));
        host.sysctl("ipv4/conf/gw0/forwarding", "1").unwrap();
        assert!(Command::new("ethtool").args(["-K", "gw0", "gro", "on"]).output().unwrap().status.success());
        let found = examine(&af_packet);
        assert_eq!(names(&found), ["mtu_headroom", "offloads", "forwarding"]);
        assert_eq!(found[1].command, "ethtool -K gw0 gro off");

        let directory = tempfile::tempdir().unwrap();
        let own = &FILE[..FILE.find("[[vip]]").unwrap()];
        let stored = self::config(&format!("{own}[store]\nkind = \"file\"\npath = {:?}\n", directory.path()));
        assert!(!names(&examine(&stored)).contains(&"route_to_backend"), "the store is empty");
        let intent = self::config(&FILE.replace("10.0.2.22", "10.9.9.9")).intent();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let store = guideway_store::open_timeout(stored.store.as_ref().unwrap(), STORE_TIMEOUT).await.unwrap();
            store.commit(0, intent, &guideway_store::Origin::default()).await.unwrap();
        });
        let found = examine(&stored);
        let route = found.iter().find(|finding| finding.check == "route_to_backend").unwrap();
        assert!(route.message.contains("10.9.9.9"), "{found:#?}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn rights_limits_and_devices_are_those_of_the_io() {
    let interface = Interface { name: "gw0".into(), index: 2, mac: [2; 6], mtu: 1600, rx_queues: 1, max_rx_queues: 1, tx_queues: 1 };
    let hops = NextHops::from_config(&config(FILE));
    let survey = Survey { hops, missing_addresses: Vec::new(), local_vips: Vec::new(), up: true, xdp_program: Some(7) };
    let found = |text: &str, capabilities: u64, locked_memory: u64, runs: bool| {
        let config = config(text);
        let host = Host {
            config: &config,
            interface: &interface,
            survey: &survey,
            runs,
            capabilities,
            locked_memory,
            cpus: 1,
            sysctl: &|_| None,
            exists: &|_| false,
        };
        host.findings()
    };
    let bit = |number: u32| 1u64 << number;
    let (admin, raw) = (bit(permissions::NET_ADMIN), bit(permissions::NET_RAW));
    let all = admin | raw | bit(permissions::BPF) | bit(permissions::IPC_LOCK);
    let xdp = |capabilities, memory, runs| names(&found(FILE, capabilities, memory, runs));
    assert_eq!(xdp(all, 0, true), [""; 0]);
    assert_eq!(xdp(all, 0, false), ["xdp_attached"]);
    assert_eq!(xdp(all & !bit(permissions::BPF), 0, true), ["capabilities"]);
    assert_eq!(xdp(all & !bit(permissions::IPC_LOCK), 1 << 20, true), ["memory_lock"]);
    assert_eq!(xdp(all & !bit(permissions::IPC_LOCK), u64::MAX, true), [""; 0]);
    let af_packet = format!("{}\n[announce]\ntable = 4754\n", FILE.replace("af_xdp", "af_packet"));
    assert_eq!(names(&found(&af_packet, admin | raw, 0, true)), ["tun"]);
    let without = found(&af_packet, raw, 0, true);
    assert_eq!(without[0].message, "whoever runs this command has no cap_net_admin");
    assert!(without[0].command.starts_with("setcap cap_net_admin,cap_net_raw+ep"), "{}", without[0].command);
    assert_eq!(names(&found(&FILE.replace("af_xdp", "netmap"), admin | raw, 0, true)), ["netmap"]);
}

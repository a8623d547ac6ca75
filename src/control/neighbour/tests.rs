use super::*;
use crate::Unresolved;
use guideway_dataplane::tables::{Addresses, NextHop, OutputInterface};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{MsgFlags, SockFlag, SockType};
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::mpsc as std_mpsc;

/// What the director of these tests has.
const KEY: RouteKey = RouteKey { address: Addresses { v4: Some(Ipv4Addr::new(10, 0, 1, 11)), v6: None }, mark: None };

/// Long enough for the kernel to give a neighbour up (three questions, a second apart).
const PATIENCE: Duration = Duration::from_secs(20);

/// A second network namespace at the other end of a veth pair; commands run there by a thread that lives in it.
struct Peer {
    commands: Option<std_mpsc::Sender<String>>,
    done: std_mpsc::Receiver<()>,
    thread: Option<std::thread::JoinHandle<()>>,
    tid: nix::unistd::Pid,
}

impl Peer {
    /// Makes the peer and the pair `gw0` (here) – `peer0` (there).
    fn new() -> Peer {
        let (commands, todo) = std_mpsc::channel::<String>();
        let (finished, done) = std_mpsc::channel();
        let (tid_sender, tid) = std_mpsc::channel();
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            tid_sender.send(nix::unistd::gettid()).unwrap();
            for command in todo {
                ip(&command);
                finished.send(()).unwrap();
            }
        });
        let tid = tid.recv().unwrap();
        ip(&format!("link add gw0 type veth peer name peer0 netns {tid}"));
        Peer { commands: Some(commands), done, thread: Some(thread), tid }
    }

    fn ip(&self, command: &str) {
        self.commands.as_ref().unwrap().send(command.into()).unwrap();
        self.done.recv().unwrap();
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.commands = None;
        let _ = self.thread.take().unwrap().join();
    }
}

fn ip(command: &str) {
    let output = Command::new("ip").args(command.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {command}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Runs `test` in a network namespace of its own that has a veth to another one: `gw0` is 10.0.1.11 and 2001:db8:1::11 here.
fn with_peer(test: impl AsyncFnOnce(Peer, u32) + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "this test needs root");
        println!("SKIPPED: needs root");
        return;
    }
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let peer = Peer::new();
        peer.ip("link set peer0 address 02:00:00:00:01:01 up");
        ip("link set gw0 up");
        ip("link set lo up");
        peer.ip("addr add 10.0.1.1/24 dev peer0");
        peer.ip("addr add 2001:db8:1::1/64 dev peer0 nodad");
        ip("addr add 10.0.1.11/24 dev gw0");
        ip("addr add 2001:db8:1::11/64 dev gw0 nodad");
        let index = nix::net::if_::if_nametoindex("gw0").unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test(peer, index));
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn targets(addresses: &[&str]) -> NextHopTargets {
    let addresses = addresses.iter().map(|a| a.parse().unwrap()).collect();
    NextHopTargets { addresses, vips: [address("192.0.2.53")].into(), ..NextHopTargets::default() }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Waits until `condition` holds.
async fn until(neighbours: &mut Neighbours, condition: impl Fn(&NextHops) -> bool) -> NextHops {
    let found = tokio::time::timeout(PATIENCE, neighbours.hops.wait_for(|hops| condition(hops))).await;
    let found = found.map(|hops| hops.unwrap().clone());
    found.unwrap_or_else(|_| panic!("still {:?}", neighbours.hops.borrow()))
}

const MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];
const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 1, 2];

#[test]
fn backends_are_resolved_on_the_link_and_behind_gateways_of_both_families() {
    with_peer(async |_peer, index| {
        ip("route add 10.0.2.0/24 via 10.0.1.1 mtu 1400");
        ip("route add 2001:db8:2::/64 via 2001:db8:1::1");
        ip("route add 10.0.3.0/24 via inet6 2001:db8:1::1");
        let direct = ["10.0.1.1", "2001:db8:1::1"];
        let routed = ["10.0.2.21", "2001:db8:2::21", "10.0.3.21"];
        let all: Vec<&str> = direct.iter().chain(&routed).copied().collect();
        let mut neighbours = watch(index, KEY, targets(&all)).await.unwrap();
        let hops = until(&mut neighbours, |hops| all.iter().all(|a| hops.get(address(a)).is_some())).await;
        for backend in all {
            let mtu = if backend == "10.0.2.21" { 1400 } else { 1500 };
            assert_eq!(hops.get(address(backend)), Some(NextHop { mac: MAC, mtu, output: None }), "{backend}");
        }
    });
}

#[test]
fn what_has_no_way_says_why_and_gets_one_when_a_route_comes() {
    with_peer(async |_peer, index| {
        ip("link add side0 type veth peer name side1");
        ip("link set side0 up");
        ip("addr add 10.7.0.1/24 dev side0");
        ip("route add blackhole 10.8.0.0/24");
        let mut neighbours = watch(index, KEY, targets(&["10.7.0.5", "10.8.0.5", "10.9.0.5", "10.0.1.11", "10.7.0.1"])).await.unwrap();
        let hops = neighbours.hops.borrow().clone();
        assert_eq!(hops.status(address("10.7.0.5")), Err(Unresolved::NoLink("side0".into())), "its other end is down");
        assert_eq!(hops.status(address("10.8.0.5")), Err(Unresolved::NoRoute));
        assert_eq!(hops.status(address("10.9.0.5")), Err(Unresolved::NoRoute));
        assert_eq!(hops.get(address("10.0.1.11")).map(|hop| link_layer(&hop)).as_deref(), Some("this host"), "the director's own address");
        assert_eq!(hops.status(address("10.7.0.1")), Err(Unresolved::RouteKind("local".into())), "another address of this host");
        ip("route add 10.9.0.0/24 via 10.0.1.1");
        until(&mut neighbours, |hops| hops.get(address("10.9.0.5")).is_some()).await;
        ip("route del 10.9.0.0/24");
        until(&mut neighbours, |hops| hops.status(address("10.9.0.5")) == Err(Unresolved::NoRoute)).await;
        ip("link set gw0 mtu 1450");
        until(&mut neighbours, |hops| hops.link.mtu == 1450).await;
    });
}

#[test]
fn a_changed_mac_and_a_vanished_neighbour_are_noticed() {
    with_peer(async |peer, index| {
        let backend = address("10.0.1.1");
        // The kernel's own times are made as short as they can be; ours too.
        ip("ntable change name arp_cache dev gw0 base_reachable 200 delay_probe 50 retrans 50");
        let (netlink, refresh) = (Netlink::open(index, KEY).unwrap(), Duration::from_millis(500));
        let mut neighbours = start(netlink, Some(refresh), index, KEY, targets(&["10.0.1.1"])).await.unwrap();
        until(&mut neighbours, |hops| hops.get(backend).map(|h| h.mac) == Some(MAC)).await;
        // No host announces the new address: the kernel finds it because it gets a hint that the old one is in use.
        peer.ip("link set peer0 address 02:00:00:00:01:02");
        until(&mut neighbours, |hops| hops.get(backend).map(|h| h.mac) == Some(OTHER_MAC)).await;
        ip("neigh replace 10.0.1.1 lladdr 02:00:00:00:01:03 dev gw0 nud permanent");
        until(&mut neighbours, |hops| hops.get(backend).map(|h| h.mac) == Some([2, 0, 0, 0, 1, 3])).await;
        peer.ip("addr del 10.0.1.1/24 dev peer0");
        ip("neigh del 10.0.1.1 dev gw0");
        neighbours.urgent.send(backend).await.unwrap();
        until(&mut neighbours, |hops| hops.status(backend) == Err(Unresolved::Unresponsive(backend))).await;
        peer.ip("addr add 10.0.1.1/24 dev peer0");
        neighbours.urgent.send(backend).await.unwrap();
        until(&mut neighbours, |hops| hops.get(backend).map(|h| h.mac) == Some(OTHER_MAC)).await;
    });
}

#[test]
fn a_permanent_neighbour_is_used_and_not_changed() {
    with_peer(async |_peer, index| {
        ip("neigh add 10.0.1.1 lladdr 02:00:00:00:01:03 dev gw0 nud permanent");
        let mut neighbours = watch(index, KEY, targets(&["10.0.1.1", "10.0.1.77"])).await.unwrap();
        until(&mut neighbours, |hops| hops.get(address("10.0.1.1")).map(|h| h.mac) == Some([2, 0, 0, 0, 1, 3])).await;
        // By now every request to the kernel was made, and the kernel has given up.
        until(&mut neighbours, |hops| hops.status(address("10.0.1.77")) == Err(Unresolved::Unresponsive(address("10.0.1.77")))).await;
        let shown = Command::new("ip").args(["neigh", "show", "10.0.1.1", "dev", "gw0"]).output().unwrap();
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        assert!(shown.contains("PERMANENT"), "{shown}");
    });
}

#[test]
fn what_is_wanted_can_change_and_the_files_neighbours_win() {
    with_peer(async |_peer, index| {
        let mut neighbours = watch(index, KEY, targets(&[])).await.unwrap();
        assert!(neighbours.hops.borrow().hops.is_empty());
        let static_entries = [(address("10.0.1.5"), [9; 6])].into();
        neighbours.targets.send(NextHopTargets { static_entries, ..targets(&["10.0.1.5", "10.0.1.1"]) }).unwrap();
        let hops = until(&mut neighbours, |hops| hops.get(address("10.0.1.1")).is_some()).await;
        assert_eq!(hops.get(address("10.0.1.5")).map(|h| h.mac), Some([9; 6]));
        neighbours.targets.send(targets(&["10.0.1.5"])).unwrap();
        until(&mut neighbours, |hops| hops.get(address("10.0.1.5")).is_none() && hops.hops.len() == 1).await;
    });
}

#[test]
fn the_watch_ends_when_the_interface_goes() {
    with_peer(async |_peer, index| {
        let mut neighbours = watch(index, KEY, targets(&["10.0.1.1"])).await.unwrap();
        ip("link del gw0");
        let ended = async { while neighbours.hops.changed().await.is_ok() {} };
        tokio::time::timeout(PATIENCE, ended).await.unwrap();
    });
}

#[test]
fn events_that_the_kernel_had_to_drop_are_made_good() {
    with_peer(async |_peer, index| {
        let backend = address("10.0.1.1");
        let mut neighbours = watch(index, KEY, targets(&["10.0.1.1"])).await.unwrap();
        until(&mut neighbours, |hops| hops.get(backend).map(|h| h.mac) == Some(MAC)).await;
        let others =
            (0..4000).map(|n| format!("neigh replace 10.9.{}.{} lladdr 02:00:00:00:09:09 dev gw0 nud permanent\n", n / 250, n % 250 + 1));
        let batch = tempfile::NamedTempFile::new().unwrap();
        let changes = others.collect::<String>() + "neigh replace 10.0.1.1 lladdr 02:00:00:00:01:02 dev gw0 nud permanent\n";
        std::fs::write(batch.path(), changes).unwrap();
        // This blocks the runtime, so nobody reads the events: the last of them finds the socket's queue full.
        ip(&format!("-batch {}", batch.path().display()));
        until(&mut neighbours, |hops| hops.get(backend).map(|h| h.mac) == Some(OTHER_MAC)).await;
    });
}

/// A second pair, `gw1` (here, 10.0.3.11) – `peer1`, and routes over both.
fn add_uplink(peer: &Peer) {
    ip(&format!("link add gw1 type veth peer name peer1 netns {}", peer.tid));
    peer.ip("link set peer1 address 02:00:00:00:03:01 up");
    ip("link set gw1 address 02:00:00:00:03:11 up");
    peer.ip("addr add 10.0.3.1/24 dev peer1");
    peer.ip("addr add 2001:db8:3::1/64 dev peer1 nodad");
    ip("addr add 10.0.3.11/24 dev gw1");
    ip("addr add 2001:db8:3::11/64 dev gw1 nodad");
    ip("route add 10.0.2.0/24 nexthop via 10.0.1.1 dev gw0 nexthop via 10.0.3.1 dev gw1");
    ip("route add 2001:db8:2::/64 nexthop via 2001:db8:1::1 dev gw0 nexthop via 2001:db8:3::1 dev gw1");
}

#[test]
fn of_two_uplinks_the_other_carries_everything_while_one_is_lost() {
    with_peer(async |peer, index| {
        add_uplink(&peer);
        let backends: Vec<String> = (21..27).flat_map(|n| [format!("10.0.2.{n}"), format!("2001:db8:2::{n}")]).collect();
        let backends: Vec<&str> = backends.iter().map(String::as_str).collect();
        let mut neighbours = watch(index, KEY, targets(&backends)).await.unwrap();
        let ours = NextHop { mac: MAC, mtu: 1500, output: None };
        let by = |hop: NextHop, count: usize| move |hops: &NextHops| hops.hops.values().filter(|found| **found == Ok(hop)).count() == count;
        until(&mut neighbours, by(ours, 6)).await;
        let other = nix::net::if_::if_nametoindex("gw1").unwrap();
        let output = Some(OutputInterface { index: other, mac: [2, 0, 0, 0, 3, 0x11] });
        let theirs = NextHop { mac: [2, 0, 0, 0, 3, 1], mtu: 1400, output };
        ip("link set gw1 mtu 1400");
        // The other end goes down: our interface loses its carrier, and the kernel keeps the routes over it.
        peer.ip("link set peer0 down");
        until(&mut neighbours, by(theirs, 12)).await;
        peer.ip("link set peer0 up");
        peer.ip("addr replace 2001:db8:1::1/64 dev peer0 nodad");
        until(&mut neighbours, by(ours, 6)).await;
    });
}

#[test]
fn routes_are_looked_up_for_packets_from_our_address_and_with_our_mark() {
    with_peer(async |_peer, index| {
        let backends = ["10.4.0.5", "10.5.0.5"];
        let key = RouteKey { mark: Some(7), ..KEY };
        let mut neighbours = watch(index, key, targets(&backends)).await.unwrap();
        assert_eq!(neighbours.hops.borrow().status(address("10.4.0.5")), Err(Unresolved::NoRoute));
        ip("route add 10.4.0.0/24 via 10.0.1.1 table 100");
        ip("rule add from 10.0.1.11 lookup 100");
        until(&mut neighbours, |hops| hops.get(address("10.4.0.5")).is_some()).await;
        ip("route add 10.5.0.0/24 via 10.0.1.1 table 101");
        ip("rule add fwmark 7 lookup 101");
        let hops = until(&mut neighbours, |hops| backends.iter().all(|a| hops.get(address(a)).is_some())).await;
        assert_eq!(hops.missing_addresses, Vec::<IpAddr>::new());
        // Another address keeps the routes; the kernel refuses to answer for one that is not on this host.
        ip("addr add 10.0.1.12/24 dev gw0");
        ip("route replace 10.4.0.0/24 via 10.0.1.1");
        ip("addr del 10.0.1.11/24 dev gw0");
        ip("addr replace 10.0.1.12/24 dev gw0");
        ip("route replace 10.4.0.0/24 via 10.0.1.1");
        until(&mut neighbours, |hops| hops.missing_addresses == [address("10.0.1.11")] && hops.get(address("10.4.0.5")).is_some()).await;
    });
}

#[test]
fn a_router_that_cannot_forward_our_gre_lowers_the_path_mtu_at_once() {
    with_peer(async |_peer, index| {
        ip("route add 10.0.2.0/24 via 10.0.1.1");
        let mut neighbours = watch(index, KEY, targets(&["10.0.2.21", "10.0.2.22"])).await.unwrap();
        until(&mut neighbours, |hops| hops.hops.values().all(Result::is_ok)).await;
        // From a raw socket of this host, whose kernel delivers it as it would one from a router.
        let family = nix::sys::socket::AddressFamily::Inet;
        let protocol = nix::sys::socket::SockProtocol::Icmp;
        let router = nix::sys::socket::socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol).unwrap();
        let to = nix::sys::socket::SockaddrIn::new(10, 0, 1, 11, 0);
        let began = Instant::now();
        for (backend, mtu) in [("10.0.2.99", 600), ("10.0.2.22", 1300)] {
            let message = path_mtu::tests::refusal(&path_mtu::tests::ours(backend, 1400), mtu, 548, true);
            nix::sys::socket::sendto(router.as_raw_fd(), &message[20..], &to, MsgFlags::empty()).unwrap();
        }
        let hops = until(&mut neighbours, |hops| hops.get(address("10.0.2.22")).is_some_and(|hop| hop.mtu == 1300)).await;
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        assert_eq!(hops.get(address("10.0.2.21")).map(|hop| hop.mtu), Some(1500));
        // What another message says later about less is taken, and it ends with the route's own.
        ip("link set gw0 mtu 1280");
        until(&mut neighbours, |hops| hops.hops.values().all(|hop| hop.as_ref().is_ok_and(|hop| hop.mtu == 1280))).await;
    });
}

//! The test router takes its directors from its namespace's own routes, and follows them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use arc_swap::ArcSwap;
use guideway_host::netlink::{Netlink, Via};
use guideway_host::netns::Namespace;
use guideway_lab::nexthops::{self, NextHops};
use guideway_lab::router::MAIN_TABLE;
use guideway_testbed::wait::wait_until;
use ipnet::IpNet;
use nix::unistd::geteuid;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

fn root() -> bool {
    if !geteuid().is_root() {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "this test needs root, and CI promises it");
        println!("SKIPPED: needs root");
    }
    geteuid().is_root()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn wait_for(shared: &ArcSwap<NextHops>, vip: &str, expected: &[&str]) {
    let expected: Vec<IpAddr> = expected.iter().map(|a| ip(a)).collect();
    wait_until(&format!("{vip}: {expected:?}"), Duration::from_secs(5), || shared.load().for_destination(ip(vip)) == expected);
}

#[test]
fn directors_come_and_go_with_routes() {
    if !root() {
        return;
    }
    let host = Namespace::new("router").unwrap();
    let shared = Arc::new(ArcSwap::from_pointee(NextHops::default()));
    let vips: Vec<IpNet> = vec!["192.0.2.0/24".parse().unwrap(), "2001:db8:69::/64".parse().unwrap()];
    let (four, six): (IpNet, IpNet) = ("192.0.2.69/32".parse().unwrap(), "2001:db8:69::69/128".parse().unwrap());
    let elsewhere: IpNet = "0.0.0.0/0".parse().unwrap();
    let via = |hops: &[&str]| Via::Gateways(hops.iter().map(|h| ip(h)).collect());
    Netlink::in_namespace(&host, |n| {
        n.add_veth("a", "b")?;
        n.add_address("a", ip("10.0.0.1"), 16)?;
        n.add_address("a", ip("2001:db8:f::1"), 48)?;
        n.set_up("a", true)?;
        n.set_up("b", true)?;
        n.set_route(elsewhere, &via(&["10.0.9.9"]), MAIN_TABLE, None)?;
        nexthops::watch(vips.clone(), MAIN_TABLE, Arc::clone(&shared))
    })
    .unwrap();
    assert!(shared.load().all().is_empty(), "a default route is no statement about directors");
    let set = |to: IpNet, hops: &[&str], table: u32| Netlink::in_namespace(&host, |n| n.set_route(to, &via(hops), table, None)).unwrap();
    set(four, &["10.0.1.12", "10.0.1.11"], MAIN_TABLE);
    wait_for(&shared, "192.0.2.69", &["10.0.1.11", "10.0.1.12"]);
    set(four, &["10.0.1.77"], 99);
    set(six, &["2001:db8:f:1::11", "2001:db8:f:1::12"], MAIN_TABLE);
    wait_for(&shared, "2001:db8:69::69", &["2001:db8:f:1::11", "2001:db8:f:1::12"]);
    set(four, &["10.0.1.12"], MAIN_TABLE);
    wait_for(&shared, "192.0.2.69", &["10.0.1.12"]);
    Netlink::in_namespace(&host, |n| n.set_up("a", false)).unwrap();
    wait_for(&shared, "192.0.2.69", &[]);
}

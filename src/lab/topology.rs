//! Builds the hosts and links of a plan: client — router — fabric with directors and backends on it.

use super::plan::{FABRIC_MTU, MTU, Mac, Plan, ROUTER_MAC};
use super::router::MAIN_TABLE;
use super::sys;
use super::vale_switch::{self, ValeLink};
use guideway_host::error::{Context, Error};
use guideway_host::netlink::{Netlink, Via};
use guideway_host::netns::Namespace;
use std::net::IpAddr;
use std::sync::Arc;

/// Every host's interface to the fabric, and the client's to the router.
pub const INTERFACE: &str = "eth0";
/// The router's interface to the client.
pub const ROUTER_INGRESS: &str = "client";
/// The router's interface to the fabric.
pub const ROUTER_FABRIC: &str = "fabric";
const BRIDGE: &str = "br0";

/// The hosts, wired together. All of it ends with this value and the processes inside.
#[derive(Clone, Debug)]
pub struct Topology {
    /// The client.
    pub client: Namespace,
    /// The router.
    pub router: Namespace,
    /// The fabric: one Linux bridge; its ports have the names of the hosts.
    pub fabric: Namespace,
    /// As in the plan.
    pub directors: Vec<Namespace>,
    /// As in the plan, the spare ones last.
    pub backends: Vec<Namespace>,
    /// What joins directors to their VALE switches, where they have some.
    vale_links: Vec<Arc<ValeLink>>,
}

impl Topology {
    /// Builds it. The calling thread's network namespace is used as a workshop and left empty.
    pub fn build(plan: &Plan) -> Result<Self, Error> {
        let ipv6 = plan.vip.is_ipv6();
        let host = |name: &str| {
            let host = Namespace::new(name)?;
            prepare(&host, ipv6)?;
            Ok::<_, Error>(host)
        };
        let mut topology = Topology {
            client: host("client")?,
            router: host("router")?,
            fabric: host("fabric")?,
            directors: plan.directors.iter().map(|d| host(&d.name)).collect::<Result<_, _>>()?,
            backends: Vec::new(),
            vale_links: Vec::new(),
        };
        for (number, backend) in plan.all_backends().enumerate() {
            let local = topology.directors.get(number).filter(|_| plan.local_servers).cloned();
            let host = local.map_or_else(|| host(&backend.name), Ok)?;
            set_ttl(&host, backend.ttl, ipv6)?;
            topology.backends.push(host);
        }
        topology.connect_hosts(plan)?;
        if plan.vale_switched {
            topology.vale_links = topology.directors.iter().map(|host| ValeLink::start(host).map(Arc::new)).collect::<Result<_, _>>()?;
        }
        topology.add_routes(plan, ipv6)?;
        Ok(topology)
    }

    /// Every host with its name, for users who want to look inside.
    pub fn hosts(&self) -> impl Iterator<Item = &Namespace> {
        [&self.client, &self.router, &self.fabric].into_iter().chain(&self.directors).chain(&self.backends)
    }

    fn connect_hosts(&self, plan: &Plan) -> Result<(), Error> {
        let staging = Netlink::open()?;
        Netlink::in_namespace(&self.fabric, |n| {
            n.add_bridge(BRIDGE)?;
            n.set_mtu(BRIDGE, FABRIC_MTU)?;
            n.set_up(BRIDGE, true)
        })?;
        connect(&staging, (&self.client, INTERFACE), (&self.router, ROUTER_INGRESS), MTU)?;
        configure_interface(&self.client, INTERFACE, (plan.client, plan.gateway.1))?;
        configure_interface(&self.router, ROUTER_INGRESS, plan.gateway)?;
        self.attach_host(&staging, (&self.router, ROUTER_FABRIC), "router", ROUTER_MAC, plan.router)?;
        for (host, director) in self.directors.iter().zip(&plan.directors) {
            let address = (director.address, plan.router.1);
            if plan.vale_switched {
                self.attach_port(&staging, (host, vale_switch::WIRE), &director.name)?;
                connect(&staging, (host, INTERFACE), (host, vale_switch::STACK), FABRIC_MTU)?;
                Netlink::in_namespace(host, |n| n.set_mac(INTERFACE, director.mac))?;
                configure_interface(host, INTERFACE, address)?;
            } else {
                self.attach_host(&staging, (host, INTERFACE), &director.name, director.mac, address)?;
            }
        }
        for (host, backend) in self.backends.iter().zip(plan.all_backends()).filter(|_| !plan.local_servers) {
            self.attach_host(&staging, (host, INTERFACE), &backend.name, backend.mac, (backend.address, plan.router.1))?;
        }
        self.add_static_neighbours(plan)
    }

    /// Connects a host to the fabric by a port of the bridge named `port`, and gives it its addresses there.
    fn attach_host(&self, staging: &Netlink, host: (&Namespace, &str), port: &str, mac: Mac, address: (IpAddr, u8)) -> Result<(), Error> {
        self.attach_port(staging, host, port)?;
        Netlink::in_namespace(host.0, |n| n.set_mac(host.1, mac))?;
        configure_interface(host.0, host.1, address)
    }

    /// Connects a host to the fabric by a port of the bridge named `port`.
    fn attach_port(&self, staging: &Netlink, host: (&Namespace, &str), port: &str) -> Result<(), Error> {
        connect(staging, host, (&self.fabric, port), FABRIC_MTU)?;
        Netlink::in_namespace(&self.fabric, |n| {
            n.add_bridge_port(port, BRIDGE)?;
            n.set_up(port, true)
        })
    }

    /// Makes hosts of the fabric known to one another, except to the directors, which find their backends themselves.
    pub fn add_static_neighbours(&self, plan: &Plan) -> Result<(), Error> {
        let router = (plan.router.0, ROUTER_MAC);
        let directors: Vec<(IpAddr, Mac)> = plan.directors.iter().map(|d| (d.address, d.mac)).collect();
        let backends: Vec<(IpAddr, Mac)> = plan.all_backends().map(|b| (b.address, b.mac)).collect();
        Netlink::in_namespace(&self.router, |n| n.add_neighbours(ROUTER_FABRIC, directors.iter().chain(&backends).copied()))?;
        for (host, backend) in self.backends.iter().zip(plan.all_backends()) {
            let others = directors.iter().copied().filter(|(address, _)| *address != backend.address);
            Netlink::in_namespace(host, |n| n.add_neighbours(INTERFACE, others.chain([router])))?;
        }
        Ok(())
    }

    /// Tells the router and the backends of a director's new link-layer address.
    pub fn announce_mac(&self, director: IpAddr, mac: Mac) -> Result<(), Error> {
        Netlink::in_namespace(&self.router, |n| n.add_neighbours(ROUTER_FABRIC, [(director, mac)]))?;
        for host in &self.backends {
            Netlink::in_namespace(host, |n| n.add_neighbours(INTERFACE, [(director, mac)]))?;
        }
        Ok(())
    }

    fn add_routes(&self, plan: &Plan, ipv6: bool) -> Result<(), Error> {
        let everything = plan.default_route();
        let to_client = Via::Gateways(vec![plan.gateway.0]);
        Netlink::in_namespace(&self.client, |n| n.set_route(everything, &to_client, MAIN_TABLE, None))?;
        // Straight to the router, not through a director. Its link to the client is narrower than the fabric.
        let back = Via::Gateways(vec![plan.router.0]);
        for host in self.directors.iter().chain(&self.backends) {
            Netlink::in_namespace(host, |n| n.set_route(everything, &back, MAIN_TABLE, Some(MTU)))?;
        }
        let forwarding = if ipv6 { "ipv6/conf/all/forwarding" } else { "ipv4/ip_forward" };
        self.router.sysctl(forwarding, "1")?;
        self.set_next_hops(plan, &plan.next_hops())
    }

    /// Sets the router's route to the VIP: its directors.
    pub fn set_next_hops(&self, plan: &Plan, hops: &[IpAddr]) -> Result<(), Error> {
        Netlink::in_namespace(&self.router, |n| n.set_route(plan.vip_prefix(), &Via::Gateways(hops.to_vec()), MAIN_TABLE, None))
    }
}

/// Settings of a host that must stand before it has interfaces.
fn prepare(host: &Namespace, ipv6: bool) -> Result<(), Error> {
    for scope in ["all", "default"] {
        host.sysctl(&format!("ipv4/conf/{scope}/rp_filter"), "0")?;
        host.sysctl(&format!("ipv4/conf/{scope}/send_redirects"), "0")?;
        if ipv6 {
            host.sysctl(&format!("ipv6/conf/{scope}/accept_dad"), "0")?;
        } else if std::path::Path::new("/proc/sys/net/ipv6").exists() {
            // Nothing but noise on the links otherwise: solicitations, multicast reports.
            host.sysctl(&format!("ipv6/conf/{scope}/disable_ipv6"), "1")?;
        }
    }
    Netlink::in_namespace(host, |n| n.set_up("lo", true))
}

/// Gives what a host sends a TTL of its own; before it has interfaces.
fn set_ttl(host: &Namespace, ttl: u8, ipv6: bool) -> Result<(), Error> {
    let keys: &[&str] = if ipv6 { &["ipv6/conf/all/hop_limit", "ipv6/conf/default/hop_limit"] } else { &["ipv4/ip_default_ttl"] };
    keys.iter().try_for_each(|key| host.sysctl(key, &ttl.to_string()))
}

/// Connects two hosts by a pair of veths.
fn connect(staging: &Netlink, a: (&Namespace, &str), b: (&Namespace, &str), mtu: u32) -> Result<(), Error> {
    staging.add_veth("a", "b")?;
    for (made, (host, name)) in [("a", a), ("b", b)] {
        staging.set_mtu(made, mtu)?;
        staging.move_to_namespace(made, host, name)?;
        host.run(|| {
            sys::transmit_checksums_off(name).with_context(|| format!("switching off checksum offload of {name} on {}", host.name()))
        })?;
    }
    Ok(())
}

/// Gives an interface its address and switches it on.
fn configure_interface(host: &Namespace, interface: &str, (address, prefix): (IpAddr, u8)) -> Result<(), Error> {
    Netlink::in_namespace(host, |n| {
        n.add_address(interface, address, prefix)?;
        n.set_up(interface, true)
    })?;
    Ok(())
}

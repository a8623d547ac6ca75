//! Links, addresses, routes and rules by rtnetlink: a replacement for the program `ip`.

use super::error::{Context, Error};
use super::netns::Namespace;
/// A link-layer address.
pub type Mac = [u8; 6];
use futures_util::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::packet_route::address::AddressHeaderFlags;
use rtnetlink::packet_route::neighbour::NeighbourState;
use rtnetlink::packet_route::route::{RouteAttribute, RouteMetric, RouteNextHop, RouteScope, RouteType};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::{Handle, IpVersion, LinkBridge, LinkGre, LinkGre6, LinkUnspec, LinkVeth, RouteMessageBuilder, RouteNextHopBuilder};
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use tokio::runtime::Runtime;

/// The kernel's table of local addresses.
const LOCAL_TABLE: u32 = 255;

/// A netlink socket in the namespace of the thread that opened it.
pub struct Netlink {
    runtime: Runtime,
    handle: Handle,
}

/// Destination of a route.
#[derive(Clone, Debug)]
pub enum Via {
    /// These gateways, all with the same weight.
    Gateways(Vec<IpAddr>),
    /// This interface.
    Interface(String),
}

impl Netlink {
    /// Opens a socket in the current namespace.
    pub fn open() -> Result<Self, Error> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().with_context(|| "starting a runtime".to_owned())?;
        let (connection, handle, _) = {
            let _guard = runtime.enter();
            rtnetlink::new_connection().with_context(|| "opening a netlink socket".to_owned())?
        };
        runtime.spawn(connection);
        Ok(Netlink { runtime, handle })
    }

    /// Runs `body` with a socket in `namespace`.
    pub fn in_namespace<T: Send>(namespace: &Namespace, body: impl FnOnce(&Netlink) -> Result<T, Error> + Send) -> Result<T, Error> {
        namespace.run(|| body(&Netlink::open()?))
    }

    /// Returns the index of an interface.
    pub fn index(&self, name: &str) -> Result<u32, Error> {
        let found = self.runtime.block_on(self.handle.link().get().match_name(name).execute().try_next());
        let link = found.with_context(|| format!("looking for the interface {name}"))?;
        link.map(|l| l.header.index).ok_or_else(|| Error::failed(format!("looking for the interface {name}"), "there is none"))
    }

    /// Creates a pair of veths.
    pub fn add_veth(&self, a: &str, b: &str) -> Result<(), Error> {
        self.runtime
            .block_on(self.handle.link().add(LinkVeth::new(a, b).build()).execute())
            .with_context(|| format!("making the veths {a} and {b}"))
    }

    /// Creates a bridge that forwards at once and takes part in no protocol.
    pub fn add_bridge(&self, name: &str) -> Result<(), Error> {
        let bridge = LinkBridge::new(name).forward_delay(0).mcast_snooping(false).build();
        self.runtime.block_on(self.handle.link().add(bridge).execute()).with_context(|| format!("making the bridge {name}"))
    }

    /// Creates a kernel GRE tunnel that accepts packets to `local` from any address. `Ok(false)` when this kernel has no GRE.
    pub fn add_gre(&self, name: &str, local: IpAddr) -> Result<bool, Error> {
        let message = match local {
            IpAddr::V4(a) => LinkGre::new(name).local(a).build(),
            IpAddr::V6(a) => LinkGre6::new(name).local(a).build(),
        };
        match self.runtime.block_on(self.handle.link().add(message).execute()) {
            Ok(()) => Ok(true),
            Err(rtnetlink::Error::NetlinkError(e)) if e.raw_code() == -nix::libc::EOPNOTSUPP => Ok(false),
            Err(e) => Err(Error::failed(format!("making the GRE tunnel {name}"), e)),
        }
    }

    /// Moves an interface to another namespace and renames it.
    pub fn move_to_namespace(&self, name: &str, to: &Namespace, new_name: &str) -> Result<(), Error> {
        let message = LinkUnspec::new_with_index(self.index(name)?).name(new_name).setns_by_fd(to.as_raw_fd()).build();
        self.set_link(message, || format!("handing {name} to {}", to.name()))
    }

    /// Makes an interface a port of a bridge.
    pub fn add_bridge_port(&self, name: &str, bridge: &str) -> Result<(), Error> {
        let message = LinkUnspec::new_with_index(self.index(name)?).controller(self.index(bridge)?).build();
        self.set_link(message, || format!("putting {name} on {bridge}"))
    }

    /// Sets the MTU, in bytes.
    pub fn set_mtu(&self, name: &str, mtu: u32) -> Result<(), Error> {
        let message = LinkUnspec::new_with_index(self.index(name)?).mtu(mtu).build();
        self.set_link(message, || format!("setting the MTU of {name}"))
    }

    /// Switches an interface on or off.
    pub fn set_up(&self, name: &str, up: bool) -> Result<(), Error> {
        let message = LinkUnspec::new_with_index(self.index(name)?);
        let message = if up { message.up() } else { message.down() };
        self.set_link(message.build(), || format!("switching {name} {}", if up { "on" } else { "off" }))
    }

    /// Sets the link-layer address.
    pub fn set_mac(&self, name: &str, mac: Mac) -> Result<(), Error> {
        let message = LinkUnspec::new_with_index(self.index(name)?).address(mac.to_vec()).build();
        self.set_link(message, || format!("setting the link-layer address of {name}"))
    }

    /// Adds permanent neighbours on an interface.
    pub fn add_neighbours(&self, name: &str, neighbours: impl IntoIterator<Item = (IpAddr, Mac)>) -> Result<(), Error> {
        let index = self.index(name)?;
        for (address, mac) in neighbours {
            let request = self.handle.neighbours().add(index, address).state(NeighbourState::Permanent).link_layer_address(&mac).replace();
            self.runtime.block_on(request.execute()).with_context(|| format!("adding the neighbour {address} on {name}"))?;
        }
        Ok(())
    }

    /// Adds an address to an interface, usable at once (no duplicate address detection). `Ok(false)` when it was already there.
    pub fn add_address(&self, name: &str, address: IpAddr, prefix: u8) -> Result<bool, Error> {
        let mut request = self.handle.address().add(self.index(name)?, address, prefix);
        if address.is_ipv6() {
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        }
        match self.runtime.block_on(request.execute()) {
            Ok(()) => Ok(true),
            Err(rtnetlink::Error::NetlinkError(e)) if e.raw_code() == -nix::libc::EEXIST => Ok(false),
            Err(e) => Err(Error::failed(format!("putting {address}/{prefix} on {name}"), e)),
        }
    }

    /// Removes an address from an interface.
    pub fn remove_address(&self, name: &str, address: IpAddr, prefix: u8) -> Result<(), Error> {
        let index = self.index(name)?;
        let addresses =
            self.handle.address().get().set_link_index_filter(index).set_address_filter(address).set_prefix_length_filter(prefix);
        let context = || format!("taking {address}/{prefix} off {name}");
        self.runtime.block_on(async {
            let found: Vec<_> = addresses.execute().try_collect().await.with_context(context)?;
            for message in found {
                self.handle.address().del(message).execute().await.with_context(context)?;
            }
            Ok(())
        })
    }

    /// Sets a route in the table `table` (254 is the main one) and replaces an existing one. `mtu` limits packets on it.
    pub fn set_route(&self, to: IpNet, via: &Via, table: u32, mtu: Option<u32>) -> Result<(), Error> {
        let context = || format!("setting the route to {to}");
        let mut route =
            RouteMessageBuilder::<IpAddr>::new().destination_prefix(to.addr(), to.prefix_len()).with_context(context)?.table_id(table);
        route = match via {
            Via::Interface(name) => route.output_interface(self.index(name)?),
            Via::Gateways(gateways) => match gateways.as_slice() {
                [one] => route.gateway(*one).with_context(context)?,
                several => route.multipath(several.iter().map(|g| next_hop(*g)).collect::<Result<_, _>>()?),
            },
        };
        if let Some(mtu) = mtu {
            route.get_mut().attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)]));
        }
        self.runtime.block_on(self.handle.route().add(route.build()).replace().execute()).with_context(context)
    }

    /// Makes every address of a network local to this host.
    pub fn add_local_route(&self, network: IpNet, interface: &str) -> Result<(), Error> {
        let context = || format!("making {network} the host's own");
        let route = RouteMessageBuilder::<IpAddr>::new().destination_prefix(network.addr(), network.prefix_len()).with_context(context)?;
        let route = route.table_id(LOCAL_TABLE).kind(RouteType::Local).scope(RouteScope::Host).output_interface(self.index(interface)?);
        self.runtime.block_on(self.handle.route().add(route.build()).replace().execute()).with_context(context)
    }

    /// Adds a rule: packets from `ingress` to `to` use the routing table `table`.
    pub fn add_rule(&self, ingress: &str, to: IpNet, table: u32, priority: u32) -> Result<(), Error> {
        let rule = self.handle.rule().add().input_interface(ingress).table_id(table).priority(priority).action(RuleAction::ToTable);
        let done = match to {
            IpNet::V4(n) => self.runtime.block_on(rule.v4().destination_prefix(n.network(), n.prefix_len()).execute()),
            IpNet::V6(n) => self.runtime.block_on(rule.v6().destination_prefix(n.network(), n.prefix_len()).execute()),
        };
        done.with_context(|| format!("adding the rule for {to}"))
    }

    /// Removes all rules for the routing table `table`.
    pub fn remove_rules(&self, table: u32) -> Result<(), Error> {
        let context = || format!("removing the rules for table {table}");
        let uses_table = |rule: &RuleMessage| {
            let attribute = rule.attributes.iter().find_map(|a| if let RuleAttribute::Table(t) = a { Some(*t) } else { None });
            attribute.unwrap_or(u32::from(rule.header.table)) == table
        };
        self.runtime.block_on(async {
            for family in [IpVersion::V4, IpVersion::V6] {
                let rules: Vec<_> = self.handle.rule().get(family).execute().try_collect().await.with_context(context)?;
                for rule in rules.into_iter().filter(uses_table) {
                    self.handle.rule().del(rule).execute().await.with_context(context)?;
                }
            }
            Ok(())
        })
    }

    fn set_link(&self, message: rtnetlink::packet_route::link::LinkMessage, context: impl FnOnce() -> String) -> Result<(), Error> {
        self.runtime.block_on(self.handle.link().set(message).execute()).with_context(context)
    }
}

fn next_hop(gateway: IpAddr) -> Result<RouteNextHop, Error> {
    let hop = if gateway.is_ipv4() { RouteNextHopBuilder::new_ipv4() } else { RouteNextHopBuilder::new_ipv6() };
    Ok(hop.via(gateway).with_context(|| format!("using {gateway} as a gateway"))?.build())
}

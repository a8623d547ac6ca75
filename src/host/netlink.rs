//! Links, addresses, routes and rules by rtnetlink: what `ip` would do, without `ip`.

use super::error::{Doing, Error};
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

/// The kernel's table of addresses that are a host's own.
const LOCAL_TABLE: u32 = 255;

/// A netlink socket in the namespace of the thread that opened it.
pub struct Netlink {
    runtime: Runtime,
    handle: Handle,
}

/// Where a route leads.
#[derive(Clone, Debug)]
pub enum Via {
    /// To these gateways, all with the same weight.
    Gateways(Vec<IpAddr>),
    /// Out of this interface.
    Interface(String),
}

impl Netlink {
    /// Opens a socket in the current namespace.
    pub fn open() -> Result<Self, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().doing(|| "starting a runtime".to_owned())?;
        let (connection, handle, _) = {
            let _inside = runtime.enter();
            rtnetlink::new_connection().doing(|| "opening a netlink socket".to_owned())?
        };
        runtime.spawn(connection);
        Ok(Netlink { runtime, handle })
    }

    /// Runs `body` with a socket in `namespace`.
    pub fn within<T: Send>(namespace: &Namespace, body: impl FnOnce(&Netlink) -> Result<T, Error> + Send) -> Result<T, Error> {
        namespace.run(|| body(&Netlink::open()?))
    }

    /// The index of an interface.
    pub fn index(&self, name: &str) -> Result<u32, Error> {
        let found = self.runtime.block_on(self.handle.link().get().match_name(name).execute().try_next());
        let link = found.doing(|| format!("looking for the interface {name}"))?;
        link.map(|l| l.header.index).ok_or_else(|| Error::failed(format!("looking for the interface {name}"), "there is none"))
    }

    /// Makes a pair of veths.
    pub fn add_veth(&self, a: &str, b: &str) -> Result<(), Error> {
        self.runtime
            .block_on(self.handle.link().add(LinkVeth::new(a, b).build()).execute())
            .doing(|| format!("making the veths {a} and {b}"))
    }

    /// Makes a bridge that forwards at once and listens to nobody.
    pub fn add_bridge(&self, name: &str) -> Result<(), Error> {
        let bridge = LinkBridge::new(name).forward_delay(0).mcast_snooping(false).build();
        self.runtime.block_on(self.handle.link().add(bridge).execute()).doing(|| format!("making the bridge {name}"))
    }

    /// Makes a kernel GRE tunnel that takes what comes to `local` from anywhere. `Ok(false)` when this kernel has none.
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

    /// Moves an interface to another namespace, where it gets a new name.
    pub fn hand_over(&self, name: &str, to: &Namespace, new_name: &str) -> Result<(), Error> {
        let message = LinkUnspec::new_with_index(self.index(name)?).name(new_name).setns_by_fd(to.as_raw_fd()).build();
        self.change(message, || format!("handing {name} to {}", to.name()))
    }

    /// Makes an interface a port of a bridge.
    pub fn enslave(&self, name: &str, bridge: &str) -> Result<(), Error> {
        let message = LinkUnspec::new_with_index(self.index(name)?).controller(self.index(bridge)?).build();
        self.change(message, || format!("putting {name} on {bridge}"))
    }

    /// Sets the MTU, in bytes.
    pub fn mtu(&self, name: &str, mtu: u32) -> Result<(), Error> {
        let message = LinkUnspec::new_with_index(self.index(name)?).mtu(mtu).build();
        self.change(message, || format!("setting the MTU of {name}"))
    }

    /// Switches an interface on or off.
    pub fn up(&self, name: &str, up: bool) -> Result<(), Error> {
        let message = LinkUnspec::new_with_index(self.index(name)?);
        let message = if up { message.up() } else { message.down() };
        self.change(message.build(), || format!("switching {name} {}", if up { "on" } else { "off" }))
    }

    /// Sets the link-layer address.
    pub fn mac(&self, name: &str, mac: Mac) -> Result<(), Error> {
        let message = LinkUnspec::new_with_index(self.index(name)?).address(mac.to_vec()).build();
        self.change(message, || format!("setting the link-layer address of {name}"))
    }

    /// Makes neighbours on an interface known for good.
    pub fn add_neighbours(&self, name: &str, neighbours: impl IntoIterator<Item = (IpAddr, Mac)>) -> Result<(), Error> {
        let index = self.index(name)?;
        for (address, mac) in neighbours {
            let request = self.handle.neighbours().add(index, address).state(NeighbourState::Permanent).link_layer_address(&mac).replace();
            self.runtime.block_on(request.execute()).doing(|| format!("adding the neighbour {address} on {name}"))?;
        }
        Ok(())
    }

    /// Puts an address on an interface, usable at once (no duplicate address detection). `Ok(false)` when it was there already.
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

    /// Takes an address off an interface.
    pub fn remove_address(&self, name: &str, address: IpAddr, prefix: u8) -> Result<(), Error> {
        let index = self.index(name)?;
        let addresses =
            self.handle.address().get().set_link_index_filter(index).set_address_filter(address).set_prefix_length_filter(prefix);
        let doing = || format!("taking {address}/{prefix} off {name}");
        self.runtime.block_on(async {
            let found: Vec<_> = addresses.execute().try_collect().await.doing(doing)?;
            for message in found {
                self.handle.address().del(message).execute().await.doing(doing)?;
            }
            Ok(())
        })
    }

    /// Sets a route in the table `table` (254 is the main one), in the place of any that was there. `mtu` limits what is sent along it.
    pub fn set_route(&self, to: IpNet, via: &Via, table: u32, mtu: Option<u32>) -> Result<(), Error> {
        let doing = || format!("setting the route to {to}");
        let mut route = RouteMessageBuilder::<IpAddr>::new().destination_prefix(to.addr(), to.prefix_len()).doing(doing)?.table_id(table);
        route = match via {
            Via::Interface(name) => route.output_interface(self.index(name)?),
            Via::Gateways(gateways) => match gateways.as_slice() {
                [one] => route.gateway(*one).doing(doing)?,
                several => route.multipath(several.iter().map(|g| next_hop(*g)).collect::<Result<_, _>>()?),
            },
        };
        if let Some(mtu) = mtu {
            route.get_mut().attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)]));
        }
        self.runtime.block_on(self.handle.route().add(route.build()).replace().execute()).doing(doing)
    }

    /// Makes every address of a network this host's own.
    pub fn set_local(&self, network: IpNet, interface: &str) -> Result<(), Error> {
        let doing = || format!("making {network} the host's own");
        let route = RouteMessageBuilder::<IpAddr>::new().destination_prefix(network.addr(), network.prefix_len()).doing(doing)?;
        let route = route.table_id(LOCAL_TABLE).kind(RouteType::Local).scope(RouteScope::Host).output_interface(self.index(interface)?);
        self.runtime.block_on(self.handle.route().add(route.build()).replace().execute()).doing(doing)
    }

    /// Sends what comes in on `ingress` for `to` to the routing table `table`.
    pub fn add_rule(&self, ingress: &str, to: IpNet, table: u32, priority: u32) -> Result<(), Error> {
        let rule = self.handle.rule().add().input_interface(ingress).table_id(table).priority(priority).action(RuleAction::ToTable);
        let done = match to {
            IpNet::V4(n) => self.runtime.block_on(rule.v4().destination_prefix(n.network(), n.prefix_len()).execute()),
            IpNet::V6(n) => self.runtime.block_on(rule.v6().destination_prefix(n.network(), n.prefix_len()).execute()),
        };
        done.doing(|| format!("adding the rule for {to}"))
    }

    /// Removes all rules that lead to the routing table `table`.
    pub fn remove_rules(&self, table: u32) -> Result<(), Error> {
        let doing = || format!("removing the rules for table {table}");
        let leads_there = |rule: &RuleMessage| {
            let attribute = rule.attributes.iter().find_map(|a| if let RuleAttribute::Table(t) = a { Some(*t) } else { None });
            attribute.unwrap_or(u32::from(rule.header.table)) == table
        };
        self.runtime.block_on(async {
            for family in [IpVersion::V4, IpVersion::V6] {
                let rules: Vec<_> = self.handle.rule().get(family).execute().try_collect().await.doing(doing)?;
                for rule in rules.into_iter().filter(leads_there) {
                    self.handle.rule().del(rule).execute().await.doing(doing)?;
                }
            }
            Ok(())
        })
    }

    fn change(&self, message: rtnetlink::packet_route::link::LinkMessage, doing: impl FnOnce() -> String) -> Result<(), Error> {
        self.runtime.block_on(self.handle.link().set(message).execute()).doing(doing)
    }
}

fn next_hop(gateway: IpAddr) -> Result<RouteNextHop, Error> {
    let hop = if gateway.is_ipv4() { RouteNextHopBuilder::new_ipv4() } else { RouteNextHopBuilder::new_ipv6() };
    Ok(hop.via(gateway).doing(|| format!("using {gateway} as a gateway"))?.build())
}

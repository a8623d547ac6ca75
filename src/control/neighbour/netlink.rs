//! The questions that we put to the kernel by rtnetlink, and what its messages mean to us.

use super::table::{Hop, Interface, NeighbourEntry, Route};
use crate::{Link, Unresolved};
use futures_util::{Stream, StreamExt, TryStreamExt};
use guideway_dataplane::tables::Addresses;
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage, LinkXdp};
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteNextHopFlags, RouteType, RouteVia,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{Handle, MulticastGroup};
use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::Pin;
use std::time::Duration;

/// The kernel answers at once; a request that takes longer was lost.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// What our GRE has by which the kernel may route it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteKey {
    /// Its source addresses.
    pub address: Addresses,
    /// Its firewall mark.
    pub mark: Option<u32>,
}

/// Why a request to the kernel failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No netlink socket.
    #[error("cannot open a netlink socket: {0}")]
    Socket(#[from] std::io::Error),
    /// A request failed.
    #[error("the kernel refused a netlink request: {0}")]
    Request(#[from] rtnetlink::Error),
    /// A request was not answered.
    #[error("the kernel did not answer a netlink request within {} s", REQUEST_TIMEOUT.as_secs())]
    Timeout,
    /// The interface has vanished or is no Ethernet.
    #[error("interface {0} is gone, or has no Ethernet address")]
    Interface(u32),
}

/// What a message from the kernel changes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum KernelEvent {
    /// A neighbour; `None`: it was removed.
    Neighbour(Hop, Option<NeighbourEntry>),
    /// An interface; `None`: it is gone, or no Ethernet.
    Interface(u32, Option<Interface>),
    /// Routes, addresses or rules: every route has to be looked up again.
    Routes,
    /// Our interface is gone.
    Gone,
    /// Messages were lost: everything has to be requested again.
    Lost,
}

/// Two sockets: one for questions, whose answers cannot be lost in a flood of events, and one for events.
pub(super) struct Netlink {
    /// For questions.
    pub(super) requests: NetlinkRequests,
    /// Events, until the socket ends.
    pub(super) events: Pin<Box<dyn Stream<Item = NetlinkMessage<RouteNetlinkMessage>> + Send>>,
    tasks: [tokio::task::JoinHandle<()>; 2],
}

/// The socket for questions.
pub(super) struct NetlinkRequests {
    handle: Handle,
    /// Our interface.
    interface: u32,
    key: RouteKey,
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.tasks.iter().for_each(|task| task.abort());
    }
}

impl Netlink {
    /// Opens both sockets, in the network namespace of this thread.
    pub(super) fn open(interface: u32, key: RouteKey) -> Result<Netlink, Error> {
        use MulticastGroup as G;
        let groups = [G::Link, G::Neigh, G::Ipv4Ifaddr, G::Ipv6Ifaddr, G::Ipv4Route, G::Ipv6Route, G::Ipv4Rule, G::Ipv6Rule, G::Nexthop];
        let (watch, _, events) = rtnetlink::new_multicast_connection(&groups)?;
        let (requests, handle, _) = rtnetlink::new_connection()?;
        let tasks = [tokio::spawn(watch), tokio::spawn(requests)];
        Ok(Netlink { requests: NetlinkRequests { handle, interface, key }, events: Box::pin(events.map(|(message, _)| message)), tasks })
    }

    /// What `message` changes for us.
    pub(super) fn event(&self, message: &NetlinkMessage<RouteNetlinkMessage>) -> Option<KernelEvent> {
        event(message, self.requests.interface)
    }
}

impl NetlinkRequests {
    /// Every Ethernet interface; ours is among them.
    pub(super) async fn interfaces(&self) -> Result<HashMap<u32, Interface>, Error> {
        let mut all = HashMap::new();
        let mut links = Box::pin(self.handle.link().get().execute());
        while let Some(message) = with_timeout(links.try_next()).await?? {
            all.extend(interface(&message).map(|interface| (message.header.index, interface)));
        }
        if all.contains_key(&self.interface) { Ok(all) } else { Err(Error::Interface(self.interface)) }
    }

    /// All neighbours.
    pub(super) async fn neighbours(&self) -> Result<Vec<(Hop, NeighbourEntry)>, Error> {
        let mut all = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut entries = Box::pin(self.handle.neighbours().get().set_address_family(family).execute());
            while let Some(message) = with_timeout(entries.try_next()).await?? {
                all.extend(neighbour(&message).and_then(|(hop, entry)| Some((hop, entry?))));
            }
        }
        Ok(all)
    }

    /// Our own addresses that are on no interface of this host.
    pub(super) async fn missing_addresses(&self) -> Result<Vec<IpAddr>, Error> {
        let own = [self.key.address.v4.map(IpAddr::V4), self.key.address.v6.map(IpAddr::V6)];
        let mut missing = Vec::new();
        for address in own.into_iter().flatten() {
            if !self.is_local(address).await? {
                missing.push(address);
            }
        }
        Ok(missing)
    }

    /// Whether `address` is one of this host.
    pub(super) async fn is_local(&self, address: IpAddr) -> Result<bool, Error> {
        Ok(self.ask_route(address, None).await? == Err(Unresolved::RouteKind("local".into())))
    }

    /// Id of the XDP program that is attached to our interface.
    pub(super) async fn xdp_program(&self) -> Result<Option<u32>, Error> {
        let mut links = Box::pin(self.handle.link().get().match_index(self.interface).execute());
        let Some(message) = with_timeout(links.try_next()).await?? else { return Ok(None) };
        let xdp = message.attributes.into_iter().filter_map(|a| if let LinkAttribute::Xdp(xdp) = a { Some(xdp) } else { None });
        Ok(xdp.flatten().find_map(|a| if let LinkXdp::ProgId(id) = a { Some(id) } else { None }))
    }

    /// The route to `backend` for packets of ours: `ip route get BACKEND from US mark MARK fibmatch`, with all hops of a multipath route.
    /// The kernel answers nothing about a source that is not on this host.
    pub(super) async fn route(&self, backend: IpAddr, missing_addresses: &[IpAddr]) -> Result<Result<Route, Unresolved>, Error> {
        self.ask_route(backend, self.key.address.same_family(backend).filter(|own| !missing_addresses.contains(own))).await
    }

    async fn ask_route(&self, backend: IpAddr, source: Option<IpAddr>) -> Result<Result<Route, Unresolved>, Error> {
        let mut question = RouteMessage::default();
        let (family, bits) = if backend.is_ipv4() { (AddressFamily::Inet, 32) } else { (AddressFamily::Inet6, 128) };
        (question.header.address_family, question.header.destination_prefix_length) = (family, bits);
        question.header.flags |= RouteFlags::FibMatch;
        question.attributes.push(RouteAttribute::Destination(backend.into()));
        if let Some(source) = source {
            question.header.source_prefix_length = bits;
            question.attributes.push(RouteAttribute::Source(source.into()));
        }
        question.attributes.extend(self.key.mark.map(RouteAttribute::Mark));
        let mut answers = Box::pin(self.handle.route().get(question).execute());
        match with_timeout(answers.try_next()).await? {
            Ok(Some(message)) => Ok(route(&message, backend)),
            // Network unreachable, an unreachable or prohibiting route, an invalid address: the kernel says no.
            Ok(None) | Err(rtnetlink::Error::NetlinkError(_)) => Ok(Err(Unresolved::NoRoute)),
            Err(e) => Err(e.into()),
        }
    }

    /// Asks the kernel to resolve `hop`, or to check what it knows of it: `ip neigh replace HOP dev IF use`.
    /// Returns why the kernel does not.
    pub(super) async fn resolve(&mut self, hop: Hop) -> Result<Option<std::io::Error>, Error> {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = hop.interface;
        message.header.flags = NeighbourFlags::Use;
        let (family, address) = match hop.address {
            IpAddr::V4(a) => (AddressFamily::Inet, NeighbourAddress::Inet(a)),
            IpAddr::V6(a) => (AddressFamily::Inet6, NeighbourAddress::Inet6(a)),
        };
        message.header.family = family;
        message.attributes.push(NeighbourAttribute::Destination(address));
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewNeighbour(message));
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        // The answer is waited for, as everywhere here: netlink-proto 0.14 sends one message each time it wakes, and a second one that
        // is queued behind it stays until something else wakes it.
        let mut answers = Box::pin(self.handle.request(request)?);
        while let Some(answer) = with_timeout(answers.next()).await? {
            if let NetlinkPayload::Error(error) = answer.payload {
                let error = error.to_io();
                // 0 acknowledges.
                if error.raw_os_error() != Some(0) {
                    tracing::debug!(hop = %hop.address, "the kernel does not resolve it: {error}");
                    return Ok(Some(error));
                }
            }
        }
        Ok(None)
    }
}

async fn with_timeout<T>(answer: impl Future<Output = T>) -> Result<T, Error> {
    tokio::time::timeout(REQUEST_TIMEOUT, answer).await.map_err(|_| Error::Timeout)
}

fn event(message: &NetlinkMessage<RouteNetlinkMessage>, interface: u32) -> Option<KernelEvent> {
    use RouteNetlinkMessage as M;
    let message = match &message.payload {
        NetlinkPayload::InnerMessage(message) => message,
        NetlinkPayload::Overrun(_) => return Some(KernelEvent::Lost),
        _ => return None,
    };
    match message {
        M::NewNeighbour(n) => neighbour(n).map(|(hop, entry)| KernelEvent::Neighbour(hop, entry)),
        M::DelNeighbour(n) => neighbour(n).map(|(hop, _)| KernelEvent::Neighbour(hop, None)),
        // Messages of family AF_BRIDGE are about a port of a bridge, and one that removes says only that the interface has left the bridge.
        M::NewLink(l) | M::DelLink(l) if l.header.interface_family != AddressFamily::Unspec => None,
        M::NewLink(l) => Some(KernelEvent::Interface(l.header.index, self::interface(l))),
        M::DelLink(l) if l.header.index == interface => Some(KernelEvent::Gone),
        M::DelLink(l) => Some(KernelEvent::Interface(l.header.index, None)),
        _ => Some(KernelEvent::Routes),
    }
}

/// Reads an Ethernet interface.
fn interface(message: &LinkMessage) -> Option<Interface> {
    let (mut mac, mut mtu, mut name) = (None, None, String::new());
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Address(address) => mac = address.as_slice().try_into().ok(),
            LinkAttribute::Mtu(bytes) => mtu = Some(u16::try_from(*bytes).unwrap_or(u16::MAX)),
            LinkAttribute::IfName(text) => name.clone_from(text),
            _ => {}
        }
    }
    if message.header.link_layer_type != LinkLayerType::Ether {
        return None;
    }
    let up = message.header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp);
    Some(Interface { name, link: Link { mac: mac?, mtu: mtu? }, up })
}

/// The neighbour's address, and its entry unless the kernel knows nothing of it.
fn neighbour(message: &NeighbourMessage) -> Option<(Hop, Option<NeighbourEntry>)> {
    use NeighbourState as S;
    // Proxy entries are what this host answers for others.
    if message.header.flags.contains(NeighbourFlags::Proxy) {
        return None;
    }
    let address = message.attributes.iter().find_map(|a| match a {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => Some(IpAddr::V4(*a)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(a)) => Some(IpAddr::V6(*a)),
        _ => None,
    })?;
    let mac = message.attributes.iter().find_map(|a| match a {
        NeighbourAttribute::LinkLayerAddress(mac) => <[u8; 6]>::try_from(mac.as_slice()).ok(),
        _ => None,
    });
    let entry = match (message.header.state, mac) {
        (S::Permanent | S::Noarp, Some(mac)) => Some(NeighbourEntry::Permanent(mac)),
        (S::Reachable | S::Stale | S::Delay | S::Probe, Some(mac)) => Some(NeighbourEntry::Valid(mac)),
        (S::Incomplete, _) => Some(NeighbourEntry::Incomplete),
        (S::Failed, _) => Some(NeighbourEntry::Failed),
        _ => None,
    };
    Some((Hop { interface: message.header.ifindex, address }, entry))
}

fn route(message: &RouteMessage, backend: IpAddr) -> Result<Route, Unresolved> {
    if message.header.kind != RouteType::Unicast {
        return Err(Unresolved::RouteKind(format!("{:?}", message.header.kind).to_lowercase()));
    }
    let (mut hops, mut output, mut mtu) = (Vec::new(), None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => output = Some(*index),
            RouteAttribute::MultiPath(several) => {
                // A dead one has lost its interface.
                let living = several.iter().filter(|hop| !hop.flags.contains(RouteNextHopFlags::Dead));
                hops = living.map(|hop| Hop { interface: hop.interface_index, address: gateway(&hop.attributes, backend) }).collect();
            }
            RouteAttribute::Metrics(metrics) => {
                mtu = metrics.iter().find_map(|m| if let RouteMetric::Mtu(mtu) = m { Some(*mtu) } else { None });
            }
            _ => {}
        }
    }
    if hops.is_empty() {
        hops.extend(output.map(|interface| Hop { interface, address: gateway(&message.attributes, backend) }));
    }
    // For IPv6 the kernel begins with the one that it would choose itself.
    hops.sort();
    if hops.is_empty() { Err(Unresolved::NoRoute) } else { Ok(Route { hops, mtu }) }
}

/// The gateway that these attributes name, or the backend itself.
fn gateway(attributes: &[RouteAttribute], backend: IpAddr) -> IpAddr {
    let gateway = attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet(a)) | RouteAttribute::Via(RouteVia::Inet(a)) => Some(IpAddr::V4(*a)),
        RouteAttribute::Gateway(RouteAddress::Inet6(a)) | RouteAttribute::Via(RouteVia::Inet6(a)) => Some(IpAddr::V6(*a)),
        _ => None,
    });
    gateway.unwrap_or(backend)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_messages_are_noticed() {
        let lost = NetlinkMessage::new(Default::default(), NetlinkPayload::Overrun(Vec::new()));
        assert_eq!(event(&lost, 3), Some(KernelEvent::Lost));
    }

    #[test]
    fn neighbours_come_with_their_interface_and_proxies_do_not_count() {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = 4;
        message.header.state = NeighbourState::Stale;
        message.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::Inet([10, 0, 0, 1].into())));
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(vec![2; 6]));
        let wrap = |m: &NeighbourMessage| NetlinkMessage::from(RouteNetlinkMessage::NewNeighbour(m.clone()));
        let hop = Hop { interface: 4, address: "10.0.0.1".parse().unwrap() };
        assert_eq!(event(&wrap(&message), 3), Some(KernelEvent::Neighbour(hop, Some(NeighbourEntry::Valid([2; 6])))));
        message.header.state = NeighbourState::Failed;
        assert_eq!(event(&wrap(&message), 3), Some(KernelEvent::Neighbour(hop, Some(NeighbourEntry::Failed))));
        message.header.flags = NeighbourFlags::Proxy;
        assert_eq!(event(&wrap(&message), 3), None);
    }

    #[test]
    fn a_route_tells_gateway_interface_and_mtu() {
        let backend: IpAddr = "10.0.2.21".parse().unwrap();
        let hop = |address| vec![Hop { interface: 3, address }];
        let mut message = RouteMessage::default();
        message.header.kind = RouteType::Unicast;
        assert_eq!(route(&message, backend), Err(Unresolved::NoRoute));
        message.attributes.push(RouteAttribute::Oif(3));
        assert_eq!(route(&message, backend), Ok(Route { hops: hop(backend), mtu: None }));
        message.attributes.push(RouteAttribute::Via(RouteVia::Inet6("fe80::1".parse().unwrap())));
        message.attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(1400)]));
        assert_eq!(route(&message, backend), Ok(Route { hops: hop("fe80::1".parse().unwrap()), mtu: Some(1400) }));
        message.header.kind = RouteType::BlackHole;
        assert_eq!(route(&message, backend), Err(Unresolved::RouteKind("blackhole".into())));
    }
}

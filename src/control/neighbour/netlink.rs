//! The questions that we put to the kernel by rtnetlink, and what its messages mean to us.

use super::table::{NeighbourEntry, Route};
use crate::{Link, Unresolved};
use futures_util::{Stream, StreamExt, TryStreamExt};
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteType, RouteVia};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{Handle, MulticastGroup};
use std::net::IpAddr;
use std::pin::Pin;
use std::time::Duration;

/// The kernel answers at once; a request that takes longer was lost.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

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
    /// A neighbour on our interface; `None`: it was removed.
    Neighbour(IpAddr, Option<NeighbourEntry>),
    /// Our interface.
    Link(Link),
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
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.tasks.iter().for_each(|task| task.abort());
    }
}

impl Netlink {
    /// Opens both sockets, in the network namespace of this thread.
    pub(super) fn open(interface: u32) -> Result<Netlink, Error> {
        use MulticastGroup as G;
        let groups = [G::Link, G::Neigh, G::Ipv4Ifaddr, G::Ipv6Ifaddr, G::Ipv4Route, G::Ipv6Route, G::Ipv4Rule, G::Ipv6Rule, G::Nexthop];
        let (watch, _, events) = rtnetlink::new_multicast_connection(&groups)?;
        let (requests, handle, _) = rtnetlink::new_connection()?;
        let tasks = [tokio::spawn(watch), tokio::spawn(requests)];
        Ok(Netlink { requests: NetlinkRequests { handle, interface }, events: Box::pin(events.map(|(message, _)| message)), tasks })
    }

    /// What `message` changes for us.
    pub(super) fn event(&self, message: &NetlinkMessage<RouteNetlinkMessage>) -> Option<KernelEvent> {
        event(message, self.requests.interface)
    }
}

impl NetlinkRequests {
    /// Our interface.
    pub(super) async fn link(&self) -> Result<Link, Error> {
        let mut links = Box::pin(self.handle.link().get().match_index(self.interface).execute());
        match with_timeout(links.try_next()).await? {
            Ok(message) => message.as_ref().and_then(link).ok_or(Error::Interface(self.interface)),
            // ENODEV: there is no other reason to refuse a question about one index.
            Err(rtnetlink::Error::NetlinkError(_)) => Err(Error::Interface(self.interface)),
            Err(e) => Err(e.into()),
        }
    }

    /// All neighbours on our interface.
    pub(super) async fn neighbours(&self) -> Result<Vec<(IpAddr, NeighbourEntry)>, Error> {
        let mut all = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut entries = Box::pin(self.handle.neighbours().get().set_address_family(family).execute());
            while let Some(message) = with_timeout(entries.try_next()).await?? {
                if message.header.ifindex == self.interface {
                    all.extend(neighbour(&message).and_then(|(address, entry)| Some((address, entry?))));
                }
            }
        }
        Ok(all)
    }

    /// The route to `backend`: `ip route get`.
    pub(super) async fn route(&self, backend: IpAddr) -> Result<Result<Route, Unresolved>, Error> {
        let mut question = RouteMessage::default();
        (question.header.address_family, question.header.destination_prefix_length) = match backend {
            IpAddr::V4(_) => (AddressFamily::Inet, 32),
            IpAddr::V6(_) => (AddressFamily::Inet6, 128),
        };
        question.attributes.push(RouteAttribute::Destination(backend.into()));
        let mut answers = Box::pin(self.handle.route().get(question).execute());
        match with_timeout(answers.try_next()).await? {
            Ok(Some(message)) => Ok(route(&message, backend, self.interface)),
            Ok(None) => Ok(Err(Unresolved::NoRoute)),
            // Network unreachable, an unreachable or prohibiting route, an invalid address: the kernel says no.
            Err(rtnetlink::Error::NetlinkError(_)) => Ok(Err(Unresolved::NoRoute)),
            Err(e) => Err(e.into()),
        }
    }

    /// Asks the kernel to resolve `hop`, or to check what it knows of it: `ip neigh replace HOP dev IF use`.
    pub(super) async fn resolve(&mut self, hop: IpAddr) -> Result<(), Error> {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = self.interface;
        message.header.flags = NeighbourFlags::Use;
        let (family, address) = match hop {
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
                tracing::debug!(%hop, "the kernel does not resolve it: {error}");
            }
        }
        Ok(())
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
        M::NewNeighbour(n) if n.header.ifindex == interface => neighbour(n).map(|(address, entry)| KernelEvent::Neighbour(address, entry)),
        M::DelNeighbour(n) if n.header.ifindex == interface => neighbour(n).map(|(address, _)| KernelEvent::Neighbour(address, None)),
        M::NewLink(l) if l.header.index == interface => link(l).map(KernelEvent::Link),
        // A message of family AF_BRIDGE says only that it has left a bridge.
        M::DelLink(l) if l.header.index == interface && l.header.interface_family == AddressFamily::Unspec => Some(KernelEvent::Gone),
        M::NewNeighbour(_) | M::DelNeighbour(_) | M::NewLink(_) | M::DelLink(_) => None,
        _ => Some(KernelEvent::Routes),
    }
}

fn link(message: &LinkMessage) -> Option<Link> {
    let mac = message.attributes.iter().find_map(|a| match a {
        LinkAttribute::Address(mac) => mac.as_slice().try_into().ok(),
        _ => None,
    });
    let mtu = message.attributes.iter().find_map(|a| match a {
        LinkAttribute::Mtu(mtu) => Some(u16::try_from(*mtu).unwrap_or(u16::MAX)),
        _ => None,
    });
    Some(Link { mac: mac?, mtu: mtu? })
}

/// The neighbour's address, and its entry unless the kernel knows nothing of it.
fn neighbour(message: &NeighbourMessage) -> Option<(IpAddr, Option<NeighbourEntry>)> {
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
    Some((address, entry))
}

fn route(message: &RouteMessage, backend: IpAddr, interface: u32) -> Result<Route, Unresolved> {
    if message.header.kind != RouteType::Unicast {
        return Err(Unresolved::RouteKind(format!("{:?}", message.header.kind).to_lowercase()));
    }
    let (mut hop, mut output, mut mtu) = (backend, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => output = Some(*index),
            RouteAttribute::Gateway(RouteAddress::Inet(a)) | RouteAttribute::Via(RouteVia::Inet(a)) => hop = IpAddr::V4(*a),
            RouteAttribute::Gateway(RouteAddress::Inet6(a)) | RouteAttribute::Via(RouteVia::Inet6(a)) => hop = IpAddr::V6(*a),
            RouteAttribute::Metrics(metrics) => {
                mtu = metrics.iter().find_map(|m| if let RouteMetric::Mtu(mtu) = m { Some(*mtu) } else { None });
            }
            _ => {}
        }
    }
    match output {
        Some(index) if index == interface => Ok(Route { hop, mtu }),
        Some(index) => Err(Unresolved::OtherInterface(index)),
        None => Err(Unresolved::NoRoute),
    }
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
    fn only_neighbours_on_our_interface_count_and_proxies_do_not() {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = 3;
        message.header.state = NeighbourState::Stale;
        message.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::Inet([10, 0, 0, 1].into())));
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(vec![2; 6]));
        let wrap = |m: &NeighbourMessage| NetlinkMessage::from(RouteNetlinkMessage::NewNeighbour(m.clone()));
        let address = "10.0.0.1".parse().unwrap();
        assert_eq!(event(&wrap(&message), 3), Some(KernelEvent::Neighbour(address, Some(NeighbourEntry::Valid([2; 6])))));
        assert_eq!(event(&wrap(&message), 4), None);
        message.header.state = NeighbourState::Failed;
        assert_eq!(event(&wrap(&message), 3), Some(KernelEvent::Neighbour(address, Some(NeighbourEntry::Failed))));
        message.header.flags = NeighbourFlags::Proxy;
        assert_eq!(event(&wrap(&message), 3), None);
    }

    #[test]
    fn a_route_tells_gateway_interface_and_mtu() {
        let backend: IpAddr = "10.0.2.21".parse().unwrap();
        let mut message = RouteMessage::default();
        message.header.kind = RouteType::Unicast;
        message.attributes.push(RouteAttribute::Oif(3));
        assert_eq!(route(&message, backend, 3), Ok(Route { hop: backend, mtu: None }));
        message.attributes.push(RouteAttribute::Via(RouteVia::Inet6("fe80::1".parse().unwrap())));
        message.attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(1400)]));
        assert_eq!(route(&message, backend, 3), Ok(Route { hop: "fe80::1".parse().unwrap(), mtu: Some(1400) }));
        assert_eq!(route(&message, backend, 4), Err(Unresolved::OtherInterface(3)));
        message.header.kind = RouteType::BlackHole;
        assert_eq!(route(&message, backend, 3), Err(Unresolved::RouteKind("blackhole".into())));
    }
}

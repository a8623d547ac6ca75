//! The router's set of directors: the next hops of its namespace's own routes, read again whenever the kernel says that a route changed.

use arc_swap::ArcSwap;
use futures_util::{StreamExt, TryStreamExt};
use guideway_host::error::{Context, Error};
use ipnet::IpNet;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteNextHopFlags, RouteType, RouteVia};
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::mpsc;

/// The directors of every prefix, the longest prefix first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NextHops(Vec<(IpNet, Vec<IpAddr>)>);

impl NextHops {
    /// The directors for `destination`: those of the longest prefix that holds it. A director of weight *n* stands in it *n* times.
    pub fn for_destination(&self, destination: IpAddr) -> &[IpAddr] {
        self.0.iter().find(|(prefix, _)| prefix.contains(&destination)).map_or(&[], |(_, hops)| hops)
    }

    /// From prefixes and their gateways, in any order.
    pub fn new(mut routes: Vec<(IpNet, Vec<IpAddr>)>) -> Self {
        // Sorted gateways: the order in which a routing daemon adds them must not matter to the hash.
        routes.iter_mut().for_each(|(_, hops)| hops.sort());
        routes.sort_by_key(|(prefix, _)| (std::cmp::Reverse(prefix.prefix_len()), *prefix));
        NextHops(routes)
    }

    /// Every director once.
    pub fn all(&self) -> Vec<IpAddr> {
        let mut all: Vec<IpAddr> = self.0.iter().flat_map(|(_, hops)| hops.iter().copied()).collect();
        all.sort();
        all.dedup();
        all
    }
}

/// Keeps `shared` up to date with the routes of table `table` that lie in or around `vips`. Returns when they were read for the first
/// time; a thread in the caller's namespace goes on.
pub fn watch(vips: Vec<IpNet>, table: u32, shared: Arc<ArcSwap<NextHops>>) -> Result<(), Error> {
    let (ready, first) = mpsc::channel();
    let body = move || {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(e) => return drop(ready.send(Err(Error::failed("starting a runtime", e)))),
        };
        if let Err(e) = runtime.block_on(follow_routes(&vips, table, &shared, &ready)) {
            tracing::error!("the router no longer follows its routes: {e}");
            // Only matters when it failed before the first reading; later nobody listens.
            drop(ready.send(Err(e)));
        }
    };
    std::thread::Builder::new()
        .name("routes".to_owned())
        .spawn(body)
        .with_context(|| "starting the thread that watches routes".to_owned())?;
    first.recv().map_err(|e| Error::failed("reading the router's routes", e))?
}

async fn follow_routes(
    vips: &[IpNet],
    table: u32,
    shared: &ArcSwap<NextHops>,
    ready: &mpsc::Sender<Result<(), Error>>,
) -> Result<(), Error> {
    let groups = [MulticastGroup::Ipv4Route, MulticastGroup::Ipv6Route];
    let (connection, handle, mut changes) =
        rtnetlink::new_multicast_connection(&groups).with_context(|| "opening a netlink socket for routes".to_owned())?;
    tokio::spawn(connection);
    let mut ready_sent = false;
    loop {
        let next = read(&handle, vips, table).await?;
        if **shared.load() != next {
            tracing::info!("directors: {:?}", next.all());
            shared.store(Arc::new(next));
        }
        if !ready_sent {
            ready_sent = ready.send(Ok(())).is_ok();
        }
        // One change is enough to read everything again; what else is queued is covered by that reading.
        if changes.next().await.is_none() {
            return Err(Error::failed("watching routes", "the netlink socket closed"));
        }
        while changes.try_recv().is_ok() {}
    }
}

async fn read(handle: &Handle, vips: &[IpNet], table: u32) -> Result<NextHops, Error> {
    let mut found = Vec::new();
    for query in [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()] {
        let routes: Vec<RouteMessage> =
            handle.route().get(query).execute().try_collect().await.with_context(|| "reading the routes".to_owned())?;
        found.extend(routes.iter().filter(|r| in_table(r, table)).filter_map(gateways));
    }
    // A route further out than a VIP prefix (a default route) is no statement about directors.
    found.retain(|(prefix, _)| vips.iter().any(|vip| vip.contains(prefix)));
    Ok(NextHops::new(merge(found)))
}

fn in_table(route: &RouteMessage, table: u32) -> bool {
    let attribute = route.attributes.iter().find_map(|a| match a {
        RouteAttribute::Table(t) => Some(*t),
        _ => None,
    });
    route.header.kind == RouteType::Unicast && attribute.unwrap_or(u32::from(route.header.table)) == table
}

/// The prefix and the gateways of a route; `None` when it has none of either.
fn gateways(route: &RouteMessage) -> Option<(IpNet, Vec<IpAddr>)> {
    let prefix = route.attributes.iter().find_map(|a| match a {
        RouteAttribute::Destination(to) => address(to),
        _ => None,
    })?;
    let prefix = IpNet::new(prefix, route.header.destination_prefix_length).ok()?;
    let mut hops = Vec::new();
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::MultiPath(paths) => {
                let usable = |flags: RouteNextHopFlags| !flags.intersects(RouteNextHopFlags::Dead | RouteNextHopFlags::Linkdown);
                for path in paths.iter().filter(|p| usable(p.flags)) {
                    // The kernel's number is the weight minus one.
                    let copies = usize::from(path.hops) + 1;
                    hops.extend(path.attributes.iter().filter_map(gateway).flat_map(|g| std::iter::repeat_n(g, copies)));
                }
            }
            other => hops.extend(gateway(other)),
        }
    }
    (!hops.is_empty()).then_some((prefix, hops))
}

fn gateway(attribute: &RouteAttribute) -> Option<IpAddr> {
    match attribute {
        RouteAttribute::Gateway(a) => address(a),
        RouteAttribute::Via(RouteVia::Inet(a)) => Some(IpAddr::V4(*a)),
        RouteAttribute::Via(RouteVia::Inet6(a)) => Some(IpAddr::V6(*a)),
        _ => None,
    }
}

fn address(a: &RouteAddress) -> Option<IpAddr> {
    match a {
        RouteAddress::Inet(a) => Some(IpAddr::V4(*a)),
        RouteAddress::Inet6(a) => Some(IpAddr::V6(*a)),
        _ => None,
    }
}

/// The kernel lists an IPv6 route that was appended to hop by hop as several routes to one prefix: one entry for each prefix.
fn merge(routes: Vec<(IpNet, Vec<IpAddr>)>) -> Vec<(IpNet, Vec<IpAddr>)> {
    let mut merged: Vec<(IpNet, Vec<IpAddr>)> = Vec::new();
    for (prefix, hops) in routes {
        match merged.iter_mut().find(|(p, _)| *p == prefix) {
            Some((_, all)) => all.extend(hops),
            None => merged.push((prefix, hops)),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_wins_and_order_does_not_matter() {
        let a: IpAddr = "10.0.1.11".parse().unwrap();
        let b: IpAddr = "10.0.1.12".parse().unwrap();
        let wide: IpNet = "192.0.2.0/24".parse().unwrap();
        let host: IpNet = "192.0.2.69/32".parse().unwrap();
        let hops = NextHops::new(vec![(wide, vec![b]), (host, vec![b, a])]);
        assert_eq!(hops, NextHops::new(vec![(host, vec![a, b]), (wide, vec![b])]));
        assert_eq!(hops.for_destination("192.0.2.69".parse().unwrap()), [a, b]);
        assert_eq!(hops.for_destination("192.0.2.70".parse().unwrap()), [b]);
        assert!(hops.for_destination("192.0.3.1".parse().unwrap()).is_empty());
        assert_eq!(hops.all(), [a, b]);
    }
}

//! Routes and neighbours as the kernel reports them, and the next requests to it. No socket and no clock: time is passed in.

use crate::{Link, NextHops, Unresolved};
use guideway_dataplane::tables::NextHop;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;

/// An unresponsive neighbour is probed again after this time, then after twice as long, and so on.
const MIN_RETRY: Duration = Duration::from_secs(1);
/// Maximum time between such probes.
const MAX_RETRY: Duration = Duration::from_secs(30);
/// The kernel checks a neighbour only when it is used, and does not see our packets. So it gets a hint at this interval.
const REFRESH_INTERVAL: Duration = Duration::from_secs(20);

/// The way to one backend, as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    /// The gateway, or the backend itself when it is on the link.
    pub(super) hop: IpAddr,
    /// The route's own MTU in bytes.
    pub(super) mtu: Option<u32>,
}

/// What the kernel says about a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NeighbourEntry {
    /// Usable, as it answered.
    Valid([u8; 6]),
    /// Usable, because an operator set it. A probe would make the kernel forget that.
    Permanent([u8; 6]),
    /// It is being resolved.
    Incomplete,
    /// It did not answer.
    Failed,
}

/// A request to the kernel to resolve a neighbour.
#[derive(Clone, Copy, Debug)]
struct Probe {
    at: Duration,
    /// Until the next time, should it stay unusable.
    wait: Duration,
    /// Whether it was usable at that time.
    valid: bool,
}

/// Routes and neighbours. Times are since any fixed instant.
#[derive(Debug)]
pub(super) struct NeighbourTable {
    pub(super) link: Link,
    pub(super) routes: BTreeMap<IpAddr, Result<Route, Unresolved>>,
    pub(super) neighbours: HashMap<IpAddr, NeighbourEntry>,
    /// `[[neighbour]]` entries of the file win over the kernel's.
    pub(super) static_entries: HashMap<IpAddr, [u8; 6]>,
    probes: HashMap<IpAddr, Probe>,
    /// Interval at which the kernel gets a hint that a neighbour is in use.
    pub(super) refresh: Duration,
}

impl NeighbourTable {
    pub(super) fn new(link: Link) -> NeighbourTable {
        NeighbourTable {
            link,
            routes: BTreeMap::new(),
            neighbours: HashMap::new(),
            static_entries: HashMap::new(),
            probes: HashMap::new(),
            refresh: REFRESH_INTERVAL,
        }
    }

    /// The next hop of every backend.
    pub(super) fn next_hops(&self) -> NextHops {
        let hop = |backend: &IpAddr, route: &Result<Route, Unresolved>| -> Result<NextHop, Unresolved> {
            if let Some(mac) = self.static_entries.get(backend) {
                let mtu = route.as_ref().ok().and_then(|r| r.mtu);
                return Ok(NextHop { mac: *mac, mtu: self.mtu(mtu) });
            }
            let route = route.clone()?;
            match (self.static_entries.get(&route.hop), self.neighbours.get(&route.hop)) {
                (Some(mac), _) | (None, Some(NeighbourEntry::Valid(mac) | NeighbourEntry::Permanent(mac))) => {
                    Ok(NextHop { mac: *mac, mtu: self.mtu(route.mtu) })
                }
                (None, Some(NeighbourEntry::Failed)) => Err(Unresolved::Unresponsive(route.hop)),
                (None, Some(NeighbourEntry::Incomplete) | None) => Err(Unresolved::Pending(route.hop)),
            }
        };
        NextHops { link: self.link, hops: self.routes.iter().map(|(backend, route)| (*backend, hop(backend, route))).collect() }
    }

    fn mtu(&self, route: Option<u32>) -> u16 {
        route.and_then(|mtu| u16::try_from(mtu).ok()).filter(|mtu| *mtu > 0).map_or(self.link.mtu, |mtu| mtu.min(self.link.mtu))
    }

    /// The neighbours that the kernel has to resolve for us.
    fn hops(&self) -> BTreeSet<IpAddr> {
        let routed = self.routes.iter().filter(|(backend, _)| !self.static_entries.contains_key(backend));
        let configured =
            |hop: &IpAddr| self.static_entries.contains_key(hop) || matches!(self.neighbours.get(hop), Some(NeighbourEntry::Permanent(_)));
        routed.filter_map(|(_, route)| route.as_ref().ok()).map(|r| r.hop).filter(|hop| !configured(hop)).collect()
    }

    fn valid(&self, hop: &IpAddr) -> bool {
        matches!(self.neighbours.get(hop), Some(NeighbourEntry::Valid(_)))
    }

    fn due(&self, hop: &IpAddr) -> Duration {
        match self.probes.get(hop) {
            None => Duration::ZERO,
            Some(probe) if self.valid(hop) => probe.at + self.refresh,
            // It was usable until now: the first probe is not delayed.
            Some(probe) if probe.valid => Duration::ZERO,
            Some(probe) => probe.at + probe.wait,
        }
    }

    /// Returns the neighbours to request from the kernel now, and counts them as requested.
    pub(super) fn due_probes(&mut self, now: Duration) -> Vec<IpAddr> {
        let hops = self.hops();
        self.probes.retain(|hop, _| hops.contains(hop));
        let due: Vec<IpAddr> = hops.into_iter().filter(|hop| self.due(hop) <= now).collect();
        for hop in &due {
            let valid = self.valid(hop);
            let before = self.probes.get(hop).filter(|probe| !probe.valid).map_or(Duration::ZERO, |probe| probe.wait);
            let wait = if valid { Duration::ZERO } else { (before * 2).clamp(MIN_RETRY, MAX_RETRY) };
            self.probes.insert(*hop, Probe { at: now, wait, valid });
        }
        due
    }

    /// When [`NeighbourTable::due_probes`] has something next.
    pub(super) fn next_probe(&self) -> Option<Duration> {
        self.hops().iter().map(|hop| self.due(hop)).min()
    }

    /// A worker has packets for `backend` and no next hop: do not wait long.
    pub(super) fn expedite(&mut self, backend: IpAddr) {
        if let Some(Ok(route)) = self.routes.get(&backend)
            && let Some(probe) = self.probes.get_mut(&route.hop)
        {
            probe.wait = probe.wait.min(MIN_RETRY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 2, 0x21];

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn table(routes: &[(&str, &str, Option<u32>)]) -> NeighbourTable {
        let mut table = NeighbourTable::new(Link { mac: [2; 6], mtu: 1500 });
        table.routes = routes.iter().map(|(to, hop, mtu)| (ip(to), Ok(Route { hop: ip(hop), mtu: *mtu }))).collect();
        table
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn a_backend_behind_a_gateway_has_the_gateways_address_and_the_routes_mtu() {
        let mut table =
            table(&[("10.0.2.21", "10.0.1.1", Some(1400)), ("10.0.2.22", "10.0.1.1", Some(9000)), ("10.0.1.7", "10.0.1.7", None)]);
        table.neighbours.insert(ip("10.0.1.1"), NeighbourEntry::Valid(MAC));
        table.neighbours.insert(ip("10.0.1.7"), NeighbourEntry::Failed);
        let hops = table.next_hops();
        assert_eq!(hops.get(ip("10.0.2.21")), Some(NextHop { mac: MAC, mtu: 1400 }));
        assert_eq!(hops.get(ip("10.0.2.22")), Some(NextHop { mac: MAC, mtu: 1500 }), "never more than the interface's");
        assert_eq!(hops.status(ip("10.0.1.7")), Err(Unresolved::Unresponsive(ip("10.0.1.7"))));
        assert_eq!(table.due_probes(seconds(0)), [ip("10.0.1.1"), ip("10.0.1.7")], "a shared gateway is requested once");
    }

    #[test]
    fn the_files_neighbours_win() {
        let mut table = table(&[("10.0.2.21", "10.0.1.1", None), ("10.0.1.7", "10.0.1.7", None)]);
        table.routes.insert(ip("10.9.9.9"), Err(Unresolved::NoRoute));
        table.neighbours.insert(ip("10.0.1.1"), NeighbourEntry::Valid([9; 6]));
        for address in ["10.0.1.1", "10.0.1.7", "10.9.9.9"] {
            table.static_entries.insert(ip(address), MAC);
        }
        let hops = table.next_hops();
        for address in ["10.0.2.21", "10.0.1.7", "10.9.9.9"] {
            assert_eq!(hops.get(ip(address)).map(|h| h.mac), Some(MAC), "{address}");
        }
        assert!(table.due_probes(seconds(0)).is_empty());
    }

    #[test]
    fn an_unresponsive_neighbour_is_probed_ever_more_rarely_and_a_worker_expedites_it() {
        let mut table = table(&[("10.0.1.7", "10.0.1.7", None)]);
        let mut probes = Vec::new();
        for now in 0..100 {
            if !table.due_probes(seconds(now)).is_empty() {
                probes.push(now);
            }
        }
        assert_eq!(probes, [0, 1, 3, 7, 15, 31, 61, 91]);
        table.expedite(ip("10.0.1.7"));
        assert_eq!(table.next_probe(), Some(seconds(92)));
        assert_eq!(table.due_probes(seconds(100)).len(), 1);
    }

    #[test]
    fn a_neighbour_in_use_is_refreshed_and_requested_at_once_when_it_fails() {
        let mut table = table(&[("10.0.1.7", "10.0.1.7", None)]);
        table.neighbours.insert(ip("10.0.1.7"), NeighbourEntry::Valid(MAC));
        assert_eq!(table.due_probes(seconds(0)).len(), 1);
        assert!(table.due_probes(seconds(19)).is_empty());
        assert_eq!(table.due_probes(seconds(20)).len(), 1);
        table.neighbours.insert(ip("10.0.1.7"), NeighbourEntry::Failed);
        assert_eq!(table.due_probes(seconds(21)).len(), 1);
        assert!(table.due_probes(seconds(21)).is_empty());
        assert_eq!(table.next_probe(), Some(seconds(22)));
    }
}

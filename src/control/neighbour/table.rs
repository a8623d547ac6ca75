//! Routes and neighbours as the kernel reports them, and the next requests to it. No socket and no clock: time is passed in.

use super::path_mtu::PathMtus;
use crate::{Link, NextHops, Unresolved};
use guideway_dataplane::tables::{Addresses, NextHop, OutputInterface};
use guideway_packet::frame::LOOPBACK;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;

/// An unresponsive neighbour is probed again after this time, then after twice as long, and so on.
const MIN_RETRY: Duration = Duration::from_secs(1);
/// Maximum time between such probes.
const MAX_RETRY: Duration = Duration::from_secs(30);
/// The kernel checks a neighbour only when it is used, and does not see our packets. So it gets a hint at this interval.
const REFRESH_INTERVAL: Duration = Duration::from_secs(20);

/// The way to a server of this host. Its loopback takes whatever IP can carry.
const THIS_HOST: NextHop = NextHop { mac: [0; 6], mtu: u16::MAX, output: Some(OutputInterface { index: LOOPBACK, mac: [0; 6] }) };

/// A neighbour on an interface. Link-local addresses mean nothing without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Hop {
    /// The kernel's index of the interface.
    pub(super) interface: u32,
    /// The gateway, or the backend itself when it is on the link.
    pub(super) address: IpAddr,
}

/// The ways to one backend, as the kernel has them: several with ECMP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    /// At least one.
    pub(super) hops: Vec<Hop>,
    /// The route's own MTU in bytes.
    pub(super) mtu: Option<u32>,
}

/// An Ethernet interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Interface {
    pub(super) name: String,
    pub(super) link: Link,
    /// It is switched on and has a carrier.
    pub(super) up: bool,
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
    /// Index of our interface.
    pub(super) own: u32,
    /// The director's addresses: a backend with one of them is a server of this host.
    pub(super) addresses: Addresses,
    /// Every Ethernet interface, ours among them.
    pub(super) interfaces: HashMap<u32, Interface>,
    pub(super) routes: BTreeMap<IpAddr, Result<Route, Unresolved>>,
    neighbours: HashMap<Hop, NeighbourEntry>,
    /// `[[neighbour]]` entries of the file win over the kernel's.
    pub(super) static_entries: HashMap<IpAddr, [u8; 6]>,
    pub(super) path_mtus: PathMtus,
    /// Our own addresses that are on no interface.
    pub(super) missing_addresses: Vec<IpAddr>,
    /// Why the kernel does not resolve neighbours for us.
    pub(super) refused: Option<String>,
    probes: HashMap<Hop, Probe>,
    /// Interval at which the kernel gets a hint that a neighbour is in use.
    pub(super) refresh: Duration,
}

impl NeighbourTable {
    pub(super) fn new(own: u32, addresses: Addresses) -> NeighbourTable {
        NeighbourTable {
            own,
            addresses,
            interfaces: HashMap::new(),
            routes: BTreeMap::new(),
            neighbours: HashMap::new(),
            static_entries: HashMap::new(),
            path_mtus: PathMtus::default(),
            missing_addresses: Vec::new(),
            refused: None,
            probes: HashMap::new(),
            refresh: REFRESH_INTERVAL,
        }
    }

    /// Takes what the kernel says about a neighbour, or that it has forgotten it. Returns whether that changes anything.
    ///
    /// One that failed is taken for failed until it answers: the kernel forgets it from time to time, and asks again when we ask it to.
    pub(super) fn set_neighbour(&mut self, hop: Hop, entry: Option<NeighbourEntry>) -> bool {
        let before = self.neighbours.get(&hop).copied();
        if before == Some(NeighbourEntry::Failed) && matches!(entry, None | Some(NeighbourEntry::Incomplete)) {
            return false;
        }
        match entry {
            Some(entry) => self.neighbours.insert(hop, entry),
            None => self.neighbours.remove(&hop),
        };
        before != entry
    }

    /// Takes all that the kernel says.
    pub(super) fn set_neighbours(&mut self, entries: impl IntoIterator<Item = (Hop, NeighbourEntry)>) {
        let used: BTreeSet<Hop> = self.candidates().collect();
        self.neighbours.retain(|hop, entry| *entry == NeighbourEntry::Failed && used.contains(hop));
        for (hop, entry) in entries {
            self.set_neighbour(hop, Some(entry));
        }
    }

    /// The next hop of every backend.
    pub(super) fn next_hops(&self) -> NextHops {
        let link = self.interfaces.get(&self.own).map_or(Link { mac: [0; 6], mtu: 0 }, |interface| interface.link);
        let hop = |backend: &IpAddr, route: &Result<Route, Unresolved>| -> Result<NextHop, Unresolved> {
            if let Some(mac) = self.static_entries.get(backend) {
                let mtu = route.as_ref().ok().and_then(|r| r.mtu);
                return Ok(NextHop { mac: *mac, mtu: self.mtu(*backend, mtu, link), output: None });
            }
            if self.addresses.contains(*backend) && matches!(route, Err(Unresolved::RouteKind(kind)) if kind == "local") {
                return Ok(THIS_HOST);
            }
            let route = route.as_ref().map_err(Clone::clone)?;
            self.choose(*backend, route)
        };
        let hops = self.routes.iter().map(|(backend, route)| (*backend, hop(backend, route))).collect();
        NextHops { link, hops, missing_addresses: self.missing_addresses.clone(), refused: self.refused.clone() }
    }

    /// Chooses among the usable hops of a route by the backend's address, so that the backends share them.
    fn choose(&self, backend: IpAddr, route: &Route) -> Result<NextHop, Unresolved> {
        let first = match backend {
            IpAddr::V4(a) => a.octets()[3],
            IpAddr::V6(a) => a.octets()[15],
        };
        let rotated = route.hops.iter().cycle().skip(usize::from(first) % route.hops.len().max(1)).take(route.hops.len());
        let rank = |found: &Result<NextHop, Unresolved>| match found {
            Ok(_) => 0,
            Err(Unresolved::Pending(_)) => 1,
            Err(_) => 2,
        };
        rotated.map(|hop| self.resolve(backend, hop, route.mtu)).min_by_key(rank).unwrap_or(Err(Unresolved::NoRoute))
    }

    /// The next hop by `hop`, or why there is none.
    fn resolve(&self, backend: IpAddr, hop: &Hop, mtu: Option<u32>) -> Result<NextHop, Unresolved> {
        let Some(interface) = self.interfaces.get(&hop.interface) else { return Err(Unresolved::NoEthernet(hop.interface)) };
        let mac = match (self.static_entries.get(&hop.address), self.neighbours.get(hop)) {
            (Some(mac), _) => *mac,
            _ if !interface.up => return Err(Unresolved::NoLink(interface.name.clone())),
            (None, Some(NeighbourEntry::Valid(mac) | NeighbourEntry::Permanent(mac))) => *mac,
            (None, Some(NeighbourEntry::Failed)) => return Err(Unresolved::Unresponsive(hop.address)),
            (None, Some(NeighbourEntry::Incomplete) | None) => return Err(Unresolved::Pending(hop.address)),
        };
        let output = (hop.interface != self.own).then_some(OutputInterface { index: hop.interface, mac: interface.link.mac });
        Ok(NextHop { mac, mtu: self.mtu(backend, mtu, interface.link), output })
    }

    fn mtu(&self, backend: IpAddr, route: Option<u32>, link: Link) -> u16 {
        let route = route.and_then(|mtu| u16::try_from(mtu).ok()).filter(|mtu| *mtu > 0);
        route.into_iter().chain(self.path_mtus.get(backend)).fold(link.mtu, u16::min)
    }

    /// The hops of all routes.
    fn candidates(&self) -> impl Iterator<Item = Hop> {
        let routed = self.routes.iter().filter(|(backend, _)| !self.static_entries.contains_key(backend));
        routed.filter_map(|(_, route)| route.as_ref().ok()).flat_map(|route| &route.hops).copied()
    }

    /// The neighbours that the kernel has to resolve for us.
    fn hops(&self) -> BTreeSet<Hop> {
        let configured = |hop: &Hop| {
            self.static_entries.contains_key(&hop.address) || matches!(self.neighbours.get(hop), Some(NeighbourEntry::Permanent(_)))
        };
        let up = |hop: &Hop| self.interfaces.get(&hop.interface).is_some_and(|interface| interface.up);
        self.candidates().filter(|hop| !configured(hop) && up(hop)).collect()
    }

    /// Whether a route leads over this neighbour.
    pub(super) fn uses(&self, hop: &Hop) -> bool {
        self.candidates().any(|candidate| candidate == *hop)
    }

    fn valid(&self, hop: &Hop) -> bool {
        matches!(self.neighbours.get(hop), Some(NeighbourEntry::Valid(_)))
    }

    fn due(&self, hop: &Hop) -> Duration {
        match self.probes.get(hop) {
            None => Duration::ZERO,
            Some(probe) if self.valid(hop) => probe.at + self.refresh,
            // It was usable until now: the first probe is not delayed.
            Some(probe) if probe.valid => Duration::ZERO,
            Some(probe) => probe.at + probe.wait,
        }
    }

    /// Returns the neighbours to request from the kernel now, and counts them as requested.
    pub(super) fn due_probes(&mut self, now: Duration) -> Vec<Hop> {
        let hops = self.hops();
        self.probes.retain(|hop, _| hops.contains(hop));
        let due: Vec<Hop> = hops.into_iter().filter(|hop| self.due(hop) <= now).collect();
        for hop in &due {
            let valid = self.valid(hop);
            let before = self.probes.get(hop).filter(|probe| !probe.valid).map_or(Duration::ZERO, |probe| probe.wait);
            let wait = if valid { Duration::ZERO } else { (before * 2).clamp(MIN_RETRY, MAX_RETRY) };
            self.probes.insert(*hop, Probe { at: now, wait, valid });
        }
        due
    }

    /// When [`NeighbourTable::due_probes`] has something next, or a path MTU expires.
    pub(super) fn next_timer(&self) -> Option<Duration> {
        self.hops().iter().map(|hop| self.due(hop)).chain(self.path_mtus.next_expiry()).min()
    }

    /// A worker has packets for `backend` and no next hop: do not wait long.
    pub(super) fn expedite(&mut self, backend: IpAddr) {
        let Some(Ok(route)) = self.routes.get(&backend) else { return };
        for hop in &route.hops {
            if let Some(probe) = self.probes.get_mut(hop) {
                probe.wait = probe.wait.min(MIN_RETRY);
            }
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

    const OWN: u32 = 3;
    const OTHER: u32 = 4;

    fn interface(name: &str, mac: [u8; 6]) -> Interface {
        Interface { name: name.into(), link: Link { mac, mtu: 1500 }, up: true }
    }

    fn table(routes: &[(&str, &str, Option<u32>)]) -> NeighbourTable {
        let mut table = NeighbourTable::new(OWN, Addresses { v4: Some([10, 0, 1, 11].into()), v6: None });
        table.interfaces.insert(OWN, interface("eth0", [2; 6]));
        table.routes = routes.iter().map(|(to, hop, mtu)| (ip(to), Ok(Route { hops: vec![on(OWN, hop)], mtu: *mtu }))).collect();
        table
    }

    fn on(interface: u32, address: &str) -> Hop {
        Hop { interface, address: ip(address) }
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn a_backend_behind_a_gateway_has_the_gateways_address_and_the_routes_mtu() {
        let mut table =
            table(&[("10.0.2.21", "10.0.1.1", Some(1400)), ("10.0.2.22", "10.0.1.1", Some(9000)), ("10.0.1.7", "10.0.1.7", None)]);
        table.set_neighbour(on(OWN, "10.0.1.1"), Some(NeighbourEntry::Valid(MAC)));
        table.set_neighbour(on(OWN, "10.0.1.7"), Some(NeighbourEntry::Failed));
        let hops = table.next_hops();
        assert_eq!(hops.get(ip("10.0.2.21")), Some(NextHop { mac: MAC, mtu: 1400, output: None }));
        assert_eq!(hops.get(ip("10.0.2.22")), Some(NextHop { mac: MAC, mtu: 1500, output: None }), "never more than the interface's");
        assert_eq!(hops.status(ip("10.0.1.7")), Err(Unresolved::Unresponsive(ip("10.0.1.7"))));
        assert_eq!(table.due_probes(seconds(0)), [on(OWN, "10.0.1.1"), on(OWN, "10.0.1.7")], "a shared gateway is requested once");
    }

    #[test]
    fn a_backend_at_the_directors_address_is_a_server_of_this_host() {
        let mut table = table(&[]);
        for local in ["10.0.1.11", "10.0.1.12"] {
            table.routes.insert(ip(local), Err(Unresolved::RouteKind("local".into())));
        }
        let hops = table.next_hops();
        assert_eq!(hops.get(ip("10.0.1.11")), Some(THIS_HOST));
        assert!(hops.is_unreachable(ip("10.0.1.12")), "GRE to another address of this host is taken by nobody");
        table.routes.insert(ip("10.0.1.11"), Err(Unresolved::NoRoute));
        assert!(table.next_hops().is_unreachable(ip("10.0.1.11")), "the address is not on this host");
        assert!(table.due_probes(seconds(0)).is_empty());
    }

    #[test]
    fn the_files_neighbours_win() {
        let mut table = table(&[("10.0.2.21", "10.0.1.1", None), ("10.0.1.7", "10.0.1.7", None)]);
        table.routes.insert(ip("10.9.9.9"), Err(Unresolved::NoRoute));
        table.set_neighbour(on(OWN, "10.0.1.1"), Some(NeighbourEntry::Valid([9; 6])));
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
        assert_eq!(table.next_timer(), Some(seconds(92)));
        assert_eq!(table.due_probes(seconds(100)).len(), 1);
    }

    #[test]
    fn a_neighbour_in_use_is_refreshed_and_requested_at_once_when_it_fails() {
        let mut table = table(&[("10.0.1.7", "10.0.1.7", None)]);
        table.set_neighbour(on(OWN, "10.0.1.7"), Some(NeighbourEntry::Valid(MAC)));
        assert_eq!(table.due_probes(seconds(0)).len(), 1);
        assert!(table.due_probes(seconds(19)).is_empty());
        assert_eq!(table.due_probes(seconds(20)).len(), 1);
        table.set_neighbour(on(OWN, "10.0.1.7"), Some(NeighbourEntry::Failed));
        assert_eq!(table.due_probes(seconds(21)).len(), 1);
        assert!(table.due_probes(seconds(21)).is_empty());
        assert_eq!(table.next_timer(), Some(seconds(22)));
    }

    #[test]
    fn of_two_uplinks_both_are_used_while_both_can_be() {
        let mut table = table(&[]);
        table.interfaces.insert(OTHER, interface("eth1", [4; 6]));
        let (ours, theirs) = (on(OWN, "10.0.1.1"), on(OTHER, "10.0.3.1"));
        for backend in ["10.0.2.21", "10.0.2.22"] {
            table.routes.insert(ip(backend), Ok(Route { hops: vec![ours, theirs], mtu: None }));
        }
        let other = OutputInterface { index: OTHER, mac: [4; 6] };
        let outputs = |table: &NeighbourTable| {
            ["10.0.2.21", "10.0.2.22"].map(|a| table.next_hops().status(ip(a)).map(|hop| hop.output).map_err(|e| e.to_string()))
        };
        assert_eq!(table.due_probes(seconds(0)), [ours, theirs], "both are asked for");
        assert!(table.set_neighbour(theirs, Some(NeighbourEntry::Valid(MAC))));
        assert_eq!(outputs(&table), [Ok(Some(other)), Ok(Some(other))], "one that answers is better than one that may");
        table.set_neighbour(ours, Some(NeighbourEntry::Valid(MAC)));
        assert_eq!(outputs(&table), [Ok(Some(other)), Ok(None)]);
        table.set_neighbour(ours, Some(NeighbourEntry::Failed));
        assert_eq!(outputs(&table), [Ok(Some(other)), Ok(Some(other))]);
        table.set_neighbour(ours, Some(NeighbourEntry::Valid(MAC)));
        table.interfaces.get_mut(&OTHER).unwrap().up = false;
        assert_eq!(outputs(&table), [Ok(None), Ok(None)], "no cable");
        table.interfaces.get_mut(&OWN).unwrap().up = false;
        let why = "eth1, by which the kernel's route to it leaves, has no link: it is switched off, or has no carrier";
        assert_eq!(outputs(&table)[0], Err(why.to_owned()));
        assert!(table.due_probes(seconds(100)).is_empty());
    }

    #[test]
    fn gateways_on_one_interface_share_the_backends() {
        let mut table = table(&[]);
        let gateways = [on(OWN, "10.0.1.1"), on(OWN, "10.0.1.2")];
        for (n, gateway) in gateways.iter().enumerate() {
            table.set_neighbour(*gateway, Some(NeighbourEntry::Valid([n as u8; 6])));
        }
        for last in 0..10 {
            table.routes.insert(ip(&format!("10.0.2.{last}")), Ok(Route { hops: gateways.to_vec(), mtu: None }));
        }
        assert_eq!(table.next_hops().hops.values().filter(|hop| hop.as_ref().unwrap().mac == [0; 6]).count(), 5);
    }

    #[test]
    fn a_neighbour_that_failed_stays_so_until_it_answers() {
        let mut table = table(&[("10.0.1.7", "10.0.1.7", None)]);
        let hop = on(OWN, "10.0.1.7");
        let failed = Err(Unresolved::Unresponsive(ip("10.0.1.7")));
        assert!(table.set_neighbour(hop, Some(NeighbourEntry::Failed)));
        for entry in [None, Some(NeighbourEntry::Incomplete), Some(NeighbourEntry::Failed)] {
            assert!(!table.set_neighbour(hop, entry), "{entry:?}");
            assert_eq!(table.next_hops().status(ip("10.0.1.7")), failed);
        }
        table.set_neighbours([(on(OWN, "10.0.1.9"), NeighbourEntry::Failed)]);
        assert_eq!(table.next_hops().status(ip("10.0.1.7")), failed);
        assert!(table.set_neighbour(hop, Some(NeighbourEntry::Valid(MAC))));
        assert!(table.next_hops().get(ip("10.0.1.7")).is_some());
        table.routes.clear();
        table.set_neighbours([]);
        assert!(table.neighbours.is_empty(), "what no route leads to is not remembered");
    }
}

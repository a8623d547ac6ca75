//! What the kernel has said about routes and neighbours, and what it should be asked next. No socket and no clock: time is passed in.

use crate::{Link, NextHops, Unresolved};
use guideway_dataplane::tables::NextHop;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;

/// A neighbour that did not answer is asked again after this, then after twice as long, and so on.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// But at least so often.
const LAST_RETRY: Duration = Duration::from_secs(30);
/// The kernel checks a neighbour only when it is used, and does not see what we send: it is told so often.
const REFRESH: Duration = Duration::from_secs(20);

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
pub(super) enum Entry {
    /// Usable, as it answered.
    Usable([u8; 6]),
    /// Usable, because somebody said so. To ask for it would make the kernel forget that.
    Kept([u8; 6]),
    /// It is being asked for.
    Asking,
    /// It did not answer.
    Failed,
}

/// What was asked of the kernel for one neighbour.
#[derive(Clone, Copy, Debug)]
struct Ask {
    at: Duration,
    /// Until the next time, should it stay unusable.
    wait: Duration,
    /// Whether it was usable when it was asked for.
    usable: bool,
}

/// Routes and neighbours. Times are since any fixed instant.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) link: Link,
    pub(super) routes: BTreeMap<IpAddr, Result<Route, Unresolved>>,
    pub(super) neighbours: HashMap<IpAddr, Entry>,
    /// `[[neighbour]]` entries of the file win over the kernel's.
    pub(super) fixed: HashMap<IpAddr, [u8; 6]>,
    asked: HashMap<IpAddr, Ask>,
    /// How often the kernel is told that a neighbour is in use.
    pub(super) refresh: Duration,
}

impl Known {
    pub(super) fn new(link: Link) -> Known {
        Known { link, routes: BTreeMap::new(), neighbours: HashMap::new(), fixed: HashMap::new(), asked: HashMap::new(), refresh: REFRESH }
    }

    /// The next hop of every backend.
    pub(super) fn next_hops(&self) -> NextHops {
        let hop = |backend: &IpAddr, route: &Result<Route, Unresolved>| -> Result<NextHop, Unresolved> {
            if let Some(mac) = self.fixed.get(backend) {
                let mtu = route.as_ref().ok().and_then(|r| r.mtu);
                return Ok(NextHop { mac: *mac, mtu: self.mtu(mtu) });
            }
            let route = route.clone()?;
            match (self.fixed.get(&route.hop), self.neighbours.get(&route.hop)) {
                (Some(mac), _) | (None, Some(Entry::Usable(mac) | Entry::Kept(mac))) => Ok(NextHop { mac: *mac, mtu: self.mtu(route.mtu) }),
                (None, Some(Entry::Failed)) => Err(Unresolved::Silent(route.hop)),
                (None, Some(Entry::Asking) | None) => Err(Unresolved::Asked(route.hop)),
            }
        };
        NextHops { link: self.link, hops: self.routes.iter().map(|(backend, route)| (*backend, hop(backend, route))).collect() }
    }

    fn mtu(&self, route: Option<u32>) -> u16 {
        route.and_then(|mtu| u16::try_from(mtu).ok()).filter(|mtu| *mtu > 0).map_or(self.link.mtu, |mtu| mtu.min(self.link.mtu))
    }

    /// The neighbours that the kernel has to resolve for us.
    fn hops(&self) -> BTreeSet<IpAddr> {
        let routed = self.routes.iter().filter(|(backend, _)| !self.fixed.contains_key(backend));
        let told = |hop: &IpAddr| self.fixed.contains_key(hop) || matches!(self.neighbours.get(hop), Some(Entry::Kept(_)));
        routed.filter_map(|(_, route)| route.as_ref().ok()).map(|r| r.hop).filter(|hop| !told(hop)).collect()
    }

    fn usable(&self, hop: &IpAddr) -> bool {
        matches!(self.neighbours.get(hop), Some(Entry::Usable(_)))
    }

    fn due(&self, hop: &IpAddr) -> Duration {
        match self.asked.get(hop) {
            None => Duration::ZERO,
            Some(ask) if self.usable(hop) => ask.at + self.refresh,
            // It was usable until now: the first question is not delayed.
            Some(ask) if ask.usable => Duration::ZERO,
            Some(ask) => ask.at + ask.wait,
        }
    }

    /// Neighbours that the kernel is to be asked for now; they count as asked.
    pub(super) fn ask_now(&mut self, now: Duration) -> Vec<IpAddr> {
        let hops = self.hops();
        self.asked.retain(|hop, _| hops.contains(hop));
        let due: Vec<IpAddr> = hops.into_iter().filter(|hop| self.due(hop) <= now).collect();
        for hop in &due {
            let usable = self.usable(hop);
            let before = self.asked.get(hop).filter(|ask| !ask.usable).map_or(Duration::ZERO, |ask| ask.wait);
            let wait = if usable { Duration::ZERO } else { (before * 2).clamp(FIRST_RETRY, LAST_RETRY) };
            self.asked.insert(*hop, Ask { at: now, wait, usable });
        }
        due
    }

    /// When [`Known::ask_now`] has something next.
    pub(super) fn next_ask(&self) -> Option<Duration> {
        self.hops().iter().map(|hop| self.due(hop)).min()
    }

    /// A worker has packets for `backend` and no next hop: do not wait long.
    pub(super) fn hurry(&mut self, backend: IpAddr) {
        if let Some(Ok(route)) = self.routes.get(&backend)
            && let Some(ask) = self.asked.get_mut(&route.hop)
        {
            ask.wait = ask.wait.min(FIRST_RETRY);
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

    fn known(routes: &[(&str, &str, Option<u32>)]) -> Known {
        let mut known = Known::new(Link { mac: [2; 6], mtu: 1500 });
        known.routes = routes.iter().map(|(to, hop, mtu)| (ip(to), Ok(Route { hop: ip(hop), mtu: *mtu }))).collect();
        known
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn a_backend_behind_a_gateway_has_the_gateways_address_and_the_routes_mtu() {
        let mut known =
            known(&[("10.0.2.21", "10.0.1.1", Some(1400)), ("10.0.2.22", "10.0.1.1", Some(9000)), ("10.0.1.7", "10.0.1.7", None)]);
        known.neighbours.insert(ip("10.0.1.1"), Entry::Usable(MAC));
        known.neighbours.insert(ip("10.0.1.7"), Entry::Failed);
        let hops = known.next_hops();
        assert_eq!(hops.get(ip("10.0.2.21")), Some(NextHop { mac: MAC, mtu: 1400 }));
        assert_eq!(hops.get(ip("10.0.2.22")), Some(NextHop { mac: MAC, mtu: 1500 }), "never more than the interface's");
        assert_eq!(hops.status(ip("10.0.1.7")), Err(Unresolved::Silent(ip("10.0.1.7"))));
        assert_eq!(known.ask_now(seconds(0)), [ip("10.0.1.1"), ip("10.0.1.7")], "a shared gateway is asked for once");
    }

    #[test]
    fn the_files_neighbours_win() {
        let mut known = known(&[("10.0.2.21", "10.0.1.1", None), ("10.0.1.7", "10.0.1.7", None)]);
        known.routes.insert(ip("10.9.9.9"), Err(Unresolved::NoRoute));
        known.neighbours.insert(ip("10.0.1.1"), Entry::Usable([9; 6]));
        for address in ["10.0.1.1", "10.0.1.7", "10.9.9.9"] {
            known.fixed.insert(ip(address), MAC);
        }
        let hops = known.next_hops();
        for address in ["10.0.2.21", "10.0.1.7", "10.9.9.9"] {
            assert_eq!(hops.get(ip(address)).map(|h| h.mac), Some(MAC), "{address}");
        }
        assert!(known.ask_now(seconds(0)).is_empty());
    }

    #[test]
    fn a_silent_neighbour_is_asked_ever_more_rarely_and_a_worker_makes_it_soon_again() {
        let mut known = known(&[("10.0.1.7", "10.0.1.7", None)]);
        let mut asked = Vec::new();
        for now in 0..100 {
            if !known.ask_now(seconds(now)).is_empty() {
                asked.push(now);
            }
        }
        assert_eq!(asked, [0, 1, 3, 7, 15, 31, 61, 91]);
        known.hurry(ip("10.0.1.7"));
        assert_eq!(known.next_ask(), Some(seconds(92)));
        assert_eq!(known.ask_now(seconds(100)).len(), 1);
    }

    #[test]
    fn a_neighbour_in_use_is_refreshed_and_asked_for_at_once_when_it_fails() {
        let mut known = known(&[("10.0.1.7", "10.0.1.7", None)]);
        known.neighbours.insert(ip("10.0.1.7"), Entry::Usable(MAC));
        assert_eq!(known.ask_now(seconds(0)).len(), 1);
        assert!(known.ask_now(seconds(19)).is_empty());
        assert_eq!(known.ask_now(seconds(20)).len(), 1);
        known.neighbours.insert(ip("10.0.1.7"), Entry::Failed);
        assert_eq!(known.ask_now(seconds(21)).len(), 1);
        assert!(known.ask_now(seconds(21)).is_empty());
        assert_eq!(known.next_ask(), Some(seconds(22)));
    }
}

//! The next hop towards each backend, or the reason why it is not known.

use guideway_config::{Config, Io};
use guideway_dataplane::tables::NextHop;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// MTU in bytes where no interface has another one.
const DEFAULT_MTU: u16 = 1500;

/// Our interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Link-layer address.
    pub mac: [u8; 6],
    /// MTU in bytes.
    pub mtu: u16,
}

/// Why a backend's next hop is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unresolved {
    /// The routes were not looked up yet.
    #[error("its route was not looked up yet")]
    NotLookedUp,
    /// The neighbour is not known yet; the kernel resolves it.
    #[error("{0} has no link-layer address yet; the kernel resolves it")]
    Pending(IpAddr),
    /// The neighbour did not answer.
    #[error("{0} does not answer the kernel's ARP or neighbour discovery")]
    Unresponsive(IpAddr),
    /// The kernel has no route.
    #[error("the kernel has no route to it")]
    NoRoute,
    /// The route is of a kind that leads to no neighbour.
    #[error("the kernel's route to it is `{0}`, which leads to no neighbour")]
    RouteKind(String),
    /// The route leaves by an interface that the director cannot send by.
    #[error("the kernel's route to it leaves by interface {0}, which is not Ethernet")]
    NoEthernet(u32),
    /// The route leaves by an interface that is down.
    #[error("{0}, by which the kernel's route to it leaves, has no link: it is switched off, or has no carrier")]
    NoLink(String),
}

/// Next hops by backend address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextHops {
    /// Our interface.
    pub link: Link,
    /// The next hop of each requested address.
    pub hops: BTreeMap<IpAddr, Result<NextHop, Unresolved>>,
    /// The director's own addresses that are on no interface of its host.
    pub missing_addresses: Vec<IpAddr>,
    /// Why the kernel does not resolve neighbours for the director.
    pub refused: Option<String>,
}

impl NextHops {
    /// Returns the next hops of the file's `[[neighbour]]`, for commands that run without the kernel's neighbours.
    pub fn from_config(config: &Config) -> NextHops {
        let link = match config.director.io {
            Io::Pcap { mac, mtu } => Link { mac, mtu },
            _ => Link { mac: [0; 6], mtu: DEFAULT_MTU },
        };
        let hops = config.neighbours.iter().map(|n| (n.address, Ok(NextHop { mac: n.mac, mtu: link.mtu, output: None }))).collect();
        NextHops { link, hops, missing_addresses: Vec::new(), refused: None }
    }

    /// Returns the next hop towards `address`, if it is known.
    pub fn get(&self, address: IpAddr) -> Option<NextHop> {
        self.hops.get(&address)?.as_ref().ok().copied()
    }

    /// Returns the next hop towards `address`, or why it is not known.
    pub fn status(&self, address: IpAddr) -> Result<NextHop, Unresolved> {
        self.hops.get(&address).cloned().unwrap_or(Err(Unresolved::NotLookedUp))
    }

    /// Returns whether the kernel knows that packets cannot reach `address`. One that it still resolves may become reachable at any moment.
    pub fn is_unreachable(&self, address: IpAddr) -> bool {
        match self.hops.get(&address) {
            None | Some(Ok(_) | Err(Unresolved::NotLookedUp | Unresolved::Pending(_))) => false,
            Some(Err(
                Unresolved::Unresponsive(_)
                | Unresolved::NoRoute
                | Unresolved::RouteKind(_)
                | Unresolved::NoEthernet(_)
                | Unresolved::NoLink(_),
            )) => true,
        }
    }
}

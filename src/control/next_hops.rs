//! What is known of the way to each backend: link, next hop, or why there is none.

use guideway_config::{Config, Io};
use guideway_dataplane::tables::NextHop;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// MTU in bytes where no interface says another one.
const USUAL_MTU: u16 = 1500;

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
    New,
    /// Nothing is known of the neighbour; the kernel was asked.
    #[error("{0} has no link-layer address yet; the kernel was asked to resolve it")]
    Asked(IpAddr),
    /// The neighbour did not answer.
    #[error("{0} does not answer the kernel's ARP or neighbour discovery")]
    Silent(IpAddr),
    /// The kernel has no route.
    #[error("the kernel has no route to it")]
    NoRoute,
    /// The route is of a kind that forwards nothing out of our interface.
    #[error("the kernel's route to it is `{0}`, which leads to no neighbour")]
    RouteKind(String),
    /// The route leaves by another interface.
    #[error("the kernel's route to it leaves by interface {0}, not by the one that the director sends on")]
    OtherInterface(u32),
}

/// Next hops by backend address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextHops {
    /// Our interface.
    pub link: Link,
    /// What is known of each backend address that was asked for.
    pub hops: BTreeMap<IpAddr, Result<NextHop, Unresolved>>,
}

impl NextHops {
    /// Those that the file gives by `[[neighbour]]`, for the commands that run without a kernel's neighbours.
    pub fn fixed(config: &Config) -> NextHops {
        let link = match config.director.io {
            Io::Pcap { mac, mtu } => Link { mac, mtu },
            _ => Link { mac: [0; 6], mtu: USUAL_MTU },
        };
        let hops = config.neighbours.iter().map(|n| (n.address, Ok(NextHop { mac: n.mac, mtu: link.mtu }))).collect();
        NextHops { link, hops }
    }

    /// Where frames to `address` go, if that is known.
    pub fn get(&self, address: IpAddr) -> Option<NextHop> {
        self.hops.get(&address)?.as_ref().ok().copied()
    }

    /// Where frames to `address` go, or why that is not known.
    pub fn status(&self, address: IpAddr) -> Result<NextHop, Unresolved> {
        self.hops.get(&address).cloned().unwrap_or(Err(Unresolved::New))
    }

    /// Whether the packet path would see a difference.
    pub fn same_for_packets(&self, other: &NextHops) -> bool {
        let usable = |hops: &NextHops| hops.hops.iter().filter_map(|(a, hop)| Some((*a, hop.as_ref().ok().copied()?))).collect::<Vec<_>>();
        self.link == other.link && usable(self) == usable(other)
    }
}

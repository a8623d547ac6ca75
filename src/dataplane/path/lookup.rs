//! Lookups in the tables by address, and the memory of the last ones: most packets of a batch come from the same routers to the same service.

use crate::tables::{PortRange, Service, Snapshot, Vip};
use guideway_hash::ClientHasher;
use guideway_packet::wire::layout::protocol::{GRE, UDP};
use guideway_packet::wire::plain::Address;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Lookups in the tables by an IPv4 or an IPv6 address.
pub trait Family: Address + Into<IpAddr> {
    /// The last lookups of this family.
    fn last<'l, 't>(last: &'l mut LastLookups<'t>) -> &'l mut Option<LastLookup<'t, Self>>;
    /// Our own address.
    fn local_address(tables: &Snapshot) -> Option<Self>;
    /// Whether this address may send us GRE.
    fn is_router(self, tables: &Snapshot) -> bool;
    /// The VIP at this address.
    fn vip(self, tables: &Snapshot) -> Option<&Vip>;
    /// Quick hash of the client that sent `packet`, which has no options or extension headers.
    fn hash_client(packet: &[u8], hasher: &ClientHasher) -> Option<u64>;
    /// Hash of a flow.
    fn hash(protocol: u8, client: Self, vip: Self, client_port: u16, server_port: u16, tables: &Snapshot) -> u64;
}

macro_rules! family {
    ($address:ty, $number:ty, $family:ident, $is_router:ident, $vip:ident, $hash:ident) => {
        impl Family for $address {
            #[inline(always)]
            fn last<'l, 't>(last: &'l mut LastLookups<'t>) -> &'l mut Option<LastLookup<'t, Self>> {
                &mut last.$family
            }

            #[inline(always)]
            fn local_address(tables: &Snapshot) -> Option<Self> {
                tables.address.$family
            }

            #[inline(always)]
            fn is_router(self, tables: &Snapshot) -> bool {
                tables.routers.$is_router(self) && !(tables.local_server.is_some() && tables.fleet.contains(self.into()))
            }

            #[inline(always)]
            fn vip(self, tables: &Snapshot) -> Option<&Vip> {
                tables.vips.$vip(self)
            }

            #[inline(always)]
            fn hash_client(packet: &[u8], hasher: &ClientHasher) -> Option<u64> {
                let (source, port) = <$address>::client(packet)?;
                Some(hasher.$family(<$number>::from_ne_bytes(source.octets()), port))
            }

            #[inline(always)]
            fn hash(protocol: u8, client: Self, vip: Self, client_port: u16, server_port: u16, tables: &Snapshot) -> u64 {
                tables.hash.$hash(protocol, client, vip, client_port, server_port)
            }
        }
    };
}

family! { Ipv4Addr, u32, v4, contains_v4, get_v4, flow_v4 }
family! { Ipv6Addr, u128, v6, contains_v6, get_v6, flow_v6 }

/// The last lookups, by family. They hold for one batch, in which the tables do not change.
#[derive(Debug, Default)]
pub struct LastLookups<'t> {
    v4: Option<LastLookup<'t, Ipv4Addr>>,
    v6: Option<LastLookup<'t, Ipv6Addr>>,
}

/// The lookups for a UDP packet in GRE over its own family.
#[derive(Clone, Copy, Debug)]
pub struct LastLookup<'t, A> {
    local_address: A,
    router: A,
    vip: A,
    ports: PortRange,
    service: &'t Service,
}

impl<'t, A: Family> LastLookup<'t, A> {
    /// Looks up a packet from `router` to `vip`.
    pub fn new(router: A, vip: A, port: u16, tables: &'t Snapshot) -> Option<Self> {
        let ports = vip.vip(tables)?.port_range(UDP, port)?;
        let service = tables.services.get(usize::from(ports.service))?;
        Some(LastLookup { local_address: A::local_address(tables)?, router, vip, ports, service })
    }

    /// Whether these (source, destination, protocol) are GRE from a router to us, and around UDP to the same VIP. Remembers the router.
    #[inline(always)]
    pub fn fits(&mut self, outer: (A, A, u8), inner: (A, A, u8), tables: &Snapshot) -> bool {
        (outer.1, outer.2) == (self.local_address, GRE)
            && (inner.1, inner.2) == (self.vip, UDP)
            && (outer.0 == self.router || self.change_router(outer.0, tables))
    }

    #[cold]
    #[inline(never)]
    fn change_router(&mut self, router: A, tables: &Snapshot) -> bool {
        let allowed = router.is_router(tables);
        if allowed {
            self.router = router;
        }
        allowed
    }

    /// The service, if it is the same for this port.
    #[inline(always)]
    pub fn service(&self, port: u16) -> Option<&'t Service> {
        self.ports.contains(port).then_some(self.service)
    }
}

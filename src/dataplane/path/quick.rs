//! The short way through the first four stages, for what nearly every packet is: whole, without options or extension headers, of a flow of a service.
//!
//! It decides nothing of its own: what it does not recognise at a glance, right or wrong, takes the long way, and for what it does recognise both ways
//! come to the same plan (a test compares them). It reads each header with a few wide loads, and carries from the first pass to the second 40 bytes.

use super::encap::Envelope;
use super::select::{By, Choice, Plan, Steering, steer};
use crate::tables::Key;
use crate::tables::{Kind, Service, Snapshot, Vip};
use guideway_packet::wire::ethernet::{IPV4, IPV6};
use guideway_packet::wire::gre;
use guideway_packet::wire::l4::{TCP, UDP};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What the first pass found out about an ordinary packet.
#[derive(Clone, Copy, Debug)]
pub struct Quick<'t> {
    /// What is left to do for it.
    pub plan: Plan,
    /// Its service.
    pub service: &'t Service,
    /// What wrapping it takes.
    pub envelope: Envelope,
}

/// Looks at a frame, and leaves in `found`, which is `None`, what it found out. Otherwise the frame has to go the long way.
///
/// The result is written where it is found, once: handed back through so many ends, it would be moved about more than it took to find out.
#[inline(always)]
pub fn look<'t>(frame: &[u8], tables: &'t Snapshot, found: &mut Option<Quick<'t>>) -> Option<()> {
    // Every combination of tag and families is compiled for itself, with the places of all fields known; that of most networks stands in the caller's loop.
    match be16(frame.first_chunk::<{ SHORTEST }>()?, 12) {
        IPV4 => outer::<Ipv4Addr, UNTAGGED>(frame, tables, found),
        other => unusual(frame, other, tables, found),
    }
}

/// Bytes of the shortest frame that is looked at: a plain IPv4 packet with 8 bytes of payload.
const SHORTEST: usize = UNTAGGED + 28;
const UNTAGGED: usize = 14;
const TAGGED: usize = 18;

/// The same over IPv6, or with a VLAN tag.
#[inline(never)]
fn unusual<'t>(frame: &[u8], ethertype: u16, tables: &'t Snapshot, found: &mut Option<Quick<'t>>) -> Option<()> {
    const VLAN: u16 = 0x8100;
    match ethertype {
        IPV6 => outer::<Ipv6Addr, UNTAGGED>(frame, tables, found),
        VLAN => match be16(frame.first_chunk::<{ SHORTEST }>()?, 16) {
            IPV4 => outer::<Ipv4Addr, TAGGED>(frame, tables, found),
            IPV6 => outer::<Ipv6Addr, TAGGED>(frame, tables, found),
            _ => None,
        },
        _ => None,
    }
}

/// The outermost header is GRE from a router to us, or that of a client's packet which came as it is.
#[inline(always)]
fn outer<'t, O: Family, const L2: usize>(frame: &[u8], tables: &'t Snapshot, found: &mut Option<Quick<'t>>) -> Option<()> {
    const GRE_IPV4: u32 = IPV4 as u32;
    const GRE_IPV6: u32 = IPV6 as u32;
    let head = O::head(frame.get(L2..)?)?;
    let from = From { l2: L2 as u8, ttl: head.ttl, tos: head.tos, inner: (L2 + O::LEN + 4) as u16 };
    if O::ours(tables) != Some(head.destination) {
        let from = From { inner: L2 as u16, ..from };
        return if frame.starts_with(&tables.mac) { plain(head, from, tables, found) } else { None };
    }
    if head.protocol != gre::PROTOCOL || !O::is_router(head.source, tables) {
        return None;
    }
    // A GRE header without optional fields.
    let (gre, inner) = head.payload.split_first_chunk::<4>()?;
    match (u32::from_be_bytes(*gre), O::LEN) {
        (GRE_IPV4, 20) => flow(Ipv4Addr::head(inner)?, from, tables, found),
        (GRE_IPV4, _) => mixed::<Ipv4Addr>(inner, from, tables, found),
        (GRE_IPV6, 40) => flow(Ipv6Addr::head(inner)?, from, tables, found),
        (GRE_IPV6, _) => mixed::<Ipv6Addr>(inner, from, tables, found),
        _ => None,
    }
}

/// How the client's packet came.
#[derive(Clone, Copy)]
struct From {
    l2: u8,
    ttl: u8,
    tos: u8,
    inner: u16,
}

/// Without GRE.
#[inline(never)]
fn plain<'t, I: Family>(head: Head<'_, I>, from: From, tables: &'t Snapshot, found: &mut Option<Quick<'t>>) -> Option<()> {
    flow(head, from, tables, found)
}

/// In GRE over the other family.
#[inline(never)]
fn mixed<'t, I: Family>(inner: &[u8], from: From, tables: &'t Snapshot, found: &mut Option<Quick<'t>>) -> Option<()> {
    flow(I::head(inner)?, from, tables, found)
}

/// The client's packet is of a flow.
#[inline(always)]
fn flow<'t, I: Family>(head: Head<'_, I>, from: From, tables: &'t Snapshot, found: &mut Option<Quick<'t>>) -> Option<()> {
    let ports = ports(head.protocol, head.payload)?;
    let id = I::vip(head.destination, tables)?.service(head.protocol, ports.server)?;
    let service = tables.services.get(usize::from(id))?;
    let From { l2, ttl, tos, inner } = from;
    let envelope = Envelope { l2, ttl, tos, ethertype: I::ETHERTYPE.to_be_bytes(), inner, total_len: (I::LEN + head.payload.len()) as u16 };
    let (client, server) = (ports.client, ports.server);
    let hash = |bits| I::hash(head.protocol, head.source, head.destination, client, server & bits, tables);
    planned(service, ports, envelope, hash, found)
}

/// The plan for a packet of a flow of this service. `hash` is that of the flow with so many bits of the server's port: all or none.
#[inline(always)]
pub(super) fn planned<'t>(
    service: &'t Service,
    ports: Ports,
    envelope: Envelope,
    hash: impl Fn(u16) -> u64,
    found: &mut Option<Quick<'t>>,
) -> Option<()> {
    let (bits, read, learn) = match service.kind {
        Kind::Flow if service.paused => return None,
        Kind::Flow => (u16::MAX, true, true),
        Kind::Tftp(_) => match steer(service, ports.server, ports.opcode, false).ok()? {
            Steering::Tables { read, learn } => (0, read, learn),
            Steering::Owner(backend) => {
                let plan = Plan::Chosen(Choice { backend, by: By::TidRange });
                *found = Some(Quick { plan, service, envelope });
                return Some(());
            }
            // Few among the packets, and there is more to decide about them.
            Steering::Orphan | Steering::Request { .. } => return None,
        },
    };
    *found = Some(Quick { plan: Plan::Tables { hash: hash(bits), read, learn }, service, envelope });
    Some(())
}

/// Hash that chooses the row of the Maglev table for the packet in `frame`; as [`super::select::row_hash`].
#[inline]
pub fn row_hash(frame: &[u8], quick: &Quick<'_>, flow_hash: u64, tables: &Snapshot) -> u64 {
    if quick.service.kind != Kind::Tftp(Key::Client) {
        return flow_hash;
    }
    let inner = frame.get(usize::from(quick.envelope.inner)..).unwrap_or_default();
    let addresses: Option<(IpAddr, IpAddr)> = if quick.envelope.is_v6() {
        inner.first_chunk::<40>().map(|head| (Ipv6Addr::from_bits(be128(head, 8)).into(), Ipv6Addr::from_bits(be128(head, 24)).into()))
    } else {
        inner.first_chunk::<20>().map(|head| (Ipv4Addr::from_bits(be32(head, 12)).into(), Ipv4Addr::from_bits(be32(head, 16)).into()))
    };
    addresses.map_or(flow_hash, |(client, vip)| tables.hash.client(client, vip))
}

/// Hash of the flow of the packet in `frame`, also where the plan names the backend without it. `None` if the frame is not the one that was looked at.
#[inline]
pub fn flow_hash(frame: &[u8], quick: &Quick<'_>, tables: &Snapshot) -> Option<u64> {
    let inner = frame.get(usize::from(quick.envelope.inner)..)?;
    let tftp = quick.service.kind != Kind::Flow;
    let ports = |l4: &[u8; 4]| (be16(l4, 0), if tftp { 0 } else { be16(l4, 2) });
    if quick.envelope.is_v6() {
        let (head, l4) = inner.split_first_chunk::<40>()?;
        let (client, server) = ports(l4.first_chunk()?);
        let (source, vip) = (Ipv6Addr::from_bits(be128(head, 8)), Ipv6Addr::from_bits(be128(head, 24)));
        return Some(tables.hash.flow_v6(head[6], source, vip, client, server));
    }
    let (head, l4) = inner.split_first_chunk::<20>()?;
    let (client, server) = ports(l4.first_chunk()?);
    Some(tables.hash.flow_v4(head[9], Ipv4Addr::from_bits(be32(head, 12)), Ipv4Addr::from_bits(be32(head, 16)), client, server))
}

/// First 16 bits of the UDP payload of the packet in `frame`, which is of a `tftp` service.
pub fn opcode(frame: &[u8], quick: &Quick<'_>) -> Option<u16> {
    let header = if quick.envelope.is_v6() { 40 } else { 20 };
    Some(be16(frame.get(usize::from(quick.envelope.inner) + header + 8..)?.first_chunk::<2>()?, 0))
}

/// An IP header without anything unusual, and the payload that it says it has.
pub(super) struct Head<'f, A> {
    source: A,
    destination: A,
    protocol: u8,
    ttl: u8,
    tos: u8,
    payload: &'f [u8],
}

/// IPv4 or IPv6.
pub(super) trait Family: Copy + Eq {
    /// Bytes of the header.
    const LEN: usize;
    const ETHERTYPE: u16;
    fn head(packet: &[u8]) -> Option<Head<'_, Self>>;
    /// Our own address.
    fn ours(tables: &Snapshot) -> Option<Self>;
    fn is_router(self, tables: &Snapshot) -> bool;
    fn vip(self, tables: &Snapshot) -> Option<&Vip>;
    fn hash(protocol: u8, source: Self, destination: Self, source_port: u16, destination_port: u16, tables: &Snapshot) -> u64;
}

impl Family for Ipv4Addr {
    const LEN: usize = 20;
    const ETHERTYPE: u16 = IPV4;

    #[inline(always)]
    fn head(packet: &[u8]) -> Option<Head<'_, Self>> {
        let head = packet.first_chunk::<20>()?;
        if head[0] != 0x45 || be16(head, 6) & MORE_OR_OFFSET != 0 || !intact(head, 0) {
            return None;
        }
        let payload = packet.get(20..usize::from(be16(head, 2)))?;
        let (source, destination) = (Ipv4Addr::from_bits(be32(head, 12)), Ipv4Addr::from_bits(be32(head, 16)));
        Some(Head { source, destination, protocol: head[9], ttl: head[8], tos: head[1], payload })
    }

    #[inline(always)]
    fn ours(tables: &Snapshot) -> Option<Self> {
        tables.address.v4
    }

    #[inline(always)]
    fn is_router(self, tables: &Snapshot) -> bool {
        tables.routers.contains_v4(self)
    }

    #[inline(always)]
    fn vip(self, tables: &Snapshot) -> Option<&Vip> {
        tables.vips.get_v4(self)
    }

    #[inline(always)]
    fn hash(protocol: u8, source: Self, destination: Self, source_port: u16, destination_port: u16, tables: &Snapshot) -> u64 {
        tables.hash.flow_v4(protocol, source, destination, source_port, destination_port)
    }
}

impl Family for Ipv6Addr {
    const LEN: usize = 40;
    const ETHERTYPE: u16 = IPV6;

    #[inline(always)]
    fn head(packet: &[u8]) -> Option<Head<'_, Self>> {
        let head = packet.first_chunk::<40>()?;
        let first = be32(head, 0);
        if first >> 28 != 6 {
            return None;
        }
        let total = be16(head, 4).checked_add(40)?;
        let payload = packet.get(40..usize::from(total))?;
        let (source, destination) = (Ipv6Addr::from_bits(be128(head, 8)), Ipv6Addr::from_bits(be128(head, 24)));
        Some(Head { source, destination, protocol: head[6], ttl: head[7], tos: (first >> 20) as u8, payload })
    }

    #[inline(always)]
    fn ours(tables: &Snapshot) -> Option<Self> {
        tables.address.v6
    }

    #[inline(always)]
    fn is_router(self, tables: &Snapshot) -> bool {
        tables.routers.contains_v6(self)
    }

    #[inline(always)]
    fn vip(self, tables: &Snapshot) -> Option<&Vip> {
        tables.vips.get_v6(self)
    }

    #[inline(always)]
    fn hash(protocol: u8, source: Self, destination: Self, source_port: u16, destination_port: u16, tables: &Snapshot) -> u64 {
        tables.hash.flow_v6(protocol, source, destination, source_port, destination_port)
    }
}

/// What is read of a transport header.
pub(super) struct Ports {
    pub client: u16,
    pub server: u16,
    pub opcode: Option<u16>,
}

/// As [`guideway_packet::wire::l4::Ports`], for whole packets.
#[inline(always)]
fn ports(protocol: u8, payload: &[u8]) -> Option<Ports> {
    let head = payload.first_chunk::<8>()?;
    let (client, server) = (be16(head, 0), be16(head, 2));
    if protocol == UDP {
        // Without a payload there is no opcode: rare enough for the long way.
        let head = payload.first_chunk::<10>()?;
        let len = usize::from(be16(head, 4));
        return (len >= 10 && len <= payload.len()).then(|| Ports { client, server, opcode: Some(be16(head, 8)) });
    }
    let sound = protocol == TCP && payload.first_chunk::<20>()?[12] >> 4 >= 5;
    sound.then_some(Ports { client, server, opcode: None })
}

/// Bits of an IPv4 header's flags and offset that only fragments have.
pub(super) const MORE_OR_OFFSET: u16 = 0x3fff;

/// Whether the sum of the IPv4 header at `start` is that of one whose checksum is right.
#[inline(always)]
pub(super) fn intact<const N: usize>(bytes: &[u8; N], start: usize) -> bool {
    // RFC 1071 section 2 (B): the sum may be taken in any byte order; and (A): in words of any size. It is then a multiple of 0xffff, as 2^16 leaves a
    // remainder of 1; and not 0, as the first byte is not.
    let sum = add(add(word(bytes, start), word(bytes, start + 8)), word(bytes, start + 12) >> 32);
    sum.is_multiple_of(0xffff)
}

/// The sum with its carry brought round.
#[inline(always)]
fn add(a: u64, b: u64) -> u64 {
    let (sum, carry) = a.overflowing_add(b);
    sum + u64::from(carry)
}

/// The 8 bytes at `at` as they stand in memory, in little-endian order.
#[inline(always)]
pub(super) fn word<const N: usize>(bytes: &[u8; N], at: usize) -> u64 {
    bytes[at..].first_chunk().map_or(0, |word| u64::from_le_bytes(*word))
}

#[inline(always)]
pub(super) fn be16<const N: usize>(bytes: &[u8; N], at: usize) -> u16 {
    bytes[at..].first_chunk().map_or(0, |half| u16::from_be_bytes(*half))
}

#[inline(always)]
pub(super) fn be32<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    bytes[at..].first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

#[inline(always)]
fn be64<const N: usize>(bytes: &[u8; N], at: usize) -> u64 {
    u64::from(be32(bytes, at)) << 32 | u64::from(be32(bytes, at + 4))
}

#[inline(always)]
pub(super) fn be128<const N: usize>(bytes: &[u8; N], at: usize) -> u128 {
    u128::from(be64(bytes, at)) << 64 | u128::from(be64(bytes, at + 8))
}

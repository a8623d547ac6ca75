//! The fast path through the first four stages, for nearly every packet: whole, without options or extension headers, UDP or TCP, of a service.
//!
//! It decides nothing of its own. A packet that it does not recognise, right or wrong, takes the slow path; for one that it recognises, both paths come to
//! the same plan (`tests/equivalence.rs` compares them). It reads through [`plain`], and carries 40 bytes from the first pass to the second.

use super::choice::{Choice, SelectedBy};
use super::encap::EncapParams;
use super::flow::Flow;
use super::lookup::{Family, LastLookup, LastLookups};
use super::select::{Plan, Steering, steer};
use crate::tables::{HashKey, Service, ServiceKind, Snapshot};
use guideway_hash::ClientHasher;
use guideway_hash::successors::fmix64;
use guideway_packet::frame::Frame;
use guideway_packet::wire::l4::Ports;
use guideway_packet::wire::layout::ethernet::{IPV4, IPV6, LEN as UNTAGGED, TAG_LEN, TAGGED_LEN as TAGGED, VLAN};
use guideway_packet::wire::layout::{gre, ipv4, ipv6, protocol};
use guideway_packet::wire::plain::{PlainIp, PlainUdp, V4_WITH_PORTS, V6_WITH_PORTS};
use guideway_packet::wire::view::{EthernetView, GreView};
use std::net::{Ipv4Addr, Ipv6Addr};

/// Everything that the first pass finds out about an ordinary packet.
#[derive(Clone, Copy, Debug)]
pub struct FastPathPacket<'t> {
    /// What is left to do for it.
    pub plan: Plan,
    /// Its service.
    pub service: &'t Service,
    /// What its encapsulation needs.
    pub encap_params: EncapParams,
}

impl FastPathPacket<'_> {
    /// Hash that chooses the row of the Maglev table, as [`Flow::row_hash`]. `frame` was not changed since.
    #[inline(always)]
    pub fn row_hash(&self, frame: &[u8], flow_hash: u64, tables: &Snapshot) -> u64 {
        match self.service.kind {
            ServiceKind::Tftp(HashKey::Client) => self.flow(frame, tables).map_or(flow_hash, |flow| flow.row_hash(flow_hash, tables)),
            ServiceKind::Tftp(HashKey::Flow) | ServiceKind::Flow => flow_hash,
        }
    }

    /// The quick hash of the client. `frame` was not changed since.
    #[inline(always)]
    pub fn client_hash(&self, frame: &Frame<'_>, hasher: &ClientHasher) -> Option<u64> {
        let inner = self.encap_params.inner;
        if self.encap_params.is_v6() {
            Ipv6Addr::hash_client(frame.peek::<V6_WITH_PORTS>(inner)?, hasher)
        } else {
            Ipv4Addr::hash_client(frame.peek::<V4_WITH_PORTS>(inner)?, hasher)
        }
    }

    /// What the outer header shall differ by: the hash of the flow where it is known, else that of the client. `frame` was not changed since.
    #[inline(always)]
    pub fn entropy(&self, frame: &Frame<'_>, hasher: &ClientHasher) -> u64 {
        match self.plan {
            Plan::Tables { hash, .. } => hash,
            Plan::Chosen(_) => self.client_hash(frame, hasher).map_or(0, fmix64),
        }
    }

    /// Reads the flow from `frame`, which was not changed since. The first pass does not carry it along, because few packets need it.
    pub fn flow(&self, frame: &[u8], tables: &Snapshot) -> Option<Flow> {
        let inner = frame.get(usize::from(self.encap_params.inner)..)?;
        if self.encap_params.is_v6() { read_flow::<Ipv6Addr>(inner, tables) } else { read_flow::<Ipv4Addr>(inner, tables) }
    }
}

fn read_flow<A: Family>(packet: &[u8], tables: &Snapshot) -> Option<Flow> {
    let PlainIp { source, destination, protocol, total_len, .. } = A::read(packet, 0, packet.len())?;
    let payload = packet.get(A::HEADER_LEN..usize::from(total_len))?;
    let ports = Ports::parse(protocol, payload, false)?.ok()?;
    let service = destination.vip(tables)?.service(protocol, ports.destination)?;
    Some(Flow::new(service, protocol, source.into(), destination.into(), ports))
}

/// The result of [`classify`], written in place: returned through so many branches, it would be copied at each of them.
type Found<'t> = Option<FastPathPacket<'t>>;

/// Classifies a frame into `found`, which is `None` before. It stays `None` when the frame has to take the slow path.
#[inline(always)]
pub fn classify<'t>(frame: &[u8], tables: &'t Snapshot, last: &mut LastLookups<'t>, found: &mut Found<'t>) -> Option<()> {
    // Most packets are UDP over IPv4 in GRE over IPv4. Their code stands in the caller's loop, behind one comparison with the length of all these headers, which
    // makes every other one unnecessary.
    const HEADERS: usize = UNTAGGED + ipv4::LEN + gre::LEN + ipv4::LEN + PlainUdp::LEN;
    if frame.len() >= HEADERS
        && EthernetView::new(frame)?.ethertype() == IPV4
        && same_as_last::<Ipv4Addr>(frame, tables, last, found).is_some()
    {
        return Some(());
    }
    classify_any(frame, tables, last, found)
}

/// UDP in GRE over its own family, without a tag, and with the same lookups as the last one. It calls nothing, so that all values stay in registers.
#[inline(always)]
fn same_as_last<'t, A: Family>(frame: &[u8], tables: &'t Snapshot, last: &mut LastLookups<'t>, found: &mut Found<'t>) -> Option<()> {
    let last = A::last(last).as_mut()?;
    let packet = frame.get(UNTAGGED..)?;
    if !last.fits(A::peek(packet)?, A::peek(packet.get(A::HEADER_LEN + gre::LEN..)?)?, tables) {
        return None;
    }
    let outer = A::read(packet, UNTAGGED, frame.len())?;
    let (inner, ingress) = unwrap_gre::<A, A>(outer, packet, UNTAGGED)?;
    let ip = A::read(inner, ingress.before, ingress.limit)?;
    let udp = PlainUdp::read(inner.get(A::HEADER_LEN..)?, A::HEADER_LEN, ip.total_len.into())?;
    plan(last.service(udp.destination)?, PlainIp { protocol: protocol::UDP, ..ip }, udp.into(), ingress, tables, found)
}

/// Any families, tags and transport protocols.
#[inline(never)]
fn classify_any<'t>(frame: &[u8], tables: &'t Snapshot, last: &mut LastLookups<'t>, found: &mut Found<'t>) -> Option<()> {
    // As in `classify`.
    const HEADERS: usize = UNTAGGED + ipv6::LEN + gre::LEN + ipv6::LEN + PlainUdp::LEN;
    match EthernetView::new(frame)?.ethertype() {
        IPV6 if frame.len() >= HEADERS && same_as_last::<Ipv6Addr>(frame, tables, last, found).is_some() => Some(()),
        IPV6 => outer::<Ipv6Addr>(frame, UNTAGGED, tables, last, found),
        IPV4 => outer::<Ipv4Addr>(frame, UNTAGGED, tables, last, found),
        VLAN => match EthernetView::new(&frame[TAG_LEN..])?.ethertype() {
            IPV4 => outer::<Ipv4Addr>(frame, TAGGED, tables, last, found),
            IPV6 => outer::<Ipv6Addr>(frame, TAGGED, tables, last, found),
            _ => None,
        },
        _ => None,
    }
}

/// The outermost header is GRE from a router to us, or that of a client's packet that came without GRE.
#[inline(never)]
fn outer<'t, O: Family>(frame: &[u8], l2: usize, tables: &'t Snapshot, last: &mut LastLookups<'t>, found: &mut Found<'t>) -> Option<()> {
    let packet = frame.get(l2..)?;
    let ip = O::read(packet, l2, frame.len())?;
    if O::local_address(tables) != Some(ip.destination) {
        let ours = EthernetView::new(frame)?.destination() == tables.mac;
        let ingress = Ingress { l2: l2 as u8, ttl: ip.ttl, tos: ip.tos, inner: l2 as u16, before: l2, limit: frame.len() };
        return if ours { flow::<O>(packet, ingress, tables, found).map(drop) } else { None };
    }
    if ip.protocol != protocol::GRE || !ip.source.is_router(tables) {
        return None;
    }
    if let Some((inner, ingress)) = unwrap_gre::<O, O>(ip, packet, l2) {
        let (vip, port) = flow::<O>(inner, ingress, tables, found)?;
        *O::last(last) = LastLookup::new(ip.source, vip, port, tables);
    } else if let Some((inner, ingress)) = unwrap_gre::<O, Ipv4Addr>(ip, packet, l2) {
        flow::<Ipv4Addr>(inner, ingress, tables, found)?;
    } else {
        let (inner, ingress) = unwrap_gre::<O, Ipv6Addr>(ip, packet, l2)?;
        flow::<Ipv6Addr>(inner, ingress, tables, found)?;
    }
    Some(())
}

/// How the client's packet came.
#[derive(Clone, Copy)]
struct Ingress {
    l2: u8,
    ttl: u8,
    tos: u8,
    inner: u16,
    /// See [`guideway_packet::wire::plain`].
    before: usize,
    limit: usize,
}

/// Takes off GRE around a packet between addresses of family `I`. `ip` is the header of `packet`, and says that GRE follows.
#[inline(always)]
fn unwrap_gre<O: Family, I: Family>(ip: PlainIp<O>, packet: &[u8], l2: usize) -> Option<(&[u8], Ingress)> {
    let before = O::HEADER_LEN + gre::LEN;
    let (gre, inner) = (GreView::new(packet.get(O::HEADER_LEN..)?)?, packet.get(before..)?);
    let ingress = Ingress { l2: l2 as u8, ttl: ip.ttl, tos: ip.tos, inner: (l2 + before) as u16, before, limit: ip.total_len.into() };
    gre.is_plain(I::ETHERTYPE).then_some((inner, ingress))
}

/// The client's packet is of a flow. Returns VIP and server port.
#[inline(always)]
fn flow<'t, I: Family>(packet: &[u8], ingress: Ingress, tables: &'t Snapshot, found: &mut Found<'t>) -> Option<(I, u16)> {
    let ip = I::read(packet, ingress.before, ingress.limit)?;
    let payload = packet.get(I::HEADER_LEN..ip.total_len.into())?;
    let ports = Ports::parse(ip.protocol, payload, false)?.ok()?;
    let id = ip.destination.vip(tables)?.service(ip.protocol, ports.destination)?;
    let service = tables.services.get(usize::from(id)).filter(|service| !service.paused)?;
    plan(service, ip, ports, ingress, tables, found)?;
    Some((ip.destination, ports.destination))
}

/// Plans for a packet of a flow of this service, which is not paused.
#[inline(always)]
fn plan<'t, I: Family>(
    service: &'t Service,
    ip: PlainIp<I>,
    ports: Ports,
    ingress: Ingress,
    tables: &Snapshot,
    found: &mut Found<'t>,
) -> Option<()> {
    let Ingress { l2, ttl, tos, inner, .. } = ingress;
    let encap_params = EncapParams { l2, ttl, tos, ethertype: I::ETHERTYPE.to_be_bytes(), inner, total_len: ip.total_len };
    let mut set = |plan| *found = Some(FastPathPacket { plan, service, encap_params });
    // The hash takes all bits of the server's port, or none.
    let hash = |bits: u16| I::hash(ip.protocol, ip.source, ip.destination, ports.source, ports.destination & bits, tables);
    match service.kind {
        ServiceKind::Flow => set(Plan::Tables { hash: hash(u16::MAX), read: true, learn: true }),
        ServiceKind::Tftp(_) => match steer(service, ports.destination, ports.opcode, false).ok()? {
            Steering::Tables { read, learn } => set(Plan::Tables { hash: hash(0), read, learn }),
            Steering::Owner(backend) => set(Plan::Chosen(Choice { backend, by: SelectedBy::TidRange })),
            // These are few, and more has to be decided about them.
            Steering::Orphan | Steering::Request { .. } => return None,
        },
    }
    Some(())
}

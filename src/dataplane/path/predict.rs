//! Header prediction (the idea is Van Jacobson's, for TCP): most packets look like the one before them but for a few fields.
//!
//! The first ordinary UDP packet of a batch, in GRE over its own family, leaves behind what of its headers is the same for every packet to that VIP. Of a frame
//! that agrees with it, and whose lengths and checksums are right, only router, client and ports are left to look at. Router and service are those of the packet
//! before unless address or port say otherwise, and are looked up again then. Any other frame goes through [`quick::look`], so that a wrong prediction costs a
//! few comparisons.

use super::encap::Envelope;
use super::quick::{self, Family, MORE_OR_OFFSET, Ports, Quick, be16, intact, word};
use crate::tables::{Service, Snapshot, Span};
use guideway_packet::wire::ethernet::{IPV4, IPV6};
use guideway_packet::wire::gre;
use guideway_packet::wire::l4::UDP;
use std::net::{Ipv4Addr, Ipv6Addr};

/// What the packets of a batch are expected to look like.
#[derive(Default)]
pub struct Prediction<'t> {
    v4: Option<Expected<'t, Ipv4Addr>>,
    v6: Option<Expected<'t, Ipv6Addr>>,
}

/// What is expected of a packet in GRE from a router to us, and in it one to a VIP.
struct Expected<'t, A> {
    ours: A,
    /// The 8 bytes before the client's packet: the end of our address and the GRE header.
    before: u64,
    router: A,
    vip: A,
    /// The server ports that `service` is for.
    span: Span,
    service: &'t Service,
}

/// Bytes up to the opcode of a UDP payload, and with it.
const LEN_V4: usize = 14 + 24 + 20 + 8 + 2;
/// The same over IPv6.
const LEN_V6: usize = 14 + 44 + 40 + 8 + 2;

/// Where the client's packet starts.
const INNER_V4: usize = 14 + 24;
const INNER_V6: usize = 14 + 44;

impl<'t> Prediction<'t> {
    /// As [`quick::look`], sooner for a packet that looks as expected.
    #[inline(always)]
    pub fn look(&mut self, frame: &[u8], tables: &'t Snapshot, found: &mut Option<Quick<'t>>) -> Option<()> {
        if let Some(expected) = &mut self.v4
            && let Some(head) = frame.first_chunk::<LEN_V4>()
            && expected.fits(frame.len(), head)
        {
            return expected.look(head, tables, found);
        }
        self.unexpected(frame, tables, found)
    }

    #[inline(never)]
    fn unexpected(&mut self, frame: &[u8], tables: &'t Snapshot, found: &mut Option<Quick<'t>>) -> Option<()> {
        if let Some(expected) = &mut self.v6
            && let Some(head) = frame.first_chunk::<LEN_V6>()
            && expected.fits(frame.len(), head)
        {
            return expected.look(head, tables, found);
        }
        quick::look(frame, tables, found)?;
        let envelope = found.as_ref()?.envelope;
        match (usize::from(envelope.inner), envelope.is_v6()) {
            (INNER_V4, false) => self.v4 = self.v4.take().or_else(|| Expected::v4(frame.first_chunk()?, tables)),
            (INNER_V6, true) => self.v6 = self.v6.take().or_else(|| Expected::v6(frame.first_chunk()?, tables)),
            _ => {}
        }
        Some(())
    }
}

impl<'t> Expected<'t, Ipv4Addr> {
    /// What the packets after this one, which is an ordinary one, are expected to look like.
    fn v4(head: &[u8; LEN_V4], tables: &'t Snapshot) -> Option<Self> {
        let address = |at: usize| Ipv4Addr::from([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let known = head[47] == UDP && be16(head, 36) == IPV4;
        known.then(|| Expected::new([address(30), address(26), address(54)], word(head, 30), be16(head, 60), tables)).flatten()
    }

    #[inline(always)]
    fn fits(&self, len: usize, head: &[u8; LEN_V4]) -> bool {
        // Each length lies within the one around it. A payload of less than 2 bytes is for the long way.
        let (outer, inner, udp) = (usize::from(be16(head, 16)), usize::from(be16(head, 40)), usize::from(be16(head, 62)));
        if outer + 14 > len || inner + 24 > outer || udp + 20 > inner || udp < 10 {
            return false;
        }
        // One by one, each where it stands in the frame: words with masks to compare several fields at once take twice the instructions.
        ordinary(head, 14, gre::PROTOCOL)
            && ordinary(head, 38, UDP)
            && be16(head, 12) == IPV4
            && word(head, 30) == self.before
            && word(head, 54) as u32 == u32::from_le_bytes(self.vip.octets())
            && intact(head, 14)
            && intact(head, 38)
    }

    /// What is left to check of a packet that fits.
    #[inline(always)]
    fn look(&mut self, head: &[u8; LEN_V4], tables: &'t Snapshot, found: &mut Option<Quick<'t>>) -> Option<()> {
        let total_len = be16(head, 40);
        let envelope = Envelope { l2: 14, ttl: head[22], tos: head[15], ethertype: IPV4.to_be_bytes(), inner: INNER_V4 as u16, total_len };
        let address = |at: usize| Ipv4Addr::from(((word(head, at) >> 32) as u32).to_le_bytes());
        let service = self.service(address(22), be16(head, 60), tables)?;
        let hash = |bits| tables.hash.flow_v4_as_read(UDP, address(46), word(head, 54) & (u64::MAX >> 16 | u64::from(bits) << 48));
        let ports = Ports { client: be16(head, 58), server: be16(head, 60), opcode: Some(be16(head, 66)) };
        quick::planned(service, ports, envelope, hash, found)
    }
}

/// Whether the IPv4 header at `start` is without options, of a whole packet and of this protocol.
#[inline(always)]
fn ordinary<const N: usize>(head: &[u8; N], start: usize, protocol: u8) -> bool {
    head[start] == 0x45 && be16(head, start + 6) & MORE_OR_OFFSET == 0 && head[start + 9] == protocol
}

impl<'t> Expected<'t, Ipv6Addr> {
    fn v6(head: &[u8; LEN_V6], tables: &'t Snapshot) -> Option<Self> {
        let known = head[64] == UDP && be16(head, 56) == IPV6;
        known
            .then(|| Expected::new([address(head, 38), address(head, 22), address(head, 82)], word(head, 50), be16(head, 100), tables))
            .flatten()
    }

    #[inline(always)]
    fn fits(&self, len: usize, head: &[u8; LEN_V6]) -> bool {
        let (outer, inner, udp) = (usize::from(be16(head, 18)), usize::from(be16(head, 62)), usize::from(be16(head, 102)));
        if outer + 54 > len || inner + 44 > outer || udp > inner || udp < 10 {
            return false;
        }
        let (ours, vip) = (&self.ours.octets(), &self.vip.octets());
        (head[14] >> 4, head[20]) == (6, gre::PROTOCOL)
            && (head[58] >> 4, head[64]) == (6, UDP)
            && be16(head, 12) == IPV6
            && word(head, 38) == word(ours, 0)
            && word(head, 46) == word(ours, 8)
            && word(head, 50) == self.before
            && word(head, 82) == word(vip, 0)
            && word(head, 90) == word(vip, 8)
    }

    #[inline(always)]
    fn look(&mut self, head: &[u8; LEN_V6], tables: &'t Snapshot, found: &mut Option<Quick<'t>>) -> Option<()> {
        // No overflow: this length fits the outer one.
        let (tos, total_len) = ((be16(head, 14) >> 4) as u8, be16(head, 62).wrapping_add(40));
        let envelope = Envelope { l2: 14, ttl: head[21], tos, ethertype: IPV6.to_be_bytes(), inner: INNER_V6 as u16, total_len };
        let service = self.service(address(head, 22), be16(head, 100), tables)?;
        let both = word(head, 98) as u32;
        let hash =
            |bits| tables.hash.flow_v6_as_read(UDP, address(head, 66), address(head, 82), both & (u32::MAX >> 16 | u32::from(bits) << 16));
        let ports = Ports { client: be16(head, 98), server: be16(head, 100), opcode: Some(be16(head, 106)) };
        quick::planned(service, ports, envelope, hash, found)
    }
}

#[inline(always)]
fn address<const N: usize>(head: &[u8; N], at: usize) -> Ipv6Addr {
    Ipv6Addr::from((u128::from(word(head, at + 8)) << 64 | u128::from(word(head, at))).to_le_bytes())
}

impl<'t, A: Family> Expected<'t, A> {
    fn new([ours, router, vip]: [A; 3], before: u64, server_port: u16, tables: &'t Snapshot) -> Option<Self> {
        let span = vip.vip(tables)?.span(UDP, server_port)?;
        Some(Expected { ours, before, router, vip, span, service: tables.services.get(usize::from(span.service))? })
    }

    /// The service that a packet with this router and this server port is for.
    #[inline(always)]
    fn service(&mut self, router: A, server_port: u16, tables: &'t Snapshot) -> Option<&'t Service> {
        if router != self.router || !self.span.contains(server_port) {
            self.change(router, server_port, tables)?;
        }
        Some(self.service)
    }

    /// Another router, or a port of another service.
    #[inline(never)]
    fn change(&mut self, router: A, server_port: u16, tables: &'t Snapshot) -> Option<()> {
        if !router.is_router(tables) {
            return None;
        }
        *self = Expected::new([self.ours, router, self.vip], self.before, server_port, tables)?;
        Some(())
    }
}

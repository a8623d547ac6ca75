//! Header prediction (the idea is Van Jacobson's, for TCP): most packets look like the one before them but for a few fields.
//!
//! The first ordinary UDP packet of a batch, in GRE over its own family, leaves behind what of its headers is the same for every packet to that VIP. A frame that
//! agrees with it in all of this at once has been recognised; what is left to check is what differs: lengths, checksums, router, ports. Any other frame goes
//! through [`quick::look`], so that a wrong prediction costs a comparison.

use super::encap::Envelope;
use super::quick::{self, Family, Ports, Quick, be16, be32, be128, intact};
use crate::tables::{Snapshot, Vip};
use crate::wire::l4::UDP;
use std::net::{Ipv4Addr, Ipv6Addr};

/// What the packets of a batch are expected to look like.
#[derive(Default)]
pub struct Prediction<'t> {
    v4: Option<Expected<'t, WORDS_V4>>,
    v6: Option<Expected<'t, WORDS_V6>>,
}

/// What is expected of a frame from its EtherType on, and the VIP that it is for.
struct Expected<'t, const N: usize> {
    words: [u64; N],
    /// Which bits of them count. Kept here so that the compiler does not know them: it would compare byte by byte, and so take three times as long.
    mask: [u64; N],
    vip: &'t Vip,
}

/// Where the EtherType stands: what is compared begins here.
const START: usize = 12;
/// Words up to the opcode of a UDP payload: 14 + 24 + 20 + 8 + 2 bytes.
const WORDS_V4: usize = 7;
/// The same over IPv6: 14 + 44 + 40 + 8 + 2 bytes.
const WORDS_V6: usize = 12;
const LEN_V4: usize = START + 8 * WORDS_V4;
const LEN_V6: usize = START + 8 * WORDS_V6;

/// Where the client's packet starts.
const INNER_V4: usize = 14 + 24;
const INNER_V6: usize = 14 + 44;

/// The bits that are the same in all packets to one VIP.
const MASK_V4: [u64; WORDS_V4] = mask(&[
    // EtherType; version and header length; flags and offset but for "don't fragment"; protocol; our address; GRE
    (12, &[0xff; 3]),
    (20, &[0x3f, 0xff]),
    (23, &[0xff]),
    (30, &[0xff; 8]),
    // the same of the client's packet; its VIP
    (38, &[0xff]),
    (44, &[0x3f, 0xff]),
    (47, &[0xff]),
    (54, &[0xff; 4]),
]);
const MASK_V6: [u64; WORDS_V6] = mask(&[
    // EtherType; version; next header; our address; GRE
    (12, &[0xff, 0xff, 0xf0]),
    (20, &[0xff]),
    (38, &[0xff; 20]),
    // the same of the client's packet; its VIP
    (58, &[0xf0]),
    (64, &[0xff]),
    (82, &[0xff; 16]),
]);

/// Words of which these bytes, by their place in the frame, are set.
const fn mask<const N: usize>(parts: &[(usize, &[u8])]) -> [u64; N] {
    let mut words = [0; N];
    let mut part = 0;
    while part < parts.len() {
        let (at, bytes) = parts[part];
        let mut n = 0;
        while n < bytes.len() {
            let place = at - START + n;
            let mut word = [0u8; 8];
            word[place % 8] = bytes[n];
            words[place / 8] |= u64::from_ne_bytes(word);
            n += 1;
        }
        part += 1;
    }
    words
}

impl<'t> Prediction<'t> {
    /// As [`quick::look`], sooner for a packet that looks as expected.
    #[inline(always)]
    pub fn look(&mut self, frame: &[u8], tables: &'t Snapshot, found: &mut Option<Quick>) -> Option<()> {
        if let Some(expected) = &self.v4
            && let Some(head) = frame.first_chunk::<LEN_V4>()
            && expected.fits(head)
        {
            return expected_v4(frame.len(), head, expected.vip, tables, found);
        }
        self.unexpected(frame, tables, found)
    }

    #[inline(never)]
    fn unexpected(&mut self, frame: &[u8], tables: &'t Snapshot, found: &mut Option<Quick>) -> Option<()> {
        if let Some(expected) = &self.v6
            && let Some(head) = frame.first_chunk::<LEN_V6>()
            && expected.fits(head)
        {
            return expected_v6(frame.len(), head, expected.vip, tables, found);
        }
        quick::look(frame, tables, found)?;
        let envelope = found.as_ref()?.envelope;
        match (usize::from(envelope.inner), envelope.v6) {
            (INNER_V4, false) => self.v4 = self.v4.take().or(frame.first_chunk().and_then(|head| Expected::v4(head, tables))),
            (INNER_V6, true) => self.v6 = self.v6.take().or(frame.first_chunk().and_then(|head| Expected::v6(head, tables))),
            _ => {}
        }
        Some(())
    }
}

impl<'t> Expected<'t, WORDS_V4> {
    /// What the packets after this one, which is an ordinary one, are expected to look like.
    fn v4(head: &[u8; LEN_V4], tables: &'t Snapshot) -> Option<Self> {
        let vip = tables.vips.get_v4(Ipv4Addr::from_bits(be32(head, 54)))?;
        (head[47] == UDP && be32(head, 34) == 0x0800).then(|| Expected { words: words(head), mask: MASK_V4, vip })
    }
}

impl<'t> Expected<'t, WORDS_V6> {
    fn v6(head: &[u8; LEN_V6], tables: &'t Snapshot) -> Option<Self> {
        let vip = tables.vips.get_v6(Ipv6Addr::from_bits(be128(head, 82)))?;
        (head[64] == UDP && be32(head, 54) == 0x86dd).then(|| Expected { words: words(head), mask: MASK_V6, vip })
    }
}

impl<const N: usize> Expected<'_, N> {
    #[inline(always)]
    fn fits<const LEN: usize>(&self, head: &[u8; LEN]) -> bool {
        let mut different = 0;
        for ((bytes, word), mask) in head[START..].as_chunks().0.iter().zip(&self.words).zip(&self.mask) {
            different |= (u64::from_ne_bytes(*bytes) ^ word) & mask;
        }
        different == 0
    }
}

/// The frame from [`START`] on, in words of the machine.
fn words<const N: usize, const LEN: usize>(head: &[u8; LEN]) -> [u64; N] {
    let mut words = [0; N];
    for (word, bytes) in words.iter_mut().zip(head[START..].as_chunks().0) {
        *word = u64::from_ne_bytes(*bytes);
    }
    words
}

/// What is left to check of an expected packet over IPv4.
#[inline(always)]
fn expected_v4(len: usize, head: &[u8; LEN_V4], vip: &Vip, tables: &Snapshot, found: &mut Option<Quick>) -> Option<()> {
    // Each length lies within the one around it. A payload of less than 2 bytes is for the long way.
    let (outer, inner, udp) = (usize::from(be16(head, 16)), usize::from(be16(head, 40)), usize::from(be16(head, 62)));
    if outer + 14 > len || inner + 24 > outer || udp + 20 > inner || udp < 10 || !intact(head, 14) || !intact(head, 38) {
        return None;
    }
    if !Ipv4Addr::from_bits(be32(head, 26)).is_router(tables) {
        return None;
    }
    let envelope = Envelope { l2: 14, ttl: head[22], tos: head[15], v6: false, inner: INNER_V4 as u16, total_len: inner as u16 };
    let ports = Ports { client: be16(head, 58), server: be16(head, 60), opcode: Some(be16(head, 66)) };
    let addresses = (Ipv4Addr::from_bits(be32(head, 50)), Ipv4Addr::from_bits(be32(head, 54)));
    quick::steered(vip, addresses, UDP, ports, envelope, tables, found)
}

/// The same over IPv6.
#[inline(always)]
fn expected_v6(len: usize, head: &[u8; LEN_V6], vip: &Vip, tables: &Snapshot, found: &mut Option<Quick>) -> Option<()> {
    let (outer, inner, udp) = (usize::from(be16(head, 18)), usize::from(be16(head, 62)), usize::from(be16(head, 102)));
    if outer + 54 > len || inner + 44 > outer || udp > inner || udp < 10 {
        return None;
    }
    if !Ipv6Addr::from_bits(be128(head, 22)).is_router(tables) {
        return None;
    }
    let tos = (be16(head, 14) >> 4) as u8;
    let envelope = Envelope { l2: 14, ttl: head[21], tos, v6: true, inner: INNER_V6 as u16, total_len: inner as u16 + 40 };
    let ports = Ports { client: be16(head, 98), server: be16(head, 100), opcode: Some(be16(head, 106)) };
    let addresses = (Ipv6Addr::from_bits(be128(head, 66)), Ipv6Addr::from_bits(be128(head, 82)));
    quick::steered(vip, addresses, UDP, ports, envelope, tables, found)
}

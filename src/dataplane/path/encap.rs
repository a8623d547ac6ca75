//! Last stage: the client's packet, untouched, into GRE to its backend, in place.

use super::parse::Packet;
use crate::tables::{Backend, ENCAP_LEN_V4, ENCAP_LEN_V6, EncapFields, EncapHeader, EncapHeaderV4Sources};
use guideway_hash::ClientHasher;
use guideway_packet::frame::{Frame, OWN_INTERFACE};
use guideway_packet::verdict::Reason;
use guideway_packet::wire::layout::ethernet::{self, ETHERTYPE, IPV6, TAG_LEN};

/// Everything that the encapsulation needs to know of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncapParams {
    /// Bytes of the Ethernet header: 14, or 18 with a VLAN tag.
    pub l2: u8,
    /// TTL of the outermost header.
    pub ttl: u8,
    /// DSCP and ECN of the outermost header.
    pub tos: u8,
    /// EtherType of the client's packet, in network byte order.
    pub ethertype: [u8; 2],
    /// Where the client's packet starts in the frame.
    pub inner: u16,
    /// Bytes of the client's packet.
    pub total_len: u16,
}

impl EncapParams {
    /// Whether the client's packet is IPv6.
    #[inline(always)]
    pub fn is_v6(&self) -> bool {
        self.ethertype == IPV6.to_be_bytes()
    }
}

impl From<&Packet> for EncapParams {
    #[inline]
    fn from(packet: &Packet) -> EncapParams {
        // A frame of any io is shorter than 65,536 bytes.
        let (l2, inner) = (packet.l2 as u8, packet.inner as u16);
        EncapParams {
            l2,
            ttl: packet.ttl,
            tos: packet.tos,
            ethertype: packet.ip.ethertype().to_be_bytes(),
            inner,
            total_len: packet.ip.total_len,
        }
    }
}

/// Wraps the packet in `frame`. Nothing is changed when it fails. `entropy` is what the outer header shall differ by, if it can; it reads the
/// frame as it came.
#[inline(always)]
pub fn encapsulate(
    frame: &mut Frame<'_>,
    packet: &EncapParams,
    backend: &Backend,
    entropy: impl FnOnce(&Frame<'_>, &ClientHasher) -> u64,
) -> Result<(), Reason> {
    // A packet in a loop must end.
    if packet.ttl < 2 {
        return Err(Reason::TtlExpired);
    }
    if packet.total_len > backend.inner_mtu() {
        return Err(if backend.next_hop().is_none() { Reason::NeighbourUnresolved } else { Reason::TooBig });
    }
    let fields = EncapFields { inner_len: packet.total_len, inner_ethertype: packet.ethertype, tos: packet.tos, ttl: packet.ttl - 1 };
    // A tag of the interface that a packet came from means nothing on another one.
    if usize::from(packet.l2) != ethernet::LEN && backend.output() == OWN_INTERFACE {
        let entropy = match backend.head() {
            EncapHeader::V4(_) => 0,
            EncapHeader::V4Sources(head) => entropy(frame, head.hasher()),
            EncapHeader::V6(head) => entropy(frame, head.hasher()),
        };
        return encapsulate_tagged(frame, packet, backend.head(), fields, entropy);
    }
    // Every io leaves headroom for the largest header that we write. Padding behind the packet is cut off.
    match backend.head() {
        EncapHeader::V4(head) => head.write(frame.replace_header(packet.inner, packet.total_len).ok_or(Reason::TooBig)?, fields),
        EncapHeader::V4Sources(head) => {
            let entropy = entropy(frame, head.hasher());
            encapsulate_from_sources(frame, packet, head, fields, entropy)?;
        }
        EncapHeader::V6(head) => {
            let entropy = entropy(frame, head.hasher());
            head.write(frame.replace_header(packet.inner, packet.total_len).ok_or(Reason::TooBig)?, fields, entropy);
        }
    }
    frame.output = backend.output();
    Ok(())
}

/// The same from one of several sources.
#[inline(never)]
fn encapsulate_from_sources(
    frame: &mut Frame<'_>,
    packet: &EncapParams,
    head: &EncapHeaderV4Sources,
    fields: EncapFields,
    entropy: u64,
) -> Result<(), Reason> {
    head.write(frame.replace_header(packet.inner, packet.total_len).ok_or(Reason::TooBig)?, fields, entropy);
    Ok(())
}

/// The same behind a VLAN tag, which stays.
#[cold]
fn encapsulate_tagged(
    frame: &mut Frame<'_>,
    packet: &EncapParams,
    head: &EncapHeader,
    fields: EncapFields,
    entropy: u64,
) -> Result<(), Reason> {
    let (place, len) = (usize::from(packet.inner), usize::from(packet.total_len));
    let (mut v4, mut v6) = ([0; ENCAP_LEN_V4], [0; ENCAP_LEN_V6]);
    let bytes = match head {
        EncapHeader::V4(head) => {
            head.write(&mut v4, fields);
            &v4[..]
        }
        EncapHeader::V4Sources(head) => {
            head.write(&mut v4, fields, entropy);
            &v4[..]
        }
        EncapHeader::V6(head) => {
            head.write(&mut v6, fields, entropy);
            &v6[..]
        }
    };
    let mut tag = [0u8; TAG_LEN];
    tag.copy_from_slice(frame.bytes().get(ETHERTYPE..ETHERTYPE + TAG_LEN).ok_or(Reason::Truncated)?);
    let (addresses, rest) = bytes.split_at(ETHERTYPE);
    let to = frame.replace_front(place, bytes.len() + tag.len()).ok_or(Reason::TooBig)?;
    to[..ETHERTYPE].copy_from_slice(addresses);
    to[ETHERTYPE..ETHERTYPE + TAG_LEN].copy_from_slice(&tag);
    to[ETHERTYPE + TAG_LEN..].copy_from_slice(rest);
    frame.truncate(bytes.len() + tag.len() + len);
    Ok(())
}

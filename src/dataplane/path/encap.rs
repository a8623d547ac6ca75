//! Last stage: the client's packet, untouched, into GRE to its backend, in place.

use super::parse::Packet;
use crate::tables::{Backend, HEAD_V4, HEAD_V6, Head, Variable};
use guideway_packet::frame::Frame;
use guideway_packet::verdict::Reason;
use guideway_packet::wire::ethernet::{IPV4, IPV6};

/// What has to be known of a packet to wrap it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Bytes of the Ethernet header: 14, or 18 with a VLAN tag.
    pub l2: u8,
    /// TTL that the packet came with, of the outermost header.
    pub ttl: u8,
    /// DSCP and ECN of that header.
    pub tos: u8,
    /// EtherType of the client's packet, as it stands in a packet.
    pub ethertype: [u8; 2],
    /// Where the client's packet starts in the frame.
    pub inner: u16,
    /// Bytes of the client's packet.
    pub total_len: u16,
}

impl Envelope {
    /// Whether the client's packet is IPv6.
    #[inline(always)]
    pub fn is_v6(&self) -> bool {
        self.ethertype == IPV6.to_be_bytes()
    }
}

impl From<&Packet> for Envelope {
    #[inline]
    fn from(packet: &Packet) -> Envelope {
        // A frame of any io is shorter than 65,536 bytes.
        let (l2, inner) = (packet.l2 as u8, packet.inner as u16);
        let ethertype = if packet.ip.source.is_ipv6() { IPV6 } else { IPV4 };
        Envelope { l2, ttl: packet.ttl, tos: packet.tos, ethertype: ethertype.to_be_bytes(), inner, total_len: packet.ip.total_len }
    }
}

/// Wraps the packet in `frame`. Nothing is changed when it fails.
#[inline(always)]
pub fn wrap(frame: &mut Frame<'_>, packet: &Envelope, backend: &Backend) -> Result<(), Reason> {
    // A packet that goes round in circles must end.
    if packet.ttl < 2 {
        return Err(Reason::TtlExpired);
    }
    if packet.total_len > backend.room() {
        return Err(if backend.next_hop().is_none() { Reason::NeighbourUnresolved } else { Reason::TooBig });
    }
    let variable = Variable { inner_len: packet.total_len, inner_ethertype: packet.ethertype, tos: packet.tos, ttl: packet.ttl - 1 };
    if packet.l2 != UNTAGGED {
        return tagged(frame, packet, backend.head(), variable);
    }
    // Every io leaves headroom for the largest header that we write. Whatever padding the link had put behind the packet goes.
    match backend.head() {
        Head::V4(head) => head.write(frame.rehead(packet.inner, packet.total_len).ok_or(Reason::TooBig)?, variable),
        Head::V6(head) => head.write(frame.rehead(packet.inner, packet.total_len).ok_or(Reason::TooBig)?, variable),
    }
    Ok(())
}

const UNTAGGED: u8 = 14;

/// The same behind a VLAN tag, which stays.
#[cold]
fn tagged(frame: &mut Frame<'_>, packet: &Envelope, head: &Head, variable: Variable) -> Result<(), Reason> {
    let (place, len) = (usize::from(packet.inner), usize::from(packet.total_len));
    let (mut v4, mut v6) = ([0; HEAD_V4], [0; HEAD_V6]);
    let bytes = match head {
        Head::V4(head) => {
            head.write(&mut v4, variable);
            &v4[..]
        }
        Head::V6(head) => {
            head.write(&mut v6, variable);
            &v6[..]
        }
    };
    let mut tag = [0u8; 4];
    tag.copy_from_slice(frame.bytes().get(12..16).ok_or(Reason::Truncated)?);
    let to = frame.replace_front(place, bytes.len() + tag.len()).ok_or(Reason::TooBig)?;
    to[..12].copy_from_slice(&bytes[..12]);
    to[12..16].copy_from_slice(&tag);
    to[16..].copy_from_slice(&bytes[12..]);
    frame.truncate(bytes.len() + tag.len() + len);
    Ok(())
}

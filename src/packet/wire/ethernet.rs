//! Ethernet II with at most one VLAN tag.

use crate::verdict::Reason;
use pnet::packet::ethernet::EthernetPacket;

/// EtherType of IPv4.
pub const IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const IPV6: u16 = 0x86dd;
const VLAN: u16 = 0x8100;
const VLAN_SERVICE: u16 = 0x88a8;

/// What stands before the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ethernet {
    /// Destination address.
    pub destination: [u8; 6],
    /// EtherType of the payload; that of a second tag is an unknown one like others.
    pub ethertype: u16,
    /// Bytes before the payload: 14, or 18 with a tag.
    pub len: usize,
}

impl Ethernet {
    /// Reads the header of `frame`. Fails with [`Reason::Truncated`] only.
    #[inline]
    pub fn parse(frame: &[u8]) -> Result<Ethernet, Reason> {
        let view = EthernetPacket::new(frame).ok_or(Reason::Truncated)?;
        let destination = view.get_destination().octets();
        match view.get_ethertype().0 {
            VLAN | VLAN_SERVICE => {
                let inner = frame.get(16..18).ok_or(Reason::Truncated)?;
                Ok(Ethernet { destination, ethertype: u16::from_be_bytes([inner[0], inner[1]]), len: 18 })
            }
            ethertype => Ok(Ethernet { destination, ethertype, len: 14 }),
        }
    }
}

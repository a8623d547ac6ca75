//! Ethernet II with at most one VLAN tag.

pub use super::layout::ethernet::{IPV4, IPV6};
use super::layout::ethernet::{LEN, TAG_LEN, TAGGED_LEN, VLAN, VLAN_SERVICE};
use super::view::EthernetView;
use crate::verdict::Reason;

/// The header before a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ethernet {
    /// Destination address.
    pub destination: [u8; 6],
    /// EtherType of the payload. A second tag is an unknown EtherType like others.
    pub ethertype: u16,
    /// Bytes before the payload: 14, or 18 with a tag.
    pub len: usize,
}

impl Ethernet {
    /// Reads the header of `frame`. Fails with [`Reason::Truncated`] only.
    #[inline]
    pub fn parse(frame: &[u8]) -> Result<Ethernet, Reason> {
        let view = EthernetView::new(frame).ok_or(Reason::Truncated)?;
        let destination = view.destination();
        match view.ethertype() {
            VLAN | VLAN_SERVICE => {
                // Behind the tag comes the payload's EtherType, where it would stand if the header began 4 bytes later.
                let shifted = EthernetView::new(&frame[TAG_LEN..]).ok_or(Reason::Truncated)?;
                Ok(Ethernet { destination, ethertype: shifted.ethertype(), len: TAGGED_LEN })
            }
            ethertype => Ok(Ethernet { destination, ethertype, len: LEN }),
        }
    }
}

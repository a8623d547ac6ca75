//! GRE (RFC 2784) with key and sequence number (RFC 2890).

use super::checksum;
use super::layout::gre::{FIELD_LEN, HAS_CHECKSUM, HAS_KEY, HAS_SEQUENCE, LEN, MUST_BE_ZERO};
use super::view::GreView;
use crate::verdict::Reason;

pub use super::layout::gre::LEN as BASE_LEN;
pub use super::layout::protocol::GRE as PROTOCOL;

/// A GRE header of version 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gre {
    /// EtherType of the payload.
    pub protocol: u16,
    /// Bytes before the payload: 4 to 16.
    pub len: usize,
}

impl Gre {
    /// Reads the header at the start of `packet`, which ends where the outer IP packet ends. Verifies the checksum if there is one.
    #[inline]
    pub fn parse(packet: &[u8]) -> Result<Gre, Reason> {
        let view = GreView::new(packet).ok_or(Reason::Truncated)?;
        let flags = view.flags();
        if view.version() != 0 || flags & MUST_BE_ZERO != 0 {
            return Err(Reason::GreVersion);
        }
        let fields = (flags & (HAS_CHECKSUM | HAS_KEY | HAS_SEQUENCE)).count_ones() as usize;
        let len = LEN + FIELD_LEN * fields;
        if len > packet.len() {
            return Err(Reason::Truncated);
        }
        if flags & HAS_CHECKSUM != 0 && !checksum::intact(packet) {
            return Err(Reason::BadGreChecksum);
        }
        Ok(Gre { protocol: view.protocol(), len })
    }
}

//! GRE (RFC 2784) with key and sequence number (RFC 2890).
//!
//! pnet 0.35's `GrePacket` panics on the routing bit and returns the optional fields as vectors, so this one view is our own.

use super::checksum;
use crate::verdict::Reason;

/// Protocol number of GRE (IANA).
pub const PROTOCOL: u8 = 47;

const CHECKSUM: u8 = 0x80;
const KEY: u8 = 0x20;
const SEQUENCE: u8 = 0x10;
/// Bits 1, 4 and 5: "a receiver MUST discard a packet where any of bits 1-5 are non-zero, unless that receiver implements RFC 1701"
/// (RFC 2784 section 2.3); bits 2 and 3 became key and sequence number (RFC 2890).
const MUST_BE_ZERO: u8 = 0x4c;

/// Bytes of the header without optional fields.
pub const BASE_LEN: usize = 4;

/// A GRE header of version 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gre {
    /// EtherType of the payload.
    pub protocol: u16,
    /// Bytes before the payload: 4 to 16.
    pub len: usize,
}

impl Gre {
    /// Reads the header at the start of `packet`, which ends where the outer IP packet ends. A checksum that is present is verified.
    #[inline]
    pub fn parse(packet: &[u8]) -> Result<Gre, Reason> {
        let head = packet.get(..4).ok_or(Reason::Truncated)?;
        let (flags, version) = (head[0], head[1] & 7);
        if version != 0 || flags & MUST_BE_ZERO != 0 {
            return Err(Reason::GreVersion);
        }
        let present = (flags & (CHECKSUM | KEY | SEQUENCE)).count_ones() as usize;
        let len = 4 + 4 * present;
        if len > packet.len() {
            return Err(Reason::Truncated);
        }
        if flags & CHECKSUM != 0 && !checksum::intact(packet) {
            return Err(Reason::BadGreChecksum);
        }
        Ok(Gre { protocol: u16::from_be_bytes([head[2], head[3]]), len })
    }
}

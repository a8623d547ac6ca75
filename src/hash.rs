//! The keyed hashes. They are a contract between directors of different versions: all compute the same from the same key.
//!
//! Every message starts with a byte that says what it is for (its domain), so that no two uses ever hash the same bytes. Integers are big-endian.
//!
//! | domain | function | message after the domain byte |
//! |---|---|---|
//! | 1 flow, IPv4 | SipHash-1-3 | protocol, source, destination (the VIP), source port, destination port (0 for `tftp`) |
//! | 2 flow, IPv6 | SipHash-1-3 | the same with 16-byte addresses |
//! | 3 client | SipHash-1-3 | client address as 16 bytes (IPv4 mapped), destination (the VIP) as 16 bytes |
//! | 4 fragment | SipHash-1-3 | protocol, source as 16 bytes, destination as 16 bytes, identification (4 bytes) |
//! | 16 offset | SipHash-2-4 | name of the backend |
//! | 17 skip | SipHash-2-4 | name of the backend |
//! | 18 fingerprint | SipHash-2-4 | see `crate::maglev` |

use siphasher::sip::{SipHasher13, SipHasher24};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const FLOW_V4: u8 = 1;
const FLOW_V6: u8 = 2;
const CLIENT: u8 = 3;
const FRAGMENT: u8 = 4;

/// What SipHash-2-4 is computed for, rarely.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub enum Domain {
    /// The first slot that a backend asks for in the Maglev table.
    Offset = 16,
    /// The step between the slots that it asks for.
    Skip = 17,
    /// Fingerprint of a table.
    Fingerprint = 18,
}

/// The fleet's hash key: 16 bytes, the same on every director of a fleet. Its bytes are never shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FleetKey([u8; 16]);

impl std::fmt::Debug for FleetKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FleetKey(…)")
    }
}

impl FleetKey {
    /// The key with these bytes.
    pub const fn new(bytes: [u8; 16]) -> Self {
        FleetKey(bytes)
    }

    /// SipHash-2-4 of `domain` and `message`.
    pub fn rare(&self, domain: Domain, message: &[u8]) -> u64 {
        use std::hash::Hasher;
        let mut hasher = SipHasher24::new_with_key(&self.0);
        hasher.write(&[domain as u8]);
        hasher.write(message);
        hasher.finish()
    }

    /// The functions computed for every packet.
    pub fn per_packet(&self) -> PacketHash {
        PacketHash(SipHasher13::new_with_key(&self.0))
    }
}

/// SipHash-1-3 under the fleet's key, set up once.
#[derive(Clone, Copy, Debug)]
pub struct PacketHash(SipHasher13);

impl PacketHash {
    /// Hash of a flow over IPv4. `destination_port` is 0 for a `tftp` service, whose server port is not part of the key.
    #[inline]
    pub fn flow_v4(&self, protocol: u8, source: Ipv4Addr, destination: Ipv4Addr, source_port: u16, destination_port: u16) -> u64 {
        let mut m = [0u8; 14];
        m[0] = FLOW_V4;
        m[1] = protocol;
        m[2..6].copy_from_slice(&source.octets());
        m[6..10].copy_from_slice(&destination.octets());
        m[10..12].copy_from_slice(&source_port.to_be_bytes());
        m[12..14].copy_from_slice(&destination_port.to_be_bytes());
        self.0.hash(&m)
    }

    /// Hash of a flow over IPv6, as [`PacketHash::flow_v4`].
    #[inline]
    pub fn flow_v6(&self, protocol: u8, source: Ipv6Addr, destination: Ipv6Addr, source_port: u16, destination_port: u16) -> u64 {
        let mut m = [0u8; 38];
        m[0] = FLOW_V6;
        m[1] = protocol;
        m[2..18].copy_from_slice(&source.octets());
        m[18..34].copy_from_slice(&destination.octets());
        m[34..36].copy_from_slice(&source_port.to_be_bytes());
        m[36..38].copy_from_slice(&destination_port.to_be_bytes());
        self.0.hash(&m)
    }

    /// Hash of a client's address and a VIP, for services with `key = "client"`.
    #[inline]
    pub fn client(&self, client: IpAddr, vip: IpAddr) -> u64 {
        let mut m = [0u8; 33];
        m[0] = CLIENT;
        m[1..17].copy_from_slice(&mapped(client));
        m[17..33].copy_from_slice(&mapped(vip));
        self.0.hash(&m)
    }

    /// Hash of what the fragments of one packet have in common (RFC 791, RFC 8200: source, destination, protocol, identification).
    #[inline]
    pub fn fragment(&self, protocol: u8, source: IpAddr, destination: IpAddr, identification: u32) -> u64 {
        let mut m = [0u8; 38];
        m[0] = FRAGMENT;
        m[1] = protocol;
        m[2..18].copy_from_slice(&mapped(source));
        m[18..34].copy_from_slice(&mapped(destination));
        m[34..38].copy_from_slice(&identification.to_be_bytes());
        self.0.hash(&m)
    }
}

/// An address as 16 bytes; IPv4 as IPv4-mapped IPv6 (RFC 4291 section 2.5.5.2).
#[inline]
fn mapped(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(a) => a.to_ipv6_mapped().octets(),
        IpAddr::V6(a) => a.octets(),
    }
}

//! The keyed hashes. They are a contract between directors of different versions: all compute the same from the same key.
//!
//! Every message starts with a byte that says what it is for (its domain), so that no two uses ever hash the same bytes. Integers are big-endian.
//!
//! | domain | function | message after the domain byte |
//! |---|---|---|
//! | 1 flow, IPv4 | SipHash-1-3 | protocol, source, destination (the VIP), source port, destination port (0 for `tftp`) |
//! | 2 flow, IPv6 | SipHash-1-3 | the same with 16-byte addresses |
//! | 3 client | SipHash-1-3 | client address as 16 bytes (IPv4 mapped), destination (the VIP) as 16 bytes |
//! | 4 fragment | SipHash-1-3 | protocol (IPv6: 44), source as 16 bytes, destination as 16 bytes, identification (4 bytes) |
//! | 5 hosts | SipHash-1-3 | protocol (fragments of IPv6: 44), source as 16 bytes, destination as 16 bytes |
//! | 6 prefix | SipHash-1-3 | prefix of clients as 16 bytes (IPv4 mapped), number of a limit (8 bytes) |
//! | 7 request | SipHash-1-3 | UDP payload of a request |
//! | 16 offset | SipHash-2-4 | name of the backend |
//! | 17 skip | SipHash-2-4 | name of the backend |
//! | 18 fingerprint | SipHash-2-4 | see `guideway_dataplane::maglev` |
//! | 19 successor | SipHash-2-4 | name of the backend |
//! | 20 transfer | SipHash-2-4 | VIP and client as 16 bytes each (IPv4 mapped), client port |
//! | 21 key id | SipHash-2-4 | nothing |
//! | 22 checkpoints | SipHash-2-4-128 | nothing: the key of the messages between servers, see `guideway_tftp::takeover` |
//! | 23 clients | SipHash-2-4-128 | nothing: the key of [`ClientHasher`] |

mod client_hasher;
pub mod successors;

pub use client_hasher::ClientHasher;

use siphasher::sip::{SipHasher13, SipHasher24};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const FLOW_V4: u8 = 1;
const FLOW_V6: u8 = 2;
const CLIENT: u8 = 3;
const FRAGMENT: u8 = 4;
const HOSTS: u8 = 5;
const PREFIX: u8 = 6;
const REQUEST: u8 = 7;

/// Uses of SipHash-2-4, outside the packet path.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub enum Domain {
    /// The first slot that a backend asks for in the Maglev table.
    Offset = 16,
    /// The step between the slots that it asks for.
    Skip = 17,
    /// Fingerprint of a table.
    Fingerprint = 18,
    /// A backend as a successor.
    Successor = 19,
    /// A transfer whose successors are ranked.
    Transfer = 20,
    /// The public name of a key.
    KeyId = 21,
    /// The key of the messages in which servers tell one another of transfers.
    Checkpoints = 22,
    /// The key of [`ClientHasher`].
    Clients = 23,
}

/// The fleet's hash key: 16 bytes, the same on every director of a fleet. Its bytes are never shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FleetKey([u8; 16]);

impl std::fmt::Debug for FleetKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FleetKey(…)")
    }
}

/// Names a [`FleetKey`]: 16 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(u64);

impl std::fmt::Display for KeyId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl std::str::FromStr for KeyId {
    type Err = String;

    fn from_str(text: &str) -> Result<KeyId, String> {
        let digits = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let id = digits.then(|| u64::from_str_radix(text, 16).ok()).flatten();
        id.map(KeyId).ok_or_else(|| "is no key id; write 16 hex digits, as `guideway check` shows them".to_owned())
    }
}

impl FleetKey {
    /// The key with these bytes.
    pub const fn new(bytes: [u8; 16]) -> Self {
        FleetKey(bytes)
    }

    /// The public name of the key, from which the key cannot be computed.
    pub fn id(&self) -> KeyId {
        KeyId(self.keyed_hash(Domain::KeyId, &[]))
    }

    /// SipHash-2-4 of `domain` and `message`.
    pub fn keyed_hash(&self, domain: Domain, message: &[u8]) -> u64 {
        use std::hash::Hasher;
        let mut hasher = SipHasher24::new_with_key(&self.0);
        hasher.write(&[domain as u8]);
        hasher.write(message);
        hasher.finish()
    }

    /// A key for one use of its own: SipHash-2-4-128 of `domain`.
    pub fn derive_key(&self, domain: Domain) -> [u8; 16] {
        siphasher::sip128::SipHasher24::new_with_key(&self.0).hash(&[domain as u8]).as_bytes()
    }

    /// The functions computed for every packet.
    pub fn packet_hasher(&self) -> PacketHasher {
        PacketHasher {
            hasher: SipHasher13::new_with_key(&self.0),
            words: SipWords::new(&self.0),
            clients: ClientHasher::new(self.derive_key(Domain::Clients)),
        }
    }
}

/// SipHash-1-3 under the fleet's key, set up once.
#[derive(Clone, Copy)]
pub struct PacketHasher {
    hasher: SipHasher13,
    words: SipWords,
    /// The quick hash of clients.
    pub clients: ClientHasher,
}

/// Not derived: the hasher of the `siphasher` crate shows the key that it was made with.
impl std::fmt::Debug for PacketHasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PacketHasher(…)")
    }
}

/// SipHash-1-3 of messages whose length is known where they are hashed, given as the words that SipHash reads. The hasher of the `siphasher` crate takes
/// bytes of any length, which costs as much again as the rounds; for the two functions that every packet needs, this one does the rounds alone. A test
/// compares the two.
#[derive(Clone, Copy)]
struct SipWords([u64; 4]);

impl SipWords {
    fn new(key: &[u8; 16]) -> SipWords {
        let half = |at: usize| u64::from_le_bytes(std::array::from_fn(|n| key[at + n]));
        let (k0, k1) = (half(0), half(8));
        // "somepseudorandomlygeneratedbytes" (Aumasson and Bernstein, SipHash, section 2.1).
        SipWords([k0 ^ 0x736f_6d65_7073_6575, k1 ^ 0x646f_7261_6e64_6f6d, k0 ^ 0x6c79_6765_6e65_7261, k1 ^ 0x7465_6462_7974_6573])
    }

    /// Hash of the message that these words are, each read from 8 bytes in little-endian order; the last holds its bytes that remain, and its length in the
    /// highest byte.
    #[inline(always)]
    fn hash<const N: usize>(&self, words: [u64; N]) -> u64 {
        let mut v = self.0;
        for word in words {
            v[3] ^= word;
            round(&mut v);
            v[0] ^= word;
        }
        v[2] ^= 0xff;
        round(&mut v);
        round(&mut v);
        round(&mut v);
        v[0] ^ v[1] ^ v[2] ^ v[3]
    }
}

/// One SipRound (section 2.2).
#[inline(always)]
fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[2] = v[2].wrapping_add(v[3]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[1]);
    v[0] = v[0].wrapping_add(v[3]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].rotate_left(32);
}

/// Both ports as they stand in a packet, read in little-endian order.
#[inline(always)]
fn ports(source: u16, destination: u16) -> u32 {
    u32::from(source.swap_bytes()) | u32::from(destination.swap_bytes()) << 16
}

impl PacketHasher {
    /// Hash of a flow over IPv4. `destination_port` is 0 for a `tftp` service, whose server port is not part of the key.
    #[inline(always)]
    pub fn flow_v4(&self, protocol: u8, source: Ipv4Addr, destination: Ipv4Addr, source_port: u16, destination_port: u16) -> u64 {
        let rest = u64::from(u32::from_le_bytes(destination.octets())) | u64::from(ports(source_port, destination_port)) << 32;
        self.flow_v4_raw(protocol, source, rest)
    }

    /// The same of a packet in which the ports follow the addresses: `rest` is destination and both ports, read together in little-endian order.
    #[inline(always)]
    pub fn flow_v4_raw(&self, protocol: u8, source: Ipv4Addr, rest: u64) -> u64 {
        // The message's bytes stand in the packet in this order: read as little-endian words they need no turning round.
        let source = u64::from(u32::from_le_bytes(source.octets()));
        let first = u64::from(FLOW_V4) | u64::from(protocol) << 8 | source << 16 | rest << 48;
        self.words.hash([first, rest >> 16 | 14 << 56])
    }

    /// Hash of a flow over IPv6, as [`PacketHasher::flow_v4`].
    #[inline(always)]
    pub fn flow_v6(&self, protocol: u8, source: Ipv6Addr, destination: Ipv6Addr, source_port: u16, destination_port: u16) -> u64 {
        self.flow_v6_raw(protocol, source, destination, ports(source_port, destination_port))
    }

    /// The same of both ports, read together in little-endian order.
    #[inline(always)]
    pub fn flow_v6_raw(&self, protocol: u8, source: Ipv6Addr, destination: Ipv6Addr, ports: u32) -> u64 {
        let (source, destination) = (u128::from_le_bytes(source.octets()), u128::from_le_bytes(destination.octets()));
        self.words.hash([
            u64::from(FLOW_V6) | u64::from(protocol) << 8 | (source as u64) << 16,
            (source >> 48) as u64,
            (source >> 112) as u64 | (destination as u64) << 16,
            (destination >> 48) as u64,
            (destination >> 112) as u64 | u64::from(ports) << 16 | 38 << 56,
        ])
    }

    /// Hash of a client's address and a VIP, for services with `key = "client"`.
    #[inline]
    pub fn client(&self, client: IpAddr, vip: IpAddr) -> u64 {
        let mut m = [0u8; 33];
        m[0] = CLIENT;
        m[1..17].copy_from_slice(&mapped(client));
        m[17..33].copy_from_slice(&mapped(vip));
        self.hasher.hash(&m)
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
        self.hasher.hash(&m)
    }

    /// Hash of what all fragments between two hosts have in common, whatever their datagram: it names the director that owns them.
    #[inline]
    pub fn hosts(&self, protocol: u8, source: IpAddr, destination: IpAddr) -> u64 {
        let mut m = [0u8; 34];
        m[0] = HOSTS;
        m[1] = protocol;
        m[2..18].copy_from_slice(&mapped(source));
        m[18..34].copy_from_slice(&mapped(destination));
        self.hasher.hash(&m)
    }

    /// Hash of the prefix that clients come from, under one of the limits on their requests. Only the director that computes it uses it.
    #[inline]
    pub fn prefix(&self, prefix: IpAddr, limit: u64) -> u64 {
        let mut m = [0u8; 25];
        m[0] = PREFIX;
        m[1..17].copy_from_slice(&mapped(prefix));
        m[17..25].copy_from_slice(&limit.to_be_bytes());
        self.hasher.hash(&m)
    }

    /// Hash of a request's bytes. Only the director that computes it uses it.
    pub fn request(&self, payload: &[u8]) -> u64 {
        use std::hash::Hasher;
        let mut hasher = self.hasher;
        hasher.write(&[REQUEST]);
        hasher.write(payload);
        hasher.finish()
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

#[cfg(test)]
mod tests {
    //! Test vectors for whoever computes these hashes elsewhere; `src/README.md` lists them. Key 00 01 02 … 0f.

    use super::*;

    fn key() -> FleetKey {
        FleetKey::new(std::array::from_fn(|index| index as u8))
    }

    fn v4(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    fn v6(text: &str) -> Ipv6Addr {
        text.parse().unwrap()
    }

    #[test]
    fn offset_and_skip() {
        assert_eq!(key().keyed_hash(Domain::Offset, b"t1"), 0x8a91_b465_2dd4_963e);
        assert_eq!(key().keyed_hash(Domain::Skip, b"t1"), 0xe0a8_567a_51a5_faec);
    }

    #[test]
    fn fingerprint_of_nothing() {
        assert_eq!(key().keyed_hash(Domain::Fingerprint, b""), 0x11de_f789_51fa_3a2b);
    }

    #[test]
    fn flow_v4() {
        assert_eq!(key().packet_hasher().flow_v4(17, v4("198.51.100.7"), v4("192.0.2.69"), 40_000, 0), 0xb976_de6b_0b72_c0c9);
        assert_eq!(key().packet_hasher().flow_v4(17, v4("198.51.100.7"), v4("192.0.2.53"), 40_000, 53), 0xa909_db84_e0d1_6e8b);
    }

    #[test]
    fn flow_v6() {
        assert_eq!(key().packet_hasher().flow_v6(17, v6("2001:db8::7"), v6("2001:db8:69::1"), 40_000, 0), 0x9d41_fcf3_0e90_a969);
        assert_eq!(key().packet_hasher().flow_v6(17, v6("2001:db8::7"), v6("2001:db8:69::1"), 40_000, 53), 0x61ac_1cea_a78a_bfe0);
    }

    #[test]
    fn client() {
        let hash = key().packet_hasher();
        assert_eq!(hash.client(v4("198.51.100.7").into(), v4("192.0.2.69").into()), 0xbe46_0548_577c_3e9d);
        assert_eq!(
            hash.client(v6("::ffff:198.51.100.7").into(), v6("::ffff:192.0.2.69").into()),
            hash.client(v4("198.51.100.7").into(), v4("192.0.2.69").into())
        );
        assert_eq!(hash.client(v6("2001:db8::7").into(), v6("2001:db8:69::1").into()), 0x5c33_fe89_6d84_6fb9);
    }

    #[test]
    fn fragment() {
        let hash = key().packet_hasher();
        assert_eq!(hash.fragment(17, v4("198.51.100.7").into(), v4("192.0.2.69").into(), 0x1234), 0xc741_a745_5551_f186);
        assert_eq!(hash.fragment(17, v6("2001:db8::7").into(), v6("2001:db8:69::1").into(), 0x1234_5678), 0xbcff_e207_f9bb_7f6e);
    }

    #[test]
    fn hosts() {
        let hash = key().packet_hasher();
        assert_eq!(hash.hosts(17, v4("198.51.100.7").into(), v4("192.0.2.69").into()), 0x20ee_fa5e_1985_df1a);
        assert_eq!(hash.hosts(44, v6("2001:db8::7").into(), v6("2001:db8:69::1").into()), 0x28d0_e393_ed56_806d);
    }

    proptest::proptest! {
        #[test]
        fn words_hash_as_bytes_do(key: [u8; 16], protocol: u8, source: u128, destination: u128, ports: (u16, u16)) {
            let hash = FleetKey::new(key).packet_hasher();
            let ports_and = |addresses: &[u8], domain: u8| {
                [&[domain, protocol][..], addresses, &ports.0.to_be_bytes(), &ports.1.to_be_bytes()].concat()
            };
            let (v4, to_v4) = (Ipv4Addr::from_bits(source as u32), Ipv4Addr::from_bits(destination as u32));
            let message = ports_and(&[v4.octets(), to_v4.octets()].concat(), FLOW_V4);
            proptest::prop_assert_eq!(hash.flow_v4(protocol, v4, to_v4, ports.0, ports.1), SipHasher13::new_with_key(&key).hash(&message));
            let (v6, to_v6) = (Ipv6Addr::from_bits(source), Ipv6Addr::from_bits(destination));
            let message = ports_and(&[v6.octets(), to_v6.octets()].concat(), FLOW_V6);
            proptest::prop_assert_eq!(hash.flow_v6(protocol, v6, to_v6, ports.0, ports.1), SipHasher13::new_with_key(&key).hash(&message));
        }
    }

    #[test]
    fn the_key_is_never_shown() {
        assert_eq!(format!("{:?}", key()), "FleetKey(…)");
        assert_eq!(format!("{:?}", key().packet_hasher()), "PacketHasher(…)");
    }
}

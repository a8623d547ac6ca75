//! A keyed hash of a client's address and port in a few instructions.

/// Tells clients apart where a collision costs a little time, and nothing else: SipHash would cost each packet as much as all else together. For an even
/// choice, mix the hash further ([`crate::successors::fmix64`]).
///
/// A sum of products with odd keys, of which the upper bits count (multiply-shift: Dietzfelbinger, "Universal hashing and k-wise independent random variables",
/// 1996). It is no pseudo-random function: its values must not be shown to those who choose its input.
#[derive(Clone, Copy, Default)]
pub struct ClientHasher([u64; 2]);

impl std::fmt::Debug for ClientHasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClientHasher(…)")
    }
}

impl ClientHasher {
    /// The hash under this key.
    pub fn new(key: [u8; 16]) -> ClientHasher {
        let [a, b] = [0, 8].map(|at| key[at..].first_chunk().map_or(0, |half| u64::from_le_bytes(*half)));
        ClientHasher([a | 1, b | 1])
    }

    /// Hash of an IPv4 client. Address and port as they stand in the packet, read in the same byte order each time.
    #[inline(always)]
    pub fn v4(self, address: u32, port: u16) -> u64 {
        self.0[0].wrapping_mul(u64::from(address) | u64::from(port) << 32)
    }

    /// Hash of an IPv6 client, as [`ClientHasher::v4`].
    #[inline(always)]
    pub fn v6(self, address: u128, port: u16) -> u64 {
        let (low, high) = (address as u64 ^ u64::from(port), (address >> 64) as u64);
        self.0[0].wrapping_mul(low).wrapping_add(self.0[1].wrapping_mul(high))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::successors::fmix64;
    use std::collections::{BTreeMap, BTreeSet};

    fn hasher(key: u8) -> ClientHasher {
        crate::FleetKey::new([key; 16]).packet_hasher().clients
    }

    /// The smallest and the largest of 16 parts by the lower bits once mixed, and how many different upper 16 bits there are.
    fn parts(hashes: impl Iterator<Item = u64>) -> (usize, usize, usize) {
        let (mut parts, mut places) = (BTreeMap::new(), BTreeSet::new());
        for hash in hashes {
            *parts.entry(fmix64(hash) & 15).or_insert(0) += 1;
            places.insert(hash >> 48);
        }
        (parts.values().copied().min().unwrap(), parts.values().copied().max().unwrap(), places.len())
    }

    #[test]
    fn clients_of_any_kind_are_spread_evenly_under_any_key() {
        for key in 0..20 {
            let hasher = hasher(key);
            let neighbours = parts((0..4096u32).map(|n| hasher.v4((0x0a00_0000 + n).to_be(), 2070)));
            let ports = parts((0..4096u16).map(|n| hasher.v4(0x0a00_0001, (1024 + n).to_be())));
            let networks =
                parts((0..4096u128).map(|n| hasher.v6(u128::from_le_bytes(((0x2001_0db8 << 96) | n << 64 | 1).to_be_bytes()), 2070)));
            let hosts = parts((0..4096u128).map(|n| hasher.v6(u128::from_le_bytes(((0x2001_0db8 << 96) | n).to_be_bytes()), 2070)));
            for (least, most, places) in [neighbours, ports, networks, hosts] {
                assert!(least >= 180 && most <= 340, "{least} to {most} of 256 under key {key}");
                assert!(places >= 1000, "{places} places of 4096 clients under key {key}");
            }
        }
    }

    #[test]
    fn another_key_hashes_otherwise() {
        let same = (0..10_000u32).filter(|n| hasher(1).v4(*n, 1) >> 48 == hasher(2).v4(*n, 1) >> 48).count();
        assert!(same < 5, "{same}");
        assert_eq!(format!("{:?}", hasher(1)), "ClientHasher(…)");
    }
}

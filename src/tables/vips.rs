//! (destination, protocol, port) → service.

use crate::wire::l4::UDP;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::net::IpAddr;

/// Index of a service in its snapshot.
pub type ServiceId = u16;

/// The port of TFTP requests (RFC 1350 section 4).
pub const TFTP_PORT: u16 = 69;
/// Lowest port that a `tftp` service takes besides 69.
pub const TID_MIN: u16 = 1024;

/// The VIPs of a snapshot.
#[derive(Clone, Debug, Default)]
pub struct VipTable(HashMap<IpAddr, Vip, BuildHasherDefault<Multiply>>);

/// What is served at one VIP.
#[derive(Clone, Debug, Default)]
pub struct Vip {
    tftp: Option<ServiceId>,
    /// (protocol, first port, last port, service), sorted, disjoint.
    ports: Vec<(u8, u16, u16, ServiceId)>,
}

impl VipTable {
    /// Adds a `tftp` service at `address`.
    pub fn add_tftp(&mut self, address: IpAddr, service: ServiceId) {
        self.0.entry(address).or_default().tftp = Some(service);
    }

    /// Adds a service on inclusive port ranges at `address`, disjoint from those already there.
    pub fn add_ports(&mut self, address: IpAddr, protocol: u8, ranges: &[(u16, u16)], service: ServiceId) {
        let vip = self.0.entry(address).or_default();
        vip.ports.extend(ranges.iter().map(|(first, last)| (protocol, *first, *last, service)));
        vip.ports.sort_unstable();
    }

    /// The VIP at `address`.
    #[inline]
    pub fn get(&self, address: IpAddr) -> Option<&Vip> {
        self.0.get(&address)
    }

    /// Every VIP's address.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.0.keys().copied()
    }
}

impl Vip {
    /// The service on `port`: an exact port wins over `tftp`, which takes port 69 and every port from 1024 on.
    #[inline]
    pub fn service(&self, protocol: u8, port: u16) -> Option<ServiceId> {
        let after = self.ports.partition_point(|entry| (entry.0, entry.1) <= (protocol, port));
        if let Some(&(p, _, last, service)) = after.checked_sub(1).and_then(|at| self.ports.get(at))
            && p == protocol
            && port <= last
        {
            return Some(service);
        }
        self.tftp.filter(|_| protocol == UDP && (port == TFTP_PORT || port >= TID_MIN))
    }

    /// The service that packets without a port (echo requests) go with: `tftp` if there is one.
    pub fn first(&self) -> Option<ServiceId> {
        self.tftp.or_else(|| self.ports.first().map(|entry| entry.3))
    }
}

/// Hashes the octets of an address by multiplication. The set of VIPs is the operator's, so nobody can aim at this hash.
#[derive(Clone, Copy, Debug, Default)]
pub struct Multiply(u64);

impl Hasher for Multiply {
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0u8; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    #[inline]
    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    #[inline]
    fn write_u32(&mut self, word: u32) {
        self.write_u64(word.into());
    }

    // Discriminants and lengths: the octets tell the two families apart well enough.
    #[inline]
    fn write_isize(&mut self, _: isize) {}

    #[inline]
    fn write_usize(&mut self, _: usize) {}

    #[inline]
    fn finish(&self) -> u64 {
        // The map takes the bucket from the low bits and a tag from the high ones.
        self.0 ^ (self.0 >> 32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::l4::TCP;

    #[test]
    fn an_exact_port_wins_over_tftp_and_tftp_takes_69_and_the_high_ports_of_udp() {
        let vip: IpAddr = "192.0.2.69".parse().unwrap();
        let mut table = VipTable::default();
        table.add_tftp(vip, 0);
        table.add_ports(vip, UDP, &[(53, 53), (8000, 8100)], 1);
        table.add_ports(vip, TCP, &[(53, 53)], 2);
        let vip = table.get(vip).unwrap();
        for (protocol, port, expected) in [
            (UDP, 69, Some(0)),
            (UDP, 1023, None),
            (UDP, 1024, Some(0)),
            (UDP, 65_535, Some(0)),
            (UDP, 53, Some(1)),
            (UDP, 8000, Some(1)),
            (UDP, 8100, Some(1)),
            (UDP, 8101, Some(0)),
            (UDP, 7999, Some(0)),
            (TCP, 53, Some(2)),
            (TCP, 54, None),
            (TCP, 69, None),
            (TCP, 5000, None),
            (1, 53, None),
        ] {
            assert_eq!(vip.service(protocol, port), expected, "{protocol} {port}");
        }
        assert!(table.get("192.0.2.70".parse().unwrap()).is_none());
        assert!(table.get("::ffff:192.0.2.69".parse().unwrap()).is_none(), "a mapped address is not the IPv4 VIP");
    }
}

//! (destination, protocol, port) → service.

use guideway_packet::wire::l4::UDP;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Index of a service in its snapshot.
pub type ServiceId = u16;

/// The port of TFTP requests (RFC 1350 section 4).
pub const TFTP_PORT: u16 = 69;
/// Lowest port that a `tftp` service takes besides 69.
pub const TID_MIN: u16 = 1024;

/// The VIPs of a snapshot.
#[derive(Clone, Debug, Default)]
pub struct VipTable {
    vips: Vec<(IpAddr, Vip)>,
    v4: Index<u32>,
    v6: Index<u128>,
}

/// What is served at one VIP.
#[derive(Clone, Debug, Default)]
pub struct Vip {
    tftp: Option<ServiceId>,
    /// (protocol, first port, last port, service), sorted, disjoint.
    ports: Vec<(u8, u16, u16, ServiceId)>,
}

/// Ports that have the same service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    first: u16,
    last: u16,
    /// The service.
    pub service: ServiceId,
}

impl PortRange {
    /// Whether `port` is one of them.
    #[inline(always)]
    pub fn contains(&self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl VipTable {
    /// Adds a `tftp` service at `address`.
    pub fn add_tftp(&mut self, address: IpAddr, service: ServiceId) {
        self.entry(address).tftp = Some(service);
    }

    /// Adds a service on inclusive port ranges at `address`, disjoint from those already there.
    pub fn add_ports(&mut self, address: IpAddr, protocol: u8, ranges: &[(u16, u16)], service: ServiceId) {
        let vip = self.entry(address);
        vip.ports.extend(ranges.iter().map(|(first, last)| (protocol, *first, *last, service)));
        vip.ports.sort_unstable();
    }

    fn entry(&mut self, address: IpAddr) -> &mut Vip {
        let new = self.vips.len();
        let at = match address {
            IpAddr::V4(address) => self.v4.find_or_insert(address.to_bits(), new),
            IpAddr::V6(address) => self.v6.find_or_insert(address.to_bits(), new),
        };
        if at == new {
            self.vips.push((address, Vip::default()));
        }
        &mut self.vips[at].1
    }

    /// The VIP at `address`.
    #[inline(always)]
    pub fn get(&self, address: IpAddr) -> Option<&Vip> {
        match address {
            IpAddr::V4(address) => self.get_v4(address),
            IpAddr::V6(address) => self.get_v6(address),
        }
    }

    /// The VIP at an IPv4 address.
    #[inline(always)]
    pub fn get_v4(&self, address: Ipv4Addr) -> Option<&Vip> {
        Some(&self.vips[self.v4.find(address.to_bits())?].1)
    }

    /// The VIP at an IPv6 address.
    #[inline(always)]
    pub fn get_v6(&self, address: Ipv6Addr) -> Option<&Vip> {
        Some(&self.vips[self.v6.find(address.to_bits())?].1)
    }

    /// Every VIP's address.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.vips.iter().map(|(address, _)| *address)
    }
}

impl Vip {
    /// The service on `port`: an exact port wins over `tftp`, which takes port 69 and every port from 1024 on.
    #[inline(always)]
    pub fn service(&self, protocol: u8, port: u16) -> Option<ServiceId> {
        // A VIP has few services: one after the other is quicker than a search.
        for &(p, first, last, service) in &self.ports {
            if p == protocol && (first..=last).contains(&port) {
                return Some(service);
            }
        }
        self.tftp.filter(|_| protocol == UDP && (port == TFTP_PORT || port >= TID_MIN))
    }

    /// The same with ports around this one, as many as are known to have the same service without a search.
    pub fn port_range(&self, protocol: u8, port: u16) -> Option<PortRange> {
        let service = self.service(protocol, port)?;
        let mut own = self.ports.iter().filter(|entry| entry.0 == protocol).peekable();
        let (first, last) = match own.peek() {
            None if port >= TID_MIN => (TID_MIN, u16::MAX),
            _ => own.find(|entry| (entry.1..=entry.2).contains(&port)).map_or((port, port), |entry| (entry.1, entry.2)),
        };
        Some(PortRange { first, last, service })
    }

    /// The service that packets without a port (echo requests) go with: `tftp` if there is one.
    pub fn first(&self) -> Option<ServiceId> {
        self.tftp.or_else(|| self.ports.first().map(|entry| entry.3))
    }
}

/// Address → number, by open addressing at a load of at most a half. Operators choose the VIPs, so no client can attack this hash.
#[derive(Clone, Debug)]
struct Index<A> {
    slots: Box<[(A, u32)]>,
    used: usize,
}

/// No number.
const EMPTY: u32 = u32::MAX;

impl<A: Address> Default for Index<A> {
    fn default() -> Self {
        Index::with_slots(1)
    }
}

impl<A: Address> Index<A> {
    /// An empty index. `count` is a power of two.
    fn with_slots(count: usize) -> Index<A> {
        Index { slots: vec![(A::default(), EMPTY); count].into_boxed_slice(), used: 0 }
    }

    /// The number of `address`, which becomes `number` if it has none.
    fn find_or_insert(&mut self, address: A, number: usize) -> usize {
        if let Some(known) = self.find(address) {
            return known;
        }
        // Doubled each time, so that an insertion moves two others on average, however many there are.
        if 2 * (self.used + 1) > self.slots.len() {
            let grown = Index::with_slots(2 * self.slots.len());
            let before = std::mem::replace(self, grown);
            before.slots.iter().filter(|slot| slot.1 != EMPTY).for_each(|slot| self.put(*slot));
        }
        self.put((address, number as u32));
        number
    }

    /// Fills the first free slot for this address.
    fn put(&mut self, entry: (A, u32)) {
        let mask = self.slots.len() - 1;
        let mut at = entry.0.multiply() as usize & mask;
        while self.slots[at].1 != EMPTY {
            at = (at + 1) & mask;
        }
        self.slots[at] = entry;
        self.used += 1;
    }

    #[inline(always)]
    fn find(&self, address: A) -> Option<usize> {
        let mask = self.slots.len().wrapping_sub(1);
        let mut at = address.multiply() as usize & mask;
        // Half of the slots are empty, so that this ends.
        loop {
            let (known, number) = *self.slots.get(at)?;
            if number == EMPTY {
                return None;
            }
            if known == address {
                return Some(number as usize);
            }
            at = (at + 1) & mask;
        }
    }
}

/// An address as a number.
trait Address: Copy + Eq + Default {
    /// A number whose low bits depend on all bits of the address.
    fn multiply(self) -> u64;
}

impl Address for u32 {
    #[inline(always)]
    fn multiply(self) -> u64 {
        u64::from(self).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32
    }
}

impl Address for u128 {
    #[inline(always)]
    fn multiply(self) -> u64 {
        (((self >> 64) as u64).rotate_left(23) ^ self as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use guideway_packet::wire::l4::TCP;

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
            let port_range = vip.port_range(protocol, port);
            assert_eq!(port_range.map(|port_range| port_range.service), expected);
            assert!(port_range.is_none_or(|port_range| port_range.contains(port)), "{protocol} {port}");
        }
        assert!(table.get("192.0.2.70".parse().unwrap()).is_none());
        assert!(table.get("::ffff:192.0.2.69".parse().unwrap()).is_none(), "a mapped address is not the IPv4 VIP");
    }

    #[test]
    fn all_ports_of_a_span_have_its_service() {
        let (alone, mixed): (IpAddr, IpAddr) = ("192.0.2.69".parse().unwrap(), "192.0.2.70".parse().unwrap());
        let mut table = VipTable::default();
        table.add_tftp(alone, 0);
        table.add_ports(alone, TCP, &[(2000, 3000)], 2);
        table.add_tftp(mixed, 0);
        table.add_ports(mixed, UDP, &[(53, 53), (8000, 8100)], 1);
        for (vip, port, ports) in [(alone, 69, 1), (alone, 1024, 64_512), (alone, 65_535, 64_512), (mixed, 8050, 101), (mixed, 9000, 1)] {
            let vip = table.get(vip).unwrap();
            let port_range = vip.port_range(UDP, port).unwrap();
            let inside: Vec<u16> = (0..=u16::MAX).filter(|port| port_range.contains(*port)).collect();
            assert_eq!(inside.len(), ports, "{port}");
            assert!(inside.iter().all(|port| vip.service(UDP, *port) == Some(port_range.service)), "{port}");
        }
    }

    #[test]
    fn each_of_thousands_of_vips_is_found_and_none_else() {
        let v4 = (0..3000u32).map(|n| IpAddr::V4(Ipv4Addr::from_bits(0xc000_0200 + n * 256)));
        let v6 = (0..3000u128).map(|n| IpAddr::V6(Ipv6Addr::from_bits((0x2001_0db8 << 96) + (n << 64))));
        let all: Vec<IpAddr> = v4.chain(v6).collect();
        let mut table = VipTable::default();
        for (n, address) in all.iter().enumerate() {
            table.add_tftp(*address, n as u16);
        }
        for (n, address) in all.iter().enumerate() {
            assert_eq!(table.get(*address).and_then(Vip::first), Some(n as u16), "{address}");
        }
        for other in ["192.0.1.0", "192.0.2.1", "2001:db8::1", "::", "0.0.0.0"] {
            assert!(table.get(other.parse().unwrap()).is_none(), "{other}");
        }
        assert_eq!(table.addresses().count(), all.len());
    }

    #[test]
    fn the_work_for_a_vip_does_not_grow_with_their_number() {
        thread_local!(static HASHED: std::cell::Cell<u64> = const { std::cell::Cell::new(0) });
        #[derive(Clone, Copy, PartialEq, Eq, Default)]
        struct Counted(u32);
        impl Address for Counted {
            fn multiply(self) -> u64 {
                HASHED.with(|hashed| hashed.set(hashed.get() + 1));
                self.0.multiply()
            }
        }
        for count in [100, 16_000, 64_000u32] {
            HASHED.with(|hashed| hashed.set(0));
            let mut index = Index::default();
            for n in 0..count {
                assert_eq!(index.find_or_insert(Counted(n * 256), n as usize), n as usize);
                assert_eq!(index.find_or_insert(Counted(n * 256), usize::MAX), n as usize, "a second service");
            }
            let hashed = HASHED.with(std::cell::Cell::get);
            assert!(hashed <= 6 * u64::from(count), "{hashed} for {count}");
        }
    }
}

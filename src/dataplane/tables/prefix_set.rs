//! A set of addresses: prefixes as sorted ranges, found by binary search.

use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A set of addresses given as prefixes.
#[derive(Clone, Debug, Default)]
pub struct PrefixSet {
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
}

impl PrefixSet {
    /// The union of `prefixes`.
    pub fn new(prefixes: &[IpNet]) -> PrefixSet {
        let mut set = PrefixSet::default();
        for prefix in prefixes {
            match prefix {
                IpNet::V4(p) => set.v4.push((p.network().into(), p.broadcast().into())),
                IpNet::V6(p) => set.v6.push((p.network().into(), p.broadcast().into())),
            }
        }
        merge(&mut set.v4);
        merge(&mut set.v6);
        set
    }

    /// Whether `address` is in the set.
    #[inline]
    pub fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(a) => self.contains_v4(a),
            IpAddr::V6(a) => self.contains_v6(a),
        }
    }

    /// The same for IPv4.
    #[inline]
    pub fn contains_v4(&self, address: Ipv4Addr) -> bool {
        find(&self.v4, address.to_bits())
    }

    /// The same for IPv6.
    #[inline]
    pub fn contains_v6(&self, address: Ipv6Addr) -> bool {
        find(&self.v6, address.to_bits())
    }
}

/// Sorts, and joins ranges that overlap.
fn merge<T: Ord + Copy>(ranges: &mut Vec<(T, T)>) {
    ranges.sort_unstable();
    ranges.dedup_by(|next, kept| {
        let overlap = next.0 <= kept.1;
        if overlap {
            kept.1 = kept.1.max(next.1);
        }
        overlap
    });
}

#[inline]
fn find<T: Ord + Copy>(ranges: &[(T, T)], address: T) -> bool {
    let after = ranges.partition_point(|range| range.0 <= address);
    after > 0 && address <= ranges[after - 1].1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn membership_is_that_of_the_prefixes() {
        let prefixes: Vec<IpNet> = ["10.0.0.0/24", "10.0.0.128/25", "10.0.0.0/16", "192.0.2.1/32", "2001:db8::/64", "10.2.0.0/24"]
            .map(|p| p.parse().unwrap())
            .to_vec();
        let set = PrefixSet::new(&prefixes);
        for address in [
            "10.0.0.1",
            "10.0.255.255",
            "10.1.0.0",
            "9.255.255.255",
            "192.0.2.1",
            "192.0.2.2",
            "2001:db8::1",
            "2001:db8:0:1::",
            "10.2.0.255",
        ] {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(set.contains(address), prefixes.iter().any(|p| p.contains(&address)), "{address}");
        }
        assert!(!PrefixSet::new(&[]).contains("10.0.0.1".parse().unwrap()));
        assert!(PrefixSet::new(&["0.0.0.0/0".parse().unwrap()]).contains("255.255.255.255".parse().unwrap()));
    }
}

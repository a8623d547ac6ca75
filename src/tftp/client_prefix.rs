//! The prefix of an address as that of one client: a host may use any address of its IPv6 network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bits of an IPv6 address that are those of one client, unless configured.
pub const PREFIX6: u8 = 64;

/// Returns the first `prefix4` or `prefix6` bits of an address. An IPv4 address in IPv6 is one of IPv4.
pub fn client_prefix(client: IpAddr, prefix4: u8, prefix6: u8) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V4(a) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix4.min(32))).unwrap_or(0);
            Ipv4Addr::from_bits(a.to_bits() & mask).into()
        }
        IpAddr::V6(a) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix6.min(128))).unwrap_or(0);
            Ipv6Addr::from_bits(a.to_bits() & mask).into()
        }
    }
}

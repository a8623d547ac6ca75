//! The setup that a backend's host needs to serve a VIP.

use crate::error::Error;
use crate::netlink::Netlink;
use std::net::IpAddr;

/// Returns the prefix length of a single address.
pub fn host_prefix_len(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// Adds a VIP to `lo`; returns whether it is new there. Also adds an IPv4 VIP to the tunnel: through an interface without an address,
/// Linux's reverse-path filter drops every packet, even in loose mode.
pub fn add_vip_address(netlink: &Netlink, vip: IpAddr, tunnel: &str) -> Result<bool, Error> {
    if vip.is_ipv4() {
        netlink.add_address(tunnel, vip, host_prefix_len(vip))?;
    }
    netlink.add_address("lo", vip, host_prefix_len(vip))
}

/// Returns the settings below `/proc/sys/net` for a backend whose VIP is on `lo` and whose packets come out of `tunnel`.
///
/// Clients' packets come out of another interface than the route to the client, so the reverse-path filter there must be loose (2). The
/// kernel uses the larger value of `all` and the interface, so 2 holds whatever `all` is. No host on the link may learn the VIP by ARP.
pub fn backend_sysctls(tunnel: &str) -> Vec<(String, &'static str)> {
    vec![
        (format!("ipv4/conf/{tunnel}/rp_filter"), "2"),
        ("ipv4/conf/all/arp_ignore".to_owned(), "1"),
        ("ipv4/conf/all/arp_announce".to_owned(), "2"),
    ]
}

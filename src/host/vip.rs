//! What a backend's host needs to serve a VIP.

use crate::error::Error;
use crate::netlink::Netlink;
use std::net::IpAddr;

/// The prefix length of one address.
pub fn host_prefix(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// Puts a VIP on `lo`; says whether it is new there. An IPv4 VIP also goes on the tunnel: Linux lets nothing pass the reverse-path
/// filter, however loose, by an interface without an address.
pub fn hold_vip(netlink: &Netlink, vip: IpAddr, tunnel: &str) -> Result<bool, Error> {
    if vip.is_ipv4() {
        netlink.add_address(tunnel, vip, host_prefix(vip))?;
    }
    netlink.add_address("lo", vip, host_prefix(vip))
}

/// Settings below `/proc/sys/net` that a backend needs whose VIP is on `lo` and whose packets come out of `tunnel`.
///
/// Clients' packets come out of another interface than the route to the client names, so the reverse-path filter there must be loose (2).
/// The kernel takes the larger value of `all` and the interface: 2 holds whatever `all` says. Nobody on the link may learn the VIP by ARP.
pub fn backend_sysctls(tunnel: &str) -> Vec<(String, &'static str)> {
    vec![
        (format!("ipv4/conf/{tunnel}/rp_filter"), "2"),
        ("ipv4/conf/all/arp_ignore".to_owned(), "1"),
        ("ipv4/conf/all/arp_announce".to_owned(), "2"),
    ]
}

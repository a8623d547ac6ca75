//! The path MTUs to clients, which the kernel knows.

use guideway_sys::get_option;
use socket2::{Domain, Protocol, Socket, Type};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

/// Cache of path MTUs to clients, which the kernel reports.
pub struct PathMtu {
    known: Vec<Option<(IpAddr, u32, u64)>>,
}

/// Size of the cache, and lifetime of its entries in seconds.
const CACHE_SIZE: usize = 256;
const TTL: u64 = 10;
/// RFC 8200 section 5.
const MIN_MTU_IPV6: u32 = 1280;
/// RFC 791 section 3.1: every host accepts packets of this size.
const MIN_MTU_IPV4: u32 = 576;

impl PathMtu {
    /// Creates an empty cache.
    pub fn new() -> PathMtu {
        PathMtu { known: vec![None; CACHE_SIZE] }
    }

    /// Returns the MTU of the path to `client`, or the smallest one of its family when there is no route.
    pub fn to(&mut self, client: SocketAddr, second: u64) -> u32 {
        let last = match client.ip() {
            IpAddr::V4(ip) => ip.octets()[3],
            IpAddr::V6(ip) => ip.octets()[15],
        };
        let place = &mut self.known[usize::from(last) % CACHE_SIZE];
        if let Some((address, mtu, until)) = *place
            && address == client.ip()
            && second < until
        {
            return mtu;
        }
        let mtu = look_up(client).unwrap_or(if client.is_ipv6() { MIN_MTU_IPV6 } else { MIN_MTU_IPV4 });
        *place = Some((client.ip(), mtu, second + TTL));
        mtu
    }
}

/// Asks the kernel. Connecting a UDP socket sends no packet; it looks up the route. Each look-up has a socket of its own: a connected socket keeps the
/// source address of its first connection, and the route of another client may depend on it.
fn look_up(client: SocketAddr) -> Option<u32> {
    let probe = Socket::new(Domain::for_address(client), Type::DGRAM, Some(Protocol::UDP)).ok()?;
    probe.connect(&client.into()).ok()?;
    let (level, name) = if client.is_ipv6() { (libc::IPPROTO_IPV6, libc::IPV6_MTU) } else { (libc::IPPROTO_IP, libc::IP_MTU) };
    u32::try_from(get_option::<i32>(probe.as_fd(), level, name).ok()?).ok()
}

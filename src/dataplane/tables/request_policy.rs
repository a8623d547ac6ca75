//! The request policy of a `tftp` service, and the source addresses that no client can have.

use super::policy::Admission;
use super::prefix_set::PrefixSet;
use std::net::{IpAddr, Ipv4Addr};

/// What of the requests to a service gets as far as a backend.
#[derive(Clone, Debug, Default)]
pub struct RequestPolicy {
    /// Write requests are forwarded.
    pub writes: bool,
    /// Prefixes whose requests are forwarded; `None`: all.
    pub clients: Option<PrefixSet>,
    /// How many are; `None`: all.
    pub admission: Option<Admission>,
}

/// Returns whether no client can have the address `source`: unspecified or "this network" (RFC 6890), loopback, multicast,
/// broadcast, class E (RFC 1112 section 4), or an IPv6 address that embeds an IPv4 address (RFC 4291 section 2.5.5).
pub fn is_bogus_source(source: IpAddr) -> bool {
    match source {
        IpAddr::V4(a) => a.octets()[0] == 0 || a.is_loopback() || a.octets()[0] >= FIRST_MULTICAST,
        IpAddr::V6(a) => a.is_unspecified() || a.is_loopback() || a.is_multicast() || a.segments()[..5] == [0; 5],
    }
}

/// First byte from which on IPv4 addresses are multicast (224/4), and above these class E (240/4), which ends with the broadcast address.
const FIRST_MULTICAST: u8 = Ipv4Addr::new(224, 0, 0, 0).octets()[0];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_who_cannot_be_answered() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        for text in ["0.0.0.0", "0.1.2.3", "127.0.0.1", "127.255.0.9", "224.0.0.1", "239.9.9.9", "240.0.0.1", "255.255.255.255"] {
            assert!(is_bogus_source(address(text)), "{text}");
        }
        for text in ["::", "::1", "ff02::1", "ff0e::9", "::ffff:198.51.100.7", "::198.51.100.7"] {
            assert!(is_bogus_source(address(text)), "{text}");
        }
        for text in
            ["1.0.0.1", "10.0.0.1", "126.0.0.1", "128.0.0.1", "169.254.1.1", "223.255.255.255", "2001:db8::1", "fe80::1", "64:ff9b::1"]
        {
            assert!(!is_bogus_source(address(text)), "{text}");
        }
    }
}

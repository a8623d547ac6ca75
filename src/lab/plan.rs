//! The lab on paper: names, addresses and port ranges of every host, worked out from the flags alone.

use super::args::{Io, LabArgs};
use guideway_config::Admission;
use guideway_host::vip::host_prefix_len;
use ipnet::IpNet;
use std::net::IpAddr;

/// MTU between client and router, in bytes.
pub const MTU: u32 = 1500;
/// MTU of the fabric: a client's packet in GRE over IPv6 (4 + 40 bytes) fits.
pub const FABRIC_MTU: u32 = 1600;
/// The server ports that backends share out, first and last.
const TID_RANGE: (u16, u16) = (20000, 59999);
/// The weight of a backend of which nothing is said.
pub const DEFAULT_WEIGHT: u16 = 100;
/// The TTL of what the first backend sends; each has one of its own, the next number.
const FIRST_TTL: u8 = 101;
/// Most server ports of one backend.
const MAX_TIDS: u16 = 1000;

/// A link-layer address.
pub type Mac = [u8; 6];

/// The router's link-layer address on the fabric.
pub const ROUTER_MAC: Mac = mac(0, 1);

/// Link-layer addresses read like the addresses that they belong to: 02:00:00:00:02:21 is 10.0.2.21.
const fn mac(subnet: u8, number: u8) -> Mac {
    [2, 0, 0, 0, subnet, number / 10 * 16 + number % 10]
}

/// A host on the fabric.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Director {
    /// `d1`, `d2`, …
    pub name: String,
    /// Its address on the fabric.
    pub address: IpAddr,
    /// Its link-layer address there.
    pub mac: Mac,
}

/// A host on the fabric that serves the VIP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// `t1`, `t2`, …
    pub name: String,
    /// Its address on the fabric.
    pub address: IpAddr,
    /// Its link-layer address there.
    pub mac: Mac,
    /// Its server ports, inclusive; none for a server without such an option.
    pub tid_range: Option<(u16, u16)>,
    /// Its weight in the pool; 100 unless chaos changes it.
    pub weight: u16,
    /// Whether it gets no new transfers.
    pub drain: bool,
    /// TTL (hop limit) of what it sends: the router tells by it who really sent a packet whose source is the VIP, whatever its port.
    pub ttl: u8,
}

/// Who is where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The client.
    pub client: IpAddr,
    /// The router's address towards the client, and the length of that network's prefix.
    pub gateway: (IpAddr, u8),
    /// The router's address on the fabric, and the length of the fabric's prefix.
    pub router: (IpAddr, u8),
    /// The virtual address.
    pub vip: IpAddr,
    /// Directors; empty when they are left out.
    pub directors: Vec<Director>,
    /// Backends in the pool from the start.
    pub backends: Vec<Backend>,
    /// Backends that are up and not in the pool yet.
    pub spares: Vec<Backend>,
    /// Whether servers of the pool take over from one another.
    pub takeover: bool,
    /// New requests a second that each director lets through.
    pub admission: Admission,
    /// Whether the server of each backend is on the host of the director of the same number.
    pub local_servers: bool,
    /// Every director is a port of a VALE switch.
    pub vale_switched: bool,
}

impl Plan {
    /// The plan for these flags.
    pub fn new(args: &LabArgs) -> Self {
        let v6 = args.ipv6;
        let host = |net4: [u8; 3], net6: u16, number: u8| -> IpAddr {
            if v6 {
                // The number reads the same in both families: …::21 and 10.0.2.21.
                IpAddr::from([0x2001, 0xdb8, 0xf, net6, 0, 0, 0, u16::from(mac(0, number)[5])])
            } else {
                IpAddr::from([net4[0], net4[1], net4[2], number])
            }
        };
        let address = |v4: [u8; 4], v6_address: [u16; 8]| if v6 { IpAddr::from(v6_address) } else { IpAddr::from(v4) };
        let local = args.local_servers;
        let spares = args.spares + u8::from(args.reload.is_some());
        let count = args.backends + spares;
        let span = ((TID_RANGE.1 - TID_RANGE.0 + 1) / u16::from(count.max(1))).min(MAX_TIDS);
        let mut backends: Vec<Backend> = (0..count)
            .map(|i| {
                let first = TID_RANGE.0 + u16::from(i) * span;
                Backend {
                    name: format!("t{}", i + 1),
                    address: if local { host([10, 0, 1], 1, 11 + i) } else { host([10, 0, 2], 2, 21 + i) },
                    mac: if local { mac(1, 11 + i) } else { mac(2, 21 + i) },
                    tid_range: (args.server.supports_tid_range() && !args.no_tid_ranges).then_some((first, first + span - 1)),
                    weight: DEFAULT_WEIGHT,
                    drain: false,
                    ttl: FIRST_TTL + i,
                }
            })
            .collect();
        let spares = backends.split_off(backends.len() - usize::from(spares));
        let directors = if args.direct { 0 } else { args.directors };
        Plan {
            client: address([198, 51, 100, 10], [0x2001, 0xdb8, 0x100, 0, 0, 0, 0, 0x10]),
            gateway: (address([198, 51, 100, 1], [0x2001, 0xdb8, 0x100, 0, 0, 0, 0, 1]), if v6 { 64 } else { 24 }),
            router: (host([10, 0, 0], 0, 1), if v6 { 48 } else { 16 }),
            vip: address([192, 0, 2, 69], [0x2001, 0xdb8, 0x69, 0, 0, 0, 0, 0x69]),
            directors: (0..directors)
                .map(|i| Director { name: format!("d{}", i + 1), address: host([10, 0, 1], 1, 11 + i), mac: mac(1, 11 + i) })
                .collect(),
            backends,
            spares,
            takeover: args.takeover,
            admission: args.admission,
            local_servers: local,
            vale_switched: args.io == Some(Io::Vale),
        }
    }

    /// Every backend, the spare ones included.
    pub fn all_backends(&self) -> impl Iterator<Item = &Backend> {
        self.backends.iter().chain(&self.spares)
    }

    /// The backend that sent a packet which left the router with this TTL.
    pub fn backend_by_ttl(&self, ttl: u8) -> Option<&Backend> {
        self.all_backends().find(|backend| backend.ttl == ttl.wrapping_add(1))
    }

    /// The VIP as a prefix.
    pub fn vip_prefix(&self) -> IpNet {
        prefix(self.vip, host_prefix_len(self.vip))
    }

    /// Everything.
    pub fn default_route(&self) -> IpNet {
        match self.vip {
            IpAddr::V4(_) => IpNet::V4(ipnet::Ipv4Net::default()),
            IpAddr::V6(_) => IpNet::V6(ipnet::Ipv6Net::default()),
        }
    }

    /// Whether directors must be given their neighbours. The kernel's table of neighbours has room for 1024 that were learned, in all
    /// namespaces of the machine together: a large lab would push out those that the machine itself needs.
    pub fn needs_static_neighbours(&self) -> bool {
        self.directors.len() * (self.backends.len() + 1) > 256
    }

    /// The name of the fabric's port that a host is connected to.
    pub fn port<'a>(&'a self, host: &'a str) -> &'a str {
        let backend = self.all_backends().position(|backend| backend.name == host).filter(|_| self.local_servers);
        backend.and_then(|number| self.directors.get(number)).map_or(host, |director| &director.name)
    }

    /// Where the router sends what is for the VIP.
    pub fn next_hops(&self) -> Vec<IpAddr> {
        if self.directors.is_empty() {
            self.backends.iter().map(|b| b.address).collect()
        } else {
            self.directors.iter().map(|d| d.address).collect()
        }
    }
}

/// A prefix; the whole address when the length is not one.
pub fn prefix(address: IpAddr, length: u8) -> IpNet {
    IpNet::new(address, length).unwrap_or(IpNet::from(address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use std::collections::BTreeSet;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        lab: LabArgs,
    }

    fn plan(flags: &str) -> Plan {
        Plan::new(&Line::try_parse_from(std::iter::once("lab").chain(flags.split_whitespace())).unwrap().lab)
    }

    #[test]
    fn addresses_are_those_of_the_documentation() {
        let plan = plan("");
        assert_eq!((plan.directors[1].address.to_string(), plan.backends[3].address.to_string()), ("10.0.1.12".into(), "10.0.2.24".into()));
        assert_eq!((plan.vip.to_string(), plan.client.to_string()), ("192.0.2.69".into(), "198.51.100.10".into()));
        assert_eq!(plan.backends[1].tid_range, Some((21000, 21999)));
        assert_eq!((plan.directors[0].mac, plan.backends[0].mac), ([2, 0, 0, 0, 1, 0x11], [2, 0, 0, 0, 2, 0x21]));
        let six = self::plan("--ipv6");
        assert_eq!(six.backends[0].address.to_string(), "2001:db8:f:2::21");
        assert!(six.all_backends().all(|b| b.address.is_ipv6()) && six.vip.is_ipv6() && six.router.0.is_ipv6());
    }

    #[test]
    fn ranges_and_addresses_never_meet() {
        for flags in ["--backends 64 --directors 16", "--backends 64 --reload add-backend", "--backends 64 --ipv6"] {
            let plan = plan(flags);
            let mut last = 1023;
            for (first, end) in plan.all_backends().filter_map(|b| b.tid_range) {
                assert!(first > last && end >= first + 500, "{flags}: {first}-{end}");
                last = end;
            }
            let addresses: BTreeSet<IpAddr> =
                plan.all_backends().map(|b| b.address).chain(plan.directors.iter().map(|d| d.address)).collect();
            assert_eq!(addresses.len(), plan.all_backends().count() + plan.directors.len());
        }
    }

    #[test]
    fn servers_without_ranges_get_none() {
        assert!(plan("--server dnsmasq-single-port").backends.iter().all(|b| b.tid_range.is_none()));
    }
}

//! Sockets of the clients, on one or many source addresses.

use super::mix::Ports;
use ipnet::IpNet;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};

/// Consecutive ports that are tried before any free port is used.
const TRIES: u16 = 2000;

/// Source addresses of clients.
#[derive(Clone, Copy, Debug)]
pub struct Sources(IpNet);

impl std::str::FromStr for Sources {
    type Err = String;

    /// Reads an address or a prefix.
    fn from_str(text: &str) -> Result<Self, String> {
        let one = text.parse::<IpAddr>().map(IpNet::from);
        one.or_else(|_| text.parse()).map(Sources).map_err(|_| "write an address or a prefix such as 127.1.0.0/16".to_owned())
    }
}

impl Sources {
    /// Returns whether they are IPv4.
    pub fn is_ipv4(&self) -> bool {
        self.0.addr().is_ipv4()
    }

    /// Returns the number of addresses. A prefix counts without its first and, for IPv4, its last address.
    pub fn count(&self) -> u128 {
        let bits = u32::from(self.0.max_prefix_len() - self.0.prefix_len());
        match bits {
            0 => 1,
            1 => 2,
            _ => 1u128.checked_shl(bits).unwrap_or(u128::MAX) - 2,
        }
    }

    /// Returns the address of a client.
    pub fn of(&self, client: u32) -> IpAddr {
        let number = u128::from(client) % self.count() + u128::from(self.0.max_prefix_len() - self.0.prefix_len() > 1);
        match self.0.network() {
            IpAddr::V4(first) => IpAddr::V4((u32::from(first) + u32::try_from(number).unwrap_or(0)).into()),
            IpAddr::V6(first) => IpAddr::V6((u128::from(first) + number).into()),
        }
    }
}

/// Raises the limit of open files to `descriptors`.
///
/// # Errors
/// A sentence, when the limit is too low and may not be raised.
pub fn allow(descriptors: u64) -> Result<(), String> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(|error| format!("cannot read the limit of open files: {error}"))?;
    if soft >= descriptors || setrlimit(Resource::RLIMIT_NOFILE, descriptors, hard.max(descriptors)).is_ok() {
        return Ok(());
    }
    let raised = hard >= descriptors && setrlimit(Resource::RLIMIT_NOFILE, descriptors, hard).is_ok();
    if raised {
        Ok(())
    } else {
        Err(format!("{descriptors} open files are needed and {hard} are allowed: raise `ulimit -n`, or give fewer --clients"))
    }
}

/// Opens sockets and remembers the ports in use.
#[derive(Debug, Default)]
pub struct Opener {
    next: HashMap<(IpAddr, u16), u16>,
}

impl Opener {
    /// Opens `count` sockets for one client, bound to `address`.
    ///
    /// # Errors
    /// Errors of the kernel.
    pub fn open(&mut self, address: IpAddr, ports: Ports, count: usize) -> io::Result<Vec<UdpSocket>> {
        (0..count).map(|_| self.one(address, ports)).collect()
    }

    fn one(&mut self, address: IpAddr, ports: Ports) -> io::Result<UdpSocket> {
        if let Ports::From(first) = ports {
            let next = self.next.entry((address, first)).or_insert(first);
            for _ in 0..TRIES {
                let port = *next;
                *next = next.checked_add(1).unwrap_or(first);
                match bind(SocketAddr::new(address, port)) {
                    Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                    done => return done,
                }
            }
        }
        bind(SocketAddr::new(address, 0))
    }
}

fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking().cloexec(), None)?;
    // A whole prefix can be local although its addresses are not set (`ip route add local PREFIX dev lo`).
    let _unprivileged = if address.is_ipv4() { socket.set_freebind_v4(true) } else { socket.set_freebind_v6(true) };
    socket.bind(&address.into())?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_clients() {
        let of = |prefix: &str, client| prefix.parse::<Sources>().unwrap().of(client).to_string();
        assert_eq!(
            (of("127.1.0.0/30", 0), of("127.1.0.0/30", 1), of("127.1.0.0/30", 2)),
            ("127.1.0.1".into(), "127.1.0.2".into(), "127.1.0.1".into())
        );
        assert_eq!((of("192.0.2.5", 9), of("192.0.2.4/31", 1)), ("192.0.2.5".into(), "192.0.2.5".into()));
        assert_eq!((of("2001:db8::/64", 65_535), of("::/0", 0)), ("2001:db8::1:0".into(), "::1".into()));
        assert!("127.0.0.0/33".parse::<Sources>().is_err());
    }

    #[test]
    fn ports_follow_one_another() {
        let mut opener = Opener::default();
        let address = "127.77.0.1".parse().unwrap();
        let sockets = opener.open(address, Ports::From(25_304), 3).unwrap();
        let ports: Vec<_> = sockets.iter().map(|socket| socket.local_addr().unwrap().port()).collect();
        assert_eq!(ports, [25_304, 25_305, 25_306]);
        let other = opener.open(address, Ports::From(25_304), 1).unwrap();
        assert_eq!(other[0].local_addr().unwrap().port(), 25_307);
    }
}

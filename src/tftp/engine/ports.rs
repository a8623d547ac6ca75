//! The sockets of an event loop.

use super::{Config, Passed, Tid};
use guideway_sys::{get_option, set_option};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Receive buffer asked for: a burst of thousands of requests must fit while the loop waits for its turn.
const RECEIVE_BUFFER: i32 = 8 << 20;
const SEND_BUFFER: i32 = 4 << 20;
/// How long a loop waits at a single busy socket without looking at the others. The kernel rounds up to its own tick.
const BRIEFLY: std::time::Duration = std::time::Duration::from_millis(1);

/// One UDP socket.
pub struct Port {
    socket: Socket,
    /// Its address; the IP is unspecified when it takes every address of the host.
    pub local: SocketAddr,
    /// Whether requests are taken from it.
    pub listens: bool,
    /// Index of the socket that answers go from.
    pub reply: u16,
}

impl AsFd for Port {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// What could not be done, and why.
#[derive(Debug, thiserror::Error)]
#[error("{doing}: {source}")]
pub struct Error {
    /// What was tried.
    pub doing: String,
    /// What the kernel said.
    pub source: io::Error,
}

impl Error {
    pub(super) fn new(doing: impl Into<String>, source: impl Into<io::Error>) -> Error {
        Error { doing: doing.into(), source: source.into() }
    }
}

/// The sockets of loop `index`: for each address a listening one and one for transfers, or one for both.
pub fn open(config: &Config, index: usize) -> Result<Vec<Port>, Error> {
    let mut ports = Vec::new();
    for &address in &config.listen {
        // Windows and BSD users expect [::] to mean everything. Two sockets of one family each keep addresses what they are.
        if address.ip() == IpAddr::from(std::net::Ipv6Addr::UNSPECIFIED) && config.passed(address).is_none() {
            pair(config, index, SocketAddr::new(std::net::Ipv4Addr::UNSPECIFIED.into(), address.port()), &mut ports)?;
        }
        pair(config, index, address, &mut ports)?;
    }
    if index == 0
        && let Some(tunnel) = &config.tunnel
    {
        for &vip in &tunnel.vips {
            let (port, listens) = match config.tid.port(index) {
                None => (tunnel.port, true),
                Some(port) => (port, false),
            };
            let reply = u16::try_from(ports.len()).unwrap_or(u16::MAX);
            ports.push(Port::bind(SocketAddr::new(vip, port), listens, reply, true)?);
        }
    }
    Ok(ports)
}

fn pair(config: &Config, index: usize, address: SocketAddr, ports: &mut Vec<Port>) -> Result<(), Error> {
    let at = u16::try_from(ports.len()).unwrap_or(u16::MAX);
    match config.tid.port(index) {
        None => ports.push(Port::listen(config, address, at)?),
        Some(port) => {
            ports.push(Port::listen(config, address, at + 1)?);
            ports.push(Port::bind(SocketAddr::new(address.ip(), port), false, at + 1, false)?);
        }
    }
    Ok(())
}

impl Tid {
    /// The port of a loop for transfers; 0 lets the kernel choose, nothing is the listening port itself.
    fn port(self, index: usize) -> Option<u16> {
        match self {
            Tid::Single => None,
            Tid::Any => Some(0),
            Tid::Port(first) => Some(first.saturating_add(u16::try_from(index).unwrap_or(u16::MAX))),
        }
    }
}

impl Config {
    fn passed(&self, address: SocketAddr) -> Option<&Passed> {
        self.passed.iter().find(|passed| passed.address == address)
    }
}

/// The address of a socket that was passed.
pub fn check(socket: &OwnedFd) -> Result<SocketAddr, Error> {
    let failed = |why: &str| Error::new("using a socket that was passed", io::Error::new(io::ErrorKind::InvalidInput, why));
    let socket = SockRef::from(socket);
    let kind = socket.r#type().map_err(|e| Error::new("using a socket that was passed", e))?;
    let address = socket.local_addr().ok().and_then(|address| address.as_socket());
    let address = address.filter(|address| kind == Type::DGRAM && address.port() > 0);
    let address = address.ok_or_else(|| failed("it is no bound UDP socket (ListenDatagram=)"))?;
    if address.is_ipv6() && !socket.only_v6().unwrap_or(true) {
        return Err(failed("it takes IPv4 and IPv6 at once; write BindIPv6Only=ipv6-only and a ListenDatagram= for each"));
    }
    Ok(address)
}

/// Refuses addresses that another server listens at: the sockets of several loops share theirs, and would share with those of a stranger, too.
pub fn refuse_taken(config: &Config) -> Result<(), Error> {
    for address in config.listen.iter().filter(|address| address.port() > 0 && config.passed(**address).is_none()) {
        let failed = |source: io::Error| Error::new(format!("listening on {address}"), source);
        let probe = Socket::new(Domain::for_address(*address), Type::DGRAM, Some(Protocol::UDP)).map_err(failed)?;
        if address.is_ipv6() {
            probe.set_only_v6(true).map_err(failed)?;
        }
        probe.bind(&SockAddr::from(*address)).map_err(failed)?;
    }
    Ok(())
}

impl Port {
    /// A socket for requests, bound here or by whoever passed it.
    fn listen(config: &Config, address: SocketAddr, reply: u16) -> Result<Port, Error> {
        let Some(passed) = config.passed(address) else { return Port::bind(address, true, reply, false) };
        let failed = |source: io::Error| Error::new(format!("listening on {address}"), source);
        let socket = Socket::from(passed.socket.try_clone().map_err(failed)?);
        // Whoever waits only briefly must wait at all: systemd may pass it as one that does not.
        socket.set_nonblocking(false).map_err(failed)?;
        set_up(&socket, address).map_err(failed)?;
        Ok(Port { socket, local: address, listens: true, reply })
    }

    /// A socket for transfers, at a port that is another server's as long as that one lives.
    pub fn transfers(address: SocketAddr, at: u16) -> Result<Port, Error> {
        Port::bind(address, false, at, false)
    }

    /// A socket for what servers tell one another.
    pub fn for_notes(address: SocketAddr, at: u16) -> Result<Port, Error> {
        let port = Port::bind(address, false, at, false);
        port.map_err(|error| Error::new(format!("taking notes of other servers at {address}"), error.source))
    }

    /// A socket that may send from any address of this family, and is bound to none.
    pub fn spare(vip: IpAddr) -> Result<Port, Error> {
        let local = SocketAddr::new(vip, 0);
        let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP));
        let socket = socket.map_err(|source| Error::new(format!("making a socket for {vip}"), source))?;
        transparent(&socket, local)?;
        Ok(Port { socket, local, listens: false, reply: 0 })
    }

    /// Binds a spare one.
    pub fn bind_spare(mut self, address: SocketAddr, at: u16) -> Result<Port, Error> {
        let failed = |source: io::Error| Error::new(format!("binding the transfers' port to {address}"), source);
        if address.is_ipv6() {
            self.socket.set_only_v6(true).map_err(failed)?;
        }
        set_up(&self.socket, address).map_err(failed)?;
        self.socket.bind(&SockAddr::from(address)).map_err(failed)?;
        (self.local, self.reply) = (address, at);
        Ok(self)
    }

    /// A socket at this one's port that only `client` is heard at.
    pub fn connected(&self, local: IpAddr, client: SocketAddr, scope: u32) -> io::Result<Port> {
        let mut local = SocketAddr::new(local, self.local.port());
        if let SocketAddr::V6(local) = &mut local {
            local.set_scope_id(scope);
        }
        let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
        if local.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        set_up(&socket, local)?;
        // Both must agree to share the port. Then they need not any more: the kernel prefers the one that is connected, and nobody else gets in. (With
        // SO_REUSEPORT both would have to be of one user, and the other one was made before privileges were dropped.)
        socket.set_reuse_address(true)?;
        self.socket.set_reuse_address(true)?;
        let bound = socket.bind(&local.into());
        self.socket.set_reuse_address(false)?;
        bound?;
        socket.set_reuse_address(false)?;
        socket.connect(&client.into())?;
        Ok(Port { socket, local, listens: false, reply: self.reply })
    }

    /// `foreign` is for an address that this host does not have.
    fn bind(address: SocketAddr, listens: bool, reply: u16, foreign: bool) -> Result<Port, Error> {
        let what = if listens { "listening on" } else { "binding the transfers' port to" };
        let failed = |source: io::Error| Error::new(format!("{what} {address}"), source);
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP)).map_err(failed)?;
        if address.is_ipv6() {
            socket.set_only_v6(true).map_err(failed)?;
        }
        if listens {
            socket.set_reuse_port(true).map_err(failed)?;
        }
        if foreign {
            transparent(&socket, address)?;
        }
        set_up(&socket, address).map_err(failed)?;
        socket.bind(&SockAddr::from(address)).map_err(failed)?;
        let local = socket.local_addr().map_err(failed)?.as_socket().unwrap_or(address);
        Ok(Port { socket, local, listens, reply })
    }
}

/// Lets a socket send from addresses that this host does not have.
fn transparent(socket: &Socket, address: SocketAddr) -> Result<(), Error> {
    let v4 = address.is_ipv4();
    let (level, name) = if v4 { (libc::IPPROTO_IP, libc::IP_TRANSPARENT) } else { (libc::IPPROTO_IPV6, libc::IPV6_TRANSPARENT) };
    let failed = |source| Error::new(format!("sending from {}, which needs CAP_NET_ADMIN or CAP_NET_RAW", address.ip()), source);
    set_option(socket.as_fd(), level, name, &1i32).map_err(failed)
}

/// What every socket has, whoever bound it.
fn set_up(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    let (fd, v6) = (socket.as_fd(), address.is_ipv6());
    let option = |level, name, value: i32| set_option(fd, level, name, &value);
    if address.ip().is_unspecified() {
        let (level, name) = if v6 { (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO) } else { (libc::IPPROTO_IP, libc::IP_PKTINFO) };
        option(level, name, 1)?;
    }
    // A client that cannot take a block's size says so by its options; a DF bit would only lose blocks on narrower paths.
    let (level, name) = if v6 { (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER) } else { (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER) };
    option(level, name, libc::IP_PMTUDISC_DONT)?;
    for (force, plain, size) in
        [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, RECEIVE_BUFFER), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, SEND_BUFFER)]
    {
        option(libc::SOL_SOCKET, force, size).or_else(|_| option(libc::SOL_SOCKET, plain, size))?;
    }
    socket.set_read_timeout(Some(BRIEFLY))
}

/// The interface of a link-local client; 0 for all others, which routes lead to.
pub fn scope(client: SocketAddr) -> u32 {
    match client {
        SocketAddr::V6(client) => client.scope_id(),
        SocketAddr::V4(_) => 0,
    }
}

/// The MTU of paths to clients, asked of the kernel and remembered for a while.
pub struct PathMtu {
    probes: [Option<Socket>; 2],
    known: Vec<Option<(IpAddr, u32, u64)>>,
}

/// Paths remembered, and for how many seconds.
const PATHS: usize = 256;
const REMEMBERED: u64 = 10;

impl PathMtu {
    /// Nothing known yet.
    pub fn new() -> PathMtu {
        let probe = |domain| Socket::new(domain, Type::DGRAM, Some(Protocol::UDP)).ok();
        PathMtu { probes: [probe(Domain::IPV4), probe(Domain::IPV6)], known: vec![None; PATHS] }
    }

    /// The MTU of the path to `client`; 1500 when the kernel does not say.
    pub fn to(&mut self, client: SocketAddr, second: u64) -> u32 {
        let last = match client.ip() {
            IpAddr::V4(ip) => ip.octets()[3],
            IpAddr::V6(ip) => ip.octets()[15],
        };
        let place = &mut self.known[usize::from(last) % PATHS];
        if let Some((address, mtu, until)) = *place
            && address == client.ip()
            && second < until
        {
            return mtu;
        }
        let v6 = client.is_ipv6();
        let Some(probe) = &self.probes[usize::from(v6)] else { return 1500 };
        let (level, name) = if v6 { (libc::IPPROTO_IPV6, libc::IPV6_MTU) } else { (libc::IPPROTO_IP, libc::IP_MTU) };
        // Connecting a UDP socket sends nothing; it looks up the route.
        let asked = probe.connect(&client.into()).and_then(|()| get_option::<i32>(probe.as_fd(), level, name));
        let mtu = asked.ok().and_then(|mtu| u32::try_from(mtu).ok()).unwrap_or(1500);
        *place = Some((client.ip(), mtu, second + REMEMBERED));
        mtu
    }
}

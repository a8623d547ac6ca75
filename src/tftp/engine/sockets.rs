//! The sockets of an event loop.

use super::config::{Config, PassedSocket, Tid};
use super::error::Error;
use guideway_sys::set_option;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

/// Requested receive buffer: a burst of thousands of requests must fit while the loop is busy.
const RECEIVE_BUFFER: i32 = 8 << 20;
const SEND_BUFFER: i32 = 4 << 20;
/// How long a loop waits on a single busy socket without polling the others. The kernel rounds up to its tick.
const RECEIVE_TIMEOUT: std::time::Duration = std::time::Duration::from_millis(1);

/// One UDP socket.
pub struct ServerSocket {
    socket: Socket,
    /// Its address; the IP is unspecified for all addresses of the host.
    pub local: SocketAddr,
    /// Whether it receives requests.
    pub listens: bool,
    /// Index of the socket that sends answers.
    pub reply_socket: u16,
}

impl AsFd for ServerSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Opens the sockets of loop `index`: for each address a listening one and one for transfers, or one for both.
pub fn open(config: &Config, index: usize) -> Result<Vec<ServerSocket>, Error> {
    let mut sockets = Vec::new();
    for &address in &config.listen {
        // Users expect [::] to include IPv4. Two sockets of one family each avoid IPv4-mapped addresses.
        if address.ip() == IpAddr::from(std::net::Ipv6Addr::UNSPECIFIED) && config.passed(address).is_none() {
            pair(config, index, SocketAddr::new(std::net::Ipv4Addr::UNSPECIFIED.into(), address.port()), &mut sockets)?;
        }
        pair(config, index, address, &mut sockets)?;
    }
    if index == 0
        && let Some(tunnel) = &config.tunnel
    {
        for &vip in &tunnel.vips {
            let (port, listens) = match config.tid.port(index) {
                None => (tunnel.port, true),
                Some(port) => (port, false),
            };
            let reply_socket = u16::try_from(sockets.len()).unwrap_or(u16::MAX);
            sockets.push(ServerSocket::bind(SocketAddr::new(vip, port), listens, reply_socket, true)?);
        }
    }
    Ok(sockets)
}

fn pair(config: &Config, index: usize, address: SocketAddr, sockets: &mut Vec<ServerSocket>) -> Result<(), Error> {
    let at = u16::try_from(sockets.len()).unwrap_or(u16::MAX);
    match config.tid.port(index) {
        None => sockets.push(ServerSocket::listen(config, address, at)?),
        Some(port) => {
            sockets.push(ServerSocket::listen(config, address, at + 1)?);
            sockets.push(ServerSocket::bind(SocketAddr::new(address.ip(), port), false, at + 1, false)?);
        }
    }
    Ok(())
}

impl Tid {
    /// Returns the port of a loop for transfers; 0 lets the kernel choose, `None` is the listening port itself.
    fn port(self, index: usize) -> Option<u16> {
        match self {
            Tid::Single => None,
            Tid::Any => Some(0),
            Tid::Port(first) => Some(first.saturating_add(u16::try_from(index).unwrap_or(u16::MAX))),
        }
    }
}

impl Config {
    fn passed(&self, address: SocketAddr) -> Option<&PassedSocket> {
        self.passed.iter().find(|passed| passed.address == address)
    }
}

/// Refuses addresses on which another server listens. The sockets of several loops share a port, and would also share it with another process.
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

impl ServerSocket {
    /// Opens a socket for requests, or takes a passed one.
    fn listen(config: &Config, address: SocketAddr, reply_socket: u16) -> Result<ServerSocket, Error> {
        let Some(passed) = config.passed(address) else { return ServerSocket::bind(address, true, reply_socket, false) };
        let failed = |source: io::Error| Error::new(format!("listening on {address}"), source);
        let socket = Socket::from(passed.socket.try_clone().map_err(failed)?);
        // Receive time-outs need a blocking socket; systemd may pass a non-blocking one.
        socket.set_nonblocking(false).map_err(failed)?;
        set_up(&socket, address).map_err(failed)?;
        Ok(ServerSocket { socket, local: address, listens: true, reply_socket })
    }

    /// Opens a socket for transfers at a port of another server.
    pub fn transfers(address: SocketAddr, at: u16) -> Result<ServerSocket, Error> {
        ServerSocket::bind(address, false, at, false)
    }

    /// Returns a socket that is bound to nothing, for a simulated network.
    #[cfg(test)]
    #[cfg(all(feature = "client", feature = "handlers"))]
    pub fn simulated(local: SocketAddr, listens: bool, reply_socket: u16) -> ServerSocket {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).unwrap();
        ServerSocket { socket, local, listens, reply_socket }
    }

    /// Opens a socket for messages between servers.
    pub fn for_checkpoints(address: SocketAddr, at: u16) -> Result<ServerSocket, Error> {
        let socket = ServerSocket::bind(address, false, at, false);
        socket.map_err(|error| Error::new(format!("listening for checkpoints on {address}"), error.source))
    }

    /// Opens an unbound socket that may send from any address of this family.
    pub fn spare(vip: IpAddr) -> Result<ServerSocket, Error> {
        let local = SocketAddr::new(vip, 0);
        let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP));
        let socket = socket.map_err(|source| Error::new(format!("opening a socket for {vip}"), source))?;
        transparent(&socket, local)?;
        Ok(ServerSocket { socket, local, listens: false, reply_socket: 0 })
    }

    /// Binds a spare socket.
    pub fn bind_unbound(mut self, address: SocketAddr, at: u16) -> Result<ServerSocket, Error> {
        let failed = |source: io::Error| Error::new(format!("binding the transfers' port to {address}"), source);
        if address.is_ipv6() {
            self.socket.set_only_v6(true).map_err(failed)?;
        }
        set_up(&self.socket, address).map_err(failed)?;
        self.socket.bind(&SockAddr::from(address)).map_err(failed)?;
        (self.local, self.reply_socket) = (address, at);
        Ok(self)
    }

    /// Opens a socket at the same port that receives packets of `client` only.
    pub fn connected(&self, local: IpAddr, client: SocketAddr, scope: u32) -> io::Result<ServerSocket> {
        let mut local = SocketAddr::new(local, self.local.port());
        if let SocketAddr::V6(local) = &mut local {
            local.set_scope_id(scope);
        }
        let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
        if local.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        set_up(&socket, local)?;
        // Both sockets must allow sharing of the port while one is bound. Afterwards the kernel prefers the connected socket, and the option is removed, so
        // that no other process can share the port. (SO_REUSEPORT would require the same user, but the other socket was opened before privileges were
        // dropped.)
        socket.set_reuse_address(true)?;
        self.socket.set_reuse_address(true)?;
        let bound = socket.bind(&local.into());
        self.socket.set_reuse_address(false)?;
        bound?;
        socket.set_reuse_address(false)?;
        socket.connect(&client.into())?;
        Ok(ServerSocket { socket, local, listens: false, reply_socket: self.reply_socket })
    }

    /// Binds a socket; `foreign` allows an address that this host does not have.
    fn bind(address: SocketAddr, listens: bool, reply_socket: u16, foreign: bool) -> Result<ServerSocket, Error> {
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
        Ok(ServerSocket { socket, local, listens, reply_socket })
    }
}

/// Lets a socket send from addresses that this host does not have.
fn transparent(socket: &Socket, address: SocketAddr) -> Result<(), Error> {
    let v4 = address.is_ipv4();
    let (level, name) = if v4 { (libc::IPPROTO_IP, libc::IP_TRANSPARENT) } else { (libc::IPPROTO_IPV6, libc::IPV6_TRANSPARENT) };
    let failed = |source| Error::new(format!("sending from {} (needs CAP_NET_ADMIN or CAP_NET_RAW)", address.ip()), source);
    set_option(socket.as_fd(), level, name, &1i32).map_err(failed)
}

/// Sets the options of all sockets, passed ones included.
fn set_up(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    let (fd, v6) = (socket.as_fd(), address.is_ipv6());
    let option = |level, name, value: i32| set_option(fd, level, name, &value);
    if address.ip().is_unspecified() {
        let (level, name) = if v6 { (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO) } else { (libc::IPPROTO_IP, libc::IP_PKTINFO) };
        option(level, name, 1)?;
    }
    // Block sizes are negotiated by options; a DF bit would only lose blocks on paths with a smaller MTU.
    let (level, name) = if v6 { (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER) } else { (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER) };
    option(level, name, libc::IP_PMTUDISC_DONT)?;
    for (force, plain, size) in
        [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, RECEIVE_BUFFER), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, SEND_BUFFER)]
    {
        option(libc::SOL_SOCKET, force, size).or_else(|_| option(libc::SOL_SOCKET, plain, size))?;
    }
    socket.set_read_timeout(Some(RECEIVE_TIMEOUT))
}

/// Returns the interface of a link-local client; 0 for all others.
pub fn scope(client: SocketAddr) -> u32 {
    match client {
        SocketAddr::V6(client) => client.scope_id(),
        SocketAddr::V4(_) => 0,
    }
}

//! Sockets of checks, and the meaning of the kernel's errors: a failure of the backend or of this host.

use crate::outcome::{Failure, Outcome};
use guideway_sys::set_option;
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{Error, ErrorKind, Result};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;
use tokio::net::TcpSocket;

/// Returns a result for a failure on this host.
pub(super) fn not_run(doing: impl Into<String>) -> impl FnOnce(Error) -> Outcome {
    let doing = doing.into();
    move |error| Outcome::NotRun(format!("{doing}: {error}"))
}

/// Returns the result for an error of sending, connecting or receiving.
pub(super) fn failed(error: &Error, peer: SocketAddr) -> Outcome {
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED) => Outcome::Failed(Failure::Refused(format!("{peer} refused the connection"))),
        Some(libc::ECONNRESET) => Outcome::Failed(Failure::Refused(format!("{peer} has reset the connection"))),
        // No reply to ARP or neighbour discovery, or a router on the path reports it.
        Some(libc::EHOSTUNREACH | libc::ETIMEDOUT | libc::EHOSTDOWN) => Outcome::Failed(Failure::Timeout(error.to_string())),
        Some(_) => Outcome::NotRun(format!("cannot reach {peer}: {error}")),
        None if error.kind() == ErrorKind::UnexpectedEof => Outcome::Failed(Failure::Refused(format!("{peer} has closed the connection"))),
        None => Outcome::Failed(Failure::Other(error.to_string())),
    }
}

/// Opens a datagram socket with its own port.
pub(super) fn udp(source: IpAddr) -> std::result::Result<UdpSocket, Outcome> {
    let open = || -> Result<UdpSocket> {
        let socket = UdpSocket::bind(SocketAddr::new(source, 0))?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    open().map_err(not_run(format!("cannot open a socket at {source}")))
}

/// Opens a socket that is about to connect.
pub(super) fn tcp(source: IpAddr) -> std::result::Result<TcpSocket, Outcome> {
    let open = || -> Result<TcpSocket> {
        let socket = Socket::new(domain(source), Type::STREAM, Some(Protocol::TCP))?;
        // The port is chosen when the peer is known, so one port number can serve many checks at a time.
        set_option::<libc::c_int>(socket.as_fd(), libc::SOL_IP, libc::IP_BIND_ADDRESS_NO_PORT, &1)?;
        socket.bind(&SocketAddr::new(source, 0).into())?;
        // Closed by a reset, so that thousands of checks leave no connections in TIME_WAIT.
        socket.set_linger(Some(Duration::ZERO))?;
        socket.set_nonblocking(true)?;
        Ok(TcpSocket::from_std_stream(socket.into()))
    };
    open().map_err(not_run(format!("cannot open a socket at {source}")))
}

pub(super) fn domain(address: IpAddr) -> Domain {
    if address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 }
}

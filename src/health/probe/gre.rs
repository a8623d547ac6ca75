//! Sends packets in GRE to a backend, as directors do, through a raw socket for each family.

use super::socket::{domain, not_made};
use crate::config::Addresses;
use crate::health::outcome::{Failure, Outcome};
use crate::io::sys::attach_filter;
use crate::wire::build::Packet;
use crate::wire::gre::PROTOCOL;
use socket2::{Protocol, SockAddr, Socket, Type};
use std::io::{ErrorKind, Result};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

/// The sockets.
#[derive(Debug)]
pub(super) struct Gre {
    v4: Way,
    v6: Way,
}

/// A socket, or why there is none.
type Way = std::result::Result<Socket, String>;

impl Gre {
    /// Opens a socket for each of the addresses. That one cannot be had fails the checks that need it.
    pub(super) fn open(source: Addresses) -> Gre {
        let way = |source: Option<IpAddr>, family| match source {
            Some(source) => raw(source).map_err(|e| format!("a raw socket at {source}, which needs CAP_NET_RAW: {e}")),
            None => Err(format!("[health] source has no {family} address, and the backend's is one")),
        };
        Gre { v4: way(source.v4.map(IpAddr::V4), "IPv4"), v6: way(source.v6.map(IpAddr::V6), "IPv6") }
    }

    /// Sends `packet` to `backend`. A full queue loses it, as a network would.
    pub(super) fn send(&self, packet: &Packet, backend: IpAddr) -> std::result::Result<(), Outcome> {
        let socket = match if backend.is_ipv4() { &self.v4 } else { &self.v6 } {
            Ok(socket) => socket,
            Err(why) => return Err(Outcome::NotMade(why.clone())),
        };
        let [high, low] = packet.ethertype().to_be_bytes();
        let bytes = [&[0, 0, high, low], packet.bytes()].concat();
        match socket.send_to(&bytes, &SockAddr::from(SocketAddr::new(backend, 0))) {
            Ok(_) => Ok(()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(()),
            Err(error) => match error.raw_os_error() {
                Some(libc::EHOSTUNREACH) => Err(Outcome::Failed(Failure::Silent(format!("{backend} cannot be reached: {error}")))),
                Some(libc::ENOBUFS | libc::ECONNREFUSED) => Ok(()),
                _ => Err(not_made(format!("sending to {backend}"))(error)),
            },
        }
    }
}

fn raw(source: IpAddr) -> Result<Socket> {
    let socket = Socket::new(domain(source), Type::RAW, Some(Protocol::from(i32::from(PROTOCOL))))?;
    // Nothing is to be received here: without this the kernel would copy to us what a tunnel of this host gets.
    attach_filter(socket.as_fd(), &[libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: 0 }])?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::from(SocketAddr::new(source, 0)))?;
    Ok(socket)
}

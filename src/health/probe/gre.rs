//! Sends packets in GRE to a backend, as directors do, through a raw socket for each family.

use super::socket::{domain, not_made};
use crate::outcome::{Failure, Outcome};
use guideway_config::Addresses;
use guideway_packet::wire::build::Packet;
use guideway_packet::wire::gre::PROTOCOL;
use guideway_sys::attach_filter;
use socket2::{Protocol, SockAddr, Socket, Type};
use std::cell::OnceCell;
use std::io::{ErrorKind, Result};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

/// The sockets, each opened when it is first needed, and anew as long as it cannot be had: an address of this host may come later than we do.
#[derive(Debug)]
pub(super) struct Gre {
    source: Addresses,
    v4: OnceCell<Socket>,
    v6: OnceCell<Socket>,
}

impl Gre {
    /// Sends from these addresses.
    pub(super) fn new(source: Addresses) -> Gre {
        Gre { source, v4: OnceCell::new(), v6: OnceCell::new() }
    }

    fn socket(&self, backend: IpAddr) -> std::result::Result<&Socket, Outcome> {
        let (kept, family) = if backend.is_ipv4() { (&self.v4, "IPv4") } else { (&self.v6, "IPv6") };
        if let Some(socket) = kept.get() {
            return Ok(socket);
        }
        let missing = || Outcome::NotMade(format!("[health] source has no {family} address, and {backend} is one"));
        let source = self.source.same_family(backend).ok_or_else(missing)?;
        let socket = raw(source).map_err(not_made(format!("a raw socket at {source}, which needs CAP_NET_RAW")))?;
        Ok(kept.get_or_init(|| socket))
    }

    /// Sends `packet` to `backend`. A full queue loses it, as a network would.
    pub(super) fn send(&self, packet: &Packet, backend: IpAddr) -> std::result::Result<(), Outcome> {
        let socket = self.socket(backend)?;
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

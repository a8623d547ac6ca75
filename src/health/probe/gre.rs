//! Sends packets in GRE to a backend, as directors do, through one raw socket per family.

use super::socket::{domain, not_run};
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

/// The sockets. Each is opened when it is first needed, and retried until it can be opened: an address of this host may come later than the
/// controller.
#[derive(Debug)]
pub(super) struct GreSender {
    source: Addresses,
    v4: OnceCell<Socket>,
    v6: OnceCell<Socket>,
}

impl GreSender {
    /// Creates sockets that send from these addresses.
    pub(super) fn new(source: Addresses) -> GreSender {
        GreSender { source, v4: OnceCell::new(), v6: OnceCell::new() }
    }

    fn socket(&self, backend: IpAddr) -> std::result::Result<&Socket, Outcome> {
        let (cell, family) = if backend.is_ipv4() { (&self.v4, "IPv4") } else { (&self.v6, "IPv6") };
        if let Some(socket) = cell.get() {
            return Ok(socket);
        }
        let missing = || Outcome::NotRun(format!("[health] source has no {family} address for {backend}; add one to that list"));
        let source = self.source.same_family(backend).ok_or_else(missing)?;
        let socket = raw(source).map_err(not_run(format!("cannot open a raw socket at {source} (needs CAP_NET_RAW)")))?;
        Ok(cell.get_or_init(|| socket))
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
                Some(libc::EHOSTUNREACH) => Err(Outcome::Failed(Failure::Timeout(format!("{backend} cannot be reached: {error}")))),
                Some(libc::ENOBUFS | libc::ECONNREFUSED) => Ok(()),
                _ => Err(not_run(format!("cannot send to {backend}"))(error)),
            },
        }
    }
}

fn raw(source: IpAddr) -> Result<Socket> {
    let socket = Socket::new(domain(source), Type::RAW, Some(Protocol::from(i32::from(PROTOCOL))))?;
    // The socket receives nothing; without this filter the kernel would copy all GRE of this host to it.
    attach_filter(socket.as_fd(), &[libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: 0 }])?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::from(SocketAddr::new(source, 0)))?;
    Ok(socket)
}

//! Keeps the kernel from answering GRE that we take.
//!
//! An AF_PACKET socket gets copies; the originals go on to the host's own stack. A host without a GRE tunnel answers each of them with ICMP
//! "protocol unreachable" (RFC 1122, 3.2.2.1; RFC 4443, 3.4 for IPv6). An open raw socket for the protocol counts as a receiver, so the kernel
//! stays silent, and a filter that takes nothing keeps the copies off its queue.

use guideway_sys as sys;
use socket2::{Domain, Protocol, Socket, Type};
use std::io::Result;
use std::os::fd::AsFd;

const REJECT_ALL: libc::sock_filter = libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: 0 };

/// Silence of the kernel about GRE in this network namespace, for as long as it lives.
#[derive(Debug)]
pub struct GreSink {
    _sockets: Vec<Socket>,
}

impl GreSink {
    /// Opens the sockets. A host without IPv6 has no IPv6 to be silent about.
    pub fn new() -> Result<GreSink> {
        let mut sockets = Vec::with_capacity(2);
        for domain in [Domain::IPV4, Domain::IPV6] {
            match Socket::new(domain, Type::RAW, Some(Protocol::from(libc::IPPROTO_GRE))) {
                Ok(socket) => {
                    sys::attach_filter(socket.as_fd(), &[REJECT_ALL])?;
                    sockets.push(socket);
                }
                Err(error) if domain == Domain::IPV6 && error.raw_os_error() == Some(libc::EAFNOSUPPORT) => (),
                Err(error) => return Err(error),
            }
        }
        Ok(GreSink { _sockets: sockets })
    }
}

//! The sockets of requests: those that systemd passes, and those that the configuration names.

use super::error::{Error, system};
use guideway_daemon::systemd;
use guideway_tftp::engine::{Config, PassedSocket};
use guideway_tftp::http::{HttpServer, Limits};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, getsockopt, socket, sockopt};
use std::net::{Ipv4Addr, SocketAddr};

/// Takes the sockets that systemd passes: they replace the default addresses and serve configured ones. Binds the others of HTTP, and returns all of HTTP.
pub(super) fn open(engine: &mut Config, addresses_given: bool, http: &[SocketAddr], limits: Limits) -> Result<Option<HttpServer>, Error> {
    let failed = |source| Error::System { doing: "taking sockets from systemd".to_owned(), source };
    let (mut streams, mut passed) = (Vec::new(), Vec::new());
    for socket in systemd::listen_fds().map_err(failed)? {
        match getsockopt(&socket, sockopt::SockType).map_err(system("taking sockets from systemd"))? {
            SockType::Stream => streams.push(socket),
            _ => passed.push(PassedSocket::new(socket)?),
        }
    }
    engine.passed = passed;
    let passed: Vec<SocketAddr> = engine.passed.iter().map(|passed| passed.address).collect();
    if !passed.is_empty() {
        if !addresses_given {
            engine.listen = passed;
        } else if let Some(unused) = passed.iter().find(|address| !engine.listen.contains(address)) {
            return Err(Error::Unused("listen", *unused));
        }
    } else if !addresses_given && lacks_ipv6() {
        for address in engine.listen.iter_mut().filter(|address| address.is_ipv6()) {
            tracing::warn!("this host has no IPv6: requests are served by IPv4 only");
            address.set_ip(Ipv4Addr::UNSPECIFIED.into());
        }
    }
    let mut server = HttpServer::new(limits);
    for stream in streams {
        let address = server.add(stream).map_err(failed)?;
        if !http.is_empty() && !http.contains(&address) {
            return Err(Error::Unused("http", address));
        }
    }
    let passed = server.addresses();
    for &address in http.iter().filter(|address| !passed.contains(address)) {
        server.bind(address).map_err(|source| Error::System { doing: format!("listening for HTTP at {address}"), source })?;
    }
    Ok(if server.addresses().is_empty() { None } else { Some(server) })
}

/// Returns whether the kernel was built or booted without IPv6 (`ipv6.disable=1`).
fn lacks_ipv6() -> bool {
    let socket = socket(AddressFamily::Inet6, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None);
    matches!(socket, Err(Errno::EAFNOSUPPORT))
}

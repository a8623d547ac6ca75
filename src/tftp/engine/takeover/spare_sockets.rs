//! Sockets for ports of other servers, opened before privileges are dropped.

use super::super::error::Error;
use super::super::sockets::ServerSocket;
use std::net::IpAddr;

/// Largest number of sockets for ports of other servers.
pub(super) const MAX_FOREIGN_SOCKETS: usize = 256;

/// Unbound sockets that may send from any address: opened while the process is privileged, bound when a port is needed.
#[derive(Default)]
pub struct SpareSockets {
    free: Vec<ServerSocket>,
}

impl SpareSockets {
    /// Opens sockets for these VIPs.
    pub fn new(vips: &[IpAddr]) -> Result<SpareSockets, Error> {
        let mut free = Vec::new();
        for v4 in [true, false] {
            if let Some(vip) = vips.iter().find(|vip| vip.is_ipv4() == v4) {
                (0..MAX_FOREIGN_SOCKETS).try_for_each(|_| ServerSocket::spare(*vip).map(|socket| free.push(socket)))?;
            }
        }
        Ok(SpareSockets { free })
    }

    pub(super) fn take(&mut self, v4: bool) -> Option<ServerSocket> {
        let at = self.free.iter().rposition(|socket| socket.local.is_ipv4() == v4)?;
        Some(self.free.swap_remove(at))
    }
}

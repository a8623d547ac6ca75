//! The peer of a transfer, and the route to it.

use super::sys::Local;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};

/// The client, address and socket that packets of one transfer share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    pub client: SocketAddr,
    pub vip: IpAddr,
    /// Index of the socket of answers.
    pub socket: u16,
}

impl Hash for Peer {
    /// Hashes few words, because it is called for every packet.
    fn hash<H: Hasher>(&self, to: &mut H) {
        match (self.client.ip(), self.vip) {
            (IpAddr::V4(client), IpAddr::V4(vip)) => to.write_u64(u64::from(client.to_bits()) << 32 | u64::from(vip.to_bits())),
            (client, vip) => (client, vip).hash(to),
        }
        to.write_u32(u32::from(self.client.port()) << 16 | u32::from(self.socket));
    }
}

/// The port to which a packet was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// The port of requests. Packets of transfers belong to their TID (RFC 1350 section 4), and are ignored here.
    Requests,
    /// A TID.
    Transfers,
    /// The port of requests, which is also the TID.
    Both,
}

impl Port {
    /// Returns the kind of a port.
    pub fn of(requests: bool, transfers: bool) -> Port {
        match (requests, transfers) {
            (true, true) => Port::Both,
            (true, false) => Port::Requests,
            (false, _) => Port::Transfers,
        }
    }
}

/// Route of a transfer's packets.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// Index of the socket.
    pub socket: u16,
    /// The client.
    pub to: SocketAddr,
    /// The source address, on a socket without a bound address.
    pub from: Option<Local>,
}

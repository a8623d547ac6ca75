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

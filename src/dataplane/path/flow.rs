//! A flow: one client's conversation with a service of a VIP, and its hashes.

use crate::tables::{HashKey, Service, ServiceId, ServiceKind, Snapshot, TFTP_PORT};
use guideway_hash::ClientHasher;
use guideway_packet::wire::l4::Ports;
use guideway_packet::wire::layout::tftp::{READ_REQUEST, WRITE_REQUEST};
use std::net::{IpAddr, Ipv6Addr};

/// One client's conversation with a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The service at the VIP.
    pub service: ServiceId,
    /// Transport protocol.
    pub protocol: u8,
    /// The client's address.
    pub client: IpAddr,
    /// The VIP.
    pub vip: IpAddr,
    /// The client's port: its TID, in TFTP.
    pub client_port: u16,
    /// The port at the VIP: the server's TID, or 69.
    pub server_port: u16,
    /// First 16 bits of the UDP payload.
    pub opcode: Option<u16>,
    /// The packet opens a TCP connection. It follows no entry of the flow table to a backend that gets nothing new.
    pub opens_connection: bool,
    /// The packet is *about* the flow (ICMP) and not of it. It neither starts nor refreshes anything.
    pub related: bool,
}

/// What a packet is to its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// One of its packets.
    Member,
    /// A TCP SYN: a new flow, even on the ports of an earlier one. It follows no entry of the flow table to a backend that gets nothing new.
    Opening,
    /// A message about it (ICMP), which neither starts nor refreshes anything.
    About,
}

impl Flow {
    /// The flow of a packet with these `ports`.
    #[inline]
    pub(super) fn new(service: ServiceId, protocol: u8, client: IpAddr, vip: IpAddr, ports: Ports) -> Flow {
        let Ports { source: client_port, destination: server_port, opcode, opens_connection } = ports;
        Flow { service, protocol, client, vip, client_port, server_port, opcode, opens_connection, related: false }
    }

    /// Whether this is a TFTP request. It names no backend yet.
    pub(super) fn is_request(&self, service: &Service) -> bool {
        let ServiceKind::Tftp(_) = service.kind else { return false };
        !self.related && self.server_port == TFTP_PORT && matches!(self.opcode, Some(READ_REQUEST | WRITE_REQUEST))
    }

    /// What the packet is to it.
    pub(super) fn relation(&self) -> Relation {
        match (self.related, self.opens_connection) {
            (true, _) => Relation::About,
            (false, true) => Relation::Opening,
            (false, false) => Relation::Member,
        }
    }

    /// Hash of the 5-tuple. A `tftp` service leaves out the server's port, which changes within a transfer.
    #[inline]
    pub fn hash(&self, tables: &Snapshot) -> u64 {
        let server_port = match self.kind(tables) {
            ServiceKind::Tftp(_) => 0,
            ServiceKind::Flow => self.server_port,
        };
        match (self.client, self.vip) {
            (IpAddr::V4(client), IpAddr::V4(vip)) => tables.hash.flow_v4(self.protocol, client, vip, self.client_port, server_port),
            (client, vip) => tables.hash.flow_v6(self.protocol, to_v6(client), to_v6(vip), self.client_port, server_port),
        }
    }

    /// Hash that chooses the row of the Maglev table: the flow's own, `flow_hash`, or that of the client alone.
    #[inline]
    pub fn row_hash(&self, flow_hash: u64, tables: &Snapshot) -> u64 {
        match self.kind(tables) {
            ServiceKind::Tftp(HashKey::Client) => tables.hash.client(self.client, self.vip),
            ServiceKind::Tftp(HashKey::Flow) | ServiceKind::Flow => flow_hash,
        }
    }

    /// The quick hash of the client, as [`super::fast_path::FastPathPacket::client_hash`].
    pub(super) fn client_hash(&self, hasher: &ClientHasher) -> u64 {
        let port = u16::from_ne_bytes(self.client_port.to_be_bytes());
        match self.client {
            IpAddr::V4(client) => hasher.v4(u32::from_ne_bytes(client.octets()), port),
            IpAddr::V6(client) => hasher.v6(u128::from_ne_bytes(client.octets()), port),
        }
    }

    fn kind(&self, tables: &Snapshot) -> ServiceKind {
        tables.services[usize::from(self.service)].kind
    }
}

/// The address as IPv6; IPv4 as IPv4-mapped IPv6 (RFC 4291 section 2.5.5.2).
pub(super) fn to_v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(a) => a.to_ipv6_mapped(),
        IpAddr::V6(a) => a,
    }
}

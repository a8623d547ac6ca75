//! Requests and acknowledgements that directors send in GRE, taken from a raw socket: no tunnel device, no VIP on any interface.

use super::ports::{Error, Port};
use super::sys::{Patience, Received, Receiver};
use super::{Config, TunnelConfig};
use guideway_packet::wire::ip::Ip;
use guideway_packet::wire::{ethernet, gre, l4};
use guideway_sys::set_option;
use pnet::packet::udp::UdpPacket;
use pnet::packet::{ipv4::Ipv4Packet, udp};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

/// The raw sockets, and which of the loop's sockets answers for which VIP.
pub struct Tunnel {
    sockets: Vec<(Socket, bool)>,
    vips: Vec<Vip>,
    /// Sockets for ports of other servers.
    others: HashMap<SocketAddr, u16>,
}

/// What a datagram for a VIP is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The socket of this index answers it; whether it came to the port of requests.
    Port(u16, bool),
    /// A port that none of our sockets is bound to yet.
    Other(SocketAddr),
}

struct Vip {
    address: IpAddr,
    /// The port of requests, and the one of transfers.
    ports: [u16; 2],
    /// Index of the socket that answers.
    reply: u16,
}

impl Tunnel {
    /// The tunnel of a loop with these sockets, if one is configured.
    pub fn open(config: &Config, ports: &[Port]) -> Result<Option<Tunnel>, Error> {
        let Some(TunnelConfig { locals, vips, port }) = &config.tunnel else { return Ok(None) };
        let answers = |vip: &IpAddr| {
            let reply = ports.iter().position(|port| port.local.ip() == *vip)?;
            let ports = [*port, ports[reply].local.port()];
            Some(Vip { address: *vip, ports, reply: u16::try_from(reply).ok()? })
        };
        let vips = vips.iter().filter_map(answers).collect();
        let sockets = locals.iter().map(|&local| Ok((raw(local)?, local.is_ipv4()))).collect::<Result<_, Error>>()?;
        Ok(Some(Tunnel { sockets, vips, others: HashMap::new() }))
    }

    /// The raw sockets.
    pub fn sockets(&self) -> impl Iterator<Item = &Socket> {
        self.sockets.iter().map(|(socket, _)| socket)
    }

    /// Receives from one of them.
    pub fn receive(&self, index: usize, receiver: &mut Receiver) -> io::Result<(usize, bool)> {
        receiver.receive(self.sockets[index].0.as_fd(), Patience::Now)
    }

    /// The datagrams for this address and port are answered by the socket of this index from now on.
    pub fn answer(&mut self, address: SocketAddr, port: u16) {
        self.others.insert(address, port);
    }

    /// The datagram for a VIP within what a raw socket received, and what it is for.
    pub fn unwrap<'a>(&self, index: usize, outer: &'a [u8]) -> Option<(Target, Received<'a>)> {
        // Over IPv4 a raw socket gives the outer header, too (raw(7)); over IPv6 it does not (RFC 3542 section 3).
        let with_header = self.sockets[index].1;
        let inner = if with_header { outer.get(Ipv4Packet::new(outer)?.get_header_length() as usize * 4..)? } else { outer };
        self.inner(inner)
    }

    fn inner<'a>(&self, packet: &'a [u8]) -> Option<(Target, Received<'a>)> {
        let header = gre::Gre::parse(packet).ok()?;
        if header.protocol != ethernet::IPV4 && header.protocol != ethernet::IPV6 {
            return None;
        }
        let packet = packet.get(header.len..)?;
        let inner = Ip::parse(header.protocol, packet).ok()?;
        if inner.protocol != l4::UDP || inner.fragment.is_some() || !inner.checksum_ok(packet) {
            return None;
        }
        let payload = packet.get(usize::from(inner.header_len)..usize::from(inner.total_len))?;
        let (from, to, bytes) = datagram(&inner, payload)?;
        let vip = self.vips.iter().find(|vip| vip.address == inner.destination)?;
        let target = if vip.ports.contains(&to) {
            Target::Port(vip.reply, to == vip.ports[0])
        } else {
            let address = SocketAddr::new(vip.address, to);
            self.others.get(&address).map_or(Target::Other(address), |port| Target::Port(*port, false))
        };
        let received = Received { from: SocketAddr::new(inner.source, from), local: None, bytes, cut: false };
        Some((target, received))
    }
}

/// Source port, destination port and payload of a UDP datagram whose checksum is right or absent.
fn datagram<'a>(inner: &Ip, payload: &'a [u8]) -> Option<(u16, u16, &'a [u8])> {
    let view = UdpPacket::new(payload)?;
    let bytes = payload.get(..usize::from(view.get_length()))?;
    let view = UdpPacket::new(bytes)?;
    let expected = match (inner.source, inner.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => udp::ipv4_checksum(&view, &source, &destination),
        (IpAddr::V6(source), IpAddr::V6(destination)) => udp::ipv6_checksum(&view, &source, &destination),
        _ => return None,
    };
    let expected = if expected == 0 { 0xffff } else { expected };
    if view.get_checksum() != expected && !(view.get_checksum() == 0 && inner.source.is_ipv4()) {
        return None;
    }
    Some((view.get_source(), view.get_destination(), bytes.get(8..)?))
}

fn raw(local: IpAddr) -> Result<Socket, Error> {
    let domain = if local.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let failed = |e| Error::new(format!("receiving GRE at {local}, which needs CAP_NET_RAW"), e);
    let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(i32::from(gre::PROTOCOL)))).map_err(failed)?;
    let size = 8 << 20;
    set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &size)
        .or_else(|_| set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF, &size))
        .map_err(failed)?;
    socket.bind(&SockAddr::from(SocketAddr::new(local, 0))).map_err(failed)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use guideway_packet::wire::build;

    fn tunnel() -> Tunnel {
        let vip = |address: &str, reply| Vip { address: address.parse().unwrap(), ports: [69, 20001], reply };
        Tunnel { sockets: Vec::new(), vips: vec![vip("192.0.2.69", 3), vip("2001:db8::69", 5)], others: HashMap::new() }
    }

    /// GRE and what is in it, as a datagram of these addresses.
    fn packet(from: &str, to: &str) -> Vec<u8> {
        let outer: IpAddr = "10.0.0.1".parse().unwrap();
        let gre = build::udp(from.parse().unwrap(), to.parse().unwrap(), b"\0\x04\0\x01").gre(outer, outer);
        gre.bytes()[20..].to_vec()
    }

    #[test]
    fn what_is_for_a_vip_and_its_ports_comes_out() {
        let t = tunnel();
        for (from, to, reply, listens) in [
            ("198.51.100.7:2000", "192.0.2.69:69", 3, true),
            ("198.51.100.7:2000", "192.0.2.69:20001", 3, false),
            ("[2001:db8:1::7]:2000", "[2001:db8::69]:20001", 5, false),
        ] {
            let packet = packet(from, to);
            let (got, received) = t.inner(&packet).unwrap();
            let expected = (Target::Port(reply, listens), from.parse().unwrap(), &b"\0\x04\0\x01"[..]);
            assert_eq!((got, received.from, received.bytes), expected);
        }
        let (other, mut t) = (packet("198.51.100.7:2000", "192.0.2.69:70"), t);
        let address = "192.0.2.69:70".parse().unwrap();
        assert_eq!(t.inner(&other).unwrap().0, Target::Other(address));
        t.answer(address, 9);
        assert_eq!(t.inner(&other).unwrap().0, Target::Port(9, false));
        assert!(t.inner(&packet("198.51.100.7:2000", "192.0.2.70:69")).is_none(), "another address");
    }

    #[test]
    fn what_is_spoilt_does_not() {
        let whole = packet("198.51.100.7:2000", "192.0.2.69:69");
        for len in 0..whole.len() {
            assert!(tunnel().inner(&whole[..len]).is_none(), "{len}");
        }
        for at in 4..whole.len() {
            let mut spoilt = whole.clone();
            spoilt[at] ^= 0x55;
            assert!(tunnel().inner(&spoilt).is_none(), "{at}");
        }
    }
}

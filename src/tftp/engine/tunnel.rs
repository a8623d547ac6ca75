//! Requests and acknowledgements that directors send in GRE, received on a raw socket, without a tunnel device and without VIPs on interfaces.

use super::config::{Config, TunnelConfig};
use super::error::Error;
use super::peer::Port;
use super::sockets::ServerSocket;
use super::sys::{ReceiveMode, Received, Receiver};
use guideway_packet::wire::build::transport_checksum;
use guideway_packet::wire::ip::Ip;
use guideway_packet::wire::layout::udp;
use guideway_packet::wire::view::{Ipv4View, UdpView};
use guideway_packet::wire::{ethernet, gre, l4};
use guideway_sys::set_option;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

/// The raw sockets, and the loop's socket that answers for each VIP.
pub struct Tunnel {
    sockets: Vec<(Socket, bool)>,
    vips: Vec<Vip>,
    /// Sockets for ports of other servers.
    others: HashMap<SocketAddr, u16>,
}

/// Destination of a datagram for a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Index of the socket that answers it, and the port to which it was sent.
    Socket(u16, Port),
    /// A port without a bound socket.
    UnboundPort(SocketAddr),
}

struct Vip {
    address: IpAddr,
    /// The port of requests, and that of transfers.
    ports: [u16; 2],
    /// Index of the socket that answers.
    reply_socket: u16,
}

impl Tunnel {
    /// Opens the tunnel of a loop with these sockets, if configured.
    pub fn open(config: &Config, sockets: &[ServerSocket]) -> Result<Option<Tunnel>, Error> {
        let Some(TunnelConfig { locals, vips, port }) = &config.tunnel else { return Ok(None) };
        let answers = |vip: &IpAddr| {
            let reply_socket = sockets.iter().position(|socket| socket.local.ip() == *vip)?;
            let ports = [*port, sockets[reply_socket].local.port()];
            Some(Vip { address: *vip, ports, reply_socket: u16::try_from(reply_socket).ok()? })
        };
        let vips = vips.iter().filter_map(answers).collect();
        let sockets = locals.iter().map(|&local| Ok((raw(local)?, local.is_ipv4()))).collect::<Result<_, Error>>()?;
        Ok(Some(Tunnel { sockets, vips, others: HashMap::new() }))
    }

    /// Returns the raw sockets.
    pub fn sockets(&self) -> impl Iterator<Item = &Socket> {
        self.sockets.iter().map(|(socket, _)| socket)
    }

    /// Receives from a raw socket.
    pub fn receive(&self, index: usize, receiver: &mut Receiver) -> io::Result<(usize, bool)> {
        receiver.receive(self.sockets[index].0.as_fd(), ReceiveMode::NonBlocking)
    }

    /// Assigns datagrams for this address and port to the socket with this index.
    pub fn add_socket(&mut self, address: SocketAddr, socket: u16) {
        self.others.insert(address, socket);
    }

    /// Decapsulates a packet of a raw socket: returns the datagram for a VIP and its target.
    pub fn unwrap<'a>(&self, index: usize, outer: &'a [u8]) -> Option<(Target, Received<'a>)> {
        // Over IPv4 a raw socket returns the outer header, too (raw(7)); over IPv6 it does not (RFC 3542 section 3).
        let with_header = self.sockets[index].1;
        let inner = if with_header { outer.get(Ipv4View::new(outer)?.header_len().into()..)? } else { outer };
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
            Target::Socket(vip.reply_socket, Port::of(to == vip.ports[0], to == vip.ports[1]))
        } else {
            let address = SocketAddr::new(vip.address, to);
            self.others.get(&address).map_or(Target::UnboundPort(address), |socket| Target::Socket(*socket, Port::Transfers))
        };
        let received = Received { from: SocketAddr::new(inner.source, from), local: None, bytes, truncated: false, broadcast: false };
        Some((target, received))
    }
}

/// Returns source port, destination port and payload of a UDP datagram with a valid or absent checksum.
fn datagram<'a>(inner: &Ip, payload: &'a [u8]) -> Option<(u16, u16, &'a [u8])> {
    let bytes = payload.get(..usize::from(UdpView::new(payload)?.length()))?;
    let view = UdpView::new(bytes)?;
    // IPv6 requires a checksum (RFC 8200 section 8.1).
    let absent = bytes[udp::CHECKSUM..][..2] == [0, 0];
    let right = if absent { inner.source.is_ipv4() } else { transport_checksum(inner.source, inner.destination, l4::UDP, bytes) == 0 };
    right.then(|| (view.source_port(), view.destination_port(), &bytes[udp::LEN..]))
}

fn raw(local: IpAddr) -> Result<Socket, Error> {
    let domain = if local.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let failed = |e| Error::new(format!("receiving GRE on {local} (needs CAP_NET_RAW)"), e);
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
        let vip = |address: &str, reply_socket| Vip { address: address.parse().unwrap(), ports: [69, 20001], reply_socket };
        Tunnel { sockets: Vec::new(), vips: vec![vip("192.0.2.69", 3), vip("2001:db8::69", 5)], others: HashMap::new() }
    }

    /// Returns a GRE packet with a datagram of these addresses.
    fn packet(from: &str, to: &str) -> Vec<u8> {
        let outer: IpAddr = "10.0.0.1".parse().unwrap();
        let gre = build::udp(from.parse().unwrap(), to.parse().unwrap(), b"\0\x04\0\x01").gre(outer, outer);
        gre.bytes()[20..].to_vec()
    }

    #[test]
    fn datagrams_for_a_vip_and_its_ports_are_decapsulated() {
        let t = tunnel();
        for (from, to, reply_socket, port) in [
            ("198.51.100.7:2000", "192.0.2.69:69", 3, Port::Requests),
            ("198.51.100.7:2000", "192.0.2.69:20001", 3, Port::Transfers),
            ("[2001:db8:1::7]:2000", "[2001:db8::69]:20001", 5, Port::Transfers),
        ] {
            let packet = packet(from, to);
            let (got, received) = t.inner(&packet).unwrap();
            let expected = (Target::Socket(reply_socket, port), from.parse().unwrap(), &b"\0\x04\0\x01"[..]);
            assert_eq!((got, received.from, received.bytes), expected);
        }
        let (other, mut t) = (packet("198.51.100.7:2000", "192.0.2.69:70"), t);
        let address = "192.0.2.69:70".parse().unwrap();
        assert_eq!(t.inner(&other).unwrap().0, Target::UnboundPort(address));
        t.add_socket(address, 9);
        assert_eq!(t.inner(&other).unwrap().0, Target::Socket(9, Port::Transfers));
        assert!(t.inner(&packet("198.51.100.7:2000", "192.0.2.70:69")).is_none(), "another address");
    }

    #[test]
    fn damaged_packets_are_dropped() {
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

//! GRE to a server of this host, by raw IP sockets. One for each family, opened with the first packet of it.

use guideway_packet::frame::{Frame, LOOPBACK};
use guideway_packet::verdict::{Reason, Verdict};
use guideway_packet::wire::ethernet::{Ethernet, IPV4};
use guideway_packet::wire::ip;
use guideway_sys as sys;
use socket2::{Domain, Protocol, Socket, Type};
use std::io::Result;
use std::net::SocketAddr;
use std::os::fd::AsFd;

/// The raw sockets.
#[derive(Debug, Default)]
pub struct Loopback {
    v4: Option<Socket>,
    v6: Option<Socket>,
}

impl Loopback {
    /// Sends the frames for the loopback, and leaves the io nothing to do with them but to release them. Returns how many found no room.
    pub fn transmit(&mut self, frames: &mut [Frame<'_>]) -> usize {
        let mut lost = 0;
        for frame in frames.iter_mut().filter(|frame| frame.verdict == Verdict::Transmit && frame.output == LOOPBACK) {
            lost += usize::from(!self.send(frame.bytes()));
            frame.verdict = Verdict::Drop(Reason::TransmitFull);
        }
        lost
    }

    /// Sends the IP packet of a frame to its destination. `false` when the kernel did not take it.
    pub fn send(&mut self, frame: &[u8]) -> bool {
        self.try_send(frame).is_some_and(|sent| sent.is_ok())
    }

    fn try_send(&mut self, frame: &[u8]) -> Option<Result<usize>> {
        let ethernet = Ethernet::parse(frame).ok()?;
        let packet = frame.get(ethernet.len..)?;
        let destination = SocketAddr::new(ip::destination(ethernet.ethertype, packet)?, 0);
        let v4 = ethernet.ethertype == IPV4;
        let slot = if v4 { &mut self.v4 } else { &mut self.v6 };
        if slot.is_none() {
            *slot = Some(open(if v4 { Domain::IPV4 } else { Domain::IPV6 }).ok()?);
        }
        Some(slot.as_ref()?.send_to_with_flags(packet, &destination.into(), libc::MSG_DONTWAIT))
    }
}

/// Packets come with their IP headers (raw(7), RFC 3542 section 3), and none is received.
fn open(domain: Domain) -> Result<Socket> {
    let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
    // A server that waits for the CPU finds a burst in its own buffer; the sender must not wait for it.
    socket.set_send_buffer_size(4 << 20)?;
    if domain == Domain::IPV6 {
        sys::set_option(socket.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_HDRINCL, &1)?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, ip};
    use guideway_packet::frame::HEADROOM;
    use guideway_packet::wire::build;
    use guideway_packet::wire::gre;
    use std::io::Read;
    use std::net::IpAddr;
    use std::time::Duration;

    #[test]
    fn gre_from_this_hosts_address_to_itself_reaches_its_server() {
        testing::in_namespace(|| {
            testing::veth(1, 1500);
            for device in ["lo", "guide0"] {
                std::fs::write(format!("/proc/sys/net/ipv6/conf/{device}/disable_ipv6"), "0").unwrap();
            }
            ip("link set lo up");
            ip("addr add 10.0.1.11/24 dev guide0");
            ip("addr add 2001:db8:1::11/64 dev guide0 nodad");
            // The kernel adds the local route later than the address.
            let is_local = || !ip("-6 route show table local 2001:db8:1::11").is_empty();
            assert!((0..1000).any(|_| is_local()), "the address is not local");
            let mut loopback = Loopback::default();
            for (own, offset) in [("10.0.1.11", 20), ("2001:db8:1::11", 0)] {
                let own: IpAddr = own.parse().unwrap();
                let domain = if own.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
                let mut server = Socket::new(domain, Type::RAW, Some(Protocol::from(i32::from(gre::PROTOCOL)))).unwrap();
                server.bind(&SocketAddr::new(own, 0).into()).unwrap();
                server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                let client = build::udp("198.51.100.7:4000".parse().unwrap(), "192.0.2.69:69".parse().unwrap(), &[7; 1400]);
                let bytes = client.gre(own, own).frame([0; 6], [0; 6]);
                let mut buffer = [vec![0; HEADROOM], bytes.clone()].concat();
                let mut frame = Frame::new(&mut buffer, HEADROOM, bytes.len());
                (frame.verdict, frame.output) = (Verdict::Transmit, LOOPBACK);
                assert_eq!(loopback.transmit(std::slice::from_mut(&mut frame)), 0);
                assert_ne!(frame.verdict, Verdict::Transmit, "the io only releases it");
                let mut received = [0; 2048];
                let length = server.read(&mut received).unwrap_or_else(|error| panic!("{own}: {error}"));
                assert_eq!(&received[offset + gre::BASE_LEN..length], client.bytes());
            }
            assert!(!loopback.send(&[0; 20]), "no IP packet");
        });
    }
}

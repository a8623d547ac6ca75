//! Sends an ICMP echo request through a ping socket where the kernel allows it, otherwise through a raw socket that receives only its own
//! replies.

use super::socket::{domain, failed, not_run};
use super::{Prober, Target};
use crate::outcome::Outcome;
use guideway_packet::wire::build;
use guideway_packet::wire::ethernet;
use guideway_packet::wire::ip::Ip;
use guideway_sys::attach_filter;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use tokio::time::timeout;

const ECHO_REQUEST: [u8; 2] = [8, 128];
const ECHO_REPLY: [u8; 2] = [0, 129];
/// The payload of the request.
const PAYLOAD: &[u8] = b"guideway health check";

impl Prober {
    pub(super) async fn icmp(&self, target: &Target) -> Result<(), Outcome> {
        let source = self.source_for(target.address)?;
        let v6 = usize::from(source.is_ipv6());
        let number: u32 = fastrand::u32(..);
        let (socket, raw) = open(source, number).map_err(not_run(format!("cannot open an ICMP socket at {source} (needs CAP_NET_RAW)")))?;
        let peer = SocketAddr::new(target.address, 0);
        // Connected, so that the kernel delivers only packets of this peer.
        socket.connect(peer).map_err(|e| failed(&e, peer))?;
        let socket = tokio::net::UdpSocket::from_std(socket).map_err(not_run("cannot use a socket"))?;
        let rest = [&number.to_be_bytes()[..], PAYLOAD].concat();
        let message = build::icmp(source, target.address, ECHO_REQUEST[v6], 0, &rest);
        let header = if source.is_ipv4() { 20 } else { 40 };
        let message = message.bytes().get(header..).unwrap_or_default();
        let mut answer = [0; 2048];
        loop {
            socket.send(message).await.map_err(|e| failed(&e, peer))?;
            let answered = async {
                loop {
                    let length = socket.recv(&mut answer).await.map_err(|e| failed(&e, peer))?;
                    if is_reply(&answer[..length], raw && v6 == 0, ECHO_REPLY[v6], number, raw) {
                        return Ok(());
                    }
                }
            };
            // One lost packet is not a failure.
            if let Ok(outcome) = timeout(target.check.timeout / 3, answered).await {
                return outcome;
            }
        }
    }
}

/// Returns a socket, and whether it is a raw one.
fn open(source: IpAddr, number: u32) -> io::Result<(UdpSocket, bool)> {
    let protocol = if source.is_ipv4() { Protocol::ICMPV4 } else { Protocol::ICMPV6 };
    let (socket, raw) = match Socket::new(domain(source), Type::DGRAM, Some(protocol)) {
        Ok(socket) => (socket, false),
        // net.ipv4.ping_group_range excludes this process.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM | libc::EPROTONOSUPPORT)) => {
            let socket = Socket::new(domain(source), Type::RAW, Some(protocol))?;
            attach_filter(socket.as_fd(), &echo_filter(domain(source), number))?;
            (socket, true)
        }
        Err(error) => return Err(error),
    };
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::from(SocketAddr::new(source, 0)))?;
    Ok((socket.into(), raw))
}

/// Attaches a filter for messages with our identifier; otherwise every raw socket of the host would get every reply.
fn echo_filter(domain: Domain, number: u32) -> Vec<libc::sock_filter> {
    let instruction = |code: u32, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf, k };
    let (len_of_header, indexed) = (libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, libc::BPF_LD | libc::BPF_W | libc::BPF_IND);
    // A raw socket delivers the header over IPv4, but not over IPv6 (raw(7), RFC 3542 section 3).
    let load = match domain == Domain::IPV4 {
        true => vec![instruction(len_of_header, 0, 0), instruction(indexed, 0, 4)],
        false => vec![instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 4)],
    };
    let compare = [
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, number),
        instruction(libc::BPF_RET | libc::BPF_K, 0, u32::MAX),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0),
    ];
    [load, compare.to_vec()].concat()
}

/// Returns whether these bytes are the reply to our request. The kernel chooses the identifier of a ping socket, so only the sequence
/// number is ours.
fn is_reply(bytes: &[u8], with_header: bool, kind: u8, number: u32, raw: bool) -> bool {
    let message = match with_header {
        true => Ip::parse(ethernet::IPV4, bytes).ok().and_then(|ip| bytes.get(usize::from(ip.header_len)..usize::from(ip.total_len))),
        false => Some(bytes),
    };
    let Some([found, 0, _, _, id_high, id_low, high, low, payload @ ..]) = message else { return false };
    let sequence = [*high, *low] == number.to_be_bytes()[2..];
    let identifier = !raw || [*id_high, *id_low] == number.to_be_bytes()[..2];
    *found == kind && sequence && identifier && payload == PAYLOAD
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_reply_to_our_request_counts() {
        let (from, to) = ("10.0.0.2".parse().unwrap(), "10.0.0.1".parse().unwrap());
        let answer = |number: u32| build::icmp(from, to, 0, 0, &[&number.to_be_bytes()[..], PAYLOAD].concat());
        let reply = answer(0x0102_0304);
        assert!(is_reply(reply.bytes(), true, 0, 0x0102_0304, true));
        assert!(!is_reply(reply.bytes(), true, 0, 0x0902_0304, true), "the reply of another process");
        assert!(is_reply(&reply.bytes()[20..], false, 0, 0x0902_0304, false), "the kernel has chosen the identifier");
        assert!(!is_reply(&reply.bytes()[20..], false, 0, 0x0102_0305, false));
        assert!(!is_reply(&reply.bytes()[20..], false, 129, 0x0102_0304, false));
        for length in 0..reply.bytes().len() {
            assert!(!is_reply(&reply.bytes()[..length], true, 0, 0x0102_0304, true));
        }
    }
}

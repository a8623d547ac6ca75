//! Path MTUs towards backends: a router that cannot forward our GRE, which has DF, says so by ICMP to the director's address, and every io
//! leaves such a message to the host's kernel. A raw socket gets a copy of it here, whether or not the kernel itself makes something of it.

use guideway_dataplane::tables::Addresses;
use guideway_packet::wire::checksum::{fold, sum};
use guideway_packet::wire::layout::protocol::GRE;
use guideway_packet::wire::layout::{ethernet, gre, icmp, ipv4};
use guideway_packet::wire::view::{GreView, Ipv4View, Ipv6View};
use guideway_sys as sys;
use ipnet::Ipv4Net;
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::Duration;
use tokio::net::UdpSocket;

/// A learned path MTU is tried no higher for this time ("10 minutes", RFC 1191 section 6.3, RFC 8201 section 4).
const LIFETIME: Duration = Duration::from_secs(600);
/// No path MTU below this is believed: Linux has the same limit (`net.ipv4.route.min_pmtu`), as most who claim less want to harm (RFC 5927).
const MIN_V4: u16 = 552;
/// No IPv6 link has less (RFC 8200 section 5).
const MIN_V6: u16 = 1280;
/// Errors quote at most what fits 576 or 1,280 bytes (RFC 1812 section 4.3.2.3, RFC 4443 section 3.2), those of some routers a whole packet.
const MAX_MESSAGE: usize = 9600;
/// A socket that gives errors is read no more often.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(100);
/// MTUs of common links for routers that do not name theirs (RFC 1191 section 7).
const PLATEAUS: [u16; 6] = [17_914, 8_166, 4_352, 2_002, 1_492, 1_006];

/// The outer sources of our GRE.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sources {
    /// The director's addresses.
    pub(super) address: Addresses,
    /// The prefix that GRE to backends comes from over IPv4, in place of the address (`director.source_prefix`).
    pub(super) prefix: Option<Ipv4Net>,
}

impl Sources {
    /// Whether GRE to `destination` may come from `source`.
    fn contain(&self, source: IpAddr, destination: IpAddr) -> bool {
        let spread =
            matches!((self.prefix, source, destination), (Some(prefix), IpAddr::V4(source), IpAddr::V4(_)) if prefix.contains(&source));
        spread || self.address.same_family(destination) == Some(source)
    }
}

/// A packet of ours was too big for a router on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooBig {
    /// The backend that it was for.
    pub(super) backend: IpAddr,
    /// Bytes of an IP packet that would pass.
    pub(super) mtu: u16,
    /// Bytes of the IP packet that did not.
    len: u16,
    /// Destination of the packet inside, if the router quoted so much.
    vip: Option<IpAddr>,
}

/// Reads an ICMP message as a raw socket gives it: for IPv4 behind its IP header. `None` unless it is about GRE that `own` could have sent.
pub(super) fn parse(packet: &[u8], v4: bool, own: Sources) -> Option<TooBig> {
    let message = if v4 { packet.get(usize::from(Ipv4View::new(packet)?.header_len())..)? } else { packet };
    // Raw sockets get ICMP before the kernel has looked at its checksum, and ICMPv6 after that.
    if v4 && fold(u64::from(sum(message))) != 0xffff {
        return None;
    }
    let head = message.first_chunk::<{ icmp::LEN }>()?;
    let quoted = message.get(icmp::LEN..)?;
    let (source, destination, len, inner) = match (v4, head[icmp::TYPE], head[icmp::CODE]) {
        (true, icmp::UNREACHABLE, icmp::FRAGMENTATION_NEEDED) => {
            let ip = Ipv4View::new(quoted)?;
            // As we send it: no options, no fragment, DF, identification 0.
            let ours = ip.is_plain() && !ip.is_fragment() && ip.dont_fragment() && ip.identification() == 0 && ip.protocol() == GRE;
            (IpAddr::from(ip.source()), IpAddr::from(ip.destination()), ip.total_len(), ours.then(|| quoted.get(ipv4::LEN..))??)
        }
        (false, icmp::V6_PACKET_TOO_BIG, _) => {
            let ip = Ipv6View::new(quoted)?;
            let inner = (ip.version() == 6 && ip.next_header() == GRE).then(|| quoted.get(40..))??;
            (ip.source().into(), ip.destination().into(), ip.total_len()?, inner)
        }
        _ => return None,
    };
    let header = len.checked_sub(u16::try_from(quoted.len() - inner.len()).ok()? + gre::LEN as u16)?;
    let (gre, inner) = (GreView::new(inner)?, inner.get(gre::LEN..)?);
    // At least 8 bytes behind the IP header are quoted: the length of an inner IPv4 packet is there, the rest may not be.
    let (inner_len, vip) = match gre.protocol() {
        protocol if !gre.is_plain(protocol) => return None,
        ethernet::IPV4 => {
            let len = u16::from_be_bytes(*inner.get(ipv4::TOTAL_LEN..)?.first_chunk()?);
            (len, Ipv4View::new(inner).map(|ip| ip.destination().into()))
        }
        ethernet::IPV6 => (header, Ipv6View::new(inner).map(|ip| ip.destination().into())),
        _ => return None,
    };
    if !own.contain(source, destination) || inner_len != header {
        return None;
    }
    let named = if v4 {
        u32::from(u16::from_be_bytes([head[icmp::MTU_V4], head[icmp::MTU_V4 + 1]]))
    } else {
        u32::from_be_bytes(*head.get(icmp::MTU_V6..)?.first_chunk()?)
    };
    let mtu = match u16::try_from(named).unwrap_or(u16::MAX) {
        0 => PLATEAUS.into_iter().find(|plateau| *plateau < len).unwrap_or(MIN_V4),
        mtu => mtu,
    };
    Some(TooBig { backend: destination, mtu: mtu.max(if v4 { MIN_V4 } else { MIN_V6 }), len, vip })
}

/// What was learned of each backend, and until when. Times are since any fixed instant.
#[derive(Debug, Default)]
pub(super) struct PathMtus(HashMap<IpAddr, (u16, Duration)>);

impl PathMtus {
    /// Takes a message about a packet to one of the backends `known`, whose path MTU is `current`. Returns whether something was learned.
    ///
    /// The packet must have been one that we could have sent: not longer than fits `current`, and with one of our VIPs inside, as far as it was
    /// quoted. A message raises nothing.
    pub(super) fn learn(&mut self, message: &TooBig, current: Option<u16>, vips: &BTreeSet<IpAddr>, now: Duration) -> bool {
        let Some(current) = current else { return false };
        let sent = message.len <= current && message.vip.is_none_or(|vip| vips.contains(&vip));
        if !sent || message.mtu >= message.len {
            return false;
        }
        self.0.insert(message.backend, (message.mtu, now + LIFETIME));
        true
    }

    /// Returns the path MTU that was learned.
    pub(super) fn get(&self, backend: IpAddr) -> Option<u16> {
        self.0.get(&backend).map(|(mtu, _)| *mtu)
    }

    /// Forgets backends that are no longer wanted.
    pub(super) fn retain(&mut self, wanted: &BTreeSet<IpAddr>) {
        self.0.retain(|backend, _| wanted.contains(backend));
    }

    /// Forgets what is too old. Returns whether there was any.
    pub(super) fn expire(&mut self, now: Duration) -> bool {
        let before = self.0.len();
        self.0.retain(|_, (_, until)| *until > now);
        self.0.len() != before
    }

    /// When [`PathMtus::expire`] has something to forget.
    pub(super) fn next_expiry(&self) -> Option<Duration> {
        self.0.values().map(|(_, until)| *until).min()
    }
}

/// A raw socket for the messages of one family.
#[derive(Debug)]
pub(super) struct Listener {
    /// The standard library has no raw sockets; this one is read like one of its own.
    socket: UdpSocket,
    v4: bool,
}

impl Listener {
    /// Opens the socket in the network namespace of this thread. It needs CAP_NET_RAW.
    pub(super) fn open(v4: bool) -> std::io::Result<Listener> {
        let (family, protocol) = if v4 { (AddressFamily::Inet, SockProtocol::Icmp) } else { (AddressFamily::Inet6, SockProtocol::IcmpV6) };
        let socket = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, protocol)?;
        sys::attach_filter(socket.as_fd(), &filter(v4))?;
        Ok(Listener { socket: UdpSocket::from_std(socket.into())?, v4 })
    }

    /// Waits for a message about GRE from `own`.
    pub(super) async fn receive(&self, own: Sources) -> TooBig {
        let mut buffer = vec![0u8; MAX_MESSAGE];
        loop {
            match self.socket.recv(&mut buffer).await {
                Ok(len) => {
                    if let Some(message) = parse(&buffer[..len], self.v4, own) {
                        return message;
                    }
                }
                // An error of the network is nothing to wait for again at once.
                Err(_) => tokio::time::sleep(PAUSE_AFTER_ERROR).await,
            }
        }
    }
}

/// Lets only "fragmentation needed" or "packet too big" through, so that a flood of echo requests costs us nothing.
fn filter(v4: bool) -> Vec<libc::sock_filter> {
    let op = |code: u32, jt, jf, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    let equal = |k| op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, k);
    let mut program = if v4 {
        let needed = u32::from(u16::from_be_bytes([icmp::UNREACHABLE, icmp::FRAGMENTATION_NEEDED]));
        // The IP header comes first: its length into the index register.
        vec![
            op(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, 0, 0, 0),
            op(libc::BPF_LD | libc::BPF_H | libc::BPF_IND, 0, 0, 0),
            equal(needed),
        ]
    } else {
        vec![op(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, 0), equal(icmp::V6_PACKET_TOO_BIG.into())]
    };
    program.extend([op(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX), op(libc::BPF_RET | libc::BPF_K, 0, 0, 0)]);
    program
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use guideway_packet::wire::build;

    fn own() -> Sources {
        let address = Addresses { v4: Some("10.0.1.11".parse().unwrap()), v6: Some("2001:db8:1::11".parse().unwrap()) };
        Sources { address, prefix: None }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// The GRE packet that a director sends for a datagram of `len` bytes to a VIP, as the next router sees it.
    pub fn ours(backend: &str, len: usize) -> Vec<u8> {
        let inner = build::udp("198.51.100.7:4000".parse().unwrap(), "192.0.2.53:53".parse().unwrap(), &vec![0; len - 28]);
        let source = own().address.same_family(ip(backend)).unwrap();
        let mut outer = inner.gre(source, ip(backend)).bytes().to_vec();
        if source.is_ipv4() {
            outer[ipv4::FLAGS_AND_OFFSET] = 0x40;
            outer[ipv4::IDENTIFICATION..ipv4::FLAGS_AND_OFFSET].fill(0);
        }
        outer
    }

    /// The ICMP message of a router about `packet`, of which it quotes `quote` bytes, as a raw socket gives it.
    pub fn refusal(packet: &[u8], mtu: u16, quote: usize, v4: bool) -> Vec<u8> {
        let mut message = vec![0; icmp::LEN];
        (message[0], message[1]) = if v4 { (3, 4) } else { (2, 0) };
        message[6..8].copy_from_slice(&mtu.to_be_bytes());
        message.extend_from_slice(&packet[..quote.min(packet.len())]);
        if !v4 {
            return message;
        }
        let mut packet = [&[0x45][..], &[0; 19], &message].concat();
        set_checksum(&mut packet);
        packet
    }

    fn set_checksum(packet: &mut [u8]) {
        packet[22..24].fill(0);
        let check = !fold(u64::from(sum(&packet[20..])));
        packet[22..24].copy_from_slice(&check.to_be_bytes());
    }

    #[test]
    fn a_router_that_quotes_our_gre_names_backend_and_mtu() {
        let v4 = ours("10.0.2.21", 1400);
        for quote in [28, 548] {
            let found = parse(&refusal(&v4, 1300, quote, true), true, own()).unwrap();
            assert_eq!((found.backend, found.mtu, found.len), (ip("10.0.2.21"), 1300, 1424));
            assert_eq!(found.vip, (quote > 28).then(|| ip("192.0.2.53")));
        }
        let v6 = ours("2001:db8:2::21", 1400);
        let found = parse(&refusal(&v6, 1400, 1232, false), false, own()).unwrap();
        assert_eq!((found.backend, found.mtu, found.len, found.vip), (ip("2001:db8:2::21"), 1400, 1444, Some(ip("192.0.2.53"))));
        assert_eq!(parse(&refusal(&v6, 900, 1232, false), false, own()).unwrap().mtu, MIN_V6);
        assert_eq!(parse(&refusal(&v4, 68, 548, true), true, own()).unwrap().mtu, MIN_V4);
        assert_eq!(parse(&refusal(&v4, 0, 548, true), true, own()).unwrap().mtu, 1006, "a router from before RFC 1191");
    }

    #[test]
    fn what_we_did_not_send_teaches_nothing() {
        let good = refusal(&ours("10.0.2.21", 1400), 1300, 548, true);
        let changed = |at: usize, value: u8| {
            let mut message = good.clone();
            message[at] = value;
            set_checksum(&mut message);
            parse(&message, true, own())
        };
        const QUOTE: usize = 20 + icmp::LEN;
        assert!(changed(QUOTE, 0x45).is_some(), "unchanged");
        for (at, value, what) in [
            (20, 11, "time exceeded"),
            (21, 3, "port unreachable"),
            (QUOTE + 5, 7, "an identification"),
            (QUOTE + 6, 0, "no DF"),
            (QUOTE + 9, 17, "UDP"),
            (QUOTE + 15, 12, "another sender"),
            (QUOTE + 20, 0x20, "GRE with a key"),
            (QUOTE + 22, 0x65, "GRE of another protocol"),
            (QUOTE + 27, 0x11, "another inner length"),
        ] {
            assert_eq!(changed(at, value), None, "{what}");
        }
        let mut damaged = good.clone();
        damaged[40] ^= 1;
        assert_eq!(parse(&damaged, true, own()), None, "the checksum");
        for len in 0..QUOTE + 28 {
            assert_eq!(parse(&good[..len], true, own()), None, "{len} bytes");
        }
        let v6 = refusal(&ours("2001:db8:2::21", 1400), 1300, 1232, false);
        (0..icmp::LEN + 44).for_each(|len| assert_eq!(parse(&v6[..len], false, own()), None, "{len} bytes"));
    }

    #[test]
    fn gre_from_the_prefix_of_sources_is_ours() {
        let mut outer = ours("10.0.2.21", 1400);
        outer[ipv4::SOURCE..ipv4::SOURCE + 4].copy_from_slice(&[10, 0, 3, 20]);
        let message = refusal(&outer, 1300, 548, true);
        let spread = |prefix: &str| Sources { prefix: Some(prefix.parse().unwrap()), ..own() };
        assert_eq!(parse(&message, true, own()), None);
        assert_eq!(parse(&message, true, spread("10.0.4.16/28")), None, "another prefix");
        assert_eq!(parse(&message, true, spread("10.0.3.16/28")).map(|found| found.mtu), Some(1300));
    }

    #[test]
    fn it_only_falls_expires_and_needs_a_vip_and_a_length_of_ours() {
        let (vips, seconds) = (BTreeSet::from([ip("192.0.2.53")]), Duration::from_secs);
        let message = |mtu, quote| parse(&refusal(&ours("10.0.2.21", 1400), mtu, quote, true), true, own()).unwrap();
        let backend = ip("10.0.2.21");
        let mut known = PathMtus::default();
        assert!(!known.learn(&message(1300, 548), None, &vips, seconds(0)), "no such backend");
        assert!(!known.learn(&message(1300, 548), Some(1400), &vips, seconds(0)), "1,424 bytes were never sent on a path of 1,400");
        assert!(!known.learn(&message(1300, 548), Some(1500), &BTreeSet::new(), seconds(0)), "no VIP");
        assert!(!known.learn(&message(1424, 548), Some(1500), &vips, seconds(0)), "it would have fitted");
        assert!(known.learn(&message(1300, 28), Some(1500), &vips, seconds(1)));
        assert_eq!((known.get(backend), known.next_expiry()), (Some(1300), Some(seconds(601))));
        known.expire(seconds(600));
        assert_eq!(known.get(backend), Some(1300));
        known.expire(seconds(601));
        assert_eq!(known.get(backend), None);
        known.learn(&message(1300, 28), Some(1500), &vips, seconds(1));
        known.retain(&BTreeSet::new());
        assert_eq!(known.get(backend), None);
    }
}

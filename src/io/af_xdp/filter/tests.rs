//! The filter in the kernel's own test run, over frames made by hand.

use super::*;
use crate::af_xdp::bpf::{self, VipMap, XskMap};
use crate::testing;
use socket2::{Domain, Socket, Type};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x0a];
const LOCAL_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 11);
const LOCAL_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 0x11);
const VIP4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 69);
const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x69);
const OTHER4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 70);
const OTHER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x70);

const PASS: u32 = 2;
const REDIRECT: u32 = bpf::XDP_REDIRECT;

struct Loaded {
    program: bpf::Program,
    vips: VipMap,
    _sockets: (XskMap, Socket),
}

fn load(v4: Option<Ipv4Addr>, v6: Option<Ipv6Addr>, take_all_gre: bool) -> Loaded {
    let vips = VipMap::new(16).unwrap();
    let sockets = XskMap::new(1).unwrap();
    let socket = Socket::new(Domain::from(libc::AF_XDP), Type::RAW, None).unwrap();
    sockets.set(0, socket.as_fd()).unwrap();
    let mut code = Program { mac: MAC, v4, v6, take_all_gre, extensions: false, vips: vips.fd(), sockets: sockets.fd() };
    // Kernels before Linux 5.18 load this one.
    bpf::Program::load(&code.assemble().unwrap()).unwrap();
    code.extensions = true;
    let program = bpf::Program::load(&code.assemble().unwrap()).unwrap();
    Loaded { program, vips, _sockets: (sockets, socket) }
}

fn ours() -> Loaded {
    let loaded = load(Some(LOCAL_V4), Some(LOCAL_V6), false);
    loaded.vips.insert(&vip_key(VIP4.into())).unwrap();
    loaded.vips.insert(&vip_key(VIP6.into())).unwrap();
    loaded
}

impl Loaded {
    #[track_caller]
    fn takes(&self, what: &str, frame: &[u8]) {
        assert_eq!(self.program.test_run(frame).unwrap(), REDIRECT, "is to be taken: {what}");
    }
    #[track_caller]
    fn passes(&self, what: &str, frame: &[u8]) {
        assert_eq!(self.program.test_run(frame).unwrap(), PASS, "is to be left to the host: {what}");
    }
}

fn ethernet(ethertype: u16, payload: Vec<u8>) -> Vec<u8> {
    [&MAC[..], &[2, 0, 0, 0, 0, 1], &ethertype.to_be_bytes(), &payload].concat()
}

fn tag(frame: &[u8], tpid: u16) -> Vec<u8> {
    [&frame[..12], &tpid.to_be_bytes(), &[0, 42], &frame[12..]].concat()
}

/// IPv4 with `options` words of options.
fn v4(to: Ipv4Addr, protocol: u8, options: usize, payload: &[u8]) -> Vec<u8> {
    let mut head = vec![0u8; 20 + 4 * options];
    (head[0], head[8], head[9]) = (0x45 + options as u8, 64, protocol);
    head[12..16].copy_from_slice(&[10, 0, 0, 1]);
    head[16..20].copy_from_slice(&to.octets());
    head[20..].fill(1);
    [&head, payload].concat()
}

fn v6(to: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    let [high, low] = (payload.len() as u16).to_be_bytes();
    let head = [0x60, 0, 0, 0, high, low, next, 64];
    [&head[..], &Ipv6Addr::LOCALHOST.octets(), &to.octets(), payload].concat()
}

/// GRE with the words that its flags announce.
fn gre(flags: u8, version: u8, protocol: u16, payload: &[u8]) -> Vec<u8> {
    let words = [0x80, 0x40, 0x20, 0x10].iter().filter(|f| flags & **f != 0).count();
    [&[flags, version], &protocol.to_be_bytes()[..], &vec![0x45; 4 * words], payload].concat()
}

const UDP: &[u8] = &[0x1f, 0x90, 0, 69, 0, 12, 0, 0, 0, 1, b'f', 0];

fn inner4(to: Ipv4Addr) -> Vec<u8> {
    v4(to, 17, 0, UDP)
}

fn inner6(to: Ipv6Addr) -> Vec<u8> {
    v6(to, 17, UDP)
}

/// The destination option that Linux puts before GRE over IPv6: the tunnel encapsulation limit (RFC 2473 section 5.1), padded.
const ENCAPSULATION_LIMIT: [u8; 8] = [47, 0, 4, 1, 4, 1, 1, 0];

/// Everything for the VIPs, by family outside and inside, with the GRE header in all its sizes.
fn every_gre(to4: Ipv4Addr, to6: Ipv6Addr) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for flags in [0, 0x80, 0x20, 0x10, 0xa0, 0x90, 0x30, 0xb0] {
        for (inside, inner) in [(4, gre(flags, 0, 0x0800, &inner4(to4))), (6, gre(flags, 0, 0x86dd, &inner6(to6)))] {
            for options in [0, 1, 10] {
                let frame = ethernet(0x0800, v4(LOCAL_V4, 47, options, &inner));
                all.push((format!("IPv{inside} in GRE {flags:#x} in IPv4 with {options} option words"), frame));
            }
            all.push((format!("IPv{inside} in GRE {flags:#x} in IPv6"), ethernet(0x86dd, v6(LOCAL_V6, 47, &inner))));
            let limited = [&ENCAPSULATION_LIMIT[..], &inner].concat();
            let what = format!("IPv{inside} in GRE {flags:#x} in IPv6 with an encapsulation limit");
            all.push((what, ethernet(0x86dd, v6(LOCAL_V6, 60, &limited))));
        }
    }
    all
}

#[test]
fn neighbour_discovery_for_a_vip_is_the_hosts_and_other_icmp_is_taken() {
    let ours = ours();
    for kind in 0..=255u8 {
        let frame = ethernet(0x86dd, v6(VIP6, 58, &[kind, 0, 0, 0, 0, 0, 0, 0]));
        if (133..=137).contains(&kind) {
            ours.passes(&format!("ICMPv6 type {kind}"), &frame);
            let options = v6(VIP6, 0, &[&[58, 0, 1, 4, 0, 0, 0, 0], &frame[54..]].concat());
            ours.passes(&format!("ICMPv6 type {kind} behind hop-by-hop options"), &ethernet(0x86dd, options));
            ours.takes("what is too short for a message", &ethernet(0x86dd, v6(VIP6, 58, &[kind, 0, 0, 0])));
        } else {
            ours.takes(&format!("ICMPv6 type {kind}"), &frame);
        }
    }
}

#[test]
fn gre_around_packets_to_a_vip_is_taken_in_every_combination() {
    testing::in_namespace(|| {
        let filter = ours();
        for (what, frame) in every_gre(VIP4, VIP6) {
            filter.takes(&what, &frame);
            filter.takes(&format!("tagged {what}"), &tag(&frame, 0x8100));
            filter.takes(&format!("{what} with a service tag"), &tag(&frame, 0x88a8));
        }
        for (what, frame) in every_gre(OTHER4, OTHER6) {
            filter.passes(&what, &frame);
        }
    });
}

#[test]
fn a_routers_keepalive_is_taken_and_other_gre_inside_gre_is_left() {
    testing::in_namespace(|| {
        let filter = ours();
        let inside = |protocol: u16, source: Ipv4Addr| {
            let mut packet = v4(Ipv4Addr::new(10, 0, 0, 1), 47, 0, &gre(0, 0, protocol, &[]));
            packet[12..16].copy_from_slice(&source.octets());
            packet[3] = 24;
            packet
        };
        let outside = |inner: &[u8]| {
            [
                ethernet(0x0800, v4(LOCAL_V4, 47, 0, &gre(0x20, 0, 0x0800, inner))),
                ethernet(0x86dd, v6(LOCAL_V6, 47, &gre(0, 0, 0x0800, inner))),
            ]
        };
        outside(&inside(0, LOCAL_V4)).iter().for_each(|frame| filter.takes("a keepalive", frame));
        let with = |at: usize, value: u8| {
            let mut packet = inside(0, LOCAL_V4);
            packet[at] = value;
            packet
        };
        for (what, inner) in [
            ("a payload", inside(0x0800, LOCAL_V4)),
            ("another host", inside(0, Ipv4Addr::new(10, 0, 1, 12))),
            ("another protocol", with(9, 50)),
            ("a first fragment", with(6, 0x20)),
            ("a later fragment", with(7, 1)),
            ("options", with(0, 0x46)),
            ("three bytes of GRE", with(3, 23)),
            ("the header only", inside(0, LOCAL_V4)[..20].to_vec()),
        ] {
            outside(&inner).iter().for_each(|frame| filter.passes(what, frame));
        }
    });
}

#[test]
fn plain_packets_to_a_vip_are_taken_and_others_left() {
    testing::in_namespace(|| {
        let filter = ours();
        filter.takes("IPv4", &ethernet(0x0800, inner4(VIP4)));
        filter.takes("IPv4, tagged", &tag(&ethernet(0x0800, inner4(VIP4)), 0x8100));
        filter.takes("IPv4 with options", &ethernet(0x0800, v4(VIP4, 17, 3, UDP)));
        filter.takes("a later fragment", &ethernet(0x0800, [&[0x45, 0, 0, 0, 0, 0, 0, 185], &v4(VIP4, 17, 0, UDP)[8..]].concat()));
        filter.takes("ICMP", &ethernet(0x0800, v4(VIP4, 1, 0, &[3, 4, 0, 0, 0, 0, 0, 0])));
        filter.takes("GRE to the VIP itself", &ethernet(0x0800, v4(VIP4, 47, 0, &gre(0, 0, 0x0800, &inner4(OTHER4)))));
        filter.takes("IPv6", &ethernet(0x86dd, inner6(VIP6)));
        filter.takes("IPv6 with extension headers", &ethernet(0x86dd, v6(VIP6, 0, &[17, 0, 1, 4, 0, 0, 0, 0])));
        filter.passes("IPv4 to another", &ethernet(0x0800, inner4(OTHER4)));
        filter.passes("IPv4 to us", &ethernet(0x0800, inner4(LOCAL_V4)));
        filter.passes("IPv6 to another", &ethernet(0x86dd, inner6(OTHER6)));
        filter.passes("ARP", &ethernet(0x0806, vec![0; 46]));
        let mut nearly = VIP6.octets();
        for byte in 0..16 {
            nearly[byte] ^= 1;
            filter.passes("an address that differs in one bit", &ethernet(0x86dd, inner6(nearly.into())));
            nearly[byte] ^= 1;
        }
    });
}

#[test]
fn what_makes_no_sense_is_left_to_the_host() {
    testing::in_namespace(|| {
        let filter = ours();
        let inner = inner4(VIP4);
        let in_gre = |flags, version, protocol| ethernet(0x0800, v4(LOCAL_V4, 47, 0, &gre(flags, version, protocol, &inner)));
        filter.passes("GRE version 1", &in_gre(0, 1, 0x0800));
        filter.passes("GRE with the routing bit", &in_gre(0x40, 0, 0x0800));
        filter.passes("GRE around Ethernet", &in_gre(0, 0, 0x6558));
        filter.passes("GRE that calls IPv4 IPv6", &in_gre(0, 0, 0x86dd));
        let good = in_gre(0xb0, 0, 0x0800);
        let mut other = good.clone();
        other[5] ^= 1;
        filter.passes("a frame for another host", &other);
        other[..6].fill(0xff);
        filter.passes("a broadcast", &other);
        filter.passes("two tags", &tag(&tag(&good, 0x8100), 0x8100));
        filter.passes("a customer tag in a service tag", &tag(&tag(&good, 0x8100), 0x88a8));
        let mut elsewhere = good.clone();
        elsewhere[33] ^= 1;
        filter.passes("GRE to another address", &elsewhere);
        let mut fragment = good.clone();
        fragment[21] = 185;
        filter.passes("a later fragment of GRE", &fragment);
        let mut first = good.clone();
        first[20] = 0x20;
        filter.takes("a first fragment of GRE", &first);
        let mut short = good.clone();
        short[14] = 0x44;
        filter.passes("IHL 4", &short);
        short[14] = 0x55;
        filter.passes("IP version 5", &short);
        let mut options = good.clone();
        options[14] = 0x4f;
        filter.passes("options up to the end", &options[..14 + 60]);
        // Up to the end of the inner IPv4 header: 14 + 20 + 16 + 20.
        for len in 14..70 {
            filter.passes("a frame that is cut", &good[..len]);
        }
        filter.takes("a frame that is just long enough", &good[..70]);
        for len in 14..54 {
            filter.passes("IPv6 that is cut", &ethernet(0x86dd, inner6(VIP6))[..len]);
        }
    });
}

#[test]
fn with_take_all_gre_only_the_outer_address_counts() {
    testing::in_namespace(|| {
        let filter = load(Some(LOCAL_V4), Some(LOCAL_V6), true);
        for (what, frame) in every_gre(OTHER4, OTHER6) {
            filter.takes(&what, &frame);
        }
        filter.takes("GRE version 1", &ethernet(0x0800, v4(LOCAL_V4, 47, 0, &gre(0, 1, 0x0800, &inner4(OTHER4)))));
        filter.takes("no more than an IPv4 header", &ethernet(0x0800, v4(LOCAL_V4, 47, 0, &[])));
        filter.passes("other protocols to us", &ethernet(0x0800, inner4(LOCAL_V4)));
        filter.passes("GRE to another address", &ethernet(0x0800, v4(OTHER4, 47, 0, &gre(0, 0, 0x0800, &inner4(OTHER4)))));
    });
}

#[test]
fn a_director_of_one_family_or_none_has_a_filter_too() {
    testing::in_namespace(|| {
        let gre4 = ethernet(0x0800, v4(LOCAL_V4, 47, 0, &gre(0, 0, 0x0800, &inner4(VIP4))));
        let gre6 = ethernet(0x86dd, v6(LOCAL_V6, 47, &gre(0, 0, 0x0800, &inner4(VIP4))));
        for (own4, own6) in [(true, false), (false, true), (false, false)] {
            for take_all_gre in [false, true] {
                let filter = load(own4.then_some(LOCAL_V4), own6.then_some(LOCAL_V6), take_all_gre);
                filter.vips.insert(&vip_key(VIP4.into())).unwrap();
                for (own, frame) in [(own4, &gre4), (own6, &gre6)] {
                    if own { filter.takes("GRE to us", frame) } else { filter.passes("GRE to an address we do not have", frame) }
                }
                filter.takes("plain", &ethernet(0x0800, inner4(VIP4)));
            }
        }
    });
}

#[test]
fn without_a_socket_on_the_queue_the_host_gets_the_frame() {
    testing::in_namespace(|| {
        let mut filter = ours();
        filter._sockets.1 = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        filter.passes("its socket is closed", &ethernet(0x0800, inner4(VIP4)));
    });
}

#[test]
fn a_program_that_the_verifier_refuses_says_why() {
    testing::in_namespace(|| {
        let mut asm = Assembler::default();
        asm.load(Width::Word, 0, 1, 0);
        asm.load(Width::Word, 0, 0, 0);
        asm.exit();
        let error = bpf::Program::load(&asm.finish().unwrap()).unwrap_err().to_string();
        assert!(error.contains("invalid access to packet"), "{error}");
    });
}

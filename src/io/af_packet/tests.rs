use super::*;
use crate::conformance::{self, IoFixture, LOCAL_MAC, PEER_MAC};
use crate::testing::{self, PacketSocket, ip, veth};
use guideway_packet::verdict::Verdict;

struct Veth {
    io: AfPacket,
    wire: PacketSocket,
}

impl IoFixture for Veth {
    fn io(&mut self) -> &mut dyn Io {
        &mut self.io
    }
    fn inject(&mut self, frame: &[u8]) {
        self.wire.send(frame);
    }
    fn take_transmitted(&mut self) -> Option<Vec<u8>> {
        self.wire.receive(Duration::from_millis(100))
    }
}

fn received(io: &mut AfPacket, wait: Duration) -> Vec<Vec<u8>> {
    let mut seen = Vec::new();
    io.poll(wait, &mut |_, frames| seen.extend(frames.iter().map(|f| f.bytes().to_vec()))).unwrap();
    seen
}

const LONG: Duration = Duration::from_secs(2);
const SHORT: Duration = Duration::from_millis(50);

#[test]
fn conforms() {
    testing::in_namespace(|| {
        veth(1, 1600);
        let io = AfPacket::open("guide0", 1).unwrap().remove(0);
        conformance::all(&mut Veth { io, wire: PacketSocket::open("guide1") });
    });
}

/// The tests named so run as root of a user namespace that has no rights outside.
#[test]
fn works_as_the_root_of_a_user_namespace() {
    testing::in_user_namespace("af_packet::tests::conforms");
    testing::in_user_namespace("af_packet::tests::the_kernel_answers_gre_without_the_guard_and_is_silent_with_it");
    testing::in_user_namespace("af_packet::tests::workers_share_flows_and_none_comes_twice");
}

#[test]
fn only_ip_for_this_host_comes_and_nothing_that_goes_out() {
    testing::in_namespace(|| {
        veth(1, 1500);
        let mut io = AfPacket::open("guide0", 1).unwrap().remove(0);
        let mut wire = PacketSocket::open("guide1");
        let ours = conformance::frame(1, 0, 60);
        let mut flooded = ours.clone();
        flooded[..6].copy_from_slice(&[2, 9, 9, 9, 9, 9]);
        let mut arp = ours.clone();
        arp[12..14].copy_from_slice(&[0x08, 0x06]);
        for frame in [&flooded, &arp, &ours] {
            wire.send(frame);
        }
        assert!(io.send(&flooded).unwrap());
        assert_eq!(received(&mut io, LONG), [ours]);
        assert_eq!(received(&mut io, SHORT), Vec::<Vec<u8>>::new());
    });
}

#[test]
fn a_tag_that_the_kernel_takes_off_is_put_back() {
    testing::in_namespace(|| {
        veth(1, 1500);
        let mut io = AfPacket::open("guide0", 1).unwrap().remove(0);
        let plain = conformance::frame(1, 0, 60);
        let tagged = [&plain[..12], &[0x81, 0x00, 0x60, 0x2a], &plain[12..]].concat();
        PacketSocket::open("guide1").send(&tagged);
        assert_eq!(received(&mut io, LONG), [tagged]);
    });
}

/// GRE from the far end to the address of `guide0`, and whether an ICMP answer came back there.
fn answer_to_gre(v6: bool) -> bool {
    let gre = if v6 {
        let head = [0x60, 0, 0, 0, 0, 24, 47, 64];
        let (from, to) = ([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2], [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        [&LOCAL_MAC[..], &PEER_MAC, &[0x86, 0xdd], &head, &from, &to, &[0, 0, 8, 0], &[0x45; 20]].concat()
    } else {
        // The header checksum: 0x4500 + 44 + 64·256+47 + the addresses, folded and complemented.
        let mut head = [0x45, 0, 0, 44, 0, 0, 0, 0, 64, 47, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1];
        let sum: u32 = head.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum();
        let check = !((sum & 0xffff) + (sum >> 16)) as u16;
        head[10..12].copy_from_slice(&check.to_be_bytes());
        [&LOCAL_MAC[..], &PEER_MAC, &[0x08, 0x00], &head, &[0, 0, 8, 0], &[0x45; 20]].concat()
    };
    let mut wire = PacketSocket::open("guide1");
    wire.send(&gre);
    // Type and code: destination unreachable, protocol; for IPv6 parameter problem, unknown next header.
    let (at, want) = if v6 { (54, [4, 1]) } else { (34, [3, 2]) };
    while let Some(frame) = wire.receive(SHORT) {
        if frame.get(at..at + 2) == Some(&want) {
            return true;
        }
    }
    false
}

#[test]
fn the_kernel_answers_gre_without_the_guard_and_is_silent_with_it() {
    testing::in_namespace(|| {
        veth(1, 1500);
        std::fs::write("/proc/sys/net/ipv6/conf/guide0/disable_ipv6", "0").unwrap();
        ip("address add 10.0.0.1/24 dev guide0");
        ip("address add fd00::1/64 dev guide0 nodad");
        let mac = PEER_MAC.map(|b| format!("{b:02x}")).join(":");
        ip(&format!("neighbour add 10.0.0.2 lladdr {mac} dev guide0"));
        ip(&format!("neighbour add fd00::2 lladdr {mac} dev guide0"));
        for v6 in [false, true] {
            assert!(answer_to_gre(v6), "the kernel answers by itself, IPv6: {v6}");
            let io = AfPacket::open("guide0", 1).unwrap();
            assert!(!answer_to_gre(v6), "the kernel is silent, IPv6: {v6}");
            drop(io);
            assert!(answer_to_gre(v6), "the silence ends with the io, IPv6: {v6}");
        }
    });
}

#[test]
fn workers_share_flows_and_none_comes_twice() {
    testing::in_namespace(|| {
        veth(1, 1500);
        let mut workers = AfPacket::open("guide0", 3).unwrap();
        let again = AfPacket::open("guide0", 2).unwrap();
        assert_ne!(group(&workers[0]), group(&again[0]), "another process has its own group");
        assert_eq!(group(&workers[0]), group(&workers[2]));
        let mut wire = PacketSocket::open("guide1");
        let flow = |n: u8| {
            let mut frame = conformance::frame(u32::from(n), 0, 60);
            frame[29] = n;
            frame
        };
        for n in 0..60 {
            wire.send(&flow(n % 30));
        }
        let mut where_seen = std::collections::HashMap::new();
        let mut count = 0;
        for (at, io) in workers.iter_mut().enumerate() {
            let mut some = 0;
            for frame in received(io, LONG) {
                assert_eq!(*where_seen.entry(frame).or_insert(at), at, "a flow stays with its worker");
                some += 1;
            }
            assert!(some > 0, "worker {at} got nothing");
            count += some;
        }
        assert_eq!((count, where_seen.len()), (60, 30));
    });
}

fn group(io: &AfPacket) -> u32 {
    sys::get_option::<u32>(io.socket.as_fd(), libc::SOL_PACKET, libc::PACKET_FANOUT).unwrap() & 0xffff
}

#[test]
fn an_interface_that_is_down_may_come_back_and_one_that_is_gone_is_an_error() {
    testing::in_namespace(|| {
        veth(1, 1500);
        let mut io = AfPacket::open("guide0", 1).unwrap().remove(0);
        ip("link set guide0 down");
        assert_eq!(io.poll(SHORT, &mut |_, _| ()).unwrap(), PollResult::default());
        assert!(!io.send(&conformance::frame(1, 0, 60)).unwrap());
        testing::up();
        let ours = conformance::frame(1, 0, 60);
        PacketSocket::open("guide1").send(&ours);
        assert_eq!(received(&mut io, LONG), [ours]);
        ip("link set guide0 down");
        assert_eq!(io.poll(SHORT, &mut |_, _| ()).unwrap(), PollResult::default());
        ip("link del guide0");
        let error = io.poll(SHORT, &mut |_, _| ()).unwrap_err().to_string();
        assert!(error.contains("gone"), "{error}");
    });
}

#[test]
fn a_frame_longer_than_the_link_allows_does_not_stop_the_others() {
    testing::in_namespace(|| {
        veth(1, 1500);
        let mut io = AfPacket::open("guide0", 1).unwrap().remove(0);
        let mut wire = PacketSocket::open("guide1");
        for (seq, len) in [(1, 60), (2, 1514), (3, 64)] {
            wire.send(&conformance::frame(seq, 0, len));
        }
        let mut sum = PollResult::default();
        while sum.received < 3 {
            let poll = io.poll(LONG, &mut |_, frames| {
                for frame in frames {
                    frame.replace_front(0, 20).unwrap().fill(2);
                    frame.verdict = Verdict::Transmit;
                }
            });
            let poll = poll.unwrap();
            assert!(poll.received > 0);
            sum.received += poll.received;
            sum.transmit_full += poll.transmit_full;
        }
        assert_eq!(sum.transmit_full, 1);
        assert_eq!([80, 84].map(|_| wire.receive(LONG).unwrap().len()), [80, 84]);
    });
}

#[test]
fn a_checksum_that_was_left_to_the_card_is_finished() {
    testing::in_namespace(|| {
        veth(1, 1500);
        let mut io = AfPacket::open("guide0", 1).unwrap().remove(0);
        testing::client().send(b"a request").unwrap();
        let frames = received(&mut io, LONG);
        assert!(testing::checksum_is_right(&frames[0]), "{frames:02x?}");
        let mut counters = Vec::new();
        io.for_each_counter(&mut |name, count| counters.push((name, count)));
        assert_eq!(counters, [("checksums_finished", 1)]);
    });
}

#[test]
fn a_super_frame_is_lost_for_a_reason_that_says_so() {
    const UDP_SEGMENT: libc::c_int = 103;
    testing::in_namespace(|| {
        veth(1, 1500);
        let mut io = AfPacket::open("guide0", 1).unwrap().remove(0);
        let client = testing::client();
        sys::set_option(client.as_fd(), libc::SOL_UDP, UDP_SEGMENT, &1400).unwrap();
        client.send(&[0; 7000]).unwrap();
        client.send(b"a request").unwrap();
        assert_eq!(received(&mut io, LONG).len(), 1);
        assert_eq!((io.losses().get(Loss::SuperFrame), io.losses().total()), (1, 1));
    });
}

#[test]
fn what_the_ring_lost_is_known() {
    const SENT: u64 = 20_010;
    testing::in_namespace(|| {
        veth(1, 1500);
        let mut io = AfPacket::open("guide0", 1).unwrap().remove(0);
        let mut wire = PacketSocket::open("guide1");
        let frame = conformance::frame(1, 0, 60);
        for _ in 0..SENT {
            wire.send(&frame);
        }
        let mut seen = 0;
        while let more @ 1.. = received(&mut io, SHORT).len() {
            seen += more as u64;
        }
        assert_eq!(seen + io.losses().get(Loss::RingFull), SENT);
        assert!(seen >= 1000 && io.losses().total() > 1000, "{seen} received, {:?}", io.losses());
    });
}

#[test]
fn errors_say_what_to_do() {
    assert!(AfPacket::open("no-such-if", 1).unwrap_err().to_string().contains("no-such-if"));
    testing::in_namespace(|| {
        veth(1, 1500);
        assert!(matches!(AfPacket::open("guide0", 0), Err(Error::Workers(0))));
        testing::drop_capabilities();
        assert!(AfPacket::open("guide0", 1).unwrap_err().to_string().contains("CAP_NET_RAW"));
    });
}

#[test]
fn a_raised_mtu_gets_a_longer_ring_without_a_restart() {
    testing::in_namespace(|| {
        veth(1, 1500);
        for workers in [1, 2] {
            let mut ios = AfPacket::open("guide0", workers).unwrap();
            let mut wire = PacketSocket::open("guide1");
            let long = conformance::frame(1, 0, 3000);
            for interface in ["guide0", "guide1"] {
                ip(&format!("link set {interface} mtu 3400"));
            }
            let deadline = std::time::Instant::now() + LONG;
            let mut seen = Vec::new();
            while seen.is_empty() && std::time::Instant::now() < deadline {
                wire.send(&long);
                seen = ios.iter_mut().flat_map(|io| received(io, SHORT)).collect();
            }
            assert_eq!(seen, [long], "{workers} workers");
            let lost: u64 = ios.iter().map(|io| io.losses().get(Loss::SuperFrame)).sum();
            assert!((1..10).contains(&lost), "those that came before are counted: {lost}");
            for interface in ["guide0", "guide1"] {
                ip(&format!("link set {interface} mtu 1500"));
            }
        }
    });
}

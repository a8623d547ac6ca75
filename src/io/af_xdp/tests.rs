use super::*;
use crate::BATCH;
use crate::conformance::{self, IoFixture, VIP};
use crate::interface::Interface;
use crate::testing::{self, PacketSocket, ip, run, veth};
use guideway_packet::loss::Loss;
use guideway_packet::verdict::Verdict;
use std::net::{IpAddr, Ipv4Addr};

const LONG: Duration = Duration::from_secs(2);
const SHORT: Duration = Duration::from_millis(50);

struct Veth {
    io: AfXdp,
    wire: PacketSocket,
    _filter: FilterHandle,
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
    /// Asserts that every chunk is free or the kernel's, that each of the kernel's is in the fill ring or in flight, and that nothing is left to be sent.
    fn check(&mut self) {
        let socket = &mut self.io.sockets[0];
        socket.recycle().unwrap();
        let (free, kernel_owned) = (socket.umem.free(), socket.umem.kernel_owned());
        assert_eq!(free + kernel_owned, setup::CHUNKS as usize);
        assert_eq!((socket.transmit.pending().unwrap(), socket.completion.ready().unwrap()), (0, 0));
        // The kernel keeps some empty chunks out of the fill ring for the next packets.
        let filling = socket.fill.pending().unwrap() as usize;
        assert!(
            filling <= kernel_owned && kernel_owned - filling <= BATCH,
            "the kernel owns {kernel_owned}, {filling} of them in the fill ring"
        );
    }
}

fn options() -> Options {
    Options { v4: Some(Ipv4Addr::new(10, 0, 1, 11)), ..Options::default() }
}

fn vip() -> IpAddr {
    VIP.into()
}

/// One socket on `guide0` that takes the VIP, and the far end.
fn bench(mtu: u32) -> Veth {
    veth(1, mtu);
    let (filter, mut sockets) = AfXdp::open("guide0", options()).unwrap();
    filter.set_vips(&[vip()]).unwrap();
    assert_eq!(sockets.len(), 1);
    Veth { io: sockets.remove(0), wire: PacketSocket::open("guide1"), _filter: filter }
}

fn received(io: &mut AfXdp, wait: Duration) -> Vec<Vec<u8>> {
    let mut seen = Vec::new();
    io.poll(wait, &mut |_, frames| seen.extend(frames.iter().map(|f| f.bytes().to_vec()))).unwrap();
    seen
}

#[test]
fn conforms() {
    testing::in_namespace(|| {
        let mut bench = bench(1600);
        assert!(!bench._filter.generic());
        conformance::all(&mut bench);
    });
}

#[test]
fn conforms_behind_the_driver_where_the_mtu_is_too_large_for_it() {
    testing::in_namespace(|| {
        let mut bench = bench(3800);
        assert!(bench._filter.generic());
        conformance::all(&mut bench);
    });
}

#[test]
fn vips_change_while_the_socket_is_open() {
    testing::in_namespace(|| {
        let mut bench = bench(1500);
        let frame = conformance::frame(1, 0, 60);
        bench.wire.send(&frame);
        assert_eq!(received(&mut bench.io, LONG), std::slice::from_ref(&frame));
        bench._filter.set_vips(&["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()]).unwrap();
        bench.wire.send(&frame);
        assert!(received(&mut bench.io, SHORT).is_empty(), "no VIP any more");
        bench._filter.set_vips(&[vip()]).unwrap();
        bench.wire.send(&frame);
        assert_eq!(received(&mut bench.io, LONG), [frame]);
        assert_eq!(bench.io.counts().lost_to_host, 0, "what the work did not touch was dropped, not handed over");
    });
}

#[test]
fn a_filter_has_room_for_all_old_and_all_new_vips_and_not_for_one_more() {
    testing::in_namespace(|| {
        veth(1, 1500);
        let (filter, _sockets) = AfXdp::open("guide0", Options { max_vips: 4, ..options() }).unwrap();
        let vips = |from: u8, count: u8| (from..from + count).map(|n| IpAddr::from([192, 0, 2, n])).collect::<Vec<_>>();
        filter.set_vips(&vips(0, 4)).unwrap();
        filter.set_vips(&vips(100, 4)).unwrap();
        filter.set_vips(&vips(0, 4)).unwrap();
        let error = filter.set_vips(&vips(0, 5)).unwrap_err().to_string();
        assert!(error.contains("5 VIPs") && error.contains("room for 4"), "{error}");
    });
}

#[test]
fn to_host_is_counted_as_lost() {
    testing::in_namespace(|| {
        let mut bench = bench(1500);
        bench.wire.send(&conformance::frame(1, 0, 60));
        let poll = bench.io.poll(LONG, &mut |_, frames| frames[0].verdict = Verdict::ToHost).unwrap();
        assert_eq!((poll.received, bench.io.counts().lost_to_host), (1, 1));
        IoFixture::check(&mut bench);
    });
}

#[test]
fn every_queue_has_its_socket_and_each_frame_comes_to_one() {
    testing::in_namespace(|| {
        veth(2, 1500);
        let (filter, mut sockets) = AfXdp::open("guide0", options()).unwrap();
        filter.set_vips(&[vip()]).unwrap();
        assert_eq!(sockets.len(), 2);
        let mut wire = PacketSocket::open("guide1");
        for seq in 0..200 {
            let mut frame = conformance::frame(seq, 0, 60);
            frame[29] = seq as u8;
            wire.send(&frame);
        }
        let mut seen = 0;
        for io in &mut sockets {
            while let more @ 1.. = received(io, SHORT).len() {
                seen += more;
            }
        }
        assert_eq!(seen, 200);
    });
}

/// Frames of so many flows, and how many of them `io` receives.
fn flows_received(io: &mut AfXdp, wire: &mut PacketSocket, flows: u8) -> usize {
    for flow in 0..flows {
        let mut frame = conformance::frame(1, 0, 60);
        frame[29] = flow;
        wire.send(&frame);
    }
    std::iter::from_fn(|| Some(received(io, SHORT).len()).filter(|more| *more > 0)).sum()
}

#[test]
fn a_changed_mac_address_gets_into_the_filter() {
    testing::in_namespace(|| {
        let mut bench = bench(1500);
        assert_eq!(bench._filter.renew().unwrap(), Renewed::default());
        ip("link set guide0 address 02:00:00:00:0b:0b");
        let old = conformance::frame(1, 0, 60);
        let mut new = old.clone();
        new[..6].copy_from_slice(&[2, 0, 0, 0, 0x0b, 0x0b]);
        bench.wire.send(&new);
        assert!(received(&mut bench.io, SHORT).is_empty(), "for the old address still");
        assert_eq!(bench._filter.renew().unwrap(), Renewed { mac: Some([2, 0, 0, 0, 0x0b, 0x0b]), ..Renewed::default() });
        bench.wire.send(&old);
        bench.wire.send(&new);
        assert_eq!(received(&mut bench.io, LONG), [new]);
        assert_eq!(bench._filter.renew().unwrap(), Renewed::default());
        ip("link del guide0");
        assert!(bench._filter.renew().is_err());
    });
}

#[test]
fn queues_that_are_added_get_sockets_and_their_frames_come_to_the_worker() {
    testing::in_namespace(|| {
        veth(3, 1500);
        run("ethtool", "-L guide1 tx 1");
        run("ethtool", "-L guide0 rx 1 tx 1");
        let (filter, mut workers) = AfXdp::open("guide0", options()).unwrap();
        filter.set_vips(&[vip()]).unwrap();
        let [io] = &mut workers[..] else { panic!("{} workers for one queue", workers.len()) };
        let mut wire = PacketSocket::open("guide1");
        assert_eq!(flows_received(io, &mut wire, 60), 60);
        run("ethtool", "-L guide0 rx 3");
        run("ethtool", "-L guide1 tx 3");
        let some = flows_received(io, &mut wire, 60);
        assert!((1..60).contains(&some), "{some} of 60: those of the new queues go to the kernel");
        assert_eq!(filter.renew().unwrap(), Renewed { queues: 2, ..Renewed::default() });
        assert_eq!(flows_received(io, &mut wire, 60), 60);
        assert_eq!(io.sockets.len(), 3);
        // They send, too, although the interface has fewer queues to send by.
        let mut sent = 0;
        for flow in 0..60 {
            let mut frame = conformance::frame(1, 0, 60);
            frame[29] = flow;
            wire.send(&frame);
            io.poll(LONG, &mut |_, frames| frames.iter_mut().for_each(|frame| frame.verdict = Verdict::Transmit)).unwrap();
            sent += usize::from(wire.receive(SHORT).is_some());
        }
        assert_eq!(sent, 60);
    });
}

#[test]
fn a_checksum_that_was_left_to_the_card_is_finished() {
    testing::in_namespace(|| {
        let mut bench = bench(1500);
        testing::client().send(b"a request").unwrap();
        let frames = received(&mut bench.io, LONG);
        assert!(testing::checksum_is_right(&frames[0]), "{frames:02x?}");
        assert_eq!(bench.io.counts().checksums_finished, 1);
    });
}

#[test]
fn a_slave_that_left_can_come_back() {
    testing::in_namespace(|| {
        let mut bench = bench(1500);
        bench._filter.close_ports(|_| true);
        assert_eq!(received(&mut bench.io, SHORT).len() + bench.io.sockets.len(), 0);
        assert_eq!(bench._filter.renew().unwrap(), Renewed { queues: 1, ..Renewed::default() });
        testing::client().send(b"a request").unwrap();
        assert_eq!(received(&mut bench.io, LONG).len(), 1);
    });
}

#[test]
fn a_slave_that_is_gone_leaves_the_others() {
    testing::in_namespace(|| {
        let mut bench = bench(1500);
        let ip = |command: &str| assert!(std::process::Command::new("ip").args(command.split(' ')).status().unwrap().success());
        ip("link add other0 type veth peer name other1");
        ip("link set other0 up");
        ip("link set other1 up");
        let (_filter, mut others) = AfXdp::open("other0", options()).unwrap();
        bench.io.sockets.append(&mut others[0].sockets);
        bench.io.sockets[1].counts.lost_to_host = 7;
        ip("link del other0");
        testing::client().send(b"a request").unwrap();
        let frames: usize = (0..3).map(|_| received(&mut bench.io, SHORT).len()).sum();
        assert_eq!((frames, bench.io.sockets.len(), bench.io.counts().lost_to_host), (1, 1, 7));
    });
}

#[test]
fn workers_share_queues_where_there_are_more_of_these() {
    testing::in_namespace(|| {
        veth(2, 1500);
        let (filter, mut workers) = AfXdp::open("guide0", Options { max_workers: 1, ..options() }).unwrap();
        filter.set_vips(&[vip()]).unwrap();
        assert_eq!(workers.len(), 1);
        assert_eq!(flows_received(&mut workers[0], &mut PacketSocket::open("guide1"), 60), 60);
    });
}

#[test]
fn what_the_rings_lost_is_known() {
    const SENT: u64 = 20_010;
    testing::in_namespace(|| {
        let mut bench = bench(1500);
        let frame = conformance::frame(1, 0, 60);
        for _ in 0..SENT {
            bench.wire.send(&frame);
        }
        let mut seen = 0;
        while let more @ 1.. = received(&mut bench.io, SHORT).len() {
            seen += more as u64;
        }
        let losses = bench.io.losses();
        assert_eq!(seen + losses.total(), SENT, "{losses:?}");
        assert!(seen >= 1000 && losses.get(Loss::RingFull) > 1000, "{seen} received, {losses:?}");
    });
}

#[test]
fn a_queue_is_free_again_at_once_and_the_filter_gone() {
    testing::in_namespace(|| {
        veth(1, 1500);
        for _ in 0..3 {
            let opened = AfXdp::open("guide0", options()).unwrap();
            let error = AfXdp::open("guide0", options()).unwrap_err();
            assert!(matches!(error, Error::Attached { .. }), "{error}");
            drop(opened);
        }
        // A child that another test is just starting may hold the descriptors for a moment longer.
        assert!((0..200).any(|_| !ip("link show guide0").contains("xdp")), "the filter is still there");
    });
}

/// A process of its own: in one with interfaces of one number in several namespaces nobody can tell whose link is which.
#[test]
fn a_program_in_the_way_is_named_with_what_detaches_it() {
    testing::in_own_process("af_xdp::tests::a_program_in_the_way_is_named_with_what_detaches_it", a_program_in_the_way);
}

fn a_program_in_the_way() {
    testing::in_namespace(|| {
        veth(1, 1500);
        let (first, _sockets) = AfXdp::open("guide0", options()).unwrap();
        let error = AfXdp::open("guide0", options()).unwrap_err();
        let Error::Attached { holder: Some(Holder { link, pid, .. }), .. } = error else { panic!("{error}") };
        assert_eq!(pid, std::process::id());
        assert!(error.to_string().contains(&format!("bpftool link detach id {link}")), "{error}");
        // The command helps, and the first director finds out.
        bpf::Link::detach_by_id(link).unwrap();
        assert_eq!(first.renew().unwrap(), Renewed { attached: true, ..Renewed::default() });
        assert!(matches!(AfXdp::open("guide0", options()), Err(Error::Attached { .. })));
        let error = Error::Attached { interface: "guide0".into(), holder: None }.to_string();
        drop(first);
        let commands = error.split('`').nth(3).unwrap();
        for command in commands.split(" && ") {
            ip(command.strip_prefix("ip ").unwrap());
        }
    });
}

#[test]
fn an_interface_that_is_down_may_come_back_and_one_that_is_gone_is_an_error() {
    testing::in_namespace(|| {
        let mut bench = bench(1500);
        ip("link set guide0 down");
        let frame = conformance::frame(1, 0, 60);
        assert!(bench.io.send(&frame).unwrap());
        assert_eq!(bench.io.poll(SHORT, &mut |_, _| ()).unwrap(), PollResult::default());
        testing::up();
        bench.wire = PacketSocket::open("guide1");
        bench.wire.send(&frame);
        assert_eq!(received(&mut bench.io, LONG), [frame]);
        ip("link del guide0");
        let error = bench.io.poll(SHORT, &mut |_, _| ()).unwrap_err().to_string();
        assert!(error.contains("gone"), "{error}");
    });
}

#[test]
fn a_queue_of_another_socket_is_said_to_be_busy() {
    testing::in_namespace(|| {
        veth(1, 1500);
        let interface = Interface::by_name("guide0").unwrap();
        let _first = setup::open_queue(&interface, 0, 2048, false).unwrap();
        let error = setup::open_queue(&interface, 0, 2048, false).unwrap_err();
        assert!(matches!(error, Error::Busy { queue: 0, .. }), "{error}");
    });
}

#[test]
fn tagged_frames_come_and_go_with_their_tag() {
    testing::in_namespace(|| {
        let mut bench = bench(1500);
        let plain = conformance::frame(1, 0, 60);
        let tagged = [&plain[..12], &[0x81, 0x00, 0x60, 0x2a], &plain[12..]].concat();
        bench.wire.send(&tagged);
        assert_eq!(received(&mut bench.io, LONG), [tagged]);
    });
}

#[test]
fn what_finds_no_room_while_the_link_is_down_is_counted_and_the_rest_goes_out_later() {
    testing::in_namespace(|| {
        let mut bench = bench(1500);
        // Received and left in the ring, so that there is something to transmit once the link is down.
        for seq in 0..1000 {
            bench.wire.send(&conformance::frame(seq, 0, 60));
        }
        ip("link set guide0 down");
        let own = conformance::frame(7, 0, 60);
        let mut sent = 0;
        while bench.io.sockets[0].transmit.room().unwrap() > 0 && bench.io.send(&own).unwrap() {
            sent += 1;
            bench.io.sockets[0].kick().unwrap();
        }
        assert!(sent >= socket::RESERVED_CHUNKS, "{sent} of our own");
        let mut sum = PollResult::default();
        while sum.received < 1000 {
            let poll = bench.io.poll(SHORT, &mut |_, frames| frames.iter_mut().for_each(|f| f.verdict = Verdict::Transmit)).unwrap();
            assert!(poll.received > 0, "{sum:?}");
            sum.received += poll.received;
            sum.transmit_full += poll.transmit_full;
        }
        testing::up();
        bench.wire = PacketSocket::open("guide1");
        bench.io.poll(SHORT, &mut |_, _| ()).unwrap();
        let mut out = 0;
        while bench.wire.receive(SHORT).is_some() {
            out += 1;
            bench.io.poll(Duration::ZERO, &mut |_, _| ()).unwrap();
        }
        assert_eq!(out, sent + sum.received - sum.transmit_full);
        IoFixture::check(&mut bench);
    });
}

#[test]
fn errors_say_what_to_do() {
    let error = AfXdp::open("no-such-if", options()).unwrap_err().to_string();
    assert!(error.contains("no-such-if") && error.contains("ip link"), "{error}");
    testing::in_namespace(|| {
        veth(1, 9000);
        let error = AfXdp::open("guide0", options()).unwrap_err().to_string();
        assert!(error.contains("9000") && error.contains("3822"), "{error}");
        ip("link set guide0 mtu 1500");
        testing::drop_capabilities();
        let error = AfXdp::open("guide0", options()).unwrap_err().to_string();
        assert!(["CAP_NET_ADMIN", "CAP_BPF", "CAP_NET_RAW"].iter().all(|c| error.contains(c)), "{error}");
    });
}

#[test]
fn the_capabilities_that_the_error_names_are_enough() {
    const NET_ADMIN: u32 = 12;
    const NET_RAW: u32 = 13;
    const IPC_LOCK: u32 = 14;
    const BPF: u32 = 39;
    testing::in_namespace(|| {
        veth(1, 1500);
        testing::keep_capabilities(&[NET_ADMIN, NET_RAW, IPC_LOCK, BPF]);
        AfXdp::open("guide0", options()).unwrap();
    });
}

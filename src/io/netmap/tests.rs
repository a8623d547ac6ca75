use super::*;
use crate::conformance::{self, IoFixture as _, frame};
use guideway_packet::verdict::Reason;
use netmap_rings::simulated::Simulated;

const LONG: Duration = Duration::from_secs(5);

fn interface(mtu: u32) -> Interface {
    // Index 1 is the loopback: an interface that exists, whose errors may pass.
    Interface { name: "sim0".into(), index: 1, mac: conformance::LOCAL_MAC, mtu, rx_queues: 1, max_rx_queues: 1, tx_queues: 1 }
}

struct Bench {
    network: Simulated,
    io: Netmap,
}

fn bench(slots: u32) -> Bench {
    let network = Simulated::interface(1, slots);
    let (card, host) = (network.open("sim0-0").unwrap(), network.open("sim0^").unwrap());
    let io = Netmap::new(card, Some(host), &interface(1500)).unwrap();
    Bench { network, io }
}

impl conformance::IoFixture for Bench {
    fn io(&mut self) -> &mut dyn Io {
        &mut self.io
    }

    fn inject(&mut self, frame: &[u8]) {
        self.network.inject(0, frame);
    }

    fn take_transmitted(&mut self) -> Option<Vec<u8>> {
        self.network.take_transmitted().map(|(_, frame)| frame)
    }

    fn check(&mut self) {
        assert!(self.network.buffers_are_unique());
        while self.network.host_receive().is_some() {}
    }
}

fn all(verdict: Verdict) -> impl FnMut(Time, &mut [Frame<'_>]) {
    move |_, frames| frames.iter_mut().for_each(|frame| frame.verdict = verdict)
}

#[test]
fn passes_the_conformance_test() {
    for slots in [1024, 128] {
        conformance::all(&mut bench(slots));
    }
}

#[test]
fn the_interface_keeps_its_addresses() {
    let mut bench = bench(64);
    // More than the rings have slots, so that they wrap.
    for seq in 0..500 {
        let (ours, theirs) = (frame(seq, 0, 60), frame(!seq, 0, 77));
        bench.network.inject(0, &ours);
        bench.network.host_send(&theirs);
        let poll = bench.io.poll(LONG, &mut all(Verdict::ToHost)).unwrap();
        assert_eq!(poll, PollResult { received: 1, ..PollResult::default() });
        assert_eq!(bench.network.host_receive(), Some(ours));
        assert_eq!(bench.take_transmitted(), Some(theirs));
    }
    assert_eq!((bench.io.counts().from_host, bench.io.counts().lost_to_host), (500, 0));
    assert!(bench.io.shares_memory_with_host());
    bench.check();
}

#[test]
fn the_host_alone_is_served_asleep_and_under_load() {
    let mut bench = bench(64);
    bench.network.host_send(&frame(1, 0, 60));
    assert_eq!(bench.io.poll(LONG, &mut |_, _| panic!("nothing for the path")).unwrap(), PollResult::default());
    assert_eq!(bench.take_transmitted(), Some(frame(1, 0, 60)));
    bench.network.host_send(&frame(2, 0, 60));
    let mut turns = 0;
    while bench.take_transmitted().is_none() {
        bench.inject(&frame(3, 1, 60));
        assert_eq!(bench.io.poll(Duration::ZERO, &mut all(Verdict::Drop(Reason::NotVip))).unwrap().received, 1);
        turns += 1;
    }
    assert!(turns <= HOST_POLL_INTERVAL, "{turns} turns");
}

#[test]
fn what_the_host_has_no_room_for_is_counted() {
    let mut bench = bench(8);
    bench.network.set_tx_stalled(true);
    for seq in 0..9 {
        bench.inject(&frame(seq, 0, 60));
        bench.io.poll(LONG, &mut all(Verdict::ToHost)).unwrap();
    }
    assert_eq!(bench.io.counts().lost_to_host, 2, "7 of 9 found room");
    bench.network.set_tx_stalled(false);
    bench.inject(&frame(9, 0, 60));
    bench.io.poll(LONG, &mut all(Verdict::ToHost)).unwrap();
    bench.io.host.as_ref().unwrap().sync_tx().unwrap();
    bench.inject(&frame(10, 0, 60));
    bench.io.poll(LONG, &mut all(Verdict::ToHost)).unwrap();
    assert_eq!(std::iter::from_fn(|| bench.network.host_receive()).last(), Some(frame(10, 0, 60)));
}

#[test]
fn what_finds_no_room_to_leave_is_counted_and_the_host_waits() {
    let mut bench = bench(8);
    bench.network.set_tx_stalled(true);
    for seq in 0..9 {
        bench.inject(&frame(seq, 0, 60));
    }
    bench.network.host_send(&frame(99, 0, 60));
    let mut sum = PollResult::default();
    while sum.received < 9 {
        let poll = bench.io.poll(LONG, &mut all(Verdict::Transmit)).unwrap();
        (sum.received, sum.transmit_full) = (sum.received + poll.received, sum.transmit_full + poll.transmit_full);
    }
    assert_eq!(sum.transmit_full as u64 + 7, 9 + bench.io.counts().from_host);
    assert!(!bench.io.send(&frame(98, 0, 60)).unwrap());
    bench.network.set_tx_stalled(false);
    assert!(bench.io.send(&frame(98, 0, 60)).unwrap());
    for _ in 0..=HOST_POLL_INTERVAL {
        bench.io.poll(Duration::ZERO, &mut |_, _| ()).unwrap();
    }
    assert_eq!((bench.io.counts().from_host, std::iter::from_fn(|| bench.take_transmitted()).count()), (1, 9 - sum.transmit_full + 2));
    bench.check();
}

#[test]
fn a_host_that_sends_more_than_there_is_room_for_does_not_keep_the_worker_awake() {
    let mut bench = bench(8);
    bench.network.set_tx_stalled(true);
    for seq in 0..10 {
        bench.network.host_send(&frame(seq, 0, 60));
    }
    while bench.io.counts().from_host < 7 {
        bench.io.poll(LONG, &mut |_, _| panic!("nothing for the path")).unwrap();
    }
    // The transmit ring is full, and more waits in the host's.
    let (wait, before) = (Duration::from_millis(30), std::time::Instant::now());
    bench.io.poll(wait, &mut |_, _| panic!("nothing for the path")).unwrap();
    assert!(before.elapsed() >= wait, "it slept");
    bench.network.set_tx_stalled(false);
    while bench.io.counts().from_host < 10 {
        bench.io.poll(LONG, &mut |_, _| panic!("nothing for the path")).unwrap();
    }
    bench.check();
}

#[test]
fn workers_without_host_rings_have_the_kernel_pass_frames_up() {
    let network = Simulated::interface(2, 64);
    let io = |ring: &str| Netmap::new(network.open(ring).unwrap(), None, &interface(1500)).unwrap();
    let mut workers = [io("sim0-0"), io("sim0-1")];
    network.inject(1, &frame(1, 0, 60));
    network.inject(1, &frame(2, 0, 60));
    let poll = workers[1].poll(LONG, &mut |_, frames| {
        frames[0].verdict = Verdict::ToHost;
        frames[1].verdict = Verdict::Transmit;
    });
    assert_eq!(poll.unwrap().received, 2);
    assert_eq!(network.take_transmitted(), Some((1, frame(2, 0, 60))), "by its own ring");
    workers[1].poll(Duration::ZERO, &mut |_, _| ()).unwrap();
    assert_eq!((network.host_receive(), network.host_receive()), (Some(frame(1, 0, 60)), None));
    assert_eq!(workers[0].poll(Duration::ZERO, &mut |_, _| panic!("another's")).unwrap().received, 0);
}

#[test]
fn ports_of_two_regions_are_copied_between() {
    let (wire, stack) = (Simulated::interface(1, 64), Simulated::interface(1, 64));
    let mut io = Netmap::new(wire.open("sim0").unwrap(), Some(stack.open("sim0").unwrap()), &interface(1500)).unwrap();
    assert!(!io.shares_memory_with_host());
    wire.inject(0, &frame(1, 0, 60));
    io.poll(Duration::ZERO, &mut all(Verdict::ToHost)).unwrap();
    assert_eq!(stack.take_transmitted(), Some((0, frame(1, 0, 60))));
    stack.inject(0, &frame(2, 0, 61));
    for _ in 0..HOST_POLL_INTERVAL {
        io.poll(Duration::ZERO, &mut |_, _| ()).unwrap();
    }
    assert_eq!(wire.take_transmitted(), Some((0, frame(2, 0, 61))));
}

#[test]
fn a_ring_of_frames_costs_one_look() {
    let mut bench = bench(1024);
    for seq in 0..1000 {
        bench.inject(&frame(seq, 0, 60));
    }
    let (mut received, mut sent) = (0, 0);
    while received < 1000 {
        received += bench.io.poll(Duration::ZERO, &mut all(Verdict::Transmit)).unwrap().received;
    }
    while bench.take_transmitted().is_some() {
        sent += 1;
    }
    assert_eq!((received, sent, bench.io.counts().rx_syncs), (1000, 1000, 1));
    assert_eq!(bench.io.counts().poll_waits, 0);
    bench.io.poll(Duration::from_millis(1), &mut |_, _| ()).unwrap();
    assert_eq!(bench.io.counts().poll_waits, 1);
    let mut counters = Vec::new();
    bench.io.for_each_counter(&mut |name, count| counters.push((name, count)));
    assert_eq!(
        counters,
        [("rx_syncs", 1), ("poll_waits", 1), ("from_host", 0), ("lost_to_host", 0), ("unreadable", 0), ("checksums_finished", 0)]
    );
}

#[test]
fn long_frames_are_counted_and_a_lying_kernel_is_an_error() {
    use netmap_rings::simulated::{RingKind, RingWord};
    let mut bench = bench(64);
    bench.inject(&frame(1, 0, 4000));
    bench.inject(&frame(2, 0, 60));
    let poll = bench.io.poll(LONG, &mut all(Verdict::Transmit)).unwrap();
    assert_eq!((poll.received, bench.io.counts().bad_frames), (1, 1));
    bench.network.set_manual(true);
    bench.network.poke(RingKind::Rx, 0, RingWord::Tail, 64);
    let error = bench.io.poll(LONG, &mut |_, _| ()).unwrap_err().to_string();
    assert!(error.contains("tail is 64"), "{error}");
}

#[test]
fn an_mtu_beyond_the_buffers_is_refused() {
    let network = Simulated::interface(1, 8);
    let error = Netmap::new(network.open("sim0").unwrap(), None, &interface(9000)).unwrap_err().to_string();
    assert!(error.contains("mtu 1966") && error.contains("buf_size"), "{error}");
    assert!(Netmap::new(network.open("sim0").unwrap(), None, &interface(1966)).is_ok());
}

#[test]
fn without_the_module_that_is_what_is_said() {
    if std::path::Path::new("/dev/netmap").exists() {
        println!("not run: there is a /dev/netmap");
        return;
    }
    let error = Netmap::open(&Interface { name: "lo".into(), ..interface(1500) }).unwrap_err().to_string();
    assert!(error.contains("modprobe netmap"), "{error}");
}

//! What a director forwards over AF_XDP on a veth pair with one core. Beside it a forwarder on the same rings that only swaps the MAC addresses.
//!
//! A burst of frames from the other end of the pair stands in the receive ring before the clock starts, and the clock stops when all of it is sent. So the
//! generator costs neither of them anything, and one core is enough for both. Needs root; everything is in two namespaces that end with the program.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[allow(dead_code)] // What only the benchmarks of the path need.
mod fixture;
mod paired;

use criterion::{Criterion, criterion_group, criterion_main};
use fixture::{Batch, Kind, MTU};
use guideway_dataplane::path::State;
use guideway_dataplane::poll::poll;
use guideway_dataplane::tables::Snapshot;
use guideway_host::error::{Context, Error};
use guideway_host::netlink::Netlink;
use guideway_host::netns::Namespace;
use guideway_io::af_packet::AfPacket;
use guideway_io::af_xdp::{AfXdp, FilterHandle, Options};
use guideway_packet::io::Io;
use guideway_packet::verdict::Verdict;
use paired::Unit;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Frames of one burst; there is room for twice as many in the receive ring.
const BURST: usize = 1024;
const FLOWS: u64 = 1024;
/// Payload of a frame of 64 bytes before the router wraps it.
const SMALL: usize = 64 - 14 - 20 - 8 - 4;
/// Longer than any burst can take on a machine that works.
const LONG: Duration = Duration::from_secs(5);
const PACKET: Unit = Unit { name: "ns/packet", nanoseconds: BURST as f64, elements: BURST as u64 };

/// The far end is neither the router nor a backend: whatever comes back there is for somebody else, and its kernel drops it at once.
const FAR: [u8; 6] = [2, 0, 0, 0, 9, 9];

type Cache = arc_swap::Cache<Arc<arc_swap::ArcSwap<Snapshot>>, Arc<Snapshot>>;

struct Fixture {
    far: Namespace,
    generator: AfPacket,
    frames: Vec<Vec<u8>>,
    io: AfXdp,
    tables: Cache,
    state: State,
    sent: usize,
    bursts: usize,
    _filter: FilterHandle,
}

impl Fixture {
    fn new() -> Result<Fixture, Error> {
        let [near, far] = ["the director", "the far end"].map(Namespace::new);
        let (near, far) = (near?, far?);
        for namespace in [&near, &far] {
            // Router solicitations and the like would mix with the frames.
            namespace.sysctl("ipv6/conf/default/disable_ipv6", "1")?;
        }
        Netlink::in_namespace(&near, |netlink| {
            netlink.add_veth("near0", "far")?;
            netlink.set_mac("near0", fixture::DIRECTOR)?;
            netlink.set_mtu("near0", MTU.into())?;
            netlink.move_to_namespace("far", &far, "far0")?;
            netlink.set_up("near0", true)
        })?;
        Netlink::in_namespace(&far, |netlink| {
            netlink.set_mac("far0", FAR)?;
            netlink.set_mtu("far0", MTU.into())?;
            netlink.set_up("far0", true)
        })?;
        let options = Options { v4: Some([10, 0, 1, 11].into()), ..Options::default() };
        let (filter, mut sockets) = near.run(|| AfXdp::open("near0", options).with_context(|| "opening AF_XDP".to_owned()))?;
        filter.set_vips(&[[192, 0, 2, 53].into()]).with_context(|| "telling the filter the VIP".to_owned())?;
        let generator = far.run(|| AfPacket::open("far0", 1).with_context(|| "opening AF_PACKET".to_owned()))?.remove(0);
        let mut batch = Batch::new(Kind::V4, FLOWS, SMALL);
        let mut frames = Vec::new();
        while frames.len() < BURST {
            batch.fill();
            frames.extend(batch.frames().iter().map(|frame| frame.bytes().to_vec()));
        }
        let tables = arc_swap::Cache::new(Arc::new(arc_swap::ArcSwap::from_pointee(fixture::tables())));
        let state = State::new(1 << 16, MTU);
        let mut fixture = Fixture { far, generator, frames, io: sockets.remove(0), tables, state, sent: 0, bursts: 0, _filter: filter };
        fixture.wait_for_link();
        Ok(fixture)
    }

    /// Waits until the queues of the pair run, which is a moment after the link is set up.
    fn wait_for_link(&mut self) {
        let begun = Instant::now();
        while begun.elapsed() < LONG {
            let _ = self.generator.send(&self.frames[0]);
            if self.bare(Duration::from_millis(10)) > 0 {
                while self.bare(Duration::from_millis(10)) > 0 {}
                return;
            }
        }
        panic!("no frame comes through the veth pair");
    }

    fn bare(&mut self, wait: Duration) -> usize {
        let poll = self.io.poll(wait, &mut |_, frames| {
            for frame in frames {
                if let Some((destination, source)) = frame.bytes_mut().get_mut(..12).and_then(|macs| macs.split_at_mut_checked(6)) {
                    destination.swap_with_slice(source);
                    frame.verdict = Verdict::Transmit;
                }
            }
        });
        let poll = poll.expect("AF_XDP works");
        assert_eq!(poll.transmit_full, 0);
        self.sent += poll.received;
        poll.received
    }

    fn director(&mut self) -> usize {
        let (poll, _) = poll(&mut self.io, &mut self.state, Duration::ZERO, &mut self.tables).expect("AF_XDP works");
        assert_eq!((poll.transmit_full, self.state.counters.total_dropped()), (0, 0));
        self.sent += poll.received;
        poll.received
    }

    fn burst(&mut self, forward: impl Fn(&mut Fixture) -> usize) -> Duration {
        for frame in &self.frames {
            assert!(self.generator.send(frame).expect("AF_PACKET works"), "the far end has room for a frame");
        }
        let start = Instant::now();
        let mut received = 0;
        while received < BURST {
            let more = forward(self);
            received += more;
            assert!(more > 0 || start.elapsed() < LONG, "{received} of {BURST} frames came");
        }
        start.elapsed()
    }

    /// Frames that the far end has received, as its kernel counts them.
    fn came_back(&self) -> usize {
        let read = || std::fs::read_to_string("/proc/thread-self/net/dev").with_context(|| "reading the counters".to_owned());
        let counters = self.far.run(read).expect("its namespace is there");
        let line = counters.lines().find_map(|line| line.trim_start().strip_prefix("far0:")).expect("it has its interface");
        line.split_whitespace().nth(1).and_then(|packets| packets.parse().ok()).expect("the second number is that of packets")
    }
}

fn rows(c: &mut Criterion) {
    if !nix::unistd::geteuid().is_root() {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "this benchmark needs root, and CI promised it");
        println!("SKIPPED: needs root");
        return;
    }
    let mut group = c.benchmark_group("io");
    paired::row(
        &mut group,
        "af_xdp",
        PACKET,
        || Fixture::new().unwrap_or_else(|error| panic!("{error}")),
        |fixture| {
            let (bare, director) = (fixture.burst(|w| w.bare(Duration::ZERO)), fixture.burst(Fixture::director));
            fixture.bursts += 1;
            if fixture.bursts.is_power_of_two() {
                assert_eq!(fixture.came_back(), fixture.sent, "everything that was forwarded left by the veth pair");
            }
            (director, Some(bare))
        },
    );
    group.finish();
}

criterion_group!(benches, rows);
criterion_main!(benches);

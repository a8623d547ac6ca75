//! Several workers of one director: fragments and ICMP errors come by another receive queue than the whole packets of their flow, and go to its backend.

use super::fixture::*;
use crate::path::{Shared, State, run};
use guideway_packet::frame::{Frame, HEADROOM};
use guideway_packet::verdict::Verdict;
use guideway_packet::wire::build::{self, Packet};
use std::net::IpAddr;
use std::sync::Arc;

/// Workers that share the tables of a fixture.
struct Workers {
    fixture: Fixture,
    states: Vec<State>,
}

impl Workers {
    fn new() -> Workers {
        let (fixture, shared) = (Fixture::new(), Shared::new(3));
        let state = |worker| {
            let mut state = State::new(4096, MTU);
            state.share(worker, &shared);
            state
        };
        Workers { fixture, states: (0..3).map(state).collect() }
    }

    /// Runs a packet at a worker. Returns the backends that it and what it released went to.
    fn packet(&mut self, worker: usize, packet: &Packet) -> Vec<IpAddr> {
        let bytes = in_gre(packet, 0);
        let mut buffer = [&[0; HEADROOM][..], &bytes].concat();
        let mut frames = [Frame::new(&mut buffer, HEADROOM, bytes.len())];
        run(&mut frames, &self.fixture.tables, &mut self.states[worker], self.fixture.now);
        let own = (frames[0].verdict == Verdict::Transmit).then(|| frames[0].bytes().to_vec());
        let mut sent: Vec<Vec<u8>> = own.into_iter().collect();
        self.states[worker].drain_outbox(|frame, _| {
            sent.push(frame.to_vec());
            true
        });
        assert!(self.states[worker].counters.balanced());
        sent.iter().map(|frame| super::fixture::sent(frame).outer.destination).collect()
    }

    /// The order of backends changes, so that half of all new flows go elsewhere than before.
    fn change_tables(&mut self) {
        for service in &mut self.fixture.tables.services {
            let mut pool = (*service.pool).clone();
            pool.members.reverse();
            service.pool = Arc::new(pool);
        }
    }
}

fn datagram(vip: &str, port: u16) -> Vec<Packet> {
    build::udp(socket(client_of(vip), port), socket(vip, 53), &[7; 300]).fragments(port.into(), 120)
}

fn error(vip: &str, port: u16) -> Packet {
    let quoted = build::udp(socket(vip, 53), socket(client_of(vip), port), b"answer");
    let kind = if ip(vip).is_ipv4() { (3, 4) } else { (2, 0) };
    build::icmp(ip(client_of(vip)), ip(vip), kind.0, kind.1, &[&[0; 4], quoted.bytes()].concat())
}

#[test]
fn fragments_and_errors_follow_the_flow_of_another_worker_across_a_change() {
    let mut workers = Workers::new();
    let ports = 2000..2100;
    let backends: Vec<IpAddr> = ports.clone().map(|port| workers.packet(0, &query(DNS[usize::from(port % 2)], port))[0]).collect();
    workers.change_tables();
    for (port, backend) in ports.zip(backends) {
        let vip = DNS[usize::from(port % 2)];
        assert_eq!(workers.packet(1, &error(vip, port)), [backend], "{port}");
        for fragment in datagram(vip, port) {
            assert_eq!(workers.packet(2, &fragment), [backend], "{port}");
        }
        assert_eq!(workers.packet(0, &query(vip, port)), [backend]);
    }
}

#[test]
fn whole_packets_follow_a_flow_that_a_fragment_opened_at_another_worker() {
    let mut workers = Workers::new();
    let opened: Vec<IpAddr> = (2000..2100).map(|port| workers.packet(1, &datagram(DNS[0], port)[0])[0]).collect();
    workers.change_tables();
    for (port, backend) in (2000..2100).zip(opened) {
        assert_eq!(workers.packet(0, &query(DNS[0], port)), [backend], "{port}");
    }
}

#[test]
fn fragments_of_a_datagram_may_come_to_different_workers_in_any_order() {
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let mut workers = Workers::new();
        let fragments = datagram(DNS[0], 2000);
        let mut sent = Vec::new();
        for (worker, at) in order.into_iter().enumerate() {
            sent.extend(workers.packet(worker, &fragments[at]));
        }
        // Workers that hold something poll again soon.
        for state in &mut workers.states {
            crate::path::release_known(&workers.fixture.tables, state, workers.fixture.now);
            state.drain_outbox(|frame, _| {
                sent.push(super::fixture::sent(frame).outer.destination);
                true
            });
            assert!(!state.holds_fragments());
        }
        assert!(sent.len() == 3 && sent.iter().all(|backend| *backend == sent[0]), "{order:?}: {sent:?}");
    }
}

use super::fixture::*;
use crate::path::draining::FlowKey;
use guideway_packet::verdict::Verdict;
use guideway_packet::wire::build;
use std::time::Duration;

/// What was seen, by client port and server port.
fn seen(fixture: &Fixture) -> Vec<(u16, u16, u64)> {
    let mut seen: Vec<_> = fixture
        .state
        .draining_flows
        .active_within(Duration::from_secs(10))
        .iter()
        .map(|l| {
            let FlowKey { client_port, server_port, .. } = l.flow_key;
            (client_port, server_port, l.packets)
        })
        .collect();
    seen.sort_unstable();
    seen
}

#[test]
fn only_packets_to_draining_backends_are_recorded_and_both_paths_record_the_same() {
    for family in 0..2 {
        let mut fixture = Fixture::new();
        let (client, vip) = (CLIENT[family], BOOT[family]);
        let acknowledgement =
            |port: u16, server: u16| guideway_packet::wire::build::udp(socket(client, port), socket(vip, server), &[0, 4, 0, 1]);
        let arrive = |fixture: &mut Fixture, packet: &guideway_packet::wire::build::Packet| {
            let outcome = fixture.frame(&packet.gre(ip(ROUTER[family]), ip(DIRECTOR[family])).frame(ROUTER_MAC, DIRECTOR_MAC));
            assert_eq!(outcome.verdict, guideway_packet::verdict::Verdict::Transmit);
        };
        arrive(&mut fixture, &acknowledgement(4000, 20_001));
        assert_eq!(seen(&fixture), [], "it gets new flows, and nothing is recorded");
        fixture.tables.backends[0].as_mut().unwrap().draining = true;
        arrive(&mut fixture, &acknowledgement(4000, 20_001));
        arrive(&mut fixture, &acknowledgement(4000, 20_001));
        arrive(&mut fixture, &acknowledgement(4001, 21_001));
        assert_eq!(seen(&fixture), [(4000, 20_001, 2)], "t6 is not draining");
        // A first fragment takes the slow path, which sees the same transfer.
        let long = guideway_packet::wire::build::udp(socket(client, 4000), socket(vip, 20_001), &[&[0, 3, 0, 1][..], &[7; 300]].concat());
        arrive(&mut fixture, &long.fragments(7, 104)[0]);
        assert_eq!(seen(&fixture), [(4000, 20_001, 3)]);
        let line = fixture.state.draining_flows.active_within(Duration::from_secs(10))[0].flow_key;
        assert_eq!((line.client, line.vip, line.protocol, line.backend), (ip(client), ip(vip), 17, 0));
    }
}

#[test]
fn a_connection_that_opens_leaves_a_drained_backend_and_running_ones_stay() {
    const RST: u8 = 4;
    const SYN: u8 = 2;
    const SYN_ACK: u8 = 0x12;
    for family in 0..2 {
        // With options the slow path takes it.
        for options in [&[][..], &[1, 1, 1, 0]] {
            let mut fixture = Fixture::new();
            let arrive = |fixture: &mut Fixture, port: u16, flags: u8| {
                let packet = build::tcp(socket(CLIENT[family], port), socket(DNS[family], 53), flags, b"");
                let packet = if family == 0 { packet.options(options) } else { packet.extension(60, &[0, 1, 4, 0, 0, 0, 0]) };
                let outcome = fixture.gre(&packet, 0);
                assert_eq!(outcome.verdict, Verdict::Transmit);
                sent(&outcome.frame).mac[5]
            };
            let ports = 4000..4020;
            let before: Vec<u8> = ports.clone().map(|port| arrive(&mut fixture, port, SYN)).collect();
            let drained = before[0];
            let other = if drained == DNS_BACKENDS[0] { DNS_BACKENDS[1] } else { DNS_BACKENDS[0] };
            fixture.drain("dns", drained.into());
            for (port, backend) in ports.clone().zip(&before) {
                assert_eq!(arrive(&mut fixture, port, 0x10), *backend, "a running connection");
                assert_eq!(arrive(&mut fixture, port, SYN_ACK), *backend, "it opens nothing");
                assert_eq!(arrive(&mut fixture, port, RST), *backend, "nor does its end");
            }
            for port in ports {
                assert_eq!(arrive(&mut fixture, port, SYN), other, "a new connection on the ports of the old one");
                assert_eq!(arrive(&mut fixture, port, SYN), other, "its retransmission");
                assert_eq!(arrive(&mut fixture, port, 0x10), other, "and what follows");
            }
        }
    }
}

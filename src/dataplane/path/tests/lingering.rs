use super::world::*;
use crate::path::lingering::Conversation;
use std::time::Duration;

/// What was seen, by client port and server port.
fn seen(world: &World) -> Vec<(u16, u16, u64)> {
    let mut seen: Vec<_> = world
        .state
        .lingering
        .within(Duration::from_secs(10))
        .iter()
        .map(|l| {
            let Conversation { client_port, server_port, .. } = l.conversation;
            (client_port, server_port, l.packets)
        })
        .collect();
    seen.sort_unstable();
    seen
}

#[test]
fn only_packets_to_watched_backends_are_noted_and_both_ways_note_the_same() {
    for family in 0..2 {
        let mut world = World::new();
        let (client, vip) = (CLIENT[family], BOOT[family]);
        let acknowledgement =
            |port: u16, server: u16| guideway_packet::wire::build::udp(socket(client, port), socket(vip, server), &[0, 4, 0, 1]);
        let arrive = |world: &mut World, packet: &guideway_packet::wire::build::Packet| {
            let outcome = world.frame(&packet.gre(ip(ROUTER[family]), ip(DIRECTOR[family])).frame(ROUTER_MAC, DIRECTOR_MAC));
            assert_eq!(outcome.verdict, guideway_packet::verdict::Verdict::Transmit);
        };
        arrive(&mut world, &acknowledgement(4000, 20_001));
        assert_eq!(seen(&world), [], "it gets new flows, and nobody looks");
        world.tables.backends[0].as_mut().unwrap().watched = true;
        arrive(&mut world, &acknowledgement(4000, 20_001));
        arrive(&mut world, &acknowledgement(4000, 20_001));
        arrive(&mut world, &acknowledgement(4001, 21_001));
        assert_eq!(seen(&world), [(4000, 20_001, 2)], "t6 is not watched");
        // A first fragment takes the long way, which sees the same transfer.
        let long = guideway_packet::wire::build::udp(socket(client, 4000), socket(vip, 20_001), &[&[0, 3, 0, 1][..], &[7; 300]].concat());
        arrive(&mut world, &long.fragments(7, 104)[0]);
        assert_eq!(seen(&world), [(4000, 20_001, 3)]);
        let line = world.state.lingering.within(Duration::from_secs(10))[0].conversation;
        assert_eq!((line.client, line.vip, line.protocol, line.backend), (ip(client), ip(vip), 17, 0));
    }
}

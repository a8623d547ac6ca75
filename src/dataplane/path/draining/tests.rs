use super::*;
use crate::path::tests::fixture::Fixture;

fn tables() -> Snapshot {
    Fixture::new().tables
}

fn flow_key(number: u32, v6: bool) -> FlowKey {
    let (client, vip) = if v6 {
        (IpAddr::V6(Ipv6Addr::from_bits(0x2001 << 112 | u128::from(number))), "2001:db8::69".parse().unwrap())
    } else {
        (IpAddr::V4(Ipv4Addr::from_bits(0xc600_0000 | number)), "192.0.2.69".parse().unwrap())
    };
    FlowKey { client, client_port: number as u16, vip, server_port: 20_000, protocol: 17, backend: 65_000 }
}

#[test]
fn what_was_seen_is_shown_until_it_was_quiet_for_long_enough() {
    let (draining_flows, tables) = (DrainingFlows::default(), tables());
    let second = 1_000_000_000;
    for (number, v6, at) in [(1, false, 0), (2, true, second), (1, false, 2 * second)] {
        draining_flows.write(&flow_key(number, v6), &tables, Time(at));
    }
    draining_flows.tick(Time(3 * second));
    let mut seen = draining_flows.active_within(Duration::from_secs(10));
    seen.sort_by_key(|l| l.idle);
    let slot = |number, v6, idle, packets| DrainingFlow { flow_key: flow_key(number, v6), idle: Duration::from_secs(idle), packets };
    assert_eq!(seen, [slot(1, false, 1, 2), slot(2, true, 2, 1)]);
    assert_eq!(draining_flows.active_within(Duration::from_secs(2)), [slot(1, false, 1, 2)]);
    assert_eq!((draining_flows.active_within(Duration::ZERO), draining_flows.evicted()), (vec![], 0));
}

#[test]
fn more_flows_than_lines_replace_the_oldest_and_are_counted() {
    let (draining_flows, tables) = (DrainingFlows::default(), tables());
    let many = 3 * SLOTS as u32;
    for number in 0..many {
        draining_flows.write(&flow_key(number, false), &tables, Time(u64::from(number) + 1));
    }
    draining_flows.tick(Time(u64::from(many)));
    let seen = draining_flows.active_within(Duration::from_secs(1));
    assert_eq!(seen.len() as u64 + draining_flows.evicted(), u64::from(many));
    assert!(seen.len() > SLOTS * 9 / 10, "{}", seen.len());
    assert!(seen.iter().any(|l| l.flow_key == flow_key(many - 1, false)), "the newest is there");
}

#[test]
fn who_reads_while_a_line_is_replaced_sees_one_or_the_other_whole() {
    let (draining_flows, tables) = (DrainingFlows::default(), tables());
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for number in 0..200_000u32 {
                draining_flows.write(&flow_key(number, number % 2 == 0), &tables, Time(u64::from(number) + 1));
            }
        });
        while !writer.is_finished() {
            for seen in draining_flows.active_within(Duration::from_secs(1)) {
                let FlowKey { client, client_port, .. } = seen.flow_key;
                let number = match client {
                    IpAddr::V4(a) => a.to_bits() & 0x3ffff,
                    IpAddr::V6(a) => a.to_bits() as u32,
                };
                assert_eq!((number as u16, number % 2 == 0), (client_port, client.is_ipv6()), "{seen:?}");
            }
        }
    });
}

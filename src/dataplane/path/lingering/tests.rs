use super::*;
use crate::path::tests::world::World;

fn tables() -> Snapshot {
    World::new().tables
}

fn conversation(number: u32, v6: bool) -> Conversation {
    let (client, vip) = if v6 {
        (IpAddr::V6(Ipv6Addr::from_bits(0x2001 << 112 | u128::from(number))), "2001:db8::69".parse().unwrap())
    } else {
        (IpAddr::V4(Ipv4Addr::from_bits(0xc600_0000 | number)), "192.0.2.69".parse().unwrap())
    };
    Conversation { client, client_port: number as u16, vip, server_port: 20_000, protocol: 17, backend: 65_000 }
}

#[test]
fn what_was_seen_is_shown_until_it_was_quiet_for_long_enough() {
    let (lingering, tables) = (Lingering::default(), tables());
    let second = 1_000_000_000;
    for (number, v6, at) in [(1, false, 0), (2, true, second), (1, false, 2 * second)] {
        lingering.write(&conversation(number, v6), &tables, Time(at));
    }
    lingering.tick(Time(3 * second));
    let mut seen = lingering.within(Duration::from_secs(10));
    seen.sort_by_key(|l| l.silent);
    let line =
        |number, v6, silent, packets| Lingerer { conversation: conversation(number, v6), silent: Duration::from_secs(silent), packets };
    assert_eq!(seen, [line(1, false, 1, 2), line(2, true, 2, 1)]);
    assert_eq!(lingering.within(Duration::from_secs(2)), [line(1, false, 1, 2)]);
    assert_eq!((lingering.within(Duration::ZERO), lingering.replaced()), (vec![], 0));
}

#[test]
fn more_flows_than_lines_replace_the_oldest_and_are_counted() {
    let (lingering, tables) = (Lingering::default(), tables());
    let many = 3 * LINES as u32;
    for number in 0..many {
        lingering.write(&conversation(number, false), &tables, Time(u64::from(number) + 1));
    }
    lingering.tick(Time(u64::from(many)));
    let seen = lingering.within(Duration::from_secs(1));
    assert_eq!(seen.len() as u64 + lingering.replaced(), u64::from(many));
    assert!(seen.len() > LINES * 9 / 10, "{}", seen.len());
    assert!(seen.iter().any(|l| l.conversation == conversation(many - 1, false)), "the newest is there");
}

#[test]
fn who_reads_while_a_line_is_replaced_sees_one_or_the_other_whole() {
    let (lingering, tables) = (Lingering::default(), tables());
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for number in 0..200_000u32 {
                lingering.write(&conversation(number, number % 2 == 0), &tables, Time(u64::from(number) + 1));
            }
        });
        while !writer.is_finished() {
            for seen in lingering.within(Duration::from_secs(1)) {
                let Conversation { client, client_port, .. } = seen.conversation;
                let number = match client {
                    IpAddr::V4(a) => a.to_bits() & 0x3ffff,
                    IpAddr::V6(a) => a.to_bits() as u32,
                };
                assert_eq!((number as u16, number % 2 == 0), (client_port, client.is_ipv6()), "{seen:?}");
            }
        }
    });
}

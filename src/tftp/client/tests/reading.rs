use super::*;
use crate::rollover::Rollover;
use proptest::prelude::*;

/// A read whose request was sent.
fn requested(ask: &[RequestOption]) -> Read {
    let mut read = Read::new(plan(ask), at(0));
    assert_eq!(sent(&mut read).len(), 1);
    read
}

fn of_blocks(windowsize: u16) -> Read {
    let mut read = requested(&[RequestOption::Blksize(8), RequestOption::Windowsize(windowsize)]);
    read.receive(at(1), tid(), &oack(&[("blksize", "8"), ("windowsize", &windowsize.to_string())]));
    assert_eq!(sent(&mut read), [(tid(), ack(0))]);
    read
}

#[test]
fn without_options_the_first_block_is_the_answer() {
    let mut read = requested(&[RequestOption::Blksize(1428), RequestOption::Windowsize(4)]);
    assert_eq!(read.receive(at(1), tid(), &data(1, &[7; 512])), Some(&[7; 512][..]));
    assert_eq!(sent(&mut read), [(tid(), ack(1))], "RFC 1350: 512 bytes, lock-step");
    assert_eq!(read.receive(at(2), tid(), &data(2, b"")), Some(&b""[..]));
    assert_eq!(sent(&mut read), [(tid(), ack(2))]);
    assert_eq!(read.outcome(), Some(&Ok(())));
    assert_eq!(read.deadline(), None, "nothing was lost, so it does not dally");
    assert_eq!(read.first_answer(), Some(MS));
}

#[test]
fn a_window_is_acknowledged_at_its_end() {
    let mut read = of_blocks(3);
    for (block, answer) in [(1, None), (2, None), (3, Some(3)), (4, None), (5, None), (6, Some(6))] {
        assert!(read.receive(at(2), tid(), &data(block, &[0; 8])).is_some());
        assert_eq!(sent(&mut read).first().map(|(_, bytes)| bytes.clone()), answer.map(ack), "{block}");
    }
    read.receive(at(2), tid(), &data(7, &[0; 3]));
    assert_eq!(sent(&mut read), [(tid(), ack(7))], "the last block ends the window");
}

#[test]
fn a_gap_is_acknowledged_once() {
    let mut read = of_blocks(8);
    read.receive(at(2), tid(), &data(1, &[0; 8]));
    for (block, answers) in [(3, 1), (4, 0), (5, 0), (8, 0)] {
        assert_eq!(read.receive(at(2), tid(), &data(block, &[0; 8])), None);
        let answers_now = sent(&mut read);
        assert_eq!(answers_now.len(), answers, "{block}");
        assert!(answers_now.iter().all(|(_, bytes)| *bytes == ack(1)));
    }
    // The server started again from block 2, which is lost again: the window restarts.
    assert_eq!(read.receive(at(3), tid(), &data(3, &[0; 8])), None);
    assert_eq!(sent(&mut read), [(tid(), ack(1))]);
    assert!(read.receive(at(4), tid(), &data(2, &[0; 8])).is_some());
    for block in 3..=9 {
        assert!(read.receive(at(4), tid(), &data(block, &[0; 8])).is_some(), "{block}");
    }
    assert_eq!(sent(&mut read), [(tid(), ack(9))], "the window starts after the last acknowledgement");
    assert_eq!(read.counters().gaps, 2);
    assert_eq!(read.receive(at(4), tid(), &data(18, &[0; 8])), None, "beyond the window");
    assert_eq!(sent(&mut read), []);
}

#[test]
fn a_repeated_block_is_acknowledged_again_but_not_at_once() {
    let mut read = of_blocks(1);
    read.receive(at(2), tid(), &data(1, &[1; 8]));
    assert_eq!(sent(&mut read), [(tid(), ack(1))]);
    assert_eq!(read.receive(at(3), tid(), &data(1, &[1; 8])), None);
    assert_eq!(sent(&mut read), [], "duplicated by the network");
    assert_eq!(read.receive(at(20), tid(), &data(1, &[1; 8])), None);
    assert_eq!(sent(&mut read), [(tid(), ack(1))], "the acknowledgement was lost");
    assert_eq!(read.counters().duplicates, 2);
    read.receive(at(21), tid(), &data(2, &[2; 8]));
    sent(&mut read);
    read.receive(at(90), tid(), &data(1, &[1; 8]));
    assert_eq!(sent(&mut read), [], "an old one");
}

#[test]
fn an_oack_that_comes_again_is_answered_again() {
    let mut read = of_blocks(1);
    read.receive(at(40), tid(), &oack(&[("blksize", "8")]));
    assert_eq!(sent(&mut read), [(tid(), ack(0))]);
}

#[test]
fn after_a_loss_the_read_dallies() {
    let mut read = of_blocks(1);
    read.expire(at(1000));
    assert_eq!(sent(&mut read), [(tid(), ack(0))]);
    read.receive(at(1001), tid(), &data(1, b"end"));
    assert_eq!(read.outcome(), Some(&Ok(())));
    assert_eq!(sent(&mut read), [(tid(), ack(1))]);
    assert_eq!(read.receive(at(1500), tid(), &data(1, b"end")), None);
    assert_eq!(sent(&mut read), [(tid(), ack(1))]);
    let deadline = read.deadline().expect("it dallies");
    read.expire(deadline);
    assert_eq!(read.deadline(), None);
    assert_eq!(read.receive(deadline, tid(), &data(1, b"end")), None);
    assert_eq!(sent(&mut read), []);
}

#[test]
fn an_unknown_tid_gets_one_error_and_changes_nothing() {
    let mut read = of_blocks(1);
    let unknown_tid: SocketAddr = "192.0.2.69:4001".parse().unwrap();
    assert_eq!(read.receive(at(2), unknown_tid, &data(1, &[9; 8])), None);
    assert_eq!(sent(&mut read), [(unknown_tid, error(5, "unknown transfer"))]);
    assert_eq!(read.receive(at(2), unknown_tid, &data(1, &[9; 8])), None);
    assert_eq!(sent(&mut read), []);
    let other: SocketAddr = "192.0.2.70:4000".parse().unwrap();
    assert_eq!(read.receive(at(2), other, &error(0, "die")), None, "no error for an error");
    assert_eq!(sent(&mut read), []);
    assert_eq!(read.receive(at(2), tid(), &data(1, &[1; 8])), Some(&[1; 8][..]));
    assert_eq!(read.counters().unknown_tids, 3);
}

#[test]
fn options_never_asked_for_are_left_over_from_before_unless_they_come_again() {
    let left_over = oack(&[("tsize", "5"), ("blksize", "1468")]);
    let mut read = requested(&[RequestOption::Blksize(8)]);
    read.receive(at(1), SocketAddr::new(tid().ip(), 4), &left_over);
    assert_eq!((sent(&mut read).len(), read.outcome()), (0, None));
    read.receive(at(2), tid(), &oack(&[("blksize", "8")]));
    assert_eq!(sent(&mut read), [(tid(), ack(0))], "the sender of the stale OACK is not the server");
    let mut read = requested(&[RequestOption::Blksize(8)]);
    read.receive(at(1), tid(), &left_over);
    read.receive(at(2), tid(), &left_over);
    assert!(matches!(read.outcome(), Some(Err(Failure::Options(_)))));
}

#[test]
fn an_oack_against_the_rules_is_refused() {
    let mut read = requested(&[RequestOption::Blksize(512)]);
    read.receive(at(1), tid(), &oack(&[("blksize", "1024")]));
    assert_eq!(sent(&mut read), [(tid(), error(8, "options refused"))]);
    assert!(matches!(read.outcome(), Some(Err(Failure::Options(_)))));
    assert_eq!(read.deadline(), None);
}

#[test]
fn a_probe_ends_with_the_size() {
    let mut read = Read::new(TransferPlan { probe: true, ..plan(&[RequestOption::Tsize(0)]) }, at(0));
    sent(&mut read);
    read.receive(at(1), tid(), &oack(&[("tsize", "77")]));
    assert_eq!(sent(&mut read), [(tid(), error(8, "User aborted the transfer"))]);
    assert_eq!((read.outcome(), read.negotiated().tsize), (Some(&Ok(())), Some(77)));
}

#[test]
fn the_server_s_error_ends_it_without_an_answer() {
    let mut read = requested(&[]);
    read.receive(at(1), tid(), &error(1, "no\x1b[31m such file"));
    assert_eq!(sent(&mut read), []);
    let failure = read.outcome().unwrap().as_ref().unwrap_err();
    assert_eq!(failure.to_string(), "the server refused: error 1 (file not found): no·[31m such file");
    assert_eq!(failure.reason(), "error_1_file_not_found");
}

#[test]
fn a_file_of_another_size_than_announced_is_not_the_file() {
    for (announced, good) in [("3", true), ("4", false)] {
        let mut read = requested(&[RequestOption::Tsize(0)]);
        read.receive(at(1), tid(), &oack(&[("tsize", announced)]));
        read.receive(at(2), tid(), &data(1, b"abc"));
        assert_eq!(read.outcome().unwrap().is_ok(), good, "{announced}");
    }
}

#[test]
fn a_block_longer_than_agreed_ends_it() {
    let mut read = of_blocks(1);
    assert_eq!(read.receive(at(2), tid(), &data(1, &[0; 9])), None);
    assert_eq!(read.outcome(), Some(&Err(Failure::Block { length: 9, blksize: 8 })));
    assert_eq!(sent(&mut read)[0].1[..4], [0, 5, 0, 4]);
}

#[test]
fn an_unresponsive_server_is_asked_again_and_given_up() {
    let mut read = requested(&[]);
    let wrong: SocketAddr = "192.0.2.1:4000".parse().unwrap();
    assert_eq!(read.receive(at(1), wrong, &data(1, b"x")), None, "answers from another address are ignored");
    let mut requests = 1;
    while let Some(deadline) = read.deadline() {
        read.expire(Time(deadline.0 - 1));
        assert_eq!(sent(&mut read), [], "not before its time");
        read.expire(deadline);
        requests += sent(&mut read).iter().filter(|(to, bytes)| *to == server() && bytes.starts_with(&[0, 1])).count();
    }
    assert_eq!(requests, 7);
    assert_eq!(read.outcome(), Some(&Err(Failure::NoAnswer { requests: 7, unknown_tid: Some(wrong) })));
    assert!(read.outcome().unwrap().as_ref().unwrap_err().to_string().contains("192.0.2.1:4000 sent a packet instead"));
}

#[test]
fn a_server_that_falls_silent_is_given_up() {
    let mut read = of_blocks(1);
    read.receive(at(2), tid(), &data(1, &[0; 8]));
    sent(&mut read);
    let (mut repeats, mut end) = (0, at(2));
    while let Some(deadline) = read.deadline() {
        end = deadline;
        read.expire(deadline);
        repeats += sent(&mut read).iter().filter(|(_, bytes)| *bytes == ack(1)).count();
    }
    assert_eq!(read.outcome(), Some(&Err(Failure::Unresponsive { block: 1, tries: repeats as u32 })));
    assert!(end >= at(27_000) && (7..16).contains(&repeats), "{repeats} in {:?}", end - at(2));
}

#[test]
fn a_stale_block_does_not_answer_a_request() {
    let mut read = requested(&[]);
    assert_eq!(read.receive(at(1), tid(), &data(9, &[0; 512])), None);
    assert_eq!(read.receive(at(1), tid(), &data(1, &[0; 513])), None, "without options no block is longer than 512");
    assert_eq!((read.tid(), read.outcome()), (None, None));
    assert_eq!(read.receive(at(1), server(), &data(1, b"one port")), Some(&b"one port"[..]));
    assert_eq!(read.tid(), Some(server()), "a server with a single port");
}

#[test]
fn what_follows_65535_is_learned_in_lock_step() {
    for rollover in [Rollover::Zero, Rollover::One] {
        let mut read = of_blocks(1);
        for block in 1..=65_600u64 {
            let wire = rollover.wire(block);
            assert!(read.receive(at(2), tid(), &data(wire, &[0; 8])).is_some(), "{rollover:?} {block}");
            assert_eq!(sent(&mut read), [(tid(), ack(wire))]);
        }
        assert_eq!(read.counters().bytes, 65_600 * 8);
    }
}

proptest! {
    /// No input panics, and every block's bytes are returned once and in order.
    #[test]
    fn any_datagrams(windowsize in 1u16..6, blocks in prop::collection::vec((0u16..8, 0usize..10, 0u8..12, any::<u8>()), 0..60)) {
        let mut read = of_blocks(windowsize);
        let mut expected = 1u16;
        for (number, (block, length, kind, byte)) in (0u32..).zip(blocks) {
            let now = at(number * 7);
            let datagram = match kind {
                0 => ack(block),
                1 => oack(&[("blksize", "8")]),
                2 => vec![byte; length],
                3 => [&[0, 3][..], &vec![byte; length]].concat(),
                _ => data(block, &vec![byte; length]),
            };
            let over = read.outcome().is_some();
            let given = read.receive(now, tid(), &datagram).map(<[u8]>::to_vec);
            if let Some(given) = given {
                prop_assert!(!over);
                prop_assert_eq!(&datagram[2..4], &expected.to_be_bytes());
                prop_assert_eq!(&datagram[4..], &given[..]);
                expected += 1;
            }
            read.expire(now);
            prop_assert!(sent(&mut read).len() <= 1);
        }
    }
}

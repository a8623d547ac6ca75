use super::*;
use crate::client::{RequestOption, TransferPlan, Write};
use crate::options::{Limits, Rollover};
use crate::packet::{Packet, put_ack, put_oack};
use proptest::prelude::*;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

const MS: u64 = 1_000_000;

fn at(ms: u64) -> Time {
    Time(1_000 * MS + ms * MS)
}

fn started(window: u16, oack: bool) -> Upload {
    let terms = Terms { window, blksize: 8, ..Terms::plain(&Limits::default()) };
    let mut upload = Upload::new(terms, oack, &RetransmissionPolicy::default(), at(0));
    assert_eq!(upload.answer(false, at(0)), if oack { Answer::Oack } else { Answer::Ack(0) });
    upload
}

const KEEP: DataAction = DataAction::Append { answer: false, last: false };
const KEEP_AND_ANSWER: DataAction = DataAction::Append { answer: true, last: false };

#[test]
fn lock_step_from_the_first_block_to_the_last() {
    let mut upload = started(1, false);
    assert_eq!(upload.on_data(1, 8, at(1)), KEEP_AND_ANSWER);
    assert_eq!(upload.answer(false, at(1)), Answer::Ack(1));
    assert_eq!(upload.on_data(1, 8, at(2)), DataAction::Ignore, "its ACK is on the way");
    assert_eq!(upload.on_data(1, 8, at(500)), DataAction::Acknowledge, "its ACK was lost");
    assert_eq!(upload.answer(true, at(500)), Answer::Ack(1));
    assert_eq!(upload.on_data(2, 0, at(501)), DataAction::Append { answer: false, last: true });
    assert_eq!((upload.answer(false, at(502)), upload.blocks()), (Answer::Ack(2), 2));
}

#[test]
fn a_window_is_answered_at_its_end_and_where_a_block_is_missing() {
    let mut upload = started(4, true);
    assert_eq!([1, 2, 3].map(|n| upload.on_data(n, 8, at(1))), [KEEP; 3]);
    assert_eq!(upload.on_data(4, 8, at(1)), KEEP_AND_ANSWER);
    assert_eq!(upload.answer(false, at(1)), Answer::Ack(4));
    assert_eq!([6, 7, 8].map(|n| upload.on_data(n, 8, at(2))), [DataAction::Acknowledge, DataAction::Ignore, DataAction::Ignore]);
    assert_eq!(upload.answer(true, at(2)), Answer::Ack(4));
    assert_eq!(upload.on_data(5, 9, at(3)), DataAction::TooLong);
}

#[test]
fn an_unresponsive_client_is_answered_again_and_given_up() {
    for (established, silence) in [(false, Unresponsive::HalfOpen), (true, Unresponsive::MidTransfer)] {
        let mut upload = started(1, true);
        if established {
            assert_eq!(upload.on_data(1, 8, at(1)), KEEP_AND_ANSWER);
            upload.answer(false, at(1));
        }
        assert_eq!(upload.on_timer(&RetransmissionPolicy::default(), at(0)), Step::Wait);
        let mut retransmitted = 0;
        let end = loop {
            let now = upload.deadline();
            match upload.on_timer(&RetransmissionPolicy::default(), now) {
                Step::Answer => {
                    retransmitted += 1;
                    assert_eq!(upload.answer(true, now), if established { Answer::Ack(1) } else { Answer::Oack });
                }
                Step::GiveUp(why) => {
                    assert_eq!(why, silence);
                    break now;
                }
                Step::Wait => panic!("it was time"),
            }
        };
        assert!((5..12).contains(&retransmitted), "{retransmitted}");
        assert!((20..30).contains(&(end - at(0)).as_secs()), "{:?}", end - at(0));
    }
}

#[test]
fn a_client_that_has_answered_gets_the_configured_time() {
    let policy = RetransmissionPolicy { min_give_up: Duration::from_secs(120), retries: 1, ..RetransmissionPolicy::default() };
    // Half-open, in the middle, and with a time-out of the client, which is not doubled.
    for (established, timeout, seconds) in [(false, None, 1..10), (true, None, 120..130), (true, Some(Duration::from_secs(1)), 120..130)] {
        let terms = Terms { timeout, blksize: 8, ..Terms::plain(&Limits::default()) };
        let mut upload = Upload::new(terms, true, &policy, at(0));
        if established {
            assert_eq!(upload.on_data(1, 8, at(1)), KEEP_AND_ANSWER);
            upload.answer(false, at(1));
        }
        while !matches!(upload.on_timer(&policy, upload.deadline()), Step::GiveUp(_)) {}
        assert!(seconds.contains(&(upload.deadline() - at(0)).as_secs()), "{established} {timeout:?}: {:?}", upload.deadline() - at(0));
    }
}

#[test]
fn a_negotiated_timeout_is_kept() {
    let terms = Terms { timeout: Some(Duration::from_secs(3)), ..Terms::plain(&Limits::default()) };
    let mut upload = Upload::new(terms, true, &RetransmissionPolicy::default(), at(0));
    for round in 1..=3 {
        assert_eq!(upload.deadline(), at(3000 * round));
        assert_eq!(upload.on_timer(&RetransmissionPolicy::default(), upload.deadline()), Step::Answer);
    }
}

/// Time of arrival, order, whether it goes to the server, bytes.
type Datagram = (u64, u64, bool, Vec<u8>);

/// Loses, duplicates and delays datagrams.
struct Path<'a> {
    fates: std::iter::Cycle<std::slice::Iter<'a, u8>>,
    /// Datagrams in flight.
    wire: BinaryHeap<Reverse<Datagram>>,
    count: u64,
}

impl Path<'_> {
    fn send(&mut self, now: Time, to_server: bool, bytes: &[u8]) {
        let fate = self.fates.next().copied().unwrap_or(255);
        let copies = match fate {
            0..20 => 0,
            20..30 => 2,
            _ => 1,
        };
        for copy in 0..copies {
            self.count += 1;
            self.wire.push(Reverse((now.0 + (u64::from(fate % 8) + 1 + copy) * MS, self.count, to_server, bytes.to_vec())));
        }
    }
}

/// Our client writes over a path with losses, duplicates and delays by `fate`; the file must arrive complete.
fn simulate(window: u16, length: usize, one: bool, fate: &[u8]) -> Result<(), TestCaseError> {
    let file: Vec<u8> = (0..length).map(|n| (n * 7) as u8).collect();
    let rollover = if one { Rollover::One } else { Rollover::Zero };
    let server = "192.0.2.69:69".parse().unwrap();
    let ask = vec![RequestOption::Blksize(8), RequestOption::Windowsize(window), RequestOption::Rollover(rollover)];
    let mut client = Write::new(TransferPlan { ask, ..TransferPlan::new(server, "f") }, at(0));
    let terms = Terms { blksize: 8, window, timeout: None, rollover };
    let mut upload: Option<Upload> = None;
    let (mut got, mut last, mut supplied) = (Vec::<u8>::new(), None, 0);
    let mut path = Path { fates: fate.iter().cycle(), wire: BinaryHeap::new(), count: 0 };
    let mut now = at(0);
    let oack = |to: &mut Vec<u8>| {
        let window = window.to_string();
        let options = [(&b"blksize"[..], &b"8"[..]), (b"windowsize", window.as_bytes()), (b"rollover", if one { b"1" } else { b"0" })];
        put_oack(to, options);
    };
    for _ in 0..200_000 {
        let mut out = Vec::new();
        while let Some(size) = client.wants() {
            let end = (supplied + size).min(file.len());
            client.supply(&file[supplied..end]);
            supplied = end;
        }
        while client.transmit(now, &mut out).is_some() {
            path.send(now, true, &out);
        }
        if client.outcome().is_some() {
            break;
        }
        let timers = [client.deadline(), upload.as_ref().map(Upload::deadline)].into_iter().flatten().map(|time| time.0).min();
        let next = path.wire.peek().map(|Reverse((time, ..))| *time);
        now = Time([timers, next].into_iter().flatten().min().unwrap().max(now.0));
        let answer = |path: &mut Path<'_>, upload: &mut Upload, retransmitted: bool| {
            let mut bytes = Vec::new();
            match upload.answer(retransmitted, now) {
                Answer::Oack => oack(&mut bytes),
                Answer::Ack(number) => put_ack(&mut bytes, number),
            }
            path.send(now, false, &bytes);
        };
        if next.is_some_and(|time| time <= now.0) {
            let Some(Reverse((_, _, to_server, bytes))) = path.wire.pop() else { continue };
            match (Packet::parse(&bytes).unwrap(), &mut upload) {
                _ if !to_server => client.receive(now, server, &bytes),
                (Packet::Request(_), None) => {
                    answer(&mut path, upload.insert(Upload::new(terms, true, &RetransmissionPolicy::default(), now)), false)
                }
                (Packet::Data { block, .. }, Some(upload)) if last == Some(block) => answer(&mut path, upload, true),
                (Packet::Data { block, data }, Some(upload)) if last.is_none() => match upload.on_data(block, data.len(), now) {
                    DataAction::Append { answer: due, last: end } => {
                        got.extend(data);
                        last = end.then_some(block);
                        if due || end {
                            answer(&mut path, upload, false);
                        }
                    }
                    DataAction::Acknowledge => answer(&mut path, upload, true),
                    DataAction::Ignore => {}
                    DataAction::TooLong => return Err(TestCaseError::fail("too long")),
                },
                _ => {}
            }
        } else {
            client.expire(now);
            if let Some(upload) = &mut upload
                && last.is_none()
                && upload.on_timer(&RetransmissionPolicy::default(), now) == Step::Answer
            {
                answer(&mut path, upload, true);
            }
        }
        if last.is_some()
            && let Some(upload) = &mut upload
        {
            // Stored: the engine closes the transfer and only answers retransmissions.
            upload.deadline = Time(u64::MAX);
        }
    }
    prop_assert_eq!(client.outcome(), Some(&Ok(())));
    prop_assert!(got == file, "{} bytes instead of {}", got.len(), file.len());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn uploads_arrive_complete_with_any_losses_and_duplicates(window in 1u16..20, length in 0usize..2000, one: bool,
                                                               fate in proptest::collection::vec(any::<u8>(), 50..200)) {
        simulate(window, length, one, &fate)?;
    }
}

#[test]
fn beyond_65535_blocks_with_windows_and_both_rollovers() {
    for (window, one) in [(1, false), (64, true)] {
        simulate(window, 65_600 * 8, one, &[100]).unwrap();
    }
}

use super::*;
use crate::options::Limits;
use crate::rollover::Rollover;
use proptest::prelude::*;

const MS: u64 = 1_000_000;

fn at(ms: u64) -> Time {
    Time(1_000 * MS + ms * MS)
}

fn retransmission() -> RetransmissionPolicy {
    RetransmissionPolicy::default()
}

fn terms(window: u16) -> Terms {
    Terms { window, ..Terms::plain(&Limits::default()) }
}

/// A transfer of `blocks` blocks with these terms, without OACK, that has sent its first blocks at 0 ms.
fn started(terms: Terms, blocks: u64) -> Transfer {
    let mut t = Transfer::new(terms, false, &retransmission(), at(0));
    t.ends_with(blocks);
    assert_eq!(t.start(), Step::Blocks);
    send(&mut t, 0);
    t
}

/// Sends the wanted blocks and returns them.
fn send(t: &mut Transfer, ms: u64) -> Vec<u64> {
    let blocks: Vec<u64> = t.wanted().collect();
    if let Some(&last) = blocks.last() {
        t.sent(last, at(ms));
    }
    blocks
}

fn ack(t: &mut Transfer, number: u16, ms: u64) -> (Ack, Step) {
    t.on_ack(number, &retransmission(), at(ms))
}

#[test]
fn lock_step_from_the_first_block_to_the_last() {
    let mut t = started(terms(1), 3);
    assert_eq!(ack(&mut t, 1, 1), (Ack::New, Step::Blocks));
    assert_eq!(send(&mut t, 1), [2]);
    assert_eq!(ack(&mut t, 2, 2), (Ack::New, Step::Blocks));
    assert_eq!(send(&mut t, 2), [3]);
    assert_eq!(ack(&mut t, 3, 3), (Ack::New, Step::Done));
}

#[test]
fn sizes_and_their_last_blocks() {
    let t = Transfer::new(terms(1), false, &retransmission(), at(0));
    assert_eq!([0, 1, 511, 512, 513, 1024].map(|size| t.last_block(size)), [1, 1, 1, 2, 2, 3]);
}

#[test]
fn an_oack_is_repeated_until_it_is_answered_and_only_by_ack_0() {
    let mut t = Transfer::new(terms(4), true, &retransmission(), at(0));
    assert_eq!(t.start(), Step::Oack);
    assert!(t.wanted().is_empty());
    assert_eq!(t.on_timer(&retransmission(), at(999)), Step::Wait);
    assert_eq!(t.on_timer(&retransmission(), at(1000)), Step::Oack);
    assert_eq!(t.deadline(), at(3000), "doubled");
    assert_eq!(ack(&mut t, 1, 1001), (Ack::Unexpected, Step::Wait));
    assert_eq!(ack(&mut t, 0, 1002), (Ack::New, Step::Blocks));
    assert_eq!(send(&mut t, 1002), [1, 2, 3, 4]);
    assert_eq!(t.round_trip(), Duration::ZERO, "an answer to a retransmission is not measured");
}

#[test]
fn repeated_stale_and_future_acks_send_nothing_in_lock_step() {
    let mut t = started(terms(1), 9);
    ack(&mut t, 1, 1);
    send(&mut t, 1);
    for ms in 2..30 {
        assert_eq!(ack(&mut t, 1, ms), (Ack::Repeated, Step::Wait), "{ms}");
    }
    assert_eq!(ack(&mut t, 0, 30), (Ack::Unexpected, Step::Wait), "stale");
    assert_eq!(ack(&mut t, 77, 30), (Ack::Unexpected, Step::Wait), "never sent");
    assert_eq!(t.on_timer(&retransmission(), at(41)), Step::Blocks, "the timer retransmits");
    assert_eq!(send(&mut t, 41), [2]);
    assert_eq!(ack(&mut t, 2, 42), (Ack::New, Step::Blocks));
}

#[test]
fn a_gap_in_the_window_is_filled_from_the_gap_on() {
    let mut t = started(terms(4), 9);
    assert_eq!(ack(&mut t, 2, 5), (Ack::New, Step::Blocks));
    assert_eq!(send(&mut t, 5), [3, 4, 5, 6]);
    // The client repeats the ACK for every block that arrives after the gap.
    assert_eq!(ack(&mut t, 2, 5), (Ack::Repeated, Step::Wait));
    assert_eq!(ack(&mut t, 6, 9), (Ack::New, Step::Blocks));
    assert_eq!(send(&mut t, 9), [7, 8, 9]);
    assert_eq!(ack(&mut t, 9, 10), (Ack::New, Step::Done));
}

#[test]
fn an_ack_of_every_block_draws_one_repetition_at_most() {
    let started = || {
        let mut t = Transfer::new(terms(16), true, &retransmission(), at(0));
        t.ends_with(101);
        ack(&mut t, 0, 4);
        assert_eq!(send(&mut t, 4).len(), 16);
        t
    };
    let (mut t, mut sent) = (started(), 16);
    for number in 1..=100 {
        assert_eq!(ack(&mut t, number, 8 + u64::from(number / 16)), (Ack::New, Step::Blocks), "{number}");
        sent += send(&mut t, 8 + u64::from(number / 16)).len();
    }
    assert!(sent <= 101 + 16, "{sent} packets for 101 blocks");
    // A lost block shows itself by a repeated ACK.
    let mut t = started();
    for number in 1..=2 {
        ack(&mut t, number, 8);
        send(&mut t, 8);
    }
    assert_eq!(ack(&mut t, 2, 60), (Ack::Repeated, Step::Blocks));
    assert_eq!(send(&mut t, 60), (3..=18).collect::<Vec<_>>());
}

#[test]
fn a_client_that_reports_gaps_is_answered_once_in_a_round_trip() {
    let mut t = started(terms(8), 101);
    ack(&mut t, 8, 10);
    assert_eq!(send(&mut t, 10), (9..=16).collect::<Vec<_>>());
    ack(&mut t, 11, 20);
    assert_eq!(send(&mut t, 20), (12..=19).collect::<Vec<_>>(), "blocks after the gap are sent again");
    ack(&mut t, 13, 21);
    assert_eq!(send(&mut t, 21), [20, 21], "this ACK was sent before the repetition arrived");
    ack(&mut t, 17, 31);
    assert_eq!(send(&mut t, 31), (18..=25).collect::<Vec<_>>(), "a second gap");
}

#[test]
fn the_loss_of_a_windows_first_block_is_repaired_once_in_a_time_out() {
    let mut t = started(terms(4), 99);
    ack(&mut t, 4, 10);
    assert_eq!(send(&mut t, 10), [5, 6, 7, 8]);
    assert_eq!(ack(&mut t, 4, 11), (Ack::Repeated, Step::Wait), "too early for an answer: duplicated by the network");
    assert_eq!(ack(&mut t, 4, 18), (Ack::Repeated, Step::Blocks));
    assert_eq!(send(&mut t, 18), [5, 6, 7, 8]);
    for ms in 19..50 {
        assert_eq!(ack(&mut t, 4, ms), (Ack::Repeated, Step::Wait), "{ms}");
    }
    assert_eq!(ack(&mut t, 8, 51), (Ack::New, Step::Blocks));
}

#[test]
fn the_time_out_doubles_has_a_ceiling_and_is_reset_by_progress() {
    let mut t = started(terms(1), 9);
    ack(&mut t, 1, 2);
    send(&mut t, 2);
    let mut waits = Vec::new();
    let mut now = at(2);
    while waits.len() < 9 {
        waits.push((t.deadline() - now).as_millis());
        now = t.deadline();
        assert_eq!(t.on_timer(&retransmission(), now), Step::Blocks);
        t.sent(2, now);
    }
    assert_eq!(waits, [40, 80, 160, 320, 640, 1280, 2560, 5120, 6000]);
    assert_eq!(t.on_ack(2, &retransmission(), now), (Ack::New, Step::Blocks));
    assert_eq!((t.deadline() - now).as_millis(), 40);
}

#[test]
fn a_negotiated_timeout_is_kept() {
    let mut t = started(Terms { timeout: Some(Duration::from_secs(2)), ..terms(1) }, 9);
    ack(&mut t, 1, 2);
    send(&mut t, 2);
    assert_eq!(t.deadline(), at(2002));
    assert_eq!(t.on_timer(&retransmission(), at(2002)), Step::Blocks);
    assert_eq!(t.deadline(), at(4002), "not doubled");
}

/// Runs the timer until the transfer is given up. Returns how often it sent, the reason, and the time.
fn until_given_up(t: &mut Transfer) -> (usize, Unresponsive, Time) {
    for count in 0..100 {
        let now = t.deadline();
        match t.on_timer(&retransmission(), now) {
            Step::GiveUp(why) => return (count, why, now),
            _ => {
                let upto = *t.wanted().end();
                t.sent(upto, now);
            }
        }
    }
    panic!("never given up");
}

#[test]
fn unresponsive_clients_are_given_up() {
    let mut never = started(terms(1), 9);
    let (count, why, _) = until_given_up(&mut never);
    assert_eq!((count, why), (5, Unresponsive::HalfOpen));
    let mut midway = started(terms(1), 9);
    ack(&mut midway, 1, 1);
    send(&mut midway, 1);
    let (_, why, when) = until_given_up(&mut midway);
    assert_eq!(why, Unresponsive::MidTransfer);
    assert!(when - at(1) >= retransmission().min_give_up, "{when:?}");
    let mut end = started(terms(1), 2);
    ack(&mut end, 1, 1);
    send(&mut end, 1);
    let (count, why, _) = until_given_up(&mut end);
    assert_eq!((count, why), (5, Unresponsive::FinalAck));
}

#[test]
fn a_client_that_answered_once_is_sent_three_windows_at_most() {
    for window in [1, 2, 16, 64] {
        let mut t = Transfer::new(terms(window), true, &retransmission(), at(0));
        assert_eq!(ack(&mut t, 0, 1), (Ack::New, Step::Blocks));
        let mut sent = send(&mut t, 1).len();
        let (mut bursts, mut retransmitted) = (vec![sent], 0);
        while let Step::Blocks = t.on_timer(&retransmission(), t.deadline()) {
            let ms = (t.deadline() - at(0)).as_millis() as u64;
            bursts.push(send(&mut t, ms).len());
            sent += bursts.last().unwrap();
            retransmitted += 1;
        }
        let window = usize::from(window);
        assert_eq!(bursts[..3], [window, window, (window / 2).max(1)]);
        assert!(sent < 3 * window + retransmitted, "{bursts:?}");
        assert_eq!(*bursts.last().unwrap(), 1);
    }
}

#[test]
fn a_client_that_answers_again_is_sent_whole_windows() {
    let mut t = Transfer::new(terms(8), true, &retransmission(), at(0));
    ack(&mut t, 0, 1);
    send(&mut t, 1);
    for _ in 0..3 {
        let now = t.deadline();
        assert_eq!(t.on_timer(&retransmission(), now), Step::Blocks);
        send(&mut t, (now - at(0)).as_millis() as u64);
    }
    assert_eq!(t.wanted().count(), 0);
    let now = t.deadline();
    t.on_timer(&retransmission(), now);
    assert_eq!(t.wanted(), 1..=1);
    let ms = (now - at(0)).as_millis() as u64;
    send(&mut t, ms);
    assert_eq!(ack(&mut t, 1, ms + 1), (Ack::New, Step::Blocks));
    assert_eq!(send(&mut t, ms + 1), (2..=9).collect::<Vec<_>>());
}

#[test]
fn an_ack_of_a_block_sent_before_a_rewind_counts() {
    let mut t = started(terms(4), 99);
    assert_eq!(t.on_timer(&retransmission(), at(1000)), Step::Blocks);
    assert_eq!(ack(&mut t, 4, 1001), (Ack::New, Step::Blocks), "before any retransmission");
    assert_eq!(send(&mut t, 1001), [5, 6, 7, 8]);
}

#[test]
fn block_numbers_roll_over_to_0_or_1() {
    for (rollover, numbers) in [(Rollover::Zero, [65535, 0, 1, 0]), (Rollover::One, [65535, 1, 2, 1])] {
        let t = Transfer::new(Terms { rollover, ..terms(1) }, false, &retransmission(), at(0));
        assert_eq!([65535, 65536, 65537, if rollover == Rollover::Zero { 131_072 } else { 131_071 }].map(|b| t.wire(b)), numbers);
    }
}

/// Runs a transfer over a network with losses and duplicates by `fate`: 0 delivers, 1 loses, 2 delivers twice. The client is the simple one
/// of RFC 7440.
fn simulate(terms: Terms, blocks: u64, fate: &[u8]) -> Result<(), TestCaseError> {
    let mut fate = fate.iter().copied().cycle().enumerate().map(move |(index, f)| if index > fate.len() { 0 } else { f });
    let mut t = Transfer::new(terms, false, &retransmission(), at(0));
    t.ends_with(blocks);
    let (mut now, mut received, mut sent, mut in_window) = (at(0), 0u64, 0u64, 0u16);
    for _ in 0..blocks * 4 + 2000 {
        let mut acks = Vec::new();
        let wanted: Vec<u64> = t.wanted().collect();
        for &block in &wanted {
            sent += 1;
            for _ in 0..[1, 0, 2][usize::from(fate.next().unwrap_or(0)) % 3] {
                if t.wire(block) == t.wire(received + 1) {
                    received += 1;
                    in_window += 1;
                    if in_window == terms.window || received == blocks {
                        in_window = 0;
                        acks.push(t.wire(received));
                    }
                } else if in_window > 0 || acks.is_empty() {
                    in_window = 0;
                    acks.push(t.wire(received));
                }
            }
        }
        if let Some(&last) = wanted.last() {
            t.sent(last, now);
        }
        now = now.plus(Duration::from_millis(1));
        let mut moved = false;
        for number in acks {
            for _ in 0..[1, 0, 2][usize::from(fate.next().unwrap_or(0)) % 3] {
                match t.on_ack(number, &retransmission(), now).1 {
                    Step::Done => {
                        prop_assert_eq!(received, blocks);
                        return Ok(());
                    }
                    Step::Blocks => moved = true,
                    _ => {}
                }
            }
        }
        prop_assert!(t.acked() <= received);
        if !moved {
            now = t.deadline();
            if let Step::GiveUp(why) = t.on_timer(&retransmission(), now) {
                prop_assert!(why == Unresponsive::FinalAck && received == blocks, "{why:?} at {received} of {blocks}, {sent} sent");
                return Ok(());
            }
        }
    }
    Err(TestCaseError::fail(format!("no end: {received} of {blocks}, {sent} sent")))
}

proptest! {
    #[test]
    fn every_transfer_ends_with_any_losses_and_duplicates(window in 1u16..20, blocks in 1u64..300, one: bool,
                                                       mut fate in proptest::collection::vec(0u8..3, 1..60)) {
        let rollover = if one { Rollover::One } else { Rollover::Zero };
        // A network does not lose all packets for ever.
        let mut losses = 0;
        fate.iter_mut().filter(|f| **f == 1).for_each(|f| { losses += 1; if losses > 4 { *f = 0; } });
        simulate(Terms { rollover, ..terms(window) }, blocks, &fate)?;
    }
}

#[test]
fn beyond_65535_blocks_with_windows_and_both_rollovers() {
    for rollover in [Rollover::Zero, Rollover::One] {
        for window in [1, 64] {
            simulate(Terms { rollover, ..terms(window) }, 140_000, &[0, 0, 1, 0, 2]).unwrap();
        }
    }
}

#[test]
fn a_transfer_continues_where_another_server_left_it() {
    let mut t = Transfer::resume(terms(4), 70_000, 70_006, &retransmission(), at(0));
    assert!(t.established());
    assert_eq!(send(&mut t, 0), [70_001, 70_002, 70_003, 70_004]);
    assert_eq!(ack(&mut t, Rollover::Zero.wire(70_004), 1), (Ack::New, Step::Blocks));
    assert_eq!(send(&mut t, 1), [70_005, 70_006]);
    assert_eq!(ack(&mut t, Rollover::Zero.wire(70_006), 2), (Ack::New, Step::Done));
}

#[test]
fn an_owner_that_comes_back_moves_forward_and_never_back() {
    let mut t = started(terms(1), 100_000);
    t.share(at(0));
    ack(&mut t, 1, 1);
    send(&mut t, 1);
    assert_eq!(ack(&mut t, 500, 2).0, Ack::Unexpected, "no other server continues while the client is received");
    let deadline = t.deadline();
    assert_eq!(t.on_timer(&retransmission(), deadline), Step::Blocks);
    let ms = (deadline - at(0)).as_millis() as u64;
    assert_eq!(ack(&mut t, Rollover::Zero.wire(65_530), ms).0, Ack::Unexpected, "an old ACK is not far ahead");
    assert_eq!(ack(&mut t, 500, ms), (Ack::New, Step::Blocks));
    assert_eq!((send(&mut t, ms), t.acked()), (vec![501], 500));
    assert_eq!(ack(&mut t, 2, ms + 1).0, Ack::Unexpected);
    let mut alone = started(terms(1), 100_000);
    let deadline = alone.deadline();
    alone.on_timer(&retransmission(), deadline);
    assert_eq!(ack(&mut alone, 500, ms + 500).0, Ack::Unexpected, "without other servers none can have continued");
}

#[test]
fn an_oack_answered_to_another_server_is_done() {
    let mut t = Transfer::new(terms(2), true, &retransmission(), at(0));
    t.ends_with(900);
    t.share(at(0));
    assert_eq!(ack(&mut t, 300, 1).0, Ack::Unexpected);
    let deadline = t.deadline();
    assert_eq!(t.on_timer(&retransmission(), deadline), Step::Oack);
    assert_eq!(ack(&mut t, 300, 1500), (Ack::New, Step::Blocks));
    assert_eq!(send(&mut t, 1500), [301, 302]);
}

#[test]
fn nothing_is_sent_beyond_the_limit_of_successors() {
    let mut t = started(terms(4), 20);
    assert!(!t.limit_to(6) && t.is_near_limit(8));
    ack(&mut t, 4, 1);
    assert_eq!(send(&mut t, 1), [5, 6]);
    ack(&mut t, 6, 2);
    assert!(send(&mut t, 2).is_empty());
    assert!(t.limit_to(u64::MAX));
    assert_eq!(send(&mut t, 3), [7, 8, 9, 10]);
}

proptest! {
    /// A server that knows the position two checkpoints ago identifies the acknowledged block, and a delayed ACK is not mistaken for another.
    #[test]
    fn successors_identify_acknowledged_blocks(
        checkpointed in 0u64..300_000,
        window in prop::sample::select(vec![1u16, 4, 64, 1000]),
        one in any::<bool>(),
        further in 0u64..40_000,
        old in 1u64..16_000,
    ) {
        let rollover = if one { Rollover::One } else { Rollover::Zero };
        let (acked, last) = (checkpointed + further, checkpointed + 1_000_000);
        prop_assert_eq!(rollover.acknowledged(checkpointed, window, rollover.wire(acked), last), Some(acked));
        prop_assert_eq!(rollover.acknowledged(checkpointed, window, rollover.wire(checkpointed), last), Some(checkpointed));
        let back = checkpointed.saturating_sub(u64::from(window));
        prop_assert_eq!(rollover.acknowledged(checkpointed, window, rollover.wire(back), last), Some(back));
        if let Some(stale) = back.checked_sub(old).filter(|stale| *stale > 0) {
            prop_assert_eq!(rollover.acknowledged(checkpointed, window, rollover.wire(stale), last), None);
        }
        prop_assert_eq!(rollover.acknowledged(checkpointed, window, rollover.wire(checkpointed + 1), checkpointed), None, "after the last block");
    }
}

use super::*;
use crate::options::Limits;
use proptest::prelude::*;

const MS: u64 = 1_000_000;

fn at(ms: u64) -> Time {
    Time(1_000 * MS + ms * MS)
}

fn pace() -> Pace {
    Pace::default()
}

fn terms(window: u16) -> Terms {
    Terms { window, ..Terms::plain(&Limits::default()) }
}

/// A transfer of `blocks` blocks with these terms that has sent what it wants at 0 ms; without OACK.
fn started(terms: Terms, blocks: u64) -> Transfer {
    let mut t = Transfer::new(terms, false, &pace(), at(0));
    t.ends_with(blocks);
    assert_eq!(t.start(), Step::Blocks);
    send(&mut t, 0);
    t
}

/// Sends what is wanted; the blocks.
fn send(t: &mut Transfer, ms: u64) -> Vec<u64> {
    let blocks: Vec<u64> = t.wanted().collect();
    if let Some(&last) = blocks.last() {
        t.sent(last, at(ms));
    }
    blocks
}

fn ack(t: &mut Transfer, number: u16, ms: u64) -> (Ack, Step) {
    t.on_ack(number, &pace(), at(ms))
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
    let t = Transfer::new(terms(1), false, &pace(), at(0));
    assert_eq!([0, 1, 511, 512, 513, 1024].map(|size| t.last_block(size)), [1, 1, 1, 2, 2, 3]);
}

#[test]
fn an_oack_is_repeated_until_it_is_answered_and_only_by_ack_0() {
    let mut t = Transfer::new(terms(4), true, &pace(), at(0));
    assert_eq!(t.start(), Step::Oack);
    assert!(t.wanted().is_empty());
    assert_eq!(t.on_timer(&pace(), at(299)), Step::Wait);
    assert_eq!(t.on_timer(&pace(), at(300)), Step::Oack);
    assert_eq!(t.deadline(), at(900), "doubled");
    assert_eq!(ack(&mut t, 1, 301), (Ack::Foreign, Step::Wait));
    assert_eq!(ack(&mut t, 0, 302), (Ack::New, Step::Blocks));
    assert_eq!(send(&mut t, 302), [1, 2, 3, 4]);
    assert_eq!(t.round_trip(), Duration::ZERO, "an answer to a repetition measures nothing");
}

#[test]
fn repeated_stale_and_future_acks_send_nothing_in_lock_step() {
    let mut t = started(terms(1), 9);
    ack(&mut t, 1, 1);
    send(&mut t, 1);
    for ms in 2..30 {
        assert_eq!(ack(&mut t, 1, ms), (Ack::Repeated, Step::Wait), "{ms}");
    }
    assert_eq!(ack(&mut t, 0, 30), (Ack::Foreign, Step::Wait), "stale");
    assert_eq!(ack(&mut t, 77, 30), (Ack::Foreign, Step::Wait), "never sent");
    assert_eq!(t.on_timer(&pace(), at(41)), Step::Blocks, "the timer honours it");
    assert_eq!(send(&mut t, 41), [2]);
    assert_eq!(ack(&mut t, 2, 42), (Ack::New, Step::Blocks));
}

#[test]
fn a_gap_in_the_window_is_filled_from_the_gap_on() {
    let mut t = started(terms(4), 9);
    assert_eq!(ack(&mut t, 2, 5), (Ack::New, Step::Blocks));
    assert_eq!(send(&mut t, 5), [3, 4, 5, 6]);
    // The client says the same again for every block behind the gap that still comes in.
    assert_eq!(ack(&mut t, 2, 5), (Ack::Repeated, Step::Wait));
    assert_eq!(ack(&mut t, 6, 9), (Ack::New, Step::Blocks));
    assert_eq!(send(&mut t, 9), [7, 8, 9]);
    assert_eq!(ack(&mut t, 9, 10), (Ack::New, Step::Done));
}

#[test]
fn the_loss_of_a_windows_first_block_is_mended_once_in_a_time_out() {
    let mut t = started(terms(4), 99);
    ack(&mut t, 4, 10);
    assert_eq!(send(&mut t, 10), [5, 6, 7, 8]);
    assert_eq!(ack(&mut t, 4, 11), (Ack::Repeated, Step::Wait), "sooner than an answer: a duplicate of the network's");
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
        assert_eq!(t.on_timer(&pace(), now), Step::Blocks);
        t.sent(2, now);
    }
    assert_eq!(waits, [40, 80, 160, 320, 640, 1280, 2560, 5120, 6000]);
    assert_eq!(t.on_ack(2, &pace(), now), (Ack::New, Step::Blocks));
    assert_eq!((t.deadline() - now).as_millis(), 40);
}

#[test]
fn a_negotiated_timeout_is_kept() {
    let mut t = started(Terms { timeout: Some(Duration::from_secs(2)), ..terms(1) }, 9);
    ack(&mut t, 1, 2);
    send(&mut t, 2);
    assert_eq!(t.deadline(), at(2002));
    assert_eq!(t.on_timer(&pace(), at(2002)), Step::Blocks);
    assert_eq!(t.deadline(), at(4002), "not doubled");
}

/// Lets the timer run out until the transfer is given up; how often it sent, and why.
fn until_given_up(t: &mut Transfer) -> (usize, Silence, Time) {
    for count in 0..100 {
        let now = t.deadline();
        match t.on_timer(&pace(), now) {
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
fn silent_clients_are_given_up() {
    let mut never = started(terms(1), 9);
    let (count, why, _) = until_given_up(&mut never);
    assert_eq!((count, why), (5, Silence::Never));
    let mut midway = started(terms(1), 9);
    ack(&mut midway, 1, 1);
    send(&mut midway, 1);
    let (_, why, when) = until_given_up(&mut midway);
    assert_eq!(why, Silence::Midway);
    assert!(when - at(1) >= pace().patience, "{when:?}");
    let mut end = started(terms(1), 2);
    ack(&mut end, 1, 1);
    send(&mut end, 1);
    let (count, why, _) = until_given_up(&mut end);
    assert_eq!((count, why), (5, Silence::AtTheEnd));
}

#[test]
fn a_client_that_answered_once_is_sent_three_windows_at_most() {
    for window in [1, 2, 16, 64] {
        let mut t = Transfer::new(terms(window), true, &pace(), at(0));
        assert_eq!(ack(&mut t, 0, 1), (Ack::New, Step::Blocks));
        let mut sent = send(&mut t, 1).len();
        let (mut bursts, mut repeated) = (vec![sent], 0);
        while let Step::Blocks = t.on_timer(&pace(), t.deadline()) {
            let ms = (t.deadline() - at(0)).as_millis() as u64;
            bursts.push(send(&mut t, ms).len());
            sent += bursts.last().unwrap();
            repeated += 1;
        }
        let window = usize::from(window);
        assert_eq!(bursts[..3], [window, window, (window / 2).max(1)]);
        assert!(sent < 3 * window + repeated, "{bursts:?}");
        assert_eq!(*bursts.last().unwrap(), 1);
    }
}

#[test]
fn a_client_that_is_heard_again_is_sent_whole_windows() {
    let mut t = Transfer::new(terms(8), true, &pace(), at(0));
    ack(&mut t, 0, 1);
    send(&mut t, 1);
    for _ in 0..3 {
        let now = t.deadline();
        assert_eq!(t.on_timer(&pace(), now), Step::Blocks);
        send(&mut t, (now - at(0)).as_millis() as u64);
    }
    assert_eq!(t.wanted().count(), 0);
    let now = t.deadline();
    t.on_timer(&pace(), now);
    assert_eq!(t.wanted(), 1..=1);
    let ms = (now - at(0)).as_millis() as u64;
    send(&mut t, ms);
    assert_eq!(ack(&mut t, 1, ms + 1), (Ack::New, Step::Blocks));
    assert_eq!(send(&mut t, ms + 1), (2..=9).collect::<Vec<_>>());
}

#[test]
fn an_ack_of_what_was_sent_before_going_back_counts() {
    let mut t = started(terms(4), 99);
    assert_eq!(t.on_timer(&pace(), at(300)), Step::Blocks);
    assert_eq!(ack(&mut t, 4, 301), (Ack::New, Step::Blocks), "before anything was repeated");
    assert_eq!(send(&mut t, 301), [5, 6, 7, 8]);
}

#[test]
fn block_numbers_roll_over_to_0_or_1() {
    for (rollover, numbers) in [(Rollover::Zero, [65535, 0, 1, 0]), (Rollover::One, [65535, 1, 2, 1])] {
        let t = Transfer::new(Terms { rollover, ..terms(1) }, false, &pace(), at(0));
        assert_eq!([65535, 65536, 65537, if rollover == Rollover::Zero { 131_072 } else { 131_071 }].map(|b| t.wire(b)), numbers);
    }
}

/// A whole transfer over a network that loses and doubles as `fate` says: 0 delivers, 1 loses, 2 delivers twice. The client is the plain one
/// of RFC 7440.
fn simulate(terms: Terms, blocks: u64, fate: &[u8]) -> Result<(), TestCaseError> {
    let mut fate = fate.iter().copied().cycle().enumerate().map(move |(index, f)| if index > fate.len() { 0 } else { f });
    let mut t = Transfer::new(terms, false, &pace(), at(0));
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
                match t.on_ack(number, &pace(), now).1 {
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
            if let Step::GiveUp(why) = t.on_timer(&pace(), now) {
                prop_assert!(why == Silence::AtTheEnd && received == blocks, "{why:?} at {received} of {blocks}, {sent} sent");
                return Ok(());
            }
        }
    }
    Err(TestCaseError::fail(format!("no end: {received} of {blocks}, {sent} sent")))
}

proptest! {
    #[test]
    fn every_transfer_ends_whatever_is_lost_or_doubled(window in 1u16..20, blocks in 1u64..300, one: bool,
                                                       mut fate in proptest::collection::vec(0u8..3, 1..60)) {
        let rollover = if one { Rollover::One } else { Rollover::Zero };
        // Losing everything for ever is not a network.
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
fn a_transfer_goes_on_where_another_server_left_it() {
    let mut t = Transfer::resume(terms(4), 70_000, 70_006, &pace(), at(0));
    assert!(t.heard());
    assert_eq!(send(&mut t, 0), [70_001, 70_002, 70_003, 70_004]);
    assert_eq!(ack(&mut t, wire(Rollover::Zero, 70_004), 1), (Ack::New, Step::Blocks));
    assert_eq!(send(&mut t, 1), [70_005, 70_006]);
    assert_eq!(ack(&mut t, wire(Rollover::Zero, 70_006), 2), (Ack::New, Step::Done));
}

#[test]
fn an_owner_that_comes_back_moves_forward_and_never_back() {
    let mut t = started(terms(1), 100_000);
    t.share(at(0));
    ack(&mut t, 1, 1);
    send(&mut t, 1);
    assert_eq!(ack(&mut t, 500, 2).0, Ack::Foreign, "nobody else goes on while the client is heard");
    let deadline = t.deadline();
    assert_eq!(t.on_timer(&pace(), deadline), Step::Blocks);
    let ms = (deadline - at(0)).as_millis() as u64;
    assert_eq!(ack(&mut t, wire(Rollover::Zero, 65_530), ms).0, Ack::Foreign, "an old ACK is not far ahead");
    assert_eq!(ack(&mut t, 500, ms), (Ack::New, Step::Blocks));
    assert_eq!((send(&mut t, ms), t.acked()), (vec![501], 500));
    assert_eq!(ack(&mut t, 2, ms + 1).0, Ack::Foreign);
    let mut alone = started(terms(1), 100_000);
    let deadline = alone.deadline();
    alone.on_timer(&pace(), deadline);
    assert_eq!(ack(&mut alone, 500, ms + 500).0, Ack::Foreign, "without others there is nobody who went on");
}

#[test]
fn an_oack_that_another_server_saw_answered_is_done() {
    let mut t = Transfer::new(terms(2), true, &pace(), at(0));
    t.ends_with(900);
    t.share(at(0));
    assert_eq!(ack(&mut t, 300, 1).0, Ack::Foreign);
    let deadline = t.deadline();
    assert_eq!(t.on_timer(&pace(), deadline), Step::Oack);
    assert_eq!(ack(&mut t, 300, 1000), (Ack::New, Step::Blocks));
    assert_eq!(send(&mut t, 1000), [301, 302]);
}

#[test]
fn nothing_is_sent_behind_what_heirs_may_know() {
    let mut t = started(terms(4), 20);
    assert!(!t.limit_to(6) && t.is_near_its_limit(8));
    ack(&mut t, 4, 1);
    assert_eq!(send(&mut t, 1), [5, 6]);
    ack(&mut t, 6, 2);
    assert!(send(&mut t, 2).is_empty());
    assert!(t.limit_to(u64::MAX));
    assert_eq!(send(&mut t, 3), [7, 8, 9, 10]);
}

proptest! {
    /// What a client acknowledges is understood by whoever knows where it was two notes ago, and an ACK that the network kept is not taken for another.
    #[test]
    fn numbers_are_understood_by_heirs(
        noted in 0u64..300_000,
        window in prop::sample::select(vec![1u16, 4, 64, 1000]),
        one in any::<bool>(),
        further in 0u64..40_000,
        old in 1u64..16_000,
    ) {
        let rollover = if one { Rollover::One } else { Rollover::Zero };
        let terms = Terms { rollover, ..terms(window) };
        let (acked, last) = (noted + further, noted + 1_000_000);
        prop_assert_eq!(acknowledged(&terms, noted, wire(rollover, acked), last), Some(acked));
        prop_assert_eq!(acknowledged(&terms, noted, wire(rollover, noted), last), Some(noted));
        let back = noted.saturating_sub(u64::from(window));
        prop_assert_eq!(acknowledged(&terms, noted, wire(rollover, back), last), Some(back));
        if let Some(stale) = back.checked_sub(old).filter(|stale| *stale > 0) {
            prop_assert_eq!(acknowledged(&terms, noted, wire(rollover, stale), last), None);
        }
        prop_assert_eq!(acknowledged(&terms, noted, wire(rollover, noted + 1), noted), None, "behind the last block");
    }
}

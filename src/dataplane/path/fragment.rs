//! Fourth stage: the first fragment of a packet shows its ports, and its backend is remembered. Later fragments follow it, early ones are held.
//!
//! Both are bounded: `ENTRIES` first fragments for `FRAGMENT_TIMEOUT`, `MAX_HELD` held frames for `HOLD_TIMEOUT`.

use super::parse::Packet;
use crate::tables::BackendId;
use guideway_packet::frame::{Frame, HEADROOM};
use guideway_packet::time::Time;
use guideway_packet::verdict::Reason;
use std::time::Duration;

/// First fragments remembered at once.
const ENTRIES: usize = 4096;
/// Places where one of them may stand.
const WAYS: usize = 8;
/// Early fragments held at once.
pub const MAX_HELD: usize = 128;
/// How long a first fragment is remembered. RFC 791 section 3.2 lets a receiver reassemble for 15 seconds.
pub const FRAGMENT_TIMEOUT: Duration = Duration::from_secs(15);
/// How long an early fragment is held. Reordering on the way is a matter of milliseconds.
pub const HOLD_TIMEOUT: Duration = Duration::from_secs(1);

/// First fragments, and early ones that are held.
#[derive(Debug)]
pub struct FragmentTable {
    first_fragments: Box<[FirstFragment]>,
    held: Box<[HeldFragment]>,
    bytes: Box<[u8]>,
    slot: usize,
    /// Held frames in order of arrival: index of the oldest, and how many.
    oldest: usize,
    count: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct FirstFragment {
    key: u64,
    until: Time,
    backend: BackendId,
}

#[derive(Clone, Copy, Debug)]
struct HeldFragment {
    key: u64,
    until: Time,
    len: usize,
    /// `None` once it was released; its place is free when it becomes the oldest.
    packet: Option<Packet>,
}

impl FragmentTable {
    /// Room for frames of up to `frame` bytes.
    pub fn new(frame: usize) -> FragmentTable {
        let slot = HEADROOM + frame;
        FragmentTable {
            first_fragments: vec![FirstFragment::default(); ENTRIES].into_boxed_slice(),
            held: vec![HeldFragment { key: 0, until: Time(0), len: 0, packet: None }; MAX_HELD].into_boxed_slice(),
            bytes: vec![0; MAX_HELD * slot].into_boxed_slice(),
            slot,
            oldest: 0,
            count: 0,
        }
    }

    /// The backend that the first fragment of `key` went to.
    pub fn find(&self, key: u64, now: Time) -> Option<BackendId> {
        self.first_fragments[set(key)].iter().find(|k| k.key == key && k.until > now).map(|k| k.backend)
    }

    /// Remembers that the first fragment of `key` goes to `backend`.
    pub fn learn(&mut self, key: u64, backend: BackendId, now: Time) -> Result<(), Reason> {
        let ways = &mut self.first_fragments[set(key)];
        let at = ways.iter().position(|k| k.key == key).or_else(|| ways.iter().position(|k| k.until <= now));
        ways[at.ok_or(Reason::FragmentTableFull)?] = FirstFragment { key, until: now.plus(FRAGMENT_TIMEOUT), backend };
        Ok(())
    }

    /// Keeps an early fragment.
    pub fn hold(&mut self, key: u64, packet: &Packet, frame: &[u8], now: Time) -> Result<(), Reason> {
        if self.count == MAX_HELD || HEADROOM + frame.len() > self.slot {
            return Err(Reason::FragmentHoldFull);
        }
        let at = (self.oldest + self.count) % MAX_HELD;
        self.held[at] = HeldFragment { key, until: now.plus(HOLD_TIMEOUT), len: frame.len(), packet: Some(*packet) };
        self.bytes[at * self.slot + HEADROOM..][..frame.len()].copy_from_slice(frame);
        self.count += 1;
        Ok(())
    }

    /// Hands the held fragments of `key` to `release`, in order of arrival, and forgets them.
    pub fn release(&mut self, key: u64, mut release: impl FnMut(&Packet, &mut Frame<'_>)) {
        for n in 0..self.count {
            let at = (self.oldest + n) % MAX_HELD;
            let held = &mut self.held[at];
            if held.key == key
                && let Some(packet) = held.packet.take()
            {
                let place = &mut self.bytes[at * self.slot..][..self.slot];
                release(&packet, &mut Frame::new(place, HEADROOM, held.len));
            }
        }
        self.trim(|_| false);
    }

    /// Forgets held fragments whose time is over; returns how many.
    pub fn expire(&mut self, now: Time) -> usize {
        self.trim(|held| held.until <= now)
    }

    /// Frees the oldest places: those of released fragments, and those that are `over`, which are counted.
    fn trim(&mut self, over: impl Fn(&HeldFragment) -> bool) -> usize {
        let mut expired = 0;
        while self.count > 0 {
            let oldest = &mut self.held[self.oldest];
            if oldest.packet.is_some() {
                if !over(oldest) {
                    break;
                }
                oldest.packet = None;
                expired += 1;
            }
            self.oldest = (self.oldest + 1) % MAX_HELD;
            self.count -= 1;
        }
        expired
    }
}

fn set(key: u64) -> std::ops::Range<usize> {
    let set = key as usize % (ENTRIES / WAYS) * WAYS;
    set..set + WAYS
}

#[cfg(test)]
mod tests {
    use super::*;
    use guideway_packet::wire::ip::Ip;

    fn packet() -> Packet {
        let bytes = guideway_packet::wire::build::udp("198.51.100.7:2000".parse().unwrap(), "192.0.2.69:69".parse().unwrap(), b"x");
        let ip = Ip::parse(bytes.ethertype(), bytes.bytes()).unwrap();
        Packet { l2: 14, inner: 14, in_gre: false, from_remote_site: false, ttl: 64, tos: 0, ip }
    }

    #[test]
    fn a_lesson_is_remembered_for_its_time_and_overwritten_by_a_newer_one() {
        let mut fragments = FragmentTable::new(100);
        fragments.learn(9, 3, Time(0)).unwrap();
        assert_eq!(fragments.find(9, Time(0).plus(FRAGMENT_TIMEOUT - Duration::from_nanos(1))), Some(3));
        assert_eq!(fragments.find(9, Time(0).plus(FRAGMENT_TIMEOUT)), None);
        fragments.learn(9, 4, Time(5)).unwrap();
        assert_eq!(fragments.find(9, Time(6)), Some(4));
        assert_eq!(fragments.find(8, Time(6)), None);
    }

    #[test]
    fn a_full_set_refuses_until_something_in_it_expires() {
        let mut fragments = FragmentTable::new(100);
        let key = |n: usize| (n * (ENTRIES / WAYS) + 1) as u64;
        for n in 0..WAYS {
            fragments.learn(key(n), 1, Time(n as u64)).unwrap();
        }
        assert_eq!(fragments.learn(key(WAYS), 1, Time(100)), Err(Reason::FragmentTableFull));
        fragments.learn(key(WAYS), 1, Time(0).plus(FRAGMENT_TIMEOUT)).unwrap();
        assert_eq!(fragments.find(key(0), Time(0).plus(FRAGMENT_TIMEOUT)), None);
    }

    #[test]
    fn held_fragments_leave_in_order_of_arrival_and_places_are_used_again() {
        let mut fragments = FragmentTable::new(8);
        for round in 0..3u8 {
            for n in 0..MAX_HELD {
                fragments.hold((n % 2) as u64, &packet(), &[round, n as u8], Time(n as u64)).unwrap();
            }
            assert_eq!(fragments.hold(7, &packet(), &[0], Time(0)), Err(Reason::FragmentHoldFull));
            let mut seen = Vec::new();
            fragments.release(1, |_, frame| seen.push(frame.bytes().to_vec()));
            assert_eq!(seen, (0..MAX_HELD as u8).filter(|n| n % 2 == 1).map(|n| vec![round, n]).collect::<Vec<_>>());
            assert_eq!(fragments.expire(Time(0).plus(HOLD_TIMEOUT)), 1, "only the oldest is over");
            assert_eq!(fragments.expire(Time(MAX_HELD as u64).plus(HOLD_TIMEOUT)), MAX_HELD / 2 - 1);
        }
        assert_eq!(fragments.hold(1, &packet(), &[0; 9], Time(0)), Err(Reason::FragmentHoldFull), "longer than a place");
    }
}

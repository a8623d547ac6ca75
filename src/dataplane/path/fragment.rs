//! Fourth stage: the first fragment of a datagram shows its ports, and its backend is remembered. Later fragments follow it, early ones are held.
//!
//! Both are bounded and forget the oldest: see [`super::first_fragments`], and [`MAX_HELD`] frames that each worker holds for [`HOLD_TIMEOUT`].

use super::first_fragments::FirstFragments;
use super::parse::Packet;
use crate::tables::BackendId;
use guideway_packet::frame::{Frame, HEADROOM};
use guideway_packet::time::Time;
use std::sync::Arc;
use std::time::Duration;

/// Early fragments held at once: some ten datagrams of 64 KiB whose fragments come in reverse order.
pub const MAX_HELD: usize = 512;
/// How long an early fragment is held. Reordering on the way is a matter of milliseconds.
pub const HOLD_TIMEOUT: Duration = Duration::from_secs(1);

/// First fragments, and early ones that are held.
#[derive(Debug)]
pub struct FragmentTable {
    first_fragments: Arc<FirstFragments>,
    /// Other workers learn first fragments, too.
    shared: bool,
    /// What [`FirstFragments::learned`] said when no held fragment was known.
    checked: u64,
    held: Box<[HeldFragment]>,
    bytes: Box<[u8]>,
    slot: usize,
    /// Held frames in order of arrival: index of the oldest, and how many.
    oldest: usize,
    count: usize,
    evicted: u64,
}

#[derive(Clone, Copy, Debug)]
struct HeldFragment {
    key: u64,
    until: Time,
    len: usize,
    /// `None` once it was released; its place is free when it becomes the oldest.
    packet: Option<Packet>,
}

/// What became of a fragment that came before its first one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// It is held.
    Held,
    /// It is held, and the oldest one was dropped for it.
    Replaced,
    /// It is longer than a place.
    TooLong,
}

impl FragmentTable {
    /// Room for frames of up to `frame` bytes.
    pub fn new(frame: usize) -> FragmentTable {
        let slot = HEADROOM + frame;
        FragmentTable {
            first_fragments: Arc::default(),
            shared: false,
            checked: 0,
            held: vec![HeldFragment { key: 0, until: Time(0), len: 0, packet: None }; MAX_HELD].into_boxed_slice(),
            bytes: vec![0; MAX_HELD * slot].into_boxed_slice(),
            slot,
            oldest: 0,
            count: 0,
            evicted: 0,
        }
    }

    /// Makes room for frames of up to `frame` bytes, if there is less. Held fragments stay.
    pub fn make_room(&mut self, frame: usize) {
        let slot = HEADROOM + frame;
        if slot > self.slot {
            let mut bytes = vec![0; MAX_HELD * slot].into_boxed_slice();
            for (to, from) in bytes.chunks_exact_mut(slot).zip(self.bytes.chunks_exact(self.slot)) {
                to[..from.len()].copy_from_slice(from);
            }
            (self.bytes, self.slot) = (bytes, slot);
        }
    }

    /// Learns together with other workers from now on.
    pub fn share(&mut self, first_fragments: &Arc<FirstFragments>) {
        (self.first_fragments, self.shared) = (first_fragments.clone(), true);
    }

    /// Whether any fragment is held.
    pub fn holds(&self) -> bool {
        self.count > 0
    }

    /// A datagram of which fragments are held here and whose first fragment came to another worker, and its backend.
    pub fn next_known(&mut self, now: Time) -> Option<(u64, BackendId)> {
        let learned = self.first_fragments.learned();
        if !self.shared || self.count == 0 || learned == self.checked {
            return None;
        }
        let held = (0..self.count).map(|n| &self.held[(self.oldest + n) % MAX_HELD]).filter(|held| held.packet.is_some());
        let known = held.map(|held| held.key).find_map(|key| Some((key, self.first_fragments.peek(key, now)?)));
        if known.is_none() {
            self.checked = learned;
        }
        known
    }

    /// The backend of the datagram `key`, of which the later fragment in `packet` now passes.
    pub fn find(&self, key: u64, packet: &Packet, now: Time) -> Option<BackendId> {
        self.first_fragments.find(key, packet, now)
    }

    /// Remembers that the datagram `key`, of which `packet` is the first fragment, goes to `backend`.
    pub fn learn(&mut self, key: u64, backend: BackendId, packet: &Packet, now: Time) {
        self.evicted += u64::from(self.first_fragments.learn(key, backend, packet, now));
    }

    /// How many datagrams were forgotten before they were complete or their time was over.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Keeps an early fragment. Without a free place, the oldest one leaves.
    pub fn hold(&mut self, key: u64, packet: &Packet, frame: &[u8], now: Time) -> Hold {
        if HEADROOM + frame.len() > self.slot {
            return Hold::TooLong;
        }
        let full = self.count == MAX_HELD;
        if full {
            // `trim` never leaves a released one behind as the oldest.
            self.held[self.oldest].packet = None;
            self.trim(|_| false);
        }
        let at = (self.oldest + self.count) % MAX_HELD;
        self.held[at] = HeldFragment { key, until: now.plus(HOLD_TIMEOUT), len: frame.len(), packet: Some(*packet) };
        self.bytes[at * self.slot + HEADROOM..][..frame.len()].copy_from_slice(frame);
        self.count += 1;
        if full { Hold::Replaced } else { Hold::Held }
    }

    /// Hands the held fragments of `key` to `release`, in order of arrival, and forgets them.
    pub fn release(&mut self, key: u64, now: Time, mut release: impl FnMut(&Packet, &mut Frame<'_>)) {
        for n in 0..self.count {
            let at = (self.oldest + n) % MAX_HELD;
            let held = &mut self.held[at];
            if held.key == key
                && let Some(packet) = held.packet.take()
            {
                let place = &mut self.bytes[at * self.slot..][..self.slot];
                self.first_fragments.find(key, &packet, now);
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

#[cfg(test)]
mod tests {
    use super::*;
    use guideway_packet::wire::ip::Ip;

    fn packet() -> Packet {
        let bytes = guideway_packet::wire::build::udp("198.51.100.7:2000".parse().unwrap(), "192.0.2.69:69".parse().unwrap(), b"x");
        let ip = Ip::parse(bytes.ethertype(), bytes.bytes()).unwrap();
        Packet {
            l2: 14,
            inner: 14,
            in_gre: false,
            from_remote_site: false,
            from_fleet: false,
            for_local_server: false,
            ttl: 64,
            tos: 0,
            ip,
        }
    }

    #[test]
    fn held_fragments_leave_in_order_of_arrival_and_places_are_used_again() {
        let mut fragments = FragmentTable::new(8);
        for round in 0..3u8 {
            for n in 0..MAX_HELD {
                assert_eq!(fragments.hold((n % 2) as u64, &packet(), &[round, n as u8], Time(n as u64)), Hold::Held);
            }
            let mut seen = Vec::new();
            fragments.release(1, Time(0), |_, frame| seen.push(frame.bytes().to_vec()));
            assert_eq!(seen, (0..MAX_HELD).filter(|n| n % 2 == 1).map(|n| vec![round, n as u8]).collect::<Vec<_>>());
            assert_eq!(fragments.expire(Time(0).plus(HOLD_TIMEOUT)), 1, "only the oldest is over");
            assert_eq!(fragments.expire(Time(MAX_HELD as u64).plus(HOLD_TIMEOUT)), MAX_HELD / 2 - 1);
        }
        assert_eq!(fragments.hold(1, &packet(), &[0; 9], Time(0)), Hold::TooLong);
    }

    #[test]
    fn without_a_free_place_the_oldest_leaves() {
        let mut fragments = FragmentTable::new(8);
        for n in 0..=MAX_HELD {
            let hold = fragments.hold(n as u64, &packet(), &[0], Time(0));
            assert_eq!(hold, if n == MAX_HELD { Hold::Replaced } else { Hold::Held });
        }
        for (key, expected) in [(0, 0), (1, 1), (MAX_HELD as u64, 1)] {
            let mut released = 0;
            fragments.release(key, Time(0), |_, _| released += 1);
            assert_eq!(released, expected, "{key}");
        }
        assert_eq!(fragments.hold(7, &packet(), &[0], Time(0)), Hold::Held, "the second oldest left a place");
    }
}

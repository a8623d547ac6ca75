//! A timer wheel for thousands of timers that are nearly always moved before they expire.
//!
//! A timer that is moved to a later time keeps its entry. When the entry expires, the owner notices that the deadline is later and schedules it
//! again. So an acknowledgement costs no work here.

use guideway_packet::time::Time;
use std::time::Duration;

/// Nanoseconds of one tick.
const TICK: u64 = 4_000_000;
const SLOTS: u64 = 1024;

/// The wheel. `K` identifies a timer's owner.
#[derive(Debug)]
pub struct TimerWheel<K> {
    slots: Vec<Vec<K>>,
    /// All ticks before this one have been handled.
    tick: u64,
    /// No slot before this tick holds a timer.
    first: u64,
    len: usize,
}

impl<K: Copy> TimerWheel<K> {
    /// Creates an empty wheel.
    pub fn new(now: Time) -> TimerWheel<K> {
        TimerWheel { slots: std::iter::repeat_with(Vec::new).take(SLOTS as usize).collect(), tick: now.0 / TICK, first: 0, len: 0 }
    }

    /// Schedules a timer and returns the tick at which it expires: not before `at`, except that a timer beyond the wheel's 4 s expires
    /// early.
    pub fn schedule(&mut self, at: Time, key: K) -> u64 {
        let tick = at.0.div_ceil(TICK).clamp(self.tick, self.tick + SLOTS - 1);
        self.slots[(tick % SLOTS) as usize].push(key);
        self.len += 1;
        self.first = self.first.min(tick);
        tick
    }

    /// Returns whether a timer that expires at `tick` is too late for `at`.
    pub fn too_late(tick: u64, at: Time) -> bool {
        at.0.div_ceil(TICK) < tick
    }

    /// Moves expired timers, each with its tick, to `due`.
    pub fn advance(&mut self, now: Time, due: &mut Vec<(u64, K)>) {
        let until = now.0 / TICK;
        // After a long pause every slot is visited once, not once for every missed tick.
        for tick in self.tick..=until.min(self.tick + SLOTS - 1) {
            let slot = &mut self.slots[(tick % SLOTS) as usize];
            self.len -= slot.len();
            due.extend(slot.drain(..).map(|key| (tick, key)));
            if slot.capacity() > 64 {
                slot.shrink_to(64);
            }
        }
        self.tick = self.tick.max(until + 1);
    }

    /// Returns the time until a timer may expire; `None` without timers.
    pub fn until_next(&mut self, now: Time) -> Option<Duration> {
        if self.len == 0 {
            return None;
        }
        let next = (self.first.max(self.tick)..self.tick + SLOTS).find(|tick| !self.slots[(tick % SLOTS) as usize].is_empty())?;
        self.first = next;
        Some(Time(next * TICK) - now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_timer_expires_once_and_in_time(delays in proptest::collection::vec(0u64..3_900_000_000, 1..100),
                                                       steps in proptest::collection::vec(1u64..2_000_000_000, 40)) {
            let mut now = Time(7_777_777_777);
            let mut timer_wheel = TimerWheel::new(now);
            let at: Vec<Time> = delays.iter().map(|&d| Time(now.0 + d)).collect();
            at.iter().enumerate().for_each(|(key, &at)| { timer_wheel.schedule(at, key); });
            let mut seen = vec![false; at.len()];
            let mut due = Vec::new();
            for step in steps {
                let before = now;
                now = Time(now.0 + step);
                if let Some(until_next) = timer_wheel.until_next(before) {
                    let first = at.iter().zip(&seen).filter(|(_, seen)| !**seen).map(|(at, _)| *at).min().unwrap();
                    prop_assert!(before.plus(until_next).0 <= first.0 + 2 * TICK);
                }
                timer_wheel.advance(now, &mut due);
                for (_, key) in due.drain(..) {
                    prop_assert!(!std::mem::replace(&mut seen[key], true));
                    prop_assert!(at[key] <= now);
                }
                prop_assert!(at.iter().zip(&seen).all(|(at, seen)| *seen || at.0 + 2 * TICK > now.0));
            }
        }
    }

    #[test]
    fn timers_beyond_the_wheel_expire_early() {
        let mut timer_wheel = TimerWheel::new(Time(0));
        let tick = timer_wheel.schedule(Time(60_000_000_000), 'x');
        assert_eq!(tick, SLOTS - 1);
        let mut due = Vec::new();
        timer_wheel.advance(Time(TICK * SLOTS), &mut due);
        assert_eq!(due, [(SLOTS - 1, 'x')]);
        assert_eq!(timer_wheel.until_next(Time(TICK * SLOTS)), None);
    }
}

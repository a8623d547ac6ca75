//! A timer wheel for many thousands of timers that are nearly always moved before they run out.
//!
//! A timer that is moved to a later time stays where it is: when its turn comes, the owner finds that the time has not come and sets it
//! again. So an acknowledgement costs no work here.

use guideway_packet::time::Time;
use std::time::Duration;

/// Nanoseconds of one turn.
const TICK: u64 = 4_000_000;
const SLOTS: u64 = 1024;

/// The wheel. `K` names a timer's owner.
#[derive(Debug)]
pub struct Wheel<K> {
    slots: Vec<Vec<K>>,
    /// All ticks before this one have been handled.
    tick: u64,
    /// No slot before this tick holds a timer.
    first: u64,
    len: usize,
}

impl<K: Copy> Wheel<K> {
    /// An empty wheel.
    pub fn new(now: Time) -> Wheel<K> {
        Wheel { slots: std::iter::repeat_with(Vec::new).take(SLOTS as usize).collect(), tick: now.0 / TICK, first: 0, len: 0 }
    }

    /// Sets a timer, and gives the tick at which it will be handed out: not before `at`, except that one beyond the wheel's 4 s is handed
    /// out early.
    pub fn set(&mut self, at: Time, key: K) -> u64 {
        let tick = at.0.div_ceil(TICK).clamp(self.tick, self.tick + SLOTS - 1);
        self.slots[(tick % SLOTS) as usize].push(key);
        self.len += 1;
        self.first = self.first.min(tick);
        tick
    }

    /// Whether a timer that is handed out at `tick` comes too late for `at`.
    pub fn too_late(tick: u64, at: Time) -> bool {
        at.0.div_ceil(TICK) < tick
    }

    /// Moves the timers whose turn has come, each with its tick, to `due`.
    pub fn turn(&mut self, now: Time, due: &mut Vec<(u64, K)>) {
        let until = now.0 / TICK;
        // After a long pause every slot is looked at once, not once for every turn that was missed.
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

    /// How long nothing is due; nothing when no timer is set.
    pub fn idle(&mut self, now: Time) -> Option<Duration> {
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
        fn every_timer_comes_once_never_early_and_soon(delays in proptest::collection::vec(0u64..3_900_000_000, 1..100),
                                                       steps in proptest::collection::vec(1u64..2_000_000_000, 40)) {
            let mut now = Time(7_777_777_777);
            let mut wheel = Wheel::new(now);
            let at: Vec<Time> = delays.iter().map(|&d| Time(now.0 + d)).collect();
            at.iter().enumerate().for_each(|(key, &at)| { wheel.set(at, key); });
            let mut seen = vec![false; at.len()];
            let mut due = Vec::new();
            for step in steps {
                let before = now;
                now = Time(now.0 + step);
                if let Some(idle) = wheel.idle(before) {
                    let first = at.iter().zip(&seen).filter(|(_, seen)| !**seen).map(|(at, _)| *at).min().unwrap();
                    prop_assert!(before.plus(idle).0 <= first.0 + 2 * TICK);
                }
                wheel.turn(now, &mut due);
                for (_, key) in due.drain(..) {
                    prop_assert!(!std::mem::replace(&mut seen[key], true));
                    prop_assert!(at[key] <= now);
                }
                prop_assert!(at.iter().zip(&seen).all(|(at, seen)| *seen || at.0 + 2 * TICK > now.0));
            }
        }
    }

    #[test]
    fn what_lies_beyond_the_wheel_comes_early() {
        let mut wheel = Wheel::new(Time(0));
        let tick = wheel.set(Time(60_000_000_000), 'x');
        assert_eq!(tick, SLOTS - 1);
        let mut due = Vec::new();
        wheel.turn(Time(TICK * SLOTS), &mut due);
        assert_eq!(due, [(SLOTS - 1, 'x')]);
        assert_eq!(wheel.idle(Time(TICK * SLOTS)), None);
    }
}

//! Whether the workers are at work: each turns at least ten times a second, with packets or without. No clock: time is passed in.

use guideway_packet::time::Time;
use std::time::Duration;

/// Between two looks.
pub const LOOK: Duration = Duration::from_secs(1);
/// A worker that has not turned over so many looks is stuck. Looks are counted, not seconds: when the whole process was stopped, nobody looked.
pub const LOOKS: u32 = 3;

/// What was seen at the last looks.
#[derive(Debug, Default)]
pub struct Pulse {
    looked: Option<Time>,
    threads: Vec<Seen>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    turns: u64,
    /// Looks since it last turned.
    still: u32,
}

impl Pulse {
    /// Looks at how often each thread has turned since it started; gives the first one that is stuck.
    pub fn look(&mut self, now: Time, turns: &[u64]) -> Option<usize> {
        self.threads.resize(turns.len(), Seen::default());
        if self.looked.is_none_or(|before| now - before >= LOOK) {
            self.looked = Some(now);
            for (seen, turns) in self.threads.iter_mut().zip(turns) {
                seen.still = if seen.turns == *turns { seen.still.saturating_add(1) } else { 0 };
                seen.turns = *turns;
            }
        }
        self.threads.iter().position(|seen| seen.still >= LOOKS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> Time {
        Time::default().plus(Duration::from_secs_f64(seconds))
    }

    #[test]
    fn who_does_not_turn_over_three_looks_is_stuck_until_it_turns() {
        let mut pulse = Pulse::default();
        assert_eq!(pulse.look(at(0.0), &[5, 7]), None);
        assert_eq!(pulse.look(at(1.0), &[6, 7]), None);
        assert_eq!(pulse.look(at(2.0), &[7, 7]), None);
        assert_eq!(pulse.look(at(2.5), &[7, 7]), None, "that was too soon to count");
        assert_eq!(pulse.look(at(3.0), &[8, 7]), Some(1));
        assert_eq!(pulse.look(at(3.2), &[8, 8]), Some(1));
        assert_eq!(pulse.look(at(4.0), &[9, 8]), None);
    }

    #[test]
    fn a_process_that_was_stopped_is_not_stuck() {
        let mut pulse = Pulse::default();
        pulse.look(at(0.0), &[1]);
        assert_eq!(pulse.look(at(3600.0), &[1]), None);
        assert_eq!(pulse.look(at(3601.0), &[2]), None);
    }
}

//! The table's own clock: whole seconds that never go back, whatever the time that is passed in does.

use crate::time::Time;

/// A step back of at most this many seconds is disorder (packets of a capture, say): the clock waits. A larger one is a new origin.
const DISORDER: u64 = 60;

/// Seconds since the first time seen, and the time it was then told.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Clock {
    told: Option<u64>,
    second: u64,
}

impl Clock {
    /// Whether `now` is in the second in which the clock already is: for nearly every packet.
    #[inline]
    pub fn is_at(&self, now: Time) -> bool {
        self.told == Some(now.seconds())
    }

    /// The clock at `now`.
    pub fn at(self, now: Time) -> Clock {
        let seconds = now.seconds();
        let Some(told) = self.told else { return Clock { told: Some(seconds), second: 0 } };
        match seconds.checked_sub(told) {
            Some(passed) => Clock { told: Some(seconds), second: self.second.saturating_add(passed) },
            None if told - seconds <= DISORDER => self,
            None => Clock { told: Some(seconds), ..self },
        }
    }

    /// Seconds on a clock that only goes forward.
    #[inline]
    pub fn second(&self) -> u64 {
        self.second
    }

    /// The same as deadlines count it.
    #[inline]
    pub fn wrapped(&self) -> u16 {
        self.second as u16
    }
}

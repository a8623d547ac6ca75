//! The table's own clock: whole seconds that never go back, whatever the time that is passed in does.

use guideway_packet::time::Time;

/// A step back of at most this many seconds is disorder (packets of a capture, say): the clock waits. A larger one is a new origin.
const MAX_BACKSTEP: u64 = 60;

/// Seconds since the first time seen, and the last time seen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    last_seen: u64,
    second: u64,
}

/// Before the first time is seen. Not a second that a [`Time`] can name.
const NEVER: u64 = u64::MAX;

impl Default for Clock {
    fn default() -> Clock {
        Clock { last_seen: NEVER, second: 0 }
    }
}

impl Clock {
    /// Whether `now` is in the second in which the clock already is: for nearly every packet.
    #[inline]
    pub fn is_at(&self, now: Time) -> bool {
        self.last_seen == now.seconds()
    }

    /// The clock at `now`.
    pub fn at(self, now: Time) -> Clock {
        let seconds = now.seconds();
        if self.last_seen == NEVER {
            return Clock { last_seen: seconds, second: 0 };
        }
        match seconds.checked_sub(self.last_seen) {
            Some(passed) => Clock { last_seen: seconds, second: self.second.saturating_add(passed) },
            None if self.last_seen - seconds <= MAX_BACKSTEP => self,
            None => Clock { last_seen: seconds, ..self },
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

//! Time as the packet path sees it: passed in, never read.

use std::ops::Sub;
use std::time::Duration;

/// Nanoseconds since an origin that the io chooses (boot, or the epoch of a capture). Never goes back within one io.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub u64);

impl Time {
    /// The instant `after` later; stays at the last representable instant.
    pub fn plus(self, after: Duration) -> Time {
        Time(self.0.saturating_add(u64::try_from(after.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// Whole seconds since the origin.
    pub fn seconds(self) -> u64 {
        self.0 / 1_000_000_000
    }
}

impl Sub for Time {
    type Output = Duration;

    /// Time passed since `earlier`; zero when `earlier` is in the future.
    fn sub(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

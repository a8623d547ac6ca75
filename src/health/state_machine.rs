//! One backend as a state machine without I/O: takes results and time, decides whether the backend gets new flows.
//!
//! ```text
//! Unknown ──good──► Up ◄──slow start over── Slow ◄──rise good in a row, and good for the hold── Down
//!    └──failed──► Down ◄──fall failed in a row──┴── (from Up and from Slow)
//! ```
//!
//! An unchecked backend counts as up; its first check alone decides. The hold time dampens flapping. It is zero after the first fall,
//! `hold_down` after a second one within `flap_window`, and doubles with each further fall.

use guideway_config::Check;
use guideway_packet::time::Time;
use guideway_store::Observation;
use std::time::Duration;

/// Percentage of its weight that a backend starts with, and that each step of the slow start adds.
const STEP: u8 = 10;
/// Number of steps of the slow start before the full weight.
const STEPS: u32 = 9;

/// The phase of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not checked yet.
    Unknown,
    /// Up.
    Up,
    /// In its slow start since this time.
    Slow(Time),
    /// Down since this time.
    Down(Time),
}

/// The effect of a result or of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The first check passed.
    FirstGood,
    /// It went down.
    WentDown,
    /// It recovered: up, or in its slow start.
    CameUp,
    /// It gets more of its weight, or all of it.
    WeightStep,
}

/// The state of one backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendMachine {
    phase: Phase,
    /// Numbers of passed and failed checks in a row; one of them is 0.
    passes: u32,
    fails: u32,
    /// Time of the first of the passed checks in a row.
    good_since: Time,
    /// Number of falls without `flap_window` between them, and the time of the last one.
    falls: u32,
    went_down: Time,
}

impl Default for BackendMachine {
    fn default() -> Self {
        BackendMachine { phase: Phase::Unknown, passes: 0, fails: 0, good_since: Time(0), falls: 0, went_down: Time(0) }
    }
}

impl BackendMachine {
    /// Returns its phase.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Returns the number of passed checks in a row.
    pub fn passes(&self) -> u32 {
        self.passes
    }

    /// Returns the number of failed checks in a row.
    pub fn fails(&self) -> u32 {
        self.fails
    }

    /// Takes the result of a check and changes the phase if necessary.
    pub fn outcome(&mut self, now: Time, check: &Check, good: bool) -> Option<Change> {
        self.count(now, good);
        match self.phase {
            Phase::Unknown if good => {
                self.phase = Phase::Up;
                Some(Change::FirstGood)
            }
            Phase::Unknown => Some(self.fall(now, check)),
            Phase::Up | Phase::Slow(_) if self.fails >= u32::from(check.fall) => Some(self.fall(now, check)),
            Phase::Down(_) if self.passes >= u32::from(check.rise) && now >= self.good_since.plus(self.hold_down(check)) => {
                self.phase = if check.slow_start.is_zero() { Phase::Up } else { Phase::Slow(now) };
                Some(Change::CameUp)
            }
            _ => None,
        }
    }

    /// Takes the result of a check without changing the phase: another controller decides, and this one stays ready.
    pub fn count(&mut self, now: Time, good: bool) {
        if good {
            if self.passes == 0 {
                self.good_since = now;
            }
            (self.passes, self.fails) = (self.passes.saturating_add(1), 0);
        } else {
            (self.passes, self.fails) = (0, self.fails.saturating_add(1));
        }
    }

    /// Adopts the state that another controller, or this one before a restart, published.
    pub fn adopt(&mut self, now: Time, check: &Check, published: Observation) {
        match (published, self.phase) {
            (Observation::Down, Phase::Down(_)) | (Observation::Up, Phase::Up) => {}
            (Observation::Down, _) => {
                self.fall(now, check);
            }
            (Observation::Up, _) => self.phase = Phase::Up,
            (Observation::Slow { .. }, _) if check.slow_start.is_zero() => self.phase = Phase::Up,
            (Observation::Slow { percent }, _) => {
                let steps = u32::from(percent.saturating_sub(STEP) / STEP).min(STEPS - 1);
                let passed = check.slow_start * steps / STEPS;
                self.phase = Phase::Slow(Time(now.0.saturating_sub(u64::try_from(passed.as_nanos()).unwrap_or(u64::MAX))));
            }
        }
    }

    /// Starts to count anew for a changed check; keeps the phase.
    pub fn restart(&mut self) {
        (self.passes, self.fails) = (0, 0);
    }

    /// Acts on time; nothing happens before [`BackendMachine::deadline`].
    pub fn expire(&mut self, now: Time, check: &Check, before: Observation) -> Option<Change> {
        if let Phase::Slow(since) = self.phase
            && now >= since.plus(check.slow_start)
        {
            self.phase = Phase::Up;
        }
        (self.observation(now, check) != before).then_some(Change::WeightStep)
    }

    /// Returns the time of the next step of the slow start.
    pub fn deadline(&self, now: Time, check: &Check) -> Option<Time> {
        let Phase::Slow(since) = self.phase else { return None };
        (1..=STEPS).map(|step| since.plus(check.slow_start * step / STEPS)).find(|at| *at > now).or(Some(now))
    }

    /// Returns whether it gets new flows.
    pub fn observation(&self, now: Time, check: &Check) -> Observation {
        match self.phase {
            Phase::Unknown | Phase::Up => Observation::Up,
            Phase::Down(_) => Observation::Down,
            Phase::Slow(since) if now >= since.plus(check.slow_start) => Observation::Up,
            Phase::Slow(since) => {
                let step = (0..STEPS).rev().find(|step| now >= since.plus(check.slow_start * *step / STEPS)).unwrap_or(0);
                Observation::Slow { percent: STEP * u8::try_from(step + 1).unwrap_or(1) }
            }
        }
    }

    /// Returns how long it must have passed before it is up again.
    pub fn hold_down(&self, check: &Check) -> Duration {
        match self.falls {
            0 | 1 => Duration::ZERO,
            falls => check.hold_down.checked_mul(1 << (falls - 2).min(30)).unwrap_or(check.hold_down_max).min(check.hold_down_max),
        }
    }

    fn fall(&mut self, now: Time, check: &Check) -> Change {
        self.falls = if self.falls > 0 && now - self.went_down <= check.flap_window { self.falls.saturating_add(1) } else { 1 };
        (self.went_down, self.phase) = (now, Phase::Down(now));
        Change::WentDown
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use guideway_config::Probe;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    fn at(seconds: u64) -> Time {
        Time(seconds * SECOND)
    }

    fn check() -> Check {
        Check { slow_start: Duration::from_secs(9), ..Check::new(Probe::Icmp) }
    }

    /// Feeds results two seconds apart from `from` on: `g` passed, `b` failed. Returns the changes and their times.
    fn apply_outcomes(machine: &mut BackendMachine, check: &Check, from: u64, outcomes: &str) -> Vec<(u64, Change)> {
        let each = outcomes.bytes().enumerate().map(|(index, outcome)| (from + 2 * index as u64, outcome == b'g'));
        each.filter_map(|(second, good)| Some((second, machine.outcome(at(second), check, good)?))).collect()
    }

    #[test]
    fn the_first_check_decides_and_later_ones_need_rise_and_fall() {
        let (mut machine, check) = (BackendMachine::default(), check());
        assert_eq!(machine.observation(at(0), &check), Observation::Up, "not checked yet");
        assert_eq!(apply_outcomes(&mut machine, &check, 0, "gbbgbbb"), [(0, Change::FirstGood), (12, Change::WentDown)]);
        assert_eq!(apply_outcomes(&mut machine, &check, 14, "gbgg"), [(20, Change::CameUp)]);
        assert_eq!(machine.observation(at(20), &check), Observation::Slow { percent: 10 });
        let mut dead = BackendMachine::default();
        assert_eq!(apply_outcomes(&mut dead, &check, 0, "b"), [(0, Change::WentDown)]);
    }

    #[test]
    fn a_slow_start_has_nine_steps_and_may_end_early() {
        let (mut machine, check) = (BackendMachine::default(), check());
        apply_outcomes(&mut machine, &check, 0, "bgg");
        let mut now = at(4);
        let mut seen = vec![machine.observation(now, &check)];
        while let Some(next) = machine.deadline(now, &check) {
            assert!(next > now);
            now = next;
            assert_eq!(machine.expire(now, &check, seen[seen.len() - 1]), Some(Change::WeightStep));
            seen.push(machine.observation(now, &check));
        }
        let steps = (1..=9).map(|step| Observation::Slow { percent: step * 10 }).chain([Observation::Up]);
        assert_eq!(seen, steps.collect::<Vec<_>>());
        assert_eq!(now, at(13));
        assert_eq!(apply_outcomes(&mut machine, &check, 14, "bbbgg").len(), 1, "the second fall has a hold time");
    }

    #[test]
    fn the_hold_time_grows_with_each_fall_and_is_reset_in_the_end() {
        let check = check();
        let mut machine = BackendMachine::default();
        let mut second = 0;
        let mut holds = Vec::new();
        for _ in 0..9 {
            while machine.outcome(at(second), &check, false) != Some(Change::WentDown) {
                second += 1;
            }
            let good = second + 1;
            while machine.outcome(at(second + 1), &check, true) != Some(Change::CameUp) {
                second += 1;
            }
            holds.push(second + 1 - good);
            second += 1;
        }
        assert_eq!(holds, [1, 10, 20, 40, 80, 160, 300, 300, 300], "rise alone, then hold_down, doubled up to hold_down_max");
        second += 601;
        assert_eq!(apply_outcomes(&mut machine, &check, second, "bbbgg").len(), 2, "after `flap_window` it begins anew");
    }

    #[test]
    fn a_standby_counts_and_adopts_the_published_state() {
        let check = check();
        let mut machine = BackendMachine::default();
        (0..5).for_each(|second| machine.count(at(second), false));
        assert_eq!(machine.observation(at(5), &check), Observation::Up, "a standby does not decide");
        machine.adopt(at(5), &check, Observation::Up);
        assert_eq!(machine.outcome(at(6), &check, false), Some(Change::WentDown), "but is ready to decide");
        for (published, passed) in [(10, 0), (50, 4), (99, 8)] {
            machine.adopt(at(100), &check, Observation::Slow { percent: published });
            assert_eq!(machine.phase(), Phase::Slow(at(100 - passed)));
        }
        machine.adopt(at(100), &check, Observation::Down);
        machine.adopt(at(101), &check, Observation::Down);
        assert_eq!(machine.phase(), Phase::Down(at(100)));
    }

    proptest! {
        #[test]
        fn every_change_has_its_reason(
            outcomes in proptest::collection::vec((any::<bool>(), 1u64..20), 1..300),
            rise in 1u8..5,
            fall in 1u8..5,
            slow in 0u64..40,
            hold_down in 0u64..30,
        ) {
            let (slow_start, hold_down) = (Duration::from_secs(slow), Duration::from_secs(hold_down));
            let check = Check { rise, fall, slow_start, hold_down, hold_down_max: hold_down * 8, flap_window: Duration::from_secs(100), ..Check::new(Probe::Icmp) };
            let mut machine = BackendMachine::default();
            let (mut second, mut row, mut first) = (0, (true, 0u32), true);
            for (good, pause) in outcomes {
                second += pause;
                row = if row.0 == good { (good, row.1 + 1) } else { (good, 1) };
                let before = machine.observation(at(second), &check);
                machine.expire(at(second), &check, before);
                let held = machine.hold_down(&check);
                let change = machine.outcome(at(second), &check, good);
                let after = machine.observation(at(second), &check);
                match change {
                    Some(Change::WentDown) => prop_assert!(!good && (first || row.1 >= u32::from(fall)) && after == Observation::Down),
                    Some(Change::CameUp) => prop_assert!(good && row.1 >= u32::from(rise) && before == Observation::Down && held <= check.hold_down_max),
                    Some(Change::FirstGood) => prop_assert!(first && good),
                    Some(Change::WeightStep) | None => prop_assert_eq!(before, after),
                }
                if let Some(deadline) = machine.deadline(at(second), &check) {
                    prop_assert!(deadline > at(second) || after != machine.observation(deadline, &check) || deadline == at(second));
                }
                first = false;
            }
            // A backend that passes for long enough is up, whatever happened before.
            for _ in 0..400 {
                second += 1;
                machine.outcome(at(second), &check, true);
                machine.expire(at(second), &check, Observation::Up);
            }
            prop_assert_eq!(machine.phase(), Phase::Up);
        }
    }
}

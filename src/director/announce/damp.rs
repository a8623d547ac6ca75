//! When a verdict is followed. No clock: time is passed in.
//!
//! A VIP that cannot be forwarded for a moment only (somebody flushed the kernel's neighbours) stays announced: a withdrawal and an
//! announcement cost every router more than [`PATIENCE`] of lost packets, which clients send again. A VIP that comes back waits, each time
//! twice as long, up to [`LONGEST`]: routers suppress routes that flap (RFC 2439), and theirs is a longer wait. What a person has decided, a
//! pause or a changed file, is followed at once and counts as no flap.

use super::decide::{Verdicts, Why};
use guideway_packet::time::Time;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

/// For so long a VIP must be impossible to forward before it is withdrawn.
pub const PATIENCE: Duration = Duration::from_secs(1);
/// For so long a VIP that was withdrawn must be possible to forward before it is announced again, the first time.
pub const FIRST: Duration = Duration::from_secs(1);
/// The same after many withdrawals.
pub const LONGEST: Duration = Duration::from_secs(60);
/// Withdrawals further apart than this are no flapping.
pub const FORGOTTEN: Duration = Duration::from_secs(600);

/// Remembers what was announced, and how often it was withdrawn.
#[derive(Debug, Default)]
pub struct Damper {
    vips: BTreeMap<IpAddr, Memory>,
}

#[derive(Debug, Default)]
struct Memory {
    announced: bool,
    /// Since when the verdict is not what is announced.
    since: Option<Time>,
    /// How long it has to be good before it is announced again.
    wait: Duration,
    withdrawn: Option<Time>,
}

/// What is to be done now.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// VIPs to announce.
    pub announce: BTreeSet<IpAddr>,
    /// Why the others are not announced.
    pub because: BTreeMap<IpAddr, String>,
    /// When to ask again although no verdict changes.
    pub next: Option<Time>,
}

impl Damper {
    /// What to announce at `now`. A VIP without a verdict is forgotten.
    pub fn step(&mut self, now: Time, verdicts: &Verdicts) -> Step {
        self.vips.retain(|vip, _| verdicts.contains_key(vip));
        let mut step = Step::default();
        for (vip, verdict) in verdicts {
            let memory = self.vips.entry(*vip).or_default();
            let due = memory.follow(now, verdict);
            match (memory.announced, verdict) {
                (true, _) => drop(step.announce.insert(*vip)),
                (false, Err(why)) => drop(step.because.insert(*vip, why.to_string())),
                (false, Ok(())) => drop(step.because.insert(*vip, waits(memory.wait))),
            }
            step.next = [step.next, due].into_iter().flatten().min();
        }
        step
    }
}

impl Memory {
    /// Follows a verdict; gives when the verdict would be followed if it stays.
    fn follow(&mut self, now: Time, verdict: &Result<(), Why>) -> Option<Time> {
        if self.announced == verdict.is_ok() {
            self.since = None;
            return None;
        }
        let since = *self.since.get_or_insert(now);
        let wait = match verdict {
            Ok(()) => self.wait,
            Err(Why::Paused(_) | Why::Stuck(_)) => Duration::ZERO,
            Err(Why::NoBackend(_)) => PATIENCE,
        };
        if now < since.plus(wait) {
            return Some(since.plus(wait));
        }
        if let Err(Why::NoBackend(_) | Why::Stuck(_)) = verdict {
            let flaps = self.withdrawn.is_some_and(|before| now - before < FORGOTTEN);
            self.wait = if flaps { (self.wait * 2).min(LONGEST) } else { FIRST };
            self.withdrawn = Some(now);
        }
        self.announced = !self.announced;
        self.since = None;
        None
    }
}

fn waits(wait: Duration) -> String {
    format!("it was withdrawn a short time ago; it is announced again when it could be forwarded for {} s", wait.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vip() -> IpAddr {
        "192.0.2.69".parse().unwrap()
    }

    fn ms(n: u64) -> Time {
        Time::default().plus(Duration::from_millis(n))
    }

    fn bad() -> Result<(), Why> {
        Err(Why::NoBackend("no backend".to_owned()))
    }

    /// Whether the VIP is announced at that time, and when to ask again.
    fn at(damper: &mut Damper, time: u64, verdict: Result<(), Why>) -> (bool, Option<Time>) {
        let step = damper.step(ms(time), &[(vip(), verdict)].into());
        assert_eq!(step.announce.len() + step.because.len(), 1, "a VIP is announced, or it is told why not");
        (step.announce.contains(&vip()), step.next)
    }

    #[test]
    fn the_first_announcement_waits_for_nothing() {
        let mut damper = Damper::default();
        assert_eq!(at(&mut damper, 0, bad()), (false, None));
        assert_eq!(at(&mut damper, 5, Ok(())), (true, None));
    }

    #[test]
    fn a_blink_withdraws_nothing_and_a_second_does() {
        let mut damper = Damper::default();
        at(&mut damper, 0, Ok(()));
        assert_eq!(at(&mut damper, 100, bad()), (true, Some(ms(1100))));
        assert_eq!(at(&mut damper, 1099, bad()), (true, Some(ms(1100))));
        assert_eq!(at(&mut damper, 1100, Ok(())), (true, None), "it came back in time");
        assert_eq!(at(&mut damper, 5000, bad()), (true, Some(ms(6000))), "the second starts anew");
        assert_eq!(at(&mut damper, 6000, bad()), (false, None));
    }

    #[test]
    fn who_flaps_waits_twice_as_long_each_time_up_to_a_minute() {
        let mut damper = Damper::default();
        at(&mut damper, 0, Ok(()));
        let mut now = 0;
        let mut waits = Vec::new();
        for _ in 0..9 {
            at(&mut damper, now, bad());
            now += 1000;
            assert!(!at(&mut damper, now, bad()).0);
            let (announced, next) = at(&mut damper, now, Ok(()));
            assert!(!announced);
            let wait = next.unwrap() - ms(now);
            waits.push(wait.as_secs());
            now += wait.as_millis() as u64;
            assert!(at(&mut damper, now, Ok(())).0, "after {wait:?}");
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        // Ten quiet minutes, and it is like the first time.
        now += 600_000;
        at(&mut damper, now, bad());
        now += 1000;
        at(&mut damper, now, bad());
        assert_eq!(at(&mut damper, now, Ok(())).1, Some(ms(now + 1000)));
    }

    #[test]
    fn a_vip_that_comes_back_must_stay() {
        let mut damper = Damper::default();
        at(&mut damper, 0, Ok(()));
        at(&mut damper, 0, bad());
        at(&mut damper, 1000, bad());
        assert_eq!(at(&mut damper, 1000, Ok(())), (false, Some(ms(2000))));
        assert_eq!(at(&mut damper, 1900, bad()), (false, None));
        assert_eq!(at(&mut damper, 1950, Ok(())), (false, Some(ms(2950))));
        assert_eq!(at(&mut damper, 2950, Ok(())), (true, None));
    }

    #[test]
    fn what_people_decide_is_followed_at_once_and_is_no_flap() {
        let mut damper = Damper::default();
        at(&mut damper, 0, Ok(()));
        for now in 1..20 {
            assert_eq!(at(&mut damper, now * 10, Err(Why::Paused(1))), (false, None));
            assert_eq!(at(&mut damper, now * 10 + 5, Ok(())), (true, None));
        }
        // A VIP that left the file is forgotten.
        assert_eq!(damper.step(ms(300), &Verdicts::new()), Step::default());
        assert!(damper.vips.is_empty());
    }

    #[test]
    fn each_vip_has_its_own_time() {
        let other: IpAddr = "2001:db8:69::69".parse().unwrap();
        let mut damper = Damper::default();
        damper.step(ms(0), &[(vip(), Ok(())), (other, Ok(()))].into());
        damper.step(ms(500), &[(vip(), bad()), (other, Ok(()))].into());
        let step = damper.step(ms(800), &[(vip(), bad()), (other, bad())].into());
        assert_eq!((step.announce.len(), step.next), (2, Some(ms(1500))));
        let step = damper.step(ms(1500), &[(vip(), bad()), (other, bad())].into());
        assert_eq!((step.announce, step.next), ([other].into(), Some(ms(1800))));
    }
}

//! Damping: decides when a verdict takes effect. No clock: callers pass the time.
//!
//! A VIP that is unreachable for a moment only (for example because the kernel's neighbours were flushed) stays announced. A withdrawal and
//! an announcement cost every router more than [`WITHDRAW_DELAY`] of lost packets, which clients send again. A VIP that recovers waits,
//! each time twice as long, up to [`MAX_REANNOUNCE_DELAY`]: routers suppress routes that flap (RFC 2439) for longer. A decision of an
//! operator, such as a pause or a changed file, takes effect at once and is not a flap.

use super::reachability::{Verdicts, WithdrawReason};
use guideway_packet::time::Time;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

/// Time for which a VIP must be unreachable before it is withdrawn.
pub const WITHDRAW_DELAY: Duration = Duration::from_secs(1);
/// Time for which a withdrawn VIP must be reachable before it is announced again, after its first withdrawal.
pub const MIN_REANNOUNCE_DELAY: Duration = Duration::from_secs(1);
/// The same time after many withdrawals.
pub const MAX_REANNOUNCE_DELAY: Duration = Duration::from_secs(60);
/// Withdrawals further apart than this are not flapping.
pub const FLAP_WINDOW: Duration = Duration::from_secs(600);

/// Stores which VIPs are announced, and how often each was withdrawn.
#[derive(Debug, Default)]
pub struct Damper {
    vips: BTreeMap<IpAddr, VipState>,
}

#[derive(Debug, Default)]
struct VipState {
    announced: bool,
    /// Time since which the verdict differs from the announcement.
    since: Option<Time>,
    /// Time for which it must be reachable before it is announced again.
    wait: Duration,
    withdrawn: Option<Time>,
}

/// Announcements that should hold now.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Announcements {
    /// VIPs to announce.
    pub announce: BTreeSet<IpAddr>,
    /// Reasons why the other VIPs are not announced.
    pub because: BTreeMap<IpAddr, String>,
    /// Time of the next call even if no verdict changes.
    pub recheck_at: Option<Time>,
}

impl Damper {
    /// Returns the announcements at `now`. Forgets VIPs without a verdict.
    pub fn announcements(&mut self, now: Time, verdicts: &Verdicts) -> Announcements {
        self.vips.retain(|vip, _| verdicts.contains_key(vip));
        let mut announcements = Announcements::default();
        for (vip, verdict) in verdicts {
            let vip_state = self.vips.entry(*vip).or_default();
            let due = vip_state.follow(now, verdict);
            match (vip_state.announced, verdict) {
                (true, _) => drop(announcements.announce.insert(*vip)),
                (false, Err(why)) => drop(announcements.because.insert(*vip, why.to_string())),
                (false, Ok(())) => drop(announcements.because.insert(*vip, waiting_text(vip_state.wait))),
            }
            announcements.recheck_at = [announcements.recheck_at, due].into_iter().flatten().min();
        }
        announcements
    }
}

impl VipState {
    /// Applies a verdict; returns when it will take effect if it does not change.
    fn follow(&mut self, now: Time, verdict: &Result<(), WithdrawReason>) -> Option<Time> {
        if self.announced == verdict.is_ok() {
            self.since = None;
            return None;
        }
        let since = *self.since.get_or_insert(now);
        let wait = match verdict {
            Ok(()) => self.wait,
            Err(WithdrawReason::Paused(_) | WithdrawReason::Maintenance | WithdrawReason::Io(_) | WithdrawReason::Stuck(_)) => {
                Duration::ZERO
            }
            Err(WithdrawReason::NoBackend(_)) => WITHDRAW_DELAY,
        };
        if now < since.plus(wait) {
            return Some(since.plus(wait));
        }
        if let Err(WithdrawReason::NoBackend(_) | WithdrawReason::Io(_) | WithdrawReason::Stuck(_)) = verdict {
            let flaps = self.withdrawn.is_some_and(|before| now - before < FLAP_WINDOW);
            self.wait = if flaps { (self.wait * 2).min(MAX_REANNOUNCE_DELAY) } else { MIN_REANNOUNCE_DELAY };
            self.withdrawn = Some(now);
        }
        self.announced = !self.announced;
        self.since = None;
        None
    }
}

fn waiting_text(wait: Duration) -> String {
    format!("withdrawn recently; announced again once reachable for {} s", wait.as_secs())
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

    fn bad() -> Result<(), WithdrawReason> {
        Err(WithdrawReason::NoBackend("no backend".to_owned()))
    }

    /// Returns whether the VIP is announced at that time, and when to call again.
    fn at(damper: &mut Damper, time: u64, verdict: Result<(), WithdrawReason>) -> (bool, Option<Time>) {
        let announcements = damper.announcements(ms(time), &[(vip(), verdict)].into());
        assert_eq!(announcements.announce.len() + announcements.because.len(), 1, "a VIP is announced, or there is a reason why not");
        (announcements.announce.contains(&vip()), announcements.recheck_at)
    }

    #[test]
    fn the_first_announcement_has_no_delay() {
        let mut damper = Damper::default();
        assert_eq!(at(&mut damper, 0, bad()), (false, None));
        assert_eq!(at(&mut damper, 5, Ok(())), (true, None));
    }

    #[test]
    fn a_short_outage_withdraws_nothing_and_a_long_one_does() {
        let mut damper = Damper::default();
        at(&mut damper, 0, Ok(()));
        assert_eq!(at(&mut damper, 100, bad()), (true, Some(ms(1100))));
        assert_eq!(at(&mut damper, 1099, bad()), (true, Some(ms(1100))));
        assert_eq!(at(&mut damper, 1100, Ok(())), (true, None), "it came back in time");
        assert_eq!(at(&mut damper, 5000, bad()), (true, Some(ms(6000))), "the second starts anew");
        assert_eq!(at(&mut damper, 6000, bad()), (false, None));
    }

    #[test]
    fn the_delay_of_a_flapping_vip_doubles_up_to_a_minute() {
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
        // After ten minutes without a flap the delay starts anew.
        now += 600_000;
        at(&mut damper, now, bad());
        now += 1000;
        at(&mut damper, now, bad());
        assert_eq!(at(&mut damper, now, Ok(())).1, Some(ms(now + 1000)));
    }

    #[test]
    fn a_recovered_vip_must_stay_reachable() {
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
    fn a_decision_of_an_operator_takes_effect_at_once_and_is_no_flap() {
        let mut damper = Damper::default();
        at(&mut damper, 0, Ok(()));
        for now in 1..20 {
            assert_eq!(at(&mut damper, now * 10, Err(WithdrawReason::Paused(1))), (false, None));
            assert_eq!(at(&mut damper, now * 10 + 5, Ok(())), (true, None));
        }
        // A VIP that left the file is forgotten.
        assert_eq!(damper.announcements(ms(300), &Verdicts::new()), Announcements::default());
        assert!(damper.vips.is_empty());
    }

    #[test]
    fn each_vip_has_its_own_delay() {
        let other: IpAddr = "2001:db8:69::69".parse().unwrap();
        let mut damper = Damper::default();
        damper.announcements(ms(0), &[(vip(), Ok(())), (other, Ok(()))].into());
        damper.announcements(ms(500), &[(vip(), bad()), (other, Ok(()))].into());
        let announcements = damper.announcements(ms(800), &[(vip(), bad()), (other, bad())].into());
        assert_eq!((announcements.announce.len(), announcements.recheck_at), (2, Some(ms(1500))));
        let announcements = damper.announcements(ms(1500), &[(vip(), bad()), (other, bad())].into());
        assert_eq!((announcements.announce, announcements.recheck_at), ([other].into(), Some(ms(1800))));
    }
}

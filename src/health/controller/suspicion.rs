//! Checks suspected backends at once. Clients notice first that a backend is unresponsive, but only checks decide whether it is down.

use super::{Controller, Moment};
use crate::state_machine::Phase;
use guideway_store::SuspectedBackend;
use std::cmp::Reverse;
use std::time::Duration;

/// Time between checks of a suspected backend that fails, from start to start; its interval if that is shorter.
const RECHECK_FAILING: Duration = Duration::from_secs(1);
/// Minimum time between early checks of a backend that passes: clients, or forged packets, may repeat for as long as they like.
const RECHECK_HEALTHY: Duration = Duration::from_secs(10);

impl Controller {
    /// Takes the suspected backends. Each is due now, unless it is being checked, is down, or had an early check recently.
    pub fn suspected(&mut self, now: Moment, suspects: &[SuspectedBackend]) {
        if !self.leading {
            return;
        }
        for suspect in suspects {
            let pool = self.pools.get(suspect.pool.as_str());
            let Some(id) = pool.and_then(|pool| pool.backends.get(suspect.backend.as_str())).copied() else { continue };
            let Some(checked_backend) = self.backends.get_mut(&id) else { continue };
            let min_interval = if checked_backend.machine.fails() > 0 { RECHECK_FAILING } else { RECHECK_HEALTHY }
                .min(checked_backend.target.check.interval);
            let checked_recently = checked_backend.expedited.is_some_and(|at| now.at < at.plus(min_interval));
            let down = matches!(checked_backend.machine.phase(), Phase::Down(_));
            if checked_backend.running || checked_recently || down || checked_backend.due <= now.at {
                continue;
            }
            (checked_backend.expedited, checked_backend.due) = (Some(now.at), now.at);
            self.due.push(Reverse((now.at, id)));
            self.counts.expedited += 1;
            tracing::info!(pool = %checked_backend.target.pool, backend = %checked_backend.target.backend, "suspected backend checked early");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Fixture, intent};
    use super::*;
    use guideway_store::Observation;

    const CHECK: &str = "check = { kind = \"tcp\", port = 80, interval = \"60s\", timeout = \"1s\", min_healthy = 0, slow_start = \"0s\" }";

    fn suspect(backend: &str) -> SuspectedBackend {
        SuspectedBackend { pool: "boot".into(), backend: backend.into() }
    }

    /// Reports the suspicions for this number of seconds; returns how often each backend was checked.
    fn wait(fixture: &mut Fixture, backends: &[&str], seconds: u64) -> Vec<u64> {
        let suspects: Vec<SuspectedBackend> = backends.iter().map(|backend| suspect(backend)).collect();
        let checked = |fixture: &Fixture| backends.iter().map(|b| fixture.checked.get(*b).copied().unwrap_or(0)).collect::<Vec<u64>>();
        let before = checked(fixture);
        for _ in 0..4 * seconds {
            fixture.controller.suspected(fixture.now, &suspects);
            fixture.pass(250);
        }
        checked(fixture).iter().zip(before).map(|(after, before)| after - before).collect()
    }

    #[test]
    fn a_suspected_backend_is_checked_at_once_and_its_checks_decide() {
        let mut fixture = Fixture::new(intent(CHECK, &["t1", "t2", "t3"]), true);
        fixture.pass(120_000);
        fixture.bad = vec!["t1"];
        // Without suspicions, the next checks are up to a minute away.
        let checked = wait(&mut fixture, &["t1", "t2"], 4);
        assert_eq!(fixture.state("t1"), Observation::Down, "three checks have failed");
        assert_eq!(fixture.state("t2"), Observation::Up, "a suspicion alone changes nothing");
        assert!((3..=4).contains(&checked[0]) && (1..=2).contains(&checked[1]), "{checked:?}");
    }

    #[test]
    fn suspicions_cause_at_most_a_check_a_second_for_a_failing_backend_and_one_in_ten_for_a_passing_one() {
        let check = CHECK.replace("timeout", "fall = 100, timeout");
        let mut fixture = Fixture::new(intent(&check, &["t1", "t2"]), true);
        fixture.pass(120_000);
        fixture.bad = vec!["t1"];
        let checked = wait(&mut fixture, &["t1", "t2", "nobody"], 50);
        assert!((50..=52).contains(&checked[0]), "{checked:?}");
        assert!((5..=6).contains(&checked[1]), "{checked:?}");
        assert_eq!(checked[2], 0);
        let mut standby = Fixture::new(intent(CHECK, &["t1"]), false);
        standby.pass(120_000);
        assert!(wait(&mut standby, &["t1"], 20)[0] <= 1, "a standby makes no early checks");
    }
}

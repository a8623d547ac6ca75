//! Backends that directors suspect are checked at once. Their clients notice first that one is mute; whether it is down, the checks alone decide.

use super::{Controller, Moment};
use crate::machine::Phase;
use guideway_store::Suspected;
use std::cmp::Reverse;
use std::time::Duration;

/// A suspected backend that fails is checked again after so long, from the begin of one check to that of the next, or after its interval if that is shorter.
const AGAIN: Duration = Duration::from_secs(1);
/// One whose check was good is looked at for a suspicion this often: clients, or who forges them, may repeat for as long as they like.
const TRUSTED: Duration = Duration::from_secs(10);

impl Controller {
    /// Directors suspect these backends: each is due now, unless it is being checked, is down, or was checked for a suspicion a short time ago.
    pub fn suspected(&mut self, now: Moment, suspects: &[Suspected]) {
        if !self.leading {
            return;
        }
        for suspect in suspects {
            let pool = self.pools.get(suspect.pool.as_str());
            let Some(id) = pool.and_then(|pool| pool.backends.get(suspect.backend.as_str())).copied() else { continue };
            let Some(watched) = self.backends.get_mut(&id) else { continue };
            let rest = if watched.machine.fails() > 0 { AGAIN } else { TRUSTED }.min(watched.target.check.interval);
            let looked = watched.hurried.is_some_and(|at| now.at < at.plus(rest));
            let down = matches!(watched.machine.phase(), Phase::Down(_));
            if watched.running || looked || down || watched.due <= now.at {
                continue;
            }
            (watched.hurried, watched.due) = (Some(now.at), now.at);
            self.due.push(Reverse((now.at, id)));
            self.counts.hurried += 1;
            tracing::info!(pool = %watched.target.pool, backend = %watched.target.backend, "checked at once: clients wait for it");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{World, intent};
    use super::*;
    use guideway_store::Observation;

    const CHECK: &str = "check = { kind = \"tcp\", port = 80, interval = \"60s\", timeout = \"1s\", min_healthy = 0, slow_start = \"0s\" }";

    fn suspect(backend: &str) -> Suspected {
        Suspected { pool: "boot".into(), backend: backend.into() }
    }

    /// Clients wait for all of these for so many seconds; how often each was checked meanwhile.
    fn wait(world: &mut World, backends: &[&str], seconds: u64) -> Vec<u64> {
        let suspects: Vec<Suspected> = backends.iter().map(|backend| suspect(backend)).collect();
        let checked = |world: &World| backends.iter().map(|b| world.checked.get(*b).copied().unwrap_or(0)).collect::<Vec<u64>>();
        let before = checked(world);
        for _ in 0..4 * seconds {
            world.controller.suspected(world.now, &suspects);
            world.pass(250);
        }
        checked(world).iter().zip(before).map(|(after, before)| after - before).collect()
    }

    #[test]
    fn a_suspected_backend_is_checked_at_once_and_its_checks_decide() {
        let mut world = World::new(intent(CHECK, &["t1", "t2", "t3"]), true);
        world.pass(120_000);
        world.bad = vec!["t1"];
        // Nobody else knows of it: the next checks are up to a minute away.
        let checked = wait(&mut world, &["t1", "t2"], 4);
        assert_eq!(world.state("t1"), Observation::Down, "three checks have failed");
        assert_eq!(world.state("t2"), Observation::Up, "a suspicion alone changes nothing");
        assert!((3..=4).contains(&checked[0]) && (1..=2).contains(&checked[1]), "{checked:?}");
    }

    #[test]
    fn suspicions_cannot_make_more_work_than_a_check_a_second_for_who_fails_and_one_in_ten_for_who_does_not() {
        let check = CHECK.replace("timeout", "fall = 100, timeout");
        let mut world = World::new(intent(&check, &["t1", "t2"]), true);
        world.pass(120_000);
        world.bad = vec!["t1"];
        let checked = wait(&mut world, &["t1", "t2", "nobody"], 50);
        assert!((50..=52).contains(&checked[0]), "{checked:?}");
        assert!((5..=6).contains(&checked[1]), "{checked:?}");
        assert_eq!(checked[2], 0);
        let mut standby = World::new(intent(CHECK, &["t1"]), false);
        standby.pass(120_000);
        assert!(wait(&mut standby, &["t1"], 20)[0] <= 1, "who does not lead does not hurry");
    }
}

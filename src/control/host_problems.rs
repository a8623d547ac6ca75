//! What is wrong with the director's host now. Control finds it; the status, the metrics and the log show it until it is mended.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// What may be wrong with a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HostProblem {
    /// `director.address` is on no interface.
    Address,
    /// The kernel does not resolve neighbours for this process.
    Permission,
    /// An offload of the interface changes packets.
    Offload,
}

impl HostProblem {
    /// All of them.
    pub const ALL: [HostProblem; 3] = [HostProblem::Address, HostProblem::Permission, HostProblem::Offload];

    /// Returns the name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            HostProblem::Address => "address",
            HostProblem::Permission => "permission",
            HostProblem::Offload => "offload",
        }
    }
}

/// The problems of the moment, each with what to do.
#[derive(Debug, Default)]
pub struct HostProblems(Mutex<BTreeMap<HostProblem, Found>>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    why: String,
    /// Packets do not come or do not leave.
    blocks: bool,
}

impl HostProblems {
    /// Replaces what is known of one kind, and logs a change. `blocks`: the director forwards nothing while it lasts.
    pub fn set(&self, problem: HostProblem, why: Option<String>, blocks: bool) {
        let mut problems = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = why.map(|why| Found { why, blocks });
        let before = match now.clone() {
            Some(found) => problems.insert(problem, found),
            None => problems.remove(&problem),
        };
        match (before, now) {
            (before, Some(now)) if before.as_ref() != Some(&now) => tracing::warn!(kind = problem.name(), "host problem: {}", now.why),
            (Some(before), None) => tracing::info!(kind = problem.name(), "host problem is over: {}", before.why),
            _ => {}
        }
    }

    /// Returns the problems, and what to do.
    pub fn all(&self) -> Vec<(HostProblem, String)> {
        let problems = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        problems.iter().map(|(problem, found)| (*problem, found.why.clone())).collect()
    }

    /// Returns why the director forwards nothing.
    pub fn blocking(&self) -> Option<String> {
        let problems = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        problems.values().find(|found| found.blocks).map(|found| found.why.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_shown_until_it_is_over() {
        let problems = HostProblems::default();
        problems.set(HostProblem::Permission, Some("no".into()), false);
        problems.set(HostProblem::Address, Some("nowhere".into()), true);
        let expected = vec![(HostProblem::Address, "nowhere".to_owned()), (HostProblem::Permission, "no".to_owned())];
        assert_eq!((problems.all(), problems.blocking()), (expected, Some("nowhere".to_owned())));
        problems.set(HostProblem::Address, None, true);
        assert_eq!((problems.all().len(), problems.blocking()), (1, None));
    }
}

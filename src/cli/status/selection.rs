//! Which backends a status shows: those asked for, the troubled ones first, and not more than fit a screen or two.

use super::format::line;
use guideway_api::backend::{BackendState, BackendSummary, HealthState};
use guideway_api::health::CheckedBackend;
use std::collections::BTreeMap;

/// Rows of a table where `--limit` is not given.
const DEFAULT_LIMIT: usize = 50;
/// Backends that a line about several names.
const MAX_NAMED: usize = 3;

/// Which backends to show.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub(super) struct Selection {
    /// Only backends of this pool
    #[arg(long, value_name = "POOL")]
    pool: Option<String>,
    /// Only backends of this name
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,
    /// Only backends in this state
    #[arg(long, value_enum, value_name = "STATE")]
    state: Option<State>,
    /// Rows of each table; 0: all. Default: 50, and all with --json
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

/// A state, as directors or health controllers see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum State {
    /// Gets new flows
    Active,
    /// Passes its checks
    Up,
    /// Came back a short time ago, and gets a part of its weight
    Slow,
    /// Fails its checks
    Down,
    /// Nobody knows whether it works
    Unknown,
    /// Drained, or of weight 0
    Drained,
    /// Removed, with flows that still run
    Retired,
    /// Its next hop is not known
    Unresolved,
    /// Clients hear nothing from it
    Suspected,
    /// Any of down, unknown, unresolved, suspected
    Trouble,
}

/// A backend in the status of a daemon.
pub(super) trait Row {
    fn pool(&self) -> &str;
    fn name(&self) -> &str;
    /// Its states; the first is in the column.
    fn states(&self) -> Vec<&'static str>;
}

const TROUBLE: [&str; 4] = ["down", "unresolved", "suspected", "unknown"];

impl Row for BackendSummary {
    fn pool(&self) -> &str {
        &self.pool
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn states(&self) -> Vec<&'static str> {
        let flags = [
            (self.unresolved_because.is_some() && self.state != BackendState::Retired, "unresolved"),
            (self.suspected_because.is_some(), "suspected"),
            (self.unknown_because.is_some(), "unknown"),
        ];
        std::iter::once(self.state.name()).chain(flags.into_iter().filter(|(is, _)| *is).map(|(_, name)| name)).collect()
    }
}

impl Row for CheckedBackend {
    fn pool(&self) -> &str {
        &self.pool
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn states(&self) -> Vec<&'static str> {
        let state = match self.state {
            HealthState::Up => "up",
            HealthState::Slow => "slow",
            HealthState::Down => "down",
            HealthState::Unknown => "unknown",
        };
        // Held up by the floor: its checks fail.
        std::iter::once(state).chain(self.held_up.then_some("down")).collect()
    }
}

impl Selection {
    /// Returns whether it names some of the backends.
    pub(super) fn is_some(&self) -> bool {
        self.pool.is_some() || self.backend.is_some() || self.state.is_some()
    }

    /// Returns whether it says anything at all.
    pub(super) fn is_given(&self) -> bool {
        *self != Selection::default()
    }

    /// Removes the backends that were not asked for, and puts the troubled ones first. Returns a summary of all.
    pub(super) fn apply<B: Row>(&self, backends: &mut Vec<B>) -> String {
        let summary = summary(backends);
        backends.retain(|backend| self.wants(backend));
        backends.sort_by_key(|backend| rank(&backend.states()));
        summary
    }

    fn wants(&self, backend: &impl Row) -> bool {
        let states = backend.states();
        self.pool.as_ref().is_none_or(|pool| pool == backend.pool())
            && self.backend.as_ref().is_none_or(|name| name == backend.name())
            && self.state.is_none_or(|state| match state {
                State::Trouble => states.iter().any(|state| TROUBLE.contains(state)),
                state => states.contains(&state.name()),
            })
    }

    /// Returns how many rows of a table of `all` are shown.
    pub(super) fn limit(&self, all: usize) -> usize {
        match self.limit.unwrap_or(DEFAULT_LIMIT) {
            0 => all,
            limit => limit.min(all),
        }
    }

    /// Removes the rows beyond `--limit`, if it is given.
    pub(super) fn truncate<B>(&self, backends: &mut Vec<B>) {
        if let Some(limit) = self.limit.filter(|limit| *limit > 0) {
            backends.truncate(limit);
        }
    }
}

impl State {
    fn name(self) -> &'static str {
        match self {
            State::Active => "active",
            State::Up => "up",
            State::Slow => "slow",
            State::Down => "down",
            State::Unknown => "unknown",
            State::Drained => "drained",
            State::Retired => "retired",
            State::Unresolved => "unresolved",
            State::Suspected => "suspected",
            State::Trouble => "trouble",
        }
    }
}

/// Returns the place of a backend in the table: trouble first, then what is not as usual.
fn rank(states: &[&str]) -> usize {
    let trouble = states.iter().filter_map(|state| TROUBLE.iter().position(|trouble| trouble == state)).min();
    trouble.unwrap_or_else(|| match states.first() {
        Some(&("active" | "up")) => TROUBLE.len() + 1,
        _ => TROUBLE.len(),
    })
}

/// `5000 backends: 4990 active, 10 down, 3 unresolved`
fn summary(backends: &[impl Row]) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    backends.iter().flat_map(|backend| backend.states()).for_each(|state| *counts.entry(state).or_default() += 1);
    let counts: Vec<String> = counts.iter().map(|(state, count)| format!("{count} {state}")).collect();
    let plural = if backends.len() == 1 { "" } else { "s" };
    format!("{} backend{plural}: {}", backends.len(), if counts.is_empty() { "none".to_owned() } else { counts.join(", ") })
}

/// Appends the line about rows that are not shown.
pub(super) fn more(out: &mut String, shown: usize, all: usize) {
    if shown < all {
        line(out, format_args!("and {} more; --limit 0 shows all, --pool, --backend and --state some", all - shown));
    }
}

/// Appends a line for each reason, which names the first backends that have it.
pub(super) fn reasons<'b>(out: &mut String, what: &str, backends: impl Iterator<Item = (&'b str, &'b str)>) {
    let mut by_reason: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, why) in backends {
        by_reason.entry(why).or_default().push(name);
    }
    for (why, names) in by_reason {
        match names.as_slice() {
            few if few.len() <= MAX_NAMED => few.iter().for_each(|name| line(out, format_args!("{name} is {what}: {why}"))),
            many => {
                let (count, first) = (many.len(), many.iter().take(MAX_NAMED).copied().collect::<Vec<_>>().join(", "));
                line(out, format_args!("{count} backends are {what} ({first}, …): {why}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(name: &str, pool: &str, state: BackendState, unresolved: bool) -> BackendSummary {
        BackendSummary {
            name: name.to_owned(),
            pool: pool.to_owned(),
            address: "10.0.2.21".parse().unwrap(),
            weight: 100,
            state,
            neighbour: "unresolved".to_owned(),
            unresolved_because: unresolved.then(|| "no route".to_owned()),
            suspected_because: None,
            unknown_because: None,
        }
    }

    #[test]
    fn the_troubled_ones_come_first_and_can_be_selected() {
        let all = || -> Vec<BackendSummary> {
            let mut all: Vec<BackendSummary> =
                (0..5000).map(|n| backend(&format!("t{n}"), "boot", BackendState::Active, n == 4000)).collect();
            all[4999].state = BackendState::Down;
            all[100].state = BackendState::Drained;
            all.push(backend("t1", "other", BackendState::Active, false));
            all
        };
        let apply = |selection: Selection| {
            let mut backends = all();
            let summary = selection.apply(&mut backends);
            assert_eq!(summary, "5001 backends: 4999 active, 1 down, 1 drained, 1 unresolved");
            backends.iter().map(|backend| format!("{}/{}", backend.pool, backend.name)).collect::<Vec<_>>()
        };
        let shown = apply(Selection::default());
        assert_eq!((shown.len(), &shown[..4]), (5001, &["boot/t4999", "boot/t4000", "boot/t100", "boot/t0"].map(str::to_owned)[..]));
        assert_eq!(apply(Selection { backend: Some("t1".into()), ..Selection::default() }), ["boot/t1", "other/t1"]);
        assert_eq!(apply(Selection { pool: Some("other".into()), ..Selection::default() }), ["other/t1"]);
        assert_eq!(apply(Selection { state: Some(State::Trouble), ..Selection::default() }), ["boot/t4999", "boot/t4000"]);
        assert_eq!(apply(Selection { state: Some(State::Drained), ..Selection::default() }), ["boot/t100"]);
        assert_eq!([Selection::default().limit(5001), Selection { limit: Some(0), ..Selection::default() }.limit(5001)], [50, 5001]);
    }

    #[test]
    fn a_reason_that_many_share_is_one_line() {
        let names: Vec<String> = (0..5000).map(|n| format!("t{n}")).collect();
        let mut out = String::new();
        reasons(&mut out, "unresolved", names.iter().map(|name| (name.as_str(), "no route")).chain([("x", "other")]));
        assert_eq!(out, "5000 backends are unresolved (t0, t1, t2, …): no route\nx is unresolved: other\n");
    }
}

//! The status of a health controller.

use super::super::{BAD_USAGE, common, print};
use super::format::{line, numbers, rows, uptime};
use super::selection::{Selection, more};
use guideway_api::backend::HealthState;
use guideway_api::health::{CheckOutcome, CheckedBackend, ControllerStatus};
use guideway_config::health::load_health;
use std::path::{Path, PathBuf};

/// Returns the control socket of the controller with this file.
pub(super) fn socket(file: &Path) -> Result<PathBuf, u8> {
    let checked = load_health(file).map_err(|error| common::usage_error(&error.to_string()))?;
    for problem in checked.errors() {
        print::error(problem.in_file(file));
    }
    Ok(checked.config.ok_or(BAD_USAGE)?.health.socket)
}

/// Formats the status.
pub(super) fn table(status: &ControllerStatus, summary: &str, selection: &Selection) -> String {
    let (checking, store) = (&status.checking, &status.store.kind);
    let checks = &checking.checks;
    let mut out = String::new();
    let publishes = if checking.leading { "publishes" } else { "stands by" };
    let (name, version, generation, uptime) = (&status.name, &status.version, checking.generation, uptime(status.uptime_seconds));
    line(&mut out, format_args!("{name} (guideway {version}), {publishes}, generation {generation} of the {store} store, up {uptime}"));
    if store == "memory" {
        line(&mut out, "no director reads this store: results appear only here and in metrics");
    }
    if let Some(stale) = &checking.stale {
        line(&mut out, format_args!("the store {} for {} s: {}", stale.reason.text(), stale.seconds, stale.why));
    }
    line(
        &mut out,
        format_args!(
            "{} backends, {:?} checks a second, {} of {} under way, {:.0} ms behind",
            checks.backends,
            checks.per_second,
            checks.in_flight,
            checks.limit,
            checks.behind_seconds * 1000.0,
        ),
    );
    for pool in checking.pools.iter().filter(|pool| pool.floor) {
        line(
            &mut out,
            format_args!(
                "POOL {}: {} of {} backends fail their checks, {} of them are held up by min_healthy = {}; verify the check and the path to the backends",
                pool.pool, pool.failing, pool.backends, pool.held_up, pool.min_healthy,
            ),
        );
    }
    let pools = checking.pools.iter().map(|pool| {
        let counts = [pool.backends, pool.failing, pool.held_up, pool.unknown].map(|count| count.to_string());
        [pool.pool.clone(), pool.check.clone()].into_iter().chain(counts).collect()
    });
    rows(&mut out, &["POOL", "CHECK", "BACKENDS", "FAILING", "HELD UP", "UNKNOWN"], pools);
    out.push('\n');
    line(&mut out, summary);
    let shown = selection.limit(checking.backends.len());
    rows(&mut out, &["BACKEND", "POOL", "ADDRESS", "STATE", "TOOK", "WHY"], checking.backends.iter().take(shown).map(row));
    more(&mut out, shown, checking.backends.len());
    out.push('\n');
    out.push_str(&numbers(checks.outcomes.iter().map(|(outcome, count)| (outcome.name(), *count))));
    out
}

fn row(backend: &CheckedBackend) -> Vec<String> {
    let state = match backend.state {
        HealthState::Slow => format!("slow {} %", backend.percent),
        HealthState::Up if backend.held_up => "held up".to_owned(),
        state => state.to_string(),
    };
    let took = backend.last.as_ref().map_or("-".to_owned(), |last| format!("{:.1} ms", last.seconds * 1000.0));
    // The reason for the state, and the last check where that is another reason.
    let why = match (&backend.last, backend.why.as_str()) {
        (None, "") => "not checked yet".to_owned(),
        (Some(last), "") => last.text.clone(),
        (Some(last), why) if last.outcome != CheckOutcome::Passed && !why.contains(&last.text) => format!("{why}; now {}", last.text),
        (_, why) => why.to_owned(),
    };
    vec![backend.name.clone(), backend.pool.clone(), backend.address.to_string(), state, took, why]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn the_table_shows_backends_and_is_loud_about_the_floor() {
        let backend = |name: &str, state: &str, held_up: bool, why: &str, last: Value| {
            json!({"name": name, "pool": "boot", "address": "10.0.2.21", "state": state, "percent": 40, "held_up": held_up, "why": why, "last": last,
            "since": 0, "good_in_a_row": 0, "failed_in_a_row": 0, "checks": 0, "failed": 0})
        };
        let status = json!({
            "kind": "health", "name": "h1", "version": "0.1.0", "uptime_seconds": 61, "source": [], "store": {"kind": "memory", "durable": false},
            "leading": true, "generation": 7, "changes": {"went_down": 0, "came_up": 0}, "publishing": {"done": 0, "failed": 0, "waiting": 0},
            "checks": {"backends": 4, "per_second": 2.5, "in_flight": 1, "limit": 4096, "behind_seconds": 0.002, "for_suspicion": 0, "outcomes": {"passed": 9, "timeout": 4}},
            "pools": [{"pool": "boot", "check": "tftp canary every 2s", "backends": 4, "failing": 3, "floor": true, "held_up": 1, "unknown": 1, "min_healthy": 50}],
            "backends": [
                backend("t1", "up", false, "tftp canary is good", json!({"outcome": "passed", "text": "passed", "seconds": 0.0012, "at": 1})),
                backend("t2", "slow", false, "back", json!({"outcome": "timeout", "text": "timeout: nothing came", "seconds": 1.0, "at": 1})),
                backend("t3", "up", true, "kept by min_healthy = 50, though it fails: timeout", json!({"outcome": "timeout", "text": "timeout", "seconds": 1.0, "at": 1})),
                backend("t4", "unknown", false, "", Value::Null),
            ],
        });
        let mut status: ControllerStatus = serde_json::from_value(status).unwrap();
        let summary = Selection::default().apply(&mut status.checking.backends);
        let shown = table(&status, &summary, &Selection::default());
        for part in [
            "h1 (guideway 0.1.0), publishes, generation 7 of the memory store, up 1 min 1 s",
            "4 backends, 2.5 checks a second, 1 of 4096 under way, 2 ms behind",
            "POOL boot: 3 of 4 backends fail their checks, 1 of them are held up by min_healthy = 50",
            "slow 40 %  1000.0 ms  back; now timeout: nothing came",
            "held up    1000.0 ms  kept by min_healthy = 50, though it fails: timeout\n",
            "not checked yet",
            "1.2 ms",
            "4 backends: 1 down, 1 slow, 1 unknown, 2 up",
        ] {
            assert!(shown.contains(part), "{part} in\n{shown}");
        }
    }
}

//! The status of a health controller.

use super::super::{BAD_USAGE, common, print};
use super::{rows, uptime};
use guideway_config::health::load_health;
use serde_json::Value;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// The control socket of the controller with this file.
pub(super) fn socket(file: &Path) -> Result<PathBuf, u8> {
    let checked = load_health(file).map_err(|error| common::bad(&error.to_string()))?;
    for problem in checked.errors() {
        print::error(problem.in_file(file));
    }
    Ok(checked.config.ok_or(BAD_USAGE)?.health.socket)
}

/// The status for people.
pub(super) fn table(status: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (checks, store) = (&status["checks"], &status["store"]);
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(
        out,
        "{} (guideway {}), {}, generation {} of the {} store, up {}",
        text(&status["name"]),
        text(&status["version"]),
        if status["leading"] == true { "publishes" } else { "stands by" },
        status["generation"],
        text(&store["kind"]),
        uptime(status["uptime_seconds"].as_u64().unwrap_or(0)),
    );
    if store["kind"] == "memory" {
        let _ = writeln!(out, "no director reads this store: what is seen shows here and in metrics only");
    }
    if let Some(why) = status["trouble"]["why"].as_str() {
        let _ = writeln!(out, "the store is away for {} s: {why}", status["trouble"]["seconds"]);
    }
    let behind = checks["behind_seconds"].as_f64().unwrap_or(0.0) * 1000.0;
    let _ = writeln!(
        out,
        "{} backends, {} checks a second, {} of {} under way, {behind:.0} ms behind",
        checks["backends"], checks["per_second"], checks["in_flight"], checks["limit"],
    );
    for pool in status["pools"].as_array().into_iter().flatten().filter(|pool| pool["floor"] == true) {
        let _ = writeln!(
            out,
            "POOL {}: {} of {} backends fail their checks, {} of them are held up by min_healthy = {}: is it the check, or the way to the backends?",
            text(&pool["pool"]),
            pool["failing"],
            pool["backends"],
            pool["kept"],
            pool["min_healthy"],
        );
    }
    rows(&mut out, &["POOL", "CHECK", "BACKENDS", "FAILING", "KEPT"], &status["pools"], &["pool", "check", "backends", "failing", "kept"]);
    let backends: Vec<Value> = status["backends"].as_array().into_iter().flatten().map(shown).collect();
    let keys = ["name", "pool", "address", "state", "took", "why"];
    rows(&mut out, &["BACKEND", "POOL", "ADDRESS", "STATE", "TOOK", "WHY"], &Value::Array(backends), &keys);
    let _ = writeln!(out);
    for (name, count) in checks["outcomes"].as_object().into_iter().flatten() {
        let _ = writeln!(out, "{name:<28} {count:>14}");
    }
    out
}

/// A backend with what people want to read of it.
fn shown(backend: &Value) -> Value {
    let mut backend = backend.clone();
    let state = match backend["state"].as_str() {
        Some("slow") => format!("slow {} %", backend["percent"]),
        Some("up") if backend["kept"] == true => "kept".to_owned(),
        state => state.unwrap_or_default().to_owned(),
    };
    let took = backend["last"]["seconds"].as_f64().map_or("-".to_owned(), |seconds| format!("{:.1} ms", seconds * 1000.0));
    let last = &backend["last"];
    // What stands, and beside it what the last check says when that is something else.
    let why = match (last["outcome"].as_str(), backend["why"].as_str().unwrap_or_default()) {
        (None, "") => "not checked yet".to_owned(),
        (Some(_), "") => last["text"].as_str().unwrap_or_default().to_owned(),
        (Some("good") | None, why) => why.to_owned(),
        (Some(_), why) if last["text"].as_str().is_some_and(|text| why.ends_with(text)) => why.to_owned(),
        (Some(_), why) => format!("{why}; now {}", last["text"].as_str().unwrap_or_default()),
    };
    if let Some(backend) = backend.as_object_mut() {
        backend.extend([("state", state), ("took", took), ("why", why)].map(|(key, value)| (key.to_owned(), value.into())));
    }
    backend
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_table_shows_backends_and_is_loud_about_the_floor() {
        let backend = |name: &str, state: &str, kept: bool, why: &str, last: Value| json!({"name": name, "pool": "boot", "address": "10.0.2.21", "state": state, "percent": 40, "kept": kept, "why": why, "last": last});
        let status = json!({
            "kind": "health", "name": "h1", "version": "0.1.0", "uptime_seconds": 61, "leading": true, "generation": 7, "store": {"kind": "memory"},
            "checks": {"backends": 4, "per_second": 2.5, "in_flight": 1, "limit": 4096, "behind_seconds": 0.002, "outcomes": {"good": 9, "silent": 4}},
            "pools": [{"pool": "boot", "check": "tftp canary every 2s", "backends": 4, "failing": 3, "floor": true, "kept": 1, "min_healthy": 50}],
            "backends": [
                backend("t1", "up", false, "tftp canary is good", json!({"outcome": "good", "text": "good", "seconds": 0.0012})),
                backend("t2", "slow", false, "back", json!({"outcome": "silent", "text": "silent: nothing came", "seconds": 1.0})),
                backend("t3", "up", true, "kept by min_healthy = 50, though it fails: silent", json!({"outcome": "silent", "text": "silent", "seconds": 1.0})),
                backend("t4", "up", false, "", Value::Null),
            ],
        });
        let shown = table(&status);
        for part in [
            "h1 (guideway 0.1.0), publishes, generation 7 of the memory store, up 1 min 1 s",
            "4 backends, 2.5 checks a second, 1 of 4096 under way, 2 ms behind",
            "POOL boot: 3 of 4 backends fail their checks, 1 of them are held up by min_healthy = 50",
            "slow 40 %  1000.0 ms  back; now silent: nothing came",
            "kept       1000.0 ms  kept by min_healthy = 50, though it fails: silent\n",
            "not checked yet",
            "1.2 ms",
        ] {
            assert!(shown.contains(part), "{part} in\n{shown}");
        }
    }
}

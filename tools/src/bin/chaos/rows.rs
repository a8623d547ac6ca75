//! The rows: which scripts there are, in which order, and one result in a line.

use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// The order of the table: from what any balancer must do to what only ours must do. Scripts that are not named here come last.
const ORDER: &[&str] = &[
    "kill-director",
    "change-pool",
    "kill-backend",
    "restart-backend",
    "partition-backend",
    "one-way-partition",
    "kill-director-and-backend",
    "wrap-window-1",
    "wrap-window-4",
    "wrap-window-64",
    "kill-owner-and-successor",
    "partition-successor",
    "kill-in-tftpd",
    "servers-on-directors",
    "in-tftpd-on-directors",
    "no-tid-ranges",
    "change-file",
    "rolling-restart",
    "change-mac",
    "change-mtu",
    "change-queues",
    "bad-link",
    "boot-storm",
    "fragments",
    "fragments-60k",
    "restart-lone-director",
];
/// Failures of one row that are kept.
const MAX_FAILURES: usize = 5;

/// The scripts in `directory`, all or those requested.
pub fn find(directory: &Path, requested: &[String]) -> Result<Vec<PathBuf>, String> {
    let entries = std::fs::read_dir(directory).map_err(|e| format!("--scripts {}: {e}", directory.display()))?;
    let mut found: Vec<PathBuf> =
        entries.flatten().map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "chaos")).collect();
    let place = |path: &PathBuf| (ORDER.iter().position(|row| *row == name(path)).unwrap_or(ORDER.len()), path.clone());
    found.sort_by_key(place);
    if let Some(unknown) = requested.iter().find(|row| !found.iter().any(|path| name(path) == **row)) {
        let all: Vec<String> = found.iter().map(|path| name(path)).collect();
        return Err(format!("--row {unknown}: there is no such script; there are {}", all.join(", ")));
    }
    found.retain(|path| requested.is_empty() || requested.contains(&name(path)));
    Ok(found)
}

/// A script's name.
pub fn name(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// A row of a lab that gave no report.
pub fn failed(script: &Path, seed: u64, direct: bool, why: &str) -> Value {
    let balancer = if direct { "plain ECMP" } else { "guideway" };
    json!({ "row": name(script), "event": name(script), "balancer": balancer, "seed": seed, "ok": false, "problems": [why] })
}

/// Leaves out all but a few failures.
pub fn truncate_failures(row: &mut Value) {
    if let Some(failures) = row["failures"].as_array_mut() {
        failures.truncate(MAX_FAILURES);
    }
}

/// A human-readable line.
pub fn line(row: &Value) -> String {
    let number = |key: &str| row[key].as_u64().unwrap_or(0);
    let verdict = match (row["balancer"] == "guideway", row["ok"] == true) {
        (true, true) => "ok    ",
        (true, false) => "NOT OK",
        (false, _) => "(base)",
    };
    let pauses =
        format!("pause {:.2} s, at most {:.2} s", row["pause_p50"].as_f64().unwrap_or(0.0), row["pause_max"].as_f64().unwrap_or(0.0));
    let problem = row["problems"][0].as_str().map(|why| format!("; {why}")).unwrap_or_default();
    format!(
        "{verdict} {:<26} {:<10} seed {}: {} transfers, {} failed ({} allowed), {} wrong; {pauses}; {:.0} s{problem}",
        row["row"].as_str().unwrap_or("?"),
        row["balancer"].as_str().unwrap_or("?"),
        row["seed"],
        number("transfers"),
        number("failed"),
        number("allowed"),
        number("wrong_bytes"),
        row["seconds"].as_f64().unwrap_or(0.0),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scripts() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../src/lab/scripts")
    }

    #[test]
    fn every_script_has_its_place_and_every_place_its_script() {
        let found: Vec<String> = find(&scripts(), &[]).unwrap().iter().map(|path| name(path)).collect();
        assert_eq!(found, ORDER);
    }

    #[test]
    fn rows_are_chosen_by_name() {
        let found = find(&scripts(), &["rolling-restart".to_owned(), "change-pool".to_owned()]).unwrap();
        assert_eq!(found.iter().map(|path| name(path)).collect::<Vec<_>>(), ["change-pool", "rolling-restart"]);
        let said = find(&scripts(), &["kill-all".to_owned()]).unwrap_err();
        assert!(said.contains("--row kill-all") && said.contains("boot-storm"), "{said}");
    }

    #[test]
    fn a_lab_without_a_report_is_a_row_that_is_not_ok() {
        let row = failed(Path::new("x/rolling-restart.chaos"), 3, false, "no root");
        assert!(line(&row).starts_with("NOT OK rolling-restart") && line(&row).ends_with("; no root"), "{}", line(&row));
    }
}

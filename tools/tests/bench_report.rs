//! `bench-report` makes of what benchmarks printed, recorded in `bench_report/`, the rows, the page and the README's part. Nothing is timed here.
#![allow(clippy::unwrap_used, clippy::panic)] // A test fails by panicking, in its helpers too.

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A repository to write into, removed at the end.
struct Fixture(PathBuf);

impl Fixture {
    fn new(name: &str) -> Fixture {
        let directory = std::env::temp_dir().join(format!("bench-report-test-{name}-{}", std::process::id()));
        fs::create_dir_all(directory.join("tools/plots")).unwrap();
        fs::write(directory.join("README.md"), "# Top\n<!-- bench-report: begin -->\nold\n<!-- bench-report: end -->\nrest\n").unwrap();
        Fixture(directory)
    }

    fn report(&self, recorded: &Path, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bench-report"));
        command.current_dir(&self.0).arg("--recorded").arg(recorded).args(["--write", "out", "--json", "rows.json"]).args(arguments);
        command.output().unwrap()
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.0.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
    }

    fn rows(&self) -> Vec<Value> {
        let read: Value = serde_json::from_str(&self.read("rows.json")).unwrap();
        read["rows"].as_array().unwrap().clone()
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn recorded() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench_report")
}

fn row<'r>(rows: &'r [Value], name: &str) -> &'r Value {
    rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("no row {name}"))
}

#[test]
fn a_recording_becomes_rows_page_pictures_and_the_part_of_the_readme() {
    let fixture = Fixture::new("whole");
    let output = fixture.report(&recorded(), &["--readme"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rows = fixture.rows();
    // The recording is older than `path_tid_1m_repeat`.
    for row in rows.iter().filter(|row| !["steer_2", "path_hot_instructions", "path_tid_1m_repeat"].iter().any(|name| row["name"] == *name))
    {
        let [least, most] = [0, 1].map(|end| row["spread"][end].as_f64().unwrap_or_else(|| panic!("not measured: {row}")));
        let ratio = row["ratio"].as_f64().unwrap();
        assert!(least <= ratio && ratio <= most && row["value"].as_f64().unwrap() > 0.0, "{row}");
        assert_eq!(row["rounds"], 3, "{row}");
        assert_eq!(row["ok"].is_boolean(), row["goal"] != "", "{row}");
        assert_eq!(row["missed_by"].is_null(), row["ok"] != false, "{row}");
    }
    assert!(row(&rows, "path_hot_instructions")["value"].as_f64().unwrap() > 0.0);
    assert_eq!(row(&rows, "af_xdp")["unit"], "Mpps");

    let (page, readme) = (fixture.read("out/report.md"), fixture.read("README.md"));
    for name in ["`path_hot`", "`flow_bytes_10m`", "`maglev_655373_paper`", "3 rounds", "Linux "] {
        assert!(page.contains(name) && readme.contains(name), "{name} is missing in {page}");
    }
    assert!(!page.contains("`steer_2`"), "it has neither a goal nor a number: {page}");
    assert!(
        readme.starts_with("# Top\n<!-- bench-report: begin -->\n") && readme.ends_with("<!-- bench-report: end -->\nrest\n"),
        "{readme}"
    );
    assert!(!readme.contains("old") && readme.contains("(tools/plots/flows.svg)"), "{readme}");
    for picture in ["out/flows.svg", "out/batch.svg", "out/frame.svg", "tools/plots/flows.svg"] {
        assert!(fixture.read(picture).starts_with("<svg "), "{picture}");
    }
}

#[test]
fn a_goal_that_is_missed_or_not_measured_is_no_error_unless_it_shall_be() {
    let (fixture, one) = (Fixture::new("strict"), Fixture::new("strict-recording"));
    let said = "bench path\npaired {\"name\":\"path_hot\",\"unit\":\"ns/packet\",\"value\":33,\"reference\":10}\nbench af_xdp\nSKIPPED: needs root\n";
    fs::write(one.0.join("round-1.txt"), said).unwrap();
    assert_eq!(fixture.report(&one.0, &[]).status.code(), Some(0));
    let page = fixture.read("out/report.md");
    assert!(page.contains("| 3.30 | ≤ 3 | **no**, by 10 % |") && page.contains("Not measured: af_xdp: needs root."), "{page}");
    assert_eq!(fixture.report(&one.0, &["--strict"]).status.code(), Some(3));
}

#[test]
fn what_cannot_be_read_is_an_error_that_names_it() {
    let (fixture, one) = (Fixture::new("damaged"), Fixture::new("damaged-recording"));
    let output = fixture.report(&one.0, &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no files round-*.txt"));
    fs::write(one.0.join("round-1.txt"), "bench flow\npaired {\"name\":\"x\"}\n").unwrap();
    let output = fixture.report(&one.0, &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("flow printed a line that cannot be read"));
}

//! `tftp-bench` measures a server that is here, names those that are not, and leaves nothing behind.

use nix::unistd::geteuid;
use serde_json::Value;
use std::fs;
use std::process::Command;

#[test]
fn what_is_here_is_measured_and_what_is_not_is_named() {
    if !geteuid().is_root() {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "CI promised root");
        println!("SKIPPED: needs root");
        return;
    }
    let directory = std::env::temp_dir().join(format!("tftp-bench-test-{}", std::process::id()));
    fs::create_dir(&directory).unwrap();
    let (json, plots) = (directory.join("results.json"), directory.join("plots"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_tftp-bench"));
    command.args(["--quick", "--only", "short,concurrent", "--servers", "guideway,in.tftpd", "--guideway", "/nonexistent"]);
    let output = command.arg("--json").arg(&json).arg("--plots").arg(&plots).output().unwrap();
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{errors}");
    assert!(text.contains("- guideway tftpd is missing: /nonexistent"), "{text}");
    let read: Value = serde_json::from_str(&fs::read_to_string(&json).unwrap()).unwrap();
    let measured = |work: &str, value: &str| {
        let rows = read["measured"].as_array().unwrap();
        let row = rows.iter().find(|r| r["work"].as_str().unwrap().contains(work)).unwrap();
        row["values"][value]["median"].as_f64().unwrap()
    };
    assert!(measured("short", "transfers_per_s") > 0.0, "{read}");
    assert!(measured("windowsize 1", "server_cpu_s") > 0.0, "{read}");
    assert_eq!(measured("windowsize 1", "failed") + measured("windowsize 1", "unfinished"), 0.0, "{read}");
    assert!(read["rows"].as_array().unwrap().iter().all(|row| row["ok"].is_null()), "there is nothing of ours to judge: {read}");
    assert!(fs::read_to_string(plots.join("short.svg")).unwrap().starts_with("<svg "));
    fs::remove_dir_all(&directory).unwrap();
}

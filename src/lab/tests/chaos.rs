//! Scripts of chaos, run once each at their small size: what dies, and that no transfer fails but those that may.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use nix::unistd::geteuid;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The rows that hold, by the names of their scripts in `src/lab/scripts`.
const ROWS: &[&str] = &[
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
    "no-tid-ranges",
    "change-file",
    "rolling-restart",
    "restart-lone-director",
    "change-mac",
    "change-mtu",
    "change-queues",
    "bad-link",
    "boot-storm",
    "fragments",
    "fragments-60k",
    "servers-on-directors",
    "in-tftpd-on-directors",
];

/// Rows that run at the same time: they wait most of their time for clients' time-outs.
const CONCURRENCY: usize = 2;

/// One lab at a time: each wants all processors for itself.
static LAB_LOCK: Mutex<()> = Mutex::new(());

/// `None`, with a word, where the test cannot run; a failure where it was promised that it can.
fn root() -> Option<MutexGuard<'static, ()>> {
    if geteuid().is_root() {
        return Some(LAB_LOCK.lock().unwrap_or_else(PoisonError::into_inner));
    }
    assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "this test needs root, and CI promises it");
    println!("SKIPPED: needs root");
    None
}

fn lab(script: &Path, flags: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_guideway-lab")).arg("--chaos").arg(script).args(flags).output().unwrap()
}

fn report(output: &Output) -> Value {
    let said = || String::from_utf8_lossy(&output.stderr).into_owned();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("stdout is no JSON ({e}): {}", said()))
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("scripts/{name}.chaos"))
}

/// A script of the test's own.
fn script_file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::Builder::new().suffix(".chaos").tempfile().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

#[test]
fn nothing_fails_but_what_may() {
    let Some(_lock) = root() else { return };
    let left = Mutex::new(ROWS.iter());
    std::thread::scope(|scope| {
        let one_after_the_other = || {
            while let Some(name) = next(&left) {
                check_row(name);
            }
        };
        (0..CONCURRENCY).for_each(|_| drop(scope.spawn(one_after_the_other)));
    });
}

fn next(left: &Mutex<std::slice::Iter<'_, &'static str>>) -> Option<&'static str> {
    left.lock().unwrap_or_else(PoisonError::into_inner).next().copied()
}

/// Runs a row, and says what does not hold.
fn check_row(name: &str) {
    let output = lab(&script(name), &["--json"]);
    let row = report(&output);
    println!("{name}: {} transfers, pause at most {} s, {} s", row["transfers"], row["pause_max"], row["seconds"]);
    assert!(row["ok"] == true && output.status.code() == Some(0), "{name}: {row:#}");
    let over = ["verified", "failed", "wrong_bytes"].map(|key| row[key].as_u64().unwrap());
    assert_eq!(over.iter().sum::<u64>(), row["transfers"].as_u64().unwrap(), "{name}: every transfer has its verdict");
    assert_eq!(over[2], 0, "{name}: wrong bytes");
    if name == "restart-lone-director" {
        assert!(row["pause_max"].as_f64().unwrap() >= 0.3, "{name}: while no director ran, transfers waited: {row:#}");
    }
    if name == "kill-owner-and-successor" {
        assert!(row["taken_over_again"].as_u64() > Some(0), "{name}: a second successor went on: {row:#}");
    }
}

#[test]
fn a_dead_server_loses_its_own_transfers_alone_and_they_are_counted() {
    let Some(_lock) = root() else { return };
    let text = "event a stock server dies\nserver in.tftpd\nclient guideway\ntransfers 12\nconcurrency 12\nsize 4MiB\ntimeout 4s\n";
    let dies = "at 30% kill t1\nalso kill t2\nalso kill t3\nalso kill t4\n";
    let row = report(&lab(script_file(&format!("{text}{dies}")).path(), &["--json"]));
    assert_eq!((&row["ok"], &row["failed"], &row["in_flight"]), (&false.into(), &12.into(), &12.into()), "{row:#}");
    assert_eq!(row["events"][0]["event"], "kill t1");
    let row = report(&lab(script_file(&format!("{text}allowed transfers-of t1 t2 t3 t4\n{dies}")).path(), &["--json"]));
    assert_eq!((&row["ok"], &row["allowed"]), (&true.into(), &12.into()), "{row:#}");
}

#[test]
fn hosts_are_stopped_cut_blocked_and_healed_and_transfers_go_on() {
    let Some(_lock) = root() else { return };
    let text = "event trouble that passes\nclient guideway\ntransfers 16\nconcurrency 16\nsize 256KiB\nat 20% stop t1\nafter 200ms cont t1\n\
                after 50ms partition t2\nafter 200ms heal t2\nafter 50ms block-receive t3\nafter 200ms heal t3\nafter 50ms stop d1\nafter 50ms cont d1\n\
                at 50% done reload broken d2\nalso weight t4 7\nalso link client delay 1ms loss 1%\n";
    let row = report(&lab(script_file(text).path(), &["--json"]));
    assert!(row["ok"] == true && row["verified"] == 16, "{row:#}");
    assert!(row["pause_max"].as_f64().unwrap() >= 0.2, "somebody waited: {row:#}");
}

#[test]
fn without_directors_a_reshuffle_loses_transfers() {
    let Some(_lock) = root() else { return };
    let text = "event ECMP reshuffles\nclient guideway\ntransfers 12\nconcurrency 12\nsize 256KiB\ntimeout 4s\nat 30% reshuffle\n";
    let file = script_file(text);
    let baseline = report(&lab(file.path(), &["--json", "--direct"]));
    assert_eq!((&baseline["balancer"], &baseline["server"]), (&"plain ECMP".into(), &"in.tftpd".into()));
    assert!(baseline["failed"].as_u64().unwrap() >= 3, "three in four go to another server: {baseline:#}");
    assert_eq!(report(&lab(file.path(), &["--json"]))["verified"], 12);
}

#[test]
fn the_text_shows_the_events_and_its_last_line_is_the_verdict() {
    let Some(_lock) = root() else { return };
    let file = script_file("event a small one\nclient guideway\ntransfers 6\nsize 64KiB\nat 30% reshuffle\n");
    let output = lab(file.path(), &["--seed", "7"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("a small one (guideway, seed 7)") && text.contains(" s  reshuffle"), "{text}");
    assert!(text.lines().last().unwrap().starts_with("ok: 0 failed, 0 allowed"), "{text}");
}

#[test]
fn an_event_that_never_came_is_a_problem() {
    let Some(_lock) = root() else { return };
    let file = script_file("event too late\nclient guideway\ntransfers 2\nsize 1KiB\nat 10m reshuffle\n");
    let row = report(&lab(file.path(), &["--json"]));
    assert_eq!(row["ok"], false);
    assert_eq!(row["problems"][0], "`at 10m reshuffle` never came: the transfers were over");
}

#[test]
fn bad_scripts_are_refused_with_every_reason() {
    let output = lab(script_file("event bad\nat 1s explode t1\ndirectors 0\n").path(), &[]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("line 2: `explode t1` is no event") && said.contains("line 3: `0`: directors"), "{said}");
    let output = lab(Path::new("/nonexistent.chaos"), &[]);
    assert_eq!(output.status.code(), Some(2));
}

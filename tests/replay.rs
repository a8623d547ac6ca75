//! Scenarios: captures through `guideway replay`, the program as it is shipped. Each file of `tests/replay/` is one, named for what happens.
//!
//! `GUIDEWAY_REGENERATE=1 cargo test --test replay` writes down what comes out now; read the difference before you keep it.
// A test says what is wrong by panicking; clippy knows that only of the test functions themselves.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "replay/decode.rs"]
mod decode;
#[path = "replay/language.rs"]
mod language;
#[path = "replay/render.rs"]
mod render;
#[path = "replay/run.rs"]
mod run;
#[path = "replay/scenario.rs"]
mod scenario;

use language::{Input, input, scenarios};
use pcap_file::DataLink;
use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionOption::IfTsResol;
use run::{BOOT, guideway, pcap, replay};
use scenario::{Scenario, pcapng, pcapng_of};
use std::fs::{read, write};
use std::time::Duration;

#[test]
fn every_scenario_happens_as_it_is_written() {
    let regenerate = std::env::var_os("GUIDEWAY_REGENERATE").is_some();
    let scenarios = scenarios();
    assert!(scenarios.len() > 20, "{} scenarios", scenarios.len());
    let mut failed = Vec::new();
    for (path, text) in &scenarios {
        let now = std::panic::catch_unwind(|| Scenario::parse(text).run()).unwrap_or_else(|_| panic!("in {}", path.display()));
        if regenerate {
            write(path, now).unwrap();
        } else if now != *text {
            failed.push(format!("{}\n--- as written\n{text}\n--- as it happened\n{now}", path.display()));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
}

/// A read request and two acknowledgements.
fn three() -> Vec<Input> {
    let gre = |time: &str, rest: &str| input(&format!("{time} gre 10.0.0.1 > 10.0.1.11 | udp 198.51.100.7:2070 > {rest}"));
    vec![gre("1.000", "192.0.2.69:69 | rrq pxelinux.0"), gre("1.001", "192.0.2.69:20500 | ack 1"), gre("1.002", "192.0.2.69:20500 | ack 2")]
}

#[test]
fn a_capture_cut_off_anywhere_gives_what_is_whole_and_fails_with_the_place() {
    let dir = tempfile::tempdir().unwrap();
    let inputs = three();
    for (whole, cuttable) in
        [(pcap(&inputs, DataLink::ETHERNET), pcap(&inputs[..2], DataLink::ETHERNET)), (pcapng(&inputs), pcapng(&inputs[..2]))]
    {
        for end in [cuttable.len() + 1, cuttable.len() + 4, cuttable.len() + 20, whole.len() - 1] {
            let done = replay(dir.path(), BOOT, &whole[..end]);
            assert_eq!(done.code, Some(1), "cut at {end} of {}: {}", whole.len(), done.stderr);
            assert!(done.stderr.contains("in.pcap: after frame 2: the file ends in the middle of a record"), "{}", done.stderr);
            assert_eq!((done.frames.len(), done.counter("received"), done.counter("transmitted")), (2, 2, 2));
        }
        let done = replay(dir.path(), BOOT, &cuttable);
        assert_eq!((done.code, done.frames.len()), (Some(0), 2), "cut between two frames there is nothing to notice");
    }
}

#[test]
fn a_capture_of_another_link_type_or_none_at_all_is_refused() {
    for (capture, what) in [
        (pcap(&three(), DataLink::RAW), "its link type is RAW; only Ethernet (link type 1) can be replayed"),
        (b"GIF89a, not a capture".to_vec(), "a capture in pcap or pcapng format is expected"),
        (Vec::new(), "a capture in pcap or pcapng format is expected"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let done = replay(dir.path(), BOOT, &capture);
        assert_eq!(done.code, Some(1));
        assert!(done.stderr.contains("in.pcap") && done.stderr.contains(what), "{}", done.stderr);
        assert!(done.counters.is_empty() && done.frames.is_empty());
    }
}

#[test]
fn what_is_read_is_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let capture = pcap(&three(), DataLink::ETHERNET);
    write(dir.path().join("in.pcap"), &capture).unwrap();
    write(dir.path().join("boot.toml"), BOOT).unwrap();
    std::fs::hard_link(dir.path().join("in.pcap"), dir.path().join("same.pcap")).unwrap();
    std::os::unix::fs::symlink("in.pcap", dir.path().join("link.pcap")).unwrap();
    for (out, counters) in [
        ("in.pcap", "c.json"),
        ("./in.pcap", "c.json"),
        ("link.pcap", "c.json"),
        ("same.pcap", "c.json"),
        ("boot.toml", "c.json"),
        ("out.pcap", "in.pcap"),
        ("out.pcap", "boot.toml"),
        ("out.pcap", "out.pcap"),
    ] {
        let args = ["--config", "boot.toml", "--in", "in.pcap", "--out", out, "--counters", counters];
        let done = guideway(dir.path(), &args);
        let stderr = String::from_utf8(done.stderr).unwrap();
        assert_eq!(done.status.code(), Some(2), "{out} {counters}: {stderr}");
        assert!(stderr.contains("is the same file as"), "{stderr}");
        assert!(
            read(dir.path().join("in.pcap")).unwrap() == capture && read(dir.path().join("boot.toml")).unwrap() == BOOT.as_bytes(),
            "{out} {counters}"
        );
    }
}

#[test]
fn a_bad_configuration_is_refused_with_its_line_before_anything_is_written() {
    let line = BOOT.lines().position(|l| l.contains("21000-21999")).unwrap() + 1;
    let bad = BOOT.replace("21000-21999", "20500-21999");
    let dir = tempfile::tempdir().unwrap();
    let done = replay(dir.path(), &bad, &pcap(&three(), DataLink::ETHERNET));
    assert_eq!(done.code, Some(2));
    assert!(done.stderr.contains(&format!("boot.toml:{line}:")) && done.stderr.contains("tid_range"), "{}", done.stderr);
    assert!(!dir.path().join("out.pcap").exists());
}

#[test]
fn a_damaged_container_never_crashes_the_program() {
    let dir = tempfile::tempdir().unwrap();
    for whole in [pcap(&three(), DataLink::ETHERNET), pcapng(&three())] {
        for at in (0..whole.len()).step_by(11) {
            let mut damaged = whole.clone();
            damaged[at] ^= 0xff;
            let done = replay(dir.path(), BOOT, &damaged);
            assert!(matches!(done.code, Some(0 | 1)), "byte {at}: {:?} {}", done.code, done.stderr);
        }
    }
}

#[test]
fn time_may_stand_at_its_end_and_go_back() {
    let dir = tempfile::tempdir().unwrap();
    let line = "0.000 udp 198.51.100.7:2070 > 192.0.2.69:20001 df | data 1 1468";
    let mut inputs: Vec<Input> = (0..200).map(|_| input(line)).chain(three()).collect();
    inputs.iter_mut().step_by(3).for_each(|input| input.time = Duration::MAX);
    // Whole seconds, and 2 to the power of -63: as far as a count of 64 bits goes, and as short as it gets.
    for resolution in [0, 0xbf, 0x7f, 0xff] {
        let done = replay(dir.path(), BOOT, &pcapng_of(&inputs, vec![IfTsResol(resolution)]));
        assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""), "unit {resolution:#x}");
        assert_eq!((done.counter("received"), done.counter("transmitted")), (203, 3));
    }
}

use super::*;
use crate::{Intent, read_intent};
use serde_json::json;

fn intent(check: &str) -> String {
    format!(
        "[[vip]]\naddress = \"192.0.2.69\"\nservice = \"tftp\"\npool = \"boot\"\n[[pool]]\nname = \"boot\"\ncheck = {{ {check} }}\n\
         backends = [{{ name = \"t1\", address = \"10.0.2.21\" }}]\n"
    )
}

fn good(check: &str) -> Check {
    let checked = read_intent(&intent(check));
    let problems: Vec<String> = checked.errors().map(ToString::to_string).collect();
    checked.config.unwrap_or_else(|| panic!("{check}: {problems:?}")).pools[0].check.clone().unwrap()
}

#[track_caller]
fn assert_error(check: &str, message: &str) {
    let problems: Vec<String> = read_intent(&intent(check)).errors().map(ToString::to_string).collect();
    assert_eq!(problems.len(), 1, "{check}: {problems:?}");
    assert!(problems[0].contains(message), "{message} in {problems:?}");
}

#[test]
fn defaults_and_every_kind() {
    let probe = TftpProbe { file: "canary".into(), sha256: None, size: None, blksize: 1428, windowsize: 1, vip: None };
    assert_eq!(good("kind = \"tftp\", file = \"canary\""), Check::new(Probe::Tftp(probe)));
    let quick = good("kind = \"tcp\", port = 22, interval = \"200ms\"");
    assert_eq!((quick.interval, quick.timeout), (Duration::from_millis(200), Duration::from_millis(200)), "a check ends before the next");
    let udp = good("kind = \"udp\", port = 53, send = \"hex:00ff\", expect = { prefix = \"ab\" }");
    let expect = Some(Expect { bytes: b"ab".to_vec(), at_start: true });
    assert_eq!(udp.probe, Probe::Udp { port: 53, send: vec![0, 255], expect });
    let http = good("kind = \"http\", path = \"/up\", expect = \"yes\"");
    assert_eq!(http.label(), "http 80/up every 2s");
}

#[test]
fn a_check_survives_a_round_trip_through_json() {
    let digest = "ab".repeat(32);
    for check in [
        &format!("kind = \"tftp\", file = \"a/b\", sha256 = \"{digest}\", size = 7, blksize = 512, windowsize = 4, vip = \"192.0.2.69\""),
        "kind = \"udp\", port = 53, send = \"ping\", expect = \"hex:ff00\"",
        "kind = \"udp\", port = 53, send = \"hex:6865783a\"",
        "kind = \"tcp\", port = 65535, rise = 1, fall = 100, jitter = 0, min_healthy = 0, slow_start = \"0s\"",
        "kind = \"http\", port = 8080, status = 204, expect = { prefix = \"{\" }",
        "kind = \"icmp\", interval = \"1h\", timeout = \"1h\", hold_down = \"0s\", hold_down_max = \"0s\", flap_window = \"0s\"",
        "kind = \"exec\", command = [\"/bin/true\", \"-x y\"]",
    ] {
        let read = read_intent(&intent(check)).config.unwrap_or_else(|| panic!("{check}"));
        assert_eq!(Intent::from_json(&read.to_json()).config, Some(read), "{check}");
    }
    assert!(Check::new(Probe::Icmp).to_json().get("rise") == Some(&json!(2)));
}

#[test]
fn invalid_checks_give_errors() {
    assert_error("kind = \"ping\"", "\"tftp\", \"udp\", \"tcp\", \"http\", \"icmp\" or \"exec\"");
    assert_error("kind = \"tftp\"", "pool.boot.check.file: is missing");
    assert_error("kind = \"tftp\", file = \"a\", sha256 = \"abc\"", "sha256sum");
    assert_error("kind = \"tftp\", file = \"a\", port = 69", "unknown key");
    assert_error("kind = \"tftp\", file = \"a\", vip = \"192.0.2.70\"", "no tftp service at this address uses the pool");
    assert_error("kind = \"icmp\", interval = \"50ms\"", "100ms to 1h");
    assert_error("kind = \"icmp\", timeout = \"3s\"", "longer than the interval of 2s");
    assert_error("kind = \"icmp\", hold_down = \"10m\", hold_down_max = \"1m\"", "less than the hold_down of 10m");
    assert_error("kind = \"icmp\", min_healthy = 101", "0 to 100");
    assert_error("kind = \"exec\", command = [\"true\"]", "absolute path");
    assert_error("kind = \"exec\", command = []", "absolute path");
    assert_error("kind = \"udp\", port = 53, send = \"hex:0\"", "pairs of hex digits");
    assert_error("kind = \"http\", path = \"up\"", "begins with '/'");
    let lonely = intent("kind = \"tftp\", file = \"a\"").replace("service = \"tftp\"", "service = { protocol = \"tcp\", ports = [80] }");
    let problems: Vec<String> = read_intent(&lonely).errors().map(ToString::to_string).collect();
    assert!(problems.len() == 1 && problems[0].contains("no tftp service uses the pool"), "{problems:?}");
}

#[test]
fn expected_content_of_an_answer() {
    let expect = |text: &str, at_start| Expect { bytes: text.as_bytes().to_vec(), at_start };
    assert!(expect("b", false).matches(b"abc") && !expect("b", true).matches(b"abc") && expect("a", true).matches(b"abc"));
    assert!(expect("", false).matches(b"") && expect("", true).matches(b"x") && !expect("abcd", false).matches(b"abc"));
}

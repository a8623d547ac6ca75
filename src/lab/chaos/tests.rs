use super::parse::{ParseOptions, parse};
use super::script::{AllowedFailures, Clients, Event, Script, ScriptStep, Trigger};
use super::script_report::{InFlight, Observations, ScriptReport};
use crate::clients::Client;
use crate::transfer_log::TransferLog;
use crate::transfers::{Outcome, Transfer};
use std::path::Path;
use std::time::{Duration, Instant};

fn read(text: &str) -> Result<Script, Vec<String>> {
    parse("x.chaos", &format!("event something\n{text}"), ParseOptions::default())
}

#[test]
fn a_script_is_read_as_it_is_meant() {
    let text = "directors 2\nspares 1\nclient curl atftp # two kinds\nallowed transfers-of t1 t2 with-error\ntakeover on\nfull transfers 200\n\
                at 30% kill d1\nat 30% stop t1\nat 2.5s cont t1\nafter 300ms restart t1 after 100ms\nalso weight t5 200\nat 50% done reshuffle\n\
                also link client delay 5ms loss 0.5% reorder 3%";
    let script = read(text).unwrap();
    assert_eq!(script.config.clients, Clients::Real(vec![Client::Curl, Client::Atftp]));
    assert_eq!(script.config.allowed, AllowedFailures::TransfersOf(vec!["t1".into(), "t2".into()]));
    assert_eq!((script.config.transfers, script.config.with_error, script.config.takeover), (40, true, true));
    let ms = Duration::from_millis;
    assert_eq!(script.steps[0], ScriptStep { at: Trigger::Bytes(30), events: vec![Event::Kill("d1".into()), Event::Stop("t1".into())] });
    assert_eq!(script.steps[1].at, Trigger::Time(ms(2500)));
    let third =
        ScriptStep { at: Trigger::After(ms(300)), events: vec![Event::Restart("t1".into(), ms(100)), Event::Weight("t5".into(), 200)] };
    assert_eq!(script.steps[2], third);
    assert_eq!((script.steps[3].at, script.steps.len()), (Trigger::Done(50), 4));
    let full = parse("x", &format!("event e\n{text}"), ParseOptions { full: true, seed: None }).unwrap();
    assert_eq!(full.config.transfers, 200);
}

#[test]
fn what_is_written_out_is_read_back() {
    let text = "client tftp-hpa busybox\nspares 2\nlink client delay 2ms loss 5% duplicate 0.25%\nat 1% add t5\nalso remove t1\nat 10s change-file t2 t3\n\
                after 5ms reload broken d3\nat 3 takeovers kill successor\nalso down owner\nat 99% done rolling-restart\nat 1m30s block-receive t2\nafter 1s heal t2";
    for script in [
        read(text).unwrap(),
        read("takeover on\nrandom 60 seed 9").unwrap(),
        read("client swarm\nnetworks 3 sizes 1 20\nadmission per_vip 500 per_prefix 9").unwrap(),
        read("server in.tftpd\nranges off\ndetection 300ms").unwrap(),
        read("takeover on at-least 3").unwrap(),
    ] {
        let again = parse("again", &script.to_string(), ParseOptions::default()).unwrap_or_else(|e| panic!("{e:?}\n{script}"));
        assert_eq!(Script { is_random: script.is_random, ..again }, script);
    }
}

#[test]
fn chance_is_the_same_from_the_same_seed() {
    let of = |seed| parse("x", "event e\ntakeover on\nrandom 30 seed 4", ParseOptions { full: false, seed }).unwrap();
    assert_eq!(of(None), of(Some(4)));
    assert_ne!(of(None), of(Some(5)));
    assert!(of(None).is_random && of(None).steps.len() >= 30);
    let kills = |text: &str| {
        let steps = read(text).unwrap().steps;
        let killed = |event: &Event| matches!(event, Event::Kill(host) | Event::Restart(host, _) if host == "d1" || host == "t1");
        steps.iter().flat_map(|step| &step.events).filter(|event| killed(event)).count()
    };
    assert!(kills("takeover on\nrandom 200 seed 4") > 5);
    // Never a transfer's owner and both its successors while a client is unresponsive.
    let (mut now, mut deaths) = (Duration::ZERO, Vec::new());
    for step in read("takeover on\nrandom 2000 seed 7 keep t1").unwrap().steps {
        now += step.wait();
        if let Event::Kill(host) | Event::Restart(host, _) = &step.events[0]
            && host.starts_with('t')
        {
            deaths.retain(|(at, other)| *at + Duration::from_secs(10) > now && other != host);
            deaths.push((now, host.clone()));
            assert!(deaths.len() <= 2, "{deaths:?}");
        }
    }
    assert!(now > Duration::from_secs(2000));
    assert_eq!(kills("takeover on\nrandom 200 seed 4 keep d1 t1"), 0);
}

#[test]
fn every_error_has_its_line_and_says_what_is_allowed() {
    for (text, reason) in [
        ("direktors 3", "line 2: `direktors 3` is not understood: a line begins with event, directors, "),
        ("directors 17", "line 2: `17`: directors: a whole number, 1 to 16"),
        ("server nginx", "`nginx` is not known: use in.tftpd, dnsmasq, dnsmasq-single-port, guideway, guideway-tunnel"),
        ("\n\nat 30% explode t1", "line 4: `explode t1` is no event: use kill, start, restart"),
        ("at 101% kill t1", "`101`: per cent: a whole number, 0 to 100"),
        ("at noon kill t1", "`noon` is no time: write 300ms"),
        ("at 1s kill x1", "`x1` is no host: directors are d1, d2, …, backends t1, t2, …"),
        ("at 1s kill t5", "x.chaos: line 2: there is no t5: the script has 4 backends"),
        ("at 1s drain d1", "`d1` is no backend"),
        ("at 1s reload broken t1", "`t1` is no director"),
        ("at 1s weight t1 1001", "`1001`: a weight: a whole number, 0 to 1000"),
        ("at 1s link client loss 5", "`5` is no share: use 0% to 100%"),
        ("at 1s link client jam 5%", "`jam` is nothing that a link does: use delay, loss, duplicate or reorder"),
        ("at 1s clock-jump t1", "clock-jump is not offered"),
        ("also kill t1", "`also` stands behind another event"),
        ("allowed transfers-of t9", "x.chaos: allowed: there is no t9"),
        ("backends 40\nspares 30", "70 backends with the spare ones: at most 64"),
        ("server dnsmasq-single-port\ntakeover on", "takeover needs a server with a port of its own"),
        ("takeover on\nranges off\nserver in.tftpd", "takeover needs `ranges on`"),
        ("ranges off", "`ranges off` is for stock servers: guideway-tunnel has one port"),
        ("admission per_cent 3", "`per_cent` is no limit: use per_vip, per_backend or per_prefix"),
        ("admission per_vip", "`per_vip`: a limit is a key and a number"),
        ("networks 3 of 4", "write `networks COUNT` or"),
        ("client swarm\nnetworks 41", "41 networks for 40 transfers"),
        ("random 5", "write `random COUNT seed NUMBER`"),
        ("random 5 seed 1 keep", "write `keep HOST …` behind the seed"),
        ("random 5 seed 1 keep d4", "x.chaos: keep: there is no d4: the script has 3 directors"),
    ] {
        let said = read(text).expect_err(text).join("\n");
        assert!(said.contains(reason), "{text}: {said}");
    }
    assert_eq!(read("directors x\nbackends y").unwrap_err().len(), 2, "all of them at once");
    assert!(parse("x", "", ParseOptions::default()).unwrap_err()[0].contains("there is no line `event"));
}

#[test]
fn every_script_of_the_repository_is_good_both_small_and_large() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts");
    let mut count = 0;
    for file in std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
        let text = std::fs::read_to_string(&file).unwrap();
        for full in [false, true] {
            parse(&file.display().to_string(), &text, ParseOptions { full, seed: None }).unwrap();
        }
        count += 1;
    }
    assert!(count >= 13, "{count} scripts: one for every promise");
}

fn ended(number: u32, outcome: Outcome) -> (Transfer, Option<String>) {
    (Transfer { number, file: format!("transfer-{number}"), seconds: 1.0, ended: Instant::now(), outcome }, Some("t1".to_owned()))
}

/// The verdict of a script over transfers that ended so, 0 and 1 of which were struck, 0 with backend t1.
fn evaluated(script: &str, outcomes: [Outcome; 3]) -> ScriptReport {
    let all: Vec<_> = (0..).zip(outcomes).map(|(number, outcome)| ended(number, outcome)).collect();
    let in_flight = InFlight([(0, Some("t1".to_owned())), (1, Some("t2".to_owned()))].into());
    let records = TransferLog::new("192.0.2.69".parse().unwrap()).records();
    let report = ScriptReport { transfers: 3, server: "guideway", ..ScriptReport::default() };
    report.evaluate(&read(script).unwrap(), &Observations { ended: &all, in_flight: Some(&in_flight), records: &records })
}

#[test]
fn only_what_the_script_allows_may_fail() {
    let failed = || Outcome::Failed("no answer".to_owned());
    let report = evaluated("", [Outcome::Verified, Outcome::Verified, Outcome::Verified]);
    assert!(report.ok && report.verified == 3 && report.in_flight == 2 && report.exit_code() == 0);
    let report = evaluated("", [failed(), Outcome::Verified, Outcome::Verified]);
    assert!(!report.ok && report.failed == 1 && report.allowed == 0 && report.exit_code() == 1);
    assert!(evaluated("allowed 1", [failed(), Outcome::Verified, Outcome::Verified]).ok);
    let report = evaluated("allowed transfers-of t1", [failed(), Outcome::Verified, Outcome::Verified]);
    assert!(report.ok && report.allowed == 1 && report.failures[0].allowed);
    assert!(!evaluated("allowed transfers-of t1", [Outcome::Verified, failed(), Outcome::Verified]).ok, "a transfer of another backend");
    assert!(
        !evaluated("allowed transfers-of t1 with-error", [failed(), Outcome::Verified, Outcome::Verified]).ok,
        "its client got no ERROR"
    );
    let report = evaluated("allowed 3", [Outcome::ChecksumMismatch("mixed".to_owned()), Outcome::Verified, Outcome::Verified]);
    assert!(!report.ok && report.wrong_bytes == 1, "wrong bytes are never allowed");
}

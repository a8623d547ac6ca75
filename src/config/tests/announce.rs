//! `[announce]`.

use super::*;

/// A valid file whose line 16 is `[announce]`, followed by `lines`.
fn with_announce(lines: &str) -> String {
    let text = with_rest(&format!("{VIP}{POOL}"));
    let before = "\n".repeat(15 - text.lines().count());
    format!("{text}{before}[announce]\n{lines}\n")
}

fn announce(lines: &str) -> Announce {
    good(&with_announce(lines)).announce.unwrap()
}

#[test]
fn the_default_device_is_named_after_the_director_and_the_default_linger_is_two_seconds() {
    let two = Duration::from_secs(2);
    assert_eq!(announce("table = 4754"), Announce { table: 4754, linger: two, interface: "gw-d1".to_owned() });
    let all = "table = 4294967295\nlinger = \"0s\"\ninterface = \"vips\"";
    assert_eq!(announce(all), Announce { table: u32::MAX, linger: Duration::ZERO, interface: "vips".to_owned() });
    let long = with_announce("table = 1").replace("\"d1\"", "\"director-of-the-north.example\"");
    assert_eq!(good(&long).announce.unwrap().interface, "gw-director-of-");
    assert_eq!(good(SAMPLE).announce, None);
}

#[test]
fn invalid_values_give_errors() {
    let limits = "is out of range; allowed: the number of a kernel routing table, 1 to 4294967295";
    for (lines, expected) in [
        ("linger = \"1s\"", "line 16: announce.table: is missing; example: table = 4754".to_owned()),
        ("table = 0", format!("line 17: announce.table = 0: {limits}")),
        ("table = 4294967296", format!("line 17: announce.table = 4294967296: {limits}")),
        (
            "table = 254",
            "line 17: announce.table = 254: is the kernel's table `main`, which this host uses for its own routes; give a table that nothing else uses, \
             such as 4754"
                .to_owned(),
        ),
        ("table = 7\nlinger = \"61s\"", "line 18: announce.linger = \"61s\": is out of range; allowed: 0s to 1m".to_owned()),
        (
            "table = 7\ninterface = \"a name that is too long\"",
            "line 18: announce.interface = \"a name that is too long\": is not an interface name; such a name has 1 to 15 characters, no \
             space, '/' or ':'"
                .to_owned(),
        ),
        (
            "table = 7\ninterface = \"eth0\"",
            "line 18: announce.interface = \"eth0\": is the interface of director.io; the director creates the announcing device itself: give another name"
                .to_owned(),
        ),
        ("table = 7\nmetric = 1", "line 18: announce.metric: unknown key. Known: table, linger, interface".to_owned()),
    ] {
        errors(&with_announce(lines), &[&expected]);
    }
    errors(
        &format!("announce = 4754\n{}", with_rest(&format!("{VIP}{POOL}"))),
        &["line 1: announce = 4754: expected a table: [announce], found an integer"],
    );
}

#[test]
fn table_and_device_need_a_restart_and_linger_does_not() {
    let refused = |before: &str, after: &str| -> Vec<String> {
        good(before).changes_needing_restart(&good(after)).iter().map(ToString::to_string).collect()
    };
    let before = with_announce("table = 7");
    assert_eq!(refused(&before, &with_announce("table = 7\nlinger = \"30s\"\ninterface = \"gw-d1\"")), [""; 0]);
    let restart_message = "was table 7 by gw-d1 when the director started; restart the director to apply it";
    for (after, now) in [("table = 8", "table 8 by gw-d1"), ("table = 7\ninterface = \"x\"", "table 7 by x")] {
        assert_eq!(refused(&before, &with_announce(after)), [format!("announce = {now}: {restart_message}")]);
    }
    assert_eq!(refused(&before, SAMPLE).last(), Some(&format!("announce = off: {restart_message}")));
}

#[test]
fn the_summary_contains_the_announcement() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), with_announce("table = 7")).unwrap();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    assert_eq!(check_command(file.path(), false, &mut out, &mut err), 0);
    let out = String::from_utf8(out).unwrap();
    assert!(out.contains("  announce  in kernel table 7 by gw-d1, forwards for 2s after a withdrawal\n"), "{out}");
}

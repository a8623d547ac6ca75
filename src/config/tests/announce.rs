//! `[announce]`.

use super::*;

/// A good file whose line 16 is `[announce]`, with these lines behind it.
fn with_announce(lines: &str) -> String {
    let text = with_rest(&format!("{VIP}{POOL}"));
    let before = "\n".repeat(15 - text.lines().count());
    format!("{text}{before}[announce]\n{lines}\n")
}

fn announce(lines: &str) -> Announce {
    good(&with_announce(lines)).announce.unwrap()
}

#[test]
fn the_device_is_named_after_the_director_and_a_director_lingers_for_two_seconds() {
    let two = Duration::from_secs(2);
    assert_eq!(announce("table = 4754"), Announce { table: 4754, linger: two, interface: "gw-d1".to_owned() });
    let all = "table = 4294967295\nlinger = \"0s\"\ninterface = \"vips\"";
    assert_eq!(announce(all), Announce { table: u32::MAX, linger: Duration::ZERO, interface: "vips".to_owned() });
    let long = with_announce("table = 1").replace("\"d1\"", "\"director-of-the-north.example\"");
    assert_eq!(good(&long).announce.unwrap().interface, "gw-director-of-");
    assert_eq!(good(SAMPLE).announce, None);
}

#[test]
fn what_cannot_be_is_told() {
    let limits = "is outside of what is allowed: the number of a kernel routing table, 1 to 4294967295";
    for (lines, expected) in [
        ("linger = \"1s\"", "line 16: announce.table: is missing; it is written like table = 4754".to_owned()),
        ("table = 0", format!("line 17: announce.table = 0: {limits}")),
        ("table = 4294967296", format!("line 17: announce.table = 4294967296: {limits}")),
        (
            "table = 254",
            "line 17: announce.table = 254: is the kernel's table `main`, by which this host routes; give a table that nothing else uses, \
             such as 4754"
                .to_owned(),
        ),
        ("table = 7\nlinger = \"61s\"", "line 18: announce.linger = \"61s\": is outside of what is allowed: 0s to 1m".to_owned()),
        (
            "table = 7\ninterface = \"a name that is too long\"",
            "line 18: announce.interface = \"a name that is too long\": is no name of an interface; such a name has 1 to 15 characters, no \
             space, '/' or ':'"
                .to_owned(),
        ),
        (
            "table = 7\ninterface = \"eth0\"",
            "line 18: announce.interface = \"eth0\": is the interface of director.io; the announcing device is one that the director makes: \
             give another name"
                .to_owned(),
        ),
        ("table = 7\nmetric = 1", "line 18: announce.metric: is no key that is known here. Known: table, linger, interface".to_owned()),
    ] {
        errors(&with_announce(lines), &[&expected]);
    }
    errors(
        &format!("announce = 4754\n{}", with_rest(&format!("{VIP}{POOL}"))),
        &["line 1: announce = 4754: expected a table: [announce], found an integer"],
    );
}

#[test]
fn table_and_device_need_a_restart_and_the_time_to_linger_does_not() {
    let refused = |before: &str, after: &str| -> Vec<String> {
        good(before).changes_needing_restart(&good(after)).iter().map(ToString::to_string).collect()
    };
    let before = with_announce("table = 7");
    assert_eq!(refused(&before, &with_announce("table = 7\nlinger = \"30s\"\ninterface = \"gw-d1\"")), [""; 0]);
    let was = "was table 7 by gw-d1 when the director started; this needs a restart";
    for (after, now) in [("table = 8", "table 8 by gw-d1"), ("table = 7\ninterface = \"x\"", "table 7 by x")] {
        assert_eq!(refused(&before, &with_announce(after)), [format!("announce = {now}: {was}")]);
    }
    assert_eq!(refused(&before, SAMPLE).last(), Some(&format!("announce = off: {was}")));
}

#[test]
fn the_summary_says_where_vips_are_announced() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), with_announce("table = 7")).unwrap();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    assert_eq!(check_command(file.path(), false, &mut out, &mut err), 0);
    let out = String::from_utf8(out).unwrap();
    assert!(out.contains("  announce  in kernel table 7 by gw-d1, 2s from the withdrawal to the end\n"), "{out}");
}

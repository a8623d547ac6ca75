//! Files that are not TOML.

use super::*;

#[test]
fn syntax_errors_have_their_line() {
    for (text, line) in [
        ("[director\n", 1),
        ("[director]\nname = \n", 2),
        ("[director]\n\nname = \"d1\n", 3),
        ("[director]\nname \"d1\"\n", 2),
        ("[director]\nname = d1\n", 2),
        ("a = [1,\n2,\n", 2),
    ] {
        let found = messages(text, Severity::Error);
        assert!(found.first().is_some_and(|e| e.starts_with(&format!("line {line}: this is not TOML: "))), "{text:?}: {found:?}");
    }
}

#[test]
fn a_key_given_twice() {
    errors(&with_director("name = \"d1\"\nname = \"d2\""), &["line 3: name: is already set in the same table; keep one of them"]);
    errors(&format!("{DIRECTOR}{VIP}{POOL}[director]\n"), &["line 14: director: is already set in the same table; keep one of them"]);
}

#[test]
fn other_errors_are_reported_beside_syntax_errors() {
    let text = with_director("name = d1").replace("10.0.1.11", "10.0.1").replace("\"tftp\"", "7").replace("20000-20999", "20000-99999");
    let found = messages(&text, Severity::Error);
    let lines: Vec<_> = found.iter().map(|e| e.split(": ").take(2).collect::<Vec<_>>().join(": ")).collect();
    assert_eq!(
        lines,
        [
            "line 2: this is not TOML",
            "line 3: director.address = \"10.0.1\"",
            "line 9: vip[0].service = 7",
            "line 13: pool.boot.backends.t1.tid_range = \"20000-99999\""
        ]
    );
}

#[test]
fn deep_nesting_is_refused() {
    for text in
        [format!("a = {}", "[".repeat(100_000)), format!("a = {}", "{a=".repeat(100_000)), format!("{} = 1", vec!["a"; 100_000].join("."))]
    {
        assert!(!messages(&text, Severity::Error).is_empty());
    }
}

#[test]
fn line_ends_of_other_systems() {
    let text = with_director("flows = 1").replace('\n', "\r\n");
    errors(&text, &["line 7: director.flows = 1: is out of range; allowed: a number of flows, 1024 to 67108864"]);
}

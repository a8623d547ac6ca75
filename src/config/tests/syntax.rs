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
    errors(
        &format!("{DIRECTOR}{VIP}{POOL}[director]\n"),
        &["line 14: director: is already set in the same table, in line 1; write all its keys there"],
    );
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

/// Returns the messages about the valid file with one line of it written in another way.
fn with(from: &str, to: &str) -> Vec<String> {
    let text = format!("{DIRECTOR}{VIP}{POOL}");
    assert!(text.contains(from), "{from} in {text}");
    messages(&text.replacen(from, to, 1), Severity::Error)
}

#[test]
fn a_syntax_error_says_how_to_write_it() {
    for (from, to, said) in [
        ("\"10.0.1.11\"", "10.0.1.11", "an address needs quotes: address = \"10.0.1.11\""),
        ("\"10.0.1.11\"", "2001:db8::11", "an address needs quotes: address = \"2001:db8::11\""),
        ("\"20000-20999\"", "20000-20999", "a range needs quotes: tid_range = \"20000-20999\""),
        ("name = \"d1\"", "name = d1 # first", "text needs quotes: name = \"d1\""),
        ("name = \"d1\"", "name = \"d1", "the quote at the end of a text is missing"),
        ("name = \"d1\"", "name =", "name has no value"),
        ("name = \"d1\"", "name: \"d1\"", "between key and value stands =: name = \"d1\""),
        ("name = \"d1\"", "\"name\": \"d1\",", "between key and value stands =: name = \"d1\""),
        ("name = \"d1\"", "name \"d1\"", "between key and value stands =: name = \"d1\""),
        ("name = \"d1\"", "02:00:00:00:01:11 = 1", "a key with colons needs quotes: \"02:00:00:00:01:11\" = 1"),
        ("name = \"d1\"", "; name", "a comment begins with #, not with ;"),
        ("name = \"d1\"", "// name", "a comment begins with #, not with //"),
        ("name = \"d1\"", "name = \u{201c}d1\u{201d}", "typographic quote"),
        ("name = \"d1\"", "name\u{a0}= \"d1\"", "column 5 has an invisible character (U+00A0)"),
        ("name = \"d1\"", "name = \"C:\\d1\"", "a backslash"),
        ("name = \"d1\"", "flows = 1M", "a number with a unit needs quotes: flows = \"1M\""),
        ("name = \"d1\"", "drain = True", "write drain = true, in small letters"),
        ("name = \"d1\"", "routers = [10.0.0.0/24]", "a prefix needs quotes: \"10.0.0.0/24\""),
        ("[director]", "[director", "] is missing at the end of the section"),
        ("[[pool]]", "[[pool", "]] is missing at the end of the section"),
        ("\"t1\",", "\"t1\"", "a comma is missing after name = \"t1\""),
    ] {
        let found = with(from, to);
        assert!(found.iter().any(|message| message.contains("this is not TOML: ") && message.contains(said)), "{to}: {said} in {found:#?}");
    }
    let secret = with("\"000102030405060708090a0b0c0d0e0f\"", "000102030405060708090a0b0c0d0e0f");
    assert!(secret.iter().any(|message| message.contains("key = \"…\"")) && !secret.concat().contains("0102"), "{secret:#?}");
}

#[test]
fn brackets_and_quotes_of_the_wrong_number_are_explained() {
    for (from, to, said) in [
        ("[[vip]]", "[vip]", "vip: is a list: write [[vip]], in two brackets, not [vip]"),
        ("[[pool]]", "[pool]", "pool: is a list: write [[pool]], in two brackets, not [pool]"),
        ("[director]", "[[director]]", "director: expected a table: [director], found a list; write [director], in one bracket, once"),
        ("tid_range = \"20000-20999\"", "weight = \"100\"", "found a string; write it without quotes"),
        ("tid_range = \"20000-20999\"", "weight = \"1k\"", "found a string; write the number alone"),
        ("tid_range = \"20000-20999\"", "drain = \"true\"", "found a string; write it without quotes"),
    ] {
        let found = with(from, to);
        assert!(found.iter().any(|message| message.contains(said)), "{to}: {said} in {found:#?}");
        assert_eq!(found.len(), 1, "and nothing that follows from it: {found:#?}");
    }
    errors(&format!("{DIRECTOR}{VIP}{POOL}[pool]\n"), &["line 14: pool: is a list: write [[pool]], in two brackets, before each of them"]);
    let two = "{ name = \"t1\", address = \"10.0.2.21\" }\n{ name = \"t2\", address = \"10.0.2.22\" }]";
    let lists = format!("{DIRECTOR}{VIP}[[pool]]\nname = \"boot\"\nbackends = [\n{two}\n");
    let found = messages(&lists, Severity::Error);
    assert!(found[0].starts_with("line 15: ") && found[0].ends_with("a comma is missing at the end of line 14"), "{found:#?}");
}

#[test]
fn marks_and_encodings_of_other_systems() {
    let text = format!("\u{feff}{DIRECTOR}{VIP}{POOL}").replace("name =", "\tname\t=");
    assert_eq!(messages(&text, Severity::Error), [""; 0], "a byte order mark and tabs are no errors");
    let found = messages(&format!("{DIRECTOR}{VIP}{POOL}").replace('\n', "\r"), Severity::Error);
    assert!(found[0].contains("carriage return alone"), "{found:?}");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("d1.toml");
    let utf16: Vec<u8> = std::iter::once(0xfeff).chain(DIRECTOR.encode_utf16()).flat_map(u16::to_le_bytes).collect();
    std::fs::write(&path, utf16).unwrap();
    let problems = crate::load(&path).unwrap().problems;
    assert!(problems[0].message.contains("is UTF-16"), "{problems:?}");
}

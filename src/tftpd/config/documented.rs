//! The table of keys in README against the keys that are read: neither has one that the other lacks.

use super::read;
use std::collections::{BTreeMap, BTreeSet};

const README: &str = include_str!("../../../README.md");

type Keys = BTreeSet<String>;

/// What stands between back quotes.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// Sections of the table, and their keys.
fn documented() -> BTreeMap<String, Keys> {
    let table = README.split_once("| section | key | default | what, and within which limits |\n").unwrap().1;
    let mut sections: BTreeMap<String, Keys> = BTreeMap::new();
    let mut now: Vec<String> = Vec::new();
    for row in table.lines().skip(1).take_while(|line| line.starts_with('|')) {
        let cells: Vec<&str> = row.split('|').collect();
        assert_eq!(cells.len(), 6, "{row}");
        let named: Vec<String> = quoted(cells[1]).map(ToOwned::to_owned).collect();
        if !named.is_empty() {
            now = named;
        }
        for section in &now {
            let keys = sections.entry(section.clone()).or_default();
            for key in quoted(cells[2]) {
                assert!(keys.insert(key.to_owned()), "{section} has {key} twice");
            }
        }
    }
    sections
}

/// The keys that are said to be known when there is one that is not.
fn known(text: &str) -> Keys {
    let said: Vec<String> = read(text).problems.iter().map(ToString::to_string).collect();
    let list = said.iter().find_map(|problem| problem.split_once(" Known: "));
    let (_, list) = list.unwrap_or_else(|| panic!("{text}: {said:?}"));
    list.split(", ").map(|key| key.trim().to_owned()).collect()
}

#[test]
fn the_readme_has_the_keys_that_are_read() {
    let handler = |kind: &str, keys: &str| format!("[[handler]]\nname = \"a\"\nkind = \"{kind}\"\n{keys}\n");
    let inner = |inventory: &str| handler("template", &format!("pattern = '(?<mac>.)'\ndirectory = \"/t\"\ntemplate = \"t\"\n{inventory}"));
    let asked = [
        ("[server]", "[server]\nqqq = 1\n".to_owned()),
        ("directory", handler("directory", "qqq = 1")),
        ("http", handler("http", "qqq = 1")),
        ("template", inner("qqq = 1")),
        ("inventory", inner("inventory = { url = \"https://a/\", key = \"mac\", qqq = 1 }")),
        ("exec", handler("exec", "qqq = 1")),
        ("hook", handler("hook", "qqq = 1")),
        ("[[rule]]", "[[rule]]\nqqq = 1\n".to_owned()),
        ("remap", "[[rule]]\nremap = { qqq = 1 }\n".to_owned()),
        ("[limits]", "[limits]\nrate = 1\nqqq = 1\n".to_owned()),
        ("[takeover]", "[takeover]\nqqq = 1\n".to_owned()),
        ("memory", "[takeover]\nmemory = { qqq = 1 }\n".to_owned()),
    ];
    let mut documented = documented();
    let of_all: Keys = documented.remove("[[handler]]").unwrap();
    let sections: Keys = known("qqq = 1\n");
    let named = |name: &String| name.strip_prefix('[').map(|name| name.trim_matches(['[', ']']).to_owned());
    assert_eq!(documented.keys().filter_map(named).chain(["handler".to_owned()]).collect::<Keys>(), sections);
    assert_eq!(documented.remove("[[pool]]"), Some(Keys::new()));
    for (section, text) in asked {
        let mut keys = documented.remove(section).unwrap_or_else(|| panic!("README lacks {section}"));
        if text.starts_with("[[handler]]") && section != "inventory" {
            keys.extend(of_all.iter().cloned());
        }
        assert_eq!(keys, known(&text), "{section}");
    }
    assert!(documented.is_empty(), "{documented:?}");
}

//! A parser of the exposition format, stricter than Prometheus.

use std::collections::{BTreeMap, BTreeSet};

/// Parses samples by name and labels, as written: `name{label="value"}`.
pub fn parse(text: &str) -> BTreeMap<String, f64> {
    assert!(text.ends_with('\n'), "the last line ends");
    let (mut types, mut helped) = (BTreeMap::new(), BTreeSet::new());
    let mut samples = BTreeMap::new();
    let mut current = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(help.len() > 5 && helped.insert(name.to_owned()), "{line}");
            name.clone_into(&mut current);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert_eq!(name, current, "TYPE follows its HELP");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
            assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "duplicate {name}");
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
            let name = series.split('{').next().unwrap();
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'), "{line}");
            // The samples of a histogram have names of their own.
            let of_histogram = |name: &&str| types.get(*name).is_some_and(|kind| kind == "histogram");
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).filter(of_histogram);
            assert_eq!(base.unwrap_or(name), current, "samples follow their metric");
            assert!(types.contains_key(&current), "{line}");
            labels(&series[name.len()..]);
            let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line}"));
            assert!(samples.insert(series.to_owned(), value).is_none(), "duplicate {series}");
        }
    }
    samples
}

/// Checks `{name="value",…}` or nothing.
fn labels(text: &str) {
    if text.is_empty() {
        return;
    }
    let mut rest = text.strip_prefix('{').unwrap();
    loop {
        let (name, behind) = rest.split_once("=\"").unwrap_or_else(|| panic!("{text}"));
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') && !name.is_empty(), "{text}");
        let mut escaped = false;
        let end = behind.find(|c| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        rest = &behind[end.unwrap_or_else(|| panic!("{text}")) + 1..];
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None => return assert_eq!(rest, "}", "{text}"),
        }
    }
}

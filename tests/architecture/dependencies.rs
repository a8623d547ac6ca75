//! The dependencies between the crates of the workspace, compared with a table.

use cargo_metadata::{DependencyKind, Metadata};
use std::collections::{BTreeMap, BTreeSet};

/// A crate of the workspace, and the crates of the workspace that it may use, with spaces between.
pub type Row = (&'static str, &'static str);

type Dependencies = BTreeMap<String, BTreeSet<String>>;

/// Returns the normal dependencies of each crate of the workspace on other crates of it, by their short names.
pub fn declared(metadata: &Metadata) -> Dependencies {
    let packages = metadata.workspace_packages();
    let names: BTreeSet<&str> = packages.iter().map(|package| package.name.as_str()).collect();
    let of = |package: &cargo_metadata::Package| {
        let normal = package.dependencies.iter().filter(|dependency| dependency.kind == DependencyKind::Normal);
        normal.map(|dependency| dependency.name.as_str()).filter(|name| names.contains(name)).map(short).collect()
    };
    packages.iter().map(|package| (short(&package.name), of(package))).collect()
}

fn short(name: &str) -> String {
    name.strip_prefix("guideway-").unwrap_or(name).to_owned()
}

/// Returns a sentence for everything in which the table and the workspace differ.
pub fn differences(table: &[Row], declared: &Dependencies) -> Vec<String> {
    let mut wrong = out_of_order(table);
    let allowed: BTreeMap<&str, BTreeSet<&str>> = table.iter().map(|(name, uses)| (*name, uses.split_whitespace().collect())).collect();
    for (name, uses) in declared {
        let Some(allowed) = allowed.get(name.as_str()) else {
            wrong.push(format!("{name} is not in the table"));
            continue;
        };
        let uses: BTreeSet<&str> = uses.iter().map(String::as_str).collect();
        wrong.extend(uses.difference(allowed).map(|other| format!("{name} uses {other}, which the table does not allow")));
        wrong
            .extend(allowed.difference(&uses).map(|other| format!("{name} does not use {other}, which the table allows: remove it there")));
    }
    wrong.extend(
        allowed.keys().filter(|name| !declared.contains_key(**name)).map(|name| format!("{name} is in the table and not in the workspace")),
    );
    wrong
}

/// A crate may use only those above it in the table, so no two can need each other.
fn out_of_order(table: &[Row]) -> Vec<String> {
    let mut above = BTreeSet::new();
    let mut wrong = Vec::new();
    for (name, uses) in table {
        wrong.extend(
            uses.split_whitespace()
                .filter(|other| !above.contains(other))
                .map(|other| format!("in the table, {other} must stand above {name}")),
        );
        above.insert(*name);
    }
    wrong
}

#[test]
fn each_difference_is_reported() {
    let table: &[Row] = &[("low", ""), ("high", "low top"), ("top", "low"), ("gone", "")];
    let uses = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let declared = [("low", uses(&["high"])), ("high", uses(&["low", "top"])), ("top", uses(&[])), ("new", uses(&[]))];
    let declared = declared.map(|(name, uses)| (name.to_owned(), uses)).into();
    let expected = [
        "in the table, top must stand above high",
        "low uses high, which the table does not allow",
        "new is not in the table",
        "top does not use low, which the table allows: remove it there",
        "gone is in the table and not in the workspace",
    ];
    assert_eq!(differences(table, &declared), expected);
}

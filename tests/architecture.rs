//! The shape of the code, held: modules depend one way, unsafe stays behind its fences, files stay short.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The modules of the library, each above those that may use it. `src/lib.rs` tells the same to readers.
const ORDER: &[&str] = &[
    "verdict",
    "time",
    "frame",
    "wire",
    "hash",
    "maglev",
    "heirs",
    "flow",
    "config",
    "tables",
    "counters",
    "io",
    "path",
    "turn",
    "steer",
    "metrics",
    "systemd",
    "tls",
    "store",
    "control",
    "announce",
    "director",
    "control_client",
    "tftp",
    "health",
    "lab",
    "cli",
];

/// The only files that may hold unsafe code.
const FENCES: &[&str] = &[
    "benches/lines/mod.rs",
    "netmap/src/device.rs",
    "netmap/src/memory.rs",
    "netmap/src/offload.rs",
    "netmap/src/raw.rs",
    "netmap/src/simulated.rs",
    "netmap/src/simulated/state.rs",
    "src/flow/fence.rs",
    "src/io/af_packet/ring.rs",
    "src/io/af_packet/send.rs",
    "src/io/af_xdp/bpf.rs",
    "src/io/af_xdp/ring.rs",
    "src/io/af_xdp/umem.rs",
    "src/io/interface.rs",
    "src/io/sys.rs",
    "src/io/testing.rs",
    "src/lab/sys.rs",
    "src/tftp/engine/sys.rs",
    "tests/no_allocation.rs",
    "tools/src/bin/tftp-bench/batch.rs",
];

/// About 400 lines of code is a file that one can read at a sitting.
const LONGEST: usize = 450;

fn sources(directory: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(directory)];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                open.push(entry);
            } else if entry.extension().is_some_and(|extension| extension == "rs") {
                found.push(entry);
            }
        }
    }
    found.sort();
    found
}

fn all_sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let directories = ["src", "netmap", "tests", "tools", "benches"].into_iter().filter(|directory| root.join(directory).is_dir());
    let files = directories.flat_map(sources);
    files.map(|file| (file.strip_prefix(root).unwrap().display().to_string(), fs::read_to_string(&file).unwrap())).collect()
}

/// The module of the library that a file belongs to.
fn module(file: &str) -> Option<&str> {
    let rest = file.strip_prefix("src/")?;
    let module = rest.split(['/', '.']).next()?;
    (!matches!(module, "lib" | "main")).then_some(module)
}

/// A file is for tests only when its name says so; what follows `#[cfg(test)]` is too.
fn shipped<'s>(file: &str, text: &'s str) -> Option<&'s str> {
    let for_tests = file.contains("/tests") || file.ends_with("conformance.rs") || file.ends_with("testing.rs");
    (!for_tests).then(|| text.split("#[cfg(test)]\nmod tests").next().unwrap_or(text))
}

/// The modules that code names by `crate::module` or `crate::{module, module::…}`.
fn named(text: &str) -> Vec<&str> {
    let mut modules = Vec::new();
    for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
        for (at, found) in line.match_indices("crate::") {
            let rest = &line[at + found.len()..];
            match rest.strip_prefix('{') {
                Some(group) => modules.extend(group.split([',', '}']).map(|item| first_word(item.trim_start()))),
                None => modules.push(first_word(rest)),
            }
        }
    }
    modules
}

fn first_word(text: &str) -> &str {
    &text[..text.find(|c: char| !c.is_ascii_lowercase() && c != '_').unwrap_or(text.len())]
}

#[test]
fn every_way_of_naming_a_module_is_seen() {
    assert_eq!(named("use crate::tables::Snapshot;\n// crate::lab\nlet x = crate::time::Time(0);"), ["tables", "time"]);
    assert_eq!(named("use crate::{config, control_client, io::Io};"), ["config", "control_client", "io", ""]);
}

#[test]
fn modules_depend_one_way() {
    let rank: BTreeMap<&str, usize> = ORDER.iter().enumerate().map(|(rank, module)| (*module, rank)).collect();
    let mut wrong = Vec::new();
    for (file, text) in all_sources() {
        let (Some(module), Some(text)) = (module(&file), shipped(&file, &text)) else { continue };
        let own = *rank.get(module).unwrap_or_else(|| panic!("{file}: the module `{module}` has no place in the order"));
        for other in named(text).into_iter().filter(|other| *other != module) {
            match rank.get(other) {
                Some(rank) if *rank > own => wrong.push(format!("{file} uses {other}, which stands above {module}")),
                _ => {}
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn readers_are_told_every_module() {
    let lib = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    for module in ORDER {
        assert!(lib.contains(&format!("[`{module}`]")), "src/lib.rs does not tell what `{module}` is");
        assert!(lib.contains(&format!("pub mod {module};")), "`{module}` is no module");
    }
}

#[test]
fn unsafe_stays_behind_its_fences_and_every_fence_is_needed() {
    for (file, text) in all_sources() {
        let opened = text.contains("allow(unsafe_code)") && file != "tests/architecture.rs";
        assert_eq!(opened, FENCES.contains(&file.as_str()), "{file}: unsafe is allowed in the fences only, and a fence has some");
        if opened {
            let blocks = text.matches("unsafe {").count() + text.matches("unsafe impl").count();
            let reasons = text.matches("SAFETY:").count();
            assert!(blocks > 0 && reasons > 0, "{file}: {blocks} blocks of unsafe code, {reasons} reasons");
        }
    }
}

#[test]
fn files_are_short_and_say_what_they_are_for() {
    for (file, text) in all_sources() {
        let lines = text.lines().count();
        assert!(lines <= LONGEST, "{file} has {lines} lines; {LONGEST} is the limit");
        // Tests beside a module are told by that module.
        assert!(
            text.starts_with("//!") || file.ends_with("/tests.rs") || file.contains("/tests/"),
            "{file} does not say in its first line what it is for"
        );
    }
}

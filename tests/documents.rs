//! Holds the documents to the code: generated blocks, links, files and commands in examples.
//!
//! `GUIDEWAY_REGENERATE=1 cargo test -p guideway --test documents` writes the generated blocks anew.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "documents/blocks.rs"]
mod blocks;
#[path = "../tools/src/bin/draw/crates.rs"]
mod crates;
#[path = "documents/examples.rs"]
mod examples;
#[path = "documents/links.rs"]
mod links;
#[path = "documents/markdown.rs"]
mod markdown;

use std::fs;
use std::path::{Path, PathBuf};

/// The front door is for a reader who has two minutes.
const FRONT_DOOR_LINES: usize = 200;
const REPAIR: &str = "GUIDEWAY_REGENERATE=1 cargo test -p guideway --test documents";

/// A Markdown file. `name` is its path from the root of the repository.
struct Document {
    name: String,
    path: PathBuf,
    text: String,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Returns every README.md of the repository, and the change log.
fn documents() -> Vec<Document> {
    fn find(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap()) {
            let name = entry.file_name();
            if entry.file_type().unwrap().is_dir() {
                if name != "target" && !name.to_string_lossy().starts_with('.') {
                    find(&entry.path(), found);
                }
            } else if name == "README.md" || name == "CHANGELOG.md" {
                found.push(entry.path());
            }
        }
    }
    let mut found = Vec::new();
    find(&root(), &mut found);
    found.sort();
    let document = |path: PathBuf| {
        let name = path.strip_prefix(root()).unwrap().display().to_string();
        Document { name, text: fs::read_to_string(&path).unwrap(), path }
    };
    found.into_iter().map(document).collect()
}

#[track_caller]
fn assert_none(wrong: &[String]) {
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn generated_blocks_are_what_the_code_says() {
    let mut wrong = Vec::new();
    for Document { name, path, text } in documents() {
        let is = blocks::regenerated(&text).unwrap_or_else(|why| panic!("{name}: {why}"));
        if is == text {
            continue;
        }
        if std::env::var_os("GUIDEWAY_REGENERATE").is_some() {
            fs::write(&path, is).unwrap();
        } else {
            let line = text.lines().zip(is.lines()).position(|(was, is)| was != is).unwrap_or(0) + 1;
            wrong.push(format!("{name}, line {line}: a generated block differs from the code; run {REPAIR}"));
        }
    }
    assert_none(&wrong);
}

#[test]
fn links_and_anchors_resolve() {
    assert_none(&documents().iter().flat_map(links::broken).collect::<Vec<_>>());
}

#[test]
fn the_front_door_is_short() {
    let lines = fs::read_to_string(root().join("README.md")).unwrap().lines().count();
    assert!(lines <= FRONT_DOOR_LINES, "README.md has {lines} lines; {FRONT_DOOR_LINES} is the limit");
}

#[test]
fn configuration_files_in_examples_are_accepted() {
    assert_none(&documents().iter().flat_map(examples::rejected_files).collect::<Vec<_>>());
}

#[test]
fn commands_in_examples_exist() {
    assert_none(&documents().iter().flat_map(examples::unknown_commands).collect::<Vec<_>>());
}

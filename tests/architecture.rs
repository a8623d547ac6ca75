//! Holds the shape of the code: files and crates depend one way, unsafe code stays in its fences, files stay short.
//!
//! All tests read the code as `syn` parses it. `ARCHITECTURE_ROOT` names another workspace to try them on.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "architecture/cycles.rs"]
mod cycles;
#[path = "architecture/dependencies.rs"]
mod dependencies;
#[path = "architecture/examples.rs"]
mod examples;
#[path = "architecture/items.rs"]
mod items;
#[path = "architecture/modules.rs"]
mod modules;
#[path = "architecture/unsafety.rs"]
mod unsafety;
#[path = "architecture/uses.rs"]
mod uses;

use cargo_metadata::{Metadata, MetadataCommand, TargetKind};
use cycles::Graph;
use dependencies::Row;
use modules::Crate;
use std::fs;
use std::path::{Path, PathBuf};
use syn::AttrStyle;

/// The crates of the workspace, lowest first, without `guideway-` before their names. Each may use only the crates that its row lists,
/// and these stand above it.
const CRATES: &[Row] = &[
    ("netmap-rings", ""),
    ("packet", ""),
    ("hash", ""),
    ("sys", "packet"),
    ("tls", ""),
    ("host", ""),
    ("testbed", "host"),
    ("dataplane", "packet hash"),
    ("io", "netmap-rings packet sys"),
    ("api", ""),
    ("tftp", "packet hash sys tls"),
    ("daemon", "sys tls api"),
    ("config", "netmap-rings hash dataplane"),
    ("store", "tls config"),
    ("control", "packet hash sys dataplane api daemon config store"),
    ("director", "packet host dataplane io api daemon config store control"),
    ("tftpd", "hash api tftp daemon config store"),
    ("health", "packet sys api tftp daemon config store"),
    ("lab", "netmap-rings packet host testbed api tftp daemon config store"),
    ("guideway", "packet host dataplane io api tftp daemon config store control director tftpd health"),
    ("tools", "netmap-rings packet host testbed io api tftp daemon config lab"),
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
    "src/dataplane/flow/intrinsics.rs",
    "src/io/af_packet/ring.rs",
    "src/io/af_packet/send.rs",
    "src/io/af_xdp/bpf.rs",
    "src/io/af_xdp/ring.rs",
    "src/io/af_xdp/umem.rs",
    "src/io/interface.rs",
    "src/io/testing.rs",
    "src/lab/sys.rs",
    "src/sys/lib.rs",
    "src/tftp/engine/sys.rs",
    "tests/no_allocation.rs",
    "tools/src/bin/tftp-bench/batch.rs",
];

/// About 400 lines of code is a file that one can read at a sitting.
const LONGEST: usize = 450;

/// The directories whose Rust files belong to the project.
const SOURCES: &[&str] = &["src", "netmap", "tests", "tools", "benches"];

/// One Rust file of the workspace. `name` is its path from the workspace's root.
struct Source {
    name: String,
    text: String,
    parsed: syn::File,
}

fn root() -> PathBuf {
    std::env::var_os("ARCHITECTURE_ROOT").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from)
}

fn metadata() -> Metadata {
    MetadataCommand::new().manifest_path(root().join("Cargo.toml")).no_deps().exec().unwrap()
}

/// Returns every Rust file below a directory. What Cargo builds is no source.
fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() && !entry.ends_with("target") {
            found.extend(rust_files(&entry));
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            found.push(entry);
        }
    }
    found.sort();
    found
}

fn sources() -> Vec<Source> {
    let root = root();
    let directories = SOURCES.iter().map(|directory| root.join(directory)).filter(|directory| directory.is_dir());
    let files = directories.flat_map(|directory| rust_files(&directory));
    files.map(|file| source(&file, &root)).collect()
}

fn source(file: &Path, root: &Path) -> Source {
    let name = file.strip_prefix(root).unwrap().display().to_string();
    let text = fs::read_to_string(file).unwrap();
    let parsed = syn::parse_file(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
    Source { name, text, parsed }
}

/// Returns the root files of all libraries and programs, as paths from the workspace's root.
fn crate_roots(metadata: &Metadata) -> Vec<PathBuf> {
    let shipped = |kinds: &[TargetKind]| kinds.iter().any(|kind| matches!(kind, TargetKind::Lib | TargetKind::Bin));
    let packages = metadata.workspace_packages();
    let targets = packages.iter().flat_map(|package| &package.targets).filter(|target| shipped(&target.kind));
    targets.map(|target| target.src_path.strip_prefix(&metadata.workspace_root).unwrap().into()).collect()
}

#[test]
fn files_of_a_crate_use_each_other_one_way() {
    let root = root();
    let read = |file: &Path| fs::read_to_string(root.join(file)).ok();
    let mut wrong = Vec::new();
    for crate_root in crate_roots(&metadata()) {
        let graph = Graph::of(&Crate::read(&crate_root, &read));
        wrong.extend(graph.cycles().iter().map(|cycle| graph.describe(cycle)));
    }
    assert!(wrong.is_empty(), "{} cycles:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn crates_use_each_other_as_the_table_says() {
    let wrong = dependencies::differences(CRATES, &dependencies::declared(&metadata()));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn unsafe_code_stays_in_its_fences_and_every_fence_is_needed() {
    let sources = sources();
    let mut wrong = Vec::new();
    for Source { name, parsed, .. } in &sources {
        let found = unsafety::of(parsed);
        if FENCES.contains(&name.as_str()) {
            if !found.is_allowed || !found.is_present {
                wrong.push(format!("{name} is a fence without unsafe code: remove it from the list, and its attribute"));
            }
        } else if found.is_allowed || found.is_present {
            wrong.push(format!("{name} has unsafe code and is no fence"));
        }
    }
    let missing = FENCES.iter().filter(|fence| !sources.iter().any(|source| source.name == **fence));
    wrong.extend(missing.map(|fence| format!("{fence} is a fence and no file")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_are_short_and_say_what_they_are_for() {
    let mut wrong = Vec::new();
    for Source { name, text, parsed } in sources() {
        let lines = text.lines().count();
        if lines > LONGEST {
            wrong.push(format!("{name} has {lines} lines; {LONGEST} is the limit"));
        }
        // The module above says what its tests are for.
        if !begins_with_its_purpose(&parsed) && !name.ends_with("/tests.rs") && !name.contains("/tests/") {
            wrong.push(format!("{name} does not say in its first line what it is for"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Whether `//!` comes before everything else in a file.
fn begins_with_its_purpose(file: &syn::File) -> bool {
    file.attrs.first().is_some_and(|first| matches!(first.style, AttrStyle::Inner(_)) && first.path().is_ident("doc"))
}

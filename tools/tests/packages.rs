//! What the Debian packages are made of: every file is there, every unit is in, the versions agree. tools/package-test installs them.
#![allow(clippy::unwrap_used)] // A test fails by panicking, in its helpers too.

use serde_json::Value;
use std::path::{Path, PathBuf};

/// The `[package.metadata.deb]` of a package, with the package's directory.
fn deb(name: &str) -> (Value, PathBuf, String) {
    let metadata = cargo_metadata::MetadataCommand::new().no_deps().exec().unwrap();
    let package = metadata.packages.iter().find(|package| package.name.as_str() == name).unwrap();
    (package.metadata["deb"].clone(), package.manifest_path.parent().unwrap().into(), package.version.to_string())
}

/// Returns the source paths of a list of assets.
fn sources(assets: &Value) -> Vec<String> {
    assets.as_array().unwrap().iter().map(|asset| asset[0].as_str().unwrap().to_owned()).collect()
}

#[test]
fn every_file_that_is_not_built_exists() {
    let (guideway, directory, _) = deb("guideway");
    let (lab, lab_directory, _) = deb("guideway-lab");
    for (assets, directory) in
        [(&guideway["assets"], &directory), (&guideway["variants"]["dbgsym"]["assets"], &directory), (&lab["assets"], &lab_directory)]
    {
        let sources = sources(assets);
        assert!(!sources.is_empty());
        for source in sources.iter().filter(|source| !source.contains("target/dist/")) {
            // A pattern names files of a directory that is not empty.
            let path = directory.join(source);
            let there = if source.contains('*') { path.parent().unwrap().read_dir().unwrap().next().is_some() } else { path.is_file() };
            assert!(there, "{source}");
        }
    }
}

#[test]
fn every_unit_is_in_the_package() {
    let (guideway, directory, _) = deb("guideway");
    let named: Vec<&str> = guideway["systemd-units"].as_array().unwrap().iter().map(|unit| unit["unit-name"].as_str().unwrap()).collect();
    for unit in directory.join("tools/systemd").read_dir().unwrap() {
        let unit = unit.unwrap().path();
        let stem = unit.file_stem().unwrap().to_str().unwrap().to_owned();
        if unit.extension().is_some_and(|kind| kind == "service" || kind == "socket") {
            assert!(named.contains(&&*stem), "{stem}");
        } else {
            assert!(sources(&guideway["assets"]).iter().any(|source| Path::new(source).ends_with(unit.file_name().unwrap())), "{stem}");
        }
    }
}

#[test]
fn debug_information_belongs_to_this_version() {
    let (guideway, _, version) = deb("guideway");
    assert_eq!(guideway["variants"]["dbgsym"]["depends"], format!("guideway (= {version})"));
    assert_eq!(guideway["revision"], "", "the version of the package is that of the program");
}

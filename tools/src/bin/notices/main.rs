//! Licences of the crates that the shipped programs contain: checks them, or prints every licence text once.

mod tree;

use cargo_metadata::Package;
use clap::Parser;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use tree::Tree;

/// Licences that code in the shipped programs may have.
const ALLOWED: &[&str] = &["MIT", "Apache-2.0", "ISC", "BSD-2-Clause", "BSD-3-Clause", "Unicode-3.0", "Zlib"];

/// Crates that stand in the tree in more than one version, each with the reason.
const TWICE: &[(&str, &str)] = &[
    ("getrandom", "ring asks for 0.2, ahash of tun-rs for 0.3"),
    ("syn", "pcap-file derives with version 1, pnet and tracing with 2, serde and clap with 3"),
    ("thiserror", "pcap-file asks for version 1; its version 3, which does not, is a release candidate"),
    ("thiserror-impl", "as thiserror"),
];

/// Crates whose archives carry no licence file, with the holder of the copyright that their manifest or source names.
const WITHOUT_FILE: &[&str] = &["byteorder_slice", "derive-into-owned", "netmap_sys"];

/// Crates that must never come back: a second TLS library, or one that needs a C compiler's worth of system libraries.
const BANNED: &[&str] = &["openssl-sys", "native-tls", "aws-lc-sys"];

/// Licences of the crates in `guideway` and `guideway-lab`
#[derive(Debug, Parser)]
#[command(
    after_help = "Examples:\n  cargo run -p guideway-tools --bin notices -- --check\n  cargo run -p guideway-tools --bin notices > NOTICES"
)]
struct Args {
    /// Print only what is wrong; exit code 1 when something is
    #[arg(long)]
    check: bool,
    /// The workspace's Cargo.toml
    #[arg(long, value_name = "FILE", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))]
    manifest: PathBuf,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = Tree::read(&args.manifest, &["guideway", "guideway-lab"]).and_then(|tree| {
        let faults = faults(&tree);
        faults.iter().for_each(|fault| eprintln!("{fault}"));
        if !args.check {
            print(&tree).map_err(|e| format!("standard output: {e}"))?;
        }
        Ok(faults.is_empty())
    });
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("notices: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Every rule that the tree breaks, a sentence each.
fn faults(tree: &Tree) -> Vec<String> {
    let mut faults = Vec::new();
    for package in &tree.packages {
        let (name, licence) = (package.name.as_str(), package.license.as_deref().unwrap_or_default());
        if !is_allowed(licence) {
            faults.push(format!("{name} {}: the licence {licence:?} is not allowed; see ALLOWED", package.version));
        }
        if BANNED.contains(&name) {
            faults.push(format!("{name} is banned; `cargo tree -i {name}` says who asks for it"));
        }
        if tree::licence_files(package).is_empty() && package.source.is_some() && !WITHOUT_FILE.contains(&name) {
            faults.push(format!("{name} {} carries no licence file; add it to WITHOUT_FILE after a look at its source", package.version));
        }
    }
    let mut versions: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for package in &tree.packages {
        versions.entry(package.name.as_str()).or_default().push(package.version.to_string());
    }
    let is_listed = |name: &str| TWICE.iter().any(|(listed, _)| *listed == name);
    for (name, versions) in &versions {
        if versions.len() > 1 && !is_listed(name) {
            faults.push(format!("{name} is there as {}: use one version, or add it to TWICE with the reason", versions.join(" and ")));
        }
    }
    for (name, _) in TWICE {
        if versions.get(name).is_none_or(|versions| versions.len() < 2) {
            faults.push(format!("{name} is in TWICE, but there is one version of it only"));
        }
    }
    faults
}

/// Whether one of the licences that `expression` offers is allowed. An old crate writes `MIT/Apache-2.0` for `MIT OR Apache-2.0`.
fn is_allowed(expression: &str) -> bool {
    let parsed = spdx::Expression::parse_mode(expression, spdx::ParseMode::LAX);
    parsed.is_ok_and(|parsed| parsed.evaluate(|requirement| requirement.license.id().is_some_and(|id| ALLOWED.contains(&id.name))))
}

/// Prints every licence text once, with the crates that come under it.
fn print(tree: &Tree) -> io::Result<()> {
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in tree.packages.iter().filter(|package| package.source.is_some()) {
        for file in tree::licence_files(package) {
            let text = String::from_utf8_lossy(&std::fs::read(file)?).replace('\r', "");
            texts.entry(text.trim().to_owned()).or_default().push(title(package));
        }
    }
    let mut out = io::stdout().lock();
    for (text, packages) in &texts {
        writeln!(out, "{}\n\n{text}\n\n{}\n", packages.join(", "), "-".repeat(80))?;
    }
    for package in tree.packages.iter().filter(|package| WITHOUT_FILE.contains(&package.name.as_str())) {
        writeln!(out, "{}: {}; {}", title(package), package.license.as_deref().unwrap_or_default(), package.authors.join(", "))?;
    }
    Ok(())
}

fn title(package: &Package) -> String {
    format!("{} {}", package.name, package.version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_allowed_licence_of_several_is_enough_and_a_copyleft_one_is_not() {
        for good in ["MIT", "MIT OR Apache-2.0", "MIT/Apache-2.0", "GPL-3.0 OR MIT", "Apache-2.0 AND ISC"] {
            assert!(is_allowed(good), "{good}");
        }
        for bad in ["", "GPL-2.0-only", "MIT AND GPL-3.0", "EUPL-1.2", "no licence"] {
            assert!(!is_allowed(bad), "{bad}");
        }
    }

    #[test]
    fn the_shipped_programs_hold_to_the_rules() {
        let tree = Tree::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml").as_ref(), &["guideway", "guideway-lab"]).unwrap();
        assert!(tree.packages.len() > 100, "{} packages", tree.packages.len());
        assert_eq!(faults(&tree), [""; 0]);
    }
}

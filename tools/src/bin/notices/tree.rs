//! The crates that programs are made of, from `cargo metadata`.

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Node, Package, PackageId};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Files of these names are licences and notices.
const NAMES: [&str; 4] = ["LICENSE", "LICENCE", "COPYING", "NOTICE"];

/// The crates that are compiled into programs, on Linux.
pub struct Tree {
    /// Sorted by name and version.
    pub packages: Vec<Package>,
}

impl Tree {
    /// Reads the dependencies of the packages `roots`; what only builds or tests them is left out.
    ///
    /// # Errors
    /// When cargo fails, or a root is no package of the workspace.
    pub fn read(manifest: &Path, roots: &[&str]) -> Result<Tree, String> {
        let options = ["--offline", "--locked", "--filter-platform", "x86_64-unknown-linux-gnu"].map(String::from);
        let metadata = MetadataCommand::new().manifest_path(manifest).other_options(options).exec().map_err(|e| e.to_string())?;
        let found = reachable(&metadata, roots)?;
        let mut packages: Vec<Package> = metadata.packages.into_iter().filter(|package| found.contains(&package.id)).collect();
        packages.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
        Ok(Tree { packages })
    }
}

fn reachable(metadata: &Metadata, roots: &[&str]) -> Result<BTreeSet<PackageId>, String> {
    let nodes: BTreeMap<&PackageId, &Node> =
        metadata.resolve.iter().flat_map(|resolve| &resolve.nodes).map(|node| (&node.id, node)).collect();
    let mut open = Vec::new();
    for root in roots {
        let package = metadata.packages.iter().find(|package| package.name == *root && package.source.is_none());
        open.push(package.ok_or_else(|| format!("{root} is no package of the workspace"))?.id.clone());
    }
    let mut found = BTreeSet::new();
    while let Some(id) = open.pop() {
        if let (true, Some(node)) = (found.insert(id.clone()), nodes.get(&id)) {
            let normal = node.deps.iter().filter(|dependency| dependency.dep_kinds.iter().any(|kind| kind.kind == DependencyKind::Normal));
            open.extend(normal.map(|dependency| dependency.pkg.clone()));
        }
    }
    Ok(found)
}

/// The licence files in a package's archive, sorted.
pub fn licence_files(package: &Package) -> Vec<PathBuf> {
    let directory = package.manifest_path.parent().map(PathBuf::from).unwrap_or_default();
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_licence = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_uppercase();
        path.is_file() && NAMES.iter().any(|start| name.starts_with(start))
    };
    let mut files: Vec<PathBuf> = entries.filter(is_licence).collect();
    files.sort();
    files
}

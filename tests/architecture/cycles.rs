//! The files of a crate as a graph, and its cycles as text.

use super::modules::{Crate, Module, ModuleId};
use super::uses;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// For each file, the files that it uses and the items that it names there.
pub struct Graph {
    edges: BTreeMap<PathBuf, BTreeMap<PathBuf, BTreeSet<String>>>,
}

/// Files that all use each other, directly or through others.
#[derive(Debug, PartialEq, Eq)]
pub struct Cycle {
    /// The shortest way from a file back to itself. The first file is also the last.
    pub files: Vec<PathBuf>,
    /// The number of files that are entangled in all.
    pub entangled: usize,
}

impl Graph {
    pub fn of(tree: &Crate) -> Self {
        let mut graph = Self { edges: BTreeMap::new() };
        for (id, module) in tree.modules.iter().enumerate() {
            graph.add_module(tree, id, module);
        }
        graph
    }

    fn add_module(&mut self, tree: &Crate, id: ModuleId, module: &Module) {
        let edges = self.edges.entry(module.file.clone()).or_default();
        for (target, item) in uses::items_named_in(tree, id) {
            let file = &tree.modules[target].file;
            if *file != module.file {
                edges.entry(file.clone()).or_default().insert(item);
            }
        }
    }

    /// Returns the items of the file `to` that the file `from` names.
    pub fn items(&self, from: &Path, to: &Path) -> Vec<&str> {
        self.edges.get(from).and_then(|edges| edges.get(to)).into_iter().flatten().map(String::as_str).collect()
    }

    /// Returns one cycle for each group of entangled files.
    pub fn cycles(&self) -> Vec<Cycle> {
        let reach: BTreeMap<_, _> = self.edges.keys().map(|file| (file, self.reachable(file))).collect();
        let mut seen = BTreeSet::new();
        let mut cycles = Vec::new();
        for (file, reached) in &reach {
            if !reached.contains(file) || seen.contains(file) {
                continue;
            }
            let group: BTreeSet<_> = reached.iter().copied().filter(|other| reach[other].contains(file)).collect();
            seen.extend(group.iter().copied());
            let shortest = group.iter().filter_map(|file| self.shortest_way_back(file)).min_by_key(Vec::len);
            cycles.extend(shortest.map(|files| Cycle { files, entangled: group.len() }));
        }
        cycles
    }

    fn used_by(&self, file: &Path) -> impl Iterator<Item = &PathBuf> {
        self.edges.get(file).into_iter().flat_map(BTreeMap::keys)
    }

    fn reachable(&self, from: &Path) -> BTreeSet<&PathBuf> {
        let mut reached = BTreeSet::new();
        let mut open: Vec<_> = self.used_by(from).collect();
        while let Some(file) = open.pop() {
            if reached.insert(file) {
                open.extend(self.used_by(file));
            }
        }
        reached
    }

    fn shortest_way_back(&self, from: &Path) -> Option<Vec<PathBuf>> {
        let mut seen = BTreeSet::new();
        let mut ways = VecDeque::from([vec![from.to_owned()]]);
        while let Some(way) = ways.pop_front() {
            for next in self.used_by(way.last()?) {
                let longer = [way.as_slice(), std::slice::from_ref(next)].concat();
                if next == from {
                    return Some(longer);
                }
                if seen.insert(next) {
                    ways.push_back(longer);
                }
            }
        }
        None
    }

    /// Writes a cycle in a line, and below it the items of each step.
    pub fn describe(&self, cycle: &Cycle) -> String {
        let files: Vec<_> = cycle.files.iter().map(|file| file.display().to_string()).collect();
        let mut text = format!("{} ({} files are entangled)", files.join(" → "), cycle.entangled);
        for step in cycle.files.windows(2) {
            let items = self.items(&step[0], &step[1]).join(", ");
            let _ = write!(text, "\n    {} → {}: {items}", step[0].display(), step[1].display());
        }
        text
    }
}

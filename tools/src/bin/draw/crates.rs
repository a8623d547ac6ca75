//! Which crate of the workspace uses which.

use cargo_metadata::{DependencyKind, MetadataCommand, TargetKind};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;

const END: &str = "<!-- end -->";
/// The crates that are not in the `guideway` binary: they are drawn dashed.
const NOT_IN_GUIDEWAY: [&str; 3] = ["testbed", "lab", "tools"];

/// For each crate those that it uses.
type Graph = BTreeMap<String, BTreeSet<String>>;

/// The graph of the workspace in Mermaid's language. An arrow that follows from others is left out.
pub fn graph(manifest: &Path) -> Result<String, String> {
    let metadata = MetadataCommand::new().manifest_path(manifest).no_deps().exec().map_err(|error| error.to_string())?;
    let names: BTreeSet<&str> = metadata.packages.iter().map(|package| package.name.as_str()).collect();
    let graph: Graph = metadata
        .packages
        .iter()
        .map(|package| {
            let used = package.dependencies.iter().filter(|used| used.kind == DependencyKind::Normal && names.contains(used.name.as_str()));
            (short(&package.name), used.map(|used| short(&used.name)).collect())
        })
        .collect();
    let programs = metadata.packages.iter().filter(|package| package.targets.iter().any(|target| target.is_kind(TargetKind::Bin)));
    Ok(mermaid(&graph, &programs.map(|package| short(&package.name)).collect()))
}

/// A package's name without what all of them begin with.
fn short(name: &str) -> String {
    name.strip_prefix("guideway-").unwrap_or(name).to_owned()
}

fn mermaid(graph: &Graph, programs: &BTreeSet<String>) -> String {
    let mut text = "```mermaid\nflowchart TD\n".to_owned();
    let mut line = |line: std::fmt::Arguments| {
        let _infallible = writeln!(text, "    {line}");
    };
    for name in programs {
        line(format_args!("{name}([{name}])"));
    }
    for (name, used) in graph {
        let direct: Vec<&str> = used.iter().map(String::as_str).filter(|one| !follows(graph, used, one)).collect();
        if !direct.is_empty() {
            line(format_args!("{name} --> {}", direct.join(" & ")));
        } else if !programs.contains(name) {
            line(format_args!("{name}"));
        }
    }
    line(format_args!("classDef apart stroke-dasharray: 4 4"));
    line(format_args!("class {} apart", NOT_IN_GUIDEWAY.join(",")));
    text + "```"
}

/// Whether another of `used` leads to `one`.
fn follows(graph: &Graph, used: &BTreeSet<String>, one: &str) -> bool {
    fn reaches(graph: &Graph, from: &str, to: &str) -> bool {
        graph.get(from).is_some_and(|used| used.iter().any(|next| next == to || reaches(graph, next, to)))
    }
    used.iter().any(|other| other != one && reaches(graph, other, one))
}

/// Returns the text with new content between the markers of the block `name`.
pub fn replace_block(text: &str, name: &str, content: &str) -> Result<String, String> {
    let begin = format!("<!-- generated: {name} -->");
    let missing = || format!("has no lines `{begin}` and `{END}` to write between");
    let (before, rest) = text.split_once(&begin).ok_or_else(missing)?;
    let (_, after) = rest.split_once(END).ok_or_else(missing)?;
    Ok(format!("{before}{begin}\n{content}\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arrow_that_follows_from_others_is_left_out() {
        let used = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let graph = BTreeMap::from([
            ("top".to_owned(), used(&["bottom", "middle"])),
            ("middle".to_owned(), used(&["bottom"])),
            ("bottom".to_owned(), used(&[])),
        ]);
        let text = mermaid(&graph, &used(&["top"]));
        assert!(text.contains("    top([top])\n") && text.contains("    top --> middle\n"), "{text}");
        assert!(text.contains("    middle --> bottom\n") && text.contains("    bottom\n"), "{text}");
    }

    #[test]
    fn only_what_stands_between_the_markers_is_replaced() {
        let text = |content: &str| format!("a\n<!-- generated: x y -->\n{content}\n{END}\nb {END}\n");
        assert_eq!(replace_block(&text("old"), "x y", "new"), Ok(text("new")));
        assert!(replace_block(&text("old"), "x", "new").is_err());
    }
}

//! Links within the repository.

use super::markdown::{anchors, parts};
use super::{Document, root};
use std::fs;
use std::path::Path;

/// Returns a sentence for each link of a document that leads nowhere.
pub fn broken(document: &Document) -> Vec<String> {
    let mut wrong = Vec::new();
    for (line, text) in parts(&document.text).prose {
        for target in targets(text) {
            if let Err(why) = check(document, target) {
                wrong.push(format!("{}, line {line}: {target} {why}", document.name));
            }
        }
    }
    wrong
}

/// Returns the relative links of a line.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    let after = |mark: &'static str, end: char| line.split(mark).skip(1).filter_map(move |rest| rest.split(end).next());
    let all = after("](", ')').chain(after("src=\"", '"')).chain(after("srcset=\"", '"'));
    all.filter(|target| !target.contains("://") && !target.starts_with("mailto:"))
}

fn check(document: &Document, target: &str) -> Result<(), String> {
    let (path, anchor) = target.split_once('#').map_or((target, None), |(path, anchor)| (path, Some(anchor)));
    let directory = document.path.parent().unwrap_or(Path::new("/"));
    let file = if path.is_empty() { document.path.clone() } else { directory.join(path) };
    let file = file.canonicalize().map_err(|_| "does not exist".to_owned())?;
    if !file.starts_with(root().canonicalize().unwrap()) {
        return Err("is outside of the repository".to_owned());
    }
    let Some(anchor) = anchor else { return Ok(()) };
    // A link to a directory shows its README.
    let page = if file.is_dir() { file.join("README.md") } else { file };
    let known = anchors(&fs::read_to_string(&page).map_err(|error| error.to_string())?);
    if known.iter().any(|known| known == anchor) { Ok(()) } else { Err(format!("names no heading; there are {}", known.join(", "))) }
}

#[test]
fn links_of_a_line_are_found() {
    let line = "see [a](b.md#c), [web](https://example.net) and <img src=\"d.svg\"> `x`";
    assert_eq!(targets(line).collect::<Vec<_>>(), ["b.md#c", "d.svg"]);
}

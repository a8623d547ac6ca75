//! Which keys the readers ask for: tests compare them with the tables.

use super::Section;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

/// For each path of a table, without positions, the keys that were asked for.
pub type Recorded = BTreeMap<String, BTreeSet<&'static str>>;

thread_local! {
    static RECORDED: RefCell<Option<Recorded>> = const { RefCell::new(None) };
}

/// Runs `read` and returns the keys that it asks for.
pub fn record(read: impl FnOnce()) -> Recorded {
    RECORDED.replace(Some(Recorded::new()));
    read();
    RECORDED.take().unwrap_or_default()
}

/// Notes that the table at `path` was asked for `key`.
pub(crate) fn note(path: &str, key: &'static str) {
    RECORDED.with_borrow_mut(|recorded| {
        if let Some(recorded) = recorded {
            recorded.entry(without_positions(path)).or_default().insert(key);
        }
    });
}

/// `pool[0].backends[1]` as `pool.backends`.
fn without_positions(path: &str) -> String {
    let parts = path.split('.').map(|part| part.split('[').next().unwrap_or_default());
    parts.collect::<Vec<_>>().join(".")
}

/// A text that makes the reader ask for the keys of one table.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The path of the table.
    pub path: &'static str,
    /// Its kind; empty if it has none.
    pub kind: &'static str,
    /// The text of a file.
    pub text: String,
}

/// Returns a sentence for each difference between the keys of `sections` and those that `read` asks for, as `samples` show. Every table and kind
/// needs a sample.
pub fn differences(sections: &[Section], samples: &[Sample], read: impl Fn(&str)) -> Vec<String> {
    let mut wrong = Vec::new();
    for Sample { path, kind, text } in samples {
        let recorded = record(|| read(text));
        for other in recorded.keys().filter(|other| !other.is_empty() && sections.iter().all(|section| section.path != **other)) {
            wrong.push(format!("the reader reads {other}, which is no section"));
        }
        let here = sections.iter().filter(|section| section.path == *path && (section.kinds.is_empty() || section.kinds.contains(kind)));
        let mut known: BTreeSet<&str> = here.flat_map(|section| section.keys).map(|key| key.name).collect();
        if path.is_empty() {
            known.extend(sections.iter().filter_map(|section| section.path.split('.').next()).filter(|name| !name.is_empty()));
        }
        let asked = recorded.get(*path).cloned().unwrap_or_default();
        wrong.extend(asked.difference(&known).map(|key| format!("{path} {kind}: the reader asks for {key}, which is not in the table")));
        wrong.extend(
            known.difference(&asked).map(|key| format!("{path} {kind}: {key} is in the table, and the reader does not ask for it")),
        );
    }
    let has_sample =
        |path, kind: Option<&str>| samples.iter().any(|sample| sample.path == path && kind.is_none_or(|kind| sample.kind == kind));
    for section in sections {
        let kinds = section.kinds.iter().map(|kind| Some(*kind)).chain([None]);
        wrong.extend(kinds.filter(|kind| !has_sample(section.path, *kind)).map(|kind| format!("{} {kind:?} has no sample", section.path)));
    }
    wrong
}

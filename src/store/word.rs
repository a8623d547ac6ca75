//! What directors say to all who read their store, for as long as they are there: of themselves, and whom they suspect.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a word is about. Each director has one word at most about each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Topic {
    /// The director itself: generation, tables, what is drained.
    Director,
    /// Backends that its clients wait for.
    Suspicion,
}

impl Topic {
    /// Where its words are: a directory on disk.
    pub(super) fn directory(self) -> &'static str {
        match self {
            Topic::Director => "directors",
            Topic::Suspicion => "suspicions",
        }
    }
}

/// A backend that clients of some director wait for: a reason to check it at once, never a verdict.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Suspected {
    /// Its pool.
    pub pool: String,
    /// Its name.
    pub backend: String,
}

impl Suspected {
    /// Suspects that a director tells of at most: a word has a bounded size, and who has more of them has another trouble than these.
    pub const MOST: usize = 64;

    /// The word of a director; without a suspect there is none.
    pub fn word(suspects: impl IntoIterator<Item = Suspected>) -> Value {
        let told: Vec<Suspected> = suspects.into_iter().take(Self::MOST).collect();
        if told.is_empty() { Value::Null } else { serde_json::to_value(told).unwrap_or_default() }
    }

    /// What directors have said, each backend once. What cannot be read was said by another version, and says nothing.
    pub(super) fn heard(words: Vec<(String, Value)>) -> Vec<Suspected> {
        let of = |word: Value| serde_json::from_value::<Vec<Suspected>>(word).unwrap_or_default();
        let mut all: Vec<Suspected> = words.into_iter().flat_map(|(_, word)| of(word).into_iter().take(Self::MOST)).collect();
        all.sort();
        all.dedup();
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn words_are_bounded_and_put_together() {
        let suspect = |n: usize| Suspected { pool: "boot".into(), backend: format!("t{n:03}") };
        assert_eq!(Suspected::word([]), Value::Null);
        let word = Suspected::word((0..100).map(suspect));
        assert_eq!(word.as_array().unwrap().len(), Suspected::MOST);
        let words = vec![("d1".to_owned(), word), ("d2".to_owned(), json!([suspect(0), suspect(99)])), ("d3".to_owned(), json!({"x": 1}))];
        let heard = Suspected::heard(words);
        assert_eq!((heard.len(), &heard[0], &heard[64]), (65, &suspect(0), &suspect(99)));
    }
}

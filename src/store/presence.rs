//! Presence records: what running directors publish in their store, about themselves and about suspected backends.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The topic of a presence record. Each director has at most one record for each topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PresenceTopic {
    /// The director itself: generation, tables, drained backends.
    Director,
    /// Backends that its clients wait for.
    Suspicion,
}

impl PresenceTopic {
    /// Directory of its records on disk.
    pub(super) fn directory(self) -> &'static str {
        match self {
            PresenceTopic::Director => "directors",
            PresenceTopic::Suspicion => "suspicions",
        }
    }
}

/// A backend that clients of a director wait for: a reason to check it at once, never a verdict.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SuspectedBackend {
    /// Its pool.
    pub pool: String,
    /// Its name.
    pub backend: String,
}

impl SuspectedBackend {
    /// Maximum number of suspects in a record, which bounds its size. A director with more suspects has a problem of its own.
    pub const MAX: usize = 64;

    /// Encodes the record of a director; `null` without a suspect.
    pub fn encode(suspects: impl IntoIterator<Item = SuspectedBackend>) -> Value {
        let listed: Vec<SuspectedBackend> = suspects.into_iter().take(Self::MAX).collect();
        if listed.is_empty() { Value::Null } else { serde_json::to_value(listed).unwrap_or_default() }
    }

    /// Decodes the records of all directors, each backend once. Ignores records of unknown format, which another version wrote.
    pub(super) fn decode_all(records: Vec<(String, Value)>) -> Vec<SuspectedBackend> {
        let of = |record: Value| serde_json::from_value::<Vec<SuspectedBackend>>(record).unwrap_or_default();
        let mut all: Vec<SuspectedBackend> = records.into_iter().flat_map(|(_, record)| of(record).into_iter().take(Self::MAX)).collect();
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
    fn records_are_bounded_and_merged() {
        let suspect = |n: usize| SuspectedBackend { pool: "boot".into(), backend: format!("t{n:03}") };
        assert_eq!(SuspectedBackend::encode([]), Value::Null);
        let record = SuspectedBackend::encode((0..100).map(suspect));
        assert_eq!(record.as_array().unwrap().len(), SuspectedBackend::MAX);
        let records =
            vec![("d1".to_owned(), record), ("d2".to_owned(), json!([suspect(0), suspect(99)])), ("d3".to_owned(), json!({"x": 1}))];
        let decode_all = SuspectedBackend::decode_all(records);
        assert_eq!((decode_all.len(), &decode_all[0], &decode_all[64]), (65, &suspect(0), &suspect(99)));
    }
}

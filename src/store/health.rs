//! Health: what the health controller saw of each backend.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// By the name of the pool. A pool that nobody has checked is not there, and its backends count as up.
pub type Health = BTreeMap<String, Arc<PoolHealth>>;

/// How the backends of one pool were seen to do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolHealth {
    /// By the name of the backend. One that is not there counts as up.
    pub backends: BTreeMap<String, Observed>,
}

/// How one backend was seen to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// Whether it gets new flows.
    #[serde(flatten)]
    pub state: Observation,
    /// Since when, in seconds since 1970-01-01 UTC.
    pub since: u64,
    /// Why, for people: the last failure, or what was checked.
    pub why: String,
}

/// Whether a backend gets new flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Observation {
    /// It answers as it should.
    Up,
    /// It has come back a short time ago and gets a part of its weight: slow start.
    Slow {
        /// Per cent of its weight, 1–99.
        percent: u8,
    },
    /// It gets no new flows, and flows that have no TID range are chosen anew.
    Down,
}

impl PoolHealth {
    /// How `backend` was seen to do; up if nobody looked.
    pub fn of(&self, backend: &str) -> Observation {
        self.backends.get(backend).map_or(Observation::Up, |observed| observed.state)
    }

    /// Puts what was seen of `pools` in place of what was seen before; of a health without backends nothing is kept.
    pub(super) fn update(health: &mut Health, pools: &[(String, PoolHealth)]) {
        for (pool, seen) in pools {
            if seen.backends.is_empty() {
                health.remove(pool);
            } else {
                health.insert(pool.clone(), Arc::new(seen.clone()));
            }
        }
    }
}

impl Observation {
    /// What is left of `weight`: all, a part but never nothing, or nothing.
    pub fn weight(self, weight: u16) -> u16 {
        match self {
            Observation::Up => weight,
            Observation::Down => 0,
            Observation::Slow { percent } => {
                let part = u32::from(weight) * u32::from(percent.min(100)) / 100;
                u16::try_from(part).unwrap_or(weight).max(weight.min(1))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_backend_gets_a_part_of_its_weight_but_never_nothing() {
        let slow = |percent| Observation::Slow { percent };
        assert_eq!([slow(1).weight(100), slow(50).weight(101), slow(1).weight(7), slow(99).weight(0)], [1, 50, 1, 0]);
        assert_eq!([Observation::Up.weight(1000), Observation::Down.weight(1000), slow(255).weight(1000)], [1000, 0, 1000]);
    }

    #[test]
    fn health_reads_as_people_would_write_it() {
        let text = r#"{"backends":{"t1":{"state":"slow","percent":10,"since":1,"why":"came back"},"t2":{"state":"down","since":2,"why":"silent"}}}"#;
        let health: PoolHealth = serde_json::from_str(text).unwrap();
        assert_eq!(
            (health.of("t1"), health.of("t2"), health.of("t3")),
            (Observation::Slow { percent: 10 }, Observation::Down, Observation::Up)
        );
        assert_eq!(serde_json::to_string(&health).unwrap(), text);
    }
}

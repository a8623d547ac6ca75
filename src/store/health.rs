//! Health: the observed state of each backend.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Health by the name of the pool. A pool without checks is absent, and its backends count as up.
pub type Health = BTreeMap<String, Arc<PoolHealth>>;

/// The observed states of one pool's backends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolHealth {
    /// By the name of the backend. An absent one counts as up.
    pub backends: BTreeMap<String, Observed>,
}

/// The observed state of one backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// Whether it gets new flows.
    #[serde(flatten)]
    pub state: Observation,
    /// Since when, in seconds since 1970-01-01 UTC.
    pub since: u64,
    /// The reason, for operators: the last failure, or the check.
    pub why: String,
    /// Whether checks cannot be made: `state` is that of the last check, or `up` if there was none.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unknown: bool,
}

/// Whether a backend gets new flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Observation {
    /// It passes its checks.
    Up,
    /// It came back recently and gets a part of its weight: slow start.
    Slow {
        /// Per cent of its weight, 1–99.
        percent: u8,
    },
    /// It gets no new flows; flows without a TID range get another backend.
    Down,
}

impl PoolHealth {
    /// Returns the observed state of `backend`; up if there is none.
    pub fn of(&self, backend: &str) -> Observation {
        self.backends.get(backend).map_or(Observation::Up, |observed| observed.state)
    }

    /// Replaces the health of `pools`; a pool without backends is removed.
    pub(super) fn update(health: &mut Health, pools: &[(String, PoolHealth)]) {
        for (pool, view) in pools {
            if view.backends.is_empty() {
                health.remove(pool);
            } else {
                health.insert(pool.clone(), Arc::new(view.clone()));
            }
        }
    }
}

impl Observation {
    /// Returns the effective weight: all of it, a part of at least 1, or nothing.
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
    fn the_json_form_of_health() {
        let text = r#"{"backends":{"t1":{"state":"slow","percent":10,"since":1,"why":"came back"},"t2":{"state":"down","since":2,"why":"no answer"}}}"#;
        let health: PoolHealth = serde_json::from_str(text).unwrap();
        assert_eq!(
            (health.of("t1"), health.of("t2"), health.of("t3")),
            (Observation::Slow { percent: 10 }, Observation::Down, Observation::Up)
        );
        assert_eq!(serde_json::to_string(&health).unwrap(), text);
    }
}

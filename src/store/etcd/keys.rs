//! Where things are in etcd, below the prefix:
//!
//! | key | holds | written by |
//! |---|---|---|
//! | `intent/vips` | all VIPs, a JSON list | a commit |
//! | `intent/pool/NAME` | a pool, JSON | a commit |
//! | `intent/generation` | who committed when, how many pools there are, JSON | every commit |
//! | `health/pool/NAME` | how its backends do, JSON | the health controller that leads |
//! | `health/generation` | who published when, JSON | every publication |
//! | `leader/health` | the name of that controller, with its lease | |
//! | `director/NAME` | what a director says of itself, JSON, with its lease | |
//! | `suspicion/NAME` | which backends a director suspects, JSON, with a lease; absent when it suspects none | |
//!
//! The two `generation` keys make a revision of etcd a generation of the set: it is the higher one of the revisions at which they were last written,
//! or that of a health key which was put past a publication.

use crate::word::Topic;

/// The keys of one fleet.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    prefix: String,
}

/// `intent/vips`
pub(super) const VIPS: &str = "intent/vips";
/// `intent/pool/`
pub(super) const POOL: &str = "intent/pool/";
/// `intent/generation`
pub(super) const INTENT_GENERATION: &str = "intent/generation";
/// `health/pool/`
pub(super) const HEALTH: &str = "health/pool/";
/// `health/generation`
pub(super) const HEALTH_GENERATION: &str = "health/generation";
/// `leader/health`
pub(super) const LEADER: &str = "leader/health";
/// `director/`
const DIRECTOR: &str = "director/";
/// `suspicion/`
const SUSPICION: &str = "suspicion/";

impl Keys {
    /// Of all fleets, that with this prefix, which ends with a slash.
    pub(super) fn new(prefix: &str) -> Keys {
        Keys { prefix: prefix.to_owned() }
    }

    /// The whole key.
    pub(super) fn of(&self, short: &str) -> String {
        format!("{}{short}", self.prefix)
    }

    /// What all keys of a topic begin with; the name of the director follows.
    pub(super) fn words(&self, topic: Topic) -> String {
        self.of(match topic {
            Topic::Director => DIRECTOR,
            Topic::Suspicion => SUSPICION,
        })
    }

    /// The part of the key below the prefix.
    pub(super) fn short<'k>(&self, key: &'k str) -> Option<&'k str> {
        key.strip_prefix(&self.prefix)
    }

    /// First key and the end of the range that holds `health/…` and `intent/…`, and nothing else.
    pub(super) fn set(&self) -> (String, String) {
        (self.of("health/"), self.of("intent0"))
    }

    /// The range of `intent/…`.
    pub(super) fn intent(&self) -> (String, String) {
        (self.of("intent/"), self.of("intent0"))
    }
}

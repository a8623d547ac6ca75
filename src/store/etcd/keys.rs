//! The keys in etcd below the prefix:
//!
//! | key | holds | written by |
//! |---|---|---|
//! | `intent/vips` | all VIPs, a JSON list | a commit |
//! | `intent/pool/NAME` | a pool, JSON | a commit |
//! | `intent/generation` | author and time of the commit, number of pools, JSON | every commit |
//! | `health/pool/NAME` | state of its backends, JSON | the health controller that leads |
//! | `health/generation` | author and time of the publication, JSON | every publication |
//! | `journal/REVISION` | a change of the intent, JSON: who, from where, when, why, what, and the intent after it | every commit, with it |
//! | `leader/health` | name of the leading controller, with its lease | |
//! | `director/NAME` | presence record of a director, JSON, with its lease | |
//! | `suspicion/NAME` | backends that a director suspects, JSON, with a lease; absent without suspicions | |
//!
//! The two `generation` keys turn a revision of etcd into a generation of the cluster state. It is the higher one of the revisions at which
//! they were last written, or the revision of a health key that was written by hand.

use crate::presence::PresenceTopic;

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
/// `journal/`
const JOURNAL: &str = "journal/";
/// `leader/health`
pub(super) const LEADER: &str = "leader/health";
/// `director/`
const DIRECTOR: &str = "director/";
/// `suspicion/`
const SUSPICION: &str = "suspicion/";

impl Keys {
    /// Creates the keys of the fleet with this prefix, which ends with a slash.
    pub(super) fn new(prefix: &str) -> Keys {
        Keys { prefix: prefix.to_owned() }
    }

    /// Returns the whole key.
    pub(super) fn of(&self, short: &str) -> String {
        format!("{}{short}", self.prefix)
    }

    /// Returns the prefix of all keys of a topic; the name of the director follows.
    pub(super) fn presence_prefix(&self, topic: PresenceTopic) -> String {
        self.of(match topic {
            PresenceTopic::Director => DIRECTOR,
            PresenceTopic::Suspicion => SUSPICION,
        })
    }

    /// Returns the part of the key below the prefix.
    pub(super) fn short<'k>(&self, key: &'k str) -> Option<&'k str> {
        key.strip_prefix(&self.prefix)
    }

    /// Returns first key and end of the range that holds exactly `health/…` and `intent/…`.
    pub(super) fn state_range(&self) -> (String, String) {
        (self.of("health/"), self.of("intent0"))
    }

    /// Returns the key of the change that is made of what was read at `revision`. Keys sort as the changes were made.
    pub(super) fn journal(&self, revision: u64) -> String {
        self.of(&format!("{JOURNAL}{revision:020}"))
    }

    /// Returns the range of `journal/…`.
    pub(super) fn journal_range(&self) -> (String, String) {
        (self.of(JOURNAL), self.of("journal0"))
    }

    /// Returns the range of `intent/…`.
    pub(super) fn intent(&self) -> (String, String) {
        (self.of("intent/"), self.of("intent0"))
    }
}

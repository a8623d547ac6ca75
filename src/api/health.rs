//! Status of a health controller.

use super::backend::HealthState;
use super::status::{Reloads, StaleReason};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use utoipa::ToSchema;

/// A health controller at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ControllerStatus {
    /// Tells it from other daemons.
    #[serde(default)]
    #[schema(required)]
    pub kind: ControllerKind,
    /// Its name.
    pub name: String,
    /// Version of the program.
    pub version: String,
    /// Seconds since it started.
    pub uptime_seconds: u64,
    /// Source addresses of its checks.
    #[schema(value_type = Vec<String>)]
    pub source: Vec<IpAddr>,
    /// Its store.
    pub store: ControllerStore,
    /// Reloads since the start.
    #[serde(default)]
    #[schema(required)]
    pub reload: Reloads,
    /// Its checks and their results.
    #[serde(flatten)]
    pub checking: CheckingStatus,
}

/// Checks of a health controller and their results.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CheckingStatus {
    /// Whether it publishes.
    pub leading: bool,
    /// Generation of the cluster state that it reads.
    pub generation: u64,
    /// Since when the store's newest contents cannot be used.
    #[schema(required)]
    pub stale: Option<StaleSeconds>,
    /// Checks of all backends.
    pub checks: Checks,
    /// Transitions of all backends.
    pub changes: Transitions,
    /// Writes to the store.
    pub publishing: Publishing,
    /// Each pool that has a check.
    pub pools: Vec<CheckedPool>,
    /// Each backend of these pools.
    pub backends: Vec<CheckedBackend>,
}

/// `kind` of a health controller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ControllerKind {
    /// A health controller.
    #[default]
    Health,
}

/// The store of a health controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ControllerStore {
    /// Its kind.
    pub kind: String,
    /// Whether it survives a restart.
    pub durable: bool,
}

/// A store whose contents are not in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StaleSeconds {
    /// For how long.
    pub seconds: u64,
    /// The kind of trouble.
    #[serde(default)]
    #[schema(required)]
    pub reason: StaleReason,
    /// Why.
    pub why: String,
}

/// Checks of all backends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Checks {
    /// Backends that are checked.
    pub backends: usize,
    /// Checks under way.
    pub in_flight: usize,
    /// Checks that may be under way at a time.
    pub limit: usize,
    /// Checks that ended, in a second.
    pub per_second: f64,
    /// How much later than due the last check began.
    pub behind_seconds: f64,
    /// Checks before their time, because directors suspected a backend.
    pub for_suspicion: u64,
    /// Checks by outcome.
    #[schema(value_type = IndexMap<String, u64>)]
    pub outcomes: IndexMap<CheckOutcome, u64>,
}

/// Outcome of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CheckOutcome {
    /// The backend does its work.
    Passed,
    /// It did not answer.
    Timeout,
    /// It refused.
    Refused,
    /// It answered with wrong content.
    WrongContent,
    /// It began to answer and stopped.
    Stalled,
    /// It answered from a port outside its `tid_range`.
    WrongPort,
    /// It failed in another way.
    Other,
    /// The check could not be made, for a reason on the controller's host.
    NotRun,
}

impl CheckOutcome {
    /// All outcomes.
    pub const ALL: [CheckOutcome; 8] = [
        CheckOutcome::Passed,
        CheckOutcome::Timeout,
        CheckOutcome::Refused,
        CheckOutcome::WrongContent,
        CheckOutcome::Stalled,
        CheckOutcome::WrongPort,
        CheckOutcome::Other,
        CheckOutcome::NotRun,
    ];

    /// Returns the name in JSON and metrics.
    pub fn name(self) -> &'static str {
        match self {
            CheckOutcome::Passed => "passed",
            CheckOutcome::Timeout => "timeout",
            CheckOutcome::Refused => "refused",
            CheckOutcome::WrongContent => "wrong_content",
            CheckOutcome::Stalled => "stalled",
            CheckOutcome::WrongPort => "wrong_port",
            CheckOutcome::Other => "other",
            CheckOutcome::NotRun => "not_run",
        }
    }
}

/// Transitions of all backends since the start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Transitions {
    /// Backends that went down.
    pub went_down: u64,
    /// Backends that came back.
    pub came_up: u64,
}

/// Writes to the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Publishing {
    /// Pools that were written.
    pub done: u64,
    /// Pools that the store did not take, each attempt.
    pub failed: u64,
    /// Pools that wait.
    pub waiting: usize,
}

/// A pool whose backends are checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CheckedPool {
    /// Its name.
    pub pool: String,
    /// Its check, human-readable.
    pub check: String,
    /// The VIP that tftp checks ask.
    #[schema(required, value_type = Option<String>)]
    pub vip: Option<IpAddr>,
    /// Its backends.
    pub backends: usize,
    /// Backends that fail their checks.
    pub failing: usize,
    /// Backends that stay up in any case, in per cent.
    pub min_healthy: u8,
    /// Whether `min_healthy` holds backends up.
    pub floor: bool,
    /// Backends that `min_healthy` holds up.
    pub held_up: usize,
    /// Backends of which it is not known whether they work, because no check could be made.
    pub unknown: usize,
}

/// A backend that is checked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CheckedBackend {
    /// Name of its pool.
    pub pool: String,
    /// Its name.
    pub name: String,
    /// Its address.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// Whether it gets new flows.
    pub state: HealthState,
    /// Part of its weight in per cent.
    pub percent: u8,
    /// Whether `min_healthy` holds it up.
    pub held_up: bool,
    /// When the state began, in seconds since 1970-01-01 UTC.
    pub since: u64,
    /// Why it has this state.
    pub why: String,
    /// Checks that passed in a row.
    pub good_in_a_row: u32,
    /// Checks that failed in a row.
    pub failed_in_a_row: u32,
    /// Checks since the start.
    pub checks: u64,
    /// Checks that failed.
    pub failed: u64,
    /// The last check.
    #[schema(required)]
    pub last: Option<LastCheck>,
}

/// The last check of a backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LastCheck {
    /// Its outcome.
    pub outcome: CheckOutcome,
    /// Its outcome, human-readable.
    pub text: String,
    /// How long it took.
    pub seconds: f64,
    /// When it ended, in seconds since 1970-01-01 UTC.
    pub at: u64,
}

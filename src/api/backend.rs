//! Backends of a director.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;
use utoipa::ToSchema;

/// State of a backend at a director.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BackendState {
    /// It gets new flows.
    Active,
    /// Drained, or its weight is 0: it keeps its flows and gets no new ones.
    Drained,
    /// The health controller saw it come back a short time ago: it gets a part of its weight.
    Slow,
    /// The health controller saw it fail: it gets no new flows.
    Down,
    /// The director cannot reach it, while it reaches another one of the pool: it gets no new flows.
    Unreachable,
    /// It was removed: it keeps its flows for `[director] retire`.
    Retired,
    /// It is in the intent, and the director has not applied it yet.
    Pending,
}

impl BackendState {
    /// Returns the name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            BackendState::Active => "active",
            BackendState::Drained => "drained",
            BackendState::Slow => "slow",
            BackendState::Down => "down",
            BackendState::Unreachable => "unreachable",
            BackendState::Retired => "retired",
            BackendState::Pending => "pending",
        }
    }
}

impl fmt::Display for BackendState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A backend as the status of its director shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BackendSummary {
    /// Its name.
    pub name: String,
    /// Name of its pool.
    pub pool: String,
    /// Destination of its GRE packets.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// 0 to 1000; of a retired backend, the last one.
    pub weight: u16,
    /// Whether it gets new flows.
    pub state: BackendState,
    /// Link-layer address of the next hop, or `unresolved`.
    pub neighbour: String,
    /// Why the next hop is not known.
    #[schema(required)]
    pub unresolved_because: Option<String>,
    /// Why workers suspect that it does not answer.
    #[schema(required)]
    pub suspected_because: Option<String>,
    /// Why it is not known whether it works, although its pool has a check.
    #[schema(required)]
    pub unknown_because: Option<String>,
}

/// Backends.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Backends {
    /// Those of the intent first, then those that are retired, pool by pool.
    pub backends: Vec<BackendStatus>,
}

/// A backend with its state, share and health.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BackendStatus {
    /// Its name.
    pub name: String,
    /// Destination of its GRE packets.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// 0 to 1000; of a retired backend, the last one.
    pub weight: u16,
    /// Whether the intent has it drained; missing when it is retired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<bool>,
    /// Its own server ports, such as `20000-20999`; missing when it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tid_range: Option<String>,
    /// Name of its pool.
    pub pool: String,
    /// Whether it gets new flows.
    pub state: BackendState,
    /// Its part of new flows, 0 to 1; null where no VIP uses its pool.
    #[schema(required)]
    pub share: Option<f64>,
    /// Observations of the health controller; null where nobody checks it.
    #[schema(required)]
    pub health: Option<BackendHealth>,
    /// Link-layer address of the next hop, or `unresolved`; null while it is pending.
    #[schema(required)]
    pub neighbour: Option<String>,
    /// Why the next hop is not known.
    #[schema(required)]
    pub unresolved_because: Option<String>,
    /// Transfers that still run; null where it gets new flows.
    #[schema(required)]
    pub running: Option<u64>,
}

/// What the health controller published of a backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BackendHealth {
    /// Whether it gets new flows.
    pub state: HealthState,
    /// Part of its weight in per cent, during a slow start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<u8>,
    /// When the state began, in seconds since 1970-01-01 UTC; null where there was no check yet.
    #[schema(required)]
    pub since: Option<u64>,
    /// The last failure, or what was checked.
    pub why: String,
}

/// State of a backend as the health controller sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum HealthState {
    /// Its checks pass.
    Up,
    /// Its checks pass again: it gets its weight in steps.
    Slow,
    /// Its checks fail.
    Down,
    /// No check could be made: it keeps its last state, and gets new flows if it had none.
    Unknown,
}

impl fmt::Display for HealthState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HealthState::Up => "up",
            HealthState::Slow => "slow",
            HealthState::Down => "down",
            HealthState::Unknown => "unknown",
        })
    }
}

//! Plans of changes.

use super::error::Problem;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use utoipa::ToSchema;

/// What a change does, or would do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Plan {
    /// Whether nothing was to be changed.
    pub dry_run: bool,
    /// Whether the intent differs from the one before.
    pub changed: bool,
    /// Generation of the intent.
    pub intent_generation: IntentGenerations,
    /// Whether this director's workers have it.
    pub applied: bool,
    /// Why they do not.
    #[schema(required)]
    pub not_applied_because: Option<String>,
    /// Whether a restart of the director keeps the change.
    pub survives_restart: bool,
    /// Why it does, or does not.
    pub restart: String,
    /// The effects.
    #[serde(flatten)]
    pub effects: Effects,
}

/// Generation of the intent before and after a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IntentGenerations {
    /// Before.
    pub before: u64,
    /// After; null: not committed.
    #[schema(required)]
    pub after: Option<u64>,
}

/// Effects of a change.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Effects {
    /// VIPs that are served differently.
    pub vips: Vec<PlannedVip>,
    /// Backends that change or get another share.
    pub backends: Vec<PlannedBackend>,
    /// Keys of pools and VIPs that change, besides backends.
    pub settings: Vec<ChangedSetting>,
    /// Effect on transfers that run, for each pool that changes.
    pub running: Vec<RunningTransfers>,
    /// Why the change needs `confirm=true`: each thing that it leaves unserved.
    #[serde(default)]
    #[schema(required)]
    pub needs_confirmation: Vec<String>,
    /// Warnings about the new intent.
    pub warnings: Vec<Problem>,
}

/// A VIP that is served differently. Rows are those of its Maglev table; null where there was no table of that size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PlannedVip {
    /// Its address.
    #[schema(value_type = String)]
    pub vip: IpAddr,
    /// Its service.
    pub service: String,
    /// Name of its pool.
    pub pool: String,
    /// What changes.
    pub change: VipEffect,
    /// Rows of the table.
    pub rows: u32,
    /// Rows that change their owner.
    #[schema(required)]
    pub moved: Option<u32>,
    /// Part of the rows that change their owner, 0 to 1.
    #[schema(required)]
    pub moved_share: Option<f64>,
    /// Moved rows whose owner stays.
    #[schema(required)]
    pub moved_from_remaining: Option<u32>,
}

/// What changes of a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum VipEffect {
    /// It is new.
    Added,
    /// It is removed.
    Removed,
    /// It has another pool or another idle time.
    Changed,
    /// It is paused.
    Paused,
    /// It takes packets again.
    Resumed,
    /// Rows of its table move.
    Rows,
}

impl VipEffect {
    /// Returns the name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            VipEffect::Added => "added",
            VipEffect::Removed => "removed",
            VipEffect::Changed => "changed",
            VipEffect::Paused => "paused",
            VipEffect::Resumed => "resumed",
            VipEffect::Rows => "rows",
        }
    }
}

/// A backend that changes or gets another share of new flows; shares are null where no VIP uses its pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PlannedBackend {
    /// Name of its pool.
    pub pool: String,
    /// Its name.
    pub backend: String,
    /// What changes.
    pub change: BackendEffect,
    /// Its share before, 0 to 1.
    #[schema(required)]
    pub share_before: Option<f64>,
    /// Its share after, 0 to 1.
    #[schema(required)]
    pub share_after: Option<f64>,
}

/// What changes of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BackendEffect {
    /// It is new.
    Added,
    /// It is removed.
    Removed,
    /// It has another address.
    Address,
    /// It is drained.
    Drained,
    /// It is no longer drained.
    Undrained,
    /// Another key of it changes.
    Changed,
    /// It gets another share, because of other backends.
    Share,
}

impl BackendEffect {
    /// Returns the name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            BackendEffect::Added => "added",
            BackendEffect::Removed => "removed",
            BackendEffect::Address => "address",
            BackendEffect::Drained => "drained",
            BackendEffect::Undrained => "undrained",
            BackendEffect::Changed => "changed",
            BackendEffect::Share => "share",
        }
    }
}

/// A key of the intent that changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ChangedSetting {
    /// The key, such as `pool.boot.takeover`.
    pub key: String,
    /// Its value before as JSON; null where it was absent.
    #[schema(required)]
    pub before: Option<String>,
    /// Its value after as JSON; null where it is absent.
    #[schema(required)]
    pub after: Option<String>,
    /// What this means, where the key does not say it.
    #[schema(required)]
    pub effect: Option<String>,
}

/// Effect on the transfers that run in a pool that changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RunningTransfers {
    /// Name of the pool.
    pub pool: String,
    /// How many transfers are affected; null where nobody can know.
    #[schema(required)]
    pub transfers_affected: Option<u64>,
    /// The effect, human-readable.
    pub effect: String,
}

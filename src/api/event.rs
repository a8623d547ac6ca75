//! Events of a director.

use super::backend::BackendState;
use super::status::StaleReason;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use utoipa::ToSchema;

/// The `data:` of one event; `id:` and `event:` repeat two of its keys. Besides, `missed` and `cut_off` say that events were lost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Grows with each event, also over restarts of the director.
    pub id: u64,
    /// Seconds since 1970-01-01 UTC.
    pub time: f64,
    /// Generation of the cluster state that workers read then.
    pub generation: u64,
    /// The event and its data.
    #[serde(flatten)]
    pub data: EventData,
}

/// Kind of an event, with its data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "event", content = "data", rename_all = "snake_case")]
pub enum EventData {
    /// Workers read another cluster state.
    StateChanged(Changes<StateChange>),
    /// This director cannot use the newest cluster state of the store.
    StateRejected(RejectedState),
    /// The file was applied, or refused.
    Reload(ReloadOutcome),
    /// Next hops were resolved or lost.
    Neighbours(Changes<NeighbourChange>),
    /// The newest contents of the store cannot be used: it is unavailable, holds something invalid, or was rolled back.
    StoreUnavailable(UnavailableStore),
    /// The contents of the store are in force again.
    StoreAvailable(AvailableStore),
    /// Several clients repeat their requests to a backend without an answer.
    Suspected(SuspectedBackend),
}

impl EventData {
    /// Returns the kind's name in JSON and in `event:`.
    pub fn name(&self) -> &'static str {
        match self {
            EventData::StateChanged(_) => "state_changed",
            EventData::StateRejected(_) => "state_rejected",
            EventData::Reload(_) => "reload",
            EventData::Neighbours(_) => "neighbours",
            EventData::StoreUnavailable(_) => "store_unavailable",
            EventData::StoreAvailable(_) => "store_available",
            EventData::Suspected(_) => "suspected",
        }
    }
}

/// A list of changes, which may be cut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Changes<T> {
    /// The first changes.
    pub changes: Vec<T>,
    /// How many changes are not listed.
    pub more: usize,
}

/// A change of a backend or a VIP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum StateChange {
    /// Of a backend.
    Backend(ChangedBackend),
    /// Of a VIP.
    Vip(ChangedVip),
}

/// Change of a backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ChangedBackend {
    /// What happened.
    pub change: BackendTransition,
    /// Name of its pool.
    pub pool: String,
    /// Its name.
    pub backend: String,
    /// Its address.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// Its weight.
    pub weight: u16,
    /// Its state now; null when it is gone.
    #[schema(required)]
    pub state: Option<BackendState>,
}

/// What happened to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BackendTransition {
    /// It is new, or back before `[director] retire` was over.
    BackendAdded,
    /// It was removed and keeps its flows.
    BackendRemoved,
    /// It was removed, and `[director] retire` is over.
    BackendExpired,
    /// It was drained.
    BackendDrained,
    /// It is no longer drained.
    BackendUndrained,
    /// Its checks fail.
    BackendDown,
    /// The director cannot reach it, while it reaches another one of the pool.
    BackendUnreachable,
    /// It came back and gets its weight in steps.
    BackendSlow,
    /// It gets its full weight.
    BackendUp,
    /// It has another weight.
    BackendWeight,
}

impl BackendTransition {
    /// Returns the name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            BackendTransition::BackendAdded => "backend_added",
            BackendTransition::BackendRemoved => "backend_removed",
            BackendTransition::BackendExpired => "backend_expired",
            BackendTransition::BackendDrained => "backend_drained",
            BackendTransition::BackendUndrained => "backend_undrained",
            BackendTransition::BackendDown => "backend_down",
            BackendTransition::BackendUnreachable => "backend_unreachable",
            BackendTransition::BackendSlow => "backend_slow",
            BackendTransition::BackendUp => "backend_up",
            BackendTransition::BackendWeight => "backend_weight",
        }
    }
}

/// Change of a VIP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ChangedVip {
    /// What happened.
    pub change: VipTransition,
    /// Its address.
    #[schema(value_type = String)]
    pub vip: IpAddr,
    /// Its service.
    pub service: String,
    /// Name of its pool.
    pub pool: String,
    /// Whether it takes no packets.
    pub paused: bool,
}

/// What happened to a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum VipTransition {
    /// It is new.
    VipAdded,
    /// It was removed.
    VipRemoved,
    /// It was paused.
    VipPaused,
    /// It takes packets again.
    VipResumed,
    /// It has another pool.
    VipChanged,
}

impl VipTransition {
    /// Returns the name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            VipTransition::VipAdded => "vip_added",
            VipTransition::VipRemoved => "vip_removed",
            VipTransition::VipPaused => "vip_paused",
            VipTransition::VipResumed => "vip_resumed",
            VipTransition::VipChanged => "vip_changed",
        }
    }
}

/// Change of a next hop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum NeighbourChange {
    /// Its link-layer address is known, or another one.
    Resolved {
        /// Address of the backend or director that it leads to.
        #[schema(value_type = String)]
        address: IpAddr,
        /// Link-layer address.
        neighbour: String,
    },
    /// Its link-layer address is no longer known.
    Lost {
        /// Address of the backend or director that it leads to.
        #[schema(value_type = String)]
        address: IpAddr,
        /// Why.
        why: String,
    },
}

/// A cluster state that this director cannot use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RejectedState {
    /// Its generation.
    pub refused: u64,
    /// Why.
    pub why: String,
}

/// Outcome of a reload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReloadOutcome {
    /// Whether the file was applied.
    pub accepted: bool,
    /// Why it was refused.
    #[schema(required)]
    pub why: Option<String>,
}

/// A store whose contents are not in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UnavailableStore {
    /// Its kind.
    pub kind: String,
    /// The kind of trouble.
    #[serde(default)]
    #[schema(required)]
    pub reason: StaleReason,
    /// Why.
    pub why: String,
}

/// A store whose contents are in force again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AvailableStore {
    /// Its kind.
    pub kind: String,
}

/// A backend that clients wait for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SuspectedBackend {
    /// Name of its pool.
    pub pool: String,
    /// Its name.
    pub backend: String,
    /// Why workers suspect it.
    pub why: String,
}

/// Says that events were lost: `missed` before the first event, `cut_off` as the last word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LostEvents {
    /// Where in the stream they were lost.
    pub event: LossKind,
    /// Id of the last event before the gap.
    pub after: u64,
    /// Id of the oldest event that is kept.
    pub oldest: u64,
    /// Why, and what to do.
    pub why: String,
}

/// Where in a stream events were lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LossKind {
    /// Before the first event of the stream.
    Missed,
    /// The reader was too slow, and the stream ends.
    CutOff,
}

impl LossKind {
    /// Returns the name in JSON and in `event:`.
    pub fn name(self) -> &'static str {
        match self {
            LossKind::Missed => "missed",
            LossKind::CutOff => "cut_off",
        }
    }
}

/// One message of the stream of events.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum StreamMessage {
    /// An event.
    Event(Event),
    /// Events were lost.
    Lost(LostEvents),
}

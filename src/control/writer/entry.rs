//! A backend as the writer knows it.

use guideway_api::backend;
use guideway_dataplane::tables::BackendId;
use std::net::IpAddr;
use std::sync::Arc;

/// Whether a backend gets new flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendState {
    /// It does.
    Active,
    /// Drained, or its weight is 0: it keeps what it has.
    Drained,
    /// The health controller says that it is back since a short time: it gets a part of its weight.
    Slow,
    /// The health controller says that it is down: it gets no new flows.
    Down,
    /// Packets cannot reach it, while they can reach another one of its pool: it gets no new flows.
    Unreachable,
    /// It is no longer wanted: it keeps what it has for `[director] retire`.
    Retired,
}

impl From<BackendState> for backend::BackendState {
    fn from(state: BackendState) -> Self {
        match state {
            BackendState::Active => backend::BackendState::Active,
            BackendState::Drained => backend::BackendState::Drained,
            BackendState::Slow => backend::BackendState::Slow,
            BackendState::Down => backend::BackendState::Down,
            BackendState::Unreachable => backend::BackendState::Unreachable,
            BackendState::Retired => backend::BackendState::Retired,
        }
    }
}

/// A backend as the writer knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendEntry {
    /// Its number.
    pub id: BackendId,
    /// Its name.
    pub name: Arc<str>,
    /// Its pool's name.
    pub pool: Arc<str>,
    /// Where its GRE goes.
    pub address: IpAddr,
    /// 0–1000; of a retired one the last that it had.
    pub weight: u16,
    /// Whether it gets new flows.
    pub state: BackendState,
}

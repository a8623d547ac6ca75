//! The state that all handlers share.

use super::error::ApiError;
use crate::status::Status;
use crate::view::View;
use axum::http::StatusCode;
use guideway_api::status::Maintenance;
use guideway_config::Intent;
use guideway_dataplane::counters::PacketCounter;
use guideway_dataplane::tables::Snapshot;
use guideway_store::{ClusterState, Origin, Store};
use std::sync::Arc;
use tokio::sync::{Mutex, mpsc, oneshot};

/// The state that all handlers share.
#[derive(Debug)]
pub struct Api {
    /// Status of the director.
    pub status: Arc<Status>,
    /// The store that changes are committed to.
    pub store: Store,
    /// Where dry runs are sent.
    pub dry_runs: mpsc::Sender<DryRun>,
    /// Where reloads are sent.
    pub reloads: mpsc::Sender<ReloadRequest>,
    /// Held from the reading of the intent to its commit, so that concurrent changes at this director do not conflict.
    pub(super) commit_lock: Mutex<()>,
}

/// A request to control: build the tables of this intent, and change nothing.
#[derive(Debug)]
pub struct DryRun {
    /// The intent.
    pub intent: Intent,
    /// Gets the tables, or every reason why this director cannot have them.
    pub reply: oneshot::Sender<Result<Arc<Snapshot>, Vec<String>>>,
}

/// A request to control to read the file again.
#[derive(Debug)]
pub struct ReloadRequest {
    /// Who wants it.
    pub origin: Origin,
    /// Gets the generation in force then, or every reason why the file was refused.
    pub reply: oneshot::Sender<Result<u64, Vec<String>>>,
}

impl Api {
    /// Creates the state: `status` to show, `store` to change, `dry_runs` and `reloads` for control.
    pub fn new(status: Arc<Status>, store: Store, dry_runs: mpsc::Sender<DryRun>, reloads: mpsc::Sender<ReloadRequest>) -> Api {
        Api { status, store, dry_runs, reloads, commit_lock: Mutex::default() }
    }

    /// Returns whether it is in maintenance. Packets for a server of this host do not count: they come as long as others direct them there.
    pub(super) fn maintenance(&self) -> Maintenance {
        let counters = self.status.counters();
        let forwarded = counters.get(PacketCounter::Transmitted).saturating_sub(counters.get(PacketCounter::ToLocalServer));
        Maintenance { on: self.status.in_maintenance(), forwarded: Some(forwarded), running: None, takeover: false }
    }

    /// Returns the newest cluster state of the store.
    pub(super) fn cluster(&self) -> Arc<ClusterState> {
        self.store.watch().borrow().cluster.clone()
    }

    /// Returns the tables that workers read.
    pub(super) fn view(&self) -> Result<Arc<View>, ApiError> {
        self.status.view().ok_or_else(|| ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "the director is not ready yet"))
    }
}

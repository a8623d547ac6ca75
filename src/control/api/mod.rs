//! The HTTP interface of a running director, version 1: over its Unix socket, and over TCP where `[api]` says so.
//!
//! [`operations`] is the one list of what can be asked: the routes, the checks of every request ([`asked`]) and the OpenAPI document are made from it.

mod answer;
pub mod asked;
mod change;
mod commit;
pub mod openapi;
pub mod operations;
mod patient;
mod plan;
mod read;
mod schemas;
mod serve;
mod stream;
pub mod tcp;

pub use serve::serve;

use super::View;
use super::board::Board;
use answer::Refusal;
use axum::Router;
use axum::http::{Method, StatusCode, Uri};
use guideway_config::Intent;
use guideway_dataplane::tables::Snapshot;
use guideway_store::{Set, Store};
use std::sync::Arc;
use tokio::sync::{Mutex, mpsc, oneshot};

/// What the routes work with.
#[derive(Debug)]
pub struct Api {
    /// What the director shows of itself.
    pub board: Arc<Board>,
    /// Where changes go.
    pub store: Store,
    /// Answers what the tables would be.
    pub trials: mpsc::Sender<Trial>,
    /// Held from the reading of the intent to its commit, so that those who ask here do not overtake one another.
    turn: Mutex<()>,
}

/// "What would the tables be with this intent?"
#[derive(Debug)]
pub struct Trial {
    /// The intent.
    pub intent: Intent,
    /// Gets the tables, or every reason why this director cannot have them. Nothing changes by asking.
    pub answer: oneshot::Sender<Result<Arc<Snapshot>, Vec<String>>>,
}

impl Api {
    /// What shows `board`, changes `store`, and asks `trials`.
    pub fn new(board: Arc<Board>, store: Store, trials: mpsc::Sender<Trial>) -> Api {
        Api { board, store, trials, turn: Mutex::default() }
    }

    /// The newest set of the store.
    fn set(&self) -> Arc<Set> {
        self.store.watch().borrow().set.clone()
    }

    /// What the workers read.
    fn view(&self) -> Result<Arc<View>, Refusal> {
        self.board.view().ok_or_else(|| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the director is not ready yet"))
    }
}

/// All routes.
pub fn router(api: Arc<Api>) -> Router {
    let mut router = Router::new();
    for operation in operations::OPERATIONS {
        router = router.route(operation.path, (operation.route)());
    }
    router.method_not_allowed_fallback(wrong_method).fallback(unknown).with_state(api)
}

async fn wrong_method(method: Method, uri: Uri) -> Refusal {
    let error = format!("{method} is nothing that {} answers; /v1/openapi.json says what it does", answer::text_shown(uri.path()));
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, error)
}

async fn unknown(uri: Uri) -> Refusal {
    let error = format!("there is no resource {}; /v1/openapi.json lists all", answer::text_shown(uri.path()));
    Refusal::new(StatusCode::NOT_FOUND, error)
}

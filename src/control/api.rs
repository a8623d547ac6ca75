//! The HTTP interface of a running director, over its Unix socket. Every route is here.

use super::board::Board;
use crate::config::Intent;
use crate::store::Store;
use crate::tables::Snapshot;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};

/// What the routes work with.
#[derive(Debug)]
pub struct Api {
    /// What the director shows of itself.
    pub board: Arc<Board>,
    /// Where changes go.
    pub store: Store,
    /// Answers what the tables would be.
    pub trials: mpsc::Sender<Trial>,
}

/// "What would the tables be with this intent?"
#[derive(Debug)]
pub struct Trial {
    /// The intent.
    pub intent: Intent,
    /// Gets the tables, or every reason why this director cannot have them. Nothing changes by asking.
    pub answer: oneshot::Sender<Result<Arc<Snapshot>, Vec<String>>>,
}

/// All routes.
pub fn router(api: Arc<Api>) -> Router {
    let v1 = Router::new().route("/status", get(status));
    Router::new().nest("/v1", v1).fallback(unknown).with_state(api)
}

/// Answers on `listener`, until the runtime ends.
pub async fn serve(listener: UnixListener, api: Arc<Api>) -> std::io::Result<()> {
    axum::serve(listener, router(api)).await
}

async fn status(State(api): State<Arc<Api>>) -> Json<Value> {
    Json(api.board.status())
}

async fn unknown() -> (StatusCode, Json<Value>) {
    (StatusCode::NOT_FOUND, Json(json!({"error": "there is no such resource: see /v1/status"})))
}

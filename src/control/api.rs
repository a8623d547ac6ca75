//! The HTTP interface of a running director, over its Unix socket. Every route is here.

use super::board::Board;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::net::UnixListener;

/// All routes.
pub fn router(board: Arc<Board>) -> Router {
    let v1 = Router::new().route("/status", get(status));
    Router::new().nest("/v1", v1).fallback(unknown).with_state(board)
}

/// Answers on `listener`, until the runtime ends.
pub async fn serve(listener: UnixListener, board: Arc<Board>) -> std::io::Result<()> {
    axum::serve(listener, router(board)).await
}

async fn status(State(board): State<Arc<Board>>) -> Json<Value> {
    Json(board.status())
}

async fn unknown() -> (StatusCode, Json<Value>) {
    (StatusCode::NOT_FOUND, Json(json!({"error": "there is no such resource: see /v1/status"})))
}

//! The history of the intent, and the rollback to an intent of it.

use super::change::replace;
use super::commit::commit;
use super::error::{ApiError, quote};
use super::request::ApiRequest;
use super::state::Api;
use axum::Json;
use axum::extract::State as AxumState;
use axum::http::StatusCode;
use axum::response::Response;
use guideway_api::history::{History, IntentChange};
use guideway_store::{HistoryEntry, ReadError};
use std::sync::Arc;

/// Number of changes in an answer to a request without `limit`.
const DEFAULT_LIMIT: usize = 20;

pub(super) async fn history(AxumState(api): AxumState<Arc<Api>>, request: ApiRequest) -> Result<Json<History>, ApiError> {
    let limit = request.parameter("limit").and_then(|limit| limit.parse().ok()).unwrap_or(DEFAULT_LIMIT);
    let entries = api.store.history(limit).await.map_err(unreadable)?;
    Ok(Json(History { changes: entries.into_iter().map(document).collect() }))
}

pub(super) async fn rollback(AxumState(api): AxumState<Arc<Api>>, mut request: ApiRequest) -> Result<Response, ApiError> {
    let refused = |status, why: String| ApiError::new(status, format!("nothing was changed: {why}"));
    let text = request.name("generation");
    let generation: u64 =
        text.parse().map_err(|_| refused(StatusCode::NOT_FOUND, format!("{} is no generation, which is a number", quote(text))))?;
    let now = api.cluster().generation;
    if generation > now {
        return Err(refused(StatusCode::NOT_FOUND, format!("there is no generation {generation} yet; the newest is {now}")));
    }
    let entry = api.store.change_of(generation).await.map_err(unreadable)?;
    let entry = entry
        .ok_or_else(|| refused(StatusCode::NOT_FOUND, format!("the history does not reach generation {generation}; see /v1/history")))?;
    let intent = entry.intent().map_err(|why| refused(StatusCode::CONFLICT, why))?;
    request.body = intent.to_json();
    let reason = request.origin.reason.take().map(|reason| format!(": {reason}")).unwrap_or_default();
    request.origin.reason = Some(format!("rollback to generation {generation}{reason}"));
    commit(api, request, replace).await
}

fn unreadable(ReadError(why): ReadError) -> ApiError {
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, format!("the history cannot be read: {why}"))
}

fn document(entry: HistoryEntry) -> IntentChange {
    let HistoryEntry { generation, base, at, origin, changes, intent } = entry;
    IntentChange {
        generation,
        base,
        at,
        who: origin.who,
        from: origin.from,
        reason: origin.reason,
        what: changes,
        intent_kept: !intent.is_null(),
    }
}

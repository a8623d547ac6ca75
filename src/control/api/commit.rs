//! A change in one transaction: read, edit, validate, dry run on the director, commit, and wait until the workers have it.

use super::error::ApiError;
use super::plan::Change;
use super::request::ApiRequest;
use super::state::{Api, DryRun};
use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use guideway_api::plan::{Effects, IntentGenerations, Plan};
use guideway_api::presence::Presence;
use guideway_config::{Intent, Problem, Severity};
use guideway_dataplane::tables::Snapshot;
use guideway_store::{ClusterState, CommitError, audit_refused};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// Number of attempts for a change without If-Match that other changes overtake.
const MAX_ATTEMPTS: usize = 5;
/// How long an answer waits until the workers have the change.
const APPLY_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a dry run may take.
const DRY_RUN_TIMEOUT: Duration = Duration::from_secs(30);

/// An edit of the intent's document, with the intent before and the request.
type Edit = fn(&Intent, &mut Value, &ApiRequest) -> Result<(), ApiError>;

/// The result of an edit.
struct Edited {
    intent: Intent,
    warnings: Vec<Problem>,
}

/// Makes the change, or returns its plan. The log says what was refused; the store says what was committed or refused by it.
pub(super) async fn commit(api: Arc<Api>, request: ApiRequest, edit: Edit) -> Result<Response, ApiError> {
    let request = Arc::new(request);
    let outcome = try_commit(api, request.clone(), edit).await;
    if let Err(api_error) = &outcome {
        audit_refused(&request.origin, &request.line, &api_error.document.error);
    }
    outcome
}

async fn try_commit(api: Arc<Api>, request: Arc<ApiRequest>, edit: Edit) -> Result<Response, ApiError> {
    let commit_lock = api.commit_lock.lock().await;
    for _ in 0..MAX_ATTEMPTS {
        let cluster = api.cluster();
        check_if_match(&request, &cluster)?;
        let edited = apply_edit(cluster.clone(), request.clone(), edit).await?;
        check_key_known(&api, &cluster.intent, &edited.intent).await?;
        let tables = dry_run_tables(&api, &edited.intent).await?;
        let changed = edited.intent != *cluster.intent;
        let effects = effects(&api, &cluster, &edited, tables).await?;
        let base = cluster.intent_generation;
        if !request.dry_run() && !request.confirmed() && !effects.needs_confirmation.is_empty() {
            let unserved = effects.needs_confirmation.join("; ");
            let error = format!("nothing was changed: {unserved}. If that is meant, repeat it with confirm=true (commands: --yes)");
            return Err(ApiError::new(StatusCode::CONFLICT, error));
        }
        if request.dry_run() || !changed {
            let reason = if request.dry_run() { "this was a dry run" } else { "nothing differs from what is there" };
            let mut plan = plan(&api, &cluster, effects);
            (plan.dry_run, plan.changed) = (request.dry_run(), changed);
            plan.not_applied_because = Some(reason.to_owned());
            return Ok(to_response(StatusCode::OK, base, &plan));
        }
        match api.store.commit(base, edited.intent, &request.origin).await {
            Ok(generation) => {
                drop(commit_lock);
                return Ok(committed_response(&api, generation, plan(&api, &cluster, effects)).await);
            }
            Err(CommitError::Changed { .. }) => {}
            Err(large @ CommitError::TooLarge(_)) => {
                return Err(ApiError::new(StatusCode::CONFLICT, format!("nothing was changed: {large}")));
            }
            Err(unknown @ CommitError::Unknown(_)) => return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, unknown.to_string())),
            Err(unavailable) => return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, format!("nothing was changed: {unavailable}"))),
        }
    }
    Err(ApiError::new(StatusCode::CONFLICT, format!("the intent changed {MAX_ATTEMPTS} times meanwhile; try again")))
}

fn check_if_match(request: &ApiRequest, cluster: &ClusterState) -> Result<(), ApiError> {
    let now = cluster.intent_generation;
    match &request.if_match {
        Some(allowed) if !allowed.contains(&now) => {
            let error = format!("the intent has changed: its generation is {now}; read it again and repeat the change");
            let mut api_error = ApiError::new(StatusCode::PRECONDITION_FAILED, error);
            api_error.document.intent_generation = Some(now);
            Err(api_error)
        }
        _ => Ok(()),
    }
}

/// Refuses a new key until every running director knows it: one that does not would continue with the old key.
async fn check_key_known(api: &Api, before: &Intent, after: &Intent) -> Result<(), ApiError> {
    let Some(id) = after.active_key.filter(|_| after.active_key != before.active_key) else { return Ok(()) };
    let directors = api.store.directors().await;
    let directors = directors.map_err(|why| ApiError::new(StatusCode::SERVICE_UNAVAILABLE, format!("nothing was changed: {why}")))?;
    let wanted = id.to_string();
    let knows = |record: Value| {
        let presence: Presence = serde_json::from_value(record).unwrap_or_default();
        presence.tables.is_some_and(|tables| tables.keys.contains(&wanted))
    };
    let without: Vec<String> = directors.into_iter().filter_map(|(name, record)| (!knows(record)).then_some(name)).collect();
    if without.is_empty() {
        return Ok(());
    }
    let reason = format!("active_key: {} does not know the key {id}; let it know it as `next_key`, and reload it", without.join(", "));
    Err(ApiError::reasons(StatusCode::CONFLICT, &[reason]))
}

/// Edits and validates outside of control's thread, because a large intent takes long.
async fn apply_edit(cluster: Arc<ClusterState>, request: Arc<ApiRequest>, edit: Edit) -> Result<Edited, ApiError> {
    blocking(move || {
        let mut document = cluster.intent.to_json();
        edit(&cluster.intent, &mut document, &request)?;
        let checked = Intent::from_json(&document);
        match checked.config {
            Some(intent) => {
                let warnings = checked.problems.into_iter().filter(|problem| problem.severity == Severity::Warning).collect();
                Ok(Edited { intent, warnings })
            }
            None => Err(ApiError::problems(checked.errors())),
        }
    })
    .await?
}

/// Returns the tables that this director would have.
async fn dry_run_tables(api: &Api, intent: &Intent) -> Result<Arc<Snapshot>, ApiError> {
    let gone = || ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "the director is ending; nothing was changed");
    let (reply, answered) = oneshot::channel();
    api.dry_runs.send(DryRun { intent: intent.clone(), reply }).await.map_err(|_| gone())?;
    let late = |_| ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "the director is busy; nothing was changed");
    let tables = tokio::time::timeout(DRY_RUN_TIMEOUT, answered).await.map_err(late)?.map_err(|_| gone())?;
    tables.map_err(|reasons| ApiError::reasons(StatusCode::CONFLICT, &reasons))
}

async fn effects(api: &Api, cluster: &Arc<ClusterState>, edited: &Edited, tables: Arc<Snapshot>) -> Result<Effects, ApiError> {
    let (cluster, view) = (cluster.clone(), api.view()?);
    let (after, warnings) = (edited.intent.clone(), edited.warnings.clone());
    blocking(move || Change { before: &cluster.intent, after: &after, view: &view, tables: &tables, warnings: &warnings }.effects()).await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
    let broken = |_| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "the change could not be looked at; the log says why");
    tokio::task::spawn_blocking(work).await.map_err(broken)
}

/// Waits after the commit until the workers have it, or until the timeout.
async fn committed_response(api: &Api, generation: u64, mut plan: Plan) -> Response {
    let mut changes = api.status.changes();
    let applied = async {
        let refused = |store_status: crate::StoreStatus| store_status.generation >= generation && store_status.refused.is_some();
        while api.status.generation() < generation && !refused(api.status.store_status()) {
            if changes.changed().await.is_err() {
                return;
            }
        }
    };
    let _late = tokio::time::timeout(APPLY_TIMEOUT, applied).await;
    let applied = api.status.generation() >= generation;
    let store_status = api.status.store_status();
    plan.intent_generation.after = Some(generation);
    plan.applied = applied;
    plan.not_applied_because = match store_status.refused {
        _ if applied => None,
        Some(why) if store_status.generation >= generation => Some(format!("this director refuses what the store now has: {why}")),
        _ => Some(format!("the store has it, but this director's workers did not within {} s; see /v1/events", APPLY_TIMEOUT.as_secs())),
    };
    to_response(if applied { StatusCode::OK } else { StatusCode::ACCEPTED }, generation, &plan)
}

/// Returns the plan of a change that is not committed yet.
fn plan(api: &Api, cluster: &ClusterState, effects: Effects) -> Plan {
    let survives_restart = api.store.is_durable();
    let restart = if survives_restart {
        format!("the {} store keeps it", api.store.kind())
    } else {
        "this director has no store but its memory: a restart or a SIGHUP brings back what its file says; put the change there too"
            .to_owned()
    };
    Plan {
        dry_run: false,
        changed: true,
        intent_generation: IntentGenerations { before: cluster.intent_generation, after: None },
        applied: false,
        not_applied_because: None,
        survives_restart,
        restart,
        effects,
    }
}

fn to_response(status: StatusCode, generation: u64, plan: &Plan) -> Response {
    (status, [(header::ETAG, format!("\"{generation}\""))], Json(plan)).into_response()
}

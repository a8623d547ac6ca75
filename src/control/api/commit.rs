//! How a change is made, in one transaction: read, edit, check, try on the director, commit, and wait until the workers have it.

use super::answer::Refusal;
use super::asked::Asked;
use super::plan::Plan;
use super::{Api, Trial};
use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use guideway_config::{Intent, Problem, Severity};
use guideway_dataplane::tables::Snapshot;
use guideway_store::{CommitError, Set};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// A change that was overtaken by another is made again on top of it so often, unless it was said what it is based on.
const TRIES: usize = 5;
/// How long an answer waits for the workers to have the change.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long the director may take to say what its tables would be.
const TRIAL: Duration = Duration::from_secs(30);

/// A change of the intent's document. It is told what stands there, and what was asked for.
type Edit = fn(&Intent, &mut Value, &Asked) -> Result<(), Refusal>;

/// What an edit comes to.
struct Edited {
    intent: Intent,
    warnings: Vec<Problem>,
}

/// Makes the change, or says what it would do.
pub(super) async fn commit(api: Arc<Api>, asked: Asked, edit: Edit) -> Result<Response, Refusal> {
    let asked = Arc::new(asked);
    let turn = api.turn.lock().await;
    for _ in 0..TRIES {
        let set = api.set();
        based_on(&asked, &set)?;
        let edited = edited(set.clone(), asked.clone(), edit).await?;
        known_everywhere(&api, &set.intent, &edited.intent).await?;
        let tables = trial(&api, &edited.intent).await?;
        let changed = edited.intent != *set.intent;
        let plan = said(&api, &set, &edited, tables).await?;
        let base = set.intent_generation;
        if asked.dry_run() || !changed {
            let mut answer = answer(&api, asked.dry_run(), changed, &set, None);
            answer.extend(plan);
            return Ok(respond(StatusCode::OK, base, answer));
        }
        match api.store.commit(base, edited.intent).await {
            Ok(generation) => {
                drop(turn);
                return Ok(done(&api, &set, generation, plan).await);
            }
            Err(CommitError::Changed { .. }) => {}
            Err(large @ CommitError::TooLarge(_)) => {
                return Err(Refusal::new(StatusCode::CONFLICT, format!("nothing was changed: {large}")));
            }
            Err(unknown @ CommitError::Unknown(_)) => return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, unknown.to_string())),
            Err(away) => return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, format!("nothing was changed: {away}"))),
        }
    }
    Err(Refusal::new(StatusCode::CONFLICT, format!("the intent changed {TRIES} times meanwhile; try again")))
}

fn based_on(asked: &Asked, set: &Set) -> Result<(), Refusal> {
    let now = set.intent_generation;
    match &asked.if_match {
        Some(allowed) if !allowed.contains(&now) => {
            let error = format!("the intent has changed: its generation is {now}; read it again and repeat the change");
            let mut refusal = Refusal::new(StatusCode::PRECONDITION_FAILED, error);
            refusal.more.insert("intent_generation".to_owned(), json!(now));
            Err(refusal)
        }
        _ => Ok(()),
    }
}

/// A new key is used when every director that is there knows it, and not before: one that does not would go on with the old one.
async fn known_everywhere(api: &Api, before: &Intent, after: &Intent) -> Result<(), Refusal> {
    let Some(id) = after.active_key.filter(|_| after.active_key != before.active_key) else { return Ok(()) };
    let directors = api.store.directors().await;
    let directors = directors.map_err(|why| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, format!("nothing was changed: {why}")))?;
    let knows = |word: &Value| word["keys"].as_array().is_some_and(|keys| keys.iter().any(|key| *key == *id.to_string()));
    let without: Vec<String> = directors.into_iter().filter(|(_, word)| !knows(word)).map(|(name, _)| name).collect();
    if without.is_empty() {
        return Ok(());
    }
    let reason = format!("active_key: {} does not know the key {id}; let it know it as `next_key`, and reload it", without.join(", "));
    Err(Refusal::reasons(StatusCode::CONFLICT, &[reason]))
}

/// Edits and checks away from control's thread: a large intent takes a while.
async fn edited(set: Arc<Set>, asked: Arc<Asked>, edit: Edit) -> Result<Edited, Refusal> {
    blocking(move || {
        let mut document = set.intent.to_json();
        edit(&set.intent, &mut document, &asked)?;
        let checked = Intent::from_json(&document);
        match checked.config {
            Some(intent) => {
                let warnings = checked.problems.into_iter().filter(|problem| problem.severity == Severity::Warning).collect();
                Ok(Edited { intent, warnings })
            }
            None => Err(Refusal::problems(checked.errors())),
        }
    })
    .await?
}

/// What this director's tables would be.
async fn trial(api: &Api, intent: &Intent) -> Result<Arc<Snapshot>, Refusal> {
    let gone = || Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the director is ending; nothing was changed");
    let (answer, answered) = oneshot::channel();
    api.trials.send(Trial { intent: intent.clone(), answer }).await.map_err(|_| gone())?;
    let late = |_| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the director is busy; nothing was changed");
    let tables = tokio::time::timeout(TRIAL, answered).await.map_err(late)?.map_err(|_| gone())?;
    tables.map_err(|reasons| Refusal::reasons(StatusCode::CONFLICT, &reasons))
}

async fn said(api: &Api, set: &Arc<Set>, edited: &Edited, tables: Arc<Snapshot>) -> Result<Map<String, Value>, Refusal> {
    let (set, view) = (set.clone(), api.view()?);
    let (after, warnings) = (edited.intent.clone(), edited.warnings.clone());
    blocking(move || Plan { before: &set.intent, after: &after, view: &view, tables: &tables, warnings: &warnings }.to_json()).await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
    let broken = |_| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the change could not be looked at; the log says why");
    tokio::task::spawn_blocking(work).await.map_err(broken)
}

/// After the commit: until the workers have it, or for a while.
async fn done(api: &Api, set: &Set, generation: u64, plan: Map<String, Value>) -> Response {
    let mut changes = api.board.changes();
    let seen = async {
        let refused = |stored: crate::Stored| stored.generation >= generation && stored.refused.is_some();
        while api.board.generation() < generation && !refused(api.board.stored()) {
            if changes.changed().await.is_err() {
                return;
            }
        }
    };
    let _late = tokio::time::timeout(PATIENCE, seen).await;
    let applied = api.board.generation() >= generation;
    let stored = api.board.stored();
    let why = match stored.refused {
        _ if applied => None,
        Some(why) if stored.generation >= generation => Some(format!("this director refuses what the store now has: {why}")),
        _ => Some(format!("the store has it, but this director's workers did not within {} s; see /v1/events", PATIENCE.as_secs())),
    };
    let mut answer = answer(api, false, true, set, Some(generation));
    answer.insert("applied".to_owned(), json!(applied));
    answer.insert("not_applied_because".to_owned(), json!(why));
    answer.extend(plan);
    respond(if applied { StatusCode::OK } else { StatusCode::ACCEPTED }, generation, answer)
}

fn answer(api: &Api, dry_run: bool, changed: bool, set: &Set, generation: Option<u64>) -> Map<String, Value> {
    let durable = api.store.durable();
    let restart = if durable {
        format!("the {} store keeps it", api.store.kind())
    } else {
        "this director has no store but its memory: a restart or a SIGHUP brings back what its file says; put the change there too"
            .to_owned()
    };
    let document = json!({
        "dry_run": dry_run,
        "changed": changed,
        "intent_generation": {"before": set.intent_generation, "after": generation},
        "applied": false,
        "not_applied_because": if dry_run { Some("this was a dry run") } else if changed { None } else { Some("nothing differs from what is there") },
        "survives_restart": durable,
        "restart": restart,
    });
    match document {
        Value::Object(document) => document,
        _ => Map::new(),
    }
}

fn respond(status: StatusCode, generation: u64, answer: Map<String, Value>) -> Response {
    (status, [(header::ETAG, format!("\"{generation}\""))], Json(Value::Object(answer))).into_response()
}

//! What a request is answered with when it cannot be carried out: always a reason, and what is wrong with each part of it.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use guideway_config::{Problem, text};
use serde_json::{Map, Value, json};
use std::ops::{Deref, DerefMut};

/// Why a request is refused. Nothing has changed then. In a box, because results carry it about.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal(Box<Said>);

/// What a refusal says.
#[derive(Clone, Debug, PartialEq)]
pub struct Said {
    /// The HTTP status code.
    pub status: StatusCode,
    /// Why, in a sentence.
    pub error: String,
    /// Each thing that is wrong: a key with its value, or a reason why the director cannot do it.
    pub problems: Vec<Value>,
    /// What else is said, by key.
    pub more: Map<String, Value>,
}

impl Deref for Refusal {
    type Target = Said;

    fn deref(&self) -> &Said {
        &self.0
    }
}

impl DerefMut for Refusal {
    fn deref_mut(&mut self) -> &mut Said {
        &mut self.0
    }
}

impl Refusal {
    /// With nothing but a reason.
    pub fn new(status: StatusCode, error: impl Into<String>) -> Refusal {
        Refusal(Box::new(Said { status, error: error.into(), problems: Vec::new(), more: Map::new() }))
    }

    /// The request cannot be understood.
    pub fn bad(error: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::BAD_REQUEST, error)
    }

    /// There is no `what` called `name`, but `known`.
    pub fn unknown<'k>(what: &str, name: &str, known: impl IntoIterator<Item = &'k str> + Clone) -> Refusal {
        let near = text::closest(name, known.clone());
        let hint = near.map(|near| format!("; did you mean \"{near}\"?")).unwrap_or_default();
        let mut refusal = Refusal::new(StatusCode::NOT_FOUND, format!("there is no {what} {}{hint}", text_shown(name)));
        refusal.more.insert("did_you_mean".to_owned(), json!(near));
        refusal
    }

    /// The request is understood, and what it wants is no good intent.
    pub fn problems<'p>(problems: impl IntoIterator<Item = &'p Problem>) -> Refusal {
        let mut refusal = Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, String::new());
        for problem in problems {
            if refusal.error.is_empty() {
                refusal.error = problem.to_string();
            }
            refusal.problems.push(problem_json(problem));
        }
        refusal
    }

    /// This director cannot do what is wanted.
    pub fn reasons(status: StatusCode, reasons: &[String]) -> Refusal {
        let mut refusal = Refusal::new(status, reasons.first().cloned().unwrap_or_default());
        refusal.problems = reasons.iter().map(|reason| json!({"message": reason})).collect();
        refusal
    }
}

/// A problem as it stands in an answer: key, value, and what is allowed.
pub fn problem_json(problem: &Problem) -> Value {
    json!({"key": problem.place, "value": problem.value, "message": problem.message})
}

/// A name that somebody sent, as it may be shown.
pub fn text_shown(text: &str) -> String {
    guideway_config::reader::quoted(text)
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Said { status, error, problems, more } = *self.0;
        let mut document = json!({"error": error, "problems": problems});
        if let Some(document) = document.as_object_mut() {
            document.extend(more);
        }
        (status, Json(document)).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_name_is_shown_safely_and_the_nearest_is_offered() {
        let refusal = Refusal::unknown("pool", "boto", ["boot", "names"]);
        assert_eq!((refusal.status, refusal.error.as_str()), (StatusCode::NOT_FOUND, "there is no pool \"boto\"; did you mean \"boot\"?"));
        assert_eq!(refusal.more["did_you_mean"], "boot");
        let refusal = Refusal::unknown("pool", "\u{1b}[2J", ["boot"]);
        assert!(refusal.error.contains("\\u{1b}") && refusal.more["did_you_mean"].is_null(), "{refusal:?}");
    }
}

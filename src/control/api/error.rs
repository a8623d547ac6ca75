//! Refusals of requests: always a reason, and each thing that is wrong.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use guideway_api::error::{Error, Problem};
use guideway_config::text;

/// A refused request. Nothing has changed then.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiError {
    /// The HTTP status code.
    pub status: StatusCode,
    /// The answer. In a box, because results carry it about.
    pub document: Box<Error>,
}

impl ApiError {
    /// Creates a refusal with only a reason.
    pub fn new(status: StatusCode, error: impl Into<String>) -> ApiError {
        ApiError { status, document: Box::new(Error { error: error.into(), ..Error::default() }) }
    }

    /// Refuses a request that cannot be understood.
    pub fn bad(error: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, error)
    }

    /// Refuses an unknown name: there is no `what` called `name`, but `known`.
    pub fn unknown<'k>(what: &str, name: &str, known: impl IntoIterator<Item = &'k str> + Clone) -> ApiError {
        let near = text::closest(name, known);
        let hint = near.map(|near| format!("; did you mean \"{near}\"?")).unwrap_or_default();
        let mut api_error = ApiError::new(StatusCode::NOT_FOUND, format!("there is no {what} {}{hint}", quote(name)));
        api_error.document.did_you_mean = near.map(str::to_owned);
        api_error
    }

    /// Refuses an intent with errors.
    pub fn problems<'p>(problems: impl IntoIterator<Item = &'p guideway_config::Problem>) -> ApiError {
        let mut api_error = ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, String::new());
        for each in problems {
            if api_error.document.problems.is_empty() {
                api_error.document.error = each.to_string();
            }
            api_error.document.problems.push(problem(each));
        }
        api_error
    }

    /// Refuses a change that this director cannot apply.
    pub fn reasons(status: StatusCode, reasons: &[String]) -> ApiError {
        let mut api_error = ApiError::new(status, reasons.first().cloned().unwrap_or_default());
        let problem = |reason: &String| Problem { message: reason.clone(), ..Problem::default() };
        api_error.document.problems = reasons.iter().map(problem).collect();
        api_error
    }
}

/// Returns a problem as answers show it: key, value, and what is allowed.
pub fn problem(problem: &guideway_config::Problem) -> Problem {
    Problem { key: Some(problem.path.clone()), value: problem.value.clone(), message: problem.message.clone() }
}

/// Returns a received name without characters that move a terminal's cursor.
pub fn quote(text: &str) -> String {
    guideway_config::reader::quoted(text)
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, Json(self.document)).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_name_is_shown_safely_and_the_nearest_is_offered() {
        let api_error = ApiError::unknown("pool", "boto", ["boot", "names"]);
        assert_eq!(
            (api_error.status, api_error.document.error.as_str()),
            (StatusCode::NOT_FOUND, "there is no pool \"boto\"; did you mean \"boot\"?")
        );
        assert_eq!(api_error.document.did_you_mean.as_deref(), Some("boot"));
        let api_error = ApiError::unknown("pool", "\u{1b}[2J", ["boot"]);
        assert!(api_error.document.error.contains("\\u{1b}") && api_error.document.did_you_mean.is_none(), "{api_error:?}");
    }
}

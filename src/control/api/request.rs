//! A request, checked against its operation before the handler gets it.

use super::credentials::Role;
use super::error::{ApiError, quote};
use super::operation::Operation;
use axum::extract::{FromRequest, FromRequestParts, RawPathParams, Request};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use guideway_config::text;
use guideway_store::{Origin, audit_refused};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::Value;
use std::time::Duration;

/// Longest body of a request, in bytes: an intent of 65,000 backends has about 6 MB.
pub const MAX_BODY: usize = 8 << 20;
/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Who asks over a connection, as an extension of its requests.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) origin: Origin,
    pub(super) role: Role,
}

/// A checked request.
#[derive(Debug)]
pub struct ApiRequest {
    path: Vec<(String, String)>,
    query: Vec<(String, String)>,
    /// Generations of the intent that the request is based on; `None` allows any.
    pub if_match: Option<Vec<u64>>,
    /// `Last-Event-ID`
    pub last_event: Option<u64>,
    /// Who asks, from where, and why.
    pub origin: Origin,
    /// Method and path.
    pub line: String,
    /// The body; null where the operation takes none.
    pub body: Value,
}

impl ApiRequest {
    /// Returns a parameter of the path.
    pub fn name(&self, parameter: &str) -> &str {
        self.path.iter().find(|(name, _)| name == parameter).map_or("", |(_, value)| value)
    }

    /// Returns a parameter of the query.
    pub fn parameter(&self, parameter: &str) -> Option<&str> {
        self.query.iter().find(|(name, _)| name == parameter).map(|(_, value)| value.as_str())
    }

    /// Returns whether the request has `dry_run=true`.
    pub fn dry_run(&self) -> bool {
        self.parameter("dry_run") == Some("true")
    }

    /// Returns whether the request has `confirm=true`.
    pub fn confirmed(&self) -> bool {
        self.parameter("confirm") == Some("true")
    }

    async fn read(request: Request) -> Result<ApiRequest, ApiError> {
        let (mut parts, body) = request.into_parts();
        let operation = parts.extensions.get::<&'static Operation>().copied();
        let operation = operation.ok_or_else(|| ApiError::bad("there is no such operation"))?;
        let query = query(&parts.uri, operation)?;
        let caller = parts.extensions.get::<Caller>().cloned();
        let Caller { mut origin, role } = caller.unwrap_or(Caller { origin: Origin::default(), role: Role::ReadOnly });
        origin.reason = query.iter().find(|(name, _)| name == "reason").map(|(_, reason)| reason.clone());
        let line = format!("{} {}", parts.method, quote(parts.uri.path()));
        if operation.method != "GET" && role != Role::Operator {
            let error =
                format!("{} is read-only: {} {} takes the token of an operator", quote(&origin.who), operation.method, operation.path);
            audit_refused(&origin, &line, &error);
            return Err(ApiError::new(StatusCode::FORBIDDEN, error));
        }
        let if_match = if_match(&parts.headers)?;
        let last_event = last_event(&parts.headers)?;
        let path = RawPathParams::from_request_parts(&mut parts, &()).await;
        let path = path.map_err(|why| ApiError::bad(format!("the path cannot be read: {}", why.body_text())))?;
        let path = path.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let bytes = tokio::time::timeout(BODY_TIMEOUT, read_body(&parts.headers, body)).await;
        let bytes = bytes.map_err(|_| {
            ApiError::new(StatusCode::REQUEST_TIMEOUT, format!("the body did not arrive within {} s", BODY_TIMEOUT.as_secs()))
        })??;
        let body = parse_body(operation, &parts.headers, &bytes)?;
        Ok(ApiRequest { path, query, if_match, last_event, origin, line, body })
    }
}

impl<S: Send + Sync> FromRequest<S> for ApiRequest {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<ApiRequest, ApiError> {
        ApiRequest::read(request).await
    }
}

async fn read_body(headers: &HeaderMap, body: axum::body::Body) -> Result<Vec<u8>, ApiError> {
    let too_large = || {
        let limit = MAX_BODY >> 20;
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body has more than {limit} MiB; send an intent in parts, pool by pool"))
    };
    let content_length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if content_length.is_some_and(|content_length| content_length > MAX_BODY as u64) {
        return Err(too_large());
    }
    match Limited::new(body, MAX_BODY).collect().await {
        Ok(body) => Ok(body.to_bytes().to_vec()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(error) => Err(ApiError::bad(format!("the body broke off: {error}"))),
    }
}

fn parse_body(operation: &Operation, headers: &HeaderMap, bytes: &[u8]) -> Result<Value, ApiError> {
    let Some(expected) = operation.body else {
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(Value::Null);
        }
        return Err(ApiError::bad(format!("{} {} takes no body; send none", operation.method, operation.path)));
    };
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        let problem = if kind.is_empty() { "is missing".to_owned() } else { format!("is {}", quote(kind)) };
        let error = format!("Content-Type {problem}; application/json is expected");
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, error));
    }
    let body: Value = serde_json::from_slice(bytes).map_err(|why| ApiError::bad(format!("the body is no JSON: {why}")))?;
    if !body.is_object() {
        let name = (expected.name)();
        return Err(ApiError::bad(format!("the body is no JSON object; a {name} is expected: see /v1/openapi.json")));
    }
    Ok(body)
}

fn query(uri: &Uri, operation: &Operation) -> Result<Vec<(String, String)>, ApiError> {
    let query = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(uri);
    let axum::extract::Query(query) = query.map_err(|why| ApiError::bad(format!("the query cannot be read: {}", why.body_text())))?;
    for (at, (name, value)) in query.iter().enumerate() {
        let known = || operation.query.iter().map(|parameter| parameter.name);
        let Some(parameter) = operation.query.iter().find(|parameter| parameter.name == name) else {
            let (hint, name) = (text::did_you_mean(name, known()), quote(name));
            let known = text::alternatives(known());
            let known = if known.is_empty() { "it takes none".to_owned() } else { format!("known: {known}") };
            return Err(ApiError::bad(format!("there is no parameter {name}{hint}; {known}")));
        };
        if query.iter().take(at).any(|(before, _)| before == name) {
            return Err(ApiError::bad(format!("the parameter {name} is given twice")));
        }
        (parameter.check)(value).map_err(|why| ApiError::bad(format!("{name} = {}: {why}", quote(value))))?;
    }
    let missing = operation.query.iter().find(|parameter| parameter.required && !query.iter().any(|(name, _)| name == parameter.name));
    match missing {
        Some(parameter) => Err(ApiError::bad(format!("the parameter {} is missing: {}", parameter.name, parameter.description))),
        None => Ok(query),
    }
}

fn if_match(headers: &HeaderMap) -> Result<Option<Vec<u64>>, ApiError> {
    let wrong = || ApiError::bad("If-Match is not the ETag of an intent, which is a number in quotes such as \"7\"");
    let mut generations = None;
    for value in headers.get_all(header::IF_MATCH) {
        let value = value.to_str().map_err(|_| wrong())?.trim();
        if value == "*" {
            continue;
        }
        for tag in value.split(',') {
            let number = tag.trim().strip_prefix('"').and_then(|tag| tag.strip_suffix('"')).ok_or_else(wrong)?;
            let number = number.parse().map_err(|_| wrong())?;
            generations.get_or_insert_with(Vec::new).push(number);
        }
    }
    Ok(generations)
}

fn last_event(headers: &HeaderMap) -> Result<Option<u64>, ApiError> {
    let Some(value) = headers.get("last-event-id") else { return Ok(None) };
    let id = value.to_str().ok().and_then(|value| value.trim().parse().ok());
    id.map(Some).ok_or_else(|| ApiError::bad("Last-Event-ID is no id of an event, which is a number"))
}

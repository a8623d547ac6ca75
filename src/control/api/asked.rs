//! A request, read and checked against what its operation says of itself, before any handler sees it.

use super::answer::{Refusal, text_shown};
use super::operations::{self, Operation};
use axum::extract::{FromRequest, FromRequestParts, MatchedPath, RawPathParams, Request};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use guideway_config::text;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::Value;
use std::time::Duration;

/// Longest body of a request, in bytes: an intent of 65,000 backends has about 6 MB.
pub const LONGEST_BODY: usize = 8 << 20;
/// How long a body may take to arrive.
const PATIENCE: Duration = Duration::from_secs(10);

/// A request that is what its operation expects.
#[derive(Debug)]
pub struct Asked {
    path: Vec<(String, String)>,
    query: Vec<(String, String)>,
    /// What the request is based on: the intent's generation must be one of these. `None`: any will do.
    pub if_match: Option<Vec<u64>>,
    /// `Last-Event-ID`
    pub last_event: Option<u64>,
    /// The body; an operation that has one always gets one.
    pub body: Value,
}

impl Asked {
    /// A parameter of the path.
    pub fn name(&self, parameter: &str) -> &str {
        self.path.iter().find(|(name, _)| name == parameter).map_or("", |(_, value)| value)
    }

    /// A parameter of the query.
    pub fn parameter(&self, parameter: &str) -> Option<&str> {
        self.query.iter().find(|(name, _)| name == parameter).map(|(_, value)| value.as_str())
    }

    /// Whether `dry_run=true` was asked for.
    pub fn dry_run(&self) -> bool {
        self.parameter("dry_run") == Some("true")
    }

    async fn read(request: Request) -> Result<Asked, Refusal> {
        let (mut parts, body) = request.into_parts();
        let matched = parts.extensions.get::<MatchedPath>().map(|path| path.as_str().to_owned()).unwrap_or_default();
        let method = if parts.method == Method::HEAD { Method::GET } else { parts.method.clone() };
        let operation = operations::find(&method, &matched).ok_or_else(|| Refusal::bad("there is no such operation"))?;
        let query = query(&parts.uri, operation)?;
        let if_match = if_match(&parts.headers)?;
        let last_event = last_event(&parts.headers)?;
        let path = RawPathParams::from_request_parts(&mut parts, &()).await;
        let path = path.map_err(|why| Refusal::bad(format!("the path cannot be read: {}", why.body_text())))?;
        let path = path.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let bytes = tokio::time::timeout(PATIENCE, whole(&parts.headers, body)).await;
        let bytes = bytes
            .map_err(|_| Refusal::new(StatusCode::REQUEST_TIMEOUT, format!("the body did not arrive within {} s", PATIENCE.as_secs())))??;
        let body = body_of(operation, &parts.headers, &bytes)?;
        Ok(Asked { path, query, if_match, last_event, body })
    }
}

impl<S: Send + Sync> FromRequest<S> for Asked {
    type Rejection = Refusal;

    async fn from_request(request: Request, _: &S) -> Result<Asked, Refusal> {
        Asked::read(request).await
    }
}

async fn whole(headers: &HeaderMap, body: axum::body::Body) -> Result<Vec<u8>, Refusal> {
    let too_large = || {
        let limit = LONGEST_BODY >> 20;
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body has more than {limit} MiB; send an intent in parts, pool by pool"))
    };
    let told = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if told.is_some_and(|told| told > LONGEST_BODY as u64) {
        return Err(too_large());
    }
    match Limited::new(body, LONGEST_BODY).collect().await {
        Ok(body) => Ok(body.to_bytes().to_vec()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(error) => Err(Refusal::bad(format!("the body broke off: {error}"))),
    }
}

fn body_of(operation: &Operation, headers: &HeaderMap, bytes: &[u8]) -> Result<Value, Refusal> {
    let Some(schema) = operation.body else {
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(Value::Null);
        }
        return Err(Refusal::bad(format!("{} {} takes no body; send none", operation.method, operation.path)));
    };
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        let said = if kind.is_empty() { "is missing".to_owned() } else { format!("is {}", text_shown(kind)) };
        let error = format!("Content-Type {said}; application/json is expected");
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, error));
    }
    let body: Value = serde_json::from_slice(bytes).map_err(|why| Refusal::bad(format!("the body is no JSON: {why}")))?;
    if !body.is_object() {
        return Err(Refusal::bad(format!("the body is no JSON object; a {schema} is expected: see /v1/openapi.json")));
    }
    Ok(body)
}

fn query(uri: &Uri, operation: &Operation) -> Result<Vec<(String, String)>, Refusal> {
    let query = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(uri);
    let axum::extract::Query(query) = query.map_err(|why| Refusal::bad(format!("the query cannot be read: {}", why.body_text())))?;
    for (at, (name, value)) in query.iter().enumerate() {
        let known = || operation.query.iter().map(|parameter| parameter.name);
        let Some(parameter) = operation.query.iter().find(|parameter| parameter.name == name) else {
            let (hint, name) = (text::did_you_mean(name, known()), text_shown(name));
            let known = text::alternatives(known());
            let known = if known.is_empty() { "it takes none".to_owned() } else { format!("known: {known}") };
            return Err(Refusal::bad(format!("there is no parameter {name}{hint}; {known}")));
        };
        if query.iter().take(at).any(|(before, _)| before == name) {
            return Err(Refusal::bad(format!("the parameter {name} is given twice")));
        }
        (parameter.check)(value).map_err(|why| Refusal::bad(format!("{name} = {}: {why}", text_shown(value))))?;
    }
    let missing = operation.query.iter().find(|parameter| parameter.required && !query.iter().any(|(name, _)| name == parameter.name));
    match missing {
        Some(parameter) => Err(Refusal::bad(format!("the parameter {} is missing: {}", parameter.name, parameter.about))),
        None => Ok(query),
    }
}

fn if_match(headers: &HeaderMap) -> Result<Option<Vec<u64>>, Refusal> {
    let wrong = || Refusal::bad("If-Match is not the ETag of an intent, which is a number in quotes such as \"7\"");
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

fn last_event(headers: &HeaderMap) -> Result<Option<u64>, Refusal> {
    let Some(value) = headers.get("last-event-id") else { return Ok(None) };
    let id = value.to_str().ok().and_then(|value| value.trim().parse().ok());
    id.map(Some).ok_or_else(|| Refusal::bad("Last-Event-ID is no id of an event, which is a number"))
}

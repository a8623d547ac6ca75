//! Asks the origin for a file, a part of it, or whether it has changed, and judges the answer.

use super::meta::Meta;
use crate::handlers::client::{AskError, Client, get};
use crate::handlers::name::url_path;
use hyper::body::Incoming;
use hyper::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_RANGE, HeaderMap, HeaderName, HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH,
};
use hyper::header::{CONTENT_LENGTH, IF_RANGE, RANGE, TRANSFER_ENCODING};
use hyper::{StatusCode, Uri};
use std::ops::Range;

/// Where files come from.
pub(super) struct Origin {
    prefix: Uri,
    pub(super) client: Client,
}

/// What is asked.
pub(super) enum Question<'a> {
    /// The file.
    Whole,
    /// The file, unless it is still this version.
    Changed(&'a Meta),
    /// These bytes of this version; the file, if there is another now.
    Part(&'a Meta, Range<u64>),
}

/// What is answered.
pub(super) enum Answer {
    /// A version, from its start.
    Whole(Meta, Incoming),
    /// The bytes that were asked for; so many others come before them.
    Part(Incoming, u64),
    /// It is still the version that was named.
    Unchanged,
    /// There is no such file.
    Missing,
    /// It is not for us.
    Forbidden,
}

/// Why there is no answer that can be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum OriginError {
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error("the origin answers {0}")]
    Status(StatusCode),
    #[error("the origin answers {0}, and redirections are not followed")]
    Redirected(StatusCode),
    #[error("the origin sends the file encoded ({0}), which was not asked for")]
    Encoded(String),
    #[error("the origin neither says the size nor marks the end, so that a cut connection would look like the whole file")]
    Endless,
    #[error("the origin answers a request for a part with another part")]
    WrongPart,
}

impl Origin {
    pub(super) fn new(prefix: Uri, client: Client) -> Origin {
        Origin { prefix, client }
    }

    /// The URL of a file of a [normal](super::super::name::normal) name.
    pub(super) fn url(&self, name: &[u8]) -> String {
        format!("{}{}", self.prefix, url_path(name))
    }

    pub(super) async fn ask(&self, url: &str, question: Question<'_>) -> Result<Answer, OriginError> {
        let mut request = get(url)?;
        let headers = request.headers_mut();
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let mut put = |name: HeaderName, value: &str| drop(HeaderValue::from_str(value).map(|value| headers.insert(name, value)));
        match &question {
            Question::Whole => {}
            Question::Changed(meta) => match (&meta.etag, &meta.last_modified) {
                (Some(etag), _) => put(IF_NONE_MATCH, etag),
                (None, Some(date)) => put(IF_MODIFIED_SINCE, date),
                (None, None) => {}
            },
            Question::Part(meta, part) => {
                put(RANGE, &format!("bytes={}-{}", part.start, part.end.saturating_sub(1)));
                if let Some(validator) = meta.validator() {
                    put(IF_RANGE, validator);
                }
            }
        }
        let answer = self.client.ask(request).await?;
        let (head, body) = answer.into_parts();
        if let Some(encoding) = head.headers.get(CONTENT_ENCODING).filter(|value| value.as_bytes() != b"identity") {
            return Err(OriginError::Encoded(String::from_utf8_lossy(encoding.as_bytes()).into_owned()));
        }
        match (head.status, question) {
            (StatusCode::OK, question) => {
                if !head.headers.contains_key(CONTENT_LENGTH) && !head.headers.contains_key(TRANSFER_ENCODING) {
                    return Err(OriginError::Endless);
                }
                let meta = Meta::of(&head.headers);
                Ok(match question {
                    Question::Changed(known) if known.same_bytes(&meta) => Answer::Unchanged,
                    Question::Part(known, part) if known.same_bytes(&meta) => Answer::Part(body, part.start),
                    _ => Answer::Whole(meta, body),
                })
            }
            (StatusCode::PARTIAL_CONTENT, Question::Part(meta, part)) if is_part(&head.headers, meta, &part) => Ok(Answer::Part(body, 0)),
            (StatusCode::PARTIAL_CONTENT, _) => Err(OriginError::WrongPart),
            (StatusCode::NOT_MODIFIED, Question::Changed(_)) => Ok(Answer::Unchanged),
            (StatusCode::NOT_FOUND | StatusCode::GONE, _) => Ok(Answer::Missing),
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => Ok(Answer::Forbidden),
            (status, _) if status.is_redirection() => Err(OriginError::Redirected(status)),
            (status, _) => Err(OriginError::Status(status)),
        }
    }
}

/// Whether a 206 answer holds just these bytes of this version. "The server generating a 206 response MUST generate … ETag … if the field
/// would have been sent in a 200 (OK) response" (RFC 9110 section 15.3.7), but a proxy may not know; the size is always compared.
fn is_part(headers: &HeaderMap, meta: &Meta, part: &Range<u64>) -> bool {
    let said = headers.get(CONTENT_RANGE).and_then(|value| value.to_str().ok()).and_then(|text| text.strip_prefix("bytes "));
    let Some(size) = meta.size else { return false };
    let other = |ours: &Option<String>, theirs: Option<String>| theirs.is_some() && theirs != *ours;
    let theirs = Meta::of(headers);
    said == Some(format!("{}-{}/{size}", part.start, part.end.saturating_sub(1)).as_str())
        && !other(&meta.etag, theirs.etag)
        && !other(&meta.last_modified, theirs.last_modified)
}

//! Requests a file, a part of it, or its validity from the origin, and checks the answer.

use super::meta::Meta;
use super::redirects::{MAX_REDIRECTS, RedirectError, Redirects};
use crate::handlers::client::{Client, HttpError, get};
use crate::handlers::url_path::url_path;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_RANGE, HeaderMap, HeaderName, HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH,
};
use hyper::header::{CONTENT_LENGTH, IF_RANGE, RANGE, TRANSFER_ENCODING};
use hyper::{Request, Response, StatusCode, Uri};
use std::net::IpAddr;
use std::ops::Range;

/// The HTTP origin of files.
pub(super) struct Origin {
    prefix: Uri,
    pub(super) client: Client,
    redirects: Redirects,
    /// Field of requests with the address of the client.
    forward_client: Option<HeaderName>,
}

/// A file at the origin, and the client that asks for it.
pub(super) struct Target {
    pub url: String,
    /// The client of the first request, which others may share.
    pub client: IpAddr,
}

/// A request to the origin.
pub(super) enum OriginRequest<'a> {
    /// The file.
    Complete,
    /// The file, unless it is still this version.
    IfChanged(&'a Meta),
    /// These bytes of this version; the complete file, if its version has changed.
    Part(&'a Meta, Range<u64>),
}

/// An answer of the origin.
pub(super) enum OriginResponse {
    /// A version, from its start.
    Complete(Meta, Incoming),
    /// The requested bytes, and the number of bytes to skip before them.
    Part(Incoming, u64),
    /// The version has not changed.
    Unchanged,
    /// There is no such file.
    Missing,
    /// Access is denied.
    Forbidden,
}

/// Unusable answers of the origin.
#[derive(Debug, thiserror::Error)]
pub(super) enum OriginError {
    #[error(transparent)]
    Ask(#[from] HttpError),
    #[error("status {0}")]
    Status(StatusCode),
    #[error(transparent)]
    Redirect(#[from] RedirectError),
    #[error("content encoding {0}, which was not requested")]
    Encoded(String),
    #[error("no content length and no chunked encoding: a truncated file could not be detected")]
    Endless,
    #[error("the answer has another range than requested")]
    WrongPart,
}

impl Origin {
    /// Follows redirects to the origin itself and to `redirect_hosts`.
    pub(super) fn new(prefix: Uri, client: Client, redirect_hosts: Vec<String>, forward_client: Option<HeaderName>) -> Origin {
        let redirects = Redirects::new(&prefix, redirect_hosts);
        Origin { prefix, client, redirects, forward_client }
    }

    /// Returns the URL of a file with a [normalized](crate::name::normalize) name.
    pub(super) fn url(&self, name: &[u8]) -> String {
        format!("{}{}", self.prefix, url_path(name))
    }

    /// Sends a request, and follows redirects.
    pub(super) async fn send(&self, target: &Target, origin_request: OriginRequest<'_>) -> Result<OriginResponse, OriginError> {
        let mut url = target.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let answer = self.client.send(self.request(&url, target.client, &origin_request)?).await?;
            match self.redirects.next(&url, &answer)? {
                Some(next) => url = next,
                None => return response(answer, origin_request),
            }
        }
        Err(RedirectError::TooMany.into())
    }

    fn request(&self, url: &str, client: IpAddr, origin_request: &OriginRequest<'_>) -> Result<Request<Full<Bytes>>, HttpError> {
        let mut request = get(url)?;
        let headers = request.headers_mut();
        if let (Some(name), Ok(value)) = (&self.forward_client, HeaderValue::from_str(&client.to_canonical().to_string())) {
            headers.insert(name.clone(), value);
        }
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let mut put = |name: HeaderName, value: &str| drop(HeaderValue::from_str(value).map(|value| headers.insert(name, value)));
        match origin_request {
            OriginRequest::Complete => {}
            OriginRequest::IfChanged(meta) => match (&meta.etag, &meta.last_modified) {
                (Some(etag), _) => put(IF_NONE_MATCH, etag),
                (None, Some(date)) => put(IF_MODIFIED_SINCE, date),
                (None, None) => {}
            },
            OriginRequest::Part(meta, part) => {
                put(RANGE, &format!("bytes={}-{}", part.start, part.end.saturating_sub(1)));
                if let Some(validator) = meta.validator() {
                    put(IF_RANGE, validator);
                }
            }
        }
        Ok(request)
    }
}

/// Checks an answer.
fn response(answer: Response<Incoming>, origin_request: OriginRequest<'_>) -> Result<OriginResponse, OriginError> {
    let (head, body) = answer.into_parts();
    if let Some(encoding) = head.headers.get(CONTENT_ENCODING).filter(|value| value.as_bytes() != b"identity") {
        return Err(OriginError::Encoded(String::from_utf8_lossy(encoding.as_bytes()).into_owned()));
    }
    match (head.status, origin_request) {
        (StatusCode::OK, origin_request) => {
            if !head.headers.contains_key(CONTENT_LENGTH) && !head.headers.contains_key(TRANSFER_ENCODING) {
                return Err(OriginError::Endless);
            }
            let meta = Meta::of(&head.headers);
            Ok(match origin_request {
                OriginRequest::IfChanged(known) if known.same_bytes(&meta) => OriginResponse::Unchanged,
                OriginRequest::Part(known, part) if known.same_bytes(&meta) => OriginResponse::Part(body, part.start),
                _ => OriginResponse::Complete(meta, body),
            })
        }
        (StatusCode::PARTIAL_CONTENT, OriginRequest::Part(meta, part)) if is_part(&head.headers, meta, &part) => {
            Ok(OriginResponse::Part(body, 0))
        }
        (StatusCode::PARTIAL_CONTENT, _) => Err(OriginError::WrongPart),
        (StatusCode::NOT_MODIFIED, OriginRequest::IfChanged(_)) => Ok(OriginResponse::Unchanged),
        (StatusCode::NOT_FOUND | StatusCode::GONE, _) => Ok(OriginResponse::Missing),
        (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => Ok(OriginResponse::Forbidden),
        (status, _) => Err(OriginError::Status(status)),
    }
}

/// Returns whether a 206 answer has exactly these bytes of this version. "The server generating a 206 response MUST generate … ETag … if the field
/// would have been sent in a 200 (OK) response" (RFC 9110 section 15.3.7), but proxies may omit it; the size is always compared.
fn is_part(headers: &HeaderMap, meta: &Meta, part: &Range<u64>) -> bool {
    let range = headers.get(CONTENT_RANGE).and_then(|value| value.to_str().ok()).and_then(|text| text.strip_prefix("bytes "));
    let Some(size) = meta.size else { return false };
    let other = |ours: &Option<String>, theirs: Option<String>| theirs.is_some() && theirs != *ours;
    let theirs = Meta::of(headers);
    range == Some(format!("{}-{}/{size}", part.start, part.end.saturating_sub(1)).as_str())
        && !other(&meta.etag, theirs.etag)
        && !other(&meta.last_modified, theirs.last_modified)
}

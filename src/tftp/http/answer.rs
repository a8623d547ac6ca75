//! From a request to the head of its answer (RFC 9110).

use super::body::{AnswerBody, ContentBody, Unwritten};
use super::range::{Wanted, wanted};
use crate::content::Content;
use crate::engine::{Service, ServiceTransfer};
use crate::handler::Refusal;
use crate::packet::ErrorCode;
use crate::report::{Counter, Outcome};
use crate::request::{Protocol, Request};
use hyper::header::{
    ACCEPT_RANGES, ALLOW, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue, IF_NONE_MATCH, IF_RANGE,
    RANGE, RETRY_AFTER,
};
use hyper::{Method, Response, StatusCode};
use percent_encoding::percent_decode_str;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

/// When a client may try again that was refused because of a shortage, in seconds.
const RETRY: &str = "1";

/// Answers the requests of a connection.
pub(super) struct Answerer {
    pub service: Arc<Service>,
    pub client: SocketAddr,
    pub local: SocketAddr,
    /// Its answers that are not written yet.
    pub unwritten: Arc<Unwritten>,
    /// Whether there are too many connections.
    pub refused: bool,
}

impl Answerer {
    /// Answers a request. Its body, if any, is ignored.
    pub(super) async fn answer<B>(&self, request: hyper::Request<B>) -> Result<Response<AnswerBody>, Infallible> {
        self.service.count(Counter::HttpRequests);
        if self.refused {
            return Ok(refusal(&Refusal::overloaded()));
        }
        let invalid = |status, text| {
            self.service.count(Counter::HttpInvalid);
            text_of(status, text)
        };
        let head = request.method() == Method::HEAD;
        if !head && request.method() != Method::GET {
            let mut answer = invalid(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are supported");
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return Ok(answer);
        }
        let path = request.uri().path();
        let name: Vec<u8> = percent_decode_str(path.strip_prefix('/').unwrap_or(path)).collect();
        let Some(asked) = Request::of_other(Protocol::Http, self.client, self.local, &name) else {
            return Ok(invalid(StatusCode::FORBIDDEN, "the name holds a NUL"));
        };
        let mut transfer = self.service.begin(asked);
        Ok(match transfer.open().await {
            Ok(content) => self.content(content, transfer, head, request.headers()),
            Err(refused) => refusal(&refused),
        })
    }

    /// Answers with content, a part of it, its head, or that the client has it.
    fn content(&self, content: Content, mut transfer: ServiceTransfer, head: bool, fields: &HeaderMap) -> Response<AnswerBody> {
        // Content that is read once from front to back has no tag, and no parts.
        let tag = transfer.version().map(|version| format!("\"{version}\""));
        let size = content.size();
        let mut answer = Response::new(AnswerBody::Text(Default::default()));
        if let Some(tag) = &tag {
            put(&mut answer, ETAG, tag);
            if fields.get_all(IF_NONE_MATCH).iter().any(|field| lists(field.as_bytes(), tag)) {
                *answer.status_mut() = StatusCode::NOT_MODIFIED;
                transfer.ends(Outcome::Done);
                return answer;
            }
        }
        let (mut offset, mut left) = (0, size);
        if let (Some(tag), Some(size)) = (&tag, size) {
            put(&mut answer, ACCEPT_RANGES, "bytes");
            let same = fields.get(IF_RANGE).is_none_or(|field| field.as_bytes() == tag.as_bytes());
            let range = fields.get(RANGE).filter(|_| same && !head);
            match range.map_or(Wanted::All, |field| wanted(field.as_bytes(), size)) {
                Wanted::All => {}
                Wanted::Part(part) => {
                    *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
                    put(&mut answer, CONTENT_RANGE, &format!("bytes {}-{}/{size}", part.start, part.end - 1));
                    (offset, left) = (part.start, Some(part.end - part.start));
                }
                Wanted::Nothing => {
                    let why = "the range is not in the file";
                    let mut answer = text_of(StatusCode::RANGE_NOT_SATISFIABLE, why);
                    put(&mut answer, CONTENT_RANGE, &format!("bytes */{size}"));
                    transfer.ends(Outcome::Refused(Some(ErrorCode::NOT_DEFINED), why.into()));
                    return answer;
                }
            }
        }
        put(&mut answer, CONTENT_TYPE, "application/octet-stream");
        if let Some(left) = left {
            answer.headers_mut().insert(CONTENT_LENGTH, left.into());
        }
        if head {
            transfer.ends(Outcome::Probed);
        } else {
            let body = ContentBody::new(content, transfer, offset, left, self.service.open_timeout, Arc::clone(&self.unwritten));
            *answer.body_mut() = AnswerBody::Content(Box::new(body));
        }
        answer
    }
}

/// Returns whether an `If-None-Match` field lists a tag.
fn lists(field: &[u8], tag: &str) -> bool {
    let mut tags = field.split(|&b| b == b',').map(<[u8]>::trim_ascii);
    tags.any(|listed| listed == b"*" || listed.strip_prefix(b"W/").unwrap_or(listed) == tag.as_bytes())
}

fn put(answer: &mut Response<AnswerBody>, name: HeaderName, value: &str) {
    // Numbers and hexadecimal digits are valid values.
    if let Ok(value) = HeaderValue::from_str(value) {
        answer.headers_mut().insert(name, value);
    }
}

fn text_of(status: StatusCode, text: &str) -> Response<AnswerBody> {
    let mut answer = Response::new(AnswerBody::Text(format!("{text}\n").into()));
    *answer.status_mut() = status;
    put(&mut answer, CONTENT_TYPE, "text/plain");
    answer
}

/// Says why there is no content. What TFTP does not answer, so that the client repeats it, is 503 here.
fn refusal(refusal: &Refusal) -> Response<AnswerBody> {
    let status = match refusal.code {
        None => StatusCode::SERVICE_UNAVAILABLE,
        Some(ErrorCode::NOT_FOUND) => StatusCode::NOT_FOUND,
        Some(ErrorCode::ACCESS) => StatusCode::FORBIDDEN,
        Some(ErrorCode::ILLEGAL) => StatusCode::BAD_REQUEST,
        Some(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let mut answer = text_of(status, &refusal.text);
    if refusal.code.is_none() {
        put(&mut answer, RETRY_AFTER, RETRY);
    }
    answer
}

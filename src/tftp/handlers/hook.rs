//! Handler that calls an HTTP service: it posts the request as JSON and uses the answer.

use super::client::{Client, request};
use super::concurrency::ConcurrencyLimit;
use super::decision::{Answer, apply_decision};
use super::json::as_json;
use crate::handler::{Handler, Opened, Refusal, SharedHandler};
use crate::request::Request;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, StatusCode, Uri};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// Settings of a [`Hook`] handler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// URL of the service.
    pub url: Uri,
    /// File with the certificate authorities of an https service; `None` for those that the host trusts.
    pub ca: Option<PathBuf>,
    /// Format of the answer.
    pub answer: Answer,
    /// Time limit for the whole answer; waiting for one of the requests at once does not count.
    pub timeout: Duration,
    /// Largest answer in bytes.
    pub output: usize,
    /// Largest number of requests at once.
    pub concurrency: usize,
}

/// Posts each request to a service.
///
/// Status 200 carries the answer. 404 and 410 mean that the file does not exist, so that a chain continues. 401 and 403 deny access. Any
/// other status is a failure.
#[derive(Clone)]
pub struct Hook(Arc<Inner>);

struct Inner {
    settings: Settings,
    files: Option<SharedHandler>,
    client: Client,
    gate: ConcurrencyLimit,
}

impl Hook {
    /// Creates a handler; `files` opens the files that the service decides on.
    ///
    /// # Errors
    /// When there is no trusted authority for an https service.
    pub fn new(settings: Settings, files: Option<SharedHandler>) -> io::Result<Hook> {
        let client = Client::new(&settings.url, settings.ca.as_deref(), settings.timeout)?;
        let gate = ConcurrencyLimit::new(settings.concurrency);
        Ok(Hook(Arc::new(Inner { settings, files, client, gate })))
    }
}

impl Handler for Hook {
    async fn open(&self, request: Request) -> Opened {
        let (inner, limit) = (&*self.0, self.0.settings.timeout);
        let place = inner.gate.enter().await?;
        let asked = timeout(limit, inner.ask(&request)).await.unwrap_or_else(|_| Err(inner.failed(&format!("no answer within {limit:?}"))));
        drop(place);
        apply_decision(inner.settings.answer, asked?, &inner.settings.url.to_string(), request, inner.files.as_ref()).await
    }
}

impl Inner {
    /// Posts the request and returns the answer.
    async fn ask(&self, requested: &Request) -> Result<Vec<u8>, Refusal> {
        let body = Bytes::from(as_json(requested).to_string());
        let failed = |error: super::client::HttpError| self.failed(&error.to_string());
        let mut post = request(Method::POST, &self.settings.url.to_string(), body).map_err(failed)?;
        post.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let answer = self.client.send(post).await.map_err(failed)?;
        match answer.status() {
            StatusCode::OK => self.client.read_body(answer.into_body(), self.settings.output).await.map_err(failed),
            StatusCode::NOT_FOUND | StatusCode::GONE => Err(Refusal::not_found()),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(Refusal::access()),
            status => Err(self.failed(&format!("status {status}"))),
        }
    }

    fn failed(&self, error: &str) -> Refusal {
        tracing::error!(url = %self.settings.url, error, "hook failed");
        Refusal::failed("the server's logic failed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Content;
    use crate::handler::handler_fn;
    use crate::handlers::testing::{ask, in_namespace, read_all};
    use crate::handlers::testing_origin::{Origin, Page};

    #[test]
    fn a_service_decides() {
        in_namespace(|| {
            let origin = Origin::start();
            let settings = Settings {
                url: format!("{}hook", origin.url()).parse().unwrap(),
                ca: None,
                answer: Answer::Decision,
                timeout: Duration::from_secs(60),
                output: 1000,
                concurrency: 4,
            };
            let files = SharedHandler::new(handler_fn(|request| Ok(Content::bytes(request.file()))));
            let hook = Hook::new(settings, Some(files)).unwrap();
            let answer = |text: &str, status| {
                origin.put("/hook", Page { bytes: Arc::new(text.into()), status, ..Page::default() });
                ask(&hook, b"f").map(|content| String::from_utf8(read_all(&content).unwrap()).unwrap())
            };
            assert_eq!(answer(r#"{"file": "other"}"#, 200), Ok("other".into()));
            let json = r#"{"client":"10.0.0.7","port":2070,"vip":"192.0.2.69","tid":20000,"file":"f","mode":"octet","options":{}}"#;
            assert_eq!(origin.log(), [format!("/hook {json}")]);
            assert_eq!(answer("{\"content\": \"#!ipxe\\n\"}", 200), Ok("#!ipxe\n".into()));
            assert_eq!(answer("", 404), Err(Refusal::not_found()));
            assert_eq!(answer("", 403), Err(Refusal::access()));
            let failed = Err(Refusal::failed("the server's logic failed"));
            assert_eq!(answer("", 500), failed);
            assert_eq!(answer("nonsense", 200), failed);
            assert_eq!(answer(&format!("{{\"content\": \"{}\"}}", "a".repeat(2000)), 200), failed, "too large");
            origin.cut(true);
            assert_eq!(answer("", 200), failed);
        });
    }
}

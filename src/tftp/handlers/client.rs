//! HTTP client for origins, hooks and inventories, with TLS for https URLs.

use guideway_tls::{self as tls, error_chain};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::RootCertStore;
use std::io;
use std::path::Path;
use std::time::Duration;
use tokio::time::timeout;

/// Reasons why there is no answer of a server.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The server is unreachable, or its answer is not HTTP.
    #[error("{0}")]
    Failed(String),
    /// The time-out has passed.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// Its answer is too large.
    #[error("the answer has more than {0} bytes")]
    TooLarge(usize),
}

/// Checks the URL of a server, which is used as a prefix. A slash is added to its path if missing.
///
/// # Errors
/// A phrase that describes valid URLs.
pub fn prefix(text: &str) -> Result<Uri, String> {
    let slash = if text.ends_with('/') { "" } else { "/" };
    url(&format!("{text}{slash}"))
}

/// Checks the URL of a resource.
///
/// # Errors
/// A phrase that describes valid URLs.
pub fn url(text: &str) -> Result<Uri, String> {
    let uri: Uri = text.parse().map_err(|_| "is not a URL; write it like http://10.0.0.5:8080/images/".to_owned())?;
    match uri.scheme_str() {
        Some("http" | "https") => {}
        _ => return Err("is not an http or https URL; write it like http://10.0.0.5:8080/images/".to_owned()),
    }
    if uri.query().is_some() || text.contains('#') {
        return Err("has a query or a fragment; file names are appended to the URL".to_owned());
    }
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err("has a user name, which is not supported".to_owned());
    }
    Ok(uri)
}

/// Largest body of an answer that is read only to use its connection again.
const MAX_DROPPED: usize = 64 * 1024;

/// A pool of connections.
#[derive(Clone)]
pub struct Client {
    pool: Pool<HttpsConnector<HttpConnector>, Full<Bytes>>,
    timeout: Duration,
}

impl Client {
    /// Creates a client of the server of `url`, which connects when needed. `timeout` applies to connecting, to the head of an answer and to
    /// each chunk of its body. With TLS, the certificate must come from an authority in the file `ca`, or in the host's list without `ca`.
    ///
    /// # Errors
    /// When TLS is used and there is no trusted authority.
    pub fn new(url: &Uri, ca: Option<&Path>, timeout: Duration) -> io::Result<Client> {
        let authorities = match url.scheme_str() {
            Some("https") => tls::authorities(ca)?,
            // A redirect may lead to https.
            _ => tls::authorities(None).unwrap_or_else(|_| RootCertStore::empty()),
        };
        let tls = tls::client_config(authorities, None)?;
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_connect_timeout(Some(timeout));
        connector.set_nodelay(true);
        let pool = Pool::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(20))
            .pool_max_idle_per_host(32)
            .build(HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(connector));
        Ok(Client { pool, timeout })
    }

    /// Sends a request and returns the head of the answer.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, HttpError> {
        let answer = timeout(self.timeout, self.pool.request(request)).await.map_err(|_| HttpError::TimedOut(self.timeout))?;
        answer.map_err(|error| HttpError::Failed(error_chain(&error)))
    }

    /// Posts a body and returns the status of the answer, whose body is dropped.
    pub async fn post(&self, url: &Uri, content_type: &'static str, body: Vec<u8>) -> Result<StatusCode, HttpError> {
        let mut post = request(Method::POST, &url.to_string(), body.into())?;
        post.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        let answer = self.send(post).await?;
        let status = answer.status();
        // A connection is used again when its answer was read.
        let _dropped = self.read_body(answer.into_body(), MAX_DROPPED).await;
        Ok(status)
    }

    /// Returns the next chunk of a body; `None` at its end.
    pub async fn next_chunk(&self, body: &mut Incoming) -> Result<Option<Bytes>, HttpError> {
        loop {
            let frame = timeout(self.timeout, body.frame()).await.map_err(|_| HttpError::TimedOut(self.timeout))?;
            match frame {
                None => return Ok(None),
                Some(Err(error)) => return Err(HttpError::Failed(error_chain(&error))),
                Some(Ok(frame)) => {
                    // Frames without data are trailers.
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// Returns a whole body of at most `largest` bytes.
    pub async fn read_body(&self, mut body: Incoming, largest: usize) -> Result<Vec<u8>, HttpError> {
        let mut all = Vec::new();
        while let Some(next_chunk) = self.next_chunk(&mut body).await? {
            if all.len() + next_chunk.len() > largest {
                return Err(HttpError::TooLarge(largest));
            }
            all.extend_from_slice(&next_chunk);
        }
        Ok(all)
    }
}

/// Returns a request without a body.
pub fn get(url: &str) -> Result<Request<Full<Bytes>>, HttpError> {
    request(Method::GET, url, Bytes::new())
}

/// Returns a request with a body.
pub fn request(method: Method, url: &str, body: Bytes) -> Result<Request<Full<Bytes>>, HttpError> {
    let request = Request::builder().method(method).uri(url).header("user-agent", concat!("guideway/", env!("CARGO_PKG_VERSION")));
    request.body(Full::new(body)).map_err(|error| HttpError::Failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalid_ca_file_is_refused_with_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("ca.pem");
        let error = |url: &str| Client::new(&url.parse().unwrap(), Some(&file), Duration::from_secs(1)).err().map(|e| e.to_string());
        assert!(error("https://h/").is_some_and(|error| error.contains("ca.pem")), "missing file");
        std::fs::write(&file, "nonsense").unwrap();
        assert!(error("https://h/").is_some_and(|error| error.contains("contains no certificate")));
        std::fs::write(&file, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        assert!(error("https://h/").is_some_and(|error| error.contains("ca.pem")));
        assert_eq!(error("http://h/"), None, "not needed without TLS");
    }

    #[test]
    fn urls() {
        assert_eq!(prefix("http://h:8080/images").map(|u| u.to_string()).as_deref(), Ok("http://h:8080/images/"));
        assert_eq!(prefix("https://h/x").map(|u| u.to_string()).as_deref(), Ok("https://h/x/"));
        assert_eq!(prefix("http://h").map(|u| u.to_string()).as_deref(), Ok("http://h/"));
        for (text, why) in [
            ("ftp://h/", "not an http or https URL"),
            ("/x", "not an http or https URL"),
            ("http://h/?x", "query"),
            ("http://u@h/", "user name"),
            ("http://", "not a URL"),
        ] {
            assert!(prefix(text).is_err_and(|e| e.contains(why)), "{text}");
        }
    }
}

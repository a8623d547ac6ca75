//! Asks HTTP servers: origins of files, hooks, inventories. With TLS where the URL says https.

use guideway_tls::{self as tls, with_causes};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::RootCertStore;
use std::io;
use std::path::Path;
use std::time::Duration;
use tokio::time::timeout;

/// Why a server gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// It is not there, or what it says is no HTTP.
    #[error("{0}")]
    Failed(String),
    /// It took too long.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// Its answer is too large.
    #[error("the answer has more than {0} bytes")]
    TooLarge(usize),
}

/// Checks the URL of a server. It is the prefix of what is asked for there; a path ends with a slash or gets one.
///
/// # Errors
/// A phrase that says what is allowed.
pub fn prefix(text: &str) -> Result<Uri, String> {
    let slash = if text.ends_with('/') { "" } else { "/" };
    url(&format!("{text}{slash}"))
}

/// Checks the URL of a page.
///
/// # Errors
/// A phrase that says what is allowed.
pub fn url(text: &str) -> Result<Uri, String> {
    let uri: Uri = text.parse().map_err(|_| "is no URL; write it like http://10.0.0.5:8080/images/".to_owned())?;
    match uri.scheme_str() {
        Some("http" | "https") => {}
        _ => return Err("is no http or https URL; write it like http://10.0.0.5:8080/images/".to_owned()),
    }
    if uri.query().is_some() || text.contains('#') {
        return Err("has a query or a fragment; names of files are put behind the URL".to_owned());
    }
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err("has a user name in it, which is not supported".to_owned());
    }
    Ok(uri)
}

/// A pool of connections.
#[derive(Clone)]
pub struct Client {
    pool: Pool<HttpsConnector<HttpConnector>, Full<Bytes>>,
    timeout: Duration,
}

impl Client {
    /// A client of the server of `url`. Connections are made when needed. `timeout` is for connecting, for the head of an answer and for each
    /// piece of its body. A server with TLS is trusted when its certificate comes from an authority of the file `ca`, or without, of the host.
    ///
    /// # Errors
    /// When there is TLS and no authority to trust.
    pub fn new(url: &Uri, ca: Option<&Path>, timeout: Duration) -> io::Result<Client> {
        let authorities = if url.scheme_str() == Some("https") { tls::authorities(ca)? } else { RootCertStore::empty() };
        let tls = tls::config(authorities, None)?;
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

    /// The head of the answer.
    pub async fn ask(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, AskError> {
        let answer = timeout(self.timeout, self.pool.request(request)).await.map_err(|_| AskError::TimedOut(self.timeout))?;
        answer.map_err(|error| AskError::Failed(with_causes(&error)))
    }

    /// The next piece of a body; nothing at its end.
    pub async fn piece(&self, body: &mut Incoming) -> Result<Option<Bytes>, AskError> {
        loop {
            let frame = timeout(self.timeout, body.frame()).await.map_err(|_| AskError::TimedOut(self.timeout))?;
            match frame {
                None => return Ok(None),
                Some(Err(error)) => return Err(AskError::Failed(with_causes(&error))),
                Some(Ok(frame)) => {
                    // Frames without data are trailers.
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// A whole body of at most `largest` bytes.
    pub async fn whole(&self, mut body: Incoming, largest: usize) -> Result<Vec<u8>, AskError> {
        let mut all = Vec::new();
        while let Some(piece) = self.piece(&mut body).await? {
            if all.len() + piece.len() > largest {
                return Err(AskError::TooLarge(largest));
            }
            all.extend_from_slice(&piece);
        }
        Ok(all)
    }
}

/// A request without a body.
pub fn get(url: &str) -> Result<Request<Full<Bytes>>, AskError> {
    request(Method::GET, url, Bytes::new())
}

/// A request with a body.
pub fn request(method: Method, url: &str, body: Bytes) -> Result<Request<Full<Bytes>>, AskError> {
    let request = Request::builder().method(method).uri(url).header("user-agent", concat!("guideway/", env!("CARGO_PKG_VERSION")));
    request.body(Full::new(body)).map_err(|error| AskError::Failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_authorities_that_is_none_is_refused_with_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("ca.pem");
        let said = |url: &str| Client::new(&url.parse().unwrap(), Some(&file), Duration::from_secs(1)).err().map(|e| e.to_string());
        assert!(said("https://h/").is_some_and(|said| said.contains("ca.pem")), "it is not there");
        std::fs::write(&file, "nonsense").unwrap();
        assert!(said("https://h/").is_some_and(|said| said.contains("no certificate in it")));
        std::fs::write(&file, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        assert!(said("https://h/").is_some_and(|said| said.contains("ca.pem")));
        assert_eq!(said("http://h/"), None, "without TLS nobody needs it");
    }

    #[test]
    fn urls() {
        assert_eq!(prefix("http://h:8080/images").map(|u| u.to_string()).as_deref(), Ok("http://h:8080/images/"));
        assert_eq!(prefix("https://h/x").map(|u| u.to_string()).as_deref(), Ok("https://h/x/"));
        assert_eq!(prefix("http://h").map(|u| u.to_string()).as_deref(), Ok("http://h/"));
        for (text, said) in [
            ("ftp://h/", "no http or https URL"),
            ("/x", "no http or https URL"),
            ("http://h/?x", "query"),
            ("http://u@h/", "user name"),
            ("http://", "no URL"),
        ] {
            assert!(prefix(text).is_err_and(|e| e.contains(said)), "{text}");
        }
    }
}

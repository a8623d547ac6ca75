//! A client of etcd's JSON gateway: several endpoints, TLS, login, and a limit for every wait.

use super::api::{Message, RpcStatus, Token};
use guideway_config as config;
use guideway_tls::{self as tls, error_chain};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::RootCertStore;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};
use tokio::sync::Mutex;
use tokio::time::timeout;

/// Time that one endpoint has to answer before the client tries another.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_millis(1500);
/// Time after which a refused password is tried again.
const LOGIN_RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Maximum length of a response, and of a message of a watch, in bytes. 65,000 backends take about 10 MB here.
const MAX_RESPONSE: usize = 128 << 20;
/// gRPC code of a caller that is not authenticated (any more).
const UNAUTHENTICATED: u32 = 16;
/// gRPC code of a member that cannot serve now: it has no leader, or it stops.
const UNAVAILABLE: u32 = 14;
/// gRPC code of a member that timed out waiting for the others.
const DEADLINE_EXCEEDED: u32 = 4;

/// Why a request to etcd failed.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Error {
    /// There was no answer; the request may have been executed.
    #[error("etcd is unavailable: {0}")]
    Unavailable(String),
    /// etcd refused the request; nothing was done.
    #[error("etcd refuses: {}", .0.message)]
    Refused(RpcStatus),
}

type Connections = Pool<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// Creates the connections to etcd, with the certificates that are in the files now.
fn connections(config: &config::Etcd) -> io::Result<Connections> {
    let secure = config.endpoints.iter().any(|endpoint| endpoint.starts_with("https:"));
    let authorities = if secure { tls::authorities(config.ca.as_deref())? } else { RootCertStore::empty() };
    let identity: Option<(&Path, &Path)> = config.identity.as_ref().map(|(cert, key)| (cert.as_path(), key.as_path()));
    let tls = tls::client_config(authorities, identity)?;
    if let Some((_, file)) = &config.login {
        password(file).map_err(io::Error::other)?;
    }
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_connect_timeout(Some(REQUEST_TIMEOUT));
    connector.set_nodelay(true);
    Ok(Pool::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(Duration::from_secs(20))
        .build(HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(connector)))
}

/// A client; see the module.
#[derive(Debug)]
pub(super) struct Client {
    pool: RwLock<Connections>,
    config: config::Etcd,
    endpoints: Vec<String>,
    /// Counts up; the current endpoint is this value modulo their number.
    current: AtomicUsize,
    login: Option<(String, PathBuf)>,
    session: Mutex<Session>,
    /// The token of the session is no longer valid.
    expired: AtomicBool,
}

/// The result of a login.
#[derive(Default)]
struct Session {
    token: Option<String>,
    /// The refused password, when it was refused, and the error.
    refused: Option<(String, Instant, RpcStatus)>,
}

impl std::fmt::Debug for Session {
    /// Hides secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

impl Client {
    pub(super) fn new(config: &config::Etcd) -> io::Result<Client> {
        let pool = RwLock::new(connections(config)?);
        let (endpoints, login) = (config.endpoints.clone(), config.login.clone());
        Ok(Client {
            pool,
            config: config.clone(),
            endpoints,
            current: AtomicUsize::new(0),
            login,
            session: Mutex::default(),
            expired: AtomicBool::new(false),
        })
    }

    /// Reads the certificates again; requests from now on use them.
    pub(super) fn reload_credentials(&self) -> io::Result<()> {
        let renewed = connections(&self.config)?;
        *self.pool.write().unwrap_or_else(PoisonError::into_inner) = renewed;
        Ok(())
    }

    fn connections(&self) -> Connections {
        self.pool.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the current endpoint.
    pub(super) fn current(&self) -> usize {
        self.current.load(Ordering::Relaxed)
    }

    /// Returns the number of endpoints, at least one.
    pub(super) fn endpoints(&self) -> usize {
        self.endpoints.len().max(1)
    }

    /// Switches to the next endpoint, unless another caller has done so since `at` was the current one.
    pub(super) fn rotate_endpoint(&self, at: usize) {
        let _somebody_did = self.current.compare_exchange(at, at.wrapping_add(1), Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Returns the URL of the endpoint `at`.
    pub(super) fn name(&self, at: usize) -> &str {
        self.endpoints.get(at % self.endpoints()).map_or("", String::as_str)
    }

    /// Sends a request to the current endpoint, then to each other one once. The request may be executed more than once.
    pub(super) async fn call<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T, Error> {
        let mut last = Error::Unavailable("no endpoint".to_owned());
        for _ in 0..self.endpoints() {
            let at = self.current();
            match self.call_at(at, path, body).await {
                Err(unavailable @ Error::Unavailable(_)) => {
                    self.rotate_endpoint(at);
                    last = unavailable;
                }
                answer => return answer,
            }
        }
        Err(last)
    }

    /// Sends a request to one endpoint.
    pub(super) async fn call_at<T: DeserializeOwned>(&self, at: usize, path: &str, body: &Value) -> Result<T, Error> {
        let answer = timeout(REQUEST_TIMEOUT, async {
            let answer = self.open(at, path, body).await?;
            self.read_body(at, answer).await
        });
        let bytes = answer.await.map_err(|_| self.unavailable(at, &format!("no answer within {REQUEST_TIMEOUT:?}")))??;
        serde_json::from_slice(&bytes).map_err(|why| self.unavailable(at, &format!("not a response of etcd: {why}")))
    }

    /// Requests a stream of messages from one endpoint.
    pub(super) async fn stream(&self, at: usize, path: &str, body: &Value) -> Result<Stream, Error> {
        let answer = timeout(REQUEST_TIMEOUT, self.open(at, path, body)).await;
        let answer = answer.map_err(|_| self.unavailable(at, &format!("no answer within {REQUEST_TIMEOUT:?}")))??;
        Ok(Stream { endpoint: self.name(at).to_owned(), body: answer.into_body(), read: Vec::new(), scanned: 0 })
    }

    /// Forgets the login, so that the next call logs in again.
    pub(super) fn invalidate_token(&self) {
        self.expired.store(true, Ordering::Relaxed);
    }

    /// Returns the head of a successful response. Replaces an invalid token once: etcd forgets tokens, and all of them when users change.
    async fn open(&self, at: usize, path: &str, body: &Value) -> Result<Response<Incoming>, Error> {
        let mut renewed = false;
        loop {
            let token = self.log_in(at).await?;
            match self.post(at, path, body, token.as_deref()).await {
                Err(Error::Refused(rpc_status)) if token.is_some() && !renewed && is_about_token(&rpc_status) => {
                    renewed = true;
                    self.invalidate_token();
                }
                answer => return answer,
            }
        }
    }

    async fn log_in(&self, at: usize) -> Result<Option<String>, Error> {
        let Some((user, file)) = &self.login else { return Ok(None) };
        // One login at a time: checking a password is expensive for etcd by design.
        let mut session = self.session.lock().await;
        if self.expired.swap(false, Ordering::Relaxed) {
            session.token = None;
        }
        if session.token.is_some() {
            return Ok(session.token.clone());
        }
        let password = password(file).map_err(|why| self.unavailable(at, &why))?;
        if let Some((refused_password, when, rpc_status)) = &session.refused
            && *refused_password == password
            && when.elapsed() < LOGIN_RETRY_INTERVAL
        {
            return Err(Error::Refused(rpc_status.clone()));
        }
        let answer = match self.post(at, "auth/authenticate", &json!({"name": user, "password": password}), None).await {
            Err(Error::Refused(rpc_status)) => {
                session.refused = Some((password, Instant::now(), rpc_status.clone()));
                return Err(Error::Refused(rpc_status));
            }
            answer => answer?,
        };
        let Token { token } =
            serde_json::from_slice(&self.read_body(at, answer).await?).map_err(|why| self.unavailable(at, &why.to_string()))?;
        session.token = Some(token);
        Ok(session.token.clone())
    }

    async fn post(&self, at: usize, path: &str, body: &Value, token: Option<&str>) -> Result<Response<Incoming>, Error> {
        let mut request = Request::post(format!("{}/v3/{path}", self.name(at))).header("content-type", "application/json");
        if let Some(token) = token {
            request = request.header("authorization", token);
        }
        let request = request.body(Full::new(Bytes::from(body.to_string()))).map_err(|why| self.unavailable(at, &why.to_string()))?;
        let answer = self.connections().request(request).await.map_err(|why| self.unavailable(at, &error_chain(&why)))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let bytes = self.read_body(at, answer).await?;
        match serde_json::from_slice::<RpcStatus>(&bytes) {
            Ok(rpc_status) if matches!(rpc_status.code, UNAVAILABLE | DEADLINE_EXCEEDED) => Err(self.unavailable(at, &rpc_status.message)),
            Ok(rpc_status) if !rpc_status.message.is_empty() => Err(Error::Refused(rpc_status)),
            _ => Err(self.unavailable(at, &format!("HTTP status {status} instead of a response; is this etcd 3.4 or newer?"))),
        }
    }

    async fn read_body(&self, at: usize, answer: Response<Incoming>) -> Result<Bytes, Error> {
        let body = Limited::new(answer.into_body(), MAX_RESPONSE).collect().await;
        body.map(|body| body.to_bytes()).map_err(|why| self.unavailable(at, &error_chain(&*why)))
    }

    fn unavailable(&self, at: usize, why: &str) -> Error {
        Error::Unavailable(format!("{}: {why}", self.name(at)))
    }
}

fn is_about_token(rpc_status: &RpcStatus) -> bool {
    rpc_status.code == UNAUTHENTICATED
        || ["auth token", "auth store", "user name is empty"].iter().any(|phrase| rpc_status.message.contains(phrase))
}

/// Reads the password for each login, so that it can be changed while the process runs.
fn password(file: &Path) -> Result<String, String> {
    let read = std::fs::read_to_string(file).map_err(|why| format!("password_file = {:?}: {why}", file.display()))?;
    Ok(read.trim_end_matches(['\r', '\n']).to_owned())
}

/// A stream of messages, one a line.
#[derive(Debug)]
pub(super) struct Stream {
    endpoint: String,
    body: Incoming,
    read: Vec<u8>,
    /// Number of bytes of `read` that are known to contain no newline.
    scanned: usize,
}

impl Stream {
    /// Returns the next message. A caller may drop this future and call again.
    pub(super) async fn next<T: DeserializeOwned>(&mut self) -> Result<T, Error> {
        let unavailable = |endpoint: &str, why: &str| Error::Unavailable(format!("{endpoint}: {why}"));
        loop {
            let end = self.read.iter().skip(self.scanned).position(|byte| *byte == b'\n').map(|at| at + self.scanned);
            if let Some(end) = end {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                self.scanned = 0;
                if line.trim_ascii().is_empty() {
                    continue;
                }
                let message: Message<T> = serde_json::from_slice(&line).map_err(|why| unavailable(&self.endpoint, &why.to_string()))?;
                return match message {
                    Message { result: Some(result), .. } => Ok(result),
                    Message { error: Some(rpc_status), .. } => Err(Error::Refused(rpc_status)),
                    Message { .. } => continue,
                };
            }
            self.scanned = self.read.len();
            if self.read.len() > MAX_RESPONSE {
                return Err(unavailable(&self.endpoint, &format!("a message of more than {MAX_RESPONSE} bytes")));
            }
            match self.body.frame().await {
                None => return Err(unavailable(&self.endpoint, "it ended the watch")),
                Some(Err(why)) => return Err(unavailable(&self.endpoint, &error_chain(&why))),
                Some(Ok(frame)) => {
                    // Frames without data are trailers.
                    if let Ok(data) = frame.into_data() {
                        self.read.extend_from_slice(&data);
                    }
                }
            }
        }
    }
}

//! A client of etcd's JSON gateway: several endpoints, TLS, a login, and no waiting without an end.

use super::api::{Message, Refusal, Token};
use guideway_config as config;
use guideway_tls::{self as tls, with_causes};
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
use std::time::{Duration, Instant};
use tokio::sync::Mutex;
use tokio::time::timeout;

/// How long one endpoint may take to answer before another is asked.
pub(super) const PATIENCE: Duration = Duration::from_millis(1500);
/// A password that etcd has refused is not tried again for so long.
const LOGIN_PAUSE: Duration = Duration::from_secs(1);
/// Longest answer, and longest message of a watch, in bytes: 65,000 backends take about 10 MB here.
const LONGEST: usize = 128 << 20;
/// gRPC's code for a caller who is not known (any more).
const UNAUTHENTICATED: u32 = 16;
/// gRPC's code for a member that cannot do anything now: it has no leader, or stops.
const UNAVAILABLE: u32 = 14;
/// gRPC's code for a member that gave up waiting for the others.
const DEADLINE_EXCEEDED: u32 = 4;

/// Why etcd did not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Error {
    /// It did not answer; it may have done it nevertheless.
    #[error("etcd is away: {0}")]
    Away(String),
    /// It said no; nothing was done.
    #[error("etcd refuses: {}", .0.message)]
    Refused(Refusal),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Client {
    pool: Pool<HttpsConnector<HttpConnector>, Full<Bytes>>,
    endpoints: Vec<String>,
    /// Counts up; the endpoint of now is this, modulo their number.
    current: AtomicUsize,
    login: Option<(String, PathBuf)>,
    session: Mutex<Session>,
    /// The token of the session is no longer good.
    expired: AtomicBool,
}

/// What came of logging in.
#[derive(Default)]
struct Session {
    token: Option<String>,
    /// With which password, when and how etcd refused.
    refused: Option<(String, Instant, Refusal)>,
}

impl std::fmt::Debug for Session {
    /// Secrets are not shown.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

impl Client {
    pub(super) fn new(config: &config::Etcd) -> io::Result<Client> {
        let secure = config.endpoints.iter().any(|endpoint| endpoint.starts_with("https:"));
        let authorities = if secure { tls::authorities(config.ca.as_deref())? } else { RootCertStore::empty() };
        let identity: Option<(&Path, &Path)> = config.identity.as_ref().map(|(cert, key)| (cert.as_path(), key.as_path()));
        let tls = tls::config(authorities, identity)?;
        if let Some((_, file)) = &config.login {
            password(file).map_err(io::Error::other)?;
        }
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_connect_timeout(Some(PATIENCE));
        connector.set_nodelay(true);
        let pool = Pool::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(20))
            .build(HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(connector));
        let (endpoints, login) = (config.endpoints.clone(), config.login.clone());
        Ok(Client { pool, endpoints, current: AtomicUsize::new(0), login, session: Mutex::default(), expired: AtomicBool::new(false) })
    }

    /// The endpoint of now.
    pub(super) fn current(&self) -> usize {
        self.current.load(Ordering::Relaxed)
    }

    /// How many endpoints there are, at least one.
    pub(super) fn endpoints(&self) -> usize {
        self.endpoints.len().max(1)
    }

    /// Goes on to the next endpoint, unless somebody has done so since `at` was the endpoint of now.
    pub(super) fn leave(&self, at: usize) {
        let _somebody_did = self.current.compare_exchange(at, at.wrapping_add(1), Ordering::Relaxed, Ordering::Relaxed);
    }

    /// What the endpoint `at` is called.
    pub(super) fn name(&self, at: usize) -> &str {
        self.endpoints.get(at % self.endpoints()).map_or("", String::as_str)
    }

    /// Asks the endpoint of now, then the others once each. Whatever is asked may happen more than once.
    pub(super) async fn call<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T, Error> {
        let mut last = Error::Away("no endpoint".to_owned());
        for _ in 0..self.endpoints() {
            let at = self.current();
            match self.call_at(at, path, body).await {
                Err(away @ Error::Away(_)) => {
                    self.leave(at);
                    last = away;
                }
                answer => return answer,
            }
        }
        Err(last)
    }

    /// Asks one endpoint.
    pub(super) async fn call_at<T: DeserializeOwned>(&self, at: usize, path: &str, body: &Value) -> Result<T, Error> {
        let answer = timeout(PATIENCE, async {
            let answer = self.open(at, path, body).await?;
            self.whole(at, answer).await
        });
        let bytes = answer.await.map_err(|_| self.away(at, &format!("no answer within {PATIENCE:?}")))??;
        serde_json::from_slice(&bytes).map_err(|why| self.away(at, &format!("an answer that is none of etcd's: {why}")))
    }

    /// Asks one endpoint for a stream of messages.
    pub(super) async fn stream(&self, at: usize, path: &str, body: &Value) -> Result<Stream, Error> {
        let answer = timeout(PATIENCE, self.open(at, path, body)).await;
        let answer = answer.map_err(|_| self.away(at, &format!("no answer within {PATIENCE:?}")))??;
        Ok(Stream { endpoint: self.name(at).to_owned(), body: answer.into_body(), read: Vec::new(), searched: 0 })
    }

    /// Forgets the login, so that the next call makes a new one.
    pub(super) fn forget_login(&self) {
        self.expired.store(true, Ordering::Relaxed);
    }

    /// The head of a good answer. A token that is no longer good is replaced once: etcd forgets them, and all of them when users change.
    async fn open(&self, at: usize, path: &str, body: &Value) -> Result<Response<Incoming>, Error> {
        let mut renewed = false;
        loop {
            let token = self.log_in(at).await?;
            match self.post(at, path, body, token.as_deref()).await {
                Err(Error::Refused(refusal)) if token.is_some() && !renewed && is_about_token(&refusal) => {
                    renewed = true;
                    self.forget_login();
                }
                answer => return answer,
            }
        }
    }

    async fn log_in(&self, at: usize) -> Result<Option<String>, Error> {
        let Some((user, file)) = &self.login else { return Ok(None) };
        // One at a time: checking a password is made to be hard work for etcd.
        let mut session = self.session.lock().await;
        if self.expired.swap(false, Ordering::Relaxed) {
            session.token = None;
        }
        if session.token.is_some() {
            return Ok(session.token.clone());
        }
        let password = password(file).map_err(|why| self.away(at, &why))?;
        if let Some((wrong, when, refusal)) = &session.refused
            && *wrong == password
            && when.elapsed() < LOGIN_PAUSE
        {
            return Err(Error::Refused(refusal.clone()));
        }
        let answer = match self.post(at, "auth/authenticate", &json!({"name": user, "password": password}), None).await {
            Err(Error::Refused(refusal)) => {
                session.refused = Some((password, Instant::now(), refusal.clone()));
                return Err(Error::Refused(refusal));
            }
            answer => answer?,
        };
        let Token { token } = serde_json::from_slice(&self.whole(at, answer).await?).map_err(|why| self.away(at, &why.to_string()))?;
        session.token = Some(token);
        Ok(session.token.clone())
    }

    async fn post(&self, at: usize, path: &str, body: &Value, token: Option<&str>) -> Result<Response<Incoming>, Error> {
        let mut request = Request::post(format!("{}/v3/{path}", self.name(at))).header("content-type", "application/json");
        if let Some(token) = token {
            request = request.header("authorization", token);
        }
        let request = request.body(Full::new(Bytes::from(body.to_string()))).map_err(|why| self.away(at, &why.to_string()))?;
        let answer = self.pool.request(request).await.map_err(|why| self.away(at, &with_causes(&why)))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let bytes = self.whole(at, answer).await?;
        match serde_json::from_slice::<Refusal>(&bytes) {
            Ok(refusal) if matches!(refusal.code, UNAVAILABLE | DEADLINE_EXCEEDED) => Err(self.away(at, &refusal.message)),
            Ok(refusal) if !refusal.message.is_empty() => Err(Error::Refused(refusal)),
            _ => Err(self.away(at, &format!("HTTP status {status} instead of an answer; is this etcd 3.4 or newer?"))),
        }
    }

    async fn whole(&self, at: usize, answer: Response<Incoming>) -> Result<Bytes, Error> {
        let body = Limited::new(answer.into_body(), LONGEST).collect().await;
        body.map(|body| body.to_bytes()).map_err(|why| self.away(at, &with_causes(&*why)))
    }

    fn away(&self, at: usize, why: &str) -> Error {
        Error::Away(format!("{}: {why}", self.name(at)))
    }
}

fn is_about_token(refusal: &Refusal) -> bool {
    refusal.code == UNAUTHENTICATED || ["auth token", "auth store", "user name is empty"].iter().any(|what| refusal.message.contains(what))
}

/// Read for each login, so that a password can be changed while we run.
fn password(file: &Path) -> Result<String, String> {
    let read = std::fs::read_to_string(file).map_err(|why| format!("password_file = {:?}: {why}", file.display()))?;
    Ok(read.trim_end_matches(['\r', '\n']).to_owned())
}

/// Messages, a line each.
#[derive(Debug)]
pub(super) struct Stream {
    endpoint: String,
    body: Incoming,
    read: Vec<u8>,
    /// So many bytes of `read` have no end of line in them.
    searched: usize,
}

impl Stream {
    /// The next message. May be dropped while it waits and called again.
    pub(super) async fn next<T: DeserializeOwned>(&mut self) -> Result<T, Error> {
        let away = |endpoint: &str, why: &str| Error::Away(format!("{endpoint}: {why}"));
        loop {
            let end = self.read.iter().skip(self.searched).position(|byte| *byte == b'\n').map(|at| at + self.searched);
            if let Some(end) = end {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                self.searched = 0;
                if line.trim_ascii().is_empty() {
                    continue;
                }
                let message: Message<T> = serde_json::from_slice(&line).map_err(|why| away(&self.endpoint, &why.to_string()))?;
                return match message {
                    Message { result: Some(result), .. } => Ok(result),
                    Message { error: Some(refusal), .. } => Err(Error::Refused(refusal)),
                    Message { .. } => continue,
                };
            }
            self.searched = self.read.len();
            if self.read.len() > LONGEST {
                return Err(away(&self.endpoint, &format!("a message of more than {LONGEST} bytes")));
            }
            match self.body.frame().await {
                None => return Err(away(&self.endpoint, "it ended the watch")),
                Some(Err(why)) => return Err(away(&self.endpoint, &with_causes(&why))),
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

//! The API over TCP, for clients with a token, a certificate, or both. It has a thread of its own, so that connections never delay control.

use super::credentials::{Credentials, FileError, Role};
use super::error::ApiError;
use super::request::Caller;
use super::router::router;
use super::serve::connection;
use super::state::Api;
use super::write_timeout::WriteTimeout;
use axum::extract::{Extension, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use guideway_config::ApiListen;
use guideway_daemon::connections::{Connections, Limits, Ticket, site};
use guideway_store::Origin;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Connections at the same time. Clients authenticate with their first request, and at once.
const LIMITS: Limits = Limits { strangers: 128, authenticated: 64, authenticate_within: Some(Duration::from_secs(10)) };
/// Wrong tokens that one peer ([`site`]) may show within [`WINDOW`]; after that only the right one is answered with more than 429.
const MAX_WRONG_TOKENS: u32 = 10;
const WINDOW: Duration = Duration::from_secs(10);
/// Peers whose wrong tokens are counted.
const MAX_TRACKED_ADDRESSES: usize = 1024;
/// How long to wait after the kernel had no file descriptor for a connection.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Why the interface cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody can listen there.
    #[error("api.listen = \"{address}\": {source}; choose an address of this host and a free port")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// The thread cannot be started.
    #[error("the interface over TCP cannot be started: {0}")]
    System(#[from] std::io::Error),
}

/// A listener that is ready to serve.
pub struct Tcp {
    listener: TcpListener,
    credentials: Credentials,
    authenticator: Arc<Authenticator>,
}

/// Who may ask.
struct Authenticator {
    credentials: Credentials,
    wrong: Mutex<HashMap<IpAddr, (Instant, u32)>>,
}

/// Listens, with every file read.
///
/// # Errors
/// When the address cannot be had, or a file of `[api]` cannot be used.
pub fn listen(config: &ApiListen) -> Result<Tcp, Error> {
    let credentials = Credentials::read(config)?;
    let bind = || {
        let listener = TcpListener::bind(config.listen)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    let listener = bind().map_err(|source| Error::Listen { address: config.listen, source })?;
    let authenticator = Arc::new(Authenticator { credentials: credentials.clone(), wrong: Mutex::default() });
    Ok(Tcp { listener, credentials, authenticator })
}

impl Tcp {
    /// Returns what clients need, to be renewed while it serves.
    pub fn credentials(&self) -> Credentials {
        self.credentials.clone()
    }

    /// Answers until the process ends.
    ///
    /// # Errors
    /// When no thread can be had.
    pub fn serve(self, api: Arc<Api>) -> Result<(), Error> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let authenticated = from_fn_with_state(self.authenticator.clone(), require_token);
        let router = router(api).layer(authenticated);
        tracing::info!("API at {}://{}", if self.credentials.get().tls.is_some() { "https" } else { "http" }, self.listener.local_addr()?);
        std::thread::Builder::new().name("api".to_owned()).spawn(move || {
            let _ = nix::sys::signal::SigSet::all().thread_block();
            if let Err(error) = runtime.block_on(self.accept(router)) {
                // The director forwards all the same, and its Unix socket answers.
                tracing::error!("the API over TCP has ended: {error}");
            }
        })?;
        Ok(())
    }

    async fn accept(self, router: axum::Router) -> std::io::Result<()> {
        let listener = tokio::net::TcpListener::from_std(self.listener)?;
        let connections = Connections::new(LIMITS);
        // A token is shown with each request; without tokens, the handshake is all there is.
        let certificate_suffices = self.credentials.get().tokens.is_none();
        loop {
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!("the API cannot take a connection: {error}");
                    tokio::time::sleep(ACCEPT_BACKOFF).await;
                    continue;
                }
            };
            let place = connections.admit(peer.ip());
            let client = Client { peer, ticket: place.ticket() };
            let (tls, router) = (self.credentials.get().tls.clone(), router.clone().layer(Extension(client.clone())));
            tokio::spawn(place.run(async move {
                let stream = WriteTimeout::new(stream);
                match tls {
                    None => connection(stream, router).await,
                    Some(tls) => match tls.accept(stream).await {
                        Ok(stream) => {
                            if certificate_suffices {
                                client.ticket.authenticate();
                            }
                            connection(stream, router).await;
                        }
                        Err(error) => tracing::info!(%peer, "no TLS with a client of the API: {error}"),
                    },
                }
            }));
        }
    }
}

/// The client of a connection.
#[derive(Clone)]
struct Client {
    peer: SocketAddr,
    ticket: Ticket,
}

/// Lets those pass who show the token, if there is one. Without one, TLS has seen a certificate already.
async fn require_token(
    State(authenticator): State<Arc<Authenticator>>,
    Extension(client): Extension<Client>,
    mut request: Request,
    next: Next,
) -> Response {
    let shown = request.headers().get(header::AUTHORIZATION).map(|value| value.as_bytes().to_vec());
    let api_error = match authenticator.authenticate(client.peer.ip(), shown.as_deref()) {
        Ok((who, role)) => {
            client.ticket.authenticate();
            let origin = Origin { who, from: client.peer.to_string(), reason: None };
            request.extensions_mut().insert(Caller { origin, role });
            return next.run(request).await;
        }
        Err(api_error) => api_error,
    };
    let unauthorized = api_error.status == StatusCode::UNAUTHORIZED;
    let mut response = api_error.into_response();
    // Who has not authenticated keeps no connection.
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    if unauthorized {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

impl Authenticator {
    /// Returns the name and the role of the client.
    fn authenticate(&self, peer: IpAddr, authorization: Option<&[u8]>) -> Result<(String, Role), ApiError> {
        let credentials = self.credentials.get();
        let Some(tokens) = &credentials.tokens else { return Ok(("a certificate".to_owned(), Role::Operator)) };
        let shown = authorization.and_then(bearer);
        // Whoever has the token is never locked out by those who have not, behind the same address or from many.
        if let Some(shown) = shown.map(|shown| Sha256::digest(shown).into()) {
            // Compares with all, so that the time does not tell which one it is.
            let found = tokens.iter().fold(None, |found, token| if constant_time_eq(&shown, &token.sha256) { Some(token) } else { found });
            if let Some(token) = found {
                return Ok((token.name.clone(), token.role));
            }
        }
        let site = site(peer);
        let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        wrong.retain(|_, (since, _)| since.elapsed() < WINDOW);
        let others = wrong.len();
        let count = wrong.get(&site).map_or(0, |(_, count)| *count);
        if count >= MAX_WRONG_TOKENS || (count == 0 && others >= MAX_TRACKED_ADDRESSES) {
            let error = format!("too many wrong tokens; wait {} s", WINDOW.as_secs());
            return Err(ApiError::new(StatusCode::TOO_MANY_REQUESTS, error));
        }
        if shown.is_some() {
            let (_, count) = wrong.entry(site).or_insert_with(|| (Instant::now(), 0));
            *count += 1;
            match *count {
                1 => tracing::warn!(%peer, "a wrong token was shown to the API"),
                MAX_WRONG_TOKENS => {
                    tracing::warn!(%peer, "{MAX_WRONG_TOKENS} wrong tokens were shown to the API; only the right one opens to this address for a while")
                }
                _ => {}
            }
        }
        let why = if shown.is_some() { "the token is wrong" } else { "a token is needed: Authorization: Bearer …" };
        Err(ApiError::new(StatusCode::UNAUTHORIZED, why))
    }
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

/// In a time that does not depend on where they differ; and what is compared are hashes, which nobody can approach step by step.
fn constant_time_eq(one: &[u8; 32], other: &[u8; 32]) -> bool {
    one.iter().zip(other).fold(0, |different, (a, b)| different | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_opens_and_wrong_ones_close() {
        let authenticator = Authenticator { credentials: Credentials::with_token(b"0123456789abcdef"), wrong: Mutex::default() };
        let (one, other) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let status =
            |peer, shown: Option<&str>| authenticator.authenticate(peer, shown.map(str::as_bytes)).err().map(|api_error| api_error.status);
        assert_eq!(status(one, Some("Bearer 0123456789abcdef")), None);
        assert_eq!(status(one, Some("bearer  0123456789abcdef ")), None);
        for nothing in [None, Some(""), Some("Basic 0123456789abcdef"), Some("Bearer")] {
            assert_eq!(status(one, nothing), Some(StatusCode::UNAUTHORIZED));
        }
        for _ in 0..MAX_WRONG_TOKENS {
            assert_eq!(status(one, Some("Bearer 0123456789abcdeF")), Some(StatusCode::UNAUTHORIZED));
        }
        assert_eq!(status(one, Some("Bearer 0123456789abcdeF")), Some(StatusCode::TOO_MANY_REQUESTS));
        assert_eq!(status(one, Some("Bearer 0123456789abcdef")), None, "who has the token may share an address with who guesses");
        let in_64 = |n: u32| format!("2001:db8::{n:x}").parse().unwrap();
        for n in 0..MAX_WRONG_TOKENS {
            assert_eq!(status(in_64(n), Some("Bearer 0123456789abcdeF")), Some(StatusCode::UNAUTHORIZED));
        }
        assert_eq!(
            status(in_64(99), Some("Bearer 0123456789abcdeF")),
            Some(StatusCode::TOO_MANY_REQUESTS),
            "a host has all addresses of a /64"
        );
        for n in 0..MAX_TRACKED_ADDRESSES as u32 {
            let _ = status(IpAddr::V4((0x0a00_0000 + n).into()), Some("Bearer 0123456789abcdeF"));
        }
        let late = "192.0.2.3".parse().unwrap();
        assert_eq!(status(late, Some("Bearer 0123456789abcdeF")), Some(StatusCode::TOO_MANY_REQUESTS));
        assert_eq!(status(late, Some("Bearer 0123456789abcdef")), None);
        assert_eq!(status(other, Some("Bearer 0123456789abcdef")), None);
    }
}

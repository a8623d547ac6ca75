//! Serves connections of a listener, each with a deadline for its requests.

use super::credentials::Role;
use super::request::Caller;
use super::router::router;
use super::state::Api;
use axum::{Extension, Router};
use guideway_store::Origin;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use nix::unistd::{Uid, User};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{UnixListener, UnixStream};

/// How long the head of a request may take, from the first byte of the connection or from the last answer on.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait after the kernel had no file descriptor for a connection.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Serves connections of `listener` until the runtime ends.
///
/// # Errors
/// A client cannot cause one.
pub async fn serve(listener: UnixListener, api: Arc<Api>) -> std::io::Result<()> {
    let router = router(api);
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let router = router.clone().layer(Extension(Caller { origin: peer(&stream), role: Role::Operator }));
                drop(tokio::spawn(connection(stream, router)));
            }
            Err(error) => {
                tracing::warn!("the control socket cannot take a connection: {error}");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

/// Returns the user at the other end.
fn peer(stream: &UnixStream) -> Origin {
    let Ok(credentials) = stream.peer_cred() else {
        return Origin { who: "unknown".to_owned(), from: "control socket".to_owned(), reason: None };
    };
    let uid = credentials.uid();
    let name = User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.name);
    let pid = credentials.pid().map(|pid| format!(", pid {pid}")).unwrap_or_default();
    Origin { who: name.unwrap_or_else(|| format!("uid {uid}")), from: format!("control socket, uid {uid}{pid}"), reason: None }
}

/// Serves one connection to its end.
pub(super) async fn connection(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, router: Router) {
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).half_close(true);
    // An error concerns only this client.
    let _ended = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)).await;
}

//! Serves connections of a listener, each with a deadline for its requests.

use super::router::router;
use super::state::Api;
use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixListener;

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
            Ok((stream, _)) => drop(tokio::spawn(connection(stream, router.clone()))),
            Err(error) => {
                tracing::warn!("the control socket cannot take a connection: {error}");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

/// Serves one connection to its end.
pub(super) async fn connection(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, router: Router) {
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).half_close(true);
    // An error concerns only this client.
    let _ended = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)).await;
}

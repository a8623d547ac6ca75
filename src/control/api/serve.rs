//! Answers on a listener: every connection has a time in which it must ask.

use super::{Api, router};
use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixListener;

/// How long the head of a request may take, from the first byte of the connection or from the last answer on.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait after the kernel had no file descriptor for a connection.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// Answers on `listener`, until the runtime ends.
///
/// # Errors
/// None that a client could bring about.
pub async fn serve(listener: UnixListener, api: Arc<Api>) -> std::io::Result<()> {
    let router = router(api);
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(connection(stream, router.clone()))),
            Err(error) => {
                tracing::warn!("the control socket cannot take a connection: {error}");
                tokio::time::sleep(EXHAUSTED).await;
            }
        }
    }
}

/// Serves one connection to its end.
pub(super) async fn connection(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, router: Router) {
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(PATIENCE).half_close(true);
    // However it ends, it is the client's affair.
    let _ended = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)).await;
}

//! Requests a page from a backend.

use super::{Prober, Target, check_answer, socket};
use crate::outcome::{Failure, Outcome};
use guideway_config::Expect;
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;

/// Maximum number of bytes of a page that are read.
const MAX_BYTES: usize = 64 << 10;

impl Prober {
    pub(super) async fn http(
        &self,
        target: &Target,
        (port, path): (u16, &str),
        status: u16,
        expect: Option<&Expect>,
    ) -> Result<(), Outcome> {
        let stream = self.connect(target, port).await?;
        let peer = SocketAddr::new(target.address, port);
        let broken = |error: hyper::Error| match std::error::Error::source(&error).and_then(|source| source.downcast_ref()) {
            Some(source) => socket::failed(source, peer),
            None => Outcome::Failed(Failure::Other(format!("{peer} does not speak HTTP: {error}"))),
        };
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let exchange = async {
            let request = hyper::Request::get(path).header(hyper::header::HOST, peer.to_string());
            let request = request.header(hyper::header::USER_AGENT, concat!("guideway/", env!("CARGO_PKG_VERSION")));
            let request = request.header(hyper::header::CONNECTION, "close").body(Empty::<Bytes>::new());
            let request = request.map_err(|e| Outcome::NotRun(format!("cannot build a request: {e}")))?;
            let response = sender.send_request(request).await.map_err(broken)?;
            let answered = response.status().as_u16();
            if answered != status {
                return Err(Outcome::Failed(Failure::Refused(format!("HTTP status {answered}, expected {status}"))));
            }
            if expect.is_none() {
                return Ok(());
            }
            let (mut body, mut page) = (response.into_body(), Vec::new());
            while let Some(frame) = body.frame().await {
                page.extend(frame.map_err(broken)?.into_data().unwrap_or_default());
                if page.len() >= MAX_BYTES {
                    break;
                }
            }
            page.truncate(MAX_BYTES);
            check_answer(expect, &page)
        };
        // This task drives the connection; it ends with the check.
        tokio::pin!(exchange);
        tokio::select! {
            outcome = &mut exchange => outcome,
            ended = connection => match ended {
                Ok(()) => exchange.await,
                Err(error) => Err(broken(error)),
            },
        }
    }
}

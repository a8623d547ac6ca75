//! Serves the content of a [`Server`](crate::Server) by HTTP/1.1, too: the same handlers, names, observers and counters.
//!
//! iPXE, GRUB and UEFI HTTP Boot fetch large files faster so. The [`Service`] of a server gives the handler, which a reload replaces, and the phase: a
//! server that drains takes no connections and answers the running requests.
//!
//! | File | Contents |
//! |---|---|
//! | `answer` | from a request to the head of an answer: methods, names, ranges, validators, errors |
//! | `range` | ranges of bytes |
//! | `body` | the bytes of an answer |
//! | `connection` | a connection whose client must keep taking bytes |
//! | `connections` | limits of connections |
//!
//! It runs on the runtime, never on an event loop. The path of a URL, without its query, becomes a name as it comes in a TFTP request: percent-decoded
//! once, then normalized by the handler.

mod answer;
mod body;
mod connection;
mod connections;
mod range;
#[cfg(test)]
mod tests;

use crate::engine::{Phase, Service};
use crate::report::Counter;
use answer::Answerer;
use body::Unwritten;
use connection::Connection;
pub use connections::Limits;
use connections::{Connections, Place};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;

/// Pending connections of a listening socket. The kernel has a limit of its own.
const BACKLOG: i32 = 4096;
/// Bytes of a connection that the kernel buffers: a client that takes nothing holds no more.
const SEND_BUFFER: usize = 256 * 1024;
/// Bytes of the head of a request, and of an answer's body before it is written.
const BUFFER: usize = 64 * 1024;
/// Pause after a connection that could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Time to send a request for a client that is refused anyway.
const REFUSED_TIME: Duration = Duration::from_secs(2);

/// Listening sockets that do not serve yet.
pub struct HttpServer {
    listeners: Vec<TcpListener>,
    limits: Limits,
}

impl HttpServer {
    /// Creates a server without a socket.
    pub fn new(limits: Limits) -> HttpServer {
        HttpServer { listeners: Vec::new(), limits }
    }

    /// Binds an address; `[::]` includes IPv4.
    ///
    /// # Errors
    /// When it cannot be bound.
    pub fn bind(&mut self, address: SocketAddr) -> io::Result<()> {
        self.listeners.push(listen(address)?);
        Ok(())
    }

    /// Adds a listening socket that another process, such as systemd, has bound. Returns its address.
    ///
    /// # Errors
    /// When it is no listening TCP socket.
    pub fn add(&mut self, socket: OwnedFd) -> io::Result<SocketAddr> {
        let socket = Socket::from(socket);
        if socket.r#type()? != Type::STREAM || !socket.is_listener()? {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a listening TCP socket (ListenStream=)"));
        }
        let listener = TcpListener::from(socket);
        let address = listener.local_addr()?;
        self.listeners.push(listener);
        Ok(address)
    }

    /// Returns the listening addresses.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// Serves until the server of `service` ends. Must be called in a runtime of Tokio with timers and sockets.
    ///
    /// # Errors
    /// When a socket cannot be used.
    pub fn start(self, service: &Arc<Service>) -> io::Result<()> {
        let connections = Arc::new(Connections::new(self.limits));
        for listener in self.listeners {
            listener.set_nonblocking(true)?;
            let listener = tokio::net::TcpListener::from_std(listener)?;
            tokio::spawn(accept(listener, self.limits, Arc::clone(service), Arc::clone(&connections)));
        }
        Ok(())
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Accepts connections until the server drains.
async fn accept(listener: tokio::net::TcpListener, limits: Limits, service: Arc<Service>, connections: Arc<Connections>) {
    let mut phase = service.phase();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = phase.wait_for(|phase| *phase != Phase::Serving) => return,
        };
        let (stream, client) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // No descriptor or no memory: the connection waits in the queue.
                tracing::debug!(%error, "HTTP connection not accepted");
                service.count(Counter::Overloaded);
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        service.count(Counter::HttpConnections);
        let client = SocketAddr::new(client.ip().to_canonical(), client.port());
        let place = connections.enter(client.ip());
        if !matches!(place, Some(Place::Served(_))) {
            service.count(Counter::HttpConnectionsRefused);
        }
        // Without any place, it is closed.
        if let Some(place) = place {
            tokio::spawn(serve(stream, client, limits, Arc::clone(&service), place));
        }
    }
}

/// Serves a connection to its end.
async fn serve(stream: TcpStream, client: SocketAddr, limits: Limits, service: Arc<Service>, place: Place) {
    let Ok(local) = stream.local_addr() else { return };
    let local = SocketAddr::new(local.ip().to_canonical(), local.port());
    let socket = SockRef::from(&stream);
    // Without them, it is slower or takes more memory.
    let _set = stream.set_nodelay(true).and(socket.set_send_buffer_size(SEND_BUFFER));
    let refused = matches!(place, Place::Refused(_));
    let mut phase = service.phase();
    let unwritten = Arc::<Unwritten>::default();
    let stream = Connection::new(stream, service.give_up, Arc::clone(&unwritten));
    let answerer = Answerer { service, client, local, unwritten, refused };
    let mut http = http1::Builder::new();
    // GRUB knows Content-Length by this spelling only.
    http.timer(TokioTimer::new()).title_case_headers(true).max_buf_size(BUFFER);
    http.keep_alive(!refused).header_read_timeout(if refused { REFUSED_TIME } else { limits.idle });
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service_fn(|request| answerer.answer(request))));
    let mut known = Phase::Serving;
    loop {
        let entered = async { phase.wait_for(|phase| *phase != known).await.map_or(Phase::Stopped, |phase| *phase) };
        known = tokio::select! {
            ended = connection.as_mut() => return if let Err(error) = ended {
                tracing::debug!(%client, %error, "HTTP connection ended");
            },
            entered = entered => entered,
        };
        match known {
            Phase::Stopped => return,
            // The running answer is the last one.
            _ => connection.as_mut().graceful_shutdown(),
        }
    }
}

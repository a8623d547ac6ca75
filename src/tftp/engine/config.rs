//! Configuration of a server.

use super::error::Error;
use crate::options::Limits;
use crate::rto::RetransmissionPolicy;
use crate::takeover::Settings;
use socket2::{SockRef, Type};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// Source port of answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tid {
    /// One port for each loop, chosen by the kernel.
    #[default]
    Any,
    /// This port for the first loop, the next one for the second loop, and so on.
    Port(u16),
    /// The listening port itself.
    Single,
}

/// GRE from directors. It needs no tunnel device and no VIPs on this host, but CAP_NET_RAW until the sockets are bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelConfig {
    /// Addresses of this host to which directors send GRE.
    pub locals: Vec<IpAddr>,
    /// The VIPs to which clients send requests.
    pub vips: Vec<IpAddr>,
    /// The port of requests at the VIPs.
    pub port: u16,
}

/// Configuration of a server.
#[derive(Clone, Debug)]
pub struct Config {
    /// Listening addresses. `[::]` includes IPv4.
    pub listen: Vec<SocketAddr>,
    /// Requests in GRE.
    pub tunnel: Option<TunnelConfig>,
    /// Source port of answers.
    pub tid: Tid,
    /// Event loops, at least 1. The first one serves the tunnel.
    pub loops: usize,
    /// Limits of granted options.
    pub limits: Limits,
    /// Time-outs and retries.
    pub retransmission: RetransmissionPolicy,
    /// Largest number of transfers in each loop. A further request evicts the oldest half-open transfer; if there is none, it is not
    /// answered.
    pub max_transfers: usize,
    /// Largest number of transfers with one client address in each loop. Further requests are not answered.
    pub max_per_client: usize,
    /// Longest time from a request to its first answer, and longest wait for pending content. A request whose file is not open by then is not answered:
    /// the client repeats it.
    pub open_timeout: Duration,
    /// Nice value of event loops above that of the starting thread, 0 to 19. With 2, a client or the kernel's network thread on the same CPU runs
    /// first. Its answer is there when the loop polls again, so the loop need not sleep for every block.
    pub nice: u8,
    /// The runtime of handlers. Without one, it is the runtime in which the server is bound, or one of the server's own.
    pub runtime: Option<Handle>,
    /// Settings of takeover.
    pub takeover: Option<Settings>,
    /// Sockets that another process has bound for addresses of `listen`; with one loop only.
    pub passed: Vec<PassedSocket>,
}

/// A UDP socket that another process, such as systemd, has bound.
#[derive(Clone, Debug)]
pub struct PassedSocket {
    /// Its address.
    pub address: SocketAddr,
    pub(super) socket: Arc<OwnedFd>,
}

impl PassedSocket {
    /// Checks that a server can listen on the socket.
    ///
    /// # Errors
    /// When it is not bound, is not a UDP socket, or receives both IPv4 and IPv6.
    pub fn new(socket: OwnedFd) -> Result<PassedSocket, Error> {
        let address = check(&socket)?;
        Ok(PassedSocket { address, socket: Arc::new(socket) })
    }
}

impl Default for Config {
    fn default() -> Self {
        Config {
            listen: Vec::new(),
            tunnel: None,
            tid: Tid::default(),
            loops: 1,
            limits: Limits::default(),
            retransmission: RetransmissionPolicy::default(),
            max_transfers: 100_000,
            max_per_client: 1_000,
            open_timeout: Duration::from_secs(15),
            nice: 2,
            runtime: None,
            takeover: None,
            passed: Vec::new(),
        }
    }
}

impl Config {
    /// Returns the default configuration with this listening address.
    pub fn listen(address: SocketAddr) -> Config {
        Config { listen: vec![address], ..Config::default() }
    }
}

/// Returns the address of a passed socket.
fn check(socket: &OwnedFd) -> Result<SocketAddr, Error> {
    let failed = |why: &str| Error::new("cannot use a passed socket", io::Error::new(io::ErrorKind::InvalidInput, why));
    let socket = SockRef::from(socket);
    let kind = socket.r#type().map_err(|e| Error::new("cannot use a passed socket", e))?;
    let address = socket.local_addr().ok().and_then(|address| address.as_socket());
    let address = address.filter(|address| kind == Type::DGRAM && address.port() > 0);
    let address = address.ok_or_else(|| failed("not a bound UDP socket (ListenDatagram=)"))?;
    if address.is_ipv6() && !socket.only_v6().unwrap_or(true) {
        return Err(failed("it receives both IPv4 and IPv6; write BindIPv6Only=ipv6-only and one ListenDatagram= for each"));
    }
    Ok(address)
}

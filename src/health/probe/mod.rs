//! Makes checks: sockets, programs, time. One call is one check; everything that it opens is closed when it returns or is dropped.

mod exec;
mod gre;
mod http;
mod icmp;
mod socket;
mod tftp;

use super::outcome::{Failure, Outcome};
use guideway_config::Addresses;
use guideway_config::duration::human;
use guideway_config::{Check, Expect, Probe};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout};

/// The target of a check.
#[derive(Clone, Debug)]
pub struct Target {
    /// The backend's pool.
    pub pool: Arc<str>,
    /// The backend's name.
    pub backend: Arc<str>,
    /// Its address.
    pub address: IpAddr,
    /// Server ports of its own, if its pool has TID ranges.
    pub tid_range: Option<(u16, u16)>,
    /// VIP that a tftp check reads from.
    pub vip: Option<IpAddr>,
    /// The check.
    pub check: Arc<Check>,
}

/// Makes checks from one host.
#[derive(Debug)]
pub struct Prober {
    source: Addresses,
    exec_dirs: Vec<PathBuf>,
    gre: gre::GreSender,
    started: Instant,
}

impl Prober {
    /// Creates probes with the source addresses `source` that may run programs of the directories `exec_dirs`. Must be called within a
    /// runtime.
    pub fn new(source: Addresses, exec_dirs: Vec<PathBuf>) -> Prober {
        Prober { source, exec_dirs, gre: gre::GreSender::new(source), started: Instant::now() }
    }

    /// Makes one check.
    pub async fn check(&self, target: &Target) -> Outcome {
        let check = &target.check;
        match &check.probe {
            Probe::Tftp(probe) => self.tftp(target, probe).await,
            Probe::Udp { port, send, expect } => self.with_timeout(check, self.udp(target, *port, send, expect.as_ref())).await,
            Probe::Tcp { port } => self.with_timeout(check, self.tcp(target, *port)).await,
            Probe::Http { port, path, status, expect } => {
                self.with_timeout(check, self.http(target, (*port, path), *status, expect.as_ref())).await
            }
            Probe::Icmp => self.with_timeout(check, self.icmp(target)).await,
            Probe::Exec { command } => self.exec(target, command).await,
        }
    }

    /// A backend without an answer in time fails.
    async fn with_timeout(&self, check: &Check, answer: impl Future<Output = Result<(), Outcome>>) -> Outcome {
        match timeout(check.timeout, answer).await {
            Ok(Ok(())) => Outcome::Passed,
            Ok(Err(outcome)) => outcome,
            Err(_) => timeout_failure(check.timeout),
        }
    }

    /// Returns the source address for checks of `address`.
    fn source_for(&self, address: IpAddr) -> Result<IpAddr, Outcome> {
        let missing = || {
            let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
            Outcome::NotRun(format!("[health] source has no {family} address for {address}; add one to that list"))
        };
        self.source.same_family(address).ok_or_else(missing)
    }

    async fn udp(&self, target: &Target, port: u16, send: &[u8], expect: Option<&Expect>) -> Result<(), Outcome> {
        let socket = socket::udp(self.source_for(target.address)?)?;
        let peer = SocketAddr::new(target.address, port);
        let socket = UdpSocket::from_std(socket).map_err(socket::not_run("cannot use a socket"))?;
        // Connected, so that the kernel reports a closed port.
        socket.connect(peer).await.map_err(|e| socket::failed(&e, peer))?;
        let mut answer = vec![0; 65_535];
        loop {
            socket.send(send).await.map_err(|e| socket::failed(&e, peer))?;
            // One lost datagram is not a failure.
            match timeout(target.check.timeout / 3, socket.recv(&mut answer)).await {
                Err(_) => {}
                Ok(Err(error)) => return Err(socket::failed(&error, peer)),
                Ok(Ok(length)) => return check_answer(expect, &answer[..length]),
            }
        }
    }

    async fn tcp(&self, target: &Target, port: u16) -> Result<(), Outcome> {
        self.connect(target, port).await.map(drop)
    }

    async fn connect(&self, target: &Target, port: u16) -> Result<TcpStream, Outcome> {
        let peer = SocketAddr::new(target.address, port);
        let socket = socket::tcp(self.source_for(target.address)?)?;
        socket.connect(peer).await.map_err(|e| socket::failed(&e, peer))
    }
}

fn timeout_failure(timeout: Duration) -> Outcome {
    Outcome::Failed(Failure::Timeout(format!("no answer within {}", human(timeout))))
}

fn check_answer(expect: Option<&Expect>, answer: &[u8]) -> Result<(), Outcome> {
    match expect {
        Some(expect) if !expect.matches(answer) => {
            let what = if expect.at_start { "begin with" } else { "contain" };
            let (wanted, found) = (super::outcome::printable(&expect.bytes), super::outcome::printable(answer));
            Err(Outcome::Failed(Failure::WrongContent(format!("the answer {found:?} does not {what} {wanted:?}"))))
        }
        _ => Ok(()),
    }
}

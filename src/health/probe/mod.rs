//! Makes checks: sockets, programs, time. One call is one check; what it opened is closed when it returns or is dropped.

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

/// What is to be checked.
#[derive(Clone, Debug)]
pub struct Target {
    /// The backend's pool.
    pub pool: Arc<str>,
    /// The backend's name.
    pub backend: Arc<str>,
    /// Its address.
    pub address: IpAddr,
    /// Where a tftp check asks.
    pub vip: Option<IpAddr>,
    /// How.
    pub check: Arc<Check>,
}

/// Makes checks from one host.
#[derive(Debug)]
pub struct Prober {
    source: Addresses,
    exec: Vec<PathBuf>,
    gre: gre::Gre,
    started: Instant,
}

impl Prober {
    /// Checks come from `source`; programs may be run from the directories `exec`. To be called within a runtime.
    pub fn new(source: Addresses, exec: Vec<PathBuf>) -> Prober {
        Prober { source, exec, gre: gre::Gre::new(source), started: Instant::now() }
    }

    /// Makes one check.
    pub async fn check(&self, target: &Target) -> Outcome {
        let check = &target.check;
        match &check.probe {
            Probe::Tftp(probe) => self.tftp(target, probe).await,
            Probe::Udp { port, send, expect } => self.within(check, self.udp(target, *port, send, expect.as_ref())).await,
            Probe::Tcp { port } => self.within(check, self.tcp(target, *port)).await,
            Probe::Http { port, path, status, expect } => {
                self.within(check, self.http(target, (*port, path), *status, expect.as_ref())).await
            }
            Probe::Icmp => self.within(check, self.icmp(target)).await,
            Probe::Exec { command } => self.exec(target, command).await,
        }
    }

    /// Whoever does not answer in time is silent.
    async fn within(&self, check: &Check, answer: impl Future<Output = Result<(), Outcome>>) -> Outcome {
        match timeout(check.timeout, answer).await {
            Ok(Ok(())) => Outcome::Good,
            Ok(Err(outcome)) => outcome,
            Err(_) => silent(check.timeout),
        }
    }

    /// Where checks of `address` come from.
    fn source_for(&self, address: IpAddr) -> Result<IpAddr, Outcome> {
        let missing = || {
            let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
            Outcome::NotMade(format!("[health] source has no {family} address, and {address} is one; add one to that list"))
        };
        self.source.same_family(address).ok_or_else(missing)
    }

    async fn udp(&self, target: &Target, port: u16, send: &[u8], expect: Option<&Expect>) -> Result<(), Outcome> {
        let socket = socket::udp(self.source_for(target.address)?)?;
        let peer = SocketAddr::new(target.address, port);
        let socket = UdpSocket::from_std(socket).map_err(socket::not_made("using a socket"))?;
        // Connected, so that the kernel tells of a port that is closed.
        socket.connect(peer).await.map_err(|e| socket::failed(&e, peer))?;
        let mut answer = vec![0; 65_535];
        loop {
            socket.send(send).await.map_err(|e| socket::failed(&e, peer))?;
            // One lost datagram is no failure.
            match timeout(target.check.timeout / 3, socket.recv(&mut answer)).await {
                Err(_) => {}
                Ok(Err(error)) => return Err(socket::failed(&error, peer)),
                Ok(Ok(length)) => return expected(expect, &answer[..length]),
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

fn silent(timeout: Duration) -> Outcome {
    Outcome::Failed(Failure::Silent(format!("nothing came within {}", human(timeout))))
}

fn expected(expect: Option<&Expect>, answer: &[u8]) -> Result<(), Outcome> {
    match expect {
        Some(expect) if !expect.met(answer) => {
            let what = if expect.at_start { "begins with" } else { "has" };
            let (wanted, found) = (super::outcome::shown(&expect.bytes), super::outcome::shown(answer));
            Err(Outcome::Failed(Failure::Content(format!("no answer that {what} {wanted:?}, but {found:?}"))))
        }
        _ => Ok(()),
    }
}

//! Makes a tftp check: sends requests and acknowledgements in GRE to the backend, and receives answers directly from it.

use super::socket::{self, not_run};
use super::{Prober, Target};
use crate::outcome::Outcome;
use crate::tftp_check::TftpCheck;
use guideway_config::TftpProbe;
use guideway_packet::time::Time;
use guideway_packet::wire::build;
use std::net::SocketAddr;
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

impl Prober {
    pub(super) async fn tftp(&self, target: &Target, probe: &TftpProbe) -> Outcome {
        self.read(target, probe).await.unwrap_or_else(|outcome| outcome)
    }

    async fn read(&self, target: &Target, probe: &TftpProbe) -> Result<Outcome, Outcome> {
        let vip = target.vip.ok_or_else(|| Outcome::NotRun("no tftp service uses the pool".to_owned()))?;
        let source = self.source_for(vip)?;
        // Neither connected nor shared: a server answers from another port, and this port tells checks apart.
        let socket = socket::udp(source)?;
        let local = SocketAddr::new(source, socket.local_addr().map_err(not_run("cannot read the local port"))?.port());
        let socket = UdpSocket::from_std(socket).map_err(not_run("cannot use a socket"))?;
        let mut check = TftpCheck::new(probe, vip, target.check.timeout, self.now()).with_tid_range(target.tid_range);
        let mut out = Vec::with_capacity(128);
        let mut datagram = vec![0; usize::from(probe.blksize).max(512) + 64];
        loop {
            while let Some(to) = check.transmit(&mut out) {
                self.gre.send(&build::udp(local, to, &out), target.address)?;
            }
            if let Some(outcome) = check.outcome() {
                return Ok(outcome.clone());
            }
            let deadline = self.started + (check.deadline() - Time(0));
            match timeout_at(deadline, socket.recv_from(&mut datagram)).await {
                Err(_) => check.expire(self.now()),
                Ok(Ok((length, from))) => check.receive(self.now(), from, &datagram[..length]),
                Ok(Err(error)) => return Err(not_run("receiving")(error)),
            }
        }
    }

    fn now(&self) -> Time {
        Time(0).plus(Instant::now() - self.started)
    }
}

//! A lab that is up: its parts, and what can be done to them while transfers run.

use super::args::{DecapMode, Io, LabArgs, ReloadKind};
use super::backends::{Backend, BackendConfig};
use super::cluster_store::ClusterStore;
use super::configuration::configuration;
use super::directors::Director;
use super::files::Files;
use super::link::Link;
use super::plan::{self, Plan};
use super::reload;
use super::report::RouterReport;
use super::router::{self, Router};
use super::topology::{ROUTER_INGRESS, Topology};
use super::traffic_monitor::{self, Port, TrafficMonitor};
use super::transfers::{self, TransferEvent, Workload};
use guideway_host::error::{Context, Error};
use guideway_host::netns::Namespace;
use guideway_testbed::servers::Server;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use tokio::sync::watch;

/// A lab that is up: hosts, router, directors, backends. Its parts may be stopped, started and changed while transfers run.
#[derive(Debug)]
pub struct Lab {
    /// Who is where.
    pub plan: Plan,
    /// Hosts and links.
    pub topology: Topology,
    /// Directors, as in the plan.
    pub directors: Vec<Director>,
    /// Backends, as in the plan, the spare one last.
    pub backends: Vec<Backend>,
    /// The router.
    pub router: Router,
    /// Who served what.
    pub monitor: TrafficMonitor,
    /// What can be fetched.
    pub files: Files,
    /// How directors get packets in and out.
    pub io: Io,
    /// What servers that take over and directors share.
    pub cluster_store: Option<ClusterStore>,
    directory: PathBuf,
    decap_mode: DecapMode,
    server: Server,
}

impl Lab {
    /// Builds everything in the current network namespace's surroundings, with its files below `directory`; returns when all are ready.
    pub fn start(args: &LabArgs, io: Io, directory: &Path) -> Result<Self, Error> {
        Self::start_with_link(Plan::new(args), args, io, directory, None)
    }

    /// The same with a link to the client that is watched and may be bad, and a disk of its own for every backend.
    pub fn start_with_link(plan: Plan, args: &LabArgs, io: Io, directory: &Path, link: Option<Link>) -> Result<Self, Error> {
        let mut files = Files::make(directory, args.size, args.transfers, args.concurrency, args.seed)?;
        let names: Vec<String> = plan.all_backends().map(|b| b.name.clone()).collect();
        if link.is_some() {
            files = files.with_server_roots(&names, args.size, args.seed)?;
        }
        let cluster_store = if plan.takeover {
            let file = directory.join("fleet.toml");
            let text = configuration(&plan, 0, io, &directory.join("fleet.sock"), &plan.backends);
            std::fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
            Some(ClusterStore::open(&plan, directory)?)
        } else {
            None
        };
        let topology = Topology::build(&plan)?;
        // GRE for a server of its own host never passes the fabric: it is seen on the loopback, whichever director sent it.
        let port = |(backend, host): (String, &Namespace)| match plan.local_servers {
            true => Port { backend, host: host.clone(), interface: "lo".to_owned() },
            false => Port { interface: backend.clone(), backend, host: topology.fabric.clone() },
        };
        let ports: Vec<Port> = names.into_iter().zip(&topology.backends).map(port).collect();
        let monitor = traffic_monitor::watch(&topology.fabric, &ports, args.ipv6)?;
        let start = |(number, (backend, host))| {
            let backend_config = BackendConfig {
                vip: plan.vip,
                decap_mode: args.decap,
                server: args.server,
                root: &files.server_root(number),
                directory,
                takeover: plan.takeover,
            };
            Backend::start(backend, host, &backend_config)
        };
        let backends = plan.all_backends().zip(&topology.backends).enumerate().map(start).collect::<Result<_, _>>()?;
        let start = |(number, host)| Director::start(&plan, number, host, io, directory);
        let mut directors = topology.directors.iter().enumerate().map(start).collect::<Result<Vec<_>, _>>()?;
        directors.iter_mut().try_for_each(Director::wait_ready)?;
        let router_config = router::RouterConfig {
            ingress: ROUTER_INGRESS.to_owned(),
            vips: vec![plan.vip_prefix()],
            ecmp: args.effective_ecmp(),
            sources: vec![plan.router.0],
            link,
            ..router::RouterConfig::default()
        };
        let router = topology.router.run(|| router::start(router_config))?;
        let (directory, decap_mode, server) = (directory.to_owned(), args.decap, args.server);
        Ok(Lab { plan, topology, directors, backends, router, monitor, files, io, cluster_store, directory, decap_mode, server })
    }

    /// Starts a backend again that was killed, by its place.
    pub fn start_backend(&mut self, number: usize) -> Result<(), Error> {
        let (root, vip) = (self.files.server_root(number), self.plan.vip);
        let backend_config = BackendConfig {
            vip,
            decap_mode: self.decap_mode,
            server: self.server,
            root: &root,
            directory: &self.directory,
            takeover: self.cluster_store.is_some(),
        };
        let host_and_process =
            self.plan.all_backends().nth(number).zip(self.topology.backends.get(number)).zip(self.backends.get_mut(number));
        host_and_process.map_or(Ok(()), |((backend, host), running)| running.restart(backend, host, &backend_config))
    }

    /// Starts a director again that ended, by its place, with these backends in its pool; returns when it is ready.
    pub fn start_director(&mut self, number: usize, backends: &[plan::Backend]) -> Result<(), Error> {
        if let Some((host, place)) = self.topology.directors.get(number).zip(self.directors.get_mut(number)) {
            *place = Director::start_with(&self.plan, number, host, self.io, &self.directory, backends)?;
            place.wait_ready()?;
        }
        Ok(())
    }

    /// Starts transfers; what happens comes out of the channel.
    pub fn transfers(&self, args: &LabArgs, interrupted: watch::Receiver<bool>) -> Result<mpsc::Receiver<TransferEvent>, Error> {
        let workload = Workload {
            clients: vec![(args.client, args.client.program()?)],
            vip: self.plan.vip,
            blksize: args.block_size(),
            windowsize: args.windowsize,
            duration: None,
            transfers: args.transfers,
            concurrency: args.concurrency,
            timeout: args.timeout,
            files: self.files.clone(),
        };
        transfers::start(&self.topology.client, workload, interrupted)
    }

    /// Reloads every director, and waits until they have done it. `after_transfers` is how many transfers had ended, for the report.
    pub fn reload(&mut self, kind: ReloadKind, after_transfers: u32) -> Result<reload::Outcome, Error> {
        reload::reload_all(kind, &self.plan, self.io, &mut self.directors, after_transfers)
    }

    /// Ends all directors; what did not end as it must.
    pub fn stop_directors(&mut self) -> Vec<Error> {
        self.directors.drain(..).filter_map(|mut d| d.stop().err()).collect()
    }

    /// What the router sent where.
    pub fn router_report(&self) -> RouterReport {
        let named = |address: IpAddr| {
            let director = self.plan.directors.iter().find(|d| d.address == address).map(|d| &d.name);
            let backend = self.plan.all_backends().find(|b| b.address == address).map(|b| &b.name);
            director.or(backend).cloned().unwrap_or(address.to_string())
        };
        let counters = &self.router.counters;
        RouterReport {
            received: counters.received.load(Ordering::Relaxed),
            unroutable: counters.unroutable.load(Ordering::Relaxed),
            send_errors: counters.send_errors.load(Ordering::Relaxed),
            sent: counters.directors().into_iter().map(|(address, n)| (named(address), n)).collect(),
        }
    }
}

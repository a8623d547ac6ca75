//! One run of the lab: everything up, transfers, report, everything down.

use super::args::{Io, LabArgs, Unwrap};
use super::backends::{Backend, Common};
use super::capture::Capture;
use super::chaos;
use super::directors::{self, Director};
use super::drain::Drain;
use super::files::Files;
use super::link::Link;
use super::plan::{self, Plan};
use super::reload;
use super::report::{self, BackendReport, Counts, Failure, Progress, Report, RouterReport};
use super::router::{self, Router};
use super::sandbox::{self, Inside, Role};
use super::shared::Shared;
use super::topology::{ROUTER_INGRESS, Topology};
use super::transfers::{self, Event, Order};
use super::witness::{self, Served};
use guideway_host::error::{Doing, Error};
use guideway_testbed::servers::Server;
use std::io::Write;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Instant;
use tokio::signal::unix::{SignalKind, signal};
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
    pub served: Served,
    /// What can be fetched.
    pub files: Files,
    /// How directors get packets in and out.
    pub io: Io,
    /// What servers that take over and directors share.
    pub shared: Option<Shared>,
    directory: PathBuf,
    unwrap: Unwrap,
    server: Server,
}

impl Lab {
    /// Builds everything in the current network namespace's surroundings, with its files below `directory`; returns when all are ready.
    pub fn up(args: &LabArgs, io: Io, directory: &Path) -> Result<Self, Error> {
        Self::up_with(Plan::new(args), args, io, directory, None)
    }

    /// The same with a link to the client that is watched and may be bad, and a disk of its own for every backend.
    pub fn up_with(plan: Plan, args: &LabArgs, io: Io, directory: &Path, link: Option<Link>) -> Result<Self, Error> {
        let mut files = Files::make(directory, args.size, args.transfers, args.concurrency, args.seed)?;
        let names: Vec<String> = plan.all_backends().map(|b| b.name.clone()).collect();
        if link.is_some() {
            files = files.with_disks(&names, args.size, args.seed)?;
        }
        let shared = if plan.takeover {
            let file = directory.join("fleet.toml");
            let text = directors::configuration(&plan, 0, io, &directory.join("fleet.sock"), &plan.backends);
            std::fs::write(&file, text).doing(|| format!("writing {}", file.display()))?;
            Some(Shared::open(&plan, directory)?)
        } else {
            None
        };
        let topology = Topology::build(&plan)?;
        let served = witness::watch(&topology.fabric, names, args.ipv6)?;
        let start = |(number, (backend, host))| {
            let common = Common {
                vip: plan.vip,
                unwrap: args.decap,
                server: args.server,
                root: &files.disk(number),
                directory,
                takeover: plan.takeover,
            };
            Backend::start(backend, host, &common)
        };
        let backends = plan.all_backends().zip(&topology.backends).enumerate().map(start).collect::<Result<_, _>>()?;
        let start = |(number, host)| Director::start(&plan, number, host, io, directory);
        let mut directors = topology.directors.iter().enumerate().map(start).collect::<Result<Vec<_>, _>>()?;
        directors.iter_mut().try_for_each(Director::wait_ready)?;
        let settings = router::Settings {
            ingress: ROUTER_INGRESS.to_owned(),
            vips: vec![plan.vip_net()],
            ecmp: args.hashed(),
            sources: vec![plan.router.0],
            link,
            ..router::Settings::default()
        };
        let router = topology.router.run(|| router::start(settings))?;
        let (directory, unwrap, server) = (directory.to_owned(), args.decap, args.server);
        Ok(Lab { plan, topology, directors, backends, router, served, files, io, shared, directory, unwrap, server })
    }

    /// Starts a backend again that was killed, by its place.
    pub fn start_backend(&mut self, number: usize) -> Result<(), Error> {
        let (root, vip) = (self.files.disk(number), self.plan.vip);
        let common = Common {
            vip,
            unwrap: self.unwrap,
            server: self.server,
            root: &root,
            directory: &self.directory,
            takeover: self.shared.is_some(),
        };
        let found = self.plan.all_backends().nth(number).zip(self.topology.backends.get(number)).zip(self.backends.get_mut(number));
        found.map_or(Ok(()), |((backend, host), running)| running.start_again(backend, host, &common))
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
    pub fn transfers(&self, args: &LabArgs, interrupted: watch::Receiver<bool>) -> Result<mpsc::Receiver<Event>, Error> {
        let order = Order {
            clients: vec![(args.client, args.client.program()?)],
            vip: self.plan.vip,
            blksize: args.block_size(),
            windowsize: args.windowsize,
            lasts: None,
            transfers: args.transfers,
            concurrency: args.concurrency,
            timeout: args.timeout,
            files: self.files.clone(),
        };
        transfers::start(&self.topology.client, order, interrupted)
    }

    /// Reloads every director, and waits until they have done it. `at` is how many transfers had ended, for the report.
    pub fn reload(&mut self, kind: reload::Kind, at: u32) -> Result<reload::Outcome, Error> {
        reload::carry_out(kind, &self.plan, self.io, &mut self.directors, at)
    }

    /// Ends all directors; what did not end as it must.
    pub fn stop_directors(&mut self) -> Vec<Error> {
        self.directors.drain(..).filter_map(|mut d| d.stop().err()).collect()
    }

    fn router_report(&self) -> RouterReport {
        let named = |address: IpAddr| {
            let director = self.plan.directors.iter().find(|d| d.address == address).map(|d| &d.name);
            let backend = self.plan.all_backends().find(|b| b.address == address).map(|b| &b.name);
            director.or(backend).cloned().unwrap_or(address.to_string())
        };
        let counters = &self.router.counters;
        RouterReport {
            received: counters.received.load(Ordering::Relaxed),
            unroutable: counters.unroutable.load(Ordering::Relaxed),
            refused: counters.refused.load(Ordering::Relaxed),
            sent: counters.directors().into_iter().map(|(address, n)| (named(address), n)).collect(),
        }
    }
}

/// The whole command, in whichever of its three processes this is.
pub fn run(args: &LabArgs) -> Result<u8, Error> {
    match sandbox::role() {
        Role::Outer if args.chaos.is_some() => {
            chaos::prepare(args)?;
            guideway_host::tun::check_tun()?;
            sandbox::outer()
        }
        Role::Outer => {
            args.check()?;
            args.server.program()?;
            args.client.program()?;
            guideway_host::tun::check_tun()?;
            sandbox::outer()
        }
        Role::Init => sandbox::init(),
        Role::Lab => inside(args, &sandbox::lab()?),
    }
}

fn choose_io(args: &LabArgs, inside: &Inside) -> Result<Io, Error> {
    match (args.io, inside.user_namespace) {
        (Some(io), _) if io.is_netmap() && !std::path::Path::new("/dev/netmap").exists() => Err(Error::Missing {
            what: "there is no /dev/netmap".to_owned(),
            mend: "load netmap's kernel module (`modprobe netmap`), or use another --io".to_owned(),
        }),
        (Some(Io::Netmap | Io::Vale), true) => Err(Error::Missing {
            what: "netmap is not permitted without root".to_owned(),
            mend: "run as root, or with --io af_packet".to_owned(),
        }),
        (Some(Io::AfXdp), true) => Err(Error::Missing {
            what: "AF_XDP is not permitted without root".to_owned(),
            mend: "run as root, or with --io af_packet".to_owned(),
        }),
        (Some(io), _) => Ok(io),
        (None, true) => Ok(Io::AfPacket),
        (None, false) => Ok(Io::AfXdp),
    }
}

/// Whether the server works where the lab runs: inside a user namespace this process is root of nothing but that.
fn check_server(server: Server, inside: &Inside) -> Result<(), Error> {
    if server == Server::InTftpd && inside.user_namespace {
        return Err(Error::Missing {
            what: "in.tftpd cannot run without root (it gives up its groups for every transfer, and a user namespace forbids that)"
                .to_owned(),
            mend: "run as root, or with --server dnsmasq".to_owned(),
        });
    }
    Ok(())
}

fn inside(args: &LabArgs, inside: &Inside) -> Result<u8, Error> {
    let io = choose_io(args, inside)?;
    if args.chaos.is_some() {
        let (args, script) = chaos::prepare(args)?;
        check_server(args.server, inside)?;
        return chaos::run(&args, &script, io, inside, &Interrupt::listen()?);
    }
    check_server(args.server, inside)?;
    let interrupt = Interrupt::listen()?;
    if args.block_size() != args.blksize.unwrap_or(args.block_size()) {
        eprintln!("note: {} cannot ask for a block size; its blocks have 512 bytes", args.client.name());
    }
    let mut lab = Lab::up(args, io, &inside.directory)?;
    let capture = args.capture.as_deref().map(|file| Capture::start(&lab.topology.router, file, args.ipv6)).transpose()?;
    // First, so that who reads that it is up may interrupt it.
    interrupt.is_up();
    if !args.json {
        print(&report::draw(&lab.plan, args, io.name()))?;
    }
    let mut report = measure(&mut lab, args, io, &interrupt)?;
    if let Some(capture) = capture {
        let frames = capture.finish()?;
        eprintln!("captured: {frames} frames");
    }
    if args.keep && !interrupt.happened() {
        show(args, &report)?;
        keep(&lab, inside, &interrupt);
        lab.stop_directors();
        return Ok(report.exit_code());
    }
    report.problems.extend(lab.stop_directors().iter().map(ToString::to_string));
    show(args, &report)?;
    Ok(report.exit_code())
}

fn measure(lab: &mut Lab, args: &LabArgs, io: Io, interrupt: &Interrupt) -> Result<Report, Error> {
    let events = lab.transfers(args, interrupt.receiver())?;
    let since = Instant::now();
    let (mut counts, mut failures, mut problems, mut reloaded) = (Counts::default(), Vec::new(), Vec::new(), None);
    let mut progress = Progress::new(args.transfers);
    let mut reload = args.reload;
    let (mut drain_at, mut drain) = (args.drain, None::<Drain>);
    for event in events {
        match event {
            Event::Started(_) => counts.started += 1,
            Event::Ended(transfer) => {
                counts.ended(&transfer.outcome);
                drain.iter_mut().for_each(|drain| drain.ended(lab.served.by(&transfer.file).as_deref(), transfer.ended));
                failures.extend(Failure::of(&transfer, lab.served.by(&transfer.file)));
                progress.show(&counts);
            }
        }
        let due = |percent: u8| u64::from(counts.over()) * 100 >= u64::from(percent) * u64::from(args.transfers);
        let all_run = counts.started >= args.concurrency.min(args.transfers);
        if let (Some(backend), Some(_)) = (lab.backends.first(), drain_at.take_if(|percent| all_run && due(*percent))) {
            match Drain::begin(&backend.name, &lab.directors, &lab.served, counts.over()) {
                Ok(begun) => drain = Some(begun),
                Err(e) => problems.push(e.to_string()),
            }
        }
        if let Some(now) = reload.take_if(|r| due(r.percent)) {
            match lab.reload(now.kind, counts.over()) {
                Ok(outcome) => reloaded = Some(outcome),
                Err(e) => problems.push(e.to_string()),
            }
        }
    }
    let seconds = since.elapsed().as_secs_f64();
    progress.finish();
    let drained = drain.map(|drain| drain.finish(&lab.served)).transpose().unwrap_or_else(|e| {
        problems.push(e.to_string());
        None
    });
    let mut directors = Vec::new();
    for director in &mut lab.directors {
        match director.status() {
            Ok(status) => directors.push(report::director(&director.name, &status)),
            Err(e) => problems.push(e.to_string()),
        }
    }
    let backend = |name: &String| BackendReport { name: name.clone(), transfers: lab.served.count(name) };
    Ok(Report {
        transfers: counts,
        asked: args.transfers,
        dropped: report::dropped(&directors),
        directors,
        backends: lab.backends.iter().map(|b| backend(&b.name)).collect(),
        router: lab.router_report(),
        io: io.name(),
        server: args.server.name(),
        client: args.client.name(),
        ecmp: args.hashed().name(),
        ipv6: args.ipv6,
        size: args.size,
        blksize: args.block_size(),
        concurrency: args.concurrency,
        decap: if lab.backends.iter().any(|b| b.decap.is_some()) { "user" } else { "kernel" },
        seconds,
        reload: reloaded,
        drain: drained,
        failures,
        problems,
        interrupted: interrupt.happened(),
    })
}

fn show(args: &LabArgs, report: &Report) -> Result<(), Error> {
    if args.json {
        let json = serde_json::to_string_pretty(report).doing(|| "writing the report".to_owned())?;
        return print(&format!("{json}\n"));
    }
    print(&report.text())
}

/// Prints to stdout; that its reader has gone away is an error like any other.
pub(super) fn print(text: &str) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).doing(|| "writing to stdout".to_owned())
}

/// Says how to look into the hosts, and waits for Ctrl-C.
fn keep(lab: &Lab, inside: &Inside, interrupt: &Interrupt) {
    let pid = &inside.outside_pid;
    let user = if inside.user_namespace { " --user --preserve-credentials" } else { "" };
    eprintln!("\nThe hosts stay until Ctrl-C. To look into one:");
    for host in lab.topology.hosts() {
        eprintln!("  {:<8} nsenter --target {pid}{user} --mount --pid --net=/proc/{pid}/fd/{}", host.name(), host.as_raw_fd());
    }
    eprintln!("Configurations and logs are in {} there.", inside.directory.display());
    interrupt.wait();
}

/// Ctrl-C, SIGTERM and SIGHUP.
pub(super) struct Interrupt {
    stop: watch::Sender<bool>,
    up: Arc<AtomicBool>,
}

impl Interrupt {
    /// Listens from now on. By handlers, not by blocking: a program that the lab starts would inherit what is blocked.
    fn listen() -> Result<Self, Error> {
        let interrupt = Interrupt { stop: watch::Sender::new(false), up: Arc::new(AtomicBool::new(false)) };
        let (stop, up) = (interrupt.stop.clone(), Arc::clone(&interrupt.up));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().doing(|| "starting a runtime".to_owned())?;
        let mut streams = {
            let _inside = runtime.enter();
            let listen = |kind| signal(kind).doing(|| "listening for signals".to_owned());
            [listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?, listen(SignalKind::hangup())?]
        };
        let body = move || {
            loop {
                let [interrupt, terminate, hangup] = &mut streams;
                runtime.block_on(async {
                    tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {}, _ = hangup.recv() => {} }
                });
                if !up.load(Ordering::Acquire) {
                    // Nothing is worth waiting for yet; with this process goes everything that it has made.
                    eprintln!("interrupted before the first transfer");
                    std::process::exit(130);
                }
                stop.send_replace(true);
            }
        };
        std::thread::Builder::new().name("signals".to_owned()).spawn(body).doing(|| "starting a thread".to_owned())?;
        Ok(interrupt)
    }

    /// There is something to put in order now: from here on an interruption ends the transfers and not the process.
    pub(super) fn is_up(&self) {
        self.up.store(true, Ordering::Release);
    }

    /// Becomes true when it happens.
    pub(super) fn receiver(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }

    /// Whether it did.
    pub(super) fn happened(&self) -> bool {
        *self.stop.borrow()
    }

    fn wait(&self) {
        if let Ok(runtime) = tokio::runtime::Builder::new_current_thread().build() {
            let mut receiver = self.receiver();
            // Fails only when the sender is gone, and we hold it.
            let _stopped = runtime.block_on(receiver.wait_for(|stop| *stop));
        }
    }
}

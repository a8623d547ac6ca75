//! The server process: file descriptors, privileges, signals.

use super::config::{self, Built};
pub use super::error::Error;
use super::error::system;
use super::listen;
use super::log::TransferLog;
use super::observer::TransferObserver;
use super::reload::{Applied, Reload};
use super::reports::Reports;
use super::status::{self, MaintenanceState, ReloadRequests, Status};
use guideway_api::status::Reloads;
use guideway_daemon::socket::ControlSocket;
use guideway_daemon::{metrics, systemd};
use guideway_store as store;
use guideway_tftp::directory::{Directory, DirectoryOptions};
use guideway_tftp::engine::{Config, Running, Server, TunnelConfig};
use guideway_tftp::handler::{SharedHandler, named};
use guideway_tftp::http;
use guideway_tftp::takeover::{Membership, Settings};
use guideway_tftp::writable::{self, WithUploads, Writable};
use indexmap::IndexMap;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{User, setgid, setgroups, setuid};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Threads of the runtime, on which handlers, status and metrics run.
const RUNTIME_THREADS: usize = 2;
/// How long the last reports may take at the end.
const REPORTS_GRACE: Duration = Duration::from_secs(5);

/// Options of the daemon.
#[derive(Clone, Debug)]
pub struct Options {
    /// Source of the files.
    pub files: Files,
    /// The file that `files` was read from, read again for a reload.
    pub config: Option<PathBuf>,
    /// The directory that clients may write to, with its limits; `None` if uploads are refused.
    pub writable: Option<(PathBuf, writable::Settings)>,
    /// Configuration of the engine. The daemon sets its runtime.
    pub engine: Config,
    /// Whether `engine.listen` was configured explicitly. If not, sockets from systemd replace it.
    pub addresses_given: bool,
    /// Listening addresses of HTTP, and limits of its connections.
    pub http: Vec<SocketAddr>,
    /// See `http`.
    pub http_limits: http::Limits,
    /// The user that the process switches to after the sockets are bound.
    pub user: Option<String>,
    /// The server's name in status and metrics.
    pub name: String,
    /// The control socket.
    pub socket: Option<PathBuf>,
    /// Listening address of the metrics endpoint.
    pub metrics: Option<SocketAddr>,
    /// The flags of `[server]`, which take precedence over those of the file.
    pub flags: config::Server,
    /// `[server]` of the file.
    pub server: config::Server,
    /// The section `[takeover]`. The engine's part of it is in `engine.takeover`.
    pub takeover: Option<config::Takeover>,
    /// How long running transfers may go on after SIGTERM.
    pub grace: Duration,
}

/// Source of the files.
#[derive(Clone, Debug)]
pub enum Files {
    /// A directory, and how names in it are resolved.
    Directory(PathBuf, DirectoryOptions),
    /// The handlers and rules of a configuration.
    Rules(Box<config::Config>),
}

/// Logs where requests arrive, and from where they are answered.
fn log_addresses(server: &Server, tunnel: Option<&TunnelConfig>, http: &[SocketAddr]) {
    fn list<T: ToString>(addresses: &[T]) -> String {
        addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }
    let tunnel = tunnel.map(|tunnel| format!("{} in GRE to {}", list(&tunnel.vips), list(&tunnel.locals)));
    let plain = (!server.addresses().is_empty()).then(|| list(server.addresses()));
    let requests: Vec<String> = plain.into_iter().chain(tunnel).collect();
    tracing::info!("requests at {}", requests.join(", "));
    tracing::info!("answers from {}", list(server.tids()));
    if !http.is_empty() {
        tracing::info!("HTTP at {}", list(http));
    }
}

/// Serves until SIGTERM, and then until running transfers have ended or their grace is over, or until SIGINT; returns the counters. Each SIGUSR1 passes them to `counters`.
///
/// # Errors
/// When the server cannot be set up, or an event loop ends by itself.
pub fn run(options: Options, counters: impl Fn(&IndexMap<String, u64>)) -> Result<IndexMap<String, u64>, Error> {
    let started = Instant::now();
    let mut signals = SigSet::empty();
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGUSR1, Signal::SIGHUP].into_iter().for_each(|signal| signals.add(signal));
    signals.thread_block().map_err(system("blocking signals"))?;
    let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC).map_err(system("waiting for signals"))?;
    raise_descriptors();
    let user = options.user.as_deref().map(find).transpose()?;
    let mut engine = options.engine;
    let http_server = listen::open(&mut engine, options.addresses_given, &options.http, options.http_limits)?;
    // Before any thread starts, because the umask belongs to the whole process.
    let control = options.socket.as_deref().map(ControlSocket::claim).transpose()?;
    let scraped = options.metrics.map(metrics::listen).transpose()?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(RUNTIME_THREADS).thread_name("tftpd worker").enable_all().build();
    let runtime = Background(Some(runtime.map_err(|source| Error::System { doing: "starting threads".to_owned(), source })?));
    let background = runtime.handle();
    engine.runtime = Some(background.clone());
    let open =
        |(path, settings): (PathBuf, writable::Settings)| Writable::new(&path, settings).map_err(|source| Error::Writable { path, source });
    let uploads = options.writable.map(open).transpose()?;
    let built = match &options.files {
        Files::Directory(root, options) => {
            let files = Directory::new(root, *options).map_err(|source| Error::Root { path: root.clone(), source })?;
            let handler = match uploads.clone() {
                Some(uploads) => SharedHandler::new(WithUploads::new(named(config::ROOT, files), named(config::UPLOADS, uploads))),
                None => SharedHandler::new(named(config::ROOT, files)),
            };
            Built { handler, http: Vec::new() }
        }
        Files::Rules(config) => config.build(uploads.clone(), &[])?,
    };
    let memberships = match (&options.takeover, &engine.takeover) {
        (Some(takeover), Some(settings)) => watch_membership(takeover, settings, &options.name, background)?,
        _ => None,
    };
    let (loops, capacity) = (engine.loops, engine.max_transfers.saturating_mul(engine.loops));
    let settings = engine.takeover.clone();
    let caches = Mutex::new(built.caches());
    let (metrics, reports) = (Arc::default(), Arc::new(Reports::new(&options.name)));
    let observer = TransferObserver { log: TransferLog::default(), metrics: Arc::clone(&metrics), reports: Arc::clone(&reports) };
    let tunnel = engine.tunnel.clone();
    let server = Server::bind(engine, built.handler, observer)?;
    if let Some(user) = user {
        become_user(&user)?;
    }
    // As the user that opens them again later.
    let targets = if let Files::Rules(config) = &options.files { config.reports.as_ref() } else { None };
    reports.apply(reports.prepare(targets, background).map_err(Error::Reports)?);
    let http_addresses = http_server.as_ref().map(http::HttpServer::addresses).unwrap_or_default();
    log_addresses(&server, tunnel.as_ref(), &http_addresses);
    let status = Arc::new(Status {
        name: options.name.clone(),
        listen: server.addresses().to_vec(),
        tids: server.tids().to_vec(),
        http: http_addresses,
        loops,
        capacity,
        statistics: server.statistics().clone(),
        caches,
        checkpoints: settings.as_ref().map(|settings| (settings.checkpoint_store, server.takeover_status())),
        started,
        transfers: metrics,
        reports: Arc::clone(&reports),
        maintenance: MaintenanceState::default(),
        requests: ReloadRequests::default(),
        reloads: Mutex::new((Reloads { last: status::unix_seconds(), ..Reloads::default() }, Vec::new())),
    });
    if let Some(control) = &control {
        // In a task: the listener must be created inside its runtime.
        let listener =
            control.std_listener().map_err(|source| Error::System { doing: "listening on the control socket".to_owned(), source })?;
        let status = status.clone();
        background.spawn(async move { status::serve(tokio::net::UnixListener::from_std(listener)?, status).await });
    }
    if let Some(listener) = scraped {
        let status = status.clone();
        metrics::start(listener, move || status.metrics())
            .map_err(|source| Error::System { doing: "starting a thread for the metrics".to_owned(), source })?;
    }
    let running = server.start()?;
    status.maintenance.set_server(running.handle().clone());
    if let Some(http_server) = http_server {
        let _entered = background.enter();
        let started = http_server.start(&running.handle().service());
        started.map_err(|source| Error::System { doing: "listening for HTTP".to_owned(), source })?;
    }
    let mut reload = Reload {
        name: options.name,
        config: options.config,
        flags: options.flags,
        server: options.server,
        grace: options.grace,
        takeover: options.takeover,
        settings,
        uploads,
        http: built.http,
        reports: Arc::clone(&reports),
        runtime: background.clone(),
    };
    systemd::notify_ready();
    let mut watchdog = systemd::Watchdog::from_environment();
    loop {
        watchdog.report(Instant::now());
        let mut fds = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::from(1000u16)) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(system("waiting for signals")(errno)),
        }
        if let Some(membership) = memberships.iter().flat_map(Receiver::try_iter).last() {
            tracing::info!(servers = membership.members().len(), "takeover pool changed");
            running.handle().set_membership(&Arc::new(membership));
        }
        let signal = if fds[0].any() == Some(true) { signals.read_signal().map_err(system("reading a signal"))? } else { None };
        match signal.map(|signal| signal.ssi_signo as i32) {
            Some(signal) if signal == Signal::SIGUSR1 as i32 => counters(&status::counters(running.statistics())),
            Some(signal) if signal == Signal::SIGHUP as i32 => {
                let result = apply(&mut reload, &running, &mut watchdog);
                match &result {
                    Ok(applied) => {
                        applied.restart_required.iter().for_each(|change| tracing::warn!("{change} requires a restart, ignored"))
                    }
                    Err(reason) => tracing::error!(%reason, "reload refused, nothing changed"),
                }
                let result = status.record(result);
                if let Ok(reloads) = &result {
                    tracing::info!(reloads, "configuration reloaded");
                }
                status.requests.answer(&result);
            }
            Some(signal) if signal == Signal::SIGTERM as i32 => {
                drain(&running, reload.grace, &signals, background, &mut watchdog)?;
                break;
            }
            Some(_) => break,
            None if running.has_ended() => break,
            None => {}
        }
    }
    let statistics = running.statistics().clone();
    running.stop().map_err(|source| Error::System { doing: "serving".to_owned(), source })?;
    reports.stop(REPORTS_GRACE);
    tracing::info!("stopped");
    Ok(status::counters(&statistics))
}

/// Reloads on another thread: a root on a mount that hangs must not keep the watchdog waiting, which would kill a server that serves all others well.
fn apply(reload: &mut Reload, running: &Running, watchdog: &mut systemd::Watchdog) -> Result<Applied, String> {
    std::thread::scope(|scope| {
        let applying = scope.spawn(|| reload.apply(running));
        while !applying.is_finished() {
            watchdog.report(Instant::now());
            std::thread::sleep(Duration::from_millis(5));
        }
        applying.join().unwrap_or_else(|_| Err("the reload panicked".to_owned()))
    })
}

/// Lets running transfers end, and takes no new ones, until `grace` is over or a signal ends the server at once.
fn drain(
    running: &Running,
    grace: Duration,
    signals: &SignalFd,
    background: &tokio::runtime::Handle,
    watchdog: &mut systemd::Watchdog,
) -> Result<(), Error> {
    let open = running.statistics().totals().open();
    if grace.is_zero() || open == 0 {
        return Ok(());
    }
    tracing::info!(open, ?grace, "draining: running transfers may end, a second signal ends them at once");
    systemd::notify_stopping();
    running.handle().shutdown(grace);
    loop {
        watchdog.report(Instant::now());
        // Ready or not: the future is polled once.
        if background.block_on(async { tokio::time::timeout(Duration::ZERO, running.ended()).await.is_ok() }) {
            return Ok(());
        }
        let mut fds = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::from(50u16)) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(system("waiting for signals")(errno)),
        }
        let signal = if fds[0].any() == Some(true) { signals.read_signal().map_err(system("reading a signal"))? } else { None };
        if signal.is_some_and(|signal| [Signal::SIGTERM as u32, Signal::SIGINT as u32].contains(&signal.ssi_signo)) {
            return Ok(());
        }
    }
}

/// The runtime. It ends without waiting for its threads: one may hang in a system call.
struct Background(Option<tokio::runtime::Runtime>);

impl Background {
    fn handle(&self) -> &tokio::runtime::Handle {
        match &self.0 {
            Some(runtime) => runtime.handle(),
            None => unreachable!("only its drop takes it"),
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Watches the store for changes of the `[takeover]` pool and returns a channel of memberships; `None` if the pool is in no store.
///
/// The files of the store are read before this function returns: the user that the server becomes may not be able to read them.
fn watch_membership(
    takeover: &config::Takeover,
    settings: &Settings,
    name: &str,
    background: &tokio::runtime::Handle,
) -> Result<Option<Receiver<Membership>>, Error> {
    let Some(place) = takeover.store().map_err(Error::Takeover)? else { return Ok(None) };
    let (opened, wait) = channel();
    let (sender, memberships) = channel();
    let (mut takeover, mut place, settings, name) = (takeover.clone(), place, settings.clone(), name.to_owned());
    background.spawn(async move {
        let store = store::start(&place.at);
        let _waits = opened.send(store.as_ref().map(drop).map_err(ToString::to_string));
        let Ok(store) = store else { return };
        let mut seen = store.watch();
        let mut known = 0;
        while seen.changed().await.is_ok() {
            let cluster = seen.borrow_and_update().cluster.clone();
            if cluster.intent_generation == known {
                continue;
            }
            // The key may have changed. A file that is corrected later is read at the next change of the cluster state.
            match takeover.reload_store() {
                Ok(now) => (takeover, place) = now,
                Err(why) => tracing::warn!("files of [takeover] not reloaded: {why}"),
            }
            match takeover
                .membership_of(&place.pool_source(&cluster.intent), &name)
                .and_then(|membership| config::check_replacement(&settings, membership))
            {
                Ok(membership) => {
                    known = cluster.intent_generation;
                    if sender.send(membership).is_err() {
                        return;
                    }
                }
                Err(why) => tracing::error!("takeover pool not changed: {why}"),
            }
        }
    });
    match wait.recv() {
        Ok(Ok(())) => Ok(Some(memberships)),
        Ok(Err(why)) => Err(Error::Takeover(why)),
        Err(_) => Err(Error::Takeover("the thread that watches the store has ended".to_owned())),
    }
}

/// Raises the limit of open files to its maximum, because every transfer may hold a file open.
fn raise_descriptors() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(soft, hard)| if soft < hard { setrlimit(Resource::RLIMIT_NOFILE, hard, hard) } else { Ok(()) });
    if let Err(error) = raised {
        tracing::warn!("limit of open files not raised: {error}");
    }
}

fn find(name: &str) -> Result<User, Error> {
    User::from_name(name).map_err(system(format!("looking for the user {name}")))?.ok_or_else(|| Error::NoUser(name.to_owned()))
}

fn become_user(user: &User) -> Result<(), Error> {
    let doing = || format!("becoming the user {}", user.name);
    setgroups(&[user.gid]).map_err(system(doing()))?;
    setgid(user.gid).map_err(system(doing()))?;
    setuid(user.uid).map_err(system(doing()))
}

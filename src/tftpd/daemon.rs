//! The process around a server: descriptors, privileges, signals, a log line for each transfer.

use super::config::{self, Built};
use super::status::{self, Status};
use guideway_daemon::socket;
use guideway_daemon::socket::ControlSocket;
use guideway_daemon::{metrics, systemd};
use guideway_store as store;
use guideway_tftp::directory::{Directory, DirectoryOptions};
use guideway_tftp::engine::{self, Config, Server};
use guideway_tftp::handlers::background::Background;
use guideway_tftp::report::{Observer, Outcome, TransferReport};
use guideway_tftp::takeover::{Plan, Settings};
use guideway_tftp::writable::{self, Writable};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{User, setgid, setgroups, setuid};
use serde_json::Value;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

/// Threads that fetch from origins and ask programs, for all handlers together.
const BACKGROUND: usize = 2;

/// What the daemon is told.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where files come from.
    pub files: Files,
    /// The directory that clients may write to, if any, and within which limits.
    pub writable: Option<(PathBuf, writable::Settings)>,
    /// The server; where clients may write is taken from above.
    pub engine: Config,
    /// Whether the addresses of the server were said, rather than left to the default.
    pub addresses_said: bool,
    /// The user to become once the sockets are bound.
    pub user: Option<String>,
    /// Its name in what it tells of itself.
    pub name: String,
    /// The control socket.
    pub socket: Option<PathBuf>,
    /// Where metrics are served.
    pub metrics: Option<SocketAddr>,
    /// Going on with one another's transfers; what of it the engine needs is in `engine`.
    pub takeover: Option<config::Takeover>,
}

/// Where files come from.
#[derive(Clone, Debug)]
pub enum Files {
    /// A directory, and what is allowed of names in it.
    Directory(PathBuf, DirectoryOptions),
    /// The handlers and rules of a configuration.
    Rules(Box<config::Config>),
}

/// Why the daemon does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory cannot be served.
    #[error("serving {}: {source}", path.display())]
    Root {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The directory that clients may write to cannot be used.
    #[error("writing to {}: {source}", path.display())]
    Writable {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A handler of the configuration cannot be made.
    #[error(transparent)]
    Handlers(#[from] config::BuildError),
    /// The pool of `[takeover]` cannot be had.
    #[error("{0}")]
    Takeover(String),
    /// There is no such user.
    #[error("--user {0}: there is no such user on this host")]
    NoUser(String),
    /// systemd passes a socket for an address that the server was not told to listen at.
    #[error("systemd passes a socket for {0}, which is not among the addresses of `listen`: leave `listen` out, or name it there")]
    Unused(SocketAddr),
    /// A step that the kernel refused.
    #[error("{doing}: {source}")]
    System {
        /// What was tried.
        doing: String,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The control socket cannot be had.
    #[error(transparent)]
    Socket(#[from] socket::Error),
    /// The address for metrics cannot be had.
    #[error(transparent)]
    Metrics(#[from] metrics::Error),
    /// The sockets cannot be had.
    #[error(transparent)]
    Engine(#[from] engine::Error),
}

impl Error {
    /// Whether the options are wrong, rather than the host.
    pub fn is_usage(&self) -> bool {
        matches!(self, Error::Root { .. } | Error::Writable { .. } | Error::Handlers(_) | Error::NoUser(_) | Error::Unused(_))
    }
}

fn system(doing: impl Into<String>) -> impl FnOnce(nix::errno::Errno) -> Error {
    let doing = doing.into();
    move |errno| Error::System { doing, source: errno.into() }
}

/// Serves until SIGTERM or SIGINT; gives the counters. `counters` gets them at every SIGUSR1.
///
/// # Errors
/// When the server cannot be set up, or an event loop ends of its own accord.
pub fn run(options: Options, counters: impl Fn(&Value)) -> Result<Value, Error> {
    let started = Instant::now();
    let mut signals = SigSet::empty();
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGUSR1, Signal::SIGHUP].into_iter().for_each(|signal| signals.add(signal));
    signals.thread_block().map_err(system("blocking signals"))?;
    let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC).map_err(system("waiting for signals"))?;
    raise_descriptors();
    let user = options.user.as_deref().map(find).transpose()?;
    let mut engine = options.engine;
    take_passed(&mut engine, options.addresses_said)?;
    // Before there are threads, for the umask is the process's.
    let control = options.socket.as_deref().map(ControlSocket::claim).transpose()?;
    let scraped = options.metrics.map(metrics::listen).transpose()?;
    let background = Background::new(BACKGROUND).map_err(|source| Error::System { doing: "starting threads".to_owned(), source })?;
    let Built { handler, caches } = match &options.files {
        Files::Directory(root, options) => {
            let directory = Directory::new(root, *options).map_err(|source| Error::Root { path: root.clone(), source })?;
            Built { handler: Arc::new(directory), caches: Vec::new() }
        }
        Files::Rules(config) => config.build(&background)?,
    };
    let open =
        |(path, settings): (PathBuf, writable::Settings)| Writable::new(&path, settings).map_err(|source| Error::Writable { path, source });
    engine.writable = options.writable.map(open).transpose()?;
    let plans = match (&options.takeover, &engine.takeover) {
        (Some(takeover), Some(settings)) => follow(takeover, settings, &options.name, &background)?,
        _ => None,
    };
    let (loops, places) = (engine.loops, engine.max_transfers.saturating_mul(engine.loops));
    let settings = engine.takeover.clone();
    let server = Server::bind(engine, handler, Arc::new(Log))?;
    if let Some(user) = user {
        become_user(&user)?;
    }
    for (what, addresses) in [("requests at", server.addresses()), ("answers from", server.tids())] {
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        tracing::info!("{what} {}", addresses.join(", "));
    }
    let options_name = options.name.clone();
    let status = Arc::new(Status {
        name: options.name,
        listen: server.addresses().to_vec(),
        tids: server.tids().to_vec(),
        loops,
        places,
        statistics: server.statistics().clone(),
        caches,
        kept: settings.as_ref().map(|settings| (settings.memory, server.occupancy())),
        started,
    });
    if let Some(control) = &control {
        // On a thread of the background: its runtime must be there when the listener is made.
        let listener =
            control.listener_for_later().map_err(|source| Error::System { doing: "listening on the control socket".to_owned(), source })?;
        let status = status.clone();
        background.spawn(async move { status::serve(tokio::net::UnixListener::from_std(listener)?, status).await });
    }
    if let Some(listener) = scraped {
        background.spawn(metrics::serve(listener, move || status.metrics()));
    }
    let running = server.start()?;
    systemd::ready();
    loop {
        let mut fds = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::from(1000u16)) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(system("waiting for signals")(errno)),
        }
        if let Some(plan) = plans.iter().flat_map(Receiver::try_iter).last() {
            tracing::info!("takeover: {} servers in the pool", plan.members().len());
            running.set_plan(&Arc::new(plan));
        }
        let signal = if fds[0].any() == Some(true) { signals.read_signal().map_err(system("reading a signal"))? } else { None };
        match signal.map(|signal| signal.ssi_signo as i32) {
            Some(signal) if signal == Signal::SIGUSR1 as i32 => counters(&status::counters(running.statistics())),
            Some(signal) if signal == Signal::SIGHUP as i32 => match (&options.takeover, &settings) {
                (Some(takeover), Some(before)) => match takeover.again(&options_name, before) {
                    Ok(plan) => {
                        tracing::info!("takeover: {} servers in the pool", plan.members().len());
                        running.set_plan(&Arc::new(plan));
                    }
                    Err(why) => tracing::error!("the pool stays as it was: {why}"),
                },
                _ => tracing::warn!("SIGHUP changes nothing but the pool of [takeover]: all else needs a restart"),
            },
            Some(_) => break,
            None if running.has_ended() => break,
            None => {}
        }
    }
    let statistics = running.statistics().clone();
    running.stop().map_err(|source| Error::System { doing: "serving".to_owned(), source })?;
    tracing::info!("stopped");
    Ok(status::counters(&statistics))
}

/// Follows the pool of `[takeover]` where it is in a store: gives each plan that comes out of it. The store's files are read before this returns, for they may
/// not be readable for whom the server becomes.
fn follow(takeover: &config::Takeover, settings: &Settings, name: &str, background: &Background) -> Result<Option<Receiver<Plan>>, Error> {
    let Some(place) = takeover.store().map_err(Error::Takeover)? else { return Ok(None) };
    let (opened, wait) = channel();
    let (sender, plans) = channel();
    let (mut takeover, mut place, settings, name) = (takeover.clone(), place, settings.clone(), name.to_owned());
    background.spawn(async move {
        let store = store::start(&place.at);
        let _waits = opened.send(store.as_ref().map(drop).map_err(ToString::to_string));
        let Ok(store) = store else { return };
        let mut seen = store.watch();
        let mut known = 0;
        while seen.changed().await.is_ok() {
            let set = seen.borrow_and_update().set.clone();
            if set.intent_generation == known {
                continue;
            }
            // They may know another key by now. What is mended later is read at the next change of the set, of whatever kind.
            match takeover.in_store_now() {
                Ok(now) => (takeover, place) = now,
                Err(why) => tracing::warn!("the files of [takeover] count as they were: {why}"),
            }
            match takeover.plan_of(&place.described(&set.intent), &name).and_then(|plan| config::follows(&settings, plan)) {
                Ok(plan) => {
                    known = set.intent_generation;
                    if sender.send(plan).is_err() {
                        return;
                    }
                }
                Err(why) => tracing::error!("the pool stays as it was: {why}"),
            }
        }
    });
    match wait.recv() {
        Ok(Ok(())) => Ok(Some(plans)),
        Ok(Err(why)) => Err(Error::Takeover(why)),
        Err(_) => Err(Error::Takeover("the thread that follows the store is gone".to_owned())),
    }
}

/// Sockets that systemd passes take the place of the default addresses, and are used for those that are said.
fn take_passed(engine: &mut Config, addresses_said: bool) -> Result<(), Error> {
    let sockets = systemd::passed().map_err(|source| Error::System { doing: "taking sockets from systemd".to_owned(), source })?;
    engine.passed = sockets.into_iter().map(engine::Passed::new).collect::<Result<_, _>>()?;
    let passed: Vec<SocketAddr> = engine.passed.iter().map(|passed| passed.address).collect();
    if passed.is_empty() {
        return Ok(());
    }
    if !addresses_said {
        engine.listen = passed;
    } else if let Some(unused) = passed.iter().find(|address| !engine.listen.contains(address)) {
        return Err(Error::Unused(*unused));
    }
    Ok(())
}

/// Every transfer may have a file open.
fn raise_descriptors() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(soft, hard)| if soft < hard { setrlimit(Resource::RLIMIT_NOFILE, hard, hard) } else { Ok(()) });
    if let Err(error) = raised {
        tracing::warn!("the limit of open files stays as it is: {error}");
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

/// Logs each transfer.
struct Log;

impl Observer for Log {
    fn transfer(&self, report: &TransferReport<'_>) {
        let file = report.file.escape_ascii();
        let outcome = report.outcome.name();
        let seconds = report.duration.as_secs_f64();
        let (client, vip, repeated, write) = (report.client, report.vip, report.repeated, report.write);
        let (taken_over, tid) = (report.taken_over, report.tid);
        let bytes = if write { report.bytes_received } else { report.bytes_sent };
        match &report.outcome {
            Outcome::Refused(code, text) => {
                let code = code.map_or_else(|| "no answer".to_owned(), |code| code.to_string());
                tracing::info!(%client, %vip, %file, outcome, %code, "{text}");
            }
            Outcome::Aborted(code, text) => {
                tracing::info!(%client, %vip, %file, outcome, bytes, seconds, %code, "the client said: {}", text.escape_debug());
            }
            // Who changes what is on this host's disk is worth a line.
            Outcome::Done if write => tracing::info!(%client, %vip, %file, outcome, write, bytes, repeated, seconds),
            Outcome::Done if taken_over => tracing::info!(%client, %vip, %file, outcome, taken_over, tid, bytes, repeated, seconds),
            Outcome::Failed(why) => tracing::warn!(%client, %vip, %file, outcome, bytes, seconds, "{why}"),
            Outcome::Unheard | Outcome::TimedOut => tracing::info!(%client, %vip, %file, outcome, write, bytes, repeated, seconds),
            _ => tracing::debug!(%client, %vip, %file, outcome, write, bytes, repeated, seconds),
        }
    }
}

//! The process of a controller: its file, control socket, metrics and signals.

use super::controller::Controller;
use super::engine::{self, SharedController};
use super::probe::Prober;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use guideway_api as api;
use guideway_api::health::{ControllerKind, ControllerStatus, ControllerStore};
use guideway_api::status::{Reloaded, Reloads};
use guideway_config::health::{HealthFile, HealthSection, IntentSource, load_health, load_intent};
use guideway_config::{self as config, Checked, Intent, LoadError, Problem};
use guideway_daemon::metrics::{self, Exposition, MetricKind};
use guideway_daemon::socket;
use guideway_daemon::socket::ControlSocket;
use guideway_daemon::systemd;
use guideway_store::{self as store, Origin, Store};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;

/// Maximum number of queued reloads.
const MAX_RELOADS: usize = 16;

/// Why the controller did not start, or ended on its own.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The file has errors.
    #[error("{} has {} errors; see the log", file.display(), problems.len())]
    Config {
        /// The file.
        file: PathBuf,
        /// Errors and warnings.
        problems: Vec<Problem>,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] store::OpenError),
    /// The control socket.
    #[error(transparent)]
    Socket(#[from] socket::Error),
    /// Metrics.
    #[error(transparent)]
    Metrics(#[from] metrics::Error),
    /// The system refused a request.
    #[error("{what}: {error}")]
    System {
        /// The failed action.
        what: &'static str,
        /// The error of the system.
        error: std::io::Error,
    },
    /// A part of the controller ended.
    #[error("{0} has ended unexpectedly; the controller ends")]
    Ended(&'static str),
}

impl Error {
    /// Returns the exit code of the program: 2 for a bad configuration, otherwise 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Load(_) | Error::Config { .. } => 2,
            _ => 1,
        }
    }
}

/// The parts of a running controller that status and metrics show.
#[derive(Debug)]
struct Status {
    name: String,
    source: Vec<IpAddr>,
    store: Store,
    started: Instant,
    shared: SharedController,
    reloads: Mutex<Reloads>,
    /// Where requests for a reload are sent.
    reload: mpsc::Sender<ReloadReply>,
}

/// Gets the generation in force after a reload, or why the file was refused.
type ReloadReply = oneshot::Sender<Result<u64, String>>;

/// Source of a controller's intent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoadedIntent {
    /// A store.
    Store(config::Store),
    /// A file, with its contents.
    File(Intent),
}

/// Reads the controller's file, which must be valid, and its intent, unless that is in a store. Logs warnings.
///
/// # Errors
/// Returns an error when one of the files cannot be used.
pub fn read(file: &Path) -> Result<(HealthSection, LoadedIntent), Error> {
    let HealthFile { health, intent } = good(file, load_health(file)?)?;
    let intent = match intent {
        IntentSource::Store(store) => return Ok((health, LoadedIntent::Store(store))),
        IntentSource::Inline(intent) => intent,
        IntentSource::File(path) => {
            // Its warnings concern the director.
            let Checked { config, problems } = load_intent(&path)?;
            let intent = config.ok_or_else(|| Error::Config { file: path.clone(), problems })?;
            health.unsupported(&intent).iter().for_each(|warning| tracing::warn!("{}: {warning}", path.display()));
            intent
        }
    };
    Ok((health, LoadedIntent::File(intent)))
}

fn good<T>(file: &Path, checked: Checked<T>) -> Result<T, Error> {
    for warning in checked.warnings() {
        tracing::warn!("{}", warning.in_file(file));
    }
    let problems = checked.errors().cloned().collect();
    checked.config.ok_or_else(|| Error::Config { file: file.to_owned(), problems })
}

/// Runs the controller with the configuration in `file` until SIGTERM or SIGINT.
///
/// # Errors
/// Returns an error when the start fails or a part ends on its own.
pub fn run(file: &Path) -> Result<(), Error> {
    let (health, from) = read(file)?;
    raise_descriptors();
    let control = ControlSocket::claim(&health.socket)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::System { what: "cannot start the runtime", error })?;
    LocalSet::new().block_on(&runtime, serve(file, health, from, &control))
}

async fn serve(file: &Path, health: HealthSection, from: LoadedIntent, control: &ControlSocket) -> Result<(), Error> {
    let on = |kind: SignalKind| signal(kind).map_err(|error| Error::System { what: "cannot wait for signals", error });
    let (mut terminate, mut interrupt, mut hangup) =
        (on(SignalKind::terminate())?, on(SignalKind::interrupt())?, on(SignalKind::hangup())?);
    let store = match &from {
        LoadedIntent::Store(at) => tokio::select! {
            opened = store::open(at) => opened?,
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        },
        LoadedIntent::File(intent) => {
            tracing::warn!("no [store]: health is visible in `guideway status` and metrics only");
            Store::memory(intent.clone())
        }
    };
    let leadership = store.campaign(&health.name);
    let shared = SharedController::new(Controller::new(health.concurrency, fastrand::u64(..)));
    let source: Vec<IpAddr> = health.source.v4.map(IpAddr::V4).into_iter().chain(health.source.v6.map(IpAddr::V6)).collect();
    let sources: Vec<String> = source.iter().map(ToString::to_string).collect();
    let (reload_sender, mut reload_requests) = mpsc::channel(MAX_RELOADS);
    let status = Arc::new(Status {
        name: health.name.clone(),
        source,
        store: store.clone(),
        started: Instant::now(),
        shared: shared.clone(),
        reloads: Mutex::new(Reloads { last: unix_seconds(), ..Reloads::default() }),
        reload: reload_sender,
    });
    let listener = control.listener().map_err(|error| Error::System { what: "cannot listen on the control socket", error })?;
    let mut server = tokio::spawn(answer(listener, status.clone()));
    if let Some(address) = health.metrics {
        let status = status.clone();
        let started = metrics::start(metrics::listen(address)?, move || status.metrics());
        started.map_err(|error| Error::System { what: "cannot start a thread for the metrics", error })?;
    }
    let prober = Prober::new(health.source, health.exec_dirs.clone());
    let engine = engine::run(shared.clone(), prober, store.clone(), leadership.watch());
    tokio::pin!(engine);
    tracing::info!(name = %health.name, source = %sources.join(", "), "ready");
    systemd::notify_ready();
    let mut watchdog = systemd::Watchdog::from_environment();
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            () = &mut engine => return Err(Error::Ended("the engine")),
            _ = &mut server => return Err(Error::Ended("the control socket's server")),
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = tick.tick() => watchdog.report(Instant::now()),
            Some(()) = hangup.recv() => status.reloaded(&reload(file, &health, &from, &store).await),
            Some(reply) = reload_requests.recv() => {
                let outcome = reload(file, &health, &from, &store).await;
                status.reloaded(&outcome);
                // The requester may be gone.
                let _gone = reply.send(outcome);
            }
        }
    }
    // Running checks end with their sockets; the published health stays.
    leadership.resign().await;
    tracing::info!("ended");
    Ok(())
}

/// Applies the intent of the changed file, and returns the generation in force. An error, which is logged, changes nothing.
async fn reload(file: &Path, running: &HealthSection, from: &LoadedIntent, store: &Store) -> Result<u64, String> {
    let reason = match read(file) {
        Ok((health, _)) if health != *running => "[health] has changed; restart the controller to apply it".to_owned(),
        Ok((_, LoadedIntent::Store(at))) => match from {
            LoadedIntent::Store(running) if *running == at => match store.reload_credentials() {
                Ok(()) => {
                    tracing::info!("reloaded; the intent is in the store");
                    return Ok(store.watch().borrow().cluster.generation);
                }
                Err(error) => error.to_string(),
            },
            _ => "[store] has changed; restart the controller to apply it".to_owned(),
        },
        Ok(_) if matches!(from, LoadedIntent::Store(_)) => "[store] was removed; restart the controller to apply it".to_owned(),
        Ok((_, LoadedIntent::File(intent))) => {
            let base = store.watch().borrow().cluster.intent_generation;
            match store.commit(base, intent, &Origin { who: "reload".to_owned(), from: file.display().to_string(), reason: None }).await {
                Ok(generation) => {
                    tracing::info!(generation, "intent reloaded");
                    return Ok(generation);
                }
                Err(error) => error.to_string(),
            }
        }
        Err(Error::Config { file, problems }) => problems.iter().map(|p| p.in_file(&file).to_string()).collect::<Vec<_>>().join("\n"),
        Err(error) => error.to_string(),
    };
    tracing::error!(reason = %reason, "reload refused, nothing changed");
    Err(reason)
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Every running check needs a socket.
fn raise_descriptors() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(soft, hard)| if soft < hard { setrlimit(Resource::RLIMIT_NOFILE, hard, hard) } else { Ok(()) });
    if let Err(error) = raised {
        tracing::warn!(%error, "limit of open files not raised");
    }
}

async fn answer(listener: UnixListener, status: Arc<Status>) -> std::io::Result<()> {
    let unknown = || async {
        (
            StatusCode::NOT_FOUND,
            Json(api::error::Error { error: "unknown resource; use /v1/status, or /v1/reload".to_owned(), ..api::error::Error::default() }),
        )
    };
    let show = |State(status): State<Arc<Status>>| async move { Json(status.document()) };
    let reload = |State(status): State<Arc<Status>>| async move {
        let refused = |status: StatusCode, error: String| (status, Json(api::error::Error { error, ..api::error::Error::default() }));
        let (reply, answered) = oneshot::channel();
        let _ending = status.reload.send(reply).await;
        match answered.await {
            Ok(Ok(generation)) => Ok(Json(Reloaded { generation })),
            Ok(Err(why)) => Err(refused(StatusCode::UNPROCESSABLE_ENTITY, why)),
            Err(_) => Err(refused(StatusCode::SERVICE_UNAVAILABLE, "the controller is ending".to_owned())),
        }
    };
    let routes = Router::new().route("/v1/status", get(show)).route("/v1/reload", post(reload));
    axum::serve(listener, routes.fallback(unknown).with_state(status)).await
}

impl Status {
    fn document(&self) -> ControllerStatus {
        ControllerStatus {
            kind: ControllerKind::Health,
            name: self.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: self.started.elapsed().as_secs(),
            source: self.source.clone(),
            store: ControllerStore { kind: self.store.kind().to_owned(), durable: self.store.is_durable() },
            reload: self.reloads(),
            checking: self.shared.lock().document(),
        }
    }

    fn reloads(&self) -> Reloads {
        self.reloads.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn reloaded(&self, outcome: &Result<u64, String>) {
        let mut reloads = self.reloads.lock().unwrap_or_else(PoisonError::into_inner);
        *(if outcome.is_ok() { &mut reloads.accepted } else { &mut reloads.refused }) += 1;
        (reloads.last, reloads.last_error) = (unix_seconds(), outcome.as_ref().err().cloned());
    }

    fn metrics(&self) -> String {
        exposition(&self.name, self.store.kind(), self.started.elapsed(), &self.reloads(), &self.shared.lock()).finish()
    }
}

/// Returns every metric of a controller with its samples. `store` is the kind of its store.
pub fn exposition(name: &str, store: &str, uptime: Duration, reloads: &Reloads, controller: &Controller) -> Exposition {
    let mut out = Exposition::default();
    let labels = [("name", name), ("version", env!("CARGO_PKG_VERSION")), ("store", store)];
    out.metric("guideway_health_info", MetricKind::Gauge, "Always 1; the labels say which controller this is.").sample(&labels, 1u64);
    out.metric("guideway_health_uptime_seconds", MetricKind::Gauge, "Seconds since the controller started.").sample(&[], uptime.as_secs());
    let successful = u64::from(reloads.last_error.is_none());
    let help = "1 when the last reload was accepted; the start counts.";
    out.metric("guideway_health_last_reload_successful", MetricKind::Gauge, help).sample(&[], successful);
    let help = "When the file was last read, in seconds since 1970-01-01 UTC.";
    out.metric("guideway_health_last_reload_timestamp_seconds", MetricKind::Gauge, help).sample(&[], reloads.last);
    controller.metrics(&mut out);
    out
}

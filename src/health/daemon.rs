//! The process around a controller: its file, control socket, metrics, signals.

use super::controller::Controller;
use super::engine::{self, Shared};
use super::probe::Prober;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use guideway_config::health::{HealthFile, HealthSection, IntentSource, load_health, load_intent};
use guideway_config::{self as config, Checked, Intent, LoadError, Problem};
use guideway_daemon::metrics::{self, Exposition, Kind};
use guideway_daemon::socket;
use guideway_daemon::socket::ControlSocket;
use guideway_daemon::systemd;
use guideway_store::{self as store, Store};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;

/// Why the controller did not start, or ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The file has errors.
    #[error("{} cannot be used: {} errors", file.display(), problems.len())]
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
    /// Something that the system refused.
    #[error("{what}: {error}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system says.
        error: std::io::Error,
    },
    /// A part ended.
    #[error("{0} has ended unexpectedly; the controller ends")]
    Ended(&'static str),
}

impl Error {
    /// The exit code of the program: 2 for a bad configuration, else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Load(_) | Error::Config { .. } => 2,
            _ => 1,
        }
    }
}

/// What a running controller tells of itself.
#[derive(Debug)]
struct Status {
    name: String,
    source: Value,
    store: Store,
    started: Instant,
    shared: Shared,
}

/// Where a controller's intent comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IntentFrom {
    /// From a store.
    Store(config::Store),
    /// From a file, where this was.
    File(Intent),
}

/// Reads the controller's file, which must be good, and the intent that it has or names, if that is not in a store. Warnings are logged.
///
/// # Errors
/// When one of the files cannot be used.
pub fn read(file: &Path) -> Result<(HealthSection, IntentFrom), Error> {
    let HealthFile { health, intent } = good(file, load_health(file)?)?;
    let intent = match intent {
        IntentSource::Store(store) => return Ok((health, IntentFrom::Store(store))),
        IntentSource::Here(intent) => intent,
        IntentSource::File(path) => {
            // Its warnings are those of who forwards.
            let Checked { config, problems } = load_intent(&path)?;
            let intent = config.ok_or_else(|| Error::Config { file: path.clone(), problems })?;
            health.cannot(&intent).iter().for_each(|said| tracing::warn!("{}: {said}", path.display()));
            intent
        }
    };
    Ok((health, IntentFrom::File(intent)))
}

fn good<T>(file: &Path, checked: Checked<T>) -> Result<T, Error> {
    for warning in checked.warnings() {
        tracing::warn!("{}", warning.in_file(file));
    }
    let problems = checked.errors().cloned().collect();
    checked.config.ok_or_else(|| Error::Config { file: file.to_owned(), problems })
}

/// Runs the controller with the configuration in `file` until it is told to end by SIGTERM or SIGINT.
///
/// # Errors
/// When it cannot be set up, or a part of it ends of its own accord.
pub fn run(file: &Path) -> Result<(), Error> {
    let (health, from) = read(file)?;
    raise_descriptors();
    let control = ControlSocket::claim(&health.socket)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::System { what: "cannot start the runtime", error })?;
    LocalSet::new().block_on(&runtime, serve(file, health, from, &control))
}

async fn serve(file: &Path, health: HealthSection, from: IntentFrom, control: &ControlSocket) -> Result<(), Error> {
    let on = |kind: SignalKind| signal(kind).map_err(|error| Error::System { what: "waiting for signals", error });
    let (mut terminate, mut interrupt, mut hangup) =
        (on(SignalKind::terminate())?, on(SignalKind::interrupt())?, on(SignalKind::hangup())?);
    let store = match &from {
        IntentFrom::Store(at) => tokio::select! {
            opened = store::open(at) => opened?,
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        },
        IntentFrom::File(intent) => {
            tracing::warn!("there is no [store] that directors read: what is seen shows in `guideway status` and metrics only");
            Store::memory(intent.clone())
        }
    };
    let leadership = store.lead(&health.name);
    let shared = Shared::new(Controller::new(health.concurrency, fastrand::u64(..)));
    let sources: Vec<String> =
        [health.source.v4.map(|a| a.to_string()), health.source.v6.map(|a| a.to_string())].into_iter().flatten().collect();
    let status = Arc::new(Status {
        name: health.name.clone(),
        source: json!(sources),
        store: store.clone(),
        started: Instant::now(),
        shared: shared.clone(),
    });
    let listener = control.listener().map_err(|error| Error::System { what: "listening on the control socket", error })?;
    let mut server = tokio::spawn(answer(listener, status.clone()));
    if let Some(address) = health.metrics {
        tokio::spawn(metrics::serve(metrics::listen(address)?, move || status.metrics()));
    }
    let prober = Prober::new(health.source, health.exec.clone());
    let engine = engine::run(shared.clone(), prober, store.clone(), leadership.watch());
    tokio::pin!(engine);
    tracing::info!(name = %health.name, source = %sources.join(", "), "ready");
    systemd::ready();
    loop {
        tokio::select! {
            () = &mut engine => return Err(Error::Ended("the engine")),
            _ = &mut server => return Err(Error::Ended("the control socket's server")),
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            Some(()) = hangup.recv() => reload(file, &health, &from, &store).await,
        }
    }
    // Checks that are under way end with their sockets; what was published stands.
    leadership.resign().await;
    tracing::info!("ended");
    Ok(())
}

/// Takes over the intent of the file; what is wrong with it is logged and changes nothing.
async fn reload(file: &Path, running: &HealthSection, from: &IntentFrom, store: &Store) {
    let said = match read(file) {
        Ok((health, _)) if health != *running => "[health] has changed, which needs a restart".to_owned(),
        Ok((_, IntentFrom::Store(at))) => match from {
            IntentFrom::Store(running) if *running == at => return tracing::info!("the file is as it was; the intent is in the store"),
            _ => "[store] has changed, which needs a restart".to_owned(),
        },
        Ok(_) if matches!(from, IntentFrom::Store(_)) => "[store] is gone, which needs a restart".to_owned(),
        Ok((_, IntentFrom::File(intent))) => {
            let base = store.watch().borrow().set.intent_generation;
            match store.commit(base, intent).await {
                Ok(generation) => return tracing::info!(generation, "the intent was read again"),
                Err(error) => error.to_string(),
            }
        }
        Err(Error::Config { file, problems }) => problems.iter().map(|p| p.in_file(&file).to_string()).collect::<Vec<_>>().join("\n"),
        Err(error) => error.to_string(),
    };
    tracing::error!("nothing has changed: {said}");
}

/// Every check under way has a socket.
fn raise_descriptors() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(soft, hard)| if soft < hard { setrlimit(Resource::RLIMIT_NOFILE, hard, hard) } else { Ok(()) });
    if let Err(error) = raised {
        tracing::warn!("the limit of open files stays as it is: {error}");
    }
}

async fn answer(listener: UnixListener, status: Arc<Status>) -> std::io::Result<()> {
    let unknown = || async { (StatusCode::NOT_FOUND, Json(json!({"error": "there is no such resource: see /v1/status"}))) };
    let shown = |State(status): State<Arc<Status>>| async move { Json(status.to_json()) };
    axum::serve(listener, Router::new().route("/v1/status", get(shown)).fallback(unknown).with_state(status)).await
}

impl Status {
    fn to_json(&self) -> Value {
        let mut document = json!({
            "kind": "health",
            "name": self.name,
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_seconds": self.started.elapsed().as_secs(),
            "source": self.source,
            "store": {"kind": self.store.kind(), "durable": self.store.durable()},
        });
        if let (Some(document), Value::Object(rest)) = (document.as_object_mut(), self.shared.lock().to_json()) {
            document.extend(rest);
        }
        document
    }

    fn metrics(&self) -> String {
        let mut out = Exposition::default();
        let labels = [("name", self.name.as_str()), ("version", env!("CARGO_PKG_VERSION")), ("store", self.store.kind())];
        out.metric("guideway_health_info", Kind::Gauge, "Always 1; the labels say which controller this is.").sample(&labels, 1);
        let uptime = self.started.elapsed().as_secs();
        out.metric("guideway_health_uptime_seconds", Kind::Gauge, "Seconds since the controller started.").sample(&[], uptime);
        self.shared.lock().metrics(&mut out);
        out.finish()
    }
}

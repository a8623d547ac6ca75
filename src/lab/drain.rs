//! A drain in the middle of the transfers, by the command that operators use: no transfer may fail, and the drained backend may get none that is new.

use super::directors::Director;
use super::traffic_monitor::TrafficMonitor;
use guideway_api::backend::Backends;
use guideway_api::plan::Plan;
use guideway_daemon::client::Client;
use guideway_host::error::{Context, Error};
use guideway_testbed::programs;
use guideway_testbed::servers::last_line;
use serde::Serialize;
use std::process::{Command, Output, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// `guideway drain --wait` returns when nothing was seen for 10 s; for so long after the last transfer's end it may take at most.
const MAX_RETURN_DELAY: Duration = Duration::from_secs(20);
/// A request that was forwarded before the drain has reached the traffic monitor after this time.
const IN_FLIGHT_TIME: Duration = Duration::from_millis(200);

/// A drain that was begun.
#[derive(Debug)]
pub struct Drain {
    backend: String,
    after_transfers: u32,
    since: Instant,
    before: u64,
    /// When the drained backend's last transfer ended.
    last: Option<Instant>,
    waiter: JoinHandle<std::io::Result<(Output, Instant)>>,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Which backend.
    pub backend: String,
    /// How many transfers had ended when it was drained.
    pub after_transfers: u32,
    /// Transfers whose request had reached it by then.
    pub requests_before: u64,
    /// The same at the end: more would be wrong.
    pub requests_after: u64,
    /// From the drain to the end of its last transfer.
    pub last_ended_seconds: Option<f64>,
    /// From the drain to the return of `guideway drain --wait`.
    pub returned_seconds: f64,
    /// What that command said.
    pub output: Vec<String>,
    /// Whether it did what it must.
    pub ok: bool,
}

impl Drain {
    /// Drains `backend` at every director. `after_transfers` is how many transfers had ended, for the report.
    pub fn start(backend: &str, directors: &[Director], monitor: &TrafficMonitor, after_transfers: u32) -> Result<Drain, Error> {
        for director in directors {
            let client = Client::Socket(director.socket.clone());
            let all: Backends = client.get("/v1/backends").with_context(|| format!("asking director {}", director.name))?;
            let known = all.backends.iter().find(|known| known.name == backend);
            let missing = || Error::failed("draining".to_owned(), format!("director {} has no backend {backend}", director.name));
            let path = format!("/v1/pools/{}/backends/{backend}/drain", known.ok_or_else(missing)?.pool);
            client.change::<Plan>("POST", &path, None).with_context(|| format!("draining {backend} at director {}", director.name))?;
        }
        let since = Instant::now();
        std::thread::sleep(IN_FLIGHT_TIME);
        let before = monitor.requests_to(backend);
        let mut command = Command::new(programs::guideway()?);
        command.args(["drain", backend, "--wait"]).stdin(Stdio::null());
        for director in directors {
            command.arg("--socket").arg(&director.socket);
        }
        let run = move || command.output().map(|output| (output, Instant::now()));
        let waiter = std::thread::Builder::new().name("drain".to_owned()).spawn(run).with_context(|| "starting a thread".to_owned())?;
        Ok(Drain { backend: backend.to_owned(), after_transfers, since, before, last: None, waiter })
    }

    /// A transfer of `backend` has ended at `ended`.
    pub fn ended(&mut self, backend: Option<&str>, ended: Instant) {
        if backend == Some(self.backend.as_str()) {
            self.last = self.last.max(Some(ended));
        }
    }

    /// After the last transfer: waits for the command.
    pub fn finish(self, monitor: &TrafficMonitor) -> Result<Outcome, Error> {
        let waited = self.waiter.join().map_err(|_| Error::failed("draining".to_owned(), "its thread panicked".to_owned()))?;
        let (output, returned) = waited.with_context(|| "running guideway drain".to_owned())?;
        let after = monitor.requests_to(&self.backend);
        // It must not return before the last transfer has ended, nor long after.
        let in_time = self.last.is_none_or(|last| returned > last && returned.duration_since(last) < MAX_RETURN_DELAY);
        let mut lines: Vec<String> = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
        if !output.status.success() {
            lines.push(last_line(&String::from_utf8_lossy(&output.stderr)).to_owned());
        }
        Ok(Outcome {
            ok: output.status.success() && after == self.before && in_time,
            backend: self.backend,
            after_transfers: self.after_transfers,
            requests_before: self.before,
            requests_after: after,
            last_ended_seconds: self.last.map(|last| last.duration_since(self.since).as_secs_f64()),
            returned_seconds: returned.duration_since(self.since).as_secs_f64(),
            output: lines,
        })
    }
}

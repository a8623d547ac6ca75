//! The directors of the lab: `guideway director`, each on its host with its own file, queried over its control socket.

use super::args::Io;
use super::configuration::configuration;
use super::plan::{Backend, Plan};
use super::sys;
use super::topology::INTERFACE;
use guideway_api::status::DirectorStatus;
use guideway_daemon::client as control_client;
use guideway_host::error::{Context, Error};
use guideway_host::netns::Namespace;
use guideway_testbed::programs;
use guideway_testbed::servers::last_line;
use guideway_testbed::wait::wait_for;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How long a director may take to be ready, and to end.
const TIMEOUT: Duration = Duration::from_secs(20);

/// A running director.
#[derive(Debug)]
pub struct Director {
    /// `d1`, …
    pub name: String,
    /// Its configuration.
    pub config: PathBuf,
    /// Its control socket.
    pub socket: PathBuf,
    log: PathBuf,
    child: Child,
}

impl Director {
    /// Starts director `number` of the plan on `host`; its files go to `directory`. Wait for it with [`Director::wait_ready`].
    pub fn start(plan: &Plan, number: usize, host: &Namespace, io: Io, directory: &Path) -> Result<Self, Error> {
        Self::start_with(plan, number, host, io, directory, &plan.backends)
    }

    /// The same with other backends in the pool than the plan's.
    pub fn start_with(plan: &Plan, number: usize, host: &Namespace, io: Io, directory: &Path, backends: &[Backend]) -> Result<Self, Error> {
        let name = host.name().to_owned();
        let at = |suffix: &str| directory.join(format!("{name}.{suffix}"));
        if io.is_netmap() {
            host.run(|| sys::segments_off(INTERFACE).with_context(|| format!("switching off offloads of {INTERFACE} on {name}")))?;
        }
        let (config, socket, log) = (at("toml"), at("sock"), at("log"));
        let text = configuration(plan, number, io, &socket, backends);
        std::fs::write(&config, text).with_context(|| format!("writing {}", config.display()))?;
        let output = std::fs::File::create(&log).with_context(|| format!("making {}", log.display()))?;
        let both = output.try_clone().with_context(|| format!("opening {}", log.display()))?;
        let mut command = Command::new(programs::guideway()?);
        command.args(["director", "--config"]).arg(&config).stdin(Stdio::null()).stdout(output).stderr(both);
        let child = host.spawn(&mut command)?;
        Ok(Director { name, config, socket, log, child })
    }

    /// Its process number, inside the lab.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap_or(i32::MAX))
    }

    /// Waits until it says that it is ready.
    ///
    /// # Errors
    /// When it ends, or is not ready within 20 s; with its last words.
    pub fn wait_ready(&mut self) -> Result<(), Error> {
        let what = format!("starting director {}", self.name);
        wait_for(&what, TIMEOUT, || {
            if control_client::get::<DirectorStatus>(&self.socket, "/v1/status").is_ok_and(|status| status.ready) {
                return Ok(ControlFlow::Break(()));
            }
            match self.child.try_wait().with_context(|| what.clone())? {
                Some(status) => Err(Error::failed(&what, format!("it ended with {status}: {}", last_line(&self.log_text())))),
                None => Ok(ControlFlow::Continue(last_line(&self.log_text()).to_owned())),
            }
        })
    }

    /// Everything that it has logged.
    pub fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// What it says of itself: name, generation, counters.
    ///
    /// # Errors
    /// When it does not answer; with how it ended and what it last said, if it has ended.
    pub fn status(&mut self) -> Result<DirectorStatus, Error> {
        let answer = control_client::get(&self.socket, "/v1/status");
        if answer.is_err()
            && let Ok(Some(status)) = self.child.try_wait()
        {
            return Err(Error::failed(format!("director {} is gone", self.name), format!("{status}: {}", last_line(&self.log_text()))));
        }
        answer.with_context(|| format!("asking director {}", self.name))
    }

    /// Writes its configuration anew and sends SIGHUP.
    pub fn reload(&self, text: &str) -> Result<(), Error> {
        std::fs::write(&self.config, text).with_context(|| format!("writing {}", self.config.display()))?;
        kill(self.pid(), Signal::SIGHUP).with_context(|| format!("sending SIGHUP to director {}", self.name))
    }

    /// Ends it by SIGKILL.
    pub fn kill(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }

    /// Sends it a signal, such as SIGSTOP.
    pub fn signal(&self, signal: Signal) -> Result<(), Error> {
        kill(self.pid(), signal).with_context(|| format!("sending {signal} to director {}", self.name))
    }

    /// Ends it by SIGTERM, or by SIGKILL when that does not help within 20 s. The exit status must be 0.
    pub fn stop(&mut self) -> Result<(), Error> {
        let what = format!("ending director {}", self.name);
        // A process that is gone already shows in its status below.
        let _gone = kill(self.pid(), Signal::SIGTERM);
        let ended = wait_for(&what, TIMEOUT, || match self.child.try_wait().with_context(|| what.clone())? {
            Some(status) if status.success() => Ok(ControlFlow::Break(())),
            Some(status) => Err(Error::failed(&what, format!("it ended with {status}: {}", last_line(&self.log_text())))),
            None => Ok(ControlFlow::Continue("it runs in spite of SIGTERM".to_owned())),
        });
        if ended.is_err() {
            let _gone = self.child.kill();
        }
        ended
    }
}

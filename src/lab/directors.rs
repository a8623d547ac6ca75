//! The directors of the lab: `guideway director`, each on its host with its own file, asked over its control socket.

use super::args::Io;
use super::plan::{self, Backend, Plan, WEIGHT};
use super::shared;
use super::switch;
use super::sys;
use super::topology::INTERFACE;
use guideway_config::Admission;
use guideway_daemon::client as control_client;
use guideway_director::cpus;
use guideway_host::error::{Doing, Error};
use guideway_host::netns::Namespace;
use guideway_testbed::programs;
use guideway_testbed::servers::last_line;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a director may take to be ready, and to end.
const PATIENCE: Duration = Duration::from_secs(20);

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
            host.run(|| sys::segments_off(INTERFACE).doing(|| format!("switching off offloads of {INTERFACE} on {name}")))?;
        }
        let (config, socket, log) = (at("toml"), at("sock"), at("log"));
        let text = configuration(plan, number, io, &socket, backends);
        std::fs::write(&config, text).doing(|| format!("writing {}", config.display()))?;
        let output = std::fs::File::create(&log).doing(|| format!("making {}", log.display()))?;
        let both = output.try_clone().doing(|| format!("opening {}", log.display()))?;
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
        let doing = format!("starting director {}", self.name);
        let since = Instant::now();
        loop {
            let answer = control_client::get(&self.socket, "/v1/status");
            if answer.as_ref().is_ok_and(|status| status["ready"] == json!(true)) {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait().doing(|| doing.clone())? {
                return Err(Error::failed(doing, format!("it ended with {status}: {}", last_line(&self.said()))));
            }
            if since.elapsed() > PATIENCE {
                return Err(Error::failed(doing, format!("not ready after {} s: {}", PATIENCE.as_secs(), last_line(&self.said()))));
            }
            // It opens its socket whenever it is so far; there is nothing else to wait for.
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Everything that it has logged.
    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// What it says of itself: name, generation, counters.
    ///
    /// # Errors
    /// When it does not answer; with how it ended and what it last said, if it has ended.
    pub fn status(&mut self) -> Result<Value, Error> {
        let answer = control_client::get(&self.socket, "/v1/status");
        if answer.is_err()
            && let Ok(Some(status)) = self.child.try_wait()
        {
            return Err(Error::failed(format!("director {} is gone", self.name), format!("{status}: {}", last_line(&self.said()))));
        }
        answer.doing(|| format!("asking director {}", self.name))
    }

    /// Writes its configuration anew and sends SIGHUP.
    pub fn reload(&self, text: &str) -> Result<(), Error> {
        std::fs::write(&self.config, text).doing(|| format!("writing {}", self.config.display()))?;
        kill(self.pid(), Signal::SIGHUP).doing(|| format!("sending SIGHUP to director {}", self.name))
    }

    /// Ends it by SIGKILL.
    pub fn kill(&mut self) {
        let _gone = self.child.kill();
        let _collected = self.child.wait();
    }

    /// Sends it a signal, such as SIGSTOP.
    pub fn signal(&self, signal: Signal) -> Result<(), Error> {
        kill(self.pid(), signal).doing(|| format!("sending {signal} to director {}", self.name))
    }

    /// Ends it by SIGTERM, or by SIGKILL when that does not help within 20 s. The exit status must be 0.
    pub fn stop(&mut self) -> Result<(), Error> {
        let doing = || format!("ending director {}", self.name);
        // A process that is gone already shows in its status below.
        let _gone = kill(self.pid(), Signal::SIGTERM);
        let since = Instant::now();
        loop {
            match self.child.try_wait().doing(doing)? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(Error::failed(doing(), format!("it ended with {status}: {}", last_line(&self.said())))),
                None if since.elapsed() > PATIENCE => {
                    let _gone = self.child.kill();
                    return Err(Error::failed(doing(), format!("it did not end within {} s of SIGTERM", PATIENCE.as_secs())));
                }
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }
}

/// What stands in `io` besides interface and CPUs.
fn kind(io: Io) -> String {
    match io {
        Io::Vale => format!("kind = \"netmap\", rings = \"{}\", host_rings = \"netmap:{}\"", switch::DIRECTOR, switch::STACK),
        _ => format!("kind = \"{}\"", io.name()),
    }
}

/// The configuration of director `number` with these backends in the pool.
pub fn configuration(plan: &Plan, number: usize, io: Io, socket: &Path, backends: &[Backend]) -> String {
    let director = &plan.directors[number];
    let router = plan::net(plan.router.0, guideway_host::vip::host_prefix(plan.router.0));
    // Directors have machines of their own elsewhere; here each gets a CPU of its own as far as there are some.
    let cpus = cpus::allowed();
    let cpu = cpus.get(number % cpus.len().max(1)).copied().unwrap_or(0);
    let mut text = format!(
        r#"[director]
name = "{}"
address = "{}"
key = "000102030405060708090a0b0c0d0e0f"
io = {{ {}, interface = "{INTERFACE}", cpus = [{cpu}] }}
routers = ["{router}"]
socket = "{}"
"#,
        director.name,
        director.address,
        kind(io),
        socket.display(),
    );
    match socket.parent().filter(|_| plan.takeover) {
        Some(directory) => text.push_str(&shared::section(directory)),
        None => text.push_str(&intent(plan, backends)),
    }
    for backend in backends.iter().filter(|_| plan.is_crowded()) {
        let mac = backend.mac.map(|byte| format!("{byte:02x}")).join(":");
        // Writing to a String cannot fail.
        let _infallible = writeln!(text, "\n[[neighbour]]\naddress = \"{}\"\nmac = \"{mac}\"", backend.address);
    }
    text
}

/// The limits of the VIP, as a line of its section; nothing when there are none.
fn admission(limits: &Admission) -> String {
    let all = [("per_vip", limits.per_vip), ("per_backend", limits.per_backend), ("per_prefix", limits.per_prefix)];
    let said: Vec<String> = all.iter().filter_map(|(key, rate)| rate.map(|rate| format!("{key} = {rate}"))).collect();
    if said.is_empty() { String::new() } else { format!("\nadmission = {{ {} }}", said.join(", ")) }
}

/// What is served with these backends in the pool.
pub fn intent(plan: &Plan, backends: &[Backend]) -> String {
    let takeover = if plan.takeover { "\ntakeover = true" } else { "" };
    let mut text = format!(
        "\n[[vip]]\naddress = \"{}\"\nservice = \"tftp\"\npool = \"boot\"{}\n\n[[pool]]\nname = \"boot\"{takeover}\nbackends = [\n",
        plan.vip,
        admission(&plan.admission)
    );
    for backend in backends {
        let range = backend.tids.map(|(first, last)| format!(", tid_range = \"{first}-{last}\"")).unwrap_or_default();
        let weight = if backend.weight == WEIGHT { String::new() } else { format!(", weight = {}", backend.weight) };
        let drain = if backend.drain { ", drain = true" } else { "" };
        // Writing to a String cannot fail.
        let _infallible = writeln!(text, "  {{ name = \"{}\", address = \"{}\"{range}{weight}{drain} }},", backend.name, backend.address);
    }
    text.push_str("]\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LabArgs;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        lab: LabArgs,
    }

    #[test]
    fn every_file_that_the_lab_writes_is_a_good_configuration() {
        for flags in ["", "--ipv6", "--server dnsmasq-single-port", "--directors 16 --backends 64", "--ipv6 --directors 16 --backends 64"] {
            let args = Line::try_parse_from(std::iter::once("lab").chain(flags.split_whitespace())).unwrap().lab;
            let plan = Plan::new(&args);
            for io in [Io::AfXdp, Io::AfPacket, Io::Netmap, Io::Vale] {
                let text = configuration(&plan, 0, io, Path::new("/run/guideway-lab/d1.sock"), &plan.backends);
                let checked = guideway_config::read(&text);
                let config = checked.config.unwrap_or_else(|| panic!("{flags}: {:?}\n{text}", checked.problems));
                assert_eq!(config.pools[0].backends.len(), plan.backends.len());
                assert_eq!(!config.neighbours.is_empty(), plan.is_crowded());
            }
        }
    }
}

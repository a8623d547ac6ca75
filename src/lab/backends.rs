//! The backends of the lab: GRE unwrapped by the kernel or by `guideway decap`, the VIP on loopback, and a server behind it.

use super::args::DecapMode;
use super::plan;
use guideway_host::error::{Context, Error};
use guideway_host::netlink::Netlink;
use guideway_host::netns::Namespace;
use guideway_host::vip::{add_vip_address, backend_sysctls};
use guideway_testbed::programs;
use guideway_testbed::servers::{Server, ServerConfig, last_line};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Name of the kernel's tunnel on a backend.
const KERNEL_TUNNEL: &str = "gre-in";

/// A running backend. Its processes end with it.
#[derive(Debug)]
pub struct Backend {
    /// `t1`, …
    pub name: String,
    /// `guideway decap`; none where the kernel or the server unwraps.
    pub decap: Option<Child>,
    /// The TFTP server, the first of a process group of its own: some start a process for each transfer.
    pub server: Child,
}

/// What all backends have in common.
#[derive(Clone, Copy, Debug)]
pub struct BackendConfig<'a> {
    /// The VIP.
    pub vip: IpAddr,
    /// Who unwraps.
    pub decap_mode: DecapMode,
    /// The kind of server.
    pub server: Server,
    /// What it serves.
    pub root: &'a Path,
    /// Where logs go.
    pub directory: &'a Path,
    /// Servers go on with one another's transfers; the lab's `fleet.toml` says with whom.
    pub takeover: bool,
}

impl Backend {
    /// Starts `backend` of the plan on `host`; when this returns it serves.
    pub fn start(backend: &plan::Backend, host: &Namespace, config: &BackendConfig<'_>) -> Result<Self, Error> {
        let decap = match config.decap_mode {
            _ if config.server.decapsulates() => None,
            DecapMode::User => Some(start_user_decap(backend, host, config)?),
            DecapMode::Kernel if add_kernel_tunnel(backend, host, config.vip)? => None,
            DecapMode::Kernel => {
                return Err(Error::Missing {
                    what: "this kernel has no GRE devices".to_owned(),
                    hint: "load the module (`modprobe ip_gre`, `modprobe ip6_gre`) or leave --decap out".to_owned(),
                });
            }
            DecapMode::Auto if add_kernel_tunnel(backend, host, config.vip)? => None,
            DecapMode::Auto => Some(start_user_decap(backend, host, config)?),
        };
        let server = start_server(backend, host, config)?;
        Ok(Backend { name: backend.name.clone(), decap, server })
    }

    /// Starts again what [`Backend::kill`] ended; when this returns it serves.
    pub fn restart(&mut self, backend: &plan::Backend, host: &Namespace, config: &BackendConfig<'_>) -> Result<(), Error> {
        if self.decap.is_some() {
            self.decap = Some(start_user_decap(backend, host, config)?);
        }
        self.server = start_server(backend, host, config)?;
        Ok(())
    }

    /// Ends everything on it by SIGKILL, as a crash of the machine would.
    pub fn kill(&mut self) {
        // What was collected has no process group any more, and its number may be another's.
        if matches!(self.server.try_wait(), Ok(None)) {
            let _gone = self.signal(Signal::SIGKILL);
        }
        for child in self.decap.iter_mut().chain([&mut self.server]) {
            let _gone = child.kill();
            let _reaped = child.wait();
        }
    }

    /// Sends everything on it a signal, such as SIGSTOP.
    pub fn signal(&self, signal: Signal) -> Result<(), Error> {
        let pid = |child: &Child| Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX));
        let context = || format!("sending {signal} to {}", self.name);
        killpg(pid(&self.server), signal).with_context(context)?;
        self.decap.iter().try_for_each(|decap| nix::sys::signal::kill(pid(decap), signal).with_context(context))
    }
}

fn start_server(backend: &plan::Backend, host: &Namespace, config: &BackendConfig<'_>) -> Result<Child, Error> {
    let log = config.directory.join(format!("{}.server.log", backend.name));
    let director = config.directory.join("fleet.toml");
    let server_config = ServerConfig {
        name: &backend.name,
        takeover: config.takeover.then_some(&*director),
        vip: config.vip,
        address: backend.address,
        tid_range: backend.tid_range,
        root: config.root,
        log: &log,
    };
    config.server.start(host, &server_config)
}

impl Drop for Backend {
    fn drop(&mut self) {
        // Servers and decap hold nothing that must be put in order.
        self.kill();
    }
}

/// `Ok(false)` when this kernel has no GRE devices for the family.
fn add_kernel_tunnel(backend: &plan::Backend, host: &Namespace, vip: IpAddr) -> Result<bool, Error> {
    let created = Netlink::in_namespace(host, |n| {
        if !n.add_gre(KERNEL_TUNNEL, backend.address)? {
            return Ok(false);
        }
        n.set_up(KERNEL_TUNNEL, true)?;
        add_vip_address(n, vip, KERNEL_TUNNEL)?;
        Ok(true)
    })?;
    if created {
        backend_sysctls(KERNEL_TUNNEL).iter().try_for_each(|(key, value)| host.sysctl(key, value))?;
    }
    Ok(created)
}

fn start_user_decap(backend: &plan::Backend, host: &Namespace, config: &BackendConfig<'_>) -> Result<Child, Error> {
    let log = config.directory.join(format!("{}.decap.log", backend.name));
    let errors = std::fs::File::create(&log).with_context(|| format!("making {}", log.display()))?;
    let mut command = Command::new(programs::guideway()?);
    command.args(["decap", "--configure", "--local", &backend.address.to_string(), "--vip", &config.vip.to_string()]);
    let mut child = host.spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors))?;
    let mut output = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut output).with_context(|| format!("waiting for decap on {}", backend.name))?;
    }
    if output.starts_with("ready") {
        return Ok(child);
    }
    let _ended = child.kill();
    let _reaped = child.wait();
    let errors = std::fs::read_to_string(&log).unwrap_or_default();
    Err(Error::failed(format!("starting guideway decap on {}", backend.name), last_line(&errors)))
}

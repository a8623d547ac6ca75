//! TFTP servers that can run behind the VIP. A new kind is one more variant here.

use crate::programs;
use crate::wait::wait_for;
use guideway_host::error::{Context, Error};
use guideway_host::netns::Namespace;
use std::net::{IpAddr, SocketAddr};
use std::ops::ControlFlow;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Maximum time until a server listens.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A kind of server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Server {
    /// tftpd-hpa
    #[value(name = "in.tftpd")]
    InTftpd,
    /// dnsmasq, a port of its own for each transfer
    #[value(name = "dnsmasq")]
    Dnsmasq,
    /// dnsmasq, everything from port 69
    #[value(name = "dnsmasq-single-port")]
    DnsmasqSinglePort,
    /// guideway tftpd behind a decapsulating interface
    #[value(name = "guideway")]
    Guideway,
    /// guideway tftpd that takes GRE itself
    #[value(name = "guideway-tunnel")]
    GuidewayTunnel,
}

/// The configuration of one server.
#[derive(Clone, Debug)]
pub struct ServerConfig<'a> {
    /// The backend's name.
    pub name: &'a str,
    /// The file of a director, for servers that continue each other's transfers.
    pub takeover: Option<&'a Path>,
    /// Address that it listens on and answers from.
    pub vip: IpAddr,
    /// The backend's own address, where GRE arrives.
    pub address: IpAddr,
    /// Ports that it may use, inclusive.
    pub tid_range: Option<(u16, u16)>,
    /// Directory that it serves.
    pub root: &'a Path,
    /// File for its output.
    pub log: &'a Path,
}

impl Server {
    /// Returns its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Server::InTftpd => "in.tftpd",
            Server::Dnsmasq => "dnsmasq",
            Server::DnsmasqSinglePort => "dnsmasq-single-port",
            Server::Guideway => "guideway",
            Server::GuidewayTunnel => "guideway-tunnel",
        }
    }

    /// Returns whether its ports can be configured. A single-port server needs none.
    pub fn supports_tid_range(self) -> bool {
        match self {
            Server::InTftpd | Server::Dnsmasq | Server::Guideway | Server::GuidewayTunnel => true,
            Server::DnsmasqSinglePort => false,
        }
    }

    /// Returns whether it receives GRE from directors itself, so that no tunnel is needed.
    pub fn decapsulates(self) -> bool {
        self == Server::GuidewayTunnel
    }

    /// Returns the path of the program.
    ///
    /// # Errors
    /// Returns [`Error::Missing`] when it is not installed.
    pub fn program(self) -> Result<PathBuf, Error> {
        match self {
            Server::InTftpd => programs::find("in.tftpd", "tftpd-hpa"),
            Server::Dnsmasq | Server::DnsmasqSinglePort => programs::find("dnsmasq", "dnsmasq-base"),
            Server::Guideway | Server::GuidewayTunnel => programs::guideway(),
        }
    }

    fn command(self, config: &ServerConfig<'_>) -> Result<Command, Error> {
        let mut command = Command::new(self.program()?);
        if let (Server::GuidewayTunnel, Some(director)) = (self, config.takeover) {
            let file = write_takeover_config(config, director)?;
            command.args(["tftpd", "--log-level", "warn", "--config"]).arg(file);
            return Ok(command);
        }
        match self {
            Server::InTftpd => {
                // Version 5.2 answers from the wrong address when it listens on all of them.
                command
                    .args(["--foreground", "--secure", "--create", "--user", "root", "--address"])
                    .arg(SocketAddr::new(config.vip, 69).to_string());
                if let Some((first, last)) = config.tid_range {
                    command.arg("--port-range").arg(format!("{first}:{last}"));
                }
                command.arg(config.root);
            }
            Server::Dnsmasq | Server::DnsmasqSinglePort => {
                // Port 0 switches DNS off. Its limit of 50 transfers would make requests wait or be dropped.
                command.args(["--no-daemon", "--conf-file=/dev/null", "--port=0", "--enable-tftp", "--tftp-max=1000"]);
                command.args(["--user=root", "--group=root", "--pid-file=", "--no-hosts", "--no-resolv", "--tftp-no-fail"]);
                command.arg(format!("--listen-address={}", config.vip)).arg(format!("--tftp-root={}", config.root.display()));
                // Bound to its address, 2.90 in single-port mode answers from an address that it never set.
                command.arg(if self == Server::DnsmasqSinglePort { "--tftp-single-port" } else { "--bind-interfaces" });
                if let Some((first, last)) = config.tid_range {
                    command.arg(format!("--tftp-port-range={first},{last}"));
                }
            }
            Server::Guideway | Server::GuidewayTunnel => {
                // Many clients start at once on few processors, and atftp 0.8 aborts when it gets an OACK twice: so the first
                // retransmission comes late.
                command.args(["tftpd", "--log-level", "warn", "--root"]).arg(config.root);
                if self.decapsulates() {
                    command.args(["--gre", &config.address.to_string(), "--vip", &config.vip.to_string()]);
                } else {
                    command.args(["--listen", &SocketAddr::new(config.vip, 69).to_string()]);
                }
                // One port serves all transfers: the range may be as narrow as that.
                if let Some((first, _)) = config.tid_range {
                    command.args(["--tid-port", &first.to_string()]);
                }
            }
        }
        Ok(command)
    }

    /// Starts it on `host` and waits until it listens.
    ///
    /// # Errors
    /// Returns an error with its last output when it is not installed, ends at once, or does not listen within 10 s.
    pub fn start(self, host: &Namespace, config: &ServerConfig<'_>) -> Result<Child, Error> {
        let log = std::fs::File::create(config.log).with_context(|| format!("making {}", config.log.display()))?;
        let both = log.try_clone().with_context(|| format!("opening {}", config.log.display()))?;
        let mut command = self.command(config)?;
        let mut child = host.spawn(command.process_group(0).stdin(Stdio::null()).stdout(log).stderr(both))?;
        let what = format!("starting {} on {}", self.name(), host.name());
        // The kernel has no event for a bound socket.
        wait_for(&what, TIMEOUT, || {
            if self.is_listening(host, config)? {
                return Ok(ControlFlow::Break(()));
            }
            if let Some(status) = child.try_wait().with_context(|| what.clone())? {
                let output = std::fs::read_to_string(config.log).unwrap_or_default();
                return Err(Error::failed(&what, format!("it ended with {status}: {}", last_line(&output))));
            }
            Ok(ControlFlow::Continue("it does not listen".to_owned()))
        })?;
        Ok(child)
    }
}

impl Server {
    /// Returns whether the port of requests is bound: 69, or that of the transfers where requests come in GRE.
    fn is_listening(self, host: &Namespace, config: &ServerConfig<'_>) -> Result<bool, Error> {
        let port = config.tid_range.filter(|_| self.decapsulates()).map_or(69, |(first, _)| first);
        let file = if config.vip.is_ipv4() { "/proc/thread-self/net/udp" } else { "/proc/thread-self/net/udp6" };
        let table = host.run(|| std::fs::read_to_string(file).with_context(|| format!("reading {file}")))?;
        let end = format!(":{port:04X}");
        Ok(table.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1)).any(|local| local.ends_with(&end)))
    }
}

/// Writes the file of a server that continues others' transfers; the pool is in the file `director`.
fn write_takeover_config(config: &ServerConfig<'_>, director: &Path) -> Result<PathBuf, Error> {
    let file = config.log.with_extension("toml");
    let first = config.tid_range.map_or(0, |(first, _)| first);
    let text = format!(
        "[server]\nname = \"{}\"\nsocket = \"{}\"\ngre = \"{}\"\nvip = \"{}\"\ntid_port = {first}\ntimeout = \"1s\"\n\
         [takeover]\nconfig = \"{}\"\n[[handler]]\nname = \"files\"\nkind = \"directory\"\nroot = \"{}\"\n",
        config.name,
        config.log.with_extension("sock").display(),
        config.address,
        config.vip,
        director.display(),
        config.root.display()
    );
    std::fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
    Ok(file)
}

/// Returns the last line that is not empty.
pub fn last_line(text: &str) -> &str {
    text.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or("no output").trim()
}

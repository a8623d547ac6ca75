//! The TFTP servers that can stand behind the VIP. A new kind is one more variant here.

use crate::programs;
use guideway_host::error::{Doing, Error};
use guideway_host::netns::Namespace;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

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

/// What one server is told.
#[derive(Clone, Debug)]
pub struct Task<'a> {
    /// The backend's name.
    pub name: &'a str,
    /// The file of a director, for servers that go on with one another's transfers.
    pub takeover: Option<&'a Path>,
    /// The address that it listens on and answers from.
    pub vip: IpAddr,
    /// The backend's own address, where GRE arrives.
    pub address: IpAddr,
    /// The ports that it may use, inclusive.
    pub tids: Option<(u16, u16)>,
    /// The directory that it serves.
    pub root: &'a Path,
    /// Where its messages go.
    pub log: &'a Path,
}

impl Server {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Server::InTftpd => "in.tftpd",
            Server::Dnsmasq => "dnsmasq",
            Server::DnsmasqSinglePort => "dnsmasq-single-port",
            Server::Guideway => "guideway",
            Server::GuidewayTunnel => "guideway-tunnel",
        }
    }

    /// Whether it can be told which ports to use. A single-port server needs none.
    pub fn has_tid_ranges(self) -> bool {
        match self {
            Server::InTftpd | Server::Dnsmasq | Server::Guideway | Server::GuidewayTunnel => true,
            Server::DnsmasqSinglePort => false,
        }
    }

    /// Whether it takes GRE from directors itself, so that nobody else has to unwrap it.
    pub fn unwraps(self) -> bool {
        self == Server::GuidewayTunnel
    }

    /// Where the program is.
    ///
    /// # Errors
    /// [`Error::Missing`] when it is not installed.
    pub fn program(self) -> Result<PathBuf, Error> {
        match self {
            Server::InTftpd => programs::find("in.tftpd", "tftpd-hpa"),
            Server::Dnsmasq | Server::DnsmasqSinglePort => programs::find("dnsmasq", "dnsmasq-base"),
            Server::Guideway | Server::GuidewayTunnel => programs::guideway(),
        }
    }

    fn command(self, task: &Task<'_>) -> Result<Command, Error> {
        let mut command = Command::new(self.program()?);
        if let (Server::GuidewayTunnel, Some(director)) = (self, task.takeover) {
            let file = taking_over(task, director)?;
            command.arg0("guideway").args(["tftpd", "--log-level", "warn", "--config"]).arg(file);
            return Ok(command);
        }
        match self {
            Server::InTftpd => {
                // Version 5.2 answers from the wrong address when it listens on all of them.
                command.args(["--foreground", "--secure", "--user", "root", "--address"]).arg(SocketAddr::new(task.vip, 69).to_string());
                if let Some((first, last)) = task.tids {
                    command.arg("--port-range").arg(format!("{first}:{last}"));
                }
                command.arg(task.root);
            }
            Server::Dnsmasq | Server::DnsmasqSinglePort => {
                // Port 0 switches DNS off. Its limit of 50 transfers would make requests wait or be dropped.
                command.args(["--no-daemon", "--conf-file=/dev/null", "--port=0", "--enable-tftp", "--tftp-max=1000"]);
                command.args(["--user=root", "--group=root", "--pid-file=", "--no-hosts", "--no-resolv", "--tftp-no-fail"]);
                command.arg(format!("--listen-address={}", task.vip)).arg(format!("--tftp-root={}", task.root.display()));
                // Bound to its address, 2.90 in single-port mode answers from an address that it never set.
                command.arg(if self == Server::DnsmasqSinglePort { "--tftp-single-port" } else { "--bind-interfaces" });
                if let Some((first, last)) = task.tids {
                    command.arg(format!("--tftp-port-range={first},{last}"));
                }
            }
            Server::Guideway | Server::GuidewayTunnel => {
                // Many clients start at once on few processors here, and atftp 0.8 aborts when an OACK comes twice: no hurry with the second.
                command.arg0("guideway").args(["tftpd", "--log-level", "warn", "--timeout", "1s", "--root"]).arg(task.root);
                if self.unwraps() {
                    command.args(["--gre", &task.address.to_string(), "--vip", &task.vip.to_string()]);
                } else {
                    command.args(["--listen", &SocketAddr::new(task.vip, 69).to_string()]);
                }
                // One port serves all transfers: the range may be as narrow as that.
                if let Some((first, _)) = task.tids {
                    command.args(["--tid-port", &first.to_string()]);
                }
            }
        }
        Ok(command)
    }

    /// Starts it on `host` and waits until it listens.
    ///
    /// # Errors
    /// When it is not installed, ends at once, or does not listen within 10 s; with what it said.
    pub fn start(self, host: &Namespace, task: &Task<'_>) -> Result<Child, Error> {
        let log = std::fs::File::create(task.log).doing(|| format!("making {}", task.log.display()))?;
        let both = log.try_clone().doing(|| format!("opening {}", task.log.display()))?;
        let mut command = self.command(task)?;
        let mut child = host.spawn(command.process_group(0).stdin(Stdio::null()).stdout(log).stderr(both))?;
        let doing = || format!("starting {} on {}", self.name(), host.name());
        let since = Instant::now();
        while !self.listens(host, task)? {
            if let Some(status) = child.try_wait().doing(doing)? {
                let said = std::fs::read_to_string(task.log).unwrap_or_default();
                return Err(Error::failed(doing(), format!("it ended with {status}: {}", last_line(&said))));
            }
            if since.elapsed() > Duration::from_secs(10) {
                return Err(Error::failed(doing(), "it does not listen after 10 s"));
            }
            // The kernel has no event for "a socket was bound".
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(child)
    }
}

impl Server {
    /// Whether the port that clients reach first is bound: 69, or that of the transfers where requests come in GRE.
    fn listens(self, host: &Namespace, task: &Task<'_>) -> Result<bool, Error> {
        let port = task.tids.filter(|_| self.unwraps()).map_or(69, |(first, _)| first);
        let file = if task.vip.is_ipv4() { "/proc/thread-self/net/udp" } else { "/proc/thread-self/net/udp6" };
        let table = host.run(|| std::fs::read_to_string(file).doing(|| format!("reading {file}")))?;
        let end = format!(":{port:04X}");
        Ok(table.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1)).any(|local| local.ends_with(&end)))
    }
}

/// Writes the file of our server that goes on with others' transfers; the pool is where the file `director` says.
fn taking_over(task: &Task<'_>, director: &Path) -> Result<PathBuf, Error> {
    let file = task.log.with_extension("toml");
    let first = task.tids.map_or(0, |(first, _)| first);
    let text = format!(
        "[server]\nname = \"{}\"\nsocket = \"{}\"\ngre = \"{}\"\nvip = \"{}\"\ntid_port = {first}\ntimeout = \"1s\"\n\
         [takeover]\nconfig = \"{}\"\n[[handler]]\nname = \"files\"\nkind = \"directory\"\nroot = \"{}\"\n",
        task.name,
        task.log.with_extension("sock").display(),
        task.address,
        task.vip,
        director.display(),
        task.root.display()
    );
    std::fs::write(&file, text).doing(|| format!("writing {}", file.display()))?;
    Ok(file)
}

/// The last line that is not empty.
pub fn last_line(text: &str) -> &str {
    text.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or("it said nothing").trim()
}

//! The servers that are compared: where they are, how they are started fresh, how they end. A new one is one more variant here.

use crate::accounting::CpuAccounting;
use guideway_host::error::{Context, Error};
use guideway_testbed::servers::last_line;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use std::ffi::OsString;
use std::fs;
use std::net::SocketAddrV4;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A kind of server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, clap::ValueEnum)]
pub enum Kind {
    /// `guideway tftpd`
    Guideway,
    /// tftp-hpa as installed on this machine
    #[value(name = "in.tftpd")]
    InTftpd,
    /// tftp-hpa of Debian sid, with sid's C library
    #[value(name = "in.tftpd-sid")]
    InTftpdSid,
    /// atftpd
    Atftpd,
    /// dnsmasq, a port of its own for each transfer
    Dnsmasq,
    /// The static server of fbtftp's README
    Fbtftp,
    /// The crate tftpd
    #[value(name = "rs-tftpd")]
    RsTftpd,
}

/// Limit of concurrent transfers of every server: more than are ever requested.
const MANY: &str = "12000";

/// Paths of programs and of the servers' files.
#[derive(Clone, Debug)]
pub struct BenchPaths {
    /// The set-up's directory.
    pub peers: PathBuf,
    /// `guideway`.
    pub guideway: PathBuf,
    /// Further arguments of `guideway tftpd`.
    pub guideway_args: Vec<String>,
    /// Address and port to listen on.
    pub address: SocketAddrV4,
    /// The directory to serve.
    pub root: PathBuf,
    /// A directory for logs and scripts.
    pub scratch: PathBuf,
}

/// A server that is here.
#[derive(Clone, Debug)]
pub struct Server {
    /// Which.
    pub kind: Kind,
    /// Its name and version.
    pub name: String,
    command: Vec<OsString>,
    environment: Option<(OsString, OsString)>,
}

impl Kind {
    /// All, in the order of the tables.
    pub const ALL: [Kind; 7] = [Kind::Guideway, Kind::InTftpd, Kind::InTftpdSid, Kind::Atftpd, Kind::Dnsmasq, Kind::Fbtftp, Kind::RsTftpd];

    /// Its name without a version.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Guideway => "guideway tftpd",
            Kind::InTftpd => "in.tftpd",
            Kind::InTftpdSid => "in.tftpd (sid)",
            Kind::Atftpd => "atftpd",
            Kind::Dnsmasq => "dnsmasq",
            Kind::Fbtftp => "fbtftp",
            Kind::RsTftpd => "rs-tftpd",
        }
    }

    /// Looks for it.
    ///
    /// # Errors
    /// What is not there.
    pub fn find(self, place: &BenchPaths) -> Result<Server, String> {
        let peers = &place.peers;
        let (program, version): (Vec<PathBuf>, &[&str]) = match self {
            Kind::Guideway => (vec![place.guideway.clone()], &["tftpd", "--help"]),
            Kind::InTftpd => (vec![in_path("in.tftpd")?], &["-V"]),
            Kind::InTftpdSid => {
                let sid = peers.join("in.tftpd-sid");
                let loader = sid.join("usr/lib64/ld-linux-x86-64.so.2");
                (vec![loader, "--library-path".into(), sid.join("usr/lib/x86_64-linux-gnu"), sid.join("usr/sbin/in.tftpd")], &["-V"])
            }
            Kind::Atftpd => (vec![in_path("atftpd").unwrap_or_else(|_| peers.join("atftpd/usr/sbin/atftpd"))], &["-V"]),
            Kind::Dnsmasq => (vec![in_path("dnsmasq")?], &["-v"]),
            Kind::Fbtftp => {
                (vec![peers.join("fbtftp/python")], &["-c", "from importlib.metadata import version; print(version('fbtftp'))"])
            }
            Kind::RsTftpd => (vec![peers.join("rs-tftpd/bin/tftpd")], &["-V"]),
        };
        let mut command: Vec<OsString> = program.into_iter().map(PathBuf::into_os_string).collect();
        let environment = (self == Kind::Fbtftp).then(|| ("PYTHONPATH".into(), peers.join("fbtftp").into_os_string()));
        let [first, rest @ ..] = command.as_slice() else { return Err("no program".to_owned()) };
        let mut probe = Command::new(first);
        probe.args(rest).args(version).stdin(Stdio::null()).envs(environment.iter().map(|(k, v)| (k, v)));
        let said = probe.output().map_err(|e| format!("{}: {e}", first.to_string_lossy()))?;
        if !said.status.success() {
            return Err(format!("{} says: {}", first.to_string_lossy(), last_line(&String::from_utf8_lossy(&said.stderr))));
        }
        let said = String::from_utf8_lossy(&said.stdout).into_owned() + &String::from_utf8_lossy(&said.stderr);
        let is_version = |w: &&str| w.starts_with(|c: char| c.is_ascii_digit()) && w.contains('.');
        let version = said.split([' ', '\n', ',', '-']).find(is_version).unwrap_or_default();
        let name = if self == Kind::Guideway { self.name().to_owned() } else { format!("{} {version}", self.name()) };
        if self == Kind::Fbtftp {
            let script = place.scratch.join("fbtftp_server.py");
            fs::write(&script, include_str!("fbtftp_server.py")).map_err(|e| format!("{}: {e}", script.display()))?;
            command.push(script.into());
        }
        Ok(Server { kind: self, name, command, environment })
    }
}

fn in_path(program: &str) -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    let mut places = std::env::split_paths(&path).chain(usual).map(|directory| directory.join(program));
    places.find(|file| file.is_file()).ok_or_else(|| format!("{program} is not installed"))
}

impl Server {
    /// A server of this name that is nowhere.
    #[cfg(test)]
    pub fn named(kind: Kind, name: &str) -> Server {
        Server { kind, name: name.to_owned(), command: Vec::new(), environment: None }
    }

    fn arguments(&self, place: &BenchPaths) -> Vec<OsString> {
        let BenchPaths { address, root, .. } = place;
        let (ip, port) = (address.ip().to_string(), address.port().to_string());
        let words = |text: &str| text.split_whitespace().map(OsString::from).collect::<Vec<_>>();
        let mut all = match self.kind {
            Kind::Guideway => {
                let mut all = words(&format!("tftpd --listen {address}"));
                all.extend(place.guideway_args.iter().map(OsString::from));
                all.push("--root".into());
                all
            }
            Kind::InTftpd | Kind::InTftpdSid => words(&format!("--foreground --secure --user root --address {address}")),
            Kind::Atftpd => words(&format!(
                "--daemon --no-fork --user root --group root --bind-address {ip} --port {port} --maxthread {MANY} --verbose=0 --logfile -"
            )),
            Kind::Dnsmasq => {
                let quiet = "--no-daemon --conf-file=/dev/null --port=0 --user=root --group=root --pid-file= --no-hosts --no-resolv";
                let mut all = words(&format!("{quiet} --bind-interfaces --listen-address={ip} --enable-tftp --tftp-max={MANY}"));
                all.push([OsString::from("--tftp-root="), root.into()].into_iter().collect());
                return all;
            }
            Kind::Fbtftp => words(&format!("{ip} {port}")),
            Kind::RsTftpd => words(&format!("-i {ip} -p {port} -r -q -d")),
        };
        all.push(root.into());
        all
    }

    /// Starts it afresh, on the CPU `pin` alone if given, and waits until it listens.
    ///
    /// # Errors
    /// When it ends at once, or does not listen within 10 s; with what it said.
    pub fn start(&self, place: &BenchPaths, accounting: &CpuAccounting, pin: Option<usize>) -> Result<Running, Error> {
        let context = || format!("starting {}", self.name);
        let log = place.scratch.join("server.log");
        let file = fs::File::create(&log).with_context(context)?;
        let both = file.try_clone().with_context(context)?;
        let mut command = Command::new("/bin/sh");
        // The shell counts itself and becomes the server, so that nothing of it escapes the account.
        command.args(["-c", r#"if [ -n "$1" ]; then echo 0 >"$1"; fi; shift; exec "$@""#, "sh"]);
        command.arg(accounting.entry().unwrap_or_default()).args(&self.command).args(self.arguments(place));
        command.envs(self.environment.iter().map(|(k, v)| (k, v)));
        command.stdin(Stdio::null()).stdout(file).stderr(both).process_group(0);
        let child = pinned(pin, || command.spawn().with_context(context))??;
        let pid = Pid::from_raw(i32::try_from(child.id()).with_context(context)?);
        let mut running = Running { child, pid, accounting: accounting.clone() };
        let since = Instant::now();
        while !listens(*place.address.ip(), place.address.port()) {
            if let Some(status) = running.child.try_wait().with_context(context)? {
                let said = fs::read_to_string(&log).unwrap_or_default();
                return Err(Error::failed(context(), format!("it ended with {status}: {}", last_line(&said))));
            }
            if since.elapsed() > Duration::from_secs(10) {
                return Err(Error::failed(context(), "it does not listen after 10 s"));
            }
            // The kernel has no event for "a socket was bound".
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(running)
    }
}

/// A server that runs. Dropping it kills it with all its processes.
pub struct Running {
    child: Child,
    /// Its first process.
    pub pid: Pid,
    accounting: CpuAccounting,
}

impl Running {
    /// CPU time that it has spent.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn cpu(&self) -> Result<Duration, Error> {
        self.accounting.cpu(self.pid).with_context(|| "reading the server's CPU time".to_owned())
    }

    /// CPU time that it has spent once it rests: processes of transfers that are over still have to end.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn cpu_at_rest(&self) -> Result<Duration, Error> {
        let mut last = self.cpu()?;
        for _ in 0..50 {
            std::thread::sleep(Duration::from_millis(20));
            let now = self.cpu()?;
            if now.saturating_sub(last) < Duration::from_micros(200) {
                return Ok(now);
            }
            last = now;
        }
        Ok(last)
    }

    /// Proportional set size in bytes, and the number of processes.
    ///
    /// # Errors
    /// When it has ended.
    pub fn memory(&self) -> Result<(u64, usize), Error> {
        self.accounting.memory(self.pid).with_context(|| "reading the server's memory".to_owned())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let since = Instant::now();
        loop {
            // What cannot be killed is gone already.
            let _gone = killpg(self.pid, Signal::SIGKILL);
            let left = self.accounting.processes(self.pid);
            for pid in &left {
                let _gone = kill(*pid, Signal::SIGKILL);
            }
            let _reaped = self.child.try_wait();
            let alive = left.iter().any(|pid| Path::new(&format!("/proc/{pid}/fd/0")).exists());
            if !alive || since.elapsed() > Duration::from_secs(5) {
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let _reaped = self.child.wait();
    }
}

/// Runs `body` on one CPU; processes that it starts stay there.
///
/// # Errors
/// When the CPU may not be used.
pub fn pinned<T>(pin: Option<usize>, body: impl FnOnce() -> T) -> Result<T, Error> {
    let Some(cpu) = pin else { return Ok(body()) };
    let context = || format!("moving to CPU {cpu}");
    let all = sched_getaffinity(Pid::from_raw(0)).with_context(context)?;
    let mut one = CpuSet::new();
    one.set(cpu).with_context(context)?;
    sched_setaffinity(Pid::from_raw(0), &one).with_context(context)?;
    let done = body();
    sched_setaffinity(Pid::from_raw(0), &all).with_context(context)?;
    Ok(done)
}

/// Whether something has this address and port bound.
fn listens(ip: std::net::Ipv4Addr, port: u16) -> bool {
    let table = fs::read_to_string("/proc/thread-self/net/udp").unwrap_or_default();
    let wanted = format!("{:08X}:{port:04X}", u32::from_ne_bytes(ip.octets()));
    table.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1)).any(|local| local == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_seen() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        assert!(listens(std::net::Ipv4Addr::LOCALHOST, port));
        drop(socket);
        assert!(!listens(std::net::Ipv4Addr::LOCALHOST, port));
    }

    #[test]
    fn one_cpu_is_one_cpu_and_later_all() {
        let allowed = || sched_getaffinity(Pid::from_raw(0)).unwrap();
        let before = allowed();
        let cpu = (0..CpuSet::count()).find(|c| before.is_set(*c).unwrap()).unwrap();
        let within = pinned(Some(cpu), allowed).unwrap();
        assert_eq!((0..CpuSet::count()).filter(|c| within.is_set(*c).unwrap()).collect::<Vec<_>>(), [cpu]);
        assert_eq!(allowed(), before);
    }
}

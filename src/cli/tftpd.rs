//! `guideway tftpd`: the TFTP server.

use super::{BAD_USAGE, DONE, FAILED, common, logging, print};
use guideway_config::duration;
use guideway_config::size::parse_size;
use guideway_config::text::socket_address;
use guideway_tftp::directory::DirectoryOptions;
use guideway_tftp::engine::Tid;
use guideway_tftpd::config::{GRACES, Server, WINDOW_BYTES, WRITABLE_LIMIT, WRITABLE_TOTAL, rollover};
use guideway_tftpd::daemon::{self, Files, Options};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// Serve files by TFTP: a directory, or the handlers and rules of a file
#[derive(Clone, Debug, clap::Args)]
#[command(
    group = clap::ArgGroup::new("source").required(true).args(["root", "config"]),
    after_help = "SIGUSR1 prints the counters; `guideway status` shows them, too, if there is a control socket. SIGHUP reads the file again: handlers, rules, limits, the pool of [takeover]; a file with errors is refused and changes nothing. SIGTERM lets running transfers end, within --grace, and answers no new requests; a second signal, or SIGINT, ends the server at once, without an ERROR to running transfers, so that another server can continue them.\n\nExamples:\n  guideway tftpd --root /srv/tftp --listen 127.0.0.1:6969\n  \
    guideway tftpd --root /srv/tftp --gre 10.0.2.21 --vip 192.0.2.69 --tid-port 20001 --user nobody\n  \
    guideway tftpd --root /srv/tftp --writable /srv/backups --writable-limit 4MiB --user nobody\n  \
    guideway tftpd --config /etc/guideway/tftpd.toml"
)]
pub struct Args {
    /// Directory to serve; nothing outside of it is ever served
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Configuration file with handlers, rules, limits and [server], instead of a directory; flags override it. `guideway check` checks it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Accept new files from clients in this directory, for backups of switches; never overwrite a file there. May be that of --root.
    /// Without it, write requests are refused
    #[arg(long, value_name = "DIR")]
    writable: Option<PathBuf>,
    /// With --writable: maximum size of a file, such as 64KiB, 2GiB. Default: 1MiB
    #[arg(long, value_name = "SIZE", value_parser = |text: &str| parse_size(text, &WRITABLE_LIMIT))]
    writable_limit: Option<u64>,
    /// With --writable: maximum number of files in that directory, including existing ones. Default: 10000
    #[arg(long, value_name = "COUNT", value_parser = files)]
    writable_files: Option<usize>,
    /// With --writable: maximum total size of these files. Default: limited only by their number and size
    #[arg(long, value_name = "SIZE", value_parser = |text: &str| parse_size(text, &WRITABLE_TOTAL))]
    writable_total: Option<u64>,
    /// Address and port for requests; may be repeated. Default: the sockets that systemd passes, or [::]:69, which includes IPv4, unless
    /// --gre is given
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = socket_address)]
    listen: Vec<SocketAddr>,
    /// Serve the same content by HTTP at this address and port, too; may be repeated
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = socket_address)]
    http: Vec<SocketAddr>,
    /// Receive GRE from directors at this address of the host; needs no tunnel device. At most one IPv4 and one IPv6
    #[arg(long, value_name = "ADDRESS")]
    gre: Vec<IpAddr>,
    /// With --gre: a VIP that clients use. It need not, and should not, be configured on this host
    #[arg(long, value_name = "ADDRESS")]
    vip: Vec<IpAddr>,
    /// Source port of answers (of the first loop; the next loops use the next ports). Default: the kernel chooses
    #[arg(long, value_name = "PORT", conflicts_with = "single_port", value_parser = clap::value_parser!(u16).range(1024..))]
    tid_port: Option<u16>,
    /// Answer from the listening port itself
    #[arg(long)]
    single_port: bool,
    /// Number of event loops, one thread each. Default: 1
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=64))]
    loops: Option<u16>,
    /// Niceness of the event loops, 0 to 19, so that other processes on the same CPU run first. Default: 2
    #[arg(long, value_name = "STEPS", value_parser = clap::value_parser!(u8).range(0..=19), help_heading = "Limits")]
    nice: Option<u8>,
    /// Switch to this user after the sockets are bound
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Look up names that do not exist as written in any case of ASCII letters
    #[arg(long)]
    ignore_case: bool,
    /// Refuse symbolic links even when they stay within the directory
    #[arg(long)]
    no_symlinks: bool,
    /// Largest block size in bytes. Default: 65464
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u16).range(8..=65464))]
    max_blksize: Option<u16>,
    /// Grant block sizes beyond the path's MTU, so that blocks travel in fragments
    #[arg(long)]
    fragments: bool,
    /// Largest window in blocks. Default: 64
    #[arg(long, value_name = "BLOCKS", value_parser = clap::value_parser!(u16).range(1..=32767))]
    max_window: Option<u16>,
    /// Largest window in bytes, 512B to 1GiB. Default: 1MiB
    #[arg(long, value_name = "SIZE", value_parser = window_bytes)]
    max_window_bytes: Option<u32>,
    /// Block number after block 65535 when the client does not choose: 0 or 1. Default: 0
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u8).range(..=1))]
    rollover: Option<u8>,
    /// Maximum number of concurrent transfers per loop. A further request replaces a transfer whose client never answered, or gets no
    /// answer. Default: 100000
    #[arg(long, value_name = "COUNT")]
    max_transfers: Option<usize>,
    /// Maximum number of concurrent transfers per client address; further requests get no answer. Default: 1000
    #[arg(long, value_name = "COUNT")]
    max_per_client: Option<usize>,
    /// How long running transfers may go on after SIGTERM, 0s to 1h. Default: 30s, with [takeover] 0s
    #[arg(long, value_name = "TIME", value_parser = grace)]
    grace: Option<Duration>,
    /// Time-out before the first round-trip measurement, 1ms to 60s. Default: 1s
    #[arg(long, value_name = "TIME", value_parser = timeout)]
    timeout: Option<Duration>,
    /// Number of retransmissions without an answer before a transfer is aborted. Default: 5
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u8).range(..=100))]
    retries: Option<u8>,
    /// Unix socket for `guideway status`. Default: none, or with [server] in the file /run/guideway/NAME.sock
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Address for Prometheus metrics at /metrics. Default: none
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = socket_address)]
    metrics: Option<SocketAddr>,
    /// Also print the counters as JSON at the end
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    logging: logging::LogArgs,
}

/// Parses a time-out of 1 ms to 60 s.
fn timeout(text: &str) -> Result<Duration, String> {
    let time = duration::parse(text).map_err(|error| error.to_string())?;
    let allowed = Duration::from_millis(1)..=Duration::from_secs(60);
    allowed.contains(&time).then_some(time).ok_or_else(|| "is out of range; allowed: 1ms to 60s".to_owned())
}

/// Parses a time of 0 s to 1 h.
fn grace(text: &str) -> Result<Duration, String> {
    let time = duration::parse(text).map_err(|error| error.to_string())?;
    GRACES.contains(&time).then_some(time).ok_or_else(|| "is out of range; allowed: 0s to 1h".to_owned())
}

/// Parses a size of 512 bytes to 1 GiB.
fn window_bytes(text: &str) -> Result<u32, String> {
    parse_size(text, &WINDOW_BYTES).and_then(|bytes| u32::try_from(bytes).map_err(|error| error.to_string()))
}

/// Parses a number of files, at least one.
fn files(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|count| (1..=10_000_000).contains(count))
        .ok_or_else(|| "is not a number of files; allowed: 1 to 10000000".to_owned())
}

impl Args {
    /// Returns the server settings of the flags.
    fn server(&self) -> Server {
        let non_empty = |list: &[IpAddr]| (!list.is_empty()).then(|| list.to_vec());
        Server {
            socket: self.socket.clone(),
            metrics: self.metrics,
            listen: (!self.listen.is_empty()).then(|| self.listen.clone()),
            http: (!self.http.is_empty()).then(|| self.http.clone()),
            gre: non_empty(&self.gre),
            vip: non_empty(&self.vip),
            tid: if self.single_port { Some(Tid::Single) } else { self.tid_port.map(Tid::Port) },
            loops: self.loops,
            nice: self.nice,
            user: self.user.clone(),
            writable: self.writable.clone(),
            writable_limit: self.writable_limit,
            writable_files: self.writable_files,
            writable_total: self.writable_total,
            max_blksize: self.max_blksize,
            fragments: self.fragments.then_some(true),
            max_window: self.max_window,
            max_window_bytes: self.max_window_bytes,
            rollover: self.rollover.map(rollover),
            max_transfers: self.max_transfers,
            max_per_client: self.max_per_client,
            grace: self.grace,
            timeout: self.timeout,
            retries: self.retries,
            ..Server::default()
        }
    }

    /// Returns the source of files and the server settings of the file; prints every error of a configuration.
    fn files(&self) -> Result<(Files, Option<Server>), u8> {
        let Some(path) = &self.config else {
            let options = DirectoryOptions { symlinks: !self.no_symlinks, ignore_case: self.ignore_case };
            return Ok((Files::Directory(self.root.clone().unwrap_or_default(), options), None));
        };
        let checked = match guideway_tftpd::config::load(path) {
            Ok(checked) => checked,
            Err(error) => return Err(common::usage_error(&error.to_string())),
        };
        for problem in checked.errors() {
            print::error(problem.in_file(path));
        }
        let (config, server) = checked.config.ok_or(BAD_USAGE)?;
        Ok((Files::Rules(Box::new(config)), server))
    }

    fn options(&self) -> Result<Options, u8> {
        let (files, file) = self.files()?;
        let has_section = file.is_some();
        let (flags, from_file) = (self.server(), file.unwrap_or_default());
        let server = flags.clone().or(from_file.clone());
        // Without [server] there is no control socket unless a flag sets it: several servers may run by hand.
        let socket = if has_section { Some(server.control_socket()) } else { server.socket.clone() };
        let mut engine = server.engine().map_err(|why| common::usage_error(&why))?;
        let writable = server.writable().map_err(|why| common::usage_error(&why))?;
        let takeover = if let Files::Rules(config) = &files { config.takeover.clone() } else { None };
        let settings = takeover.as_ref().map(|takeover| takeover.settings(server.name(), &engine));
        engine.takeover = settings.transpose().map_err(|why| common::usage_error(&why))?;
        let (addresses_given, name) = (server.listen.is_some(), server.name().to_owned());
        let grace = server.grace(takeover.is_some());
        let (http_limits, http) = (server.http_limits(), server.http.unwrap_or_default());
        let (user, metrics, config) = (server.user, server.metrics, self.config.clone());
        let server = from_file;
        Ok(Options {
            files,
            config,
            flags,
            server,
            writable,
            engine,
            addresses_given,
            http,
            http_limits,
            name,
            user,
            socket,
            metrics,
            takeover,
            grace,
        })
    }
}

/// Runs the command.
pub fn run(args: &Args) -> u8 {
    if let Err(code) = logging::start(&args.logging) {
        return code;
    }
    let print_counters = |counters: &_| {
        print::line(print::compact_json(counters));
    };
    let options = match args.options() {
        Ok(options) => options,
        Err(code) => return code,
    };
    match daemon::run(options, print_counters) {
        Ok(counters) => {
            if args.json {
                print_counters(&counters);
            }
            DONE
        }
        Err(error) => {
            tracing::error!("{error}");
            if error.is_usage() { BAD_USAGE } else { FAILED }
        }
    }
}

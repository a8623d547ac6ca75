//! `guideway tftpd`: the server.

use super::{BAD_USAGE, DONE, FAILED, common, logging, print};
use crate::lab::args::parse_size;
use crate::tftp;
use crate::tftp::daemon::{self, Files, Options};
use crate::tftp::directory::DirectoryOptions;
use crate::tftp::engine::{Config, Tid, TunnelConfig};
use crate::tftp::options::{Limits, Rollover};
use crate::tftp::packet::PORT;
use crate::tftp::writable;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

/// Serve files by TFTP: a directory, or what the handlers and rules of a file choose
#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "SIGUSR1 prints the counters. SIGTERM and SIGINT end the server; running transfers are told nothing, so that another \
    server may go on.\n\nExamples:\n  guideway tftpd --root /srv/tftp --listen 127.0.0.1:6969\n  \
    guideway tftpd --root /srv/tftp --gre 10.0.2.21 --vip 192.0.2.69 --tid-port 20001 --user nobody\n  \
    guideway tftpd --root /srv/tftp --writable /srv/backups --writable-limit 4MiB --user nobody\n  \
    guideway tftpd --config /etc/guideway/tftpd.toml"
)]
pub struct Args {
    /// The directory; nothing outside of it is ever served
    #[arg(long, value_name = "DIR", required_unless_present = "config", conflicts_with = "config")]
    root: Option<PathBuf>,
    /// Handlers, rules and limits, instead of a directory; `guideway check` knows the file too
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Take new files of clients into this directory, for backups of switches; nothing there is ever overwritten. May be that of --root.
    /// Without it, write requests are refused
    #[arg(long, value_name = "DIR")]
    writable: Option<PathBuf>,
    /// With --writable: size of a file at most, such as 64KiB, 1MiB, 2GiB
    #[arg(long, value_name = "SIZE", default_value = "1MiB", value_parser = parse_size, requires = "writable")]
    writable_limit: u64,
    /// Address and port to take requests at; may be repeated. Default: [::]:69, which includes IPv4, unless --gre is given
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Vec<SocketAddr>,
    /// Take GRE from directors at this address of the host; needs no tunnel device. At most one IPv4 and one IPv6
    #[arg(long, value_name = "ADDRESS", requires = "vip")]
    gre: Vec<IpAddr>,
    /// With --gre: an address that clients ask. It need not, and should not, be set up on this host
    #[arg(long, value_name = "ADDRESS", requires = "gre")]
    vip: Vec<IpAddr>,
    /// The port that answers come from (of the first loop; the next ones take the next ports). Default: the kernel chooses
    #[arg(long, value_name = "PORT", conflicts_with = "single_port", value_parser = clap::value_parser!(u16).range(1024..))]
    tid_port: Option<u16>,
    /// Answer from the listening port itself
    #[arg(long)]
    single_port: bool,
    /// Event loops, each a thread
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    loops: u16,
    /// Become this user once the sockets are bound
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Look for names that do not exist as they are written in any case of ASCII letters
    #[arg(long)]
    ignore_case: bool,
    /// Refuse symbolic links even when they stay below the directory
    #[arg(long)]
    no_symlinks: bool,
    /// Largest block size in bytes
    #[arg(long, value_name = "BYTES", default_value_t = Limits::default().blksize, value_parser = clap::value_parser!(u16).range(8..=65464))]
    max_blksize: u16,
    /// Grant block sizes beyond the path's MTU, so that blocks travel in fragments
    #[arg(long)]
    fragments: bool,
    /// Largest window in blocks
    #[arg(long, value_name = "BLOCKS", default_value_t = Limits::default().window, value_parser = clap::value_parser!(u16).range(1..=32767))]
    max_window: u16,
    /// Largest window in bytes
    #[arg(long, value_name = "BYTES", default_value_t = Limits::default().window_bytes)]
    max_window_bytes: u32,
    /// The number of the block after block 65535, when the client does not ask: 0 or 1
    #[arg(long, value_name = "NUMBER", default_value_t = 0, value_parser = clap::value_parser!(u8).range(..=1))]
    rollover: u8,
    /// Most transfers at once in each loop; a request beyond takes the place of one whose client never answered, or is not answered
    #[arg(long, value_name = "COUNT", default_value_t = Config::default().max_transfers)]
    max_transfers: usize,
    /// Most transfers at once with one client address; requests beyond are not answered
    #[arg(long, value_name = "COUNT", default_value_t = Config::default().max_per_client)]
    max_per_client: usize,
    /// Print the counters as JSON at the end, too
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    logging: logging::LogArgs,
}

impl Args {
    /// Where files come from; every error of a configuration is on standard error.
    fn files(&self) -> Result<Files, u8> {
        let Some(path) = &self.config else {
            let options = DirectoryOptions { symlinks: !self.no_symlinks, ignore_case: self.ignore_case };
            return Ok(Files::Directory(self.root.clone().unwrap_or_default(), options));
        };
        let checked = match tftp::config::load(path) {
            Ok(checked) => checked,
            Err(error) => return Err(common::bad(&error.to_string())),
        };
        for problem in checked.errors() {
            print::error(problem.in_file(path));
        }
        checked.config.map(|(config, ())| Files::Rules(Box::new(config))).ok_or(BAD_USAGE)
    }

    fn options(&self) -> Result<Options, u8> {
        let listen = if self.listen.is_empty() && self.gre.is_empty() {
            vec![SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), PORT)]
        } else {
            self.listen.clone()
        };
        let tid = match self.tid_port {
            _ if self.single_port => Tid::Single,
            Some(port) => Tid::Port(port),
            None => Tid::Any,
        };
        let tunnel = (!self.gre.is_empty()).then(|| TunnelConfig { locals: self.gre.clone(), vips: self.vip.clone(), port: PORT });
        let limits = Limits {
            blksize: self.max_blksize,
            blksize_by_mtu: !self.fragments,
            window: self.max_window,
            window_bytes: self.max_window_bytes,
            rollover: if self.rollover == 0 { Rollover::Zero } else { Rollover::One },
        };
        Ok(Options {
            files: self.files()?,
            writable: self.writable.clone().map(|path| (path, writable::Settings { limit: self.writable_limit, ..Default::default() })),
            engine: Config {
                listen,
                tunnel,
                tid,
                loops: usize::from(self.loops),
                limits,
                max_transfers: self.max_transfers,
                max_per_client: self.max_per_client,
                ..Config::default()
            },
            user: self.user.clone(),
        })
    }
}

/// Runs the command.
pub fn run(args: &Args) -> u8 {
    if let Err(code) = logging::start(&args.logging) {
        return code;
    }
    let families = |v6: bool| args.gre.iter().filter(|a| a.is_ipv6() == v6).count();
    if families(false) > 1 || families(true) > 1 {
        print::error("--gre: at most one IPv4 and one IPv6 address");
        return BAD_USAGE;
    }
    let counters = |json: &serde_json::Value| {
        print::line(json);
    };
    let options = match args.options() {
        Ok(options) => options,
        Err(code) => return code,
    };
    match daemon::run(options, counters) {
        Ok(json) => {
            if args.json {
                print::line(json);
            }
            DONE
        }
        Err(error) => {
            tracing::error!("{error}");
            if error.is_usage() { BAD_USAGE } else { FAILED }
        }
    }
}

//! The flags that `get` and `put` share, and what becomes of them.

use crate::common::{bad, failed};
use crate::print;
use guideway_tftp::client::block::Rollover;
use guideway_tftp::client::exchange::{Done, Wire};
use guideway_tftp::client::target::{PORT, Target};
use guideway_tftp::client::{Ask, Dally, Failure, Plan, Timing};
use guideway_tftp::packet::{ErrorCode, Mode};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::time::Duration;

/// Flags of a transfer.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Bytes of a block to ask for, 8–65464; above 1428 packets may become fragments
    #[arg(long, value_name = "BYTES", default_value_t = 1428, value_parser = clap::value_parser!(u16).range(8..=65464))]
    blksize: u16,
    /// Blocks of a window to ask for, 1–65535; 1 is lock-step
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    windowsize: u16,
    /// Ask the server to send again after this many seconds, 1–255
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u8).range(1..))]
    timeout: Option<u8>,
    /// The same in microseconds, 10000–255000000 (an option of tftp-hpa)
    #[arg(long, value_name = "MICROSECONDS", value_parser = clap::value_parser!(u32).range(10_000..=255_000_000))]
    utimeout: Option<u32>,
    /// Ask for the number after 65535: 0 or 1 (an option of tftp-hpa)
    #[arg(long, value_name = "0|1", value_parser = clap::value_parser!(u8).range(0..=1))]
    rollover: Option<u8>,
    /// Announce or ask for the size of the file (the default)
    #[arg(long, conflicts_with = "no_tsize")]
    tsize: bool,
    /// Do not
    #[arg(long)]
    no_tsize: bool,
    /// Ask for nothing: RFC 1350 alone, blocks of 512 bytes in lock-step
    #[arg(long, conflicts_with_all = ["blksize", "windowsize", "timeout", "utimeout", "rollover", "tsize"])]
    no_options: bool,
    /// How the bytes travel: as they are, or as lines of text
    #[arg(long, value_parser = ["octet", "netascii"])]
    mode: Option<String>,
    /// Port of the server, where the target names none
    #[arg(long, default_value_t = PORT, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// Send from this address: ADDRESS, ADDRESS:PORT or [ADDRESS]:PORT
    #[arg(long, value_name = "ADDRESS[:PORT]", value_parser = parse_bind)]
    bind: Option<SocketAddr>,
    /// IPv4 only
    #[arg(short = '4', conflicts_with = "ipv6")]
    ipv4: bool,
    /// IPv6 only
    #[arg(short = '6', id = "ipv6")]
    ipv6: bool,
    /// How often one packet is sent again before the transfer is given up, 0–100
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u32).range(0..=100))]
    retries: u32,
    /// How long to guard the end, so that a lost last acknowledgement can be repeated (default: 1500ms after losses, else not at all)
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    dally: Option<Duration>,
    /// Fail unless the file has this SHA-256
    #[arg(long, value_name = "HEX", value_parser = parse_sha256)]
    pub sha256: Option<[u8; 32]>,
    /// Print the result as one JSON document
    #[arg(long)]
    pub json: bool,
    /// Print nothing but errors
    #[arg(long, short)]
    pub quiet: bool,
}

fn parse_bind(text: &str) -> Result<SocketAddr, String> {
    let address = text.parse::<IpAddr>().map(|address| SocketAddr::new(address, 0));
    address.or_else(|_| text.parse()).map_err(|_| "write an address, ADDRESS:PORT or [ADDRESS]:PORT".to_owned())
}

fn parse_time(text: &str) -> Result<Duration, String> {
    guideway_config::duration::parse(text).map_err(|error| format!("it {error}"))
}

fn parse_sha256(text: &str) -> Result<[u8; 32], String> {
    guideway_tftp::swarm::sums::from_hex(text).ok_or_else(|| "a SHA-256 is 64 hexadecimal digits".to_owned())
}

impl Options {
    /// The plan for a target; for a write with the size of what is sent, where that is known.
    ///
    /// # Errors
    /// The exit code, when it was said what is wrong.
    pub fn plan(&self, target: &Target, write: bool, size: Option<u64>) -> Result<Plan, u8> {
        let server = self.resolve(target)?;
        let netascii = self.mode.as_deref().map(|mode| mode == "netascii").or(target.netascii).unwrap_or(false);
        let rollover = self.rollover.map(|number| if number == 1 { Rollover::One } else { Rollover::Zero });
        let tsize = match (self.no_tsize || self.no_options, write) {
            (true, _) => None,
            (false, true) => size.filter(|_| !netascii),
            (false, false) => Some(0),
        };
        let asked = [
            tsize.map(Ask::Tsize),
            Some(Ask::Blksize(self.blksize)).filter(|_| self.blksize != 512),
            self.timeout.map(Ask::Timeout),
            self.utimeout.map(Ask::Utimeout),
            Some(Ask::Windowsize(self.windowsize)).filter(|_| self.windowsize != 1),
            rollover.map(Ask::Rollover),
        ];
        let mut timing = Timing { retries: self.retries, ..Timing::default() };
        if let Some(guard) = self.dally {
            timing.dally = if guard.is_zero() { Dally::Never } else { Dally::Always(guard) };
        }
        Ok(Plan {
            mode: if netascii { Mode::Netascii } else { Mode::Octet },
            ask: if self.no_options { Vec::new() } else { asked.into_iter().flatten().collect() },
            rollover,
            timing,
            ..Plan::new(server, target.file.clone())
        })
    }

    fn resolve(&self, target: &Target) -> Result<SocketAddr, u8> {
        let port = target.port.unwrap_or(self.port);
        let wanted = |address: &SocketAddr| {
            let bound = self.bind.is_none_or(|bind| bind.is_ipv4() == address.is_ipv4());
            bound && !(self.ipv4 && address.is_ipv6()) && !(self.ipv6 && address.is_ipv4())
        };
        let mut found = (target.host.as_str(), port).to_socket_addrs().map_err(|error| failed(&format!("{}: {error}", target.host)))?;
        found.find(wanted).ok_or_else(|| bad(&format!("{} has no address of the family that -4, -6 or --bind ask for", target.host)))
    }

    /// A socket for a plan.
    ///
    /// # Errors
    /// The exit code, when it was said what is wrong.
    pub fn wire(&self, plan: &Plan) -> Result<Wire, u8> {
        let window = usize::from(self.windowsize) * usize::from(self.blksize);
        Wire::open(plan.server, self.bind, window).map_err(|error| match self.bind {
            Some(bind) => failed(&format!("--bind {bind}: {error}")),
            None => failed(&format!("opening a socket: {error}")),
        })
    }

    /// A bar on standard error, when somebody sees it.
    pub fn progress(&self, total: Option<u64>) -> ProgressBar {
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr_with_hz(10));
        if self.json || self.quiet {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        style(&bar, total.is_some());
        bar
    }

    /// Says how a transfer went; gives the exit code. `to_stdout`: the file itself went there.
    pub fn report(&self, target: &Target, verb: &str, done: &Done, to_stdout: bool) -> u8 {
        let file = String::from_utf8_lossy(&target.file);
        if self.json {
            let document = document(&file, done);
            return crate::common::result(&format!("{document:#}"));
        }
        if !self.quiet && !to_stdout {
            let seconds = done.time.as_secs_f64();
            let repeats = match done.counters.retransmits {
                0 => String::new(),
                count => format!(", {count} repeats"),
            };
            let rate = done.bytes as f64 / 1e6 / seconds.max(1e-6);
            return crate::common::result(&format!(
                "{file}: {verb} {} bytes in {seconds:.3} s ({rate:.1} MB/s), blksize {}, windowsize {}{repeats}, sha256 {}",
                done.bytes,
                done.agreed.blksize,
                done.agreed.windowsize,
                hex(&done.sha256)
            ));
        }
        crate::DONE
    }

    /// Says why it failed; gives the exit code.
    pub fn fail(&self, target: &Target, reason: &str, why: &str) -> u8 {
        let file = String::from_utf8_lossy(&target.file);
        if self.json {
            let document = json!({ "file": file, "error": why, "reason": reason });
            print::line(format_args!("{document:#}"));
        }
        failed(&format!("{}: {why}", target.shown(self.port)))
    }
}

/// Whether a server without options might do better: it refused them, and some were asked for.
pub fn worth_trying_without(failure: &Failure, plan: &Plan) -> bool {
    !plan.ask.is_empty() && matches!(failure, Failure::Server { code: ErrorCode::OPTIONS, .. })
}

/// The bar's look, with or without a known end.
pub fn style(bar: &ProgressBar, total: bool) {
    let template = match total {
        true => "{msg} {bar:30} {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left",
        false => "{msg} {spinner} {binary_bytes}, {binary_bytes_per_sec}",
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn document(file: &str, done: &Done) -> Value {
    json!({
        "file": file,
        "bytes": done.bytes,
        "seconds": done.time.as_secs_f64(),
        "sha256": hex(&done.sha256),
        "blksize": done.agreed.blksize,
        "windowsize": done.agreed.windowsize,
        "retransmits": done.counters.retransmits,
        "duplicates": done.counters.duplicates,
    })
}

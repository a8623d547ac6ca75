//! Flags that `get` and `put` share, and their effects.

use crate::common::{failed, usage_error};
use crate::print;
use guideway_tftp::client::exchange::{ClientSocket, Done};
use guideway_tftp::client::target::{PORT, Target};
use guideway_tftp::client::{Dally, Failure, RequestOption, Timing, TransferPlan};
use guideway_tftp::packet::{ErrorCode, Mode};
use guideway_tftp::rollover::Rollover;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::time::Duration;

/// Flags of a transfer.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Block size to request in bytes, 8–65464; above 1428 packets may be fragmented
    #[arg(long, value_name = "BYTES", default_value_t = 1428, value_parser = clap::value_parser!(u16).range(8..=65464))]
    blksize: u16,
    /// Window size to request in blocks, 1–65535; 1 is lock-step
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    windowsize: u16,
    /// Retransmission time of the server to request, in seconds, 1–255
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u8).range(1..))]
    timeout: Option<u8>,
    /// The same in microseconds, 10000–255000000 (an option of tftp-hpa)
    #[arg(long, value_name = "MICROSECONDS", value_parser = clap::value_parser!(u32).range(10_000..=255_000_000))]
    utimeout: Option<u32>,
    /// Block number after 65535 to request: 0 or 1 (an option of tftp-hpa)
    #[arg(long, value_name = "0|1", value_parser = clap::value_parser!(u8).range(0..=1))]
    rollover: Option<u8>,
    /// Announce or request the size of the file (the default)
    #[arg(long, conflicts_with = "no_tsize")]
    tsize: bool,
    /// Do not announce or request the size of the file
    #[arg(long)]
    no_tsize: bool,
    /// Request no options: RFC 1350 only, blocks of 512 bytes in lock-step
    #[arg(long, conflicts_with_all = ["blksize", "windowsize", "timeout", "utimeout", "rollover", "tsize"])]
    no_options: bool,
    /// Transfer mode: bytes as they are, or lines of text
    #[arg(long, value_parser = ["octet", "netascii"])]
    mode: Option<String>,
    /// Port of the server, if the target has none
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
    /// Number of retransmissions of a packet before the transfer fails, 0–100
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u32).range(0..=100))]
    retries: u32,
    /// Time to wait at the end, so that a lost last acknowledgement can be repeated (default: 1500ms after losses, otherwise 0)
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    dally: Option<Duration>,
    /// Fail if the file has another SHA-256
    #[arg(long, value_name = "HEX", value_parser = parse_sha256)]
    pub sha256: Option<[u8; 32]>,
    /// Print the result as one JSON document
    #[arg(long)]
    pub json: bool,
    /// Print only errors
    #[arg(long, short)]
    pub quiet: bool,
}

fn parse_bind(text: &str) -> Result<SocketAddr, String> {
    let address = text.parse::<IpAddr>().map(|address| SocketAddr::new(address, 0));
    address.or_else(|_| text.parse()).map_err(|_| "not an address; write ADDRESS, ADDRESS:PORT or [ADDRESS]:PORT".to_owned())
}

fn parse_time(text: &str) -> Result<Duration, String> {
    guideway_config::duration::parse(text).map_err(|error| format!("it {error}"))
}

fn parse_sha256(text: &str) -> Result<[u8; 32], String> {
    guideway_tftp::swarm::digests::from_hex(text).ok_or_else(|| "a SHA-256 is 64 hexadecimal digits".to_owned())
}

impl Options {
    /// Returns the plan for a target; for a write, with the size of the data if it is known.
    ///
    /// # Errors
    /// Returns the exit code after printing the error.
    pub fn plan(&self, target: &Target, write: bool, size: Option<u64>) -> Result<TransferPlan, u8> {
        let server = self.resolve(target)?;
        let netascii = self.mode.as_deref().map(|mode| mode == "netascii").or(target.netascii).unwrap_or(false);
        let rollover = self.rollover.map(|number| if number == 1 { Rollover::One } else { Rollover::Zero });
        let tsize = match (self.no_tsize || self.no_options, write) {
            (true, _) => None,
            (false, true) => size.filter(|_| !netascii),
            (false, false) => Some(0),
        };
        let requested = [
            tsize.map(RequestOption::Tsize),
            Some(RequestOption::Blksize(self.blksize)).filter(|_| self.blksize != 512),
            self.timeout.map(RequestOption::Timeout),
            self.utimeout.map(RequestOption::Utimeout),
            Some(RequestOption::Windowsize(self.windowsize)).filter(|_| self.windowsize != 1),
            rollover.map(RequestOption::Rollover),
        ];
        let mut timing = Timing { retries: self.retries, ..Timing::default() };
        if let Some(guard) = self.dally {
            timing.dally = if guard.is_zero() { Dally::Never } else { Dally::Always(guard) };
        }
        Ok(TransferPlan {
            mode: if netascii { Mode::Netascii } else { Mode::Octet },
            ask: if self.no_options { Vec::new() } else { requested.into_iter().flatten().collect() },
            rollover,
            timing,
            ..TransferPlan::new(server, target.file.clone())
        })
    }

    fn resolve(&self, target: &Target) -> Result<SocketAddr, u8> {
        let port = target.port.unwrap_or(self.port);
        let wanted = |address: &SocketAddr| {
            let bound = self.bind.is_none_or(|bind| bind.is_ipv4() == address.is_ipv4());
            bound && !(self.ipv4 && address.is_ipv6()) && !(self.ipv6 && address.is_ipv4())
        };
        let mut found = (target.host.as_str(), port).to_socket_addrs().map_err(|error| failed(&format!("{}: {error}", target.host)))?;
        found.find(wanted).ok_or_else(|| usage_error(&format!("{} has no address of the family of -4, -6 or --bind", target.host)))
    }

    /// Opens a socket for a plan.
    ///
    /// # Errors
    /// Returns the exit code after printing the error.
    pub fn wire(&self, plan: &TransferPlan) -> Result<ClientSocket, u8> {
        let window = usize::from(self.windowsize) * usize::from(self.blksize);
        ClientSocket::open(plan.server, self.bind, window).map_err(|error| match self.bind {
            Some(bind) => failed(&format!("--bind {bind}: {error}")),
            None => failed(&format!("cannot open a socket: {error}")),
        })
    }

    /// Returns a progress bar on standard error, if that is a terminal.
    pub fn progress(&self, total: Option<u64>) -> ProgressBar {
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr_with_hz(10));
        if self.json || self.quiet {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        style(&bar, total.is_some());
        bar
    }

    /// Prints the result of a transfer; returns the exit code. `to_stdout`: the file itself went to standard output.
    pub fn report(&self, target: &Target, verb: &str, done: &Done, to_stdout: bool) -> u8 {
        let file = String::from_utf8_lossy(&target.file);
        if self.json {
            let document = document(&file, done);
            return crate::common::print_result(&format!("{document:#}"));
        }
        if !self.quiet && !to_stdout {
            let seconds = done.time.as_secs_f64();
            let repeats = match done.counters.retransmits {
                0 => String::new(),
                count => format!(", {count} repeats"),
            };
            let rate = done.bytes as f64 / 1e6 / seconds.max(1e-6);
            return crate::common::print_result(&format!(
                "{file}: {verb} {} bytes in {seconds:.3} s ({rate:.1} MB/s), blksize {}, windowsize {}{repeats}, sha256 {}",
                done.bytes,
                done.negotiated.blksize,
                done.negotiated.windowsize,
                hex(&done.sha256)
            ));
        }
        crate::DONE
    }

    /// Prints a failure; returns the exit code.
    pub fn fail(&self, target: &Target, reason: &str, why: &str) -> u8 {
        let file = String::from_utf8_lossy(&target.file);
        if self.json {
            let document = json!({ "file": file, "error": why, "reason": reason });
            print::line(format_args!("{document:#}"));
        }
        failed(&format!("{}: {why}", target.shown(self.port)))
    }
}

/// Returns whether a retry without options might succeed: the server refused them, and some were requested.
pub fn worth_trying_without(failure: &Failure, plan: &TransferPlan) -> bool {
    !plan.ask.is_empty() && matches!(failure, Failure::Server { code: ErrorCode::OPTIONS, .. })
}

/// Returns the style of the bar, with or without a known end.
pub fn style(bar: &ProgressBar, total: bool) {
    let template = match total {
        true => "{msg} {bar:30} {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left",
        false => "{msg} {spinner} {binary_bytes}, {binary_bytes_per_sec}",
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
}

/// Formats bytes as lower-case hexadecimal digits.
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
        "blksize": done.negotiated.blksize,
        "windowsize": done.negotiated.windowsize,
        "retransmits": done.counters.retransmits,
        "duplicates": done.counters.duplicates,
    })
}

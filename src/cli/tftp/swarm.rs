//! `guideway tftp swarm`: simulates thousands of clients.

use crate::common::{failed, print_result, usage_error};
use crate::{BAD_USAGE, DONE, FAILED, print};
use guideway_tftp::client::{Dally, Timing};
use guideway_tftp::packet::PORT;
use guideway_tftp::swarm::digests::{self, Expected};
use guideway_tftp::swarm::faults::{self, Rates};
use guideway_tftp::swarm::mix::Mix;
use guideway_tftp::swarm::sockets::Sources;
use guideway_tftp::swarm::{Error, Settings, files, is_local, run as swarm};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

/// Maximum number of transfers to a public address without `--yes-really`.
const MANY: u64 = 10_000;

/// Simulate thousands of TFTP clients, with the options and behaviour of real ones, and verify every file
///
/// Kinds for --mix: curl, tftp-hpa, atftp, busybox, ipxe, pxelinux (ten misses first), uefi (requests the size, aborts, requests again from
/// the next port), shim (three misses), grub (four misses, ports from 25304 on), uboot, guideway (windows of 16). Every client has its own
/// ports, used in turn. Exit code 0: every transfer completed with the right bytes; 1: one failed; 2: bad usage.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  guideway tftp swarm 127.0.0.1:6969 --clients 200 --transfers 5000 --files small.bin
  guideway tftp swarm 192.0.2.69 --clients 2000 --files 'boot-{1..50}.img' --mix ipxe=3,uefi=4,grub=1 --loss 1% --sha256 SHA256SUMS --json")]
pub struct Args {
    /// HOST, HOST:PORT or [ADDRESS]:PORT
    #[arg(value_name = "SERVER")]
    server: String,
    /// Number of concurrent clients, 1–1000000
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    clients: u32,
    /// Total number of transfers (default: one for each client)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    transfers: Option<u64>,
    /// Files to request in turn: names separated by commas, ranges like boot-{1..50}.img, or @FILE with one name a line
    #[arg(long, value_name = "LIST|PATTERN")]
    files: String,
    /// Kinds of clients and their weights (default: one of each)
    #[arg(long, value_name = "KIND=WEIGHT,…")]
    mix: Option<Mix>,
    /// Share of datagrams lost in each direction: 1% or 0.01
    #[arg(long, value_name = "SHARE", default_value = "0", value_parser = faults::parse)]
    loss: f64,
    /// Share of datagrams duplicated
    #[arg(long, value_name = "SHARE", default_value = "0", value_parser = faults::parse)]
    duplicate: f64,
    /// Share of datagrams overtaken by the next one
    #[arg(long, value_name = "SHARE", default_value = "0", value_parser = faults::parse)]
    reorder: f64,
    /// Source address, or a prefix whose addresses are used in turn
    #[arg(long, value_name = "PREFIX")]
    bind: Option<Sources>,
    /// Maximum number of transfers started per second (default: a new one when one ends)
    #[arg(long, value_name = "PER SECOND", value_parser = parse_rate)]
    rate: Option<f64>,
    /// List in the format of sha256sum (default: all clients must get the same bytes)
    #[arg(long, value_name = "FILE", conflicts_with = "no_verify")]
    sha256: Option<PathBuf>,
    /// Check sizes only
    #[arg(long)]
    no_verify: bool,
    /// Fixed time-out, as in firmware (default: it follows the round-trip times)
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    fixed_timeout: Option<Duration>,
    /// Number of retransmissions of a packet before a transfer fails, 0–100
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u32).range(0..=100))]
    retries: u32,
    /// Maximum duration of the whole run
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = parse_time)]
    time: Duration,
    /// Threads, 1–64 (default: one for each CPU, at most 4)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    threads: Option<u8>,
    /// Seed of random numbers
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Open all sockets, print `ready` on stderr, and start when stdin has a line or ends, so that several swarms can start together
    #[arg(long)]
    hold: bool,
    /// Print the result as one JSON document
    #[arg(long)]
    json: bool,
    /// Allow more than 10000 transfers to an address that is not loopback, link-local or private
    #[arg(long)]
    yes_really: bool,
}

fn parse_time(text: &str) -> Result<Duration, String> {
    let time = guideway_config::duration::parse(text).map_err(|error| format!("it {error}"))?;
    if (Duration::from_millis(1)..=Duration::from_secs(86_400)).contains(&time) {
        Ok(time)
    } else {
        Err("is out of range; allowed: 1ms to 24h".to_owned())
    }
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let rate = text.trim_end_matches("/s").parse().ok().filter(|rate| (0.001..=1e9).contains(rate));
    rate.ok_or_else(|| "a rate is a number of transfers a second, above 0".to_owned())
}

/// Runs the command.
pub fn run(args: &Args) -> u8 {
    let (settings, expected) = match prepare(args) {
        Ok(prepared) => prepared,
        Err(code) => return code,
    };
    let bar = ProgressBar::with_draw_target(Some(settings.transfers), ProgressDrawTarget::stderr_with_hz(10));
    if args.json {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos} of {len} transfers, {per_sec}, {eta} left") {
        bar.set_style(style);
    }
    let mut ready = || {
        if args.hold {
            eprintln!("ready");
            // Any input, or the end of input, starts the swarm.
            let _word = std::io::stdin().read_line(&mut String::new());
        }
    };
    let played = swarm(&settings, &expected, &mut ready, &mut |ended| bar.set_position(ended));
    bar.finish_and_clear();
    let tally = match played {
        Ok(tally) => tally,
        Err(Error::Usage(why)) => return usage_error(&why),
        Err(error) => return failed(&error.to_string()),
    };
    let all = tally.transfers();
    let printed = if args.json {
        let mut document = tally.document();
        document["server"] = Value::from(settings.server.to_string());
        document["seed"] = Value::from(settings.seed);
        document["requested"] = Value::from(settings.transfers);
        print_result(&format!("{document:#}"))
    } else {
        print_result(&format!("{}completed {} of {} transfers", tally.text(), all.completed, settings.transfers))
    };
    if printed == DONE && all.completed < settings.transfers { FAILED } else { printed }
}

fn prepare(args: &Args) -> Result<(Settings, Expected), u8> {
    let server = resolve(args)?;
    let files = files::parse(&args.files).map_err(|why| usage_error(&format!("--files: {why}")))?;
    let transfers = args.transfers.unwrap_or(args.clients.into());
    if transfers > MANY && !is_local(server.ip()) && !args.yes_really {
        return Err(usage_error(&format!(
            "{transfers} transfers from {}, which is neither loopback nor link-local nor private: add --yes-really if it is yours",
            server.ip()
        )));
    }
    let list = match &args.sha256 {
        None => HashMap::new(),
        Some(path) => {
            let why = |why: String| usage_error(&format!("--sha256 {}: {why}", path.display()));
            let list = std::fs::read_to_string(path).map_err(|error| why(error.to_string()))?;
            digests::parse(&list).map_err(why)?
        }
    };
    if let Some(name) = files.iter().find(|name| args.sha256.is_some() && !list.contains_key(name.trim_start_matches('/'))) {
        return Err(usage_error(&format!("--sha256: the list has no line for {name}")));
    }
    let mut timing = Timing { retries: args.retries, dally: Dally::AfterLoss(Duration::from_millis(1500)), ..Timing::default() };
    if let Some(fixed) = args.fixed_timeout {
        (timing.initial, timing.min_rto, timing.max_rto) = (fixed, fixed, fixed);
    }
    let expected = if args.no_verify { Expected::unchecked() } else { Expected::new(&files, &list) };
    let settings = Settings {
        server,
        clients: u32::try_from(transfers.min(args.clients.into())).unwrap_or(args.clients),
        transfers,
        files,
        mix: args.mix.clone().unwrap_or_default(),
        faults: Rates { lose: args.loss, duplicate: args.duplicate, reorder: args.reorder },
        bind: args.bind,
        rate: args.rate,
        timing,
        seed: args.seed,
        limit: args.time,
        threads: args.threads.map_or(0, usize::from),
    };
    Ok((settings, expected))
}

fn resolve(args: &Args) -> Result<SocketAddr, u8> {
    let text = args.server.as_str();
    if let Ok(address) = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        return Ok(SocketAddr::new(address, PORT));
    }
    let named = if text.contains(':') { text.to_socket_addrs() } else { (text, PORT).to_socket_addrs() };
    let mut found = named.map_err(|error| {
        print::error(format_args!("guideway: {text}: {error}"));
        BAD_USAGE
    })?;
    let wanted = |address: &SocketAddr| args.bind.is_none_or(|bind| bind.is_ipv4() == address.is_ipv4());
    found.find(wanted).ok_or_else(|| usage_error(&format!("{text} has no address of the family of --bind")))
}

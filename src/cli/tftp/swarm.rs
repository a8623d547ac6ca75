//! `guideway tftp swarm`: thousands of clients.

use crate::common::{bad, failed, result};
use crate::{BAD_USAGE, DONE, FAILED, print};
use guideway_tftp::client::{Dally, Timing};
use guideway_tftp::packet::PORT;
use guideway_tftp::swarm::faults::{self, Rates};
use guideway_tftp::swarm::mix::Mix;
use guideway_tftp::swarm::sockets::Sources;
use guideway_tftp::swarm::sums::{self, Expected};
use guideway_tftp::swarm::{Error, Settings, files, is_near, run as swarm};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

/// More transfers than this to an address out in the world need `--yes-really`.
const MANY: u64 = 10_000;

/// Play thousands of TFTP clients, with the options and habits of real ones, and check every file.
///
/// Kinds for --mix: curl, tftp-hpa, atftp, busybox, ipxe, pxelinux (ten misses first), uefi (asks for the size, refuses, asks again from the
/// next port), shim (three misses), grub (four misses, ports from 25304 on), uboot, guideway (windows of 16). Every client has ports of its
/// own, used in turn. Exit code 0: every transfer completed with the right bytes; 1: one failed; 2: bad usage.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  guideway tftp swarm 127.0.0.1:6969 --clients 200 --transfers 5000 --files small.bin
  guideway tftp swarm 192.0.2.69 --clients 2000 --files 'boot-{1..50}.img' --mix ipxe=3,uefi=4,grub=1 --loss 1% --sha256 SHA256SUMS --json")]
pub struct Args {
    /// HOST, HOST:PORT or [ADDRESS]:PORT
    #[arg(value_name = "SERVER")]
    server: String,
    /// Clients at the same time, 1–1000000
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    clients: u32,
    /// Transfers in all (default: one for each client)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    transfers: Option<u64>,
    /// The files, asked for in turn: names with commas between, ranges like boot-{1..50}.img, or @FILE with a name in each line
    #[arg(long, value_name = "LIST|PATTERN")]
    files: String,
    /// Kinds of clients and their weights (default: one of each)
    #[arg(long, value_name = "KIND=WEIGHT,…")]
    mix: Option<Mix>,
    /// Datagrams lost, in each direction: 1% or 0.01
    #[arg(long, value_name = "SHARE", default_value = "0", value_parser = faults::parse)]
    loss: f64,
    /// Datagrams doubled
    #[arg(long, value_name = "SHARE", default_value = "0", value_parser = faults::parse)]
    duplicate: f64,
    /// Datagrams overtaken by the next one
    #[arg(long, value_name = "SHARE", default_value = "0", value_parser = faults::parse)]
    reorder: f64,
    /// Send from this address, or from all of a prefix in turn
    #[arg(long, value_name = "PREFIX")]
    bind: Option<Sources>,
    /// Transfers begun in a second at most (default: as one ends, the next begins)
    #[arg(long, value_name = "PER SECOND", value_parser = parse_rate)]
    rate: Option<f64>,
    /// A list as sha256sum writes it (default: all clients must get the same bytes)
    #[arg(long, value_name = "FILE", conflicts_with = "no_verify")]
    sha256: Option<PathBuf>,
    /// Check sizes only
    #[arg(long)]
    no_verify: bool,
    /// A fixed time-out, as firmware has it (default: it follows the round trips)
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    fixed_timeout: Option<Duration>,
    /// How often one packet is sent again before a transfer is given up, 0–100
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u32).range(0..=100))]
    retries: u32,
    /// When everything ends at the latest
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = parse_time)]
    time: Duration,
    /// Threads, 1–64 (default: one for each CPU, at most 4)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    threads: Option<u8>,
    /// What chance is made from
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Open all sockets, say `ready` on stderr, and begin when stdin has a line or ends: so several swarms begin together
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
    if (Duration::from_millis(1)..=Duration::from_secs(86_400)).contains(&time) { Ok(time) } else { Err("from 1ms to 24h".to_owned()) }
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
            // Whatever comes, and however it ends, is the word to begin.
            let _word = std::io::stdin().read_line(&mut String::new());
        }
    };
    let played = swarm(&settings, &expected, &mut ready, &mut |ended| bar.set_position(ended));
    bar.finish_and_clear();
    let tally = match played {
        Ok(tally) => tally,
        Err(Error::Usage(why)) => return bad(&why),
        Err(error) => return failed(&error.to_string()),
    };
    let all = tally.transfers();
    let printed = if args.json {
        let mut document = tally.document();
        document["server"] = Value::from(settings.server.to_string());
        document["seed"] = Value::from(settings.seed);
        document["asked"] = Value::from(settings.transfers);
        result(&format!("{document:#}"))
    } else {
        result(&format!("{}completed {} of {} transfers", tally.text(), all.completed, settings.transfers))
    };
    if printed == DONE && all.completed < settings.transfers { FAILED } else { printed }
}

fn prepare(args: &Args) -> Result<(Settings, Expected), u8> {
    let server = resolve(args)?;
    let files = files::parse(&args.files).map_err(|why| bad(&format!("--files: {why}")))?;
    let transfers = args.transfers.unwrap_or(args.clients.into());
    if transfers > MANY && !is_near(server.ip()) && !args.yes_really {
        return Err(bad(&format!(
            "{transfers} transfers from {}, which is neither loopback nor link-local nor private: is it yours? Then say --yes-really",
            server.ip()
        )));
    }
    let list = match &args.sha256 {
        None => HashMap::new(),
        Some(path) => {
            let why = |why: String| bad(&format!("--sha256 {}: {why}", path.display()));
            let list = std::fs::read_to_string(path).map_err(|error| why(error.to_string()))?;
            sums::parse(&list).map_err(why)?
        }
    };
    if let Some(name) = files.iter().find(|name| args.sha256.is_some() && !list.contains_key(name.trim_start_matches('/'))) {
        return Err(bad(&format!("--sha256: the list has no line for {name}")));
    }
    let mut timing = Timing { retries: args.retries, dally: Dally::AfterTrouble(Duration::from_millis(1500)), ..Timing::default() };
    if let Some(fixed) = args.fixed_timeout {
        (timing.initial, timing.floor, timing.ceiling) = (fixed, fixed, fixed);
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
    found.find(wanted).ok_or_else(|| bad(&format!("{text} has no address of the family of --bind")))
}

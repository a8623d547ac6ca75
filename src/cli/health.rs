//! `guideway health`: the health controller, or one round of its checks.

use super::common::failed;
use super::{BAD_USAGE, DONE, FAILED, common, logging, print};
use guideway_health::daemon::{self, Error};
use guideway_health::once::{self, Result, Which};
use guideway_health::outcome::Outcome;
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::PathBuf;

/// Run a health controller: check the backends of all pools that have a `check`, and publish what it sees
///
/// It belongs on a host that holds no VIP. A tftp check is a transfer: a request in GRE through the backend's own tunnel to the VIP, answered
/// straight, verified and ended cleanly.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "SIGHUP reads the pools again; what is wrong then changes nothing. SIGTERM and SIGINT end the controller; what it published stands.\n\n\
    Instead of root CAP_NET_RAW does, for tftp and icmp checks. --once exits with 1 when a backend fails its check.\n\n\
    Example:\n  guideway health --config /etc/guideway/health.toml\n  guideway health --config /etc/guideway/health.toml --once --pool boot"
)]
pub struct Args {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Check every backend once, print what came of it, publish nothing
    #[arg(long)]
    once: bool,
    /// With --once: only the backends of this pool
    #[arg(long, value_name = "NAME", requires = "once")]
    pool: Option<String>,
    /// With --once: only the backends of this name
    #[arg(long, value_name = "NAME", requires = "once")]
    backend: Option<String>,
    /// With --once: print one JSON array, with an object for each backend
    #[arg(long, requires = "once")]
    json: bool,
    #[command(flatten)]
    logging: logging::LogArgs,
}

/// Runs the command.
pub fn run(args: &Args) -> u8 {
    if let Err(code) = logging::start(&args.logging) {
        return code;
    }
    let done = if args.once { once(args) } else { daemon::run(&args.config).map(|()| DONE) };
    match done {
        Ok(code) => code,
        Err(Error::Config { file, problems }) => {
            problems.iter().for_each(|problem| print::error(problem.in_file(&file)));
            BAD_USAGE
        }
        Err(error) => {
            tracing::error!("{error}");
            error.exit_code()
        }
    }
}

fn once(args: &Args) -> std::result::Result<u8, Error> {
    let which = Which { pool: args.pool.clone(), backend: args.backend.clone() };
    let results = once::run(&args.config, &which)?;
    if results.is_empty() {
        return Ok(common::bad("no backend of this name is checked; `guideway check --config FILE` shows the pools and their checks"));
    }
    let text = match args.json {
        true => format!("{:#}", Value::Array(results.iter().map(document).collect())),
        false => table(&results),
    };
    let printed = print::line(text.trim_end());
    let all_good = results.iter().all(|result| result.outcome == Outcome::Good);
    Ok(match printed {
        true if all_good => DONE,
        true => FAILED,
        false => failed("standard output cannot be written"),
    })
}

fn document(result: &Result) -> Value {
    json!({
        "pool": &*result.target.pool,
        "backend": &*result.target.backend,
        "address": result.target.address,
        "check": result.target.check.probe.label(),
        "outcome": result.outcome.name(),
        "text": result.outcome.to_string(),
        "seconds": result.took.as_secs_f64(),
    })
}

fn table(results: &[Result]) -> String {
    let row = |result: &Result| {
        let took = format!("{:.1} ms", result.took.as_secs_f64() * 1000.0);
        let (pool, backend) = (result.target.pool.to_string(), result.target.backend.to_string());
        [pool, backend, result.target.address.to_string(), took, result.outcome.to_string()]
    };
    let titles = ["POOL", "BACKEND", "ADDRESS", "TOOK", "OUTCOME"].map(str::to_owned);
    let rows: Vec<[String; 5]> = std::iter::once(titles).chain(results.iter().map(row)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths = [width(0), width(1), width(2), width(3)];
    let mut out = String::new();
    for [pool, backend, address, took, outcome] in &rows {
        // Writing to a string cannot fail.
        let _ =
            writeln!(out, "{pool:<0$}  {backend:<1$}  {address:<2$}  {took:>3$}  {outcome}", widths[0], widths[1], widths[2], widths[3]);
    }
    out
}

//! `guideway health`: the health controller, or one round of its checks.

use super::common::failed;
use super::{BAD_USAGE, DONE, FAILED, common, logging, print};
use guideway_health::daemon::{self, Error};
use guideway_health::once::{self, CheckFilter, CheckResult};
use guideway_health::outcome::Outcome;
use serde::Serialize;
use std::net::IpAddr;
use std::path::PathBuf;

/// Run a health controller: check the backends of all pools that have a `check`, and publish the results
///
/// Run it on a host without a VIP. A tftp check is a transfer: its request goes in GRE through the backend's own tunnel to the VIP, and the
/// answer comes back directly. The check verifies the file and ends the transfer cleanly.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "SIGHUP reloads the pools; an invalid file is refused and changes nothing. SIGTERM and SIGINT end the controller; its published health stays.\n\n\
    tftp and icmp checks need root or CAP_NET_RAW. --once exits with 1 when a backend fails its check.\n\n\
    Example:\n  guideway health --config /etc/guideway/health.toml\n  guideway health --config /etc/guideway/health.toml --once --pool boot"
)]
pub struct Args {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Check every backend once, print the results, publish nothing
    #[arg(long)]
    once: bool,
    /// With --once: check only the backends of this pool
    #[arg(long, value_name = "NAME", requires = "once")]
    pool: Option<String>,
    /// With --once: check only the backends with this name
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

fn once(args: &Args) -> Result<u8, Error> {
    let which = CheckFilter { pool: args.pool.clone(), backend: args.backend.clone() };
    let results = once::run(&args.config, &which)?;
    if results.is_empty() {
        return Ok(common::usage_error(
            "no checked backend matches --pool and --backend; `guideway check --config FILE` shows the pools and their checks",
        ));
    }
    let text = match args.json {
        true => print::json(&results.iter().map(document).collect::<Vec<_>>()),
        false => table(&results),
    };
    let printed = print::line(text.trim_end());
    let all_good = results.iter().all(|result| result.outcome == Outcome::Passed);
    Ok(match printed {
        true if all_good => DONE,
        true => FAILED,
        false => failed("cannot write to standard output"),
    })
}

/// The JSON of a checked backend.
#[derive(Serialize)]
struct ResultDocument<'r> {
    pool: &'r str,
    backend: &'r str,
    address: IpAddr,
    check: String,
    outcome: &'static str,
    text: String,
    seconds: f64,
}

fn document(result: &CheckResult) -> ResultDocument<'_> {
    ResultDocument {
        pool: &result.target.pool,
        backend: &result.target.backend,
        address: result.target.address,
        check: result.target.check.probe.label(),
        outcome: result.outcome.name(),
        text: result.outcome.to_string(),
        seconds: result.took.as_secs_f64(),
    }
}

fn table(results: &[CheckResult]) -> String {
    let row = |result: &CheckResult| {
        let took = format!("{:.1} ms", result.took.as_secs_f64() * 1000.0);
        let (pool, backend) = (result.target.pool.to_string(), result.target.backend.to_string());
        [pool, backend, result.target.address.to_string(), took, result.outcome.to_string()]
    };
    let titles = ["POOL", "BACKEND", "ADDRESS", "TOOK", "OUTCOME"].map(str::to_owned);
    print::columns(std::iter::once(titles).chain(results.iter().map(row)), &[3])
}

//! `guideway drain` and `undrain`: a backend gets no new requests, and what runs there goes on to its end.

use super::common::{bad, failed, query, result};
use super::plan::carry_out;
use super::set::How;
use super::{DONE, FAILED, backends, print};
use guideway_config::duration;
use guideway_daemon::client::Client;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// How often the directors are asked what still runs.
const ASK: Duration = Duration::from_millis(250);

/// Give a backend no new requests; with --wait, return when the last of its transfers has ended
///
/// Directors do not see how a transfer ends, only that its packets cease: it has ended when it was silent for --quiet. With several --socket or --url the
/// first is told to drain (or all, where each has its own store), and --wait asks them all.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit code 0: done, and with --wait nothing runs any more; 1: it failed, or something still runs after --timeout.\n\n\
    Example:\n  guideway drain t1 --wait --timeout 10m\n  guideway drain t1 --pool boot --dry-run"
)]
pub struct Args {
    /// The backend
    #[arg(value_name = "BACKEND")]
    name: String,
    /// Its pool, if several have one of that name
    #[arg(long, value_name = "POOL")]
    pool: Option<String>,
    /// Wait until nothing runs there any more
    #[arg(long, conflicts_with = "dry_run")]
    wait: bool,
    /// Give up after this time; the backend stays drained
    #[arg(long, value_name = "TIME", requires = "wait", value_parser = time)]
    timeout: Option<Duration>,
    /// A transfer that was silent for so long has ended; more than the longest time after which a client repeats
    #[arg(long, value_name = "TIME", requires = "wait", default_value = "10s", value_parser = time)]
    quiet: Duration,
    #[command(flatten)]
    how: How,
}

/// Give a drained backend new requests again
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  guideway undrain t1")]
pub struct UndrainArgs {
    /// The backend
    #[arg(value_name = "BACKEND")]
    name: String,
    /// Its pool, if several have one of that name
    #[arg(long, value_name = "POOL")]
    pool: Option<String>,
    #[command(flatten)]
    how: How,
}

fn time(text: &str) -> Result<Duration, String> {
    duration::parse(text).map_err(|error| error.to_string())
}

/// Runs `guideway drain`.
pub fn run(args: &Args) -> u8 {
    let (clients, path) = match each(&args.name, args.pool.as_deref(), &args.how, "drain") {
        Ok(done) => done,
        Err(code) => return code,
    };
    if args.wait { wait(args, &clients, &path) } else { DONE }
}

/// Runs `guideway undrain`.
pub fn undrain(args: &UndrainArgs) -> u8 {
    each(&args.name, args.pool.as_deref(), &args.how, "undrain").err().unwrap_or(DONE)
}

/// Drains or undrains at every director that does not know it yet.
fn each(name: &str, pool: Option<&str>, how: &How, verb: &str) -> Result<(Vec<Client>, String), u8> {
    let clients = how.director.clients()?;
    let Some(first) = clients.first() else { return Err(bad("no director is named")) };
    let path = backends::path(first, name, pool).map_err(|why| failed(&why))?;
    for (at, client) in clients.iter().enumerate() {
        // Those that share a store have the change from the first.
        let has_it = || client.get(&path).is_ok_and(|backend| backend["drain"] == (verb == "drain"));
        if at == 0 || (!how.dry_run && !has_it()) {
            carry_out(client, "POST", &format!("{path}/{verb}"), None, how.dry_run, how.json)?;
        }
    }
    Ok((clients, path))
}

fn wait(args: &Args, clients: &[Client], path: &str) -> u8 {
    let path = format!("{path}/transfers?{}", query(&[("quiet", &duration::human(args.quiet))]));
    let (started, mut shown) = (Instant::now(), None);
    loop {
        let mut running = 0;
        let mut ended = true;
        for client in clients {
            match client.get(&path) {
                Ok(transfers) if transfers["draining_seconds"].is_null() => {
                    return failed(&format!("{} is not drained any more at {}", args.name, client.at()));
                }
                Ok(transfers) => {
                    running += transfers["running"].as_u64().unwrap_or(0);
                    ended &= transfers["ended"] == true;
                }
                Err(error) => return failed(&error.to_string()),
            }
        }
        let seconds = started.elapsed().as_secs_f64();
        if shown != Some(running) && !args.how.json && !print::line(line(running, seconds)) {
            return failed("standard output cannot be written; the backend is drained");
        }
        shown = Some(running);
        if ended {
            return result(&end(&args.name, seconds, args.how.json));
        }
        if let Some(timeout) = args.timeout.filter(|timeout| started.elapsed() >= *timeout) {
            let waited = duration::human(timeout);
            print::error(format_args!("guideway: {running} still run on {} after {waited}; it stays drained", args.name));
            return FAILED;
        }
        std::thread::sleep(ASK);
    }
}

fn line(running: u64, seconds: f64) -> String {
    match running {
        0 => format!("{seconds:6.1} s  none seen; waiting until it was quiet for long enough"),
        1 => format!("{seconds:6.1} s  1 transfer runs"),
        n => format!("{seconds:6.1} s  {n} transfers run"),
    }
}

fn end(name: &str, seconds: f64, as_json: bool) -> String {
    let document: Value = json!({"backend": name, "running": 0, "seconds": seconds});
    if as_json { format!("{document:#}") } else { format!("{seconds:6.1} s  nothing runs on {name} any more: it can be stopped") }
}

//! `guideway maintenance`: keeps clients away from a running daemon, so that its host can be worked on.

use super::common::{failed, print_result};
use super::status::{DaemonArgs, client};
use super::{DONE, FAILED, print};
use guideway_api::status::Maintenance;
use guideway_config::duration;
use guideway_daemon::client::Client;
use std::time::{Duration, Instant};

/// Time between two queries.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Keep clients away from a director or a TFTP server, so that it can be stopped without loss
///
/// A director withdraws its VIPs and forwards what still comes. A server ends its transfers and answers no new requests. Reloads do not change it; it ends with
/// the process.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit code 0: done, and with --wait nothing comes any more; `state`: it is off; 1: it failed, something still comes after --timeout, or \
    `state`: it is on.\n\nExample:\n  guideway maintenance on --wait\n  guideway maintenance off"
)]
pub struct Args {
    /// Begin, end, or show it
    #[arg(value_enum, value_name = "ACTION")]
    action: Action,
    /// Wait until nothing comes any more
    #[arg(long)]
    wait: bool,
    /// Give up after this time; maintenance stays on
    #[arg(long, value_name = "TIME", requires = "wait", value_parser = time)]
    timeout: Option<Duration>,
    /// Time without a packet after which nothing comes any more; must exceed the longest retransmission time-out of the clients
    #[arg(long, value_name = "TIME", requires = "wait", default_value = "10s", value_parser = time)]
    idle_timeout: Duration,
    #[command(flatten)]
    daemon: DaemonArgs,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Action {
    /// Keep clients away
    On,
    /// Let clients come again
    Off,
    /// Say whether it is on
    State,
}

fn time(text: &str) -> Result<Duration, String> {
    duration::parse(text).map_err(|error| error.to_string())
}

/// Runs the command.
pub fn run(args: &Args) -> u8 {
    let client = match client(&args.daemon) {
        Ok(client) => client,
        Err(code) => return code,
    };
    let answer = match args.action {
        Action::On => client.change::<Maintenance>("POST", "/v1/maintenance/on", None),
        Action::Off => client.change::<Maintenance>("POST", "/v1/maintenance/off", None),
        Action::State => client.get::<Maintenance>("/v1/maintenance"),
    };
    match answer {
        Ok(now) if args.action == Action::On && args.wait => wait(args, &client, now),
        Ok(Maintenance { on, .. }) => {
            let code = print_result(if on { "maintenance is on" } else { "maintenance is off" });
            if args.action == Action::State && on { FAILED } else { code }
        }
        Err(error) => failed(&error.to_string()),
    }
}

/// Waits until nothing came for the idle time-out. A server tells how many transfers run; a director how many packets it forwarded so far.
fn wait(args: &Args, client: &Client, mut before: Maintenance) -> u8 {
    let (started, mut quiet_since, mut shown) = (Instant::now(), Instant::now(), false);
    loop {
        std::thread::sleep(POLL_INTERVAL);
        let now = match client.get::<Maintenance>("/v1/maintenance") {
            Ok(now) if now.on => now,
            Ok(_) => return failed("maintenance was ended meanwhile"),
            Err(error) => return failed(&error.to_string()),
        };
        // A server knows what runs, but not what others have gone on with; a director sees packets only.
        let waits_for_end = !now.takeover && now.running.is_some_and(|running| running > 0);
        if waits_for_end || (now.running, now.forwarded) != (before.running, before.forwarded) {
            (before, quiet_since) = (now, Instant::now());
        }
        let seconds = started.elapsed().as_secs_f64();
        if !std::mem::replace(&mut shown, true) && !print::line(format!("{seconds:6.1} s  waiting until nothing comes any more")) {
            return failed("standard output cannot be written; maintenance is on");
        }
        if now.running == Some(0) || quiet_since.elapsed() >= args.idle_timeout {
            print_result(&format!("{seconds:6.1} s  nothing comes any more: it can be stopped"));
            return DONE;
        }
        if args.timeout.is_some_and(|timeout| started.elapsed() >= timeout) {
            return failed("something still comes after --timeout; maintenance stays on");
        }
    }
}

//! `guideway set`: changes a backend, or the whole intent, in one transaction.

use super::common::{encode_component, failed, usage_error};
use super::plan::{ChangeArgs, plan_and_apply};
use super::{DONE, backends};
use guideway_api::intent::{BackendChange, PortRange};
use guideway_api::plan::Plan;
use guideway_config::read_intent;
use std::path::PathBuf;

/// Change the intent of a running director: add, change or remove a backend, or replace all VIPs and pools by those of a file
#[derive(Debug, clap::Args)]
#[command(after_help = "Shows the effect of the change, then commits it as one transaction; --dry-run only shows it.\n\n\
    Examples:\n  guideway set backend t1 --weight 50\n  guideway set backend t9 --pool boot --address 10.0.2.29 --tid-range 29000-29999\n  \
    guideway set backend t1 --remove --dry-run\n  guideway set intent pools.toml")]
pub struct Args {
    #[command(subcommand)]
    command: SetCommand,
}

#[derive(Debug, clap::Subcommand)]
enum SetCommand {
    Backend(BackendArgs),
    Intent(IntentArgs),
}

/// Add, change or remove a backend
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  guideway set backend t1 --weight 50 --dry-run")]
struct BackendArgs {
    /// Its name
    name: String,
    /// Its pool; required for a new backend, or if several pools have a backend of this name
    #[arg(long, value_name = "POOL")]
    pool: Option<String>,
    /// 0–1000; 0: no new flows
    #[arg(long, value_name = "N")]
    weight: Option<u16>,
    /// Destination of its GRE
    #[arg(long, value_name = "IP")]
    address: Option<String>,
    /// Its range of server ports, such as 20000-20999
    #[arg(long, value_name = "RANGE")]
    tid_range: Option<String>,
    /// Remove it; its transfers go on
    #[arg(long, conflicts_with_all = ["weight", "address", "tid_range"])]
    remove: bool,
    #[command(flatten)]
    change: ChangeArgs,
}

/// Replace all VIPs and pools by those of a file
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  guideway set intent /etc/guideway/pools.toml --dry-run")]
struct IntentArgs {
    /// TOML with [[vip]] and [[pool]] as in a director's file, and nothing else
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    change: ChangeArgs,
}

/// Runs the command.
pub fn run(args: &Args) -> u8 {
    let outcome = match &args.command {
        SetCommand::Backend(args) => backend(args),
        SetCommand::Intent(args) => intent(args),
    };
    outcome.err().unwrap_or(DONE)
}

fn backend(args: &BackendArgs) -> Result<Plan, u8> {
    let tid_range = args.tid_range.clone().map(PortRange::Range);
    let change = BackendChange { address: args.address.clone(), weight: args.weight, tid_range, ..BackendChange::default() };
    if change == BackendChange::default() && !args.remove {
        return Err(usage_error("nothing to change: give --weight, --address, --tid-range or --remove"));
    }
    let client = args.change.director.client()?;
    let there = backends::path(&client, &args.name, args.pool.as_deref());
    let (method, path) = match (there, &args.pool) {
        (Ok(path), _) => (if args.remove { "DELETE" } else { "PATCH" }, path),
        // With a pool and an address it is a new one.
        (Err(_), Some(pool)) if args.address.is_some() => {
            ("PUT", format!("/v1/pools/{}/backends/{}", encode_component(pool), encode_component(&args.name)))
        }
        (Err(why), _) => return Err(failed(&why)),
    };
    let body = serde_json::to_value(change).ok().filter(|_| !args.remove);
    plan_and_apply(&client, method, &path, body.as_ref(), &args.change)
}

fn intent(args: &IntentArgs) -> Result<Plan, u8> {
    let text = std::fs::read_to_string(&args.file).map_err(|e| usage_error(&format!("cannot read {}: {e}", args.file.display())))?;
    let checked = read_intent(&text);
    checked.problems.iter().for_each(|problem| super::print::error(problem.in_file(&args.file)));
    let intent = checked.config.ok_or(super::BAD_USAGE)?;
    let client = args.change.director.client()?;
    plan_and_apply(&client, "PUT", "/v1/intent", Some(&intent.to_json()), &args.change)
}

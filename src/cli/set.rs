//! `guideway set`: change a backend, or anything else that is wanted, in one transaction.

use super::common::{bad, failed, part};
use super::plan::carry_out;
use super::running::DirectorArgs;
use super::{DONE, backends};
use guideway_config::read_intent;
use serde_json::{Map, Value, json};
use std::path::PathBuf;

/// Change what a running director serves: a backend's weight, address or range; a new backend or one less; or all, from a file
#[derive(Debug, clap::Args)]
#[command(after_help = "Says what the change will do, then makes it: all of it or none.\n\n\
    Examples:\n  guideway set backend t1 --weight 50\n  guideway set backend t9 --pool boot --address 10.0.2.29 --tid-range 29000-29999\n  \
    guideway set backend t1 --remove --dry-run\n  guideway set intent pools.toml")]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    Backend(BackendArgs),
    Intent(IntentArgs),
}

/// Add, change or remove a backend
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  guideway set backend t1 --weight 50 --dry-run")]
struct BackendArgs {
    /// Its name
    name: String,
    /// Its pool; needed for a new one, and if several pools have one of that name
    #[arg(long, value_name = "POOL")]
    pool: Option<String>,
    /// 0–1000; 0: no new flows
    #[arg(long, value_name = "N")]
    weight: Option<u16>,
    /// Where its GRE goes
    #[arg(long, value_name = "IP")]
    address: Option<String>,
    /// The server ports that are its own, 20000-20999
    #[arg(long, value_name = "RANGE")]
    tid_range: Option<String>,
    /// Remove it; its transfers go on
    #[arg(long, conflicts_with_all = ["weight", "address", "tid_range"])]
    remove: bool,
    #[command(flatten)]
    how: How,
}

/// Replace all VIPs and pools by those of a file
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  guideway set intent /etc/guideway/pools.toml --dry-run")]
struct IntentArgs {
    /// TOML with [[vip]] and [[pool]] as in a director's file, and nothing else
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    how: How,
}

/// How a change is made.
#[derive(Debug, clap::Args)]
pub(super) struct How {
    /// Say what would happen, and change nothing
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Print the plan as JSON
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) director: DirectorArgs,
}

/// Runs the command.
pub fn run(args: &Args) -> u8 {
    let outcome = match &args.what {
        What::Backend(args) => backend(args),
        What::Intent(args) => intent(args),
    };
    outcome.err().unwrap_or(DONE)
}

fn backend(args: &BackendArgs) -> Result<Value, u8> {
    let given = [("address", args.address.as_deref().map(Value::from)), ("weight", args.weight.map(Value::from))];
    let given = given.into_iter().chain([("tid_range", args.tid_range.as_deref().map(Value::from))]);
    let body: Map<String, Value> = given.filter_map(|(key, value)| Some((key.to_owned(), value?))).collect();
    if body.is_empty() && !args.remove {
        return Err(bad("nothing to change: give --weight, --address, --tid-range or --remove"));
    }
    let client = args.how.director.client()?;
    let there = backends::path(&client, &args.name, args.pool.as_deref());
    let (method, path) = match (there, &args.pool) {
        (Ok(path), _) => (if args.remove { "DELETE" } else { "PATCH" }, path),
        // With a pool and an address it is a new one.
        (Err(_), Some(pool)) if args.address.is_some() => ("PUT", format!("/v1/pools/{}/backends/{}", part(pool), part(&args.name))),
        (Err(why), _) => return Err(failed(&why)),
    };
    carry_out(&client, method, &path, (!args.remove).then(|| json!(body)).as_ref(), args.how.dry_run, args.how.json)
}

fn intent(args: &IntentArgs) -> Result<Value, u8> {
    let text = std::fs::read_to_string(&args.file).map_err(|e| bad(&format!("cannot read {}: {e}", args.file.display())))?;
    let checked = read_intent(&text);
    checked.problems.iter().for_each(|problem| super::print::error(problem.in_file(&args.file)));
    let intent = checked.config.ok_or(super::BAD_USAGE)?;
    let client = args.how.director.client()?;
    carry_out(&client, "PUT", "/v1/intent", Some(&intent.to_json()), args.how.dry_run, args.how.json)
}

//! `guideway store`: shows, imports and exports the content of the store that directors share.

mod open;
mod repair;
mod show;

use super::common::{failed, print_result, usage_error};
use super::origin::origin;
use clap::Subcommand;
use guideway_api::presence::Presence;
use guideway_config::{self as config, Intent};
use guideway_store::{OpenError, Store, ready};
use open::{STORE_TIMEOUT, StoreArgs, read, with_state, with_store};
use serde_json::Value;
use std::path::PathBuf;

/// Import, export and show the VIPs and pools in the store that directors share
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  guideway store show --config /etc/guideway/director.toml")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Import(Import),
    Export(Export),
    Show(show::Show),
    Restore(repair::Restore),
    Accept(repair::Accept),
}

/// Put the [[vip]] and [[pool]] of a file into the store, as one change
///
/// Replaces all VIPs and pools of the store in one transaction. An error changes nothing.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A director's file may hold [[vip]] and [[pool]] or name a [store]. To go from one to the other: write [store] into the file, import, \
    remove [[vip]] and [[pool]], restart the director.\n\n\
    Examples:\n  guideway store import --config /etc/guideway/director.toml --dry-run\n  \
    guideway store import --config /etc/guideway/director.toml --from intent.toml --replace"
)]
struct Import {
    #[command(flatten)]
    store_args: StoreArgs,
    /// The file with [[vip]] and [[pool]]; other sections are ignored [default: that of --config]
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// Replace the content of the store; without this flag, import only into an empty store
    #[arg(long)]
    replace: bool,
    /// Why, for `guideway history`
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Make the change also if it leaves a pool without a backend for new requests
    #[arg(long)]
    yes: bool,
    /// Show the changes, and change nothing
    #[arg(long)]
    dry_run: bool,
}

/// Print the [[vip]] and [[pool]] of the store as a file that `import` takes
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  guideway store export --config /etc/guideway/director.toml > intent.toml")]
struct Export {
    #[command(flatten)]
    store_args: StoreArgs,
    /// Print JSON instead of TOML
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> u8 {
    match &args.command {
        Command::Show(args) => show::run(args),
        Command::Restore(args) => args.run(),
        Command::Accept(args) => args.run(),
        Command::Import(args) => with_store(&args.store_args, async |store| args.run(&store).await),
        Command::Export(args) => with_state(&args.store_args, async |store| {
            let intent = store.watch().borrow().cluster.intent.clone();
            print_result(&if args.json { format!("{:#}", intent.to_json()) } else { intent.to_toml() })
        }),
    }
}

impl Import {
    async fn run(&self, store: &Store) -> u8 {
        let from = self.from.as_ref().unwrap_or(&self.store_args.config);
        let intent = match read(from, config::read_embedded_intent) {
            Ok(intent) => intent,
            Err(code) => return code,
        };
        if intent == Intent::default() {
            return usage_error(&format!(
                "{}: there is no [[vip]] and no [[pool]] in it; name a file that has them by --from",
                from.display()
            ));
        }
        let cluster = match ready(store, STORE_TIMEOUT).await {
            Ok(()) => store.watch().borrow().cluster.clone(),
            Err(error) if self.replace && !self.dry_run => return self.replace_unusable(store, intent, &error).await,
            Err(error) => return failed(&error.to_string()),
        };
        let changes = cluster.intent.differences(&intent);
        let had = *cluster.intent != Intent::default();
        if had && !self.replace && !self.dry_run {
            let (vips, pools) = (cluster.intent.vips.len(), cluster.intent.pools.len());
            return usage_error(&format!(
                "the store has {vips} VIPs and {pools} pools already: --replace replaces them, --dry-run shows the changes"
            ));
        }
        if self.dry_run {
            let text = if changes.is_empty() { "nothing would change".to_owned() } else { changes.join("\n") };
            return print_result(&text);
        }
        let unserved = cluster.intent.unserved_after(&intent);
        if !unserved.is_empty() && !self.yes {
            return usage_error(&format!("nothing was changed: {}. If that is meant, repeat it with --yes", unserved.join("; ")));
        }
        if let Some((name, generation)) = newest_director(store).await.filter(|(_, generation)| *generation > cluster.generation) {
            return failed(&format!(
                "nothing was changed: director {name} has generation {generation}, the store only {}: it was emptied or rolled back; decide first by `guideway store restore` or `accept`",
                cluster.generation
            ));
        }
        match store.commit(cluster.intent_generation, intent, &origin("store import", self.reason.as_ref())).await {
            Ok(generation) => {
                let first =
                    format!("imported as generation {generation}; {} {}", changes.len(), config::text::plural(changes.len(), "change"));
                print_result(&[vec![first], changes].concat().join("\n"))
            }
            Err(error) => failed(&error.to_string()),
        }
    }

    /// Replaces unreadable content. The changes are unknown then.
    async fn replace_unusable(&self, store: &Store, intent: Intent, why: &OpenError) -> u8 {
        let base = match store.intent_generation().await {
            Ok(base) => base,
            Err(_) => return failed(&why.to_string()),
        };
        match store.commit(base, intent, &origin("store import", self.reason.as_ref())).await {
            Ok(generation) => print_result(&format!("imported as generation {generation}, in place of what could not be used ({why})")),
            Err(error) => failed(&error.to_string()),
        }
    }
}

/// Returns the director with the newest generation of those that the store knows.
async fn newest_director(store: &Store) -> Option<(String, u64)> {
    let directors = store.directors().await.unwrap_or_default();
    let generation = |record: Value| serde_json::from_value::<Presence>(record).ok()?.tables.map(|tables| tables.generation);
    directors.into_iter().filter_map(|(name, record)| Some((name, generation(record)?))).max_by_key(|(_, generation)| *generation)
}

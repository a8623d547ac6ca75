//! `guideway store`: what is in the store that directors share, and how it gets there and out again.

mod changes;
mod show;

use super::common::{bad, failed, result};
use super::{BAD_USAGE, print};
use clap::Subcommand;
use guideway_config::{self as config, Intent};
use guideway_store::{OpenError, Store, ready, start};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a store may take to give its set.
const PATIENCE: Duration = Duration::from_secs(5);

/// Put VIPs and pools into the store that directors share, take them out, show who is there
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
}

/// Where the store is.
#[derive(Debug, clap::Args)]
struct Place {
    /// A file with the section [store], such as a director's
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// Put the [[vip]] and [[pool]] of a file into the store, as one change
///
/// All that the store had of them is replaced: all of it or, when anything is wrong, nothing.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A director's file may hold [[vip]] and [[pool]] or name a [store]. To go from one to the other: write [store] into the file, import, \
    remove [[vip]] and [[pool]], restart the director.\n\n\
    Examples:\n  guideway store import --config /etc/guideway/director.toml --dry-run\n  \
    guideway store import --config /etc/guideway/director.toml --from intent.toml --replace"
)]
struct Import {
    #[command(flatten)]
    place: Place,
    /// The file with [[vip]] and [[pool]]; its other sections are passed over [default: that of --config]
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// Replace what the store has; without, only an empty store is filled
    #[arg(long)]
    replace: bool,
    /// Say what would change, and change nothing
    #[arg(long)]
    dry_run: bool,
}

/// Print the [[vip]] and [[pool]] of the store as a file that `import` takes
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  guideway store export --config /etc/guideway/director.toml > intent.toml")]
struct Export {
    #[command(flatten)]
    place: Place,
    /// Print JSON instead of TOML
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> u8 {
    match &args.command {
        Command::Show(args) => show::run(args),
        Command::Import(args) => with_store(&args.place, async |store| args.run(&store).await),
        Command::Export(args) => with_set(&args.place, async |store| {
            let intent = store.watch().borrow().set.intent.clone();
            result(&if args.json { format!("{:#}", intent.to_json()) } else { intent.to_toml() })
        }),
    }
}

/// Opens the store, waits for its set and works with it; gives the exit code.
fn with_set(place: &Place, work: impl AsyncFnOnce(Store) -> u8) -> u8 {
    with_store(place, async |store| match ready(&store, PATIENCE).await {
        Ok(()) => work(store).await,
        Err(error) => failed(&error.to_string()),
    })
}

/// Opens the store and works with it; gives the exit code.
fn with_store(place: &Place, work: impl AsyncFnOnce(Store) -> u8) -> u8 {
    let config = match read(&place.config, config::read_store) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.to_string()),
    };
    runtime.block_on(async {
        match start(&config) {
            Ok(store) => work(store).await,
            Err(error) => failed(&error.to_string()),
        }
    })
}

/// Reads a file; when it cannot be used, every error of it is on standard error, and the exit code is given.
fn read<T>(path: &Path, read: impl FnOnce(&str) -> config::Checked<T>) -> Result<T, u8> {
    let checked = config::load_with(path, read).map_err(|error| bad(&error.to_string()))?;
    checked.errors().for_each(|problem| print::error(problem.in_file(path)));
    checked.config.ok_or(BAD_USAGE)
}

impl Import {
    async fn run(&self, store: &Store) -> u8 {
        let from = self.from.as_ref().unwrap_or(&self.place.config);
        let intent = match read(from, config::read_any_intent) {
            Ok(intent) => intent,
            Err(code) => return code,
        };
        if intent == Intent::default() {
            return bad(&format!("{}: there is no [[vip]] and no [[pool]] in it; name a file that has them by --from", from.display()));
        }
        let set = match ready(store, PATIENCE).await {
            Ok(()) => store.watch().borrow().set.clone(),
            Err(error) if self.replace && !self.dry_run => return self.mend(store, intent, &error).await,
            Err(error) => return failed(&error.to_string()),
        };
        let changes = changes::between(&set.intent, &intent);
        let had = *set.intent != Intent::default();
        if had && !self.replace && !self.dry_run {
            let (vips, pools) = (set.intent.vips.len(), set.intent.pools.len());
            return bad(&format!(
                "the store has {vips} VIPs and {pools} pools already: replace them by --replace, see what that changes by --dry-run"
            ));
        }
        if self.dry_run {
            let text = if changes.is_empty() { "nothing would change".to_owned() } else { changes.join("\n") };
            return result(&text);
        }
        match store.commit(set.intent_generation, intent).await {
            Ok(generation) => {
                let first =
                    format!("imported as generation {generation}; {} {}", changes.len(), config::text::plural(changes.len(), "change"));
                result(&[vec![first], changes].concat().join("\n"))
            }
            Err(error) => failed(&error.to_string()),
        }
    }
    /// Replaces what cannot be used, unseen: nobody can say what changes.
    async fn mend(&self, store: &Store, intent: Intent, why: &OpenError) -> u8 {
        let base = match store.intent_generation().await {
            Ok(base) => base,
            Err(_) => return failed(&why.to_string()),
        };
        match store.commit(base, intent).await {
            Ok(generation) => result(&format!("imported as generation {generation}, in place of what could not be used ({why})")),
            Err(error) => failed(&error.to_string()),
        }
    }
}

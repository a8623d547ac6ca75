//! `guideway store restore` and `accept`: what operators decide when a store was emptied, rolled back, replaced or spoilt.

use super::super::common::{failed, print_result};
use super::super::origin::origin;
use super::super::target::DirectorArgs;
use super::open::{STORE_TIMEOUT, StoreArgs, with_unknown_store};
use guideway_config::{self as config, Intent};
use guideway_store::{ClusterState, Store, from_json, read_cache, ready};
use serde_json::Value;
use std::path::PathBuf;

/// Write the state that a director has, or its cache, into a store that lost it
///
/// Intent and health go back as one change. Directors and health controllers that hold on to their last good state take it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Without --from and without a director, the cache of [store] is used, or else the only director of this host.\n\n\
    Examples:\n  guideway store restore --config /etc/guideway/director.toml --dry-run\n  \
    guideway store restore --config /etc/guideway/director.toml --director d1")]
pub(super) struct Restore {
    #[command(flatten)]
    store_args: StoreArgs,
    /// A copy of the state: the file that a director keeps as store.cache
    #[arg(long, value_name = "FILE", conflicts_with_all = ["director", "socket", "url"])]
    from: Option<PathBuf>,
    #[command(flatten)]
    director: DirectorArgs,
    /// Say what would change, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Why, for `guideway history`
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

/// Use what the store holds, although directors know a newer or another state
#[derive(Debug, clap::Args)]
#[command(after_help = "An empty store means no VIPs: then all directors stop forwarding. See before by --dry-run.\n\n\
    Example:\n  guideway store accept --config /etc/guideway/director.toml --dry-run")]
pub(super) struct Accept {
    #[command(flatten)]
    store_args: StoreArgs,
    /// Say what the store holds, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Why, for `guideway history`
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

impl Restore {
    pub(super) fn run(&self) -> u8 {
        let (copy, source) = match self.copy() {
            Ok(copy) => copy,
            Err(code) => return code,
        };
        with_unknown_store(&self.store_args, async |store| {
            let there = found(&store).await;
            let changes =
                there.map_or_else(|why| vec![format!("in place of what cannot be used ({why})")], |found| found.differences(&copy.intent));
            let what = format!("generation {} of {source}: {}", copy.generation, contents(&copy.intent));
            if self.dry_run {
                return print_result(&[vec![format!("would restore {what}")], changes].concat().join("\n"));
            }
            match store.restore(&copy, &origin("store restore", self.reason.as_ref())).await {
                Ok(generation) => {
                    print_result(&[vec![format!("restored as generation {generation}, {what}")], changes].concat().join("\n"))
                }
                Err(error) => failed(&error.to_string()),
            }
        })
    }

    /// Returns the copy and where it is from.
    fn copy(&self) -> Result<(ClusterState, String), u8> {
        let file = |path: &PathBuf| {
            let copy = read_cache(path).map_err(|why| failed(&why))?;
            Ok((copy, path.display().to_string()))
        };
        if let Some(path) = &self.from {
            return file(path);
        }
        let named = self.director.director.is_some() || !self.director.socket.is_empty() || !self.director.url.is_empty();
        let cache = super::open::read(&self.store_args.config, config::read_store)?.cache().map(PathBuf::from);
        match cache.filter(|cache| !named && cache.exists()) {
            Some(cache) => file(&cache),
            None => {
                let client = self.director.client()?;
                let document: Value = client.get("/v1/state").map_err(|error| failed(&error.to_string()))?;
                let copy = from_json(&document).filter(|copy| copy.generation > 0);
                let copy = copy.ok_or_else(|| failed(&format!("{} has no cluster state", client.endpoint())))?;
                Ok((copy, client.endpoint()))
            }
        }
    }
}

impl Accept {
    pub(super) fn run(&self) -> u8 {
        with_unknown_store(&self.store_args, async |store| {
            if self.dry_run {
                return match found(&store).await {
                    Ok(intent) => print_result(&format!("would accept {}", contents(&intent))),
                    Err(why) => failed(&why),
                };
            }
            match store.accept(&origin("store accept", self.reason.as_ref())).await {
                Ok(generation) => {
                    let taken = found(&store).await.map_or_else(|_| String::new(), |intent| format!(": {}", contents(&intent)));
                    print_result(&format!("accepted as generation {generation}{taken}"))
                }
                Err(error) => failed(&error.to_string()),
            }
        })
    }
}

/// Returns the intent that the store holds, whatever this host knows.
async fn found(store: &Store) -> Result<Intent, String> {
    ready(store, STORE_TIMEOUT).await.map_err(|error| error.to_string())?;
    Ok(Intent::clone(&store.watch().borrow().cluster.intent))
}

fn contents(intent: &Intent) -> String {
    let (vips, pools) = (intent.vips.len(), intent.pools.len());
    let backends = intent.pools.iter().map(|pool| pool.backends.len()).sum();
    let plural = config::text::plural;
    format!("{vips} {}, {pools} {}, {backends} {}", plural(vips, "VIP"), plural(pools, "pool"), plural(backends, "backend"))
}

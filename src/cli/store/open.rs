//! Opening the store that a file names.

use super::super::common::{failed, usage_error};
use super::super::{BAD_USAGE, print};
use guideway_config as config;
use guideway_store::{Store, ready, start};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a store may take until its cluster state is read.
pub(super) const STORE_TIMEOUT: Duration = Duration::from_secs(5);

/// Place of the store.
#[derive(Debug, clap::Args)]
pub(super) struct StoreArgs {
    /// A file with the section [store], such as a director's
    #[arg(long, value_name = "FILE")]
    pub(super) config: PathBuf,
}

/// Opens the store, waits for its cluster state and passes it to `work`. Returns the exit code.
pub(super) fn with_state(store_args: &StoreArgs, work: impl AsyncFnOnce(Store) -> u8) -> u8 {
    with_store(store_args, async |store| match ready(&store, STORE_TIMEOUT).await {
        Ok(()) => work(store).await,
        Err(error) => failed(&error.to_string()),
    })
}

/// Opens the store and passes it to `work`. Returns the exit code.
pub(super) fn with_store(store_args: &StoreArgs, work: impl AsyncFnOnce(Store) -> u8) -> u8 {
    match read(&store_args.config, config::read_store) {
        Ok(config) => open(&config, work),
        Err(code) => code,
    }
}

/// The same without what this host knows of the store: `work` sees the contents as they are.
pub(super) fn with_unknown_store(store_args: &StoreArgs, work: impl AsyncFnOnce(Store) -> u8) -> u8 {
    match read(&store_args.config, config::read_store) {
        Ok(config) => open(&config.without_cache(), work),
        Err(code) => code,
    }
}

fn open(config: &config::Store, work: impl AsyncFnOnce(Store) -> u8) -> u8 {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.to_string()),
    };
    runtime.block_on(async {
        match start(config) {
            Ok(store) => work(store).await,
            Err(error) => failed(&error.to_string()),
        }
    })
}

/// Reads a file. Prints every error of a file that cannot be used, and returns the exit code.
pub(super) fn read<T>(path: &Path, read: impl FnOnce(&str) -> config::Checked<T>) -> Result<T, u8> {
    let checked = config::load_with(path, read).map_err(|error| usage_error(&error.to_string()))?;
    checked.errors().for_each(|problem| print::error(problem.in_file(path)));
    checked.config.ok_or(BAD_USAGE)
}

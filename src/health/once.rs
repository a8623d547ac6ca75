//! A single round of checks for operators: checks every backend once and publishes nothing.

use super::daemon::{Error, LoadedIntent, read};
use super::outcome::Outcome;
use super::probe::{Prober, Target};
use futures_util::{StreamExt, stream};
use guideway_store as store;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Time limit for opening the store.
const STORE_TIMEOUT: Duration = Duration::from_secs(5);

/// Selects the backends to check.
#[derive(Clone, Debug, Default)]
pub struct CheckFilter {
    /// Only those of this pool.
    pub pool: Option<String>,
    /// Only those with this name.
    pub backend: Option<String>,
}

/// The result of the check of one backend.
#[derive(Clone, Debug)]
pub struct CheckResult {
    /// The target.
    pub target: Target,
    /// The result.
    pub outcome: Outcome,
    /// The duration.
    pub took: Duration,
}

/// Makes one round of checks with the configuration in `file`; results are in the order of the file.
///
/// # Errors
/// Returns an error when the file cannot be used or the runtime cannot start.
pub fn run(file: &Path, which: &CheckFilter) -> Result<Vec<CheckResult>, Error> {
    let (health, from) = read(file)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::System { what: "cannot start the runtime", error })?;
    let intent = match from {
        LoadedIntent::File(intent) => intent,
        LoadedIntent::Store(at) => runtime.block_on(async {
            let store = store::open_timeout(&at, STORE_TIMEOUT).await?;
            Ok::<_, store::OpenError>((*store.watch().borrow().cluster.intent).clone())
        })?,
    };
    let mut targets = Vec::new();
    for pool in &intent.pools {
        let (Some(check), vip) = (&pool.check, intent.vip_of_check(pool)) else { continue };
        if which.pool.as_ref().is_some_and(|wanted| *wanted != pool.name) {
            continue;
        }
        let (name, check): (Arc<str>, _) = (pool.name.as_str().into(), Arc::new(check.clone()));
        let wanted = pool.backends.iter().filter(|backend| which.backend.as_ref().is_none_or(|wanted| *wanted == backend.name));
        targets.extend(wanted.map(|backend| Target {
            pool: name.clone(),
            backend: backend.name.as_str().into(),
            address: backend.address,
            tid_range: backend.tid_range,
            vip,
            check: check.clone(),
        }));
    }
    Ok(runtime.block_on(async {
        let prober = Prober::new(health.source, health.exec_dirs);
        let check = |target: Target| async {
            let begun = Instant::now();
            let outcome = prober.check(&target).await;
            CheckResult { target, outcome, took: begun.elapsed() }
        };
        // Spreads the start: thousands of checks at once would test the queues on the path instead of the backends.
        stream::iter(targets).map(check).buffered(health.concurrency.min(256)).collect().await
    }))
}

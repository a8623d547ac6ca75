//! One round of checks, for people: every backend is checked once, and nothing is published.

use super::daemon::{Error, IntentFrom, read};
use super::outcome::Outcome;
use super::probe::{Prober, Target};
use futures_util::{StreamExt, stream};
use guideway_store as store;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long the store may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Which backends are checked.
#[derive(Clone, Debug, Default)]
pub struct Which {
    /// Those of this pool alone.
    pub pool: Option<String>,
    /// Those of this name alone.
    pub backend: Option<String>,
}

/// What came of the check of one backend.
#[derive(Clone, Debug)]
pub struct Result {
    /// What was checked.
    pub target: Target,
    /// What came of it.
    pub outcome: Outcome,
    /// How long it took.
    pub took: Duration,
}

/// Checks once, with the configuration in `file`; in the order of the file.
///
/// # Errors
/// When the file cannot be used or the runtime cannot be had.
pub fn run(file: &Path, which: &Which) -> std::result::Result<Vec<Result>, Error> {
    let (health, from) = read(file)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::System { what: "cannot start the runtime", error })?;
    let intent = match from {
        IntentFrom::File(intent) => intent,
        IntentFrom::Store(at) => runtime.block_on(async {
            let store = store::open_within(&at, PATIENCE).await?;
            Ok::<_, store::OpenError>((*store.watch().borrow().set.intent).clone())
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
            vip,
            check: check.clone(),
        }));
    }
    Ok(runtime.block_on(async {
        let prober = Prober::new(health.source, health.exec);
        let check = |target: Target| async {
            let begun = Instant::now();
            let outcome = prober.check(&target).await;
            Result { target, outcome, took: begun.elapsed() }
        };
        // A burst of thousands at once would test the queues on the way rather than the backends.
        stream::iter(targets).map(check).buffered(health.concurrency.min(256)).collect().await
    }))
}

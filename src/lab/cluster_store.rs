//! What directors and servers of a lab share when servers go on with one another's transfers: a store in a directory, in which the lab says what the pool is
//! and who of it is down, as operators and health controllers would.

use super::configuration::{intent, store_section};
use super::plan::{Backend, Plan};
use guideway_config::{self as config, read_intent};
use guideway_host::error::{Context, Error};
use guideway_store::{self as store, Leadership, Observation, Observed, Origin, PoolHealth, Store};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;
use tokio::runtime::Runtime;

/// How long the store may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The store, held by the one who writes it.
#[derive(Debug)]
pub struct ClusterStore {
    store: Store,
    _leadership: Leadership,
    runtime: Runtime,
}

impl ClusterStore {
    /// Makes the store, with the pool as planned and everybody up.
    pub fn open(plan: &Plan, directory: &Path) -> Result<ClusterStore, Error> {
        let context = || "making the lab's store".to_owned();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().with_context(context)?;
        let text = store_section(directory);
        let at =
            config::read_store(&text).config.ok_or_else(|| Error::failed(context(), format!("its own section is not good: {text}")))?;
        let (store, leadership) = runtime.block_on(async {
            let store = store::open_timeout(&at, TIMEOUT).await.map_err(|why| Error::failed(context(), why))?;
            let mut leadership = store.campaign("lab");
            leadership.elected().await;
            Ok::<_, Error>((store, leadership))
        })?;
        let cluster_store = ClusterStore { store, _leadership: leadership, runtime };
        cluster_store.write_pool(plan, &plan.backends, &BTreeSet::new())?;
        Ok(cluster_store)
    }

    /// Says what the pool is, and who of it is down. Gives the generation that this has.
    pub fn write_pool(&self, plan: &Plan, members: &[Backend], down: &BTreeSet<String>) -> Result<u64, Error> {
        let context = || "changing the lab's store".to_owned();
        let checked = read_intent(&intent(plan, members));
        let wrong: Vec<String> = checked.errors().map(ToString::to_string).collect();
        let intent = checked.config.ok_or_else(|| Error::failed(context(), wrong.join("; ")))?;
        let observed = |backend: &Backend| {
            let state = if down.contains(&backend.name) { Observation::Down } else { Observation::Up };
            (backend.name.clone(), Observed { state, since: 0, why: "the script says so".to_owned(), unknown: false })
        };
        let health = PoolHealth { backends: members.iter().map(observed).collect() };
        self.runtime.block_on(async {
            let state = self.store.watch().borrow().cluster.clone();
            if *state.intent != intent {
                let origin = Origin { who: "guideway-lab".to_owned(), from: "its script".to_owned(), reason: None };
                self.store.commit(state.intent_generation, intent, &origin).await.map_err(|why| Error::failed(context(), why))?;
            }
            self.store.publish("boot", health).await.map_err(|why| Error::failed(context(), why))
        })
    }
}

//! What directors and servers of a lab share when servers go on with one another's transfers: a store in a directory, in which the lab says what the pool is
//! and who of it is down, as operators and health controllers would.

use super::plan::{Backend, Plan};
use guideway_config::{self as config, read_intent};
use guideway_host::error::{Doing, Error};
use guideway_store::{self as store, Leadership, Observation, Observed, PoolHealth, Store};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::runtime::Runtime;

/// How long the store may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where the store is, in a lab with its files below `directory`.
pub fn place(directory: &Path) -> PathBuf {
    directory.join("store")
}

/// The section of everybody who reads it.
pub fn section(directory: &Path) -> String {
    format!("\n[store]\nkind = \"file\"\npath = \"{}\"\n", place(directory).display())
}

/// The store, held by the one who writes it.
#[derive(Debug)]
pub struct Shared {
    store: Store,
    _leads: Leadership,
    runtime: Runtime,
}

impl Shared {
    /// Makes the store, with the pool as planned and everybody up.
    pub fn open(plan: &Plan, directory: &Path) -> Result<Shared, Error> {
        let doing = || "making the lab's store".to_owned();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().doing(doing)?;
        let text = section(directory);
        let at = config::read_store(&text).config.ok_or_else(|| Error::failed(doing(), format!("its own section is not good: {text}")))?;
        let (store, leads) = runtime.block_on(async {
            let store = store::open_within(&at, PATIENCE).await.map_err(|why| Error::failed(doing(), why))?;
            let mut leads = store.lead("lab");
            leads.won().await;
            Ok::<_, Error>((store, leads))
        })?;
        let shared = Shared { store, _leads: leads, runtime };
        shared.tell(plan, &plan.backends, &BTreeSet::new())?;
        Ok(shared)
    }

    /// Says what the pool is, and who of it is down. Gives the generation that this has.
    pub fn tell(&self, plan: &Plan, members: &[Backend], down: &BTreeSet<String>) -> Result<u64, Error> {
        let doing = || "changing the lab's store".to_owned();
        let checked = read_intent(&super::directors::intent(plan, members));
        let wrong: Vec<String> = checked.errors().map(ToString::to_string).collect();
        let intent = checked.config.ok_or_else(|| Error::failed(doing(), wrong.join("; ")))?;
        let observed = |backend: &Backend| {
            let state = if down.contains(&backend.name) { Observation::Down } else { Observation::Up };
            (backend.name.clone(), Observed { state, since: 0, why: "the script says so".to_owned() })
        };
        let health = PoolHealth { backends: members.iter().map(observed).collect() };
        self.runtime.block_on(async {
            let set = self.store.watch().borrow().set.clone();
            if *set.intent != intent {
                self.store.commit(set.intent_generation, intent).await.map_err(|why| Error::failed(doing(), why))?;
            }
            self.store.publish("boot", health).await.map_err(|why| Error::failed(doing(), why))
        })
    }
}

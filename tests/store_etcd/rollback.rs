//! An etcd that lost its contents, or holds older ones: nothing changes until an operator decides.

use crate::command::guideway;
use crate::etcd_fixture::{Etcd, down, intent, open, run_isolated, wait_for_view};
use guideway_config as config;
use guideway_store::{ClusterState, CommitError, StaleReason, Store, StoreView, read_cache};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

fn is_rolled_back(view: &StoreView, because: &str) -> bool {
    view.stale.as_ref().is_some_and(|stale| stale.reason == StaleReason::RolledBack && stale.why.contains(because))
}

/// Waits until the store is in trouble for this reason, and shows that nothing has changed by it.
async fn stands(store: &Store, known: &Arc<ClusterState>, cache: &Path, because: &str) {
    let view = wait_for_view(&mut store.watch(), |view| is_rolled_back(view, because)).await;
    let why = view.stale.unwrap().why;
    assert!(why.contains("guideway store restore") && why.contains("guideway store accept"), "{why}");
    assert_eq!(view.cluster, *known);
    assert_eq!(read_cache(cache).as_ref(), Ok(&**known));
    let commit = store.commit(known.intent_generation, intent(9, 1), &guideway_store::Origin::default()).await;
    assert!(matches!(&commit, Err(CommitError::Unavailable(why)) if why.contains(because)), "{commit:?}");
    assert!(store.publish("p0", down("t1")).await.is_err());
}

async fn cached(cache: &Path, known: &ClusterState) {
    while read_cache(cache).ok().as_ref() != Some(known) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[test]
fn a_lost_etcd_changes_nothing_until_an_operator_decides() {
    run_isolated(async |home| {
        let mut etcd = Etcd::start(&home);
        let (cache, backup) = (home.join("copy.json"), home.join("backup.db"));
        let file = home.join("director.toml").display().to_string();
        let store_section = format!("[store]\nkind = \"etcd\"\nendpoints = [\"{}\"]\ncache = \"{}\"\n", etcd.endpoint(), cache.display());
        std::fs::write(&file, store_section).unwrap();
        let with_cache = config::Etcd { cache: Some(cache.clone()), ..etcd.config() };
        let store = open(&with_cache).await;
        let first = store.commit(0, intent(5, 2), &guideway_store::Origin::default()).await.unwrap();
        etcd.ctl(&["snapshot", "save", &backup.display().to_string()]);
        let second = store.commit(first, intent(6, 3), &guideway_store::Origin::default()).await.unwrap();
        let mut leadership = store.campaign("h1");
        leadership.elected().await;
        let generation = store.publish("p0", down("t1")).await.unwrap();
        let known = wait_for_view(&mut store.watch(), |view| view.cluster.generation == generation).await.cluster;
        assert_eq!(known.intent_generation, second);
        cached(&cache, &known).await;

        // All keys deleted. A process that starts now begins with the cache; one that knows nothing finds an empty store.
        etcd.ctl(&["del", "--prefix", "/guideway/"]);
        stands(&store, &known, &cache, "the store is empty").await;
        let restarted = open(&with_cache).await;
        stands(&restarted, &known, &cache, "the store is empty").await;
        assert_eq!(open(&etcd.config()).await.watch().borrow().cluster.generation, 0);
        let (code, out, said) = guideway(&["store", "show", "--config", &file]).await;
        assert!(code == 0 && out.contains("  stale     rolled_back for "), "{out}{said}");
        let other = home.join("other.toml").display().to_string();
        std::fs::write(&other, intent(7, 1).to_toml()).unwrap();
        let (code, out, said) = guideway(&["store", "import", "--config", &file, "--from", &other, "--replace", "--yes"]).await;
        assert!(code == 1 && said.contains("the store is empty"), "{out}{said}");
        let (code, out, said) = guideway(&["store", "restore", "--config", &file]).await;
        assert!(code == 0 && out.contains("restored as generation") && out.contains("1 VIP, 3 pools, 3 backends"), "{out}{said}");
        let mut restored = Arc::default();
        for store in [&store, &restarted] {
            restored = wait_for_view(&mut store.watch(), |view| view.stale.is_none()).await.cluster;
            assert_eq!((&restored.intent, &restored.health), (&known.intent, &known.health));
        }
        cached(&cache, &restored).await;

        // The data directory wiped, and filled by somebody who knows nothing of the fleet.
        drop(leadership);
        etcd.kill();
        std::fs::remove_dir_all(home.join("etcd")).unwrap();
        etcd.restart();
        stands(&store, &restored, &cache, "the store is empty").await;
        open(&etcd.config()).await.commit(0, intent(7, 1), &guideway_store::Origin::default()).await.unwrap();
        stands(&store, &restored, &cache, "another one than that of the known generation").await;

        // An old backup: the operator takes it.
        etcd.kill();
        std::fs::remove_dir_all(home.join("etcd")).unwrap();
        etcd.restore(&backup, &home.join("etcd"));
        etcd.restart();
        stands(&store, &restored, &cache, "an older intent").await;
        let (code, out, said) = guideway(&["store", "accept", "--config", &file, "--dry-run"]).await;
        assert!(code == 0 && out == "would accept 1 VIP, 2 pools, 2 backends\n", "{out}{said}");
        let (code, out, said) = guideway(&["store", "accept", "--config", &file]).await;
        assert!(code == 0 && out.contains("accepted as generation"), "{out}{said}");
        for store in [&store, &restarted] {
            let accepted = wait_for_view(&mut store.watch(), |view| view.stale.is_none()).await.cluster;
            assert_eq!((&*accepted.intent, accepted.health.len()), (&intent(5, 2), 0));
            cached(&cache, &accepted).await;
        }
    });
}

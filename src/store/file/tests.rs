//! One directory and several stores, each of which stands for a process.

use super::super::{Observation, Observed, Stale, StaleReason, Store, StoreView, cache, open_timeout};
use super::*;
use guideway_config::{self as config, read_intent};
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(10);

fn intent_text(weight: u16) -> String {
    format!(
        "# ours\n[[vip]]\naddress = \"192.0.2.69\"\nservice = \"tftp\"\npool = \"boot\"\n\
         [[pool]]\nname = \"boot\"\nbackends = [{{ name = \"t1\", address = \"10.0.2.21\", weight = {weight}, tid_range = 20000 }}]\n"
    )
}

fn intent(weight: u16) -> Intent {
    read_intent(&intent_text(weight)).config.unwrap()
}

fn down() -> PoolHealth {
    PoolHealth {
        backends: [("t1".to_owned(), Observed { state: Observation::Down, since: 1, why: "no answer".into(), unknown: false })].into(),
    }
}

async fn open(directory: &Path) -> Store {
    open_timeout(&config::Store::File { path: directory.to_owned(), cache: None }, TIMEOUT).await.unwrap()
}

/// The same with a cache outside of the directory.
async fn open_cached(directory: &Path, cache: &Path) -> Store {
    let config = config::Store::File { path: directory.to_owned(), cache: Some(cache.to_owned()) };
    tokio::time::timeout(TIMEOUT, super::super::open(&config)).await.unwrap().unwrap()
}

fn is_rolled_back(view: &StoreView) -> bool {
    view.stale.as_ref().is_some_and(|stale| stale.reason == StaleReason::RolledBack)
}

async fn wait_for_view(watch: &mut watch::Receiver<StoreView>, condition: impl FnMut(&StoreView) -> bool) -> StoreView {
    tokio::time::timeout(TIMEOUT, watch.wait_for(condition)).await.unwrap().unwrap().clone()
}

#[tokio::test]
async fn all_processes_have_the_same_cluster_state_and_generation() {
    let directory = tempfile::tempdir().unwrap();
    let home = directory.path().join("made/by/us");
    let (one, two) = (open(&home).await, open(&home).await);
    let (mut first, mut second) = (one.watch(), two.watch());
    assert_eq!((one.kind(), one.is_durable(), first.borrow().cluster.generation), ("file", true, 0));
    assert_eq!(one.commit(0, intent(100), &crate::Origin::default()).await, Ok(1));
    for watch in [&mut first, &mut second] {
        let view = wait_for_view(watch, |view| view.cluster.generation == 1).await;
        assert_eq!((&*view.cluster.intent, view.cluster.intent_generation), (&intent(100), 1));
    }
    assert_eq!(two.commit(0, intent(7), &crate::Origin::default()).await, Err(CommitError::Changed { base: 0, now: 1 }));

    // Health has its own writer: the leader.
    assert_eq!(two.publish("boot", down()).await, Err(CommitError::NotLeading));
    let mut leadership = two.campaign("h2");
    leadership.elected().await;
    assert_eq!(one.leader().await, Ok(Some("h2".to_owned())));
    assert_eq!(two.publish("boot", down()).await, Ok(2));
    let published = wait_for_view(&mut first, |view| view.cluster.generation == 2).await;
    assert_eq!((published.cluster.intent_generation, &published.cluster.health["boot"]), (1, &Arc::new(down())));

    // By hand, in place.
    fs::write(home.join("intent.toml"), intent_text(7)).unwrap();
    for watch in [&mut first, &mut second] {
        let view = wait_for_view(watch, |view| view.cluster.generation == 3).await;
        assert_eq!((&*view.cluster.intent, view.cluster.intent_generation, view.stale.is_none()), (&intent(7), 3, true));
    }
    // A commit keeps the edited file beside it.
    assert_eq!(one.commit(3, intent(8), &crate::Origin::default()).await, Ok(4));
    assert_eq!(fs::read_to_string(home.join("intent.edited.toml")).unwrap(), intent_text(7));
    assert!(fs::read_to_string(home.join("intent.toml")).unwrap().starts_with("# VIPs and pools of the directors"));
    assert_eq!(two.commit(3, intent(9), &crate::Origin::default()).await, Err(CommitError::Changed { base: 3, now: 4 }));

    // The same after a restart of all processes.
    drop((one, two, leadership));
    let again = open(&home).await;
    let cluster = again.watch().borrow().cluster.clone();
    assert_eq!((cluster.generation, cluster.intent_generation, &*cluster.intent), (4, 4, &intent(8)));
    assert_eq!(cluster.health["boot"], Arc::new(down()));
}

#[tokio::test]
async fn an_invalid_edit_leaves_the_last_valid_cluster_state_in_force_also_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("intent.toml");
    fs::write(&file, intent_text(5)).unwrap();
    let store = open(directory.path()).await;
    let mut watch = store.watch();
    wait_for_view(&mut watch, |view| view.cluster.generation == 1 && view.stale.is_none()).await;
    fs::write(&file, intent_text(1001).replace("tftp", "tfpt")).unwrap();
    let bad = wait_for_view(&mut watch, |view| view.stale.is_some()).await;
    let Some(Stale { why, .. }) = bad.stale else { panic!() };
    assert!(why.contains("intent.toml has errors") && why.contains("1001") && why.contains("tfpt") && why.lines().count() >= 3, "{why}");
    assert_eq!((bad.cluster.generation, &*bad.cluster.intent), (1, &intent(5)));
    let Err(CommitError::Unavailable(refused)) = store.commit(1, intent(6), &crate::Origin::default()).await else {
        panic!("an edit must not be lost")
    };
    assert!(refused.contains("was edited"), "{refused}");

    // Health still changes, and a restart finds the valid intent.
    let mut leadership = store.campaign("h1");
    leadership.elected().await;
    assert_eq!(store.publish("boot", down()).await, Ok(2));
    let other = open(directory.path()).await;
    let cluster = wait_for_view(&mut other.watch(), |view| view.stale.as_ref().is_some_and(|t| t.why.contains("tfpt"))).await.cluster;
    assert_eq!((cluster.generation, cluster.intent_generation, &*cluster.intent), (2, 1, &intent(5)));

    fs::remove_file(&file).unwrap();
    wait_for_view(&mut watch, |view| view.stale.as_ref().is_some_and(|t| t.why.contains("is missing"))).await;
    // Restored: nothing has changed.
    fs::write(&file, intent_text(5)).unwrap();
    assert_eq!(wait_for_view(&mut watch, |view| view.stale.is_none()).await.cluster.generation, 2);
    fs::write(&file, intent_text(6)).unwrap();
    assert_eq!(wait_for_view(&mut watch, |view| view.cluster.generation == 3).await.cluster.intent_generation, 3);
}

#[tokio::test]
async fn three_processes_see_a_change_a_moment_later() {
    let directory = tempfile::tempdir().unwrap();
    let stores = [open(directory.path()).await, open(directory.path()).await, open(directory.path()).await];
    let mut watches: Vec<_> = stores.iter().map(Store::watch).collect();
    let (mut took, mut delays) = (Vec::new(), Vec::new());
    for base in 0..100u16 {
        let began = std::time::Instant::now();
        let generation = stores[usize::from(base) % 3].commit(base.into(), intent(base), &crate::Origin::default()).await.unwrap();
        let committed = began.elapsed();
        for watch in &mut watches {
            let view = wait_for_view(watch, |view| view.cluster.generation == generation).await;
            assert_eq!(*view.cluster.intent, intent(base));
        }
        took.push(began.elapsed());
        delays.push(began.elapsed().saturating_sub(committed));
    }
    took.sort_unstable();
    delays.sort_unstable();
    println!(
        "commit to seen by three: median {:?}, max {:?}; of it after the commit: {:?}, {:?}",
        took[50], took[99], delays[50], delays[99]
    );
    assert!(took[50] < Duration::from_millis(200), "{took:?}");
}

#[tokio::test]
async fn an_incomplete_edit_is_not_taken() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("intent.toml");
    fs::write(&path, intent_text(5)).unwrap();
    let store = open(directory.path()).await;
    let mut watch = store.watch();
    wait_for_view(&mut watch, |view| view.cluster.generation == 1).await;
    let mut leadership = store.campaign("h1");
    leadership.elected().await;
    // The beginning of a valid file is a valid file without VIPs and pools.
    let text = intent_text(6);
    let mut file = fs::File::create(&path).unwrap();
    file.write_all(&text.as_bytes()[..6]).unwrap();
    file.sync_all().unwrap();
    // Another change makes all processes read.
    assert_eq!(store.publish("boot", down()).await, Ok(2));
    let between = wait_for_view(&mut watch, |view| view.cluster.generation == 2).await;
    assert_eq!(&*between.cluster.intent, &intent(5));
    file.write_all(&text.as_bytes()[6..]).unwrap();
    drop(file);
    let whole = wait_for_view(&mut watch, |view| view.cluster.generation == 3).await;
    assert_eq!(&*whole.cluster.intent, &intent(6));
}

#[tokio::test]
async fn a_directory_that_is_moved_away_and_back_is_found_again() {
    let directory = tempfile::tempdir().unwrap();
    let (home, away) = (directory.path().join("here"), directory.path().join("away"));
    let store = open(&home).await;
    let mut watch = store.watch();
    store.commit(0, intent(5), &crate::Origin::default()).await.unwrap();
    wait_for_view(&mut watch, |view| view.cluster.generation == 1).await;
    fs::rename(&home, &away).unwrap();
    let gone = wait_for_view(&mut watch, |view| view.stale.is_some()).await;
    assert_eq!(&*gone.cluster.intent, &intent(5));
    assert!(matches!(store.commit(1, intent(6), &crate::Origin::default()).await, Err(CommitError::Unavailable(_))));
    fs::rename(&away, &home).unwrap();
    wait_for_view(&mut watch, |view| view.stale.is_none()).await;
    assert_eq!(store.commit(1, intent(6), &crate::Origin::default()).await, Ok(2));
}

#[tokio::test]
async fn leadership_passes_on_and_presence_records_end_with_their_process() {
    let directory = tempfile::tempdir().unwrap();
    let (one, two) = (open(directory.path()).await, open(directory.path()).await);
    assert_eq!((one.leader().await, one.directors().await), (Ok(None), Ok(vec![])));
    let mut first = one.campaign("h1");
    first.elected().await;
    let mut second = two.campaign("h2");
    assert!(first.leads() && !second.leads());
    assert_eq!(two.publish("boot", down()).await, Err(CommitError::NotLeading));
    first.resign().await;
    tokio::time::timeout(TIMEOUT, second.elected()).await.unwrap();
    assert_eq!(one.leader().await, Ok(Some("h2".to_owned())));
    assert_eq!(one.publish("boot", down()).await, Err(CommitError::NotLeading));
    assert_eq!(two.publish("boot", down()).await, Ok(1));

    let record = watch::Sender::new(json!({"generation": 1}));
    let presence = one.publish_director("d1", record.subscribe());
    let until_directors = |expected: Vec<(String, Value)>| {
        let two = two.clone();
        async move {
            while two.directors().await != Ok(expected.clone()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    };
    tokio::time::timeout(TIMEOUT, until_directors(vec![("d1".to_owned(), json!({"generation": 1}))])).await.unwrap();
    record.send_replace(json!({"generation": 2}));
    tokio::time::timeout(TIMEOUT, until_directors(vec![("d1".to_owned(), json!({"generation": 2}))])).await.unwrap();
    presence.leave().await;
    assert_eq!(two.directors().await, Ok(vec![]));
}

#[tokio::test]
async fn a_directory_that_is_made_again_changes_nothing_until_an_operator_decides() {
    let directory = tempfile::tempdir().unwrap();
    let (home, copy) = (directory.path().join("store"), directory.path().join("copy.json"));
    let store = open_cached(&home, &copy).await;
    let mut watch = store.watch();
    assert_eq!(store.commit(0, intent(5), &crate::Origin::default()).await, Ok(1));
    let mut leadership = store.campaign("h1");
    leadership.elected().await;
    assert_eq!(store.publish("boot", down()).await, Ok(2));
    let known = wait_for_view(&mut watch, |view| view.cluster.generation == 2).await.cluster;
    while cache::read(&copy).ok().as_ref() != Some(&*known) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    fs::remove_dir_all(&home).unwrap();
    fs::create_dir(&home).unwrap();
    let trouble = wait_for_view(&mut watch, is_rolled_back).await;
    assert_eq!(trouble.cluster, known);
    assert!(
        matches!(store.commit(1, intent(6), &crate::Origin::default()).await, Err(CommitError::Unavailable(why)) if why.contains("the store is empty"))
    );
    assert!(store.publish("boot", down()).await.is_err(), "the lost history is not begun anew");
    // A file that somebody puts there is another store.
    fs::write(home.join("intent.toml"), intent_text(7)).unwrap();
    let other = open(&home).await;
    assert_eq!(other.watch().borrow().cluster.generation, 1);
    assert_eq!(wait_for_view(&mut watch, is_rolled_back).await.cluster, known);

    // A restart begins with the cache, which stands.
    drop((store, leadership));
    let store = open_cached(&home, &copy).await;
    let mut watch = store.watch();
    assert_eq!(wait_for_view(&mut watch, is_rolled_back).await.cluster, known);
    assert_eq!(cache::read(&copy).as_ref(), Ok(&*known));
    let generation = other.restore(&known, &crate::Origin::default()).await.unwrap();
    let restored = wait_for_view(&mut watch, |view| view.stale.is_none()).await.cluster;
    assert_eq!((restored.generation, &restored.intent, &restored.health), (generation, &known.intent, &known.health));
    assert_eq!(fs::read_to_string(home.join("intent.edited.toml")).unwrap(), intent_text(7));

    // And what an operator accepts is taken, also if it is less.
    fs::write(home.join("state.json"), "{\"generation\": 1").unwrap();
    let invalid = wait_for_view(&mut watch, |view| view.stale.is_some()).await;
    assert_eq!((invalid.stale.unwrap().reason, invalid.cluster), (StaleReason::Invalid, restored));
    fs::remove_file(home.join("state.json")).unwrap();
    fs::write(home.join("intent.toml"), intent_text(9)).unwrap();
    wait_for_view(&mut watch, is_rolled_back).await;
    let generation = store.accept(&crate::Origin::default()).await.unwrap();
    let accepted = wait_for_view(&mut watch, |view| view.stale.is_none()).await.cluster;
    assert_eq!((accepted.generation, &*accepted.intent), (generation, &intent(9)));
    store.commit(accepted.intent_generation, intent(10), &crate::Origin::default()).await.unwrap();
}

#[tokio::test]
async fn an_edit_without_any_vip_waits_for_an_operator() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    let mut watch = store.watch();
    store.commit(0, intent(5), &crate::Origin::default()).await.unwrap();
    wait_for_view(&mut watch, |view| view.cluster.generation == 1).await;
    // The disk was full, or the editor died: the beginning of the file is a valid file.
    fs::write(directory.path().join("intent.toml"), &intent_text(6)[..7]).unwrap();
    let view = wait_for_view(&mut watch, |view| view.stale.is_some()).await;
    assert!(view.stale.unwrap().why.contains("has no VIP any more"));
    assert_eq!(&*view.cluster.intent, &intent(5));
    store.accept(&crate::Origin::default()).await.unwrap();
    assert!(wait_for_view(&mut watch, |view| view.stale.is_none()).await.cluster.intent.vips.is_empty());
}

#[tokio::test]
async fn each_change_is_kept_with_who_made_it_and_with_its_intent() {
    let directory = tempfile::tempdir().unwrap();
    let home = directory.path().join("store");
    let store = open(&home).await;
    let origin = |who: &str| crate::Origin { who: who.to_owned(), from: "a test".to_owned(), reason: Some("because".to_owned()) };
    store.commit(0, intent(100), &origin("alice")).await.unwrap();
    let mut watch = store.watch();
    wait_for_view(&mut watch, |view| view.cluster.generation == 1).await;
    // An orphan: its writer died before the change happened.
    let orphan =
        fs::read_to_string(home.join("history/00000000000000000001.json")).unwrap().replace("\"generation\":1", "\"generation\":2");
    fs::write(home.join("history/00000000000000000002.json"), orphan.replace("\"base\":0", "\"base\":1")).unwrap();
    assert_eq!(store.history(10).await.unwrap().len(), 1, "not a change until it is in force");
    assert_eq!(store.commit(1, intent(7), &origin("bob")).await, Ok(2));
    wait_for_view(&mut watch, |view| view.cluster.generation == 2).await;
    fs::write(home.join("intent.toml"), intent_text(9)).unwrap();
    wait_for_view(&mut watch, |view| view.cluster.generation == 3).await;
    assert!(matches!(store.commit(1, intent(5), &origin("eve")).await, Err(CommitError::Changed { .. })));

    let history = open(&home).await.history(10).await.unwrap();
    let said: Vec<_> = history.iter().map(|entry| (entry.generation, entry.base, entry.changes.join("; "))).collect();
    let weight = |before: u8, after: u8| format!("~ backend boot/t1: weight {before} becomes {after}");
    let first = "+ VIP 192.0.2.69 tftp; + pool boot; + backend boot/t1".to_owned();
    assert_eq!(said, [(3, 2, weight(7, 9)), (2, 1, weight(100, 7)), (1, 0, first)]);
    assert_eq!((history[1].origin.clone(), history[1].intent()), (origin("bob"), Ok(intent(7))));
    let owner = nix::unistd::User::from_uid(nix::unistd::getuid()).unwrap().unwrap().name;
    assert!(history[0].origin.who == owner && history[0].origin.from.contains("intent.toml"), "{:?}", history[0].origin);
    assert_eq!(store.history(1).await.unwrap(), history[..1]);
    let before = store.change_of(2).await.unwrap().unwrap();
    assert_eq!((before.generation, store.change_of(0).await.unwrap()), (2, None));
}

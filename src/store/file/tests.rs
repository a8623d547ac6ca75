//! One directory, several stores: each stands for a process.

use super::super::{Observation, Observed, Seen, Store, Trouble, open_within};
use super::*;
use guideway_config::{self as config, read_intent};
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(10);

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
    PoolHealth { backends: [("t1".to_owned(), Observed { state: Observation::Down, since: 1, why: "silent".into() })].into() }
}

async fn open(directory: &Path) -> Store {
    open_within(&config::Store::File { path: directory.to_owned() }, PATIENCE).await.unwrap()
}

async fn seen(watch: &mut watch::Receiver<Seen>, wanted: impl FnMut(&Seen) -> bool) -> Seen {
    tokio::time::timeout(PATIENCE, watch.wait_for(wanted)).await.unwrap().unwrap().clone()
}

#[tokio::test]
async fn all_processes_have_the_same_set_and_generation_whoever_changes_it() {
    let directory = tempfile::tempdir().unwrap();
    let home = directory.path().join("made/by/us");
    let (one, two) = (open(&home).await, open(&home).await);
    let (mut first, mut second) = (one.watch(), two.watch());
    assert_eq!((one.kind(), one.durable(), first.borrow().set.generation), ("file", true, 0));
    assert_eq!(one.commit(0, intent(100)).await, Ok(1));
    for watch in [&mut first, &mut second] {
        let seen = seen(watch, |seen| seen.set.generation == 1).await;
        assert_eq!((&*seen.set.intent, seen.set.intent_generation), (&intent(100), 1));
    }
    assert_eq!(two.commit(0, intent(7)).await, Err(CommitError::Changed { base: 0, now: 1 }));

    // Health has its own writer, who leads.
    assert_eq!(two.publish("boot", down()).await, Err(CommitError::NotLeading));
    let mut leadership = two.lead("h2");
    leadership.won().await;
    assert_eq!(one.leader().await, Ok(Some("h2".to_owned())));
    assert_eq!(two.publish("boot", down()).await, Ok(2));
    let published = seen(&mut first, |seen| seen.set.generation == 2).await;
    assert_eq!((published.set.intent_generation, &published.set.health["boot"]), (1, &Arc::new(down())));

    // By hand, in place.
    fs::write(home.join("intent.toml"), intent_text(7)).unwrap();
    for watch in [&mut first, &mut second] {
        let seen = seen(watch, |seen| seen.set.generation == 3).await;
        assert_eq!((&*seen.set.intent, seen.set.intent_generation, seen.trouble.is_none()), (&intent(7), 3, true));
    }
    // A commit keeps what people wrote beside it.
    assert_eq!(one.commit(3, intent(8)).await, Ok(4));
    assert_eq!(fs::read_to_string(home.join("intent.by-hand.toml")).unwrap(), intent_text(7));
    assert!(fs::read_to_string(home.join("intent.toml")).unwrap().starts_with("# What the directors"));
    assert_eq!(two.commit(3, intent(9)).await, Err(CommitError::Changed { base: 3, now: 4 }));

    // After a restart of all of them too.
    drop((one, two, leadership));
    let again = open(&home).await;
    let set = again.watch().borrow().set.clone();
    assert_eq!((set.generation, set.intent_generation, &*set.intent), (4, 4, &intent(8)));
    assert_eq!(set.health["boot"], Arc::new(down()));
}

#[tokio::test]
async fn a_bad_edit_leaves_the_last_good_set_in_force_also_over_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("intent.toml");
    fs::write(&file, intent_text(5)).unwrap();
    let store = open(directory.path()).await;
    let mut watch = store.watch();
    seen(&mut watch, |seen| seen.set.generation == 1 && seen.trouble.is_none()).await;
    fs::write(&file, intent_text(1001).replace("tftp", "tfpt")).unwrap();
    let bad = seen(&mut watch, |seen| seen.trouble.is_some()).await;
    let Some(Trouble { why, .. }) = bad.trouble else { panic!() };
    assert!(why.contains("intent.toml has errors") && why.contains("1001") && why.contains("tfpt") && why.lines().count() >= 3, "{why}");
    assert_eq!((bad.set.generation, &*bad.set.intent), (1, &intent(5)));
    let Err(CommitError::Away(refused)) = store.commit(1, intent(6)).await else { panic!("an edit must not be lost") };
    assert!(refused.contains("was edited"), "{refused}");

    // Health goes on, and a restart finds the good one.
    let mut leadership = store.lead("h1");
    leadership.won().await;
    assert_eq!(store.publish("boot", down()).await, Ok(2));
    let other = open(directory.path()).await;
    let set = seen(&mut other.watch(), |seen| seen.trouble.as_ref().is_some_and(|t| t.why.contains("tfpt"))).await.set;
    assert_eq!((set.generation, set.intent_generation, &*set.intent), (2, 1, &intent(5)));

    fs::remove_file(&file).unwrap();
    seen(&mut watch, |seen| seen.trouble.as_ref().is_some_and(|t| t.why.contains("is gone"))).await;
    // Put back as it was: nothing has changed.
    fs::write(&file, intent_text(5)).unwrap();
    assert_eq!(seen(&mut watch, |seen| seen.trouble.is_none()).await.set.generation, 2);
    fs::write(&file, intent_text(6)).unwrap();
    assert_eq!(seen(&mut watch, |seen| seen.set.generation == 3).await.set.intent_generation, 3);
}

#[tokio::test]
async fn three_processes_see_a_change_a_moment_later() {
    let directory = tempfile::tempdir().unwrap();
    let stores = [open(directory.path()).await, open(directory.path()).await, open(directory.path()).await];
    let mut watches: Vec<_> = stores.iter().map(Store::watch).collect();
    let (mut took, mut told) = (Vec::new(), Vec::new());
    for base in 0..100u16 {
        let began = std::time::Instant::now();
        let generation = stores[usize::from(base) % 3].commit(base.into(), intent(base)).await.unwrap();
        let committed = began.elapsed();
        for watch in &mut watches {
            let seen = seen(watch, |seen| seen.set.generation == generation).await;
            assert_eq!(*seen.set.intent, intent(base));
        }
        took.push(began.elapsed());
        told.push(began.elapsed().saturating_sub(committed));
    }
    took.sort_unstable();
    told.sort_unstable();
    println!("commit to seen by three: median {:?}, max {:?}; of it after the commit: {:?}, {:?}", took[50], took[99], told[50], told[99]);
    assert!(took[50] < Duration::from_millis(200), "{took:?}");
}

#[tokio::test]
async fn half_an_edit_is_not_taken() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("intent.toml");
    fs::write(&path, intent_text(5)).unwrap();
    let store = open(directory.path()).await;
    let mut watch = store.watch();
    seen(&mut watch, |seen| seen.set.generation == 1).await;
    let mut leadership = store.lead("h1");
    leadership.won().await;
    // The beginning of a good file is a good file without VIPs and pools.
    let text = intent_text(6);
    let mut file = fs::File::create(&path).unwrap();
    file.write_all(&text.as_bytes()[..6]).unwrap();
    file.sync_all().unwrap();
    // Something else makes everybody read.
    assert_eq!(store.publish("boot", down()).await, Ok(2));
    let between = seen(&mut watch, |seen| seen.set.generation == 2).await;
    assert_eq!(&*between.set.intent, &intent(5));
    file.write_all(&text.as_bytes()[6..]).unwrap();
    drop(file);
    let whole = seen(&mut watch, |seen| seen.set.generation == 3).await;
    assert_eq!(&*whole.set.intent, &intent(6));
}

#[tokio::test]
async fn a_directory_that_vanishes_and_comes_back_is_found_again() {
    let directory = tempfile::tempdir().unwrap();
    let (home, away) = (directory.path().join("here"), directory.path().join("away"));
    let store = open(&home).await;
    let mut watch = store.watch();
    store.commit(0, intent(5)).await.unwrap();
    seen(&mut watch, |seen| seen.set.generation == 1).await;
    fs::rename(&home, &away).unwrap();
    let gone = seen(&mut watch, |seen| seen.trouble.is_some()).await;
    assert_eq!(&*gone.set.intent, &intent(5));
    assert!(matches!(store.commit(1, intent(6)).await, Err(CommitError::Away(_))));
    fs::rename(&away, &home).unwrap();
    seen(&mut watch, |seen| seen.trouble.is_none()).await;
    assert_eq!(store.commit(1, intent(6)).await, Ok(2));
}

#[tokio::test]
async fn one_leads_and_the_next_follows_and_directors_are_there_while_they_live() {
    let directory = tempfile::tempdir().unwrap();
    let (one, two) = (open(directory.path()).await, open(directory.path()).await);
    assert_eq!((one.leader().await, one.directors().await), (Ok(None), Ok(vec![])));
    let mut first = one.lead("h1");
    first.won().await;
    let mut second = two.lead("h2");
    assert!(first.leads() && !second.leads());
    assert_eq!(two.publish("boot", down()).await, Err(CommitError::NotLeading));
    first.resign().await;
    tokio::time::timeout(PATIENCE, second.won()).await.unwrap();
    assert_eq!(one.leader().await, Ok(Some("h2".to_owned())));
    assert_eq!(one.publish("boot", down()).await, Err(CommitError::NotLeading));
    assert_eq!(two.publish("boot", down()).await, Ok(1));

    let word = watch::Sender::new(json!({"generation": 1}));
    let presence = one.present("d1", word.subscribe());
    let told = |wanted: Vec<(String, Value)>| {
        let two = two.clone();
        async move {
            while two.directors().await != Ok(wanted.clone()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    };
    tokio::time::timeout(PATIENCE, told(vec![("d1".to_owned(), json!({"generation": 1}))])).await.unwrap();
    word.send_replace(json!({"generation": 2}));
    tokio::time::timeout(PATIENCE, told(vec![("d1".to_owned(), json!({"generation": 2}))])).await.unwrap();
    presence.leave().await;
    assert_eq!(two.directors().await, Ok(vec![]));
}

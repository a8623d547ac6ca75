//! The store in a real etcd, of Debian's package: what directors agree on, how fast, and how they behave when etcd is unavailable.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "store_etcd/command.rs"]
mod command;
#[path = "store_etcd/etcd_fixture.rs"]
mod etcd_fixture;
#[path = "store_etcd/leadership.rs"]
mod leadership;
mod netns_fixture;
#[path = "store_etcd/rollback.rs"]
mod rollback;
#[path = "store_etcd/tls.rs"]
mod tls;

use etcd_fixture::{Etcd, TIMEOUT, config, down, intent, open, run_isolated, wait_for_view};
use guideway_config as config;
use guideway_store::{CommitError, Origin, open_timeout};
use std::time::{Duration, Instant};

#[test]
fn each_change_is_kept_with_who_made_it_and_with_its_intent() {
    run_isolated(async |home| {
        let etcd = Etcd::start(&home);
        let store = open(&etcd.config()).await;
        let mut watch = store.watch();
        let origin = |who: &str| Origin { who: who.to_owned(), from: "a test".to_owned(), reason: Some("because".to_owned()) };
        let first = store.commit(0, intent(5, 2), &origin("alice")).await.unwrap();
        wait_for_view(&mut watch, |view| view.cluster.generation == first).await;
        let second = store.commit(first, intent(6, 2), &origin("bob")).await.unwrap();
        wait_for_view(&mut watch, |view| view.cluster.generation == second).await;
        assert!(store.commit(first, intent(7, 2), &origin("eve")).await.is_err());
        let history = open(&etcd.config()).await.history(10).await.unwrap();
        let said: Vec<_> = history.iter().map(|entry| (entry.generation, entry.base, entry.origin.clone(), entry.intent())).collect();
        assert_eq!(said, [(second, first, origin("bob"), Ok(intent(6, 2))), (first, 0, origin("alice"), Ok(intent(5, 2)))]);
        assert!(history[0].changes[0].contains("weight 5 becomes 6"), "{:?}", history[0].changes);
        assert_eq!(store.change_of(second - 1).await.unwrap().unwrap().generation, first);

        // More than are kept: the oldest go. Written past the store, because 1000 commits take long; `!` sorts before each revision.
        let value = serde_json::to_string(&history[0]).unwrap();
        for chunk in 0..10 {
            let puts: String = (chunk * 100..chunk * 100 + 100).map(|n| format!("put /guideway/journal/!{n:019} {value:?}\n")).collect();
            etcd.ctl_with_input(&["txn"], &format!("\n{puts}\n\n"));
        }
        let mut base = second;
        for weight in 8..12 {
            base = store.commit(base, intent(weight, 2), &origin("carol")).await.unwrap();
        }
        let history = store.history(usize::MAX >> 1).await.unwrap();
        assert_eq!((history.len(), history[0].generation), (1000, base));
    });
}

#[test]
fn three_directors_have_the_same_generation_a_moment_after_a_commit() {
    run_isolated(async |home| {
        let etcd = Etcd::start(&home);
        let stores = [open(&etcd.config()).await, open(&etcd.config()).await, open(&etcd.config()).await];
        let mut watches: Vec<_> = stores.iter().map(|store| store.watch()).collect();
        assert_eq!((stores[0].kind(), stores[0].is_durable(), watches[0].borrow().cluster.generation), ("etcd", true, 0));
        let mut base = 0;
        let (mut took, mut notified) = (Vec::new(), Vec::new());
        for round in 0..100u16 {
            let began = Instant::now();
            let generation = stores[usize::from(round) % 3].commit(base, intent(round + 1, 10), &Origin::default()).await.unwrap();
            let committed = began.elapsed();
            for watch in &mut watches {
                let view = wait_for_view(watch, |view| view.cluster.generation >= generation).await;
                assert_eq!((view.cluster.generation, view.cluster.intent_generation), (generation, generation));
                assert_eq!(*view.cluster.intent, intent(round + 1, 10));
            }
            took.push(began.elapsed());
            notified.push(began.elapsed().saturating_sub(committed));
            assert_eq!(stores[0].commit(base, intent(1, 1), &Origin::default()).await, Err(CommitError::Changed { base, now: generation }));
            base = generation;
        }
        took.sort_unstable();
        notified.sort_unstable();
        println!(
            "commit to seen by three: median {:?}, max {:?}; of it after etcd's answer: {:?}, {:?}",
            took[50], took[99], notified[50], notified[99]
        );
        assert!(took[50] < Duration::from_millis(200), "directors are to agree within 200 ms: {took:?}");

        // Two at once: one wins, and the loser gets an error.
        let origin = Origin::default();
        let (one, other) = tokio::join!(stores[0].commit(base, intent(7, 3), &origin), stores[1].commit(base, intent(8, 3), &origin));
        let won = one.clone().or(other.clone()).unwrap();
        assert_eq!([one, other].iter().filter(|outcome| **outcome == Err(CommitError::Changed { base, now: won })).count(), 1);
        // Pools that are no longer there are gone, and who comes anew sees what the others see.
        let late = open(&etcd.config()).await;
        let theirs = wait_for_view(&mut watches[2], |view| view.cluster.generation == won).await;
        assert_eq!(late.watch().borrow().cluster, theirs.cluster);
        assert_eq!(theirs.cluster.intent.pools.len(), 3);
    });
}

#[test]
fn directors_survive_etcd_being_killed_and_find_it_again() {
    run_isolated(async |home| {
        let mut etcd = Etcd::start(&home);
        let cache = home.join("copy.json");
        let with_copy = config::Etcd { cache: Some(cache.clone()), ..etcd.config() };
        let store = open(&with_copy).await;
        let mut watch = store.watch();
        let generation = store.commit(0, intent(5, 2), &Origin::default()).await.unwrap();
        let cluster = wait_for_view(&mut watch, |view| view.cluster.generation == generation).await.cluster;
        while !std::fs::read_to_string(&cache).is_ok_and(|text| text.contains("\"weight\":5")) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }

        let killed = Instant::now();
        etcd.kill();
        let stale = wait_for_view(&mut watch, |view| view.stale.is_some()).await;
        println!("etcd killed: known after {:?}", killed.elapsed());
        let why = stale.stale.unwrap().why;
        assert!(why.contains("etcd is unavailable: http://127.0.0.1:"), "{why}");
        assert_eq!(stale.cluster, cluster, "the last set stands");
        let error = store.commit(generation, intent(6, 2), &Origin::default()).await.unwrap_err();
        assert!(matches!(error, CommitError::Unavailable(_)), "{error}");

        // Who starts now has the copy, or nothing.
        let begun = Instant::now();
        let started = open(&with_copy).await;
        let copy = started.watch().borrow().clone();
        println!("started from the copy after {:?}", begun.elapsed());
        assert_eq!((copy.cluster, copy.stale.is_some()), (cluster.clone(), true));
        let nothing = open_timeout(&config::Store::Etcd(etcd.config()), Duration::from_millis(500)).await.unwrap_err();
        assert!(
            nothing.to_string().contains("no cluster state could be read") && nothing.to_string().contains("etcd is unavailable"),
            "{nothing}"
        );

        etcd.restart();
        let back = Instant::now();
        for store in [&store, &started] {
            assert_eq!(wait_for_view(&mut store.watch(), |view| view.stale.is_none()).await.cluster, cluster);
        }
        println!("etcd is back: known after {:?}", back.elapsed());
        let next = started.commit(generation, intent(6, 2), &Origin::default()).await.unwrap();
        assert_eq!(*wait_for_view(&mut watch, |view| view.cluster.generation == next).await.cluster.intent, intent(6, 2));
    });
}

#[test]
fn a_director_cut_off_in_silence_knows_it_and_catches_up_after_a_compaction() {
    run_isolated(async |home| {
        let etcd = Etcd::start(&home);
        let proxy = etcd_fixture::Proxy::start(etcd.port).await;
        let (near, far) = (open(&etcd.config()).await, open(&config(proxy.port)).await);
        let (mut near_watch, mut far_watch) = (near.watch(), far.watch());
        let mut base = near.commit(0, intent(1, 2), &Origin::default()).await.unwrap();
        wait_for_view(&mut far_watch, |view| view.cluster.generation == base).await;

        // No FIN, no RST: packets just end.
        proxy.set_silent(true);
        let cut = Instant::now();
        let stale = wait_for_view(&mut far_watch, |view| view.stale.is_some()).await;
        println!("cut off in silence: known after {:?}", cut.elapsed());
        assert!(cut.elapsed() < Duration::from_secs(4), "{:?}", cut.elapsed());
        let since = stale.stale.unwrap().since;
        assert!(since <= Instant::now() && since + TIMEOUT > cut, "stale since the last sign of life");

        for weight in 2..22 {
            base = near.commit(base, intent(weight, 2), &Origin::default()).await.unwrap();
        }
        etcd.ctl(&["compact", &base.to_string()]);
        assert_eq!(far_watch.borrow().cluster.generation, stale.cluster.generation);
        proxy.set_silent(false);
        let healed = Instant::now();
        let caught_up = wait_for_view(&mut far_watch, |view| view.stale.is_none() && view.cluster.generation == base).await;
        println!("healed: caught up after {:?}", healed.elapsed());
        assert_eq!(caught_up.cluster, wait_for_view(&mut near_watch, |view| view.cluster.generation == base).await.cluster);

        // Of several endpoints another is used.
        let both = config::Etcd { endpoints: vec![format!("http://127.0.0.1:{}", proxy.port), etcd.endpoint()], ..etcd.config() };
        let roaming = open(&both).await;
        let mut watch = roaming.watch();
        proxy.set_silent(true);
        base = near.commit(base, intent(50, 2), &Origin::default()).await.unwrap();
        let moved = Instant::now();
        let there = wait_for_view(&mut watch, |view| view.cluster.generation == base).await;
        println!("the other endpoint brought a change after {:?}", moved.elapsed());
        assert_eq!(*there.cluster.intent, intent(50, 2));
        assert!(roaming.commit(base, intent(51, 2), &Origin::default()).await.is_ok());
    });
}

#[test]
fn what_was_put_by_hand_changes_nothing_until_a_commit_puts_it_right() {
    run_isolated(async |home| {
        let etcd = Etcd::start(&home);
        let store = open(&etcd.config()).await;
        let mut watch = store.watch();
        let base = store.commit(0, intent(5, 2), &Origin::default()).await.unwrap();
        let good = wait_for_view(&mut watch, |view| view.cluster.generation == base).await.cluster;
        etcd.ctl(&["put", "/guideway/intent/pool/p1", "garbage"]);
        let spoilt = wait_for_view(&mut watch, |view| view.stale.is_some()).await;
        let why = spoilt.stale.unwrap().why;
        assert!(why.contains("the key intent/pool/p1 was written without"), "{why}");
        assert_eq!(spoilt.cluster, good);
        // Who comes now has nothing good to begin with, and says why.
        let late = open_timeout(&config::Store::Etcd(etcd.config()), Duration::from_secs(1)).await.unwrap_err();
        assert!(late.to_string().contains("intent/pool/p1"), "{late}");
        let next = store.commit(base, intent(5, 2), &Origin::default()).await.unwrap();
        assert_eq!(wait_for_view(&mut watch, |view| view.stale.is_none()).await.cluster.generation, next);
        etcd.ctl(&["del", "/guideway/intent/pool/p0"]);
        let why = wait_for_view(&mut watch, |view| view.stale.is_some()).await.stale.unwrap().why;
        assert!(why.contains("there are 1 pools; the last commit left 2"), "{why}");
        let next = store.commit(next, intent(6, 2), &Origin::default()).await.unwrap();
        assert_eq!(
            *wait_for_view(&mut watch, |view| view.stale.is_none() && view.cluster.generation == next).await.cluster.intent,
            intent(6, 2)
        );
        // Keys of others beside ours are no matter.
        etcd.ctl(&["put", "/guideway", "x"]);
        etcd.ctl(&["put", "/guideway2/intent/vips", "x"]);
        let last = store.commit(next, intent(7, 2), &Origin::default()).await.unwrap();
        assert!(wait_for_view(&mut watch, |view| view.cluster.generation == last).await.stale.is_none());
    });
}

#[test]
fn what_etcd_cannot_take_at_once_is_refused_with_the_limit() {
    run_isolated(async |home| {
        let etcd = Etcd::start(&home);
        let store = open(&etcd.config()).await;
        let base = store.commit(0, intent(1, 100), &Origin::default()).await.unwrap();
        let Err(CommitError::TooLarge(why)) = store.commit(base, intent(2, 300), &Origin::default()).await else { panic!() };
        assert!(why.contains("changes 300 pools at once") && why.contains("128 keys") && why.contains("--max-txn-ops"), "{why}");
        let mut large = intent(2, 1);
        let backend = large.pools[0].backends[0].clone();
        large.pools[0].table_size = 5_000_011;
        let number = |i: u32| std::net::IpAddr::from((10 << 24 | 3 << 16 | i).to_be_bytes());
        large.pools[0].backends = (0..30_000)
            .map(|i| config::Backend { name: format!("backend-{i}"), address: number(i), tid_range: None, ..backend.clone() })
            .collect();
        let Err(CommitError::TooLarge(why)) = store.commit(base, large, &Origin::default()).await else { panic!() };
        assert!(why.contains("MB, and etcd takes 1.5 MiB") && why.contains("--max-request-bytes"), "{why}");
        let cluster = store.watch().borrow().cluster.clone();
        assert_eq!((cluster.intent_generation, cluster.intent.pools.len()), (base, 100), "nothing has changed");

        // Health of more pools goes in parts.
        let mut leadership = store.campaign("h1");
        leadership.elected().await;
        let many: Vec<_> = (0..150).map(|pool| (format!("p{pool}"), down("t1"))).collect();
        let generation = store.publish_all(&many).await.unwrap();
        let cluster = wait_for_view(&mut store.watch(), |view| view.cluster.generation == generation).await.cluster;
        assert_eq!((cluster.health.len(), cluster.intent_generation), (150, base));
    });
}

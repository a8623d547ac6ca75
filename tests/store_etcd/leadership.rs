//! Who leads over health, and which directors are there.

use crate::etcd_fixture::{Etcd, Proxy, TIMEOUT, config, down, intent, open, run_isolated, wait_for_view};
use base64::Engine;
use guideway_store::{CommitError, Store};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

#[test]
fn a_publication_that_comes_late_undoes_nothing() {
    run_isolated(async |home| {
        let etcd = Etcd::start(&home);
        let recorder = Recorder::start(etcd.port).await;
        let store = open(&config(recorder.port)).await;
        let mut leading = store.campaign("h1");
        timeout(TIMEOUT, leading.elected()).await.unwrap();
        store.publish("p0", down("t1")).await.unwrap();
        let sent = recorder.publications("p0");
        assert!(!sent.is_empty());
        let generation = store.publish("p0", down("t2")).await.unwrap();
        let before = wait_for_view(&mut store.watch(), |view| view.cluster.generation == generation).await.cluster;
        // etcd gets the first once more, as from a member that had it all the time.
        for request in sent {
            let mut late = TcpStream::connect(("127.0.0.1", etcd.port)).await.unwrap();
            late.write_all(&request).await.unwrap();
            let mut answer = vec![0; 4096];
            let read = timeout(TIMEOUT, late.read(&mut answer)).await.unwrap().unwrap();
            assert!(answer[..read].starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer[..read]));
        }
        let now = open(&etcd.config()).await.watch().borrow().cluster.clone();
        assert_eq!(now, before);
    });
}

/// Passes everything on to etcd, and keeps what it was asked.
struct Recorder {
    port: u16,
    requests: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Recorder {
    async fn start(to: u16) -> Recorder {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let recorder = Recorder { port: listener.local_addr().unwrap().port(), requests: Arc::default() };
        let requests = recorder.requests.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(("127.0.0.1", to)).await else { continue };
                let ((mut asks, mut told), (mut answers, mut server)) = (client.into_split(), server.into_split());
                let (requests, index) = (requests.clone(), {
                    let mut all = requests.lock().unwrap();
                    all.push(Vec::new());
                    all.len() - 1
                });
                tokio::spawn(async move { tokio::io::copy(&mut answers, &mut told).await });
                tokio::spawn(async move {
                    let mut bytes = vec![0; 1 << 16];
                    while let Ok(read @ 1..) = asks.read(&mut bytes).await {
                        requests.lock().unwrap()[index].extend_from_slice(&bytes[..read]);
                        if server.write_all(&bytes[..read]).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        recorder
    }

    /// The requests that write health of `pool`.
    fn publications(&self, pool: &str) -> Vec<Vec<u8>> {
        let key = base64::engine::general_purpose::STANDARD.encode(format!("/guideway/health/pool/{pool}"));
        let requests = self.requests.lock().unwrap();
        let streams = requests.iter().map(|stream| String::from_utf8_lossy(stream).into_owned());
        let requests = streams.flat_map(|stream| stream.split("POST ").map(|request| format!("POST {request}")).collect::<Vec<_>>());
        requests.filter(|request| request.contains(&key)).map(String::into_bytes).collect()
    }
}

async fn until(store: &Store, wanted: &[(&str, Value)]) {
    let wanted: Vec<(String, Value)> = wanted.iter().map(|(name, record)| ((*name).to_owned(), record.clone())).collect();
    let there = async {
        while store.directors().await.as_ref() != Ok(&wanted) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let said = timeout(TIMEOUT, there).await;
    assert!(said.is_ok(), "{:?} instead of {wanted:?}", store.directors().await);
}

#[test]
fn when_the_leader_is_cut_off_another_leads_and_the_old_one_cannot_publish() {
    run_isolated(async |home| {
        let etcd = Etcd::start(&home);
        let proxy = Proxy::start(etcd.port).await;
        let (old, new) = (open(&config(proxy.port)).await, open(&etcd.config()).await);
        let base = new.commit(0, intent(1, 2), &guideway_store::Origin::default()).await.unwrap();
        assert_eq!(new.leader().await, Ok(None));
        let mut first = old.campaign("h1");
        timeout(TIMEOUT, first.elected()).await.unwrap();
        let mut second = new.campaign("h2");
        assert_eq!(new.leader().await, Ok(Some("h1".to_owned())));
        assert_eq!(new.publish("p0", down("t1")).await, Err(CommitError::NotLeading));
        let generation = old.publish("p0", down("t1")).await.unwrap();
        let cluster = wait_for_view(&mut new.watch(), |view| view.cluster.generation == generation).await.cluster;
        assert_eq!((cluster.intent_generation, cluster.health.len()), (base, 1));

        proxy.set_silent(true);
        let cut = Instant::now();
        // The old one knows before the lease has ended, the new one after.
        assert!(!timeout(TIMEOUT, first.changed()).await.unwrap());
        println!("the old leader gave up after {:?}", cut.elapsed());
        assert!(!second.leads());
        timeout(TIMEOUT, second.elected()).await.unwrap();
        println!("the next leads after {:?}", cut.elapsed());
        assert!(cut.elapsed() < Duration::from_secs(6), "{:?}", cut.elapsed());
        assert_eq!(old.publish("p0", down("t2")).await, Err(CommitError::NotLeading));
        let generation = new.publish("p1", down("t1")).await.unwrap();
        let cluster = wait_for_view(&mut new.watch(), |view| view.cluster.generation == generation).await.cluster;
        assert_eq!(cluster.health.keys().collect::<Vec<_>>(), ["p0", "p1"], "what the old one published stands");

        // Back again it stands by, and follows when the other gives way.
        proxy.set_silent(false);
        let gave_way = Instant::now();
        second.resign().await;
        timeout(TIMEOUT, first.elected()).await.unwrap();
        println!("after a resignation the next leads after {:?}", gave_way.elapsed());
        assert_eq!(new.leader().await, Ok(Some("h1".to_owned())));
        assert!(old.publish("p0", Default::default()).await.is_ok());
    });
}

#[test]
fn a_leader_who_lost_his_key_is_refused_by_etcd_itself() {
    run_isolated(async |home| {
        let etcd = Etcd::start(&home);
        let store = open(&etcd.config()).await;
        let mut leadership = store.campaign("h1");
        timeout(TIMEOUT, leadership.elected()).await.unwrap();
        // Somebody else has it now; our process has not noticed.
        etcd.ctl(&["del", "/guideway/leader/health"]);
        etcd.ctl(&["put", "/guideway/leader/health", "{\"name\":\"h2\"}"]);
        assert_eq!(store.publish("p0", down("t1")).await, Err(CommitError::NotLeading));
        assert!(!timeout(TIMEOUT, leadership.changed()).await.unwrap());
        assert_eq!(store.leader().await, Ok(Some("h2".to_owned())));
        assert_eq!(store.watch().borrow().cluster.generation, 0, "nothing was published");
        etcd.ctl(&["del", "/guideway/leader/health"]);
        timeout(TIMEOUT, leadership.elected()).await.unwrap();
        assert!(store.publish("p0", down("t1")).await.is_ok());
    });
}

#[test]
fn directors_are_there_while_they_live() {
    run_isolated(async |home| {
        let mut etcd = Etcd::start(&home);
        let (one, two) = (open(&etcd.config()).await, open(&etcd.config()).await);
        let record = watch::Sender::new(json!({"generation": 1}));
        let presence = one.publish_director("d1", record.subscribe());
        let other = two.publish_director("d2", watch::Sender::new(json!({"generation": 7})).subscribe());
        until(&two, &[("d1", json!({"generation": 1})), ("d2", json!({"generation": 7}))]).await;
        // Many changes are few writes, and the last counts.
        let revision = |etcd: &Etcd| -> u64 {
            let status: Value = serde_json::from_str(&etcd.ctl(&["endpoint", "status", "-w", "json"])).unwrap();
            status[0]["Status"]["header"]["revision"].as_u64().unwrap()
        };
        let before = revision(&etcd);
        for generation in 2..=100 {
            record.send_replace(json!({"generation": generation}));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        until(&two, &[("d1", json!({"generation": 100})), ("d2", json!({"generation": 7}))]).await;
        let writes = revision(&etcd) - before;
        println!("99 changes of a director's word: {writes} writes");
        assert!(writes <= 10, "{writes}");
        // Their leases live on with etcd's data.
        etcd.kill();
        etcd.restart();
        record.send_replace(json!({"generation": 101}));
        until(&two, &[("d1", json!({"generation": 101})), ("d2", json!({"generation": 7}))]).await;
        // Who leaves is gone at once, who loses his lease comes back.
        other.leave().await;
        until(&two, &[("d1", json!({"generation": 101}))]).await;
        let leases = etcd.ctl(&["lease", "list"]);
        for lease in leases.lines().filter(|line| !line.contains("found")) {
            etcd.ctl(&["lease", "revoke", lease]);
        }
        until(&two, &[]).await;
        until(&two, &[("d1", json!({"generation": 101}))]).await;
        drop(presence);
        until(&two, &[]).await;
    });
}

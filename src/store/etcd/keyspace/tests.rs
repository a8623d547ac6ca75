//! Keys and values to cluster states, without etcd.

use super::super::super::{Observation, Observed};
use super::*;
use guideway_config::read_intent;

fn intent() -> Intent {
    let text = r#"
[[vip]]
address = "192.0.2.69"
service = "tftp"
pool = "boot"
[[pool]]
name = "a"
backends = []
[[pool]]
name = "boot"
backends = [{ name = "t1", address = "10.0.2.21", tid_range = "20000-20999" }]
"#;
    read_intent(text).config.unwrap()
}

fn put(keyspace: &mut Keyspace, short: &str, value: &str, revision: u64) {
    keyspace.put(short, KeyValue { value: value.as_bytes().to_vec(), mod_revision: revision, ..KeyValue::default() });
}

/// The keys after a commit of `intent` at `revision`.
fn committed(intent: &Intent, revision: u64) -> Keyspace {
    let mut keyspace = Keyspace::default();
    for (short, value) in intent_entries(intent) {
        put(&mut keyspace, &short, &value.to_string(), revision);
    }
    let active_key = intent.active_key.map(|id| id.to_string());
    let generation_record =
        GenerationRecord { id: "x".to_owned(), at: 1, pools: intent.pools.len(), active_key, ..GenerationRecord::default() };
    put(&mut keyspace, INTENT_GENERATION, &serde_json::to_string(&generation_record).unwrap(), revision);
    keyspace
}

#[test]
fn a_cluster_state_follows_from_its_keys_and_its_generation_is_the_newest_change() {
    assert_eq!(Keyspace::default().cluster_state(&ClusterState::default()), Ok(ClusterState::default()));
    let mut keyspace = committed(&intent(), 7);
    let cluster = keyspace.cluster_state(&ClusterState::default()).unwrap();
    assert_eq!((cluster.generation, cluster.intent_generation, &*cluster.intent), (7, 7, &intent()));

    put(&mut keyspace, "health/pool/boot", r#"{"backends":{"t1":{"state":"down","since":2,"why":"no answer"}}}"#, 9);
    put(&mut keyspace, HEALTH_GENERATION, "{}", 9);
    let with_health = keyspace.cluster_state(&cluster).unwrap();
    assert_eq!((with_health.generation, with_health.intent_generation), (9, 7));
    let observed = Observed { state: Observation::Down, since: 2, why: "no answer".to_owned(), unknown: false };
    assert_eq!(with_health.health["boot"].backends["t1"], observed);
    assert!(Arc::ptr_eq(&with_health.intent, &cluster.intent), "what has not changed is not read again");
    let later = keyspace.cluster_state(&with_health).unwrap();
    assert!(Arc::ptr_eq(&later.health["boot"], &with_health.health["boot"]));
    // A new reader of all keys gets the same result.
    assert_eq!(keyspace.cluster_state(&ClusterState::default()).unwrap(), later);

    keyspace.delete("health/pool/boot");
    put(&mut keyspace, HEALTH_GENERATION, "{}", 11);
    assert_eq!(keyspace.cluster_state(&later).map(|cluster| (cluster.generation, cluster.health.len())), Ok((11, 0)));
}

#[test]
fn health_written_by_hand_changes_the_generation() {
    let mut keyspace = committed(&intent(), 7);
    put(&mut keyspace, "health/pool/boot", r#"{"backends":{"t1":{"state":"down","since":2,"why":"no answer"}}}"#, 9);
    put(&mut keyspace, HEALTH_GENERATION, "{}", 9);
    let before = keyspace.cluster_state(&ClusterState::default()).unwrap();
    put(&mut keyspace, "health/pool/boot", r#"{"backends":{"t1":{"state":"up","since":2,"why":"me"}}}"#, 12);
    let after = keyspace.cluster_state(&before).unwrap();
    assert_eq!((before.generation, after.generation, after.intent_generation), (9, 12, 7));
    // A later publication wins.
    put(&mut keyspace, HEALTH_GENERATION, "{}", 13);
    assert_eq!(keyspace.cluster_state(&after).map(|cluster| cluster.generation), Ok(13));
}

#[test]
fn pool_names_may_contain_any_allowed_character() {
    let mut odd = intent();
    odd.pools[0].name = "generation".to_owned();
    odd.pools[1].name = "..-_.".to_owned();
    odd.vips[0].pool = "..-_.".to_owned();
    let mut keyspace = committed(&odd, 3);
    put(&mut keyspace, "health/pool/generation", r#"{"backends":{}}"#, 4);
    put(&mut keyspace, HEALTH_GENERATION, "{}", 4);
    let cluster = keyspace.cluster_state(&ClusterState::default()).unwrap();
    let names: Vec<&str> = cluster.intent.pools.iter().map(|pool| pool.name.as_str()).collect();
    assert_eq!((names, cluster.health.len()), (vec!["..-_.", "generation"], 1));
}

/// A change to valid keys, and a part of the expected error.
type Damage = (&'static str, fn(&mut Keyspace), &'static str);

#[test]
fn keys_written_without_a_commit_are_reported() {
    let damages: [Damage; 11] = [
        (
            "a pool is changed",
            |c| put(c, "intent/pool/boot", r#"{"name":"boot","backends":[]}"#, 8),
            "the key intent/pool/boot was written without",
        ),
        ("garbage", |c| put(c, "intent/pool/boot", "garbage", 8), "the key intent/pool/boot was written without"),
        ("a pool is added", |c| put(c, "intent/pool/new", "{}", 8), "the key intent/pool/new was written without"),
        ("the VIPs are changed", |c| put(c, "intent/vips", "[]", 8), "the key intent/vips was written without"),
        ("a pool is deleted", |c| c.delete("intent/pool/boot"), "there are 1 pools; the last commit left 2"),
        ("the VIPs are deleted", |c| c.delete("intent/vips"), "the key intent/vips"),
        ("the generation is garbage", |c| put(c, "intent/generation", "7", 8), "the key intent/generation was written without"),
        ("the generation is deleted", |c| c.delete("intent/generation"), "was written without"),
        ("health is garbage", |c| put(c, "health/pool/boot", "garbage", 8), "the key health/pool/boot is not the health of a pool"),
        ("an old pool is garbage", |c| put(c, "intent/pool/boot", "garbage", 5), "the key intent/pool/boot is not JSON"),
        (
            "an old pool has a wrong name",
            |c| put(c, "intent/pool/boot", r#"{"name":"a","backends":[]}"#, 5),
            "holds a pool with another name",
        ),
    ];
    for (what, damage, expected_error) in damages {
        let mut keyspace = committed(&intent(), 7);
        damage(&mut keyspace);
        let why = keyspace.cluster_state(&ClusterState::default()).unwrap_err();
        assert!(why.contains(expected_error), "{what}: {why}");
    }
    // All errors of the checker are in the message.
    let mut keyspace = committed(&intent(), 7);
    put(&mut keyspace, "intent/pool/boot", r#"{"name":"boot","backends":[{"name":"t1","weight":1001}]}"#, 6);
    let why = keyspace.cluster_state(&ClusterState::default()).unwrap_err();
    assert!(why.lines().count() == 2 && why.contains("pool.boot.backends.t1.weight = 1001"), "{why}");
}

#[test]
fn unknown_keys_are_ignored() {
    let mut keyspace = committed(&intent(), 7);
    put(&mut keyspace, "intent/later", "?", 9);
    put(&mut keyspace, "intent/pools-of-another-kind/x", "?", 9);
    put(&mut keyspace, "health/later", "?", 9);
    assert_eq!(keyspace.cluster_state(&ClusterState::default()).map(|cluster| cluster.generation), Ok(7));
}

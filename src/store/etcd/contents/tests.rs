//! From keys and values to sets, without etcd.

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

fn put(contents: &mut Contents, short: &str, value: &str, revision: u64) {
    contents.put(short, KeyValue { value: value.as_bytes().to_vec(), mod_revision: revision, ..KeyValue::default() });
}

/// What a commit of `intent` at `revision` leaves.
fn committed(intent: &Intent, revision: u64) -> Contents {
    let mut contents = Contents::default();
    for (short, value) in values(intent) {
        put(&mut contents, &short, &value.to_string(), revision);
    }
    let active_key = intent.active_key.map(|id| id.to_string());
    let mark = Mark { id: "x".to_owned(), at: 1, pools: intent.pools.len(), active_key };
    put(&mut contents, INTENT_GENERATION, &serde_json::to_string(&mark).unwrap(), revision);
    contents
}

#[test]
fn a_set_is_what_its_keys_say_and_its_generation_the_youngest_change() {
    assert_eq!(Contents::default().set(&Set::default()), Ok(Set::default()));
    let mut contents = committed(&intent(), 7);
    let set = contents.set(&Set::default()).unwrap();
    assert_eq!((set.generation, set.intent_generation, &*set.intent), (7, 7, &intent()));

    put(&mut contents, "health/pool/boot", r#"{"backends":{"t1":{"state":"down","since":2,"why":"silent"}}}"#, 9);
    put(&mut contents, HEALTH_GENERATION, "{}", 9);
    let with_health = contents.set(&set).unwrap();
    assert_eq!((with_health.generation, with_health.intent_generation), (9, 7));
    let observed = Observed { state: Observation::Down, since: 2, why: "silent".to_owned() };
    assert_eq!(with_health.health["boot"].backends["t1"], observed);
    assert!(Arc::ptr_eq(&with_health.intent, &set.intent), "what has not changed is not read again");
    let later = contents.set(&with_health).unwrap();
    assert!(Arc::ptr_eq(&later.health["boot"], &with_health.health["boot"]));
    // Who reads all of it anew arrives at the same.
    assert_eq!(contents.set(&Set::default()).unwrap(), later);

    contents.delete("health/pool/boot");
    put(&mut contents, HEALTH_GENERATION, "{}", 11);
    assert_eq!(contents.set(&later).map(|set| (set.generation, set.health.len())), Ok((11, 0)));
}

#[test]
fn health_that_is_put_by_hand_is_another_set_of_another_generation() {
    let mut contents = committed(&intent(), 7);
    put(&mut contents, "health/pool/boot", r#"{"backends":{"t1":{"state":"down","since":2,"why":"silent"}}}"#, 9);
    put(&mut contents, HEALTH_GENERATION, "{}", 9);
    let before = contents.set(&Set::default()).unwrap();
    put(&mut contents, "health/pool/boot", r#"{"backends":{"t1":{"state":"up","since":2,"why":"me"}}}"#, 12);
    let after = contents.set(&before).unwrap();
    assert_eq!((before.generation, after.generation, after.intent_generation), (9, 12, 7));
    // A publication comes after it.
    put(&mut contents, HEALTH_GENERATION, "{}", 13);
    assert_eq!(contents.set(&after).map(|set| set.generation), Ok(13));
}

#[test]
fn pools_are_named_as_they_like() {
    let mut odd = intent();
    odd.pools[0].name = "generation".to_owned();
    odd.pools[1].name = "..-_.".to_owned();
    odd.vips[0].pool = "..-_.".to_owned();
    let mut contents = committed(&odd, 3);
    put(&mut contents, "health/pool/generation", r#"{"backends":{}}"#, 4);
    put(&mut contents, HEALTH_GENERATION, "{}", 4);
    let set = contents.set(&Set::default()).unwrap();
    let names: Vec<&str> = set.intent.pools.iter().map(|pool| pool.name.as_str()).collect();
    assert_eq!((names, set.health.len()), (vec!["..-_.", "generation"], 1));
}

/// Something that is done to good contents, and a part of what is said of it.
type Spoilt = (&'static str, fn(&mut Contents), &'static str);

#[test]
fn what_was_written_past_a_commit_is_found_and_named() {
    let spoilt: [Spoilt; 11] = [
        (
            "a pool is changed",
            |c| put(c, "intent/pool/boot", r#"{"name":"boot","backends":[]}"#, 8),
            "the key intent/pool/boot was written past",
        ),
        ("garbage", |c| put(c, "intent/pool/boot", "garbage", 8), "the key intent/pool/boot was written past"),
        ("a pool is added", |c| put(c, "intent/pool/new", "{}", 8), "the key intent/pool/new was written past"),
        ("the VIPs are changed", |c| put(c, "intent/vips", "[]", 8), "the key intent/vips was written past"),
        ("a pool is deleted", |c| c.delete("intent/pool/boot"), "there are 1 pools; the last commit left 2"),
        ("the VIPs are deleted", |c| c.delete("intent/vips"), "the key intent/vips"),
        ("the generation is garbage", |c| put(c, "intent/generation", "7", 8), "the key intent/generation was written past"),
        ("the generation is deleted", |c| c.delete("intent/generation"), "was written past"),
        ("health is garbage", |c| put(c, "health/pool/boot", "garbage", 8), "the key health/pool/boot is no health of a pool"),
        ("an old pool is garbage", |c| put(c, "intent/pool/boot", "garbage", 5), "the key intent/pool/boot is not JSON"),
        (
            "an old pool has a wrong name",
            |c| put(c, "intent/pool/boot", r#"{"name":"a","backends":[]}"#, 5),
            "holds a pool of another name",
        ),
    ];
    for (what, spoil, said) in spoilt {
        let mut contents = committed(&intent(), 7);
        spoil(&mut contents);
        let why = contents.set(&Set::default()).unwrap_err();
        assert!(why.contains(said), "{what}: {why}");
    }
    // What the checker says comes through, all of it.
    let mut contents = committed(&intent(), 7);
    put(&mut contents, "intent/pool/boot", r#"{"name":"boot","backends":[{"name":"t1","weight":1001}]}"#, 6);
    let why = contents.set(&Set::default()).unwrap_err();
    assert!(why.lines().count() == 2 && why.contains("pool.boot.backends.t1.weight = 1001"), "{why}");
}

#[test]
fn keys_that_nobody_here_knows_are_passed_over() {
    let mut contents = committed(&intent(), 7);
    put(&mut contents, "intent/later", "?", 9);
    put(&mut contents, "intent/pools-of-another-kind/x", "?", 9);
    put(&mut contents, "health/later", "?", 9);
    assert_eq!(contents.set(&Set::default()).map(|set| set.generation), Ok(7));
}

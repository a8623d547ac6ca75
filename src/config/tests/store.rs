//! `[store]`

use super::*;

const ETCD: &str = "[store]\nkind = \"etcd\"\nendpoints = [\"https://10.0.0.5:2379\", \"https://10.0.0.6:2379/\"]\n";

fn store(more: &str) -> Result<Store, Vec<String>> {
    let checked = read_store(&format!("{ETCD}{more}"));
    checked.config.clone().ok_or_else(|| checked.errors().map(ToString::to_string).collect())
}

#[test]
fn a_store_replaces_vips_and_pools() {
    let config = good(&with_rest(ETCD));
    let Some(Store::Etcd(etcd)) = &config.store else { panic!("{config:?}") };
    assert_eq!(etcd.endpoints, ["https://10.0.0.5:2379", "https://10.0.0.6:2379"]);
    assert_eq!((etcd.prefix.as_str(), &etcd.ca, &etcd.identity, &etcd.login, &etcd.cache), ("/guideway/", &None, &None, &None, &None));
    assert!(config.vips.is_empty() && messages(&with_rest(ETCD), Severity::Warning).is_empty());
    let both = format!("{VIP}{POOL}[store]\nkind = \"file\"\npath = \"/var/lib/guideway\"\n");
    let advice = "conflicts with [store] (line 14), which holds the VIPs and pools. Import them once with `guideway store import --config FILE`, then remove every [[vip]] and [[pool]] from this file";
    assert_eq!(
        messages(&with_rest(&both), Severity::Error),
        [format!("line 7: vip[0]: {advice}"), format!("line 11: pool.boot: {advice}")]
    );
    // `guideway store import` reads such a file.
    let (intent, store) = (read_embedded_intent(&with_rest(&both)), read_store(&with_rest(&both)));
    assert_eq!(intent.config.map(|intent| (intent.vips.len(), intent.pools.len())), Some((1, 1)));
    assert_eq!(store.config, Some(Store::File { path: "/var/lib/guideway".into(), cache: None }));
}

#[test]
fn another_store_needs_a_restart() {
    let other = ETCD.replace("10.0.0.5", "10.0.0.7");
    let refused: Vec<String> =
        good(&with_rest(ETCD)).changes_needing_restart(&good(&with_rest(&other))).iter().map(ToString::to_string).collect();
    assert_eq!(refused, ["store: differs from the store that the director started with; restart the director to apply it"]);
}

#[test]
fn all_keys_of_etcd() {
    let all = "prefix = \"/boot\"\nca = \"/ca\"\ncert = \"/c\"\nkey = \"/k\"\nuser = \"u\"\npassword_file = \"/p\"\ncache = \"/copy\"\n";
    let Ok(Store::Etcd(etcd)) = store(all) else { panic!("{:?}", store(all)) };
    assert_eq!(etcd.prefix, "/boot/");
    assert_eq!(etcd.identity, Some(("/c".into(), "/k".into())));
    assert_eq!(etcd.login, Some(("u".to_owned(), "/p".into())));
    assert_eq!((etcd.ca, etcd.cache), (Some("/ca".into()), Some("/copy".into())));
}

#[test]
fn invalid_values_give_errors() {
    for (more, what) in [
        ("cert = \"/c\"\n", "line 4: store.cert = \"/c\": needs `key`: give both or neither"),
        ("user = \"u\"\n", "line 4: store.user = \"u\": needs `password_file`: give both or neither"),
        ("ca = \"ca.pem\"\n", "line 4: store.ca = \"ca.pem\": is not an absolute path; begin it with /"),
        ("prefix = \"/\"\n", "line 4: store.prefix = \"/\": is not a key prefix; write a name between slashes, like /guideway/"),
    ] {
        assert_eq!(store(more), Err(vec![what.to_owned()]));
    }
    let of = |text: &str| read_store(text).problems.iter().map(ToString::to_string).collect::<Vec<_>>();
    let endpoints = |list: &str| of(&format!("[store]\nkind = \"etcd\"\nendpoints = {list}\nca = \"/ca\"\n"));
    assert_eq!(endpoints("[\"http://h:1\"]"), ["line 4: store.ca = \"/ca\": has no effect: no endpoint begins with https://"]);
    for bad in ["ftp://h", "h:2379", "http://h/x", "http://u@h", "http://h/?q", "http://"] {
        let messages = endpoints(&format!("[\"{bad}\"]"));
        assert!(messages.len() == 1 && messages[0].contains("is not an endpoint"), "{bad}: {messages:?}");
    }
    assert!(endpoints("[]")[0].contains("has 0 entries; 1 to 16"));
    assert!(of("[director]\n")[0].contains("store: is missing"));
    assert!(of("[store]\nkind = \"file\"\npath = \"/x\"\nprefix = \"/y\"\n")[0].contains("unknown key"));
    let clear =
        |host: &str| of(&format!("[store]\nkind = \"etcd\"\nendpoints = [\"http://{host}:1\"]\nuser = \"u\"\npassword_file = \"/p\"\n"));
    assert!(clear("10.0.0.5")[0].contains("unencrypted"));
    assert_eq!([clear("127.0.0.1"), clear("[::1]"), clear("localhost")], [vec![], vec![], Vec::<String>::new()]);
}

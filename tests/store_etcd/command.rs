//! `guideway store`, the shipped program, with both kinds of store.

use crate::etcd_fixture::{Etcd, intent, open, run_isolated};
use crate::netns_fixture::GUIDEWAY;
use guideway_config as config;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// Exit code, standard output, standard error.
pub async fn guideway(arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(GUIDEWAY);
    command.args(arguments);
    // Meanwhile our own stores live on.
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

async fn in_and_out(home: &Path, store: &str) {
    let director = "[director]\nname = \"d1\"\naddress = \"10.0.1.11\"\nkey = \"000102030405060708090a0b0c0d0e0f\"\n\
                    io = { kind = \"af_packet\", interface = \"lo\" }\nrouters = [\"10.0.0.0/24\"]\n";
    let (first, second) = (intent(100, 2), intent(7, 1));
    let file = home.join("director.toml").display().to_string();
    std::fs::write(&file, format!("{director}{store}{}", first.to_toml())).unwrap();
    let other = home.join("other.toml").display().to_string();
    std::fs::write(&other, second.to_toml()).unwrap();

    // The way from a director's own VIPs to a store.
    let (code, _, said) = guideway(&["check", "--config", &file]).await;
    assert!(code == 2 && said.contains("guideway store import --config"), "{said}");
    let (code, out, said) = guideway(&["store", "import", "--config", &file, "--dry-run"]).await;
    assert_eq!((code, said.as_str()), (0, ""));
    assert_eq!(out, "+ VIP 192.0.2.69 tftp\n+ pool p0\n+ pool p1\n+ backend p0/t1\n+ backend p1/t1\n");
    let (code, out, said) = guideway(&["store", "import", "--config", &file]).await;
    assert!(code == 0 && out.starts_with("imported as generation ") && out.contains("; 5 changes\n"), "{out}{said}");
    std::fs::write(&file, format!("{director}{store}")).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let (code, out, _) = guideway(&["check", "--config", &file]).await;
    assert!(
        code == 0
            && out.contains("warning: director.key: ")
            && out.contains("holds a secret, and everybody")
            && !out.contains("0001020304"),
        "{out}"
    );
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let (code, out, _) = guideway(&["check", "--config", &file]).await;
    // The only warning is of the address, which is not on this host.
    assert!(
        code == 0 && out.contains("  store     ") && out.contains("on no interface of this host") && out.contains("good, 1 warning\n"),
        "{out}"
    );

    let (code, _, said) = guideway(&["store", "import", "--config", &file, "--from", &other]).await;
    assert!(code == 2 && said.contains("the store has 1 VIPs and 2 pools already"), "{said}");
    let (code, _, said) = guideway(&["store", "import", "--config", &file]).await;
    assert!(code == 2 && said.contains("there is no [[vip]] and no [[pool]] in it"), "{said}");
    let (code, out, _) = guideway(&["store", "import", "--config", &file, "--from", &other, "--replace"]).await;
    assert!(code == 0 && out.ends_with("; 3 changes\n- pool p1\n- backend p1/t1\n~ backend p0/t1: weight 100 becomes 7\n"), "{out}");
    let (code, out, _) = guideway(&["store", "export", "--config", &file]).await;
    assert_eq!((code, config::read_intent(&out).config), (0, Some(second.clone())));
    let (code, out, _) = guideway(&["store", "export", "--config", &file, "--json"]).await;
    assert_eq!((code, config::Intent::from_json(&serde_json::from_str(&out).unwrap()).config), (0, Some(second)));
}

#[test]
fn vips_and_pools_go_into_a_directory_and_out_again() {
    run_isolated(async |home| {
        let path = home.join("store").display().to_string();
        in_and_out(&home, &format!("[store]\nkind = \"file\"\npath = \"{path}\"\n")).await;
        std::fs::write(home.join("store/intent.toml"), "[[vip]]\n").unwrap();
        let (code, out, _) = guideway(&["store", "show", "--config", &home.join("director.toml").display().to_string()]).await;
        assert!(code == 0 && out.starts_with("file, generation 2 (its intent: 2)\n"), "{out}");
        assert!(out.contains("  health    nobody leads\n") && out.contains("  directors none\n"), "{out}");
        assert!(out.contains("  stale     invalid for ") && out.contains("intent.toml has errors and is not in force:\n"), "{out}");
    });
}

#[test]
fn vips_and_pools_go_into_etcd_and_out_again() {
    run_isolated(async |home| {
        let etcd = Etcd::start(&home);
        in_and_out(&home, &format!("[store]\nkind = \"etcd\"\nendpoints = [\"{}\"]\n", etcd.endpoint())).await;
        let store = open(&etcd.config()).await;
        let mut leadership = store.campaign("h1");
        leadership.elected().await;
        let record = tokio::sync::watch::Sender::new(serde_json::json!({"generation": 1}));
        let _presence = store.publish_director("d1", record.subscribe());
        while store.directors().await.unwrap().is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        let generation = store.watch().borrow().cluster.generation;
        let file = home.join("director.toml").display().to_string();
        let (code, out, said) = guideway(&["store", "show", "--config", &file]).await;
        let expected = format!(
            "etcd, generation {generation} (its intent: {generation})\n  VIPs      1\n  pools     1 with 1 backends, 0 down\n  \
             health    h1 leads\n  directors 1\n    d1  generation 1, not {generation}\n"
        );
        assert_eq!((code, out, said.as_str()), (0, expected, ""));
        let (_, out, _) = guideway(&["store", "show", "--config", &file, "--json"]).await;
        let shown: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!((&shown["leader"], &shown["stale_seconds"]), (&"h1".into(), &serde_json::Value::Null));
        assert_eq!(shown["directors"][0]["presence"]["generation"], 1);
        // What was spoilt by hand is mended by an import.
        etcd.ctl(&["put", "/guideway/intent/pool/p0", "garbage"]);
        let (code, _, said) = guideway(&["store", "show", "--config", &file]).await;
        assert!(code == 1 && said.contains("the key intent/pool/p0 was written without"), "{said}");
        let other = home.join("other.toml").display().to_string();
        let (code, out, said) = guideway(&["store", "import", "--config", &file, "--from", &other, "--replace"]).await;
        assert!(code == 0 && out.contains("in place of what could not be used"), "{out}{said}");
        let (code, out, said) = guideway(&["store", "export", "--config", &file]).await;
        assert_eq!((code, config::read_intent(&out).config, said.as_str()), (0, Some(intent(7, 1)), ""));
        drop(etcd);
        let (code, _, said) = guideway(&["store", "show", "--config", &file]).await;
        assert!(code == 1 && said.contains("no cluster state could be read from the store within 5s: etcd is unavailable"), "{said}");
    });
}

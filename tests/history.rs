//! Who changed the intent, and back again: `guideway history`, `guideway rollback`, and the audit lines of the log.
#![allow(clippy::unwrap_used, clippy::panic)]

mod dut;

use dut::{Director, in_namespaces};
use serde_json::Value;
use std::process::Output;

const INTENT: &str = r#"
    [[vip]]
    address = "192.0.2.69"
    service = "tftp"
    pool = "boot"
    [[pool]]
    name = "boot"
    backends = [
        { name = "t1", address = "10.0.1.21", tid_range = "20000-20999" },
        { name = "t2", address = "10.0.1.22", tid_range = "21000-21999" },
    ]
"#;

fn text(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8(text).unwrap()
}

fn done(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(output));
    text(output)
}

#[test]
fn history_names_who_did_what_and_a_rollback_brings_a_backend_back() {
    in_namespaces(|_wire| {
        let director = Director::start("af_packet", INTENT, "");
        let history = || director.get("/v1/history")["changes"].as_array().unwrap().clone();
        let (first, intent) = (history(), director.get("/v1/intent"));
        assert_eq!((first.len(), &first[0]["generation"], &first[0]["who"]), (1, &Value::from(1), &Value::from("start")));

        done(&director.command("set backend t1 --remove --reason broken-disk"));
        let removed = &history()[0];
        let user = nix::unistd::User::from_uid(nix::unistd::getuid()).unwrap().unwrap().name;
        assert_eq!((&removed["who"], &removed["reason"]), (&Value::from(user.clone()), &Value::from("broken-disk")), "{removed:#}");
        assert!(removed["from"].as_str().unwrap().starts_with("control socket, uid 0, pid "), "{removed:#}");
        assert_eq!(removed["what"], serde_json::json!(["- backend boot/t1"]));
        let line = director.logged("intent changed");
        for part in ["guideway::audit", &format!("\"{user}\""), "\"broken-disk\"", "\"- backend boot/t1\""] {
            assert!(line.contains(part), "{part} in {line}");
        }

        // What is refused is in the log alone; a dry run is nowhere.
        let refused = director.command("set backend t2 --remove --reason too-much");
        assert!(!refused.status.success() && text(&refused).contains("--yes"), "{}", text(&refused));
        let line = director.logged("change of the intent refused");
        assert!(line.contains("too-much") && line.contains("DELETE") && line.contains("boot/backends/t2"), "{line}");
        let said = done(&director.command("rollback 1 --dry-run"));
        assert!(said.contains("boot/t1 added"), "{said}");
        assert_eq!((history().len(), director.get("/v1/pools/boot/backends/t1")["state"].as_str()), (2, Some("retired")));

        done(&director.command("rollback 1 --reason replaced"));
        assert_eq!(director.get("/v1/intent"), intent);
        assert_eq!(director.get("/v1/pools/boot/backends/t1")["state"], "active");
        let said = done(&director.command("history"));
        assert!(said.contains("reason: rollback to generation 1: replaced\n  + backend boot/t1\n"), "{said}");
        let said = done(&director.command("history --limit 1 --json"));
        let document: Value = serde_json::from_str(&said).unwrap();
        assert_eq!((document["changes"].as_array().unwrap().len(), &document["changes"][0]["base"]), (1, &removed["generation"]));

        // To a generation that leaves nothing, only with consent.
        director.change("DELETE", "/v1/pools/boot/backends/t1", None);
        director.change("DELETE", "/v1/pools/boot/backends/t2?confirm=true&reason=all%20gone", None);
        let empty = history()[0]["generation"].as_u64().unwrap();
        done(&director.command("rollback 1"));
        assert!(text(&director.command(&format!("rollback {empty}"))).contains("--yes"));
        done(&director.command(&format!("rollback {empty} --yes")));
        for (path, status) in [("/v1/history/99999/rollback", 404), ("/v1/history/x/rollback", 404), ("/v1/history/0/rollback", 404)] {
            assert_eq!(director.expect_error("POST", path, None).0, status, "{path}");
        }

        // The file again, by a reload.
        done(&director.command("reload --reason from-the-file"));
        let reloaded = &history()[0];
        assert!(reloaded["from"].as_str().unwrap().starts_with("reload of ") && reloaded["reason"] == "from-the-file", "{reloaded:#}");
        done(&director.command("reload"));
        assert_eq!(&history()[0], reloaded, "an unchanged file is no change");
    });
}

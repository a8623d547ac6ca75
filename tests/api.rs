//! The API of a running director: changes while packets flow, plans, conflicts, events, drain; and the commands over it.
#![allow(clippy::unwrap_used, clippy::panic)]

mod dut;

use dut::{Director, TIMEOUT, backend_for, in_namespaces, to_vip, write};
use guideway_daemon::client::Client;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Two backends with TID ranges; two without, behind DNS.
const INTENT: &str = r#"
    [[vip]]
    address = "192.0.2.69"
    service = "tftp"
    pool = "boot"
    [[vip]]
    address = "192.0.2.53"
    service = { protocol = "udp", ports = [53] }
    pool = "names"
    [[pool]]
    name = "boot"
    backends = [
        { name = "t1", address = "10.0.1.21", tid_range = "20000-20999" },
        { name = "t2", address = "10.0.1.22", tid_range = "21000-21999" },
    ]
    [[pool]]
    name = "names"
    table_size = 1009
    backends = [{ name = "n1", address = "10.0.1.23" }, { name = "n2", address = "10.0.1.24" }]
"#;
const BOOT: &str = "/v1/pools/boot/backends";

fn percent(plan: &Value, backend: &str, key: &str) -> i64 {
    let found = plan["backends"].as_array().unwrap().iter().find(|b| b["backend"] == backend).unwrap_or_else(|| panic!("{plan:#}"));
    (found[key].as_f64().unwrap() * 100.0).round() as i64
}

/// A request as it is written, and everything that comes back. `Connection: close` must be in it.
fn raw(director: &Director, request: &str) -> String {
    let mut stream = UnixStream::connect(director.socket()).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn backends_come_and_go_while_a_transfer_runs() {
    for io in ["af_packet", "af_xdp"] {
        in_namespaces(move |mut wire| {
            let director = Director::start(io, INTENT, "");
            let mut transfer =
                |port, expected| assert_eq!(backend_for(&mut wire, &to_vip("198.51.100.7:4000", "192.0.2.69", port)), expected);
            transfer(20_001, 21);

            let t3 = json!({"address": "10.0.1.23", "tid_range": "22000-22999", "weight": 200});
            let plan = director.change("PUT", &format!("{BOOT}/t3"), Some(t3));
            assert_eq!((&plan["applied"], &plan["changed"], &plan["survives_restart"]), (&json!(true), &json!(true), &json!(false)));
            assert_eq!(percent(&plan, "t3", "share_after"), 50);
            assert_eq!((percent(&plan, "t1", "share_before"), percent(&plan, "t1", "share_after")), (50, 25));
            let vips = plan["vips"].as_array().unwrap();
            assert_eq!((vips.len(), &vips[0]["vip"]), (1, &json!("192.0.2.69")), "the other pool has nothing to do with it: {plan:#}");
            assert!((0.5..0.56).contains(&vips[0]["moved_share"].as_f64().unwrap()), "{plan:#}");
            assert_eq!(plan["running"][0]["transfers_affected"], 0);
            transfer(20_001, 21);
            transfer(22_500, 23);

            let plan = director.change("PATCH", &format!("{BOOT}/t3"), Some(json!({"weight": 0})));
            assert_eq!(percent(&plan, "t3", "share_after"), 0);
            let plan = director.change("POST", &format!("{BOOT}/t1/drain"), None);
            assert_eq!((percent(&plan, "t1", "share_after"), percent(&plan, "t2", "share_after")), (0, 100));
            transfer(20_001, 21);
            transfer(69, 22);
            assert_eq!(director.get(&format!("{BOOT}/t1"))["state"], "drained");
            let transfers = director.get(&format!("{BOOT}/t1/transfers"));
            let first = &transfers["transfers"][0];
            assert_eq!(
                (&transfers["running"], &first["client"], &first["server_port"]),
                (&json!(1), &json!("198.51.100.7"), &json!(20_001))
            );
            assert_eq!(director.get("/v1/status")["draining"]["boot/t1"], 1);

            director.change("POST", &format!("{BOOT}/t1/undrain"), None);
            director.change("DELETE", &format!("{BOOT}/t1"), None);
            let backend = director.get(&format!("{BOOT}/t1"));
            assert_eq!(backend["state"], "retired", "{backend:#}");
            transfer(20_001, 21);
            transfer(21_001, 22);
            let (status, refusal) =
                director.expect_error("PUT", &format!("{BOOT}/t9"), Some(json!({"address": "10.0.1.29", "tid_range": "20000-20999"})));
            assert!(status == 409 && refusal["error"].as_str().unwrap().contains("20000-20999"), "{refusal:#}");
            transfer(20_001, 21);
        });
    }
}

#[test]
fn vips_and_pools_come_and_go_and_bad_ones_are_refused_with_reasons() {
    in_namespaces(|mut wire| {
        let director = Director::start("af_packet", INTENT, "");
        let pool = json!({"name": "more", "backends": [{"name": "m1", "address": "10.0.1.23", "tid_range": 30000}]});
        director.change("POST", "/v1/pools", Some(pool.clone()));
        director.change("POST", "/v1/vips", Some(json!({"pool": "more", "service": {"protocol": "tftp"}, "address": "192.0.2.70"})));
        assert_eq!(backend_for(&mut wire, &to_vip("198.51.100.7:4000", "192.0.2.70", 69)), 23);
        director.change(
            "POST",
            "/v1/vips",
            Some(json!({"address": "192.0.2.70", "service": {"protocol": "udp", "ports": [53]}, "pool": "names"})),
        );
        let (status, refusal) = director.expect_error("PATCH", "/v1/vips/192.0.2.70", Some(json!({"paused": true})));
        assert!(status == 400 && refusal["error"].as_str().unwrap().contains("\"tftp\" or \"udp/53\""), "{refusal:#}");
        let plan = director.change("PATCH", "/v1/vips/192.0.2.70?service=udp/53", Some(json!({"paused": true})));
        assert_eq!((&plan["vips"][0]["change"], &plan["vips"][0]["moved"]), (&json!("paused"), &json!(0)));
        director.change("DELETE", "/v1/vips/192.0.2.70?service=udp/53", None);

        let before = director.state();
        for (method, path, body, status, part) in [
            ("POST", "/v1/pools", Some(pool), 422, "more"),
            ("DELETE", "/v1/pools/more", None, 409, "192.0.2.70"),
            ("DELETE", "/v1/pools/mor", None, 404, "did you mean \"more\"?"),
            ("POST", "/v1/pools/boot/backends/t3/drain", None, 404, "did you mean \"t"),
            ("PATCH", "/v1/pools/boot/backends/t1", Some(json!({"weight": 1001})), 422, "pool.boot.backends.t1.weight = 1001"),
            ("PATCH", "/v1/pools/boot/backends/t1", Some(json!({"name": "t9"})), 422, "the path says \"t1\""),
            ("PATCH", "/v1/pools/boot/backends/t1", Some(json!({"wieght": 1})), 422, "did you mean \"weight\"?"),
            (
                "PUT",
                "/v1/pools/boot/backends/t4",
                Some(json!({"address": "10.0.1.11", "tid_range": 40000})),
                409,
                "address of this director",
            ),
            ("DELETE", "/v1/vips/192.0.2.71", None, 404, "192.0.2.71"),
            ("PUT", "/v1/intent", Some(json!({"vip": [{"address": "192.0.2.1"}]})), 422, "service"),
            ("GET", "/v1/pools/boots", None, 404, "did you mean \"boot\"?"),
        ] {
            let (refused, document) = director.expect_error(method, path, body);
            assert!(refused == status && document["error"].as_str().unwrap().contains(part), "{method} {path}: {refused} {document:#}");
        }
        let (_, refusal) = director.expect_error("PUT", &format!("{BOOT}/t9"), Some(json!({"address": 7, "weight": -1, "colour": "red"})));
        assert!(refusal["problems"].as_array().unwrap().len() >= 3, "every problem at once: {refusal:#}");
        assert_eq!(director.state(), before);

        director.change("DELETE", "/v1/vips/192.0.2.70", None);
        director.change("DELETE", "/v1/pools/more", None);
    });
}

#[test]
fn a_dry_run_changes_nothing_and_tells_the_same_as_the_change() {
    in_namespaces(|_wire| {
        let director = Director::start("af_packet", INTENT, "");
        let before = director.state();
        let body = json!({"address": "10.0.1.23", "tid_range": "22000-22999"});
        let planned = director.change("PUT", &format!("{BOOT}/t3?dry_run=true"), Some(body.clone()));
        assert_eq!(
            (&planned["dry_run"], &planned["applied"], &planned["intent_generation"]["after"]),
            (&json!(true), &json!(false), &Value::Null)
        );
        assert_eq!(director.state(), before);
        let done = director.change("PUT", &format!("{BOOT}/t3"), Some(body.clone()));
        for part in ["vips", "backends", "running", "warnings"] {
            assert_eq!(planned[part], done[part], "{part}");
        }
        let after = director.state();
        let same = director.change("PUT", &format!("{BOOT}/t3"), Some(body));
        assert_eq!((&same["changed"], &same["vips"]), (&json!(false), &json!([])));
        assert_eq!(director.state(), after, "what is there already makes no generation");
        let (status, _) = director.expect_error("POST", &format!("{BOOT}/t9/drain?dry_run=true"), None);
        assert_eq!(status, 404);
    });
}

#[test]
fn of_two_changes_one_wins_or_both_apply() {
    in_namespaces(|_wire| {
        let director = Director::start("af_packet", INTENT, "");
        let head = raw(&director, "GET /v1/intent HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n");
        let tag = head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap().to_owned();
        let drain = |backend: &str, tag: &str| {
            let tag = if tag.is_empty() { String::new() } else { format!("If-Match: {tag}\r\n") };
            raw(&director, &format!("POST {BOOT}/{backend}/drain HTTP/1.1\r\nHost: d\r\n{tag}Connection: close\r\n\r\n"))
        };
        // Both are based on the same intent: one wins.
        let answers = std::thread::scope(|scope| {
            let both = ["t1", "t2"].map(|backend| scope.spawn(|| drain(backend, &tag)));
            both.map(|answer| answer.join().unwrap())
        });
        let codes = answers.each_ref().map(|answer| answer[9..12].to_owned());
        assert!(codes.contains(&"200".to_owned()) && codes.contains(&"412".to_owned()), "{answers:#?}");
        // Based on nothing: all apply.
        std::thread::scope(|scope| {
            for number in 0..8 {
                let director = &director;
                scope.spawn(move || {
                    let body = json!({"address": format!("10.0.1.{}", 100 + number), "tid_range": 40_000 + number});
                    director.change("PUT", &format!("{BOOT}/c{number}"), Some(body));
                });
            }
        });
        let backends = director.get("/v1/pools/boot")["backends"].as_array().unwrap().len();
        assert_eq!(backends, 10);
        assert!(drain("t1", "7").starts_with("HTTP/1.1 400"));
    });
}

#[test]
fn events_are_seen_in_order_and_again_by_who_was_away() {
    in_namespaces(|_wire| {
        let director = Director::start("af_packet", INTENT, "");
        let follow = |since: &str| {
            let mut stream = UnixStream::connect(director.socket()).unwrap();
            stream.set_read_timeout(Some(TIMEOUT)).unwrap();
            stream.write_all(format!("GET /v1/events HTTP/1.1\r\nHost: d\r\n{since}\r\n").as_bytes()).unwrap();
            let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
            assert!(lines.next().unwrap().contains("200"));
            assert!(lines.any(|line| line.is_empty()));
            lines
        };
        let wanted = |line: &String| line.strip_prefix("data: ").map(|data| serde_json::from_str::<Value>(data).unwrap());
        let mut live = follow("");
        director.change("POST", &format!("{BOOT}/t1/drain"), None);
        director.change("POST", &format!("{BOOT}/t1/undrain"), None);
        director.change("PATCH", &format!("{BOOT}/t2"), Some(json!({"weight": 7})));
        director.change("PATCH", "/v1/vips/192.0.2.53", Some(json!({"paused": true})));
        director.signal(Signal::SIGHUP);
        let mut seen = Vec::new();
        let mut ids = Vec::new();
        while seen.len() < 6 {
            let event = live.find_map(|line| wanted(&line)).unwrap();
            ids.push(event["id"].as_u64().unwrap());
            // Neighbours come when they come.
            if event["event"] != "neighbours" {
                seen.push((
                    event["event"].as_str().unwrap().to_owned(),
                    event["data"]["changes"][0]["change"].as_str().unwrap_or("").to_owned(),
                ));
            }
        }
        let names: Vec<&str> = seen.iter().map(|(event, change)| if change.is_empty() { event.as_str() } else { change }).collect();
        assert_eq!(names[..4], ["backend_drained", "backend_undrained", "backend_weight", "vip_paused"]);
        // What the file says comes back, in one change, and that the file was read.
        assert!(
            names[4..].contains(&"reload") && names[4..].iter().any(|name| ["backend_weight", "vip_resumed"].contains(name)),
            "{names:?}"
        );
        assert!(ids.windows(2).all(|pair| pair[1] == pair[0] + 1), "{ids:?}");

        let mut again = follow(&format!("Last-Event-ID: {}\r\n", ids[0]));
        let first = again.find_map(|line| wanted(&line)).unwrap();
        assert_eq!(first["id"], ids[1]);
        let mut unknown_id = follow("Last-Event-ID: 1\r\n");
        assert!(unknown_id.find(|line| line.starts_with("event: ")).is_some_and(|line| line == "event: missed"));
        assert!(raw(&director, "GET /v1/events?since=x HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n").starts_with("HTTP/1.1 400"));

        let shown = director.command("events --since 0 --count 3");
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        assert!(shown.contains("state_changed") && shown.contains("boot/t1"), "{shown}");
    });
}

#[test]
fn a_reload_brings_back_what_the_file_says_and_tells_so() {
    in_namespaces(|mut wire| {
        let director = Director::start("af_packet", INTENT, "");
        let plan = director.change("POST", &format!("{BOOT}/t1/drain"), None);
        assert!(plan["restart"].as_str().unwrap().contains("SIGHUP brings back"), "{plan:#}");
        assert_eq!(backend_for(&mut wire, &to_vip("198.51.100.7:4000", "192.0.2.69", 69)), 22);
        director.signal(Signal::SIGHUP);
        let said = director.logged("reload discards changes made by the API");
        assert!(said.contains("WARN"), "{said}");
        director.logged("\"reloaded\"");
        assert_eq!(director.get(&format!("{BOOT}/t1"))["state"], "active");
        // A file without changes of the API before it has nothing to warn of.
        write(director.directory.path(), "af_packet", &INTENT.replace("\"names\"", "\"dns\""), "");
        director.signal(Signal::SIGHUP);
        loop {
            let line = director.logged("");
            assert!(!line.contains("made by the API"), "{line}");
            if line.contains("\"reloaded\"") {
                break;
            }
        }
    });
}

#[test]
fn drain_waits_for_the_last_transfer_and_for_flows_without_ranges_too() {
    in_namespaces(|mut wire| {
        let director = Director::start("af_packet", INTENT, "");
        let refused = director.command("drain t7 --wait");
        assert_eq!(refused.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&refused.stderr).contains("did you mean \"t"), "{refused:?}");
        let dry = director.command("drain t1 --dry-run");
        let dry = String::from_utf8_lossy(&dry.stdout).into_owned();
        assert!(dry.contains("boot/t1 drained: 50.0 % of new flows, then 0.0 %") && dry.contains("no running transfer moves"), "{dry}");
        assert_eq!(director.get(&format!("{BOOT}/t1"))["state"], "active");

        // A flow of the pool without ranges, which the flow table knows.
        let dns = to_vip("198.51.100.9:5000", "192.0.2.53", 53);
        let (last, name) = match backend_for(&mut wire, &dns) {
            23 => (23, "n1"),
            other => (other, "n2"),
        };
        for (backend, packet, expected) in [("t1", to_vip("198.51.100.7:4000", "192.0.2.69", 20_007), 21), (name, dns, last)] {
            let mut drain = Command::new(dut::GUIDEWAY)
                .args(["drain", backend, "--wait", "--idle-timeout", "1s", "--timeout", "20s", "--socket"])
                .arg(director.socket())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut lines = BufReader::new(drain.stdout.take().unwrap()).lines().map(Result::unwrap);
            assert!(lines.any(|line| line.starts_with("done: generation")), "the plan, then that it is done");
            // The transfer goes on for three times as long as it may be silent.
            let until = Instant::now() + Duration::from_secs(3);
            while Instant::now() < until {
                assert_eq!(backend_for(&mut wire, &packet), expected);
                assert!(drain.try_wait().unwrap().is_none(), "it returned while {backend} had a transfer");
            }
            let ended = Instant::now();
            let said: Vec<String> = lines.collect();
            assert!(drain.wait().unwrap().success());
            assert!((Duration::from_millis(700)..Duration::from_secs(8)).contains(&ended.elapsed()), "{:?}", ended.elapsed());
            assert!(said.iter().any(|line| line.contains("1 transfer runs")), "{said:?}");
            assert!(said.last().unwrap().contains("nothing runs on"), "{said:?}");
        }
        let undrained = director.command("undrain t1");
        assert!(undrained.status.success() && String::from_utf8_lossy(&undrained.stdout).contains("0.0 % of new flows, then 50.0 %"));
        let shown = director.command("backends --pool names");
        assert!(String::from_utf8_lossy(&shown.stdout).contains("drained"), "{shown:?}");
        let set = director.command("set backend t2 --weight 300");
        assert!(String::from_utf8_lossy(&set.stdout).contains("then 75.0 %"), "{set:?}");
    });
}

#[test]
fn a_running_director_explains_and_shows_its_neighbours_and_counters() {
    in_namespaces(|mut wire| {
        let director = Director::start("af_packet", INTENT, "");
        backend_for(&mut wire, &to_vip("198.51.100.7:4000", "192.0.2.69", 20_001));
        let explained = director.command("explain 198.51.100.7:4000 192.0.2.69:20001");
        let text = String::from_utf8_lossy(&explained.stdout).into_owned();
        assert!(text.contains("backend   t1 at 10.0.1.21, named by the TID range") && text.contains("20000-20999 are"), "{text}");
        let explained = director.command("explain 198.51.100.7:4000 192.0.2.53:53/udp --json");
        let document: Value = serde_json::from_slice(&explained.stdout).unwrap();
        assert_eq!((&document["by"], &document["flow_table_consulted"]), (&json!("maglev"), &json!(true)));
        assert_eq!(director.command("explain 198.51.100.7:4000 192.0.2.99:53").status.code(), Some(1));
        let neighbours = director.get("/v1/neighbours");
        assert!(neighbours["neighbours"].as_array().unwrap().iter().all(|n| n["neighbour"] == "02:00:00:00:01:01"), "{neighbours:#}");
        let deadline = Instant::now() + TIMEOUT;
        while director.get("/v1/counters")["counters"]["by_tid_range"].as_u64() < Some(1) {
            assert!(Instant::now() < deadline, "{:#}", director.get("/v1/counters"));
        }
        assert!(matches!(director.client(), Client::Socket(_)));
    });
}

#[test]
fn a_change_that_leaves_nothing_to_serve_asks_first_and_a_failed_one_prints_no_plan() {
    in_namespaces(|mut wire| {
        let director = Director::start("af_packet", INTENT, "");
        let before = director.state();
        for (method, path, body, left) in [
            ("PUT", "/v1/intent", Some(json!({})), "no VIP is left; no pool is left"),
            ("PUT", "/v1/intent", Some(json!({"vip": [], "pool": []})), "no VIP is left"),
        ] {
            let (status, refusal) = director.expect_error(method, path, body.clone());
            assert!(status == 409 && refusal["error"].as_str().unwrap().contains(left), "{refusal:#}");
            assert!(refusal["error"].as_str().unwrap().contains("confirm=true"), "{refusal:#}");
            let plan = director.change(method, &format!("{path}?dry_run=true"), body);
            assert!(plan["needs_confirmation"][0].as_str().unwrap().contains("no VIP is left"), "{plan:#}");
        }
        assert_eq!(director.state(), before);

        director.change("DELETE", &format!("{BOOT}/t1"), None);
        for request in [("DELETE", format!("{BOOT}/t2")), ("POST", format!("{BOOT}/t2/drain"))] {
            let (status, refusal) = director.expect_error(request.0, &request.1, None);
            assert!(status == 409 && refusal["error"].as_str().unwrap().contains("pool boot is left without a backend"), "{refusal:#}");
        }
        let refused = director.command("set backend t2 --weight 0");
        assert_eq!((refused.status.code(), refused.stdout.as_slice()), (Some(1), &b""[..]), "only the error is printed");
        assert!(String::from_utf8_lossy(&refused.stderr).contains("--yes"), "{refused:?}");
        let dry = director.command("drain t2 --dry-run");
        assert!(dry.status.success() && String::from_utf8_lossy(&dry.stdout).contains("needs --yes: pool boot"), "{dry:?}");
        assert_eq!(backend_for(&mut wire, &to_vip("198.51.100.7:4000", "192.0.2.69", 69)), 22);
        let done = director.command("set backend t2 --remove --yes");
        assert!(done.status.success() && String::from_utf8_lossy(&done.stdout).contains("done: generation"), "{done:?}");
        director.change("PUT", "/v1/intent?confirm=true", Some(json!({})));
        assert_eq!(director.get("/v1/status")["vips"], json!([]));
    });
}

#[test]
fn a_reload_by_command_waits_and_says_what_is_wrong() {
    in_namespaces(|_wire| {
        let director = Director::start("af_packet", INTENT, "metrics = \"127.0.0.1:9101\"");
        let file = director.directory.path().join("d1.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        let metric = |name: &str| {
            let mut stream = std::net::TcpStream::connect("127.0.0.1:9101").unwrap();
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            let line = answer.lines().find(|line| line.starts_with(&format!("guideway_director_{name} "))).unwrap().to_owned();
            line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
        };
        assert_eq!(metric("last_reload_successful"), 1.0);
        let started = metric("last_reload_timestamp_seconds");
        assert!(started > 1e9);
        std::fs::write(&file, text.replace("tid_range = \"20000-20999\"", "weight = 2000").replace("\"udp\"", "\"upd\"")).unwrap();
        let refused = director.command("reload");
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!((refused.status.code(), refused.stdout.as_slice()), (Some(1), &b""[..]));
        assert!(said.contains("weight = 2000") && said.contains("upd"), "every error: {said}");
        let deadline = Instant::now() + TIMEOUT;
        while metric("last_reload_successful") != 0.0 {
            assert!(Instant::now() < deadline);
        }
        assert!(director.get("/v1/status")["reload"]["last_error"].is_string());
        std::fs::write(&file, text.replace("tid_range = \"20000-20999\"", "tid_range = \"20000-20999\", weight = 50")).unwrap();
        let reloaded = director.command("reload");
        assert!(
            reloaded.status.success() && String::from_utf8_lossy(&reloaded.stdout).starts_with("reloaded: generation "),
            "{reloaded:?}"
        );
        assert_eq!(director.get(&format!("{BOOT}/t1"))["weight"], 50, "it is in force when the command returns");
    });
}

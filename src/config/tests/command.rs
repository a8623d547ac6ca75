//! `guideway check`.

use super::*;
use serde_json::Value;
use std::path::Path;

fn file(text: &[u8]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

fn check(path: &Path, json: bool) -> (u8, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = check_command(path, json, &mut out, &mut err);
    (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

#[test]
fn a_good_file_gives_a_summary_and_its_warnings() {
    let file = file(SAMPLE.as_bytes());
    let name = file.path().display();
    let (code, out, err) = check(file.path(), false);
    assert_eq!((code, err.as_str()), (0, ""));
    let expected = format!(
        "director d1
  address   10.0.1.11
  io        pcap, 02:00:00:00:01:11, MTU 1500
  routers   10.0.0.0/24
  key       id 07bce9e1853b342f
  socket    /run/guideway/d1.sock
  static    1 neighbour

VIP         service  pool  idle
192.0.2.69  tftp     boot  1m
192.0.2.53  udp 53   dns   1m

pool  table  backends        TID ranges
boot  65537  3 (t1, t2, t3)  within 20000-22999
dns   65537  2 (n1, n2)      none

{name}:18: warning: pool.boot.backends: 2 of these"
    );
    assert!(out.starts_with(&expected), "{out}");
    assert!(out.ends_with(&format!("{name}: good, 2 warnings\n")), "{out}");
}

#[test]
fn a_bad_file_gives_every_error_with_file_and_line() {
    let file = file(SAMPLE.replace("20000-20999", "20000-21000").replace("\"dns\"\n\n[[pool]]", "\"dsn\"\n\n[[pool]]").as_bytes());
    let name = file.path().display();
    let (code, out, err) = check(file.path(), false);
    assert_eq!((code, out.as_str()), (2, ""));
    let lines: Vec<&str> = err.lines().collect();
    assert_eq!(lines[0], format!("{name}:16: vip[1].pool = \"dsn\": is not a pool of this file; did you mean \"dns\"?"));
    assert!(lines[1].starts_with(&format!("{name}:22: pool.boot.backends.t2.tid_range = \"21000-21999\": overlaps")), "{err}");
    assert!(lines.last().unwrap().starts_with(&format!("{name}: 2 errors, ")), "{err}");
}

#[test]
fn a_json_document() {
    let good = file(SAMPLE.as_bytes());
    let (code, out, err) = check(good.path(), true);
    let document: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, err.as_str(), &document["ok"]), (0, "", &Value::Bool(true)));
    assert_eq!((document["errors"].as_array().unwrap().len(), document["warnings"].as_array().unwrap().len()), (0, 2));

    let bad = file(SAMPLE.replace("weight = 200", "weight = 2000").as_bytes());
    let (code, out, err) = check(bad.path(), true);
    let document: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, err.as_str(), &document["ok"]), (2, "", &Value::Bool(false)));
    assert_eq!(
        document["errors"][0],
        serde_json::json!({
            "severity": "error", "line": 22, "column": 77, "key": "pool[0].backends[1].weight", "path": "pool.boot.backends.t2.weight",
            "value": "2000", "message": "is out of range; allowed: a weight, 0 to 1000",
        })
    );
}

#[test]
fn a_file_that_cannot_be_read() {
    let missing = Path::new("/nonexistent/guideway.toml");
    let (code, out, err) = check(missing, false);
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(err.starts_with("cannot read /nonexistent/guideway.toml: No such file"), "{err}");
    let (code, out, err) = check(missing, true);
    let document: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, err.as_str(), &document["ok"]), (2, "", &Value::Bool(false)));
    assert!(document["errors"][0]["message"].as_str().unwrap().starts_with("cannot read"));

    let latin = file(b"[director]\nname = \"d\xe4\"\n");
    assert_eq!(
        check(latin.path(), false).2.lines().next().unwrap(),
        format!("{}:2: this is not UTF-8, which TOML requires", latin.path().display())
    );
}

#[test]
fn a_file_that_is_far_too_large() {
    let large = file(b"");
    large.as_file().set_len((64 << 20) + 1).unwrap();
    let message = format!("{} is larger than 64 MiB, the limit for a configuration file\n", large.path().display());
    assert_eq!(check(large.path(), false), (2, String::new(), message));
}

#[test]
fn a_summary_of_many_pools_fits_on_one_screen() {
    let pools: String = (0..100).map(|i| POOL.replace("boot", &format!("p{i}")).replace("10.0.2.21", &format!("10.0.3.{i}"))).collect();
    let vips: String = (0..100).map(|i| VIP.replace("boot", &format!("p{i}")).replace("192.0.2.69", &format!("192.0.2.{i}"))).collect();
    let (code, out, _) = check(file(with_rest(&format!("{vips}{pools}")).as_bytes()).path(), false);
    assert_eq!((code, out.matches("and 84 more").count()), (0, 2));
    assert!(out.lines().count() <= 50, "{out}");
}

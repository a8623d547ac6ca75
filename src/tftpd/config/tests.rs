//! The exact messages of the checker, and the effect of rules.

use super::*;
use guideway_config::Severity;
use guideway_tftp::Handler as _;
use guideway_tftp::handler::{Opened, Refusal};
use guideway_tftp::handlers::testing::{ask_from, read_all, request, runtime};
use proptest::prelude::*;
use std::time::Duration;

/// The sample file for users.
const SAMPLE: &str = include_str!("sample.toml");
/// The shortest valid file.
const FILES: &str = "[[handler]]\nname = \"files\"\nkind = \"directory\"\nroot = \"/srv/tftp\"\n";

fn messages(text: &str, severity: Severity) -> Vec<String> {
    let checked = read(text);
    assert_eq!(checked.config.is_some(), checked.errors().next().is_none(), "{:#?}", checked.problems);
    checked.problems.iter().filter(|p| p.severity == severity).map(ToString::to_string).collect()
}

#[track_caller]
fn errors(text: &str, expected: &[&str]) {
    let messages = messages(text, Severity::Error);
    for (message, expected) in messages.iter().zip(expected) {
        assert_eq!(message, expected);
    }
    assert_eq!(messages.len(), expected.len(), "{messages:#?}");
}

fn good(text: &str) -> Config {
    errors(text, &[]);
    read(text).config.unwrap().0
}

#[test]
fn the_sample_is_read_as_documented() {
    let config = good(SAMPLE);
    assert_eq!(messages(SAMPLE, Severity::Warning), [""; 0]);
    let limits = config.limits.unwrap();
    assert_eq!((limits.rate, limits.burst, limits.concurrent, limits.prefix6), (Some(50), 100, Some(20), 64));
    let names: Vec<_> = config.handlers.iter().map(|handler| handler.name.as_str()).collect();
    assert_eq!(names, ["files", "images", "pxelinux", "logic"]);
    let Kind::Http(images) = &config.handlers[1].kind else { panic!("{:?}", config.handlers[1]) };
    assert_eq!((images.url.to_string().as_str(), images.cache_size), ("http://10.0.0.5:8080/images/", 20 << 30));
    assert_eq!((images.max_age, images.negative_ttl, images.stale_if_error), (Duration::from_secs(30), Duration::from_secs(5), true));
    let Kind::Template(pxelinux) = &config.handlers[2].kind else { panic!("{:?}", config.handlers[2]) };
    assert_eq!(pxelinux.inventory.as_ref().map(|machines| (machines.from.as_str(), machines.optional)), Some(("mac", false)));
    let Kind::Exec { settings, files } = &config.handlers[3].kind else { panic!("{:?}", config.handlers[3]) };
    assert_eq!((settings.arguments.len(), files.as_deref()), (2, Some("images")));
    let actions: Vec<_> = config.rules.iter().map(|rule| rule.action.clone()).collect();
    let serve = |names: &[&str]| Action::Serve(names.iter().map(|name| (*name).to_owned()).collect());
    assert_eq!(actions, [Action::FallThrough, Action::Deny, serve(&["logic"]), serve(&["pxelinux", "files", "images"])]);
}

#[test]
fn every_error_of_a_file_is_reported_at_once() {
    let text = r#"[[handler]]
name = "files"
kind = "directry"
[[handler]]
name = "files"
kind = "directory"
root = "srv/tftp"
[[handler]]
name = "h"
kind = "http"
url = "ftp://h/"
cache = "/c"
cache_size = "10 gigs"
max_age = "2d"
[[handler]]
name = "h2"
kind = "http"
url = "http://h/"
cache = "/c"
cache_size = "1KiB"
root = "/"
[[handler]]
name = "t"
kind = "template"
pattern = "(?<client>.*"
directory = "/t"
template = "../x"
inventory = { csv = "/a", json = "/b", key = "mac" }
[[handler]]
name = "t2"
kind = "template"
pattern = "(?<client>.*)"
directory = "/t"
template = "x"
inventory = { key = "mac" }
[[handler]]
name = "e"
kind = "exec"
program = []
files = "t3"
answer = "byte"
[[rule]]
file = ["/a", "[b"]
client = "10.0.0.0/33"
vip = "x"
remap = { pattern = "(", t = "" }
use = "fils"
deny = true
[[rule]]
file = "x"
[limits]
burst = 0
"#;
    errors(
        text,
        &[
            "line 3: handler.files.kind = \"directry\": is not allowed; did you mean \"directory\"? Allowed: \"directory\", \"http\", \"template\", \"exec\" or \"hook\"",
            "line 5: handler[1].name = \"files\": is also the name of the handler in line 2; a name is unique",
            "line 7: handler.files.root = \"srv/tftp\": is not an absolute path; write it like \"/srv/tftp\"",
            "line 11: handler.h.url = \"ftp://h/\": is not an http or https URL; write it like http://10.0.0.5:8080/images/",
            "line 13: handler.h.cache_size = \"10 gigs\": is not a size; write a whole number with a unit (B, KiB, MiB, GiB, TiB), such as \"10GiB\"",
            "line 14: handler.h.max_age = \"2d\": lacks a known unit; write ms, s, m or h after every number, such as \"60s\"",
            "line 19: handler.h2.cache = \"/c\": is also the cache in line 12; each handler needs its own directory",
            "line 20: handler.h2.cache_size = \"1KiB\": is out of range; allowed: 1MiB to 1024TiB",
            "line 21: handler.h2.root: unknown key. Known: name, kind, url, ca, cache, cache_size, max_age, negative_ttl, stale_if_error, timeout, redirect_hosts, forward_client, max_connections",
            "line 25: handler.t.pattern = \"(?<client>.*\": is not a valid regular expression: unclosed group",
            "line 27: handler.t.template = \"../x\": is not the name of a file in the directory; write it like \"grub.cfg.j2\"",
            "line 28: handler.t.inventory.json = \"/b\": is a second source; keep one of csv, json and url",
            "line 32: handler.t2.pattern = \"(?<client>.*)\": has a capture named \"client\", which is the name of a built-in value; choose another name",
            "line 35: handler.t2.inventory.csv: is missing: the list of machines, as csv, json or url; write csv = \"/etc/guideway/machines.csv\"",
            "line 35: handler.t2.inventory.key = \"mac\": names no capture of the pattern; write from with \"client\"",
            "line 39: handler.e.program: is empty; write a path in quotes, or a list of it and arguments, or remove the key",
            "line 40: handler.e.files = \"t3\": does not name an earlier handler of the file; did you mean \"t\"?",
            "line 41: handler.e.answer = \"byte\": is not allowed; did you mean \"bytes\"? Allowed: \"decision\" or \"bytes\"",
            "line 43: rule[0].file[0] = \"/a\": matches no name: names contain no backslash and do not start with a slash; write it like \"grub/**\"",
            "line 43: rule[0].file[1] = \"[b\": is not a valid pattern: unclosed character class; missing ']'",
            "line 44: rule[0].client = \"10.0.0.0/33\": is neither a prefix nor an address; write it like 10.0.0.0/24, 2001:db8::/64 or 10.0.0.1",
            "line 45: rule[0].vip = \"x\": is not an IP address; write it like 192.0.2.69 or 2001:db8::69",
            "line 46: rule[0].remap.to: is missing; example: to = \"new/\"",
            "line 46: rule[0].remap.pattern = \"(\": is not a valid regular expression: unclosed group",
            "line 46: rule[0].remap.t: unknown key; did you mean \"to\"? Known: pattern, to",
            "line 47: rule[0].use = \"fils\": does not name a handler of this file; did you mean \"files\"?",
            "line 48: rule[0].deny = true: contradicts use; keep one of the two",
            "line 49: rule[1]: does nothing; write use = \"…\" with the name of a handler, deny = true, or remap = { pattern = \"…\", to = \"…\" }",
            "line 51: limits.rate: is missing; write rate, concurrent, or both",
            "line 52: limits.burst = 0: is out of range; allowed: requests at once, 1 to 1000000",
        ],
    );
    errors("", &["line 1: handler: is missing: nothing is served; write [[handler]] with name = \"files\", kind = \"directory\""]);
}

#[test]
fn unused_handlers_and_unreachable_rules_are_warned_about() {
    let handler = |name| format!("[[handler]]\nname = \"{name}\"\nkind = \"directory\"\nroot = \"/\"\n");
    let text = format!("{}{}[[rule]]\nuse = \"a\"\n[[rule]]\nfile = \"x\"\ndeny = true\n", handler("a"), handler("b"));
    assert_eq!(
        messages(&text, Severity::Warning),
        [
            "line 6: warning: handler[1].name = \"b\": is not used by any rule, so this handler serves nothing",
            "line 11: warning: rule[1]: is never reached: the rule in line 9 has no condition and matches every request"
        ]
    );
}

#[test]
fn the_server_section_has_every_setting_of_the_flags() {
    let all = r#"[server]
name = "t1"
socket = "/run/guideway/other.sock"
metrics = "127.0.0.1:9069"
listen = ["127.0.0.1:6969", "[::1]:6969"]
gre = "10.0.2.21"
vip = ["192.0.2.69", "2001:db8::69"]
tid_port = 20001
loops = 2
nice = 3
user = "nobody"
writable = "/srv/backups"
writable_limit = "4MiB"
writable_files = 200
writable_total = "1GiB"
max_blksize = 1428
fragments = true
max_window = 16
max_window_bytes = "64KiB"
rollover = 1
max_transfers = 10
max_per_client = 5
timeout = "1s"
timeout_min = "100ms"
timeout_max = "8s"
retries = 3
give_up_after = "30s"
open_timeout = "5s"
"#;
    errors(&format!("{all}{FILES}"), &[]);
    let server = read(&format!("{all}{FILES}")).config.unwrap().1.unwrap();
    let engine = server.engine().unwrap();
    assert_eq!((server.name(), server.user.as_deref(), server.metrics), ("t1", Some("nobody"), Some("127.0.0.1:9069".parse().unwrap())));
    assert_eq!((engine.listen.len(), engine.tid, engine.loops, engine.nice), (2, guideway_tftp::engine::Tid::Port(20001), 2, 3));
    let tunnel = engine.tunnel.unwrap();
    assert_eq!((tunnel.locals.len(), tunnel.vips.len(), tunnel.port), (1, 2, 69));
    let (backups, settings) = server.writable().unwrap().unwrap();
    assert_eq!((backups.to_str(), settings.limit, settings.files, settings.total), (Some("/srv/backups"), 4 << 20, 200, Some(1 << 30)));
    let limits = engine.limits;
    assert_eq!((limits.blksize, limits.blksize_by_mtu, limits.window, limits.window_bytes), (1428, false, 16, 65536));
    assert_eq!((limits.rollover, engine.max_transfers, engine.max_per_client), (rollover(1), 10, 5));
    let retransmission = engine.retransmission;
    assert_eq!(
        [retransmission.initial_rto, retransmission.min_rto, retransmission.max_rto, retransmission.min_give_up, engine.open_timeout]
            .map(|d| d.as_millis()),
        [1000, 100, 8000, 30_000, 5000]
    );
    assert_eq!(retransmission.retries, 3);
    let flags = Server { listen: Some(vec!["127.0.0.1:7000".parse().unwrap()]), retries: Some(9), ..Server::default() };
    let both = flags.or(server).engine().unwrap();
    assert_eq!((both.listen.len(), both.retransmission.retries, both.limits.window), (1, 9, 16), "a flag takes precedence over the file");
}

#[test]
fn a_server_without_settings_has_the_defaults() {
    let (usual, default) = (Server::default().engine().unwrap(), guideway_tftp::engine::Config::default());
    assert_eq!(usual.listen, ["[::]:69".parse().unwrap()]);
    assert_eq!(
        (usual.limits, usual.retransmission, usual.max_transfers, usual.loops),
        (default.limits, default.retransmission, default.max_transfers, default.loops)
    );
    assert_eq!(read(FILES).config.unwrap().1, None);
}

#[test]
fn errors_of_the_server_are_reported_with_the_others() {
    let text = r#"[server]
name = "a b"
metrics = "9069"
listen = "127.0.0.1"
gre = ["10.0.2.21", "10.0.2.22"]
vip = []
tid_port = 69
single_port = "yes"
loops = 65
max_blksize = 65465
max_window_bytes = 65536
timeout = "1h"
retrys = 3
writable = "backups"
writable_limit = "2TiB"
writable_files = 0
"#;
    errors(
        &format!("{text}{FILES}"),
        &[
            "line 2: server.name = \"a b\": is not a valid name; a name has 1 to 63 characters of a-z, A-Z, 0-9, '-', '_' and '.'",
            "line 3: server.metrics = \"9069\": is not an address with a port; write it like \"127.0.0.1:9069\" or \"[::1]:9069\"",
            "line 4: server.listen = \"127.0.0.1\": has no port; write it like \"127.0.0.1:9069\"",
            "line 5: server.gre: has several addresses of one family; at most one IPv4 and one IPv6 address are allowed",
            "line 6: server.vip: is empty; write addresses in quotes, or remove the key",
            "line 7: server.tid_port = 69: is out of range; allowed: a port, 1024 to 65535",
            "line 8: server.single_port = \"yes\": expected true or false, found a string",
            "line 9: server.loops = 65: is out of range; allowed: a number of threads, 1 to 64",
            "line 10: server.max_blksize = 65465: is out of range; allowed: bytes of a block, 8 to 65464",
            "line 11: server.max_window_bytes = 65536: expected a size in quotes, such as \"10GiB\", found an integer",
            "line 12: server.timeout = \"1h\": is out of range; allowed: 1ms to 1m",
            "line 13: server.retrys: unknown key; did you mean \"retries\"? Known: name, socket, metrics, listen, http, http_connections, http_per_client, gre, vip, \
             tid_port, single_port, loops, nice, user, writable, writable_limit, writable_files, writable_total, max_blksize, fragments, max_window, max_window_bytes, rollover, max_transfers, max_per_client, grace, \
             timeout, timeout_min, timeout_max, retries, give_up_after, open_timeout",
            "line 14: server.writable = \"backups\": is not an absolute path; write it like \"/srv/tftp\"",
            "line 15: server.writable_limit = \"2TiB\": is out of range; allowed: 1B to 1TiB",
            "line 16: server.writable_files = 0: is out of range; allowed: a number of files, 1 to 10000000",
        ],
    );
    errors(
        &format!("[server]\ntid_port = 2000\nsingle_port = true\n{FILES}"),
        &["line 2: server.tid_port = 2000: contradicts single_port = true; keep one of the two"],
    );
    errors(
        &format!("[server]\nwritable_limit = \"1MiB\"\n{FILES}"),
        &[
            "line 2: server.writable_limit = \"1MiB\": requires writable: the directory that clients may write to; write writable = \"/srv/backups\"",
        ],
    );
    errors(
        &format!("[server]\ngre = \"10.0.2.21\"\n{FILES}"),
        &["line 2: server.gre = \"10.0.2.21\": requires vip: the addresses that clients send to; write vip = \"192.0.2.69\""],
    );
    let wrong = Server { timeout_min: Some(Duration::from_secs(7)), ..Server::default() };
    assert_eq!(wrong.engine().unwrap_err(), "timeout_min = 7s is longer than timeout_max = 6s");
}

/// A directory with two trees, and a handler with `rules` over them.
struct Fixture {
    _directory: tempfile::TempDir,
    handler: guideway_tftp::handler::SharedHandler,
}

fn fixture(rules: &str) -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let mut text = String::new();
    for (tree, files) in [("one", &["a", "both", "sub/a.key", "secret"][..]), ("two", &["b", "both"])] {
        for file in files {
            let path = directory.path().join(tree).join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, format!("{tree}/{file}")).unwrap();
        }
        text += &format!("[[handler]]\nname = \"{tree}\"\nkind = \"directory\"\nroot = \"{}\"\n", directory.path().join(tree).display());
    }
    let handler = good(&(text + rules)).build(None, &[]).unwrap().handler;
    Fixture { _directory: directory, handler }
}

impl Fixture {
    fn opened(&self, client: &str, file: &str) -> Opened {
        ask_from(&self.handler, client, file.as_bytes())
    }

    fn get(&self, file: &str) -> Result<String, Refusal> {
        self.opened("10.0.0.7:1", file).map(|content| String::from_utf8(read_all(&content).unwrap()).unwrap())
    }
}

#[test]
fn without_rules_all_handlers_are_tried_in_order() {
    let w = fixture("");
    assert_eq!(["a", "b", "both"].map(|file| w.get(file).unwrap()), ["one/a", "two/b", "one/both"]);
    assert_eq!(w.get("none"), Err(Refusal::not_found()));
}

#[test]
fn the_first_rule_with_a_decision_wins() {
    let w = fixture(
        r#"
        [[rule]]
        file = ["**/*.KEY", "secret"]
        ignore_case = true
        deny = true
        [[rule]]
        client = "10.1.0.0/16"
        use = "two"
        [[rule]]
        file = "old/**"
        remap = [{ pattern = '^old/(?<rest>.*)$', to = '\L$rest' }, { pattern = "^x", to = "b" }]
        [[rule]]
        file = "both"
        vip = ["192.0.2.69", "2001:db8::69"]
        use = ["two", "one"]
        [[rule]]
        file = "*"
        use = ["one", "two"]
        "#,
    );
    assert_eq!(w.get("sub/a.key"), Err(Refusal::access()));
    assert_eq!(w.get("\\.\\SUB//A.key"), Err(Refusal::access()));
    for spelled in ["secret", "/secret", "SECRET", "\\secret", "./secret", "old/../secret", "secret/"] {
        assert_eq!(w.get(spelled), Err(Refusal::access()), "{spelled}");
    }
    assert_eq!(w.get("old/secret"), Ok("one/secret".into()), "rules after a remap see the new name; those before it were already tried");
    assert_eq!((w.get("old/X"), w.get("old/a")), (Ok("two/b".into()), Ok("one/a".into())));
    assert_eq!((w.get("both"), w.get("a"), w.get("b")), (Ok("two/both".into()), Ok("one/a".into()), Ok("two/b".into())));
    let mut elsewhere = request("10.0.0.7:1".parse().unwrap(), b"both");
    elsewhere.vip = "192.0.2.70".parse().unwrap();
    assert_eq!(read_all(&runtime().block_on(w.handler.open(elsewhere)).unwrap()).unwrap(), b"one/both");
    assert_eq!(w.opened("10.1.0.7:1", "a").err(), Some(Refusal::not_found()));
    assert!(w.opened("[::ffff:10.1.0.7]:1", "b").is_ok(), "as a socket for both families sees it");
    assert_eq!(w.get("sub/x"), Err(Refusal::not_found()), "a star does not cross a slash, and no other rule matches");
}

#[test]
fn limits_apply_first_and_send_no_answer() {
    let w = fixture("[limits]\nrate = 1\nburst = 3\n");
    let refused = (0..10).filter(|_| w.get("a") == Err(Refusal::silent())).count();
    assert!((6..=7).contains(&refused), "{refused}");
    assert!(w.opened("10.0.0.8:1", "a").is_ok());
}

#[test]
fn the_error_names_a_handler_that_cannot_be_created() {
    let text = "[[handler]]\nname = \"files\"\nkind = \"directory\"\nroot = \"/does/not/exist\"\n";
    let error = good(text).build(None, &[]).err().unwrap();
    assert!(error.to_string().starts_with("cannot create the handler \"files\": /does/not/exist: "), "{error}");
}

proptest! {
    #[test]
    fn any_toml_like_text_is_read_or_refused(text in "([a-z]{1,8}|\\[\\[?(handler|rule|limits|server)\\]\\]?|kind = \"(http|exec|template)\"|[=\\[\\]{}\",.\n #0-9'-]){0,60}") {
        messages(&text, Severity::Error);
    }

    #[test]
    fn a_damaged_sample_is_read_or_refused(at in any::<prop::sample::Index>(), cut in 0..40usize, put in "[\\[\\]{}=\"\n,0-9a-z]{0,6}") {
        let mut text: Vec<char> = SAMPLE.chars().collect();
        let start = at.index(text.len() + 1);
        let end = (start + cut).min(text.len());
        text.splice(start..end, put.chars());
        messages(&text.into_iter().collect::<String>(), Severity::Error);
    }
}

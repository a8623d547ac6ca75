//! Templates with inventories, valid and broken.

use super::*;
use crate::handlers::testing::{ask, ask_from, in_namespace, read_all};
use crate::handlers::testing_origin::{Origin, Page};
use std::fs;

const PXELINUX: &str = r"^pxelinux\.cfg/01-(?<mac>[0-9a-fA-F]{2}(?:-[0-9a-fA-F]{2}){5})$";

struct Fixture {
    directory: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Fixture {
        Fixture { directory: tempfile::tempdir().unwrap() }
    }

    /// Replaces a file atomically, as an operator should.
    fn put(&self, name: &str, text: &str) {
        let new = self.directory.path().join("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, self.directory.path().join(name)).unwrap();
    }

    fn settings(&self, pattern: &str, inventory: Option<Source>) -> Settings {
        let machines = |source| Machines {
            source,
            key: "mac".into(),
            from: "mac".into(),
            optional: false,
            timeout: Duration::from_secs(60),
            concurrency: 4,
        };
        Settings {
            pattern: Regex::new(pattern).unwrap(),
            directory: self.directory.path().into(),
            template: "boot.j2".into(),
            inventory: inventory.map(machines),
        }
    }

    fn csv(&self) -> Source {
        Source::Csv(self.directory.path().join("machines.csv"))
    }

    fn handler(&self, settings: Settings) -> Template {
        Template::new(settings).unwrap()
    }
}

fn rendered(handler: &Template, file: &str) -> Result<String, String> {
    let content = ask(handler, file.as_bytes()).map_err(|refusal| refusal.text.into_owned())?;
    Ok(String::from_utf8(read_all(&content).unwrap()).unwrap())
}

#[test]
fn ten_thousand_machines_each_get_their_own_file() {
    let w = Fixture::new();
    let mac =
        |n: u32, separator: &str| format!("02{separator}00{separator}00{separator}00{separator}{:02x}{separator}{:02x}", n >> 8, n & 255);
    let rows: String = (0..10_000).map(|n| format!("{},host{n}\n", mac(n, ":").to_uppercase())).collect();
    w.put("machines.csv", &format!("mac,name\n{rows}"));
    w.put("boot.j2", "hostname={{ machine.name }} mac={{ mac }} to={{ client }}\n");
    let handler = w.handler(w.settings(PXELINUX, Some(w.csv())));
    for n in 0..10_000 {
        let text = rendered(&handler, &format!("pxelinux.cfg/01-{}", mac(n, "-")));
        assert_eq!(text, Ok(format!("hostname=host{n} mac={} to=10.0.0.7\n", mac(n, ":"))));
    }
    let unlisted = rendered(&handler, "pxelinux.cfg/01-ff-00-00-00-00-00");
    assert_eq!((unlisted, rendered(&handler, "other")), (Err("file not found".into()), Err("file not found".into())));
}

#[test]
fn the_same_request_gets_the_same_bytes_whatever_its_port() {
    let w = Fixture::new();
    w.put("boot.j2", "{% include 'part.j2' %}<{{ client }}> & {{ n }}");
    w.put("part.j2", "{{ vip }} {{ file }}\n");
    let (one, two) = (w.handler(w.settings("^(?<n>.)$", None)), w.handler(w.settings("^(?<n>.)$", None)));
    let probe = ask_from(&one, "10.0.0.7:1000", b"/a").unwrap();
    let again = ask_from(&two, "10.0.0.7:2000", b"a").unwrap();
    assert_eq!(read_all(&probe).unwrap(), b"192.0.2.69 a\n<10.0.0.7> & a");
    assert_eq!((probe.size(), probe.version()), (again.size(), again.version()));
    let other = ask_from(&one, "10.0.0.8:1000", b"a").unwrap();
    assert_ne!(probe.version(), other.version());
}

#[test]
fn a_broken_template_is_an_error_that_says_where_and_a_good_one_is_taken_at_once() {
    let w = Fixture::new();
    let handler = w.handler(w.settings("^(?<x>.*)$", None));
    assert_eq!(rendered(&handler, "f"), Err("template boot.j2: template not found".into()));
    w.put("boot.j2", "one\n{{ y }}");
    assert_eq!(rendered(&handler, "f"), Err("template boot.j2, line 2: undefined value".into()));
    w.put("boot.j2", "{% if %}");
    assert_eq!(rendered(&handler, "f"), Err("template boot.j2, line 1: syntax error".into()));
    w.put("boot.j2", "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}");
    assert!(rendered(&handler, "f").is_err_and(|e| e.contains("fuel")), "a template without end");
    w.put("boot.j2", "{% include x %}");
    w.put("part.j2", "1");
    assert_eq!(rendered(&handler, "part.j2"), Ok("1".into()));
    w.put("part.j2", "2");
    assert_eq!(rendered(&handler, "part.j2"), Ok("2".into()), "an included file is watched, too");
    assert_eq!(rendered(&handler, "x/../../etc/passwd"), Err("access denied".into()));
    w.put("boot.j2", "{% include '../' ~ x %}");
    assert_eq!(rendered(&handler, "part.j2"), Err("template boot.j2, line 1: template not found".into()), "no way up");
    w.put("boot.j2", "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}");
    assert!(rendered(&handler, "f").is_err(), "a macro that calls itself");
}

#[test]
fn a_broken_inventory_keeps_the_old_one() {
    let w = Fixture::new();
    w.put("boot.j2", "{{ machine.name }}");
    let handler = w.handler(w.settings(PXELINUX, Some(w.csv())));
    let one = || rendered(&handler, "pxelinux.cfg/01-02-00-00-00-00-01");
    let broken = Err("the server's inventory cannot be used".into());
    assert_eq!(one(), broken);
    w.put("machines.csv", "mac,name\n02:00:00:00:00:01");
    assert_eq!(one(), broken);
    w.put("machines.csv", "mac,name\n02:00:00:00:00:01,a");
    assert_eq!(one(), Ok("a".into()));
    w.put("machines.csv", "mac;name\n02:00:00:00:00:01;b");
    assert_eq!(one(), Ok("a".into()));
    w.put("machines.csv", "mac,name\n02:00:00:00:00:01,c");
    assert_eq!(one(), Ok("c".into()));
}

#[test]
fn a_machine_may_be_named_by_its_address_and_need_not_be_listed() {
    let w = Fixture::new();
    w.put("boot.j2", "{% if machine is defined %}{{ machine.role }}{% else %}default{% endif %}");
    w.put("machines.json", r#"{"10.0.0.7": {"role": "web"}}"#);
    let mut settings = w.settings("^grub.cfg$", Some(Source::Json(w.directory.path().join("machines.json"))));
    settings.inventory.iter_mut().for_each(|machines| (machines.from, machines.optional) = ("client".into(), true));
    let handler = w.handler(settings);
    let role = |client| read_all(&ask_from(&handler, client, b"grub.cfg").unwrap()).unwrap();
    assert_eq!(role("10.0.0.7:1"), b"web");
    assert_eq!(role("[::ffff:10.0.0.7]:1"), b"web", "as a socket for both families sees it");
    assert_eq!(role("10.0.0.8:1"), b"default");
}

#[test]
fn a_service_knows_the_machines() {
    in_namespace(|| {
        let (w, origin) = (Fixture::new(), Origin::start());
        w.put("boot.j2", "{{ machine.name }}");
        let source = Source::Http { url: origin.url().parse().unwrap(), ca: None };
        let handler = w.handler(w.settings("^(?<mac>.*)$", Some(source)));
        let path = "/02%3A00%3A00%3A00%3A00%3A01";
        let put = |text: &str| origin.put(path, Page { bytes: Arc::new(text.into()), ..Page::default() });
        put(r#"{"name": "one"}"#);
        assert_eq!(rendered(&handler, "020000000001"), Ok("one".into()));
        assert_eq!(rendered(&handler, "other/machine"), Err("file not found".into()));
        assert_eq!(origin.log(), [path, "/other%2Fmachine"]);
        for wrong in ["[]", "{", ""] {
            put(wrong);
            assert_eq!(rendered(&handler, "020000000001"), Err("the server's inventory cannot be asked".into()));
        }
        origin.cut(true);
        assert_eq!(rendered(&handler, "020000000001"), Err("the server's inventory cannot be asked".into()));
    });
}

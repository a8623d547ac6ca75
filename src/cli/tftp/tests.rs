use super::*;
use crate::{BAD_USAGE, DONE, FAILED};
use clap::Parser;
use guideway_testbed::servers::Server;
use guideway_testbed::site::{Site, V4, may_run};
use std::path::Path;

#[derive(Parser)]
struct Program {
    #[command(flatten)]
    args: Args,
}

fn parse(arguments: &[&str]) -> Result<Args, clap::Error> {
    Program::try_parse_from([&["tftp"], arguments].concat()).map(|program| program.args)
}

fn runs(site: &Site, arguments: &[&str]) -> u8 {
    let args = parse(arguments).unwrap();
    site.within(|| run(&args))
}

fn hex(sum: [u8; 32]) -> String {
    options::hex(&sum)
}

fn entries(directory: &Path) -> usize {
    directory.read_dir().unwrap().count()
}

#[test]
fn a_file_is_fetched_whole_and_verified_or_not_at_all() {
    if !may_run("dnsmasq", "dnsmasq-base") {
        return;
    }
    let site = Site::new(Server::Dnsmasq, V4);
    let sum = hex(site.file("boot/f", 100_000));
    let directory = tempfile::tempdir().unwrap();
    let to = directory.path().join("f");
    let to_text = to.to_str().unwrap();
    let url = format!("tftp://{V4}/boot/f");
    let wrong = "0".repeat(64);

    assert_eq!(runs(&site, &["get", &url, "-o", to_text, "--sha256", &wrong, "--quiet"]), FAILED);
    assert_eq!(runs(&site, &["get", &format!("{V4}:nothing"), "-o", to_text]), FAILED);
    assert_eq!(entries(directory.path()), 0, "a failed transfer leaves no file");

    assert_eq!(runs(&site, &["get", &url, "-o", to_text, "--sha256", &sum, "--json", "--bind", "127.0.0.1"]), DONE);
    assert_eq!(std::fs::read(&to).unwrap(), std::fs::read(site.path("boot/f")).unwrap());
    std::fs::write(&to, "mine").unwrap();
    assert_eq!(runs(&site, &["get", &url, "-o", to_text, "--quiet"]), FAILED);
    assert_eq!(std::fs::read(&to).unwrap(), b"mine");
    for flags in [&["--no-options"][..], &["--no-tsize", "--blksize", "8"], &["--timeout", "2", "--windowsize", "1"]] {
        assert_eq!(runs(&site, &[&["get", &url, "-o", to_text, "--quiet", "--force", "--sha256", &sum], flags].concat()), DONE);
    }
    assert_eq!(entries(directory.path()), 1);
}

#[test]
fn a_file_is_sent() {
    if !may_run("in.tftpd", "tftpd-hpa") {
        return;
    }
    let site = Site::writable();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("switch.cfg");
    std::fs::write(&file, vec![7; 10_000]).unwrap();
    let (path, to) = (file.to_str().unwrap(), format!("{V4}:"));
    assert_eq!(runs(&site, &["put", path, &to, "--quiet", "--retries", "30"]), DONE);
    assert_eq!(std::fs::read(site.path("switch.cfg")).unwrap(), vec![7; 10_000]);
    let wrong = "0".repeat(64);
    assert_eq!(runs(&site, &["put", path, &format!("{V4}:other"), "--sha256", &wrong]), FAILED);
    assert!(!site.path("other").exists());
    assert_eq!(runs(&site, &["put", directory.path().to_str().unwrap(), &format!("{V4}:d")]), FAILED, "a directory");
}

#[test]
fn the_exit_code_of_a_swarm_is_its_result() {
    if !may_run("dnsmasq", "dnsmasq-base") {
        return;
    }
    let site = Site::new(Server::Dnsmasq, V4);
    let sum = hex(site.file("f", 5000));
    let list = site.directory.path().join("sums");
    std::fs::write(&list, format!("{sum}  f\n")).unwrap();
    let (server, list) = (V4.to_string(), list.to_str().unwrap());
    let swarm = |more: &[&str]| runs(&site, &[&["swarm", &server, "--clients", "20", "--transfers", "100"], more].concat());
    assert_eq!(swarm(&["--files", "f", "--sha256", list, "--json"]), DONE);
    assert_eq!(swarm(&["--files", "f,g", "--mix", "curl=2,uefi"]), FAILED);
    assert_eq!(swarm(&["--files", "f,g", "--sha256", list]), BAD_USAGE, "the list has no g");
}

#[test]
fn bad_usage_gives_its_exit_code() {
    for bad in [
        &["get", "no target"][..],
        &["get", "a:b", "--blksize", "7"],
        &["get", "a:b", "--sha256", "12"],
        &["get", "a:b", "--mode", "mail"],
        &["get", "a:b", "-4", "-6"],
        &["get", "a:b", "--no-options", "--timeout", "3"],
        &["get", "a:b", "--no-options", "--blksize", "1428"],
        &["put", "f", "nowhere"],
        &["swarm", "a", "--files", "f", "--loss", "200%"],
        &["swarm", "a", "--files", "f", "--mix", "lynx"],
        &["swarm", "a", "--files", "f", "--time", "0s"],
        &["swarm", "a"],
    ] {
        assert!(parse(bad).is_err(), "{bad:?}");
    }
    for bad in [
        &["get", "127.0.0.1:f", "-o", "-", "--json"][..],
        &["get", "127.0.0.1:"],
        &["get", "127.0.0.1:f", "-6"],
        &["put", "-", "127.0.0.1:"],
        &["swarm", "192.0.2.1", "--files", "f", "--transfers", "10001"],
        &["swarm", "127.0.0.1", "--files", "f{2..1}"],
        &["swarm", "127.0.0.1", "--files", "f", "--bind", "::1"],
    ] {
        assert_eq!(run(&parse(bad).unwrap()), BAD_USAGE, "{bad:?}");
    }
}

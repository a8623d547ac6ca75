//! Tests against other TFTP servers, in a separate network namespace.

mod fixture;

use super::*;
use crate::client::exchange::{ClientSocket, dally, get, put};
use crate::client::{Failure, RequestOption, TransferPlan};
use crate::packet::Mode;
use guideway_testbed::servers::Server;
use guideway_testbed::site::{Site, V4, ip, may_run};
use sha2::{Digest, Sha256};
use std::collections::HashMap;

/// Plans a fetch of `file` from the site's server, with time-outs for a network namespace.
fn plan(site: &Site, file: &str, ask: &[RequestOption]) -> TransferPlan {
    let mut plan = TransferPlan { ask: ask.to_vec(), ..TransferPlan::new(site.server(), file) };
    plan.timing.initial = Duration::from_millis(200);
    plan
}

fn fetch(plan: TransferPlan) -> Result<(crate::client::exchange::Done, Vec<u8>), Failure> {
    let (mut wire, mut got) = (ClientSocket::open(plan.server, None, 1 << 20).unwrap(), Vec::new());
    let (done, read) = get(plan, &mut wire, &mut got, &mut |_, _| {})?;
    dally(read, &mut wire);
    Ok((done, got))
}

/// Empty, shorter, one block, exact multiples, more.
const LENGTHS: [usize; 5] = [0, 7, 1428, 14 * 1428 * 512, 3_000_001];

fn every_file_arrives(site: &Site, max_blksize: u16) {
    for length in LENGTHS {
        // A separate name for each length: dnsmasq reports the size of a file that it still has open.
        let name = format!("f{length}");
        let sum = site.file(&name, length);
        for blksize in [8, 512, 1428, 8192, 65464] {
            // Small blocks are tested with small files only.
            if length / usize::from(blksize) > 20_000 {
                continue;
            }
            let ask = [RequestOption::Tsize(0), RequestOption::Blksize(blksize), RequestOption::Windowsize(16)];
            let (done, got) = site.within(|| fetch(plan(site, &name, &ask))).unwrap();
            assert_eq!((done.sha256, done.bytes, got.len()), (sum, length as u64, length), "{length} {blksize}");
            assert_eq!(done.negotiated.tsize, Some(length as u64));
            assert!(done.negotiated.blksize <= blksize && done.negotiated.blksize >= blksize.min(max_blksize), "{:?}", done.negotiated);
        }
        let (done, _) = site.within(|| fetch(plan(site, &name, &[]))).unwrap();
        assert_eq!((done.sha256, done.negotiated.blksize), (sum, 512));
    }
    let missing = site.within(|| fetch(plan(site, "nothing", &[RequestOption::Blksize(1428)]))).unwrap_err();
    assert_eq!(missing.reason(), "error_1_file_not_found", "{missing}");
}

#[test]
fn dnsmasq_gives_every_file() {
    for server in [Server::Dnsmasq, Server::DnsmasqSinglePort] {
        if may_run("dnsmasq", "dnsmasq-base") {
            let site = Site::new(server, V4);
            every_file_arrives(&site, 1400);
        }
    }
}

#[test]
fn in_tftpd_gives_every_file() {
    if may_run("in.tftpd", "tftpd-hpa") {
        let site = Site::new(Server::InTftpd, V4);
        every_file_arrives(&site, 65464);
    }
}

#[test]
fn more_than_65535_blocks_come_from_dnsmasq() {
    if may_run("dnsmasq", "dnsmasq-base") {
        let site = Site::new(Server::Dnsmasq, V4);
        let sum = site.file("f", 70_000 * 64 + 1);
        let (done, _) = site.within(|| fetch(plan(&site, "f", &[RequestOption::Blksize(64)]))).unwrap();
        assert_eq!((done.sha256, done.negotiated.blksize), (sum, 64));
    }
}

#[test]
fn text_comes_with_line_ends_of_this_machine() {
    if may_run("dnsmasq", "dnsmasq-base") {
        let site = Site::new(Server::Dnsmasq, V4);
        let text = "a line\nand\r\none more\r".repeat(500);
        std::fs::write(site.path("f"), &text).unwrap();
        let plan = TransferPlan { mode: Mode::Netascii, ..plan(&site, "f", &[]) };
        let (done, got) = site.within(|| fetch(plan)).unwrap();
        assert!(got == text.as_bytes());
        assert_eq!(done.sha256, <digests::Sha256Sum>::from(Sha256::digest(&text)));
    }
}

#[test]
fn in_tftpd_takes_files() {
    if !may_run("in.tftpd", "tftpd-hpa") {
        return;
    }
    let site = Site::writable();
    let send = |plan: TransferPlan, mut content: &[u8]| {
        site.within(move || {
            let mut wire = ClientSocket::open(plan.server, None, 1 << 20).unwrap();
            put(plan, &mut wire, &mut content, &mut |_| {})
        })
    };
    for (number, length) in LENGTHS.into_iter().enumerate() {
        let content: Vec<u8> = (0..length).map(|at| ((at * 7) >> 3) as u8).collect();
        for (blksize, name) in [(512, format!("a{number}")), (1428, format!("b{number}"))] {
            let mut plan = plan(&site, &name, &[RequestOption::Tsize(length as u64), RequestOption::Blksize(blksize)]);
            // The daemon may not listen yet.
            plan.timing.retries = 30;
            let done = send(plan, &content).unwrap();
            assert!(std::fs::read(site.path(&name)).unwrap() == content, "{length}");
            assert_eq!((done.bytes, done.sha256), (length as u64, Sha256::digest(&content).into()));
        }
    }
    let plan = TransferPlan { mode: Mode::Netascii, ..plan(&site, "text", &[]) };
    send(plan, b"one\ntwo\n").unwrap();
    assert_eq!(std::fs::read(site.path("text")).unwrap(), b"one\ntwo\n");
}

fn settings(site: &Site, files: &[&str], transfers: u64) -> Settings {
    Settings {
        server: site.server(),
        clients: 44,
        transfers,
        files: files.iter().map(|name| (*name).to_owned()).collect(),
        mix: Mix::default(),
        faults: Rates::default(),
        bind: None,
        rate: None,
        timing: Timing::default(),
        seed: 1,
        limit: Duration::from_secs(60),
        threads: 2,
    }
}

#[test]
fn a_swarm_of_all_kinds_is_served_by_dnsmasq_over_both_families() {
    if !may_run("dnsmasq", "dnsmasq-base") {
        return;
    }
    for address in [V4, "2001:db8::69".parse().unwrap()] {
        let site = Site::new(Server::Dnsmasq, address);
        let list = HashMap::from([("a".to_owned(), site.file("a", 5000)), ("b/c".to_owned(), site.file("b/c", 1468 * 3))]);
        let settings = settings(&site, &["a", "b/c"], 400);
        let expected = Expected::new(&settings.files, &list);
        let tally = site.within(|| run(&settings, &expected, &mut || {}, &mut |_| {})).unwrap();
        let all = tally.transfers();
        assert_eq!((all.started, all.completed, all.verified, all.failed), (400, 400, 400, 0), "{}", tally.text());
        assert_eq!(tally.kinds.len(), 11, "every kind took part");
        assert!(tally.kinds.values().all(|kind| kind.verified > 0));
        assert!(tally.misses > 0 && tally.probes > 0);
        assert_eq!((tally.wire.unknown_tids, tally.first.total()), (0, 400));
    }
}

#[test]
fn a_swarm_gets_through_a_bad_network_from_many_addresses() {
    if !may_run("dnsmasq", "dnsmasq-base") {
        return;
    }
    let site = Site::new(Server::Dnsmasq, V4);
    ip(&site.host, "route add local 198.51.100.0/24 dev lo");
    let list = HashMap::from([("a".to_owned(), site.file("a", 20_000))]);
    let settings = Settings {
        faults: Rates { lose: 0.02, duplicate: 0.02, reorder: 0.02 },
        bind: Some("198.51.100.0/24".parse().unwrap()),
        ..settings(&site, &["a"], 200)
    };
    let expected = Expected::new(&settings.files, &list);
    let tally = site.within(|| run(&settings, &expected, &mut || {}, &mut |_| {})).unwrap();
    let all = tally.transfers();
    assert_eq!((all.verified, all.failed), (200, 0), "{}", tally.text());
    assert!(tally.wire.retransmits > 0 && tally.wire.duplicates > 0, "{}", tally.text());
}

#[test]
fn a_swarm_reports_wrong_bytes_missing_files_and_time_outs() {
    if !may_run("dnsmasq", "dnsmasq-base") {
        return;
    }
    let site = Site::new(Server::Dnsmasq, V4);
    site.file("a", 2000);
    let ipxe: Mix = "ipxe".parse().unwrap();
    let list = HashMap::from([("a".to_owned(), [0; 32])]);
    let wrong = Settings { mix: ipxe, ..settings(&site, &["a", "nothing"], 20) };
    let expected = Expected::new(&wrong.files, &list);
    let tally = site.within(|| run(&wrong, &expected, &mut || {}, &mut |_| {})).unwrap();
    assert_eq!(
        tally.failures.iter().map(|(why, count)| (why.as_str(), *count)).collect::<Vec<_>>(),
        [("content", 10), ("error_1_file_not_found", 10)]
    );

    // No server listens on that port.
    let unresponsive = Settings { server: SocketAddr::new(V4, 70), limit: Duration::from_millis(300), ..wrong };
    let tally = site.within(|| run(&unresponsive, &Expected::unchecked(), &mut || {}, &mut |_| {})).unwrap();
    assert_eq!(tally.failures.get("time_limit"), Some(&20));
    assert_eq!(tally.document()["transfers"]["failed"], 20);
}

#[test]
fn a_rate_is_kept() {
    if !may_run("dnsmasq", "dnsmasq-base") {
        return;
    }
    let site = Site::new(Server::Dnsmasq, V4);
    site.file("a", 10);
    let settings = Settings { rate: Some(100.0), mix: "ipxe".parse().unwrap(), ..settings(&site, &["a"], 50) };
    let tally = site.within(|| run(&settings, &Expected::unchecked(), &mut || {}, &mut |_| {})).unwrap();
    assert_eq!(tally.transfers().completed, 50);
    // Each thread starts its first transfer at once, the last one 0.48 s later.
    assert!(tally.time >= Duration::from_millis(450), "{:?}", tally.time);
}

#[test]
fn impossible_settings_are_refused() {
    let settings = Settings {
        server: "[::1]:69".parse().unwrap(),
        clients: 30_000,
        transfers: 1,
        files: vec!["a".into()],
        mix: Mix::default(),
        faults: Rates::default(),
        bind: None,
        rate: None,
        timing: Timing::default(),
        seed: 1,
        limit: Duration::from_secs(1),
        threads: 1,
    };
    let error = run(&settings, &Expected::unchecked(), &mut || {}, &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("--bind PREFIX"), "{error}");
    let other_family = Settings { bind: Some("127.0.0.1".parse().unwrap()), ..settings };
    assert!(run(&other_family, &Expected::unchecked(), &mut || {}, &mut |_| {}).unwrap_err().to_string().contains("both have IPv4"));
    assert!(is_local("::ffff:10.0.0.1".parse().unwrap()) && is_local("fe80::1".parse().unwrap()) && !is_local(V4));
}

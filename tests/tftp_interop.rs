//! Clients of others, and our own, fetch from `guideway tftpd` with every size of block and window that they can; every byte is compared.
//!
//! What the engine's own tests have of this (each client once or so in one process) is not repeated: here are the whole matrix over IPv4 and
//! IPv6, files that are empty or exactly a multiple of the block size, and more than 65535 blocks for each client.
#![allow(clippy::unwrap_used, clippy::panic)] // A test fails by panicking, in its helpers too.

mod netns_fixture;

use netns_fixture::{GUIDEWAY, Running, Tftpd, ip, program};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

const NEEDS: [(&str, &str); 4] = [("curl", "curl"), ("tftp", "tftp-hpa"), ("atftp", "atftp"), ("busybox", "busybox")];
/// Debian's own interpreter sees Debian's modules; another one that comes first may not.
const PYTHON: &str = "/usr/bin/python3";
const SCAPY: &str = "/usr/lib/python3/dist-packages/scapy/layers/tftp.py";
/// Where tools/setup puts what Debian does not have.
const TFTPY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/python/tftpy");
const BLKSIZES: [usize; 4] = [512, 1428, 8192, 65464];
const WINDOWS: [u16; 3] = [1, 16, 64];
const V4: &str = "127.0.0.1";
const V6: &str = "::1";
/// Blocks of the file whose block numbers start again.
const WRAPS: usize = 65_600;

/// A directory with files to serve, and how many transfers there were.
struct Fixture {
    directory: tempfile::TempDir,
    transfers: usize,
}

impl Fixture {
    fn new() -> Fixture {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("root")).unwrap();
        Fixture { directory, transfers: 0 }
    }

    fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    fn file(&self, name: &str, length: usize) {
        let mut content = vec![0; length];
        fastrand::Rng::with_seed(length as u64).fill(&mut content);
        std::fs::write(self.root().join(name), content).unwrap();
    }

    /// A file with [`WRAPS`] blocks that takes little of the disk: some, and all of those at the wrap, begin with their number. No block
    /// that comes for another one looks the same, for 97 divides neither 65536 nor 65535.
    fn stamped(&self, name: &str, blksize: usize) {
        let file = std::fs::File::create(self.root().join(name)).unwrap();
        for number in (0..WRAPS).filter(|number| number % 97 == 0 || *number > 65_500) {
            file.write_all_at(&number.to_be_bytes(), (number * blksize) as u64).unwrap();
        }
        file.set_len((WRAPS * blksize + 1) as u64).unwrap();
    }

    /// Runs a client that fetches `name` into `got` and compares.
    fn fetch(&mut self, name: &str, client: &str, arguments: impl FnOnce(&str) -> Vec<String>) {
        let got = self.directory.path().join("got");
        let arguments = arguments(got.to_str().unwrap());
        let mut command = program("timeout");
        let output = command.args(["60", client]).args(&arguments).current_dir(&self.directory).output().unwrap();
        let said = [&output.stdout[..], &output.stderr].concat();
        assert!(output.status.success(), "{client} {arguments:?}: {}", String::from_utf8_lossy(&said));
        same(&self.root().join(name), &got, &arguments);
        std::fs::remove_file(got).unwrap();
        self.transfers += 1;
    }

    fn curl(&mut self, host: &str, name: &str, blksize: usize) {
        let url = url(host, name);
        self.fetch(name, "curl", |got| {
            // curl takes a tsize of 0 for the end of everything and stops.
            let options = if name == "empty" { "--tftp-no-options".to_owned() } else { format!("--tftp-blksize={blksize}") };
            words(&format!("-q -gsS -o {got} {} {url}", options.replace('=', " ")))
        });
    }

    fn atftp(&mut self, host: &str, name: &str, blksize: usize, window: u16) {
        self.fetch(name, "atftp", |got| {
            let options = [format!("blksize {blksize}"), format!("windowsize {window}")];
            let options = options.into_iter().flat_map(|option| ["--option".to_owned(), option]);
            options.chain(words(&format!("--get -r {name} -l {got} {host} 69"))).collect()
        });
    }

    fn busybox(&mut self, host: &str, name: &str, blksize: usize) {
        self.fetch(name, "busybox", |got| words(&format!("tftp -g -b {blksize} -r {name} -l {got} {host} 69")));
    }

    fn tftp_hpa(&mut self, host: &str, name: &str) {
        self.fetch(name, "tftp", |got| words(&format!("-m binary {host} -c get {name} {got}")));
    }

    /// A client in Python, of those in tests/python.
    fn python(&mut self, script: &str, host: &str, name: &str, more: &str) {
        let modules = Path::new(TFTPY).parent().unwrap().to_str().unwrap();
        let script = format!("{}/tests/python/{script}", env!("CARGO_MANIFEST_DIR"));
        self.fetch(name, "env", |got| words(&format!("PYTHONPATH={modules} {PYTHON} {script} {host} {name} {got} {more}")));
    }

    fn guideway(&mut self, host: &str, name: &str, blksize: usize, window: u16) {
        let url = url(host, name);
        self.fetch(name, GUIDEWAY, |got| words(&format!("tftp get {url} --quiet -o {got} --blksize {blksize} --windowsize {window}")));
    }

    /// Ends the server, which must have seen every transfer to its end.
    fn assert_all_done(&self, tftpd: Tftpd) {
        tftpd.idle(Duration::from_secs(30));
        let (counters, _) = tftpd.stop();
        // The last acknowledgement of a client that ends at once may be lost with its socket.
        let done = ["done", "unconfirmed"].map(|key| counters[key].as_u64().unwrap()).iter().sum::<u64>();
        assert_eq!(done, self.transfers as u64, "{counters:#}");
    }
}

fn url(host: &str, name: &str) -> String {
    if host.contains(':') { format!("tftp://[{host}]/{name}") } else { format!("tftp://{host}/{name}") }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn same(served: &Path, got: &Path, arguments: &[String]) {
    let (served, got) = (std::fs::read(served).unwrap(), std::fs::read(got).unwrap());
    assert!(served == got, "{arguments:?}: {} bytes instead of {}, or other ones", got.len(), served.len());
}

#[test]
fn every_block_and_window_over_both_families() {
    netns_fixture::in_namespace(&NEEDS, || {
        let mut site = Fixture::new();
        site.file("empty", 0);
        for blksize in BLKSIZES {
            site.file(&format!("exact-{blksize}"), blksize * 17);
            site.file(&format!("more-{blksize}"), blksize * 65 + 1);
        }
        let tftpd = Tftpd::start(&site.root(), "--listen [::]:69", "info");
        for host in [V4, V6] {
            for blksize in BLKSIZES {
                for name in ["empty", &format!("exact-{blksize}"), &format!("more-{blksize}")] {
                    site.curl(host, name, blksize);
                    site.busybox(host, name, blksize);
                    if blksize == 512 {
                        site.tftp_hpa(host, name);
                    }
                    for window in WINDOWS {
                        site.atftp(host, name, blksize, window);
                        site.guideway(host, name, blksize, window);
                    }
                }
            }
        }
        site.assert_all_done(tftpd);
    });
}

#[test]
fn python_clients() {
    netns_fixture::in_namespace(&[(PYTHON, "python3"), (SCAPY, "python3-scapy")], || {
        let mut site = Fixture::new();
        site.file("empty", 0);
        site.file("exact-512", 512 * 17);
        site.file("more-512", 512 * 65 + 1);
        let tftpd = Tftpd::start(&site.root(), "--listen [::]:69", "info");
        for name in ["empty", "exact-512", "more-512"] {
            site.python("scapy_get.py", V4, name, "");
        }
        site.assert_all_done(tftpd);
    });
}

/// This client is no part of Debian.
#[test]
fn tftpy() {
    if !Path::new(TFTPY).exists() {
        assert!(
            std::env::var("CI").as_deref() != Ok("true"),
            "this test needs tftpy, which tools/setup fetches into target/python, and CI promised it"
        );
        println!("SKIPPED: needs tftpy, which tools/setup fetches into target/python");
        return;
    }
    netns_fixture::in_namespace(&[(PYTHON, "python3")], || {
        let mut site = Fixture::new();
        site.file("empty", 0);
        site.file("eight", 8 * WRAPS);
        let tftpd = Tftpd::start(&site.root(), "--listen [::]:69", "info");
        for blksize in BLKSIZES {
            site.file(&format!("exact-{blksize}"), blksize * 17);
            site.file(&format!("more-{blksize}"), blksize * 65 + 1);
            for name in ["empty", &format!("exact-{blksize}"), &format!("more-{blksize}")] {
                site.python("tftpy_get.py", V4, name, &blksize.to_string());
            }
        }
        site.python("tftpy_get.py", V4, "exact-512", "");
        site.python("tftpy_get.py", V4, "eight", "8");
        site.assert_all_done(tftpd);
    });
}

#[test]
fn more_than_65535_blocks() {
    netns_fixture::in_namespace(&NEEDS, || {
        let mut site = Fixture::new();
        // The fewer bytes a block has, the less it takes to have many.
        site.file("eight", 8 * WRAPS);
        site.file("plain", 512 * WRAPS);
        let tftpd = Tftpd::start(&site.root(), "--listen [::]:69", "info");
        site.curl(V6, "eight", 8);
        site.busybox(V4, "plain", 512);
        site.tftp_hpa(V4, "plain");
        for (host, window) in [(V4, 1), (V6, 64)] {
            site.atftp(host, "eight", 8, window);
            site.guideway(host, "eight", 8, window);
        }
        site.assert_all_done(tftpd);
    });
}

#[test]
fn more_than_65535_blocks_of_usual_sizes() {
    netns_fixture::in_namespace(&NEEDS, || {
        let mut site = Fixture::new();
        // Larger ones would be gigabytes that show nothing else.
        for blksize in &BLKSIZES[1..3] {
            site.stamped(&format!("many-{blksize}"), *blksize);
        }
        let tftpd = Tftpd::start(&site.root(), "--listen [::]:69", "info");
        site.guideway(V4, "many-1428", 1428, 64);
        site.curl(V6, "many-8192", 8192);
        site.assert_all_done(tftpd);
    });
}

#[test]
fn block_1_follows_block_65535_where_somebody_wants_it() {
    netns_fixture::in_namespace(&NEEDS, || {
        let mut site = Fixture::new();
        site.file("eight", 8 * WRAPS);
        for (flags, wish) in [("--rollover 1", ""), ("", "--rollover 1"), ("--rollover 1", "--rollover 0")] {
            let tftpd = Tftpd::start(&site.root(), &format!("--listen [::]:69 {flags}"), "info");
            site.transfers = 0;
            for (host, window) in [(V4, 1), (V6, 64)] {
                // A client without the option recognises the rollover in lock-step only.
                if wish.is_empty() && window > 1 {
                    continue;
                }
                let url = url(host, "eight");
                site.fetch("eight", GUIDEWAY, |got| {
                    words(&format!("tftp get {url} --quiet -o {got} --blksize 8 --windowsize {window} {wish}"))
                });
            }
            site.assert_all_done(tftpd);
        }
    });
}

#[test]
fn blocks_beyond_the_path_are_cut_down_or_travel_in_fragments() {
    netns_fixture::in_namespace(&NEEDS, || {
        ip("link set lo mtu 1500");
        let mut site = Fixture::new();
        site.file("file", 8192 * 40);
        for (flags, packets) in [("", 225), ("--fragments", 42)] {
            let tftpd = Tftpd::start(&site.root(), &format!("--listen [::]:69 {flags}"), "info");
            site.curl(V4, "file", 8192);
            let counters = tftpd.idle(Duration::from_secs(30));
            // The OACK, the blocks, and one of them empty where the size is a multiple. A busy machine may send some twice.
            let sent = counters["packets_sent"].as_u64().unwrap() - counters["retransmitted"].as_u64().unwrap();
            assert_eq!((sent, &counters["done"]), (packets, &1.into()), "{flags}: {counters:#}");
        }
    });
}

#[test]
fn a_host_without_ipv6_is_served_by_ipv4() {
    netns_fixture::in_namespace(&NEEDS, || {
        for which in ["all", "default", "lo"] {
            std::fs::write(format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6"), "1").unwrap();
        }
        let mut site = Fixture::new();
        site.file("file", 3000);
        // IPv6 switched off in the namespace, and a kernel without it.
        for (without, warnings) in [(false, 0), (true, 1)] {
            let mut command = program(if without { PYTHON } else { GUIDEWAY });
            if without {
                command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/without_ipv6.py")).arg(GUIDEWAY);
            }
            command.args(["tftpd", "--root"]).arg(site.root()).stdout(Stdio::null()).stderr(Stdio::piped());
            let mut server = Running(command.spawn().unwrap());
            let lines = BufReader::new(server.0.stderr.take().unwrap()).lines().map_while(Result::ok);
            let mut log = Vec::new();
            for line in lines {
                log.push(line);
                if log.last().is_some_and(|line| line.contains("answers from")) {
                    break;
                }
            }
            assert_eq!(log.iter().filter(|line| line.contains("this host has no IPv6")).count(), warnings, "{log:?}");
            site.curl(V4, "file", 512);
        }
    });
}

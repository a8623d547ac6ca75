//! Clients of others, and our own, write to `guideway tftpd --writable`; every byte is compared, and what must not be written is not.
#![allow(clippy::unwrap_used, clippy::panic)] // A test fails by panicking, in its helpers too.

mod netns_fixture;

use guideway_tftp::packet::{Packet, put_data_header, put_request};
use netns_fixture::{GUIDEWAY, Tftpd, program};
use std::net::UdpSocket;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

const NEEDS: [(&str, &str); 4] = [("curl", "curl"), ("tftp", "tftp-hpa"), ("atftp", "atftp"), ("busybox", "busybox")];
const TIMEOUT: Duration = Duration::from_secs(30);
const V4: &str = "127.0.0.1";
const V6: &str = "::1";

/// A directory that is served, one that is written to, and how many files were written.
struct Fixture {
    directory: tempfile::TempDir,
    written: u64,
}

impl Fixture {
    fn new() -> Fixture {
        let directory = tempfile::tempdir().unwrap();
        ["root", "backups", "backups/floor1"].iter().for_each(|name| std::fs::create_dir(directory.path().join(name)).unwrap());
        Fixture { directory, written: 0 }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn tftpd(&self, flags: &str) -> Tftpd {
        Tftpd::start(&self.at("root"), &format!("--listen [::]:69 --writable {} {flags}", self.at("backups").display()), "info")
    }

    /// A file to be sent.
    fn file(&self, name: &str, content: &[u8]) {
        std::fs::write(self.at(name), content).unwrap();
    }

    fn run(&self, client: &str, arguments: &[String]) -> Output {
        program("timeout").args(["60", client]).args(arguments).current_dir(&self.directory).output().unwrap()
    }

    /// Runs a client that writes `file`, and compares what has come.
    fn put(&mut self, file: &str, client: &str, arguments: impl Fn(&str) -> Vec<String>) {
        let to = format!("floor1/{}", self.written);
        let arguments = arguments(&to);
        let output = self.run(client, &arguments);
        let said = [&output.stdout[..], &output.stderr].concat();
        assert!(output.status.success(), "{client} {arguments:?}: {}", String::from_utf8_lossy(&said));
        let (sent, got) = (std::fs::read(self.at(file)).unwrap(), std::fs::read(self.at("backups").join(&to)));
        let got = got.unwrap_or_else(|error| panic!("{client} {arguments:?}: {error}; {}", String::from_utf8_lossy(&said)));
        assert!(sent == got, "{client} {arguments:?}: {} bytes instead of {}, or other ones", got.len(), sent.len());
        self.written += 1;
    }

    fn curl(&mut self, host: &str, file: &str, blksize: usize) {
        self.put(file, "curl", |to| words(&format!("-q -gsS --tftp-blksize {blksize} -T {file} tftp://{}/{to}", in_url(host))));
    }

    fn tftp_hpa(&mut self, host: &str, file: &str, mode: &str) {
        self.put(file, "tftp", |to| words(&format!("-m {mode} {host} -c put {file} {to}")));
    }

    fn atftp(&mut self, host: &str, file: &str, blksize: usize, window: u16) {
        self.put(file, "atftp", |to| {
            let options = [format!("blksize {blksize}"), format!("windowsize {window}")];
            let options = options.into_iter().flat_map(|option| ["--option".to_owned(), option]);
            options.chain(words(&format!("--put -l {file} -r {to} {host} 69"))).collect()
        });
    }

    fn busybox(&mut self, host: &str, file: &str, blksize: usize) {
        self.put(file, "busybox", |to| words(&format!("tftp -p -b {blksize} -l {file} -r {to} {host} 69")));
    }

    fn guideway(&mut self, host: &str, file: &str, blksize: usize, window: u16, mode: &str) {
        let host = in_url(host);
        let flags = format!("--quiet --blksize {blksize} --windowsize {window} --mode {mode}");
        self.put(file, GUIDEWAY, |to| words(&format!("tftp put {file} tftp://{host}/{to} {flags}")));
    }

    /// Ends the server, which must have stored every file.
    fn assert_all_stored(&self, tftpd: Tftpd) {
        let counters = tftpd.idle(TIMEOUT);
        let (_, log) = tftpd.stop();
        let count = |name: &str| counters[name].as_u64().unwrap();
        assert_eq!((count("stored"), count("done")), (self.written, self.written), "{counters:#}");
        let lines = log.iter().filter(|line| line["outcome"] == "done" && line["write"] == true);
        assert_eq!(lines.map(|line| line["bytes"].as_u64().unwrap()).sum::<u64>(), count("bytes_received"));
        assert_eq!(log.len() as u64, self.written, "a line for each file");
    }
}

fn in_url(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn random(length: usize) -> Vec<u8> {
    let mut content = vec![0; length];
    fastrand::Rng::with_seed(length as u64).fill(&mut content);
    content
}

#[test]
fn every_client_writes_files_that_come_whole() {
    netns_fixture::in_namespace(&NEEDS, || {
        let mut site = Fixture::new();
        let tftpd = site.tftpd("--writable-limit 8MiB --fragments");
        for blksize in [512, 1428, 8192, 65464] {
            let files = [("empty", 0), ("exact", blksize * 17), ("more", blksize * 65 + 1)];
            for (file, length) in files {
                site.file(file, &random(length));
                for host in [V4, V6] {
                    site.curl(host, file, blksize);
                    site.busybox(host, file, blksize);
                    if blksize == 512 {
                        site.tftp_hpa(host, file, "binary");
                    }
                    for window in [1, 16, 64] {
                        site.atftp(host, file, blksize, window);
                        site.guideway(host, file, blksize, window, "octet");
                    }
                }
            }
        }
        site.assert_all_stored(tftpd);
    });
}

#[test]
fn text_and_more_than_65535_blocks() {
    netns_fixture::in_namespace(&NEEDS, || {
        let mut site = Fixture::new();
        let tftpd = site.tftpd("--writable-limit 64MiB");
        let text = "hostname s1\ninterface 1\r\n carriage\rreturn\n\n".repeat(500);
        site.file("text", text.as_bytes());
        site.tftp_hpa(V4, "text", "netascii");
        site.guideway(V6, "text", 512, 1, "netascii");
        site.guideway(V4, "text", 100, 16, "netascii");
        site.file("many", &random(8 * 65_600));
        site.curl(V6, "many", 8);
        site.atftp(V4, "many", 8, 64);
        site.guideway(V4, "many", 8, 1, "octet");
        site.guideway(V6, "many", 8, 64, "octet");
        site.file("plain", &random(512 * 65_600));
        site.tftp_hpa(V4, "plain", "binary");
        site.assert_all_stored(tftpd);
    });
}

#[test]
fn what_must_not_be_written_is_not() {
    netns_fixture::in_namespace(&NEEDS, || {
        let site = Fixture::new();
        site.file("sent", &random(70_000));
        site.file("small", b"new");
        site.file("backups/there", b"old");
        site.file("beside", b"old");
        // As a user without privileges: the directory is that user's, and nothing else is.
        chown(site.at("backups"), Some(65534), Some(65534)).unwrap();
        std::fs::set_permissions(site.directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let tftpd = site.tftpd("--writable-limit 64KiB --user nobody");
        let put = |file: &str, to: &str, flags: &str| {
            let output = site.run(GUIDEWAY, &words(&format!("tftp put {file} 127.0.0.1:{to} --quiet {flags}")));
            (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
        };
        for (file, to, flags, said) in [
            ("small", "there", "", "error 6 (file exists)"),
            ("small", "../beside", "", "error 2 (access violation)"),
            ("small", ".profile", "", "error 2 (access violation)"),
            ("small", "nowhere/f", "", "error 1 (file not found)"),
            // Of another user.
            ("small", "floor1/f", "", "error 2 (access violation)"),
            ("sent", "large", "", "error 3 (disk full)"),
            ("sent", "large", "--mode netascii", "error 3 (disk full)"),
        ] {
            let (code, error) = put(file, to, flags);
            assert!(code == Some(1) && error.contains(said), "{to}: {code:?} {error}");
        }
        assert_eq!(put("small", "new", ""), (Some(0), String::new()));
        assert_eq!(std::fs::read(site.at("backups/new")).unwrap(), b"new");
        assert_eq!(std::fs::metadata(site.at("backups/new")).unwrap().permissions().mode() & 0o777 & !0o640, 0);
        assert_eq!(
            (std::fs::read(site.at("backups/there")).unwrap(), std::fs::read(site.at("beside")).unwrap()),
            (b"old".into(), b"old".into())
        );
        let names = site.at("backups").read_dir().unwrap().count();
        assert_eq!(names, 3, "floor1, there, new");
        // What was written is not served unless its directory is.
        let output = site.run("curl", &words("-q -gsS tftp://127.0.0.1/new"));
        assert!(!output.status.success());
        let (counters, _) = tftpd.stop();
        assert_eq!((counters["stored"].as_u64(), counters["refused"].as_u64()), (Some(1), Some(8)), "{counters:#}");
    });
}

#[test]
fn a_server_that_is_killed_leaves_no_half_of_a_file() {
    netns_fixture::in_namespace(&NEEDS, || {
        let mut site = Fixture::new();
        site.file("sent", &random(100_000));
        let tftpd = site.tftpd("");
        let client = UdpSocket::bind((V4, 0)).unwrap();
        client.set_read_timeout(Some(TIMEOUT)).unwrap();
        let mut request = Vec::new();
        put_request(&mut request, true, b"floor1/0", b"octet", [(&b"blksize"[..], &b"1000"[..])]);
        client.send_to(&request, (V4, 69)).unwrap();
        let mut answer = [0; 600];
        let (_, tid) = client.recv_from(&mut answer).unwrap();
        // More than is gathered before it is written, and not all.
        for (number, block) in (1u16..).zip(random(100_000).chunks(1000).take(90)) {
            let mut data = Vec::new();
            put_data_header(&mut data, number);
            data.extend(block);
            client.send_to(&data, tid).unwrap();
            loop {
                let length = client.recv(&mut answer).unwrap();
                match Packet::parse(&answer[..length]) {
                    Ok(Packet::Ack { block }) if block == number => break,
                    // On a busy machine it was requested before.
                    Ok(Packet::Ack { .. } | Packet::Oack(_)) => {}
                    other => panic!("{other:?} instead of an ACK of {number}"),
                }
            }
        }
        // By SIGKILL.
        drop(tftpd);
        let left = || site.at("backups/floor1").read_dir().unwrap().count() + site.at("backups").read_dir().unwrap().count();
        assert!(!site.at("backups/floor1/0").exists());
        let tftpd = site.tftpd("");
        assert_eq!(left(), 1, "only floor1 itself");
        site.curl(V4, "sent", 1000);
        site.assert_all_stored(tftpd);
    });
}

#[test]
fn without_a_directory_every_write_is_refused() {
    netns_fixture::in_namespace(&NEEDS, || {
        let site = Fixture::new();
        site.file("small", b"new");
        let tftpd = Tftpd::start(&site.at("root"), "--listen [::]:69", "info");
        for (client, arguments, said) in [
            (GUIDEWAY, "tftp put small 127.0.0.1:f --quiet", "error 2 (access violation)"),
            ("tftp", "-m binary 127.0.0.1 -c put small f", "Error code 2"),
        ] {
            let output = site.run(client, &words(arguments));
            let text = [output.stdout, output.stderr].concat();
            assert!(String::from_utf8_lossy(&text).contains(said), "{client}: {}", String::from_utf8_lossy(&text));
        }
        let (counters, _) = tftpd.stop();
        assert_eq!((counters["started"].as_u64(), counters["writes"].as_u64()), (Some(0), Some(2)), "{counters:#}");
        assert_eq!(site.at("root").read_dir().unwrap().count(), 0);
    });
}

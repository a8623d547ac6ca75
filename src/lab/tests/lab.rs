//! The lab as users run it: real clients and servers, with and without directors, and nothing left behind.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use guideway_io::pcap::Pcap;
use guideway_packet::io::Io;
use guideway_packet::wire::flow as packet;
use guideway_testbed::programs;
use guideway_testbed::wait::wait_until;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const GUIDEWAY_LAB: &str = env!("CARGO_BIN_EXE_guideway-lab");

/// One lab at a time, unless a test is about two: each wants all processors for itself.
static LAB_LOCK: Mutex<()> = Mutex::new(());

/// `None`, with a word, where the test cannot run; a failure where it was promised that it can.
fn root() -> Option<MutexGuard<'static, ()>> {
    if geteuid().is_root() {
        return Some(LAB_LOCK.lock().unwrap_or_else(PoisonError::into_inner));
    }
    assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "this test needs root, and CI promises it");
    println!("SKIPPED: needs root");
    None
}

fn lab(flags: &str) -> Command {
    let mut command = Command::new(GUIDEWAY_LAB);
    command.args(flags.split_whitespace()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs a lab with `--json`; its exit code and report.
fn run(flags: &str) -> (i32, Value) {
    let output = lab(flags).arg("--json").output().unwrap();
    let report =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{flags}: stdout is no JSON ({e}): {}", output_text(&output)));
    (output.status.code().unwrap(), report)
}

fn output_text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Runs a lab that must verify every transfer.
fn verified(flags: &str, transfers: u64) -> Value {
    let (code, report) = run(&format!("{flags} --transfers {transfers}"));
    let counts = &report["transfers"];
    let all = [&counts["started"], &counts["completed"], &counts["verified"]].iter().all(|n| **n == transfers);
    assert!(code == 0 && all && counts["failed"] == 0, "{flags}: exit code {code}: {report:#}");
    let served: u64 = report["backends"].as_array().unwrap().iter().map(|b| b["transfers"].as_u64().unwrap()).sum();
    assert_eq!(served, transfers, "{flags}: every transfer has its backend: {report:#}");
    report
}

fn each(report: &Value, list: &str, key: &str) -> Vec<u64> {
    report[list].as_array().unwrap().iter().map(|entry| entry[key].as_u64().unwrap()).collect()
}

#[test]
fn a_server_on_the_host_of_a_director_serves_what_any_director_gives_it() {
    let Some(_lock) = root() else { return };
    for flags in ["--server guideway-tunnel", "--server guideway-tunnel --ipv6", "--server in.tftpd --decap user", "--server dnsmasq"] {
        let report = verified(&format!("--local-servers --backends 2 --size 20KiB --client guideway {flags}"), 40);
        assert!(each(&report, "backends", "transfers").iter().all(|count| *count > 0), "{flags}: {report:#}");
        // Some came by the director of the other host: the local server must get these, and nobody balances them again.
        assert!(each(&report, "directors", "to_local_server").iter().all(|count| *count > 0), "{flags}: {report:#}");
    }
}

#[test]
fn every_client_fetches_from_every_server_through_directors() {
    let Some(_lock) = root() else { return };
    for server in ["in.tftpd", "dnsmasq", "dnsmasq-single-port", "guideway", "guideway-tunnel"] {
        for client in ["curl", "tftp-hpa", "atftp", "busybox", "guideway"] {
            for family in ["", "--ipv6"] {
                let flags = format!("--backends 2 --size 20KiB --server {server} --client {client} {family}");
                let report = verified(&flags, 12);
                assert_eq!((&report["server"], &report["client"]), (&server.into(), &client.into()));
                assert_eq!(report["blksize"], if client == "tftp-hpa" { 512 } else { 1428 });
            }
        }
    }
}

#[test]
fn the_lab_itself_works_without_directors() {
    let Some(_lock) = root() else { return };
    let other = "--server in.tftpd --client curl";
    for flags in ["", "--ipv6", other, &format!("{other} --ipv6"), "--server dnsmasq-single-port --client atftp"] {
        verified(&format!("--direct --backends 2 --size 20KiB {flags}"), 12);
    }
}

#[test]
fn request_and_acknowledgements_cross_different_directors_and_every_file_is_right() {
    let Some(_lock) = root() else { return };
    let others =
        ["--server in.tftpd --client curl", "--server dnsmasq --client curl", "--ipv6 --io af_packet --server dnsmasq --client tftp-hpa"];
    for flags in ["", "--ipv6", "--io af_packet", "--ipv6 --server guideway"].into_iter().chain(others) {
        let report = verified(&format!("{flags} --size 64KiB"), 80);
        assert_eq!(report["io"], if flags.contains("af_packet") { "af_packet" } else { "af_xdp" });
        assert_eq!(report["ecmp"], "5tuple");
        assert!(each(&report, "directors", "received").iter().all(|n| *n > 0), "{flags}: {report:#}");
        assert!(each(&report, "backends", "transfers").iter().all(|n| *n > 0), "{flags}: {report:#}");
    }
}

#[test]
fn one_clients_packets_cross_one_director_by_3tuple() {
    let Some(_lock) = root() else { return };
    for client in ["curl", "atftp"] {
        let report = verified(&format!("--server dnsmasq-single-port --ecmp 3tuple --size 64KiB --client {client}"), 60);
        let received = each(&report, "directors", "received");
        assert_eq!(received.iter().filter(|n| **n > 0).count(), 1, "{report:#}");
        assert!(each(&report, "backends", "transfers").iter().all(|n| *n > 0), "{report:#}");
    }
}

#[test]
fn directors_account_for_every_packet() {
    let Some(_lock) = root() else { return };
    let report = verified("--directors 3 --size 64KiB", 60);
    for director in report["directors"].as_array().unwrap() {
        let n = |key: &str| director[key].as_u64().unwrap();
        let dropped: u64 = director["dropped"].as_object().unwrap().values().map(|v| v.as_u64().unwrap()).sum();
        assert_eq!(n("received"), n("transmitted") + n("to_host") + n("held") + dropped, "{director:#}");
    }
    let sent: u64 = report["router"]["sent"].as_object().unwrap().values().map(|v| v.as_u64().unwrap()).sum();
    assert_eq!(sent, each(&report, "directors", "received").iter().sum::<u64>(), "nothing is lost on the way: {report:#}");
}

#[test]
fn a_drained_backend_ends_its_transfers_and_gets_none_that_is_new() {
    let Some(_lock) = root() else { return };
    for programs in ["", "--server in.tftpd --client curl --io af_packet"] {
        let report = verified(&format!("--drain 10 --backends 3 --concurrency 100 --size 2MiB --timeout 120s {programs}"), 200);
        let drain = &report["drain"];
        assert_eq!(drain["ok"], true, "{report:#}");
        assert_eq!(drain["requests_before"], drain["requests_after"]);
        assert!(drain["requests_after"].as_u64() > Some(10), "{drain:#}");
        let last = drain["last_ended_seconds"].as_f64().expect("transfers ran when it was drained");
        assert!(last < drain["returned_seconds"].as_f64().unwrap(), "{drain:#}");
        let said = drain["output"].to_string();
        assert!(said.contains("transfers run") && said.contains("nothing runs on"), "{drain:#}");
    }
}

#[test]
fn a_backend_joins_during_the_transfers_and_none_fails() {
    let Some(_lock) = root() else { return };
    for programs in ["", "--server in.tftpd --client curl"] {
        let report = verified(&format!("--reload add-backend@10 --size 64KiB {programs}"), 200);
        assert_eq!(report["reload"]["ok"], true);
        for director in report["reload"]["directors"].as_array().unwrap() {
            assert!(director["after"].as_u64() > director["before"].as_u64(), "{report:#}");
        }
        assert!(each(&report, "backends", "transfers")[4] > 0, "the new backend serves: {report:#}");
    }
}

#[test]
fn a_broken_file_changes_nothing() {
    let Some(_lock) = root() else { return };
    let report = verified("--reload broken@50 --size 64KiB", 60);
    assert_eq!(report["reload"]["ok"], true);
    assert!(each(&report, "directors", "received").iter().all(|n| *n > 0));
}

#[test]
fn the_largest_lab_works() {
    let Some(_lock) = root() else { return };
    let report = verified("--directors 16 --backends 64 --concurrency 50 --size 1KiB", 150);
    assert!(each(&report, "directors", "received").iter().all(|n| *n > 0), "{report:#}");
}

#[test]
fn two_labs_run_at_once() {
    let Some(_lock) = root() else { return };
    std::thread::scope(|scope| {
        let other = scope.spawn(|| verified("--size 64KiB", 40));
        verified("--size 64KiB --server dnsmasq", 40);
        other.join().unwrap();
    });
}

#[test]
fn the_text_shows_the_topology_and_its_last_line_the_verified_transfers() {
    let Some(_lock) = root() else { return };
    let output = lab("--transfers 10 --size 0 --client busybox --direct").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("router  198.51.100.1 / 10.0.0.1") && text.contains("└─ t4  10.0.2.24"), "{text}");
    assert_eq!(text.lines().last(), Some("verified 10 of 10 transfers"));
    assert!(String::from_utf8(output.stderr).unwrap().contains("10 of 10 transfers"), "progress");
}

#[test]
fn a_transfer_that_cannot_end_in_time_makes_the_lab_fail() {
    let Some(_lock) = root() else { return };
    let (code, report) = run("--transfers 2 --size 64MiB --timeout 100ms --direct");
    assert_eq!((code, &report["transfers"]["failed"]), (1, &2.into()), "{report:#}");
    assert_eq!(report["failures"][0]["message"], "not done after 100ms");
}

#[test]
fn bad_flags_are_refused_with_exit_code_2_and_the_reason() {
    for (flags, reason) in [
        ("--directors 0", "1..=16"),
        ("--backends 65", "1..=64"),
        ("--size 1TiB", "allowed: 0B to 4GiB"),
        ("--blksize 7", "8..=65464"),
        ("--io dpdk", "af_xdp"),
        ("--reload add", "add-backend or broken"),
        ("--direct --reload broken", "--reload needs directors"),
        ("--backends 64 --reload broken", "at most --backends 63"),
        ("--concurrency 0", "1..=500"),
        ("--size 0 --client curl", "use another --client"),
    ] {
        let output = lab(flags).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{flags}: {}", output_text(&output));
        assert!(output_text(&output).contains(reason), "{flags}: {}", output_text(&output));
    }
}

/// What a lab could leave behind, seen from outside.
#[derive(Debug, PartialEq)]
struct Traces {
    interfaces: Vec<String>,
    mounts: usize,
    directory: bool,
}

fn traces() -> Traces {
    let interfaces = std::fs::read_to_string("/proc/net/dev").unwrap();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    Traces {
        interfaces: interfaces.lines().filter_map(|l| l.split_once(':')).map(|(name, _)| name.trim().to_owned()).collect(),
        mounts: mounts.lines().filter(|l| l.contains("guideway-lab")).count(),
        directory: Path::new("/run/guideway-lab").exists(),
    }
}

/// The PID namespace of a running lab.
fn pid_namespace(lab: &Child) -> PathBuf {
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", lab.id())).unwrap();
    let init = children.split_whitespace().next().expect("the lab has a process 1").to_owned();
    std::fs::read_link(format!("/proc/{init}/ns/pid")).unwrap()
}

/// How many processes are in a PID namespace.
fn processes_in(namespace: &Path) -> usize {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    all.filter(|p| std::fs::read_link(p.path().join("ns/pid")).is_ok_and(|n| n == namespace)).count()
}

/// A lab that has done its transfers and stays; ended also when the test fails.
struct KeptLab(Child);

impl KeptLab {
    fn start() -> Self {
        let mut kept = KeptLab(lab("--transfers 4 --size 1KiB --keep --server in.tftpd").spawn().unwrap());
        let stderr = BufReader::new(kept.0.stderr.take().unwrap());
        let mut lines = stderr.lines().map_while(Result::ok);
        assert!(lines.any(|line| line.starts_with("Configurations and logs")), "the lab stays");
        kept
    }
}

impl Drop for KeptLab {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

#[test]
fn nothing_is_left_behind_after_a_signal_to_the_process_that_was_started() {
    let Some(_lock) = root() else { return };
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGKILL] {
        let before = traces();
        let mut kept = KeptLab::start();
        let inside = pid_namespace(&kept.0);
        assert!(processes_in(&inside) >= 12, "init, lab, directors, servers and decap are there");
        assert_eq!(traces(), before, "also while it runs, nothing of it is to be seen");
        kill(Pid::from_raw(kept.0.id() as i32), signal).unwrap();
        let status = kept.0.wait().unwrap();
        if signal != Signal::SIGKILL {
            assert_eq!(status.code(), Some(0), "its transfers were fine, and it was to stay until a signal");
        }
        wait_until("the kernel has ended everything", Duration::from_secs(10), || processes_in(&inside) == 0);
        assert_eq!(traces(), before);
    }
}

#[test]
fn nothing_is_left_behind_after_a_crash_of_the_lab_itself() {
    let Some(_lock) = root() else { return };
    let before = traces();
    let mut kept = KeptLab::start();
    let inside = pid_namespace(&kept.0);
    let children = |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let init = children(&kept.0.id().to_string());
    let worker = children(init.trim());
    kill(Pid::from_raw(worker.split_whitespace().next().unwrap().parse().unwrap()), Signal::SIGKILL).unwrap();
    assert_eq!(kept.0.wait().unwrap().code(), Some(137), "128 and the number of SIGKILL");
    wait_until("the kernel has ended everything", Duration::from_secs(10), || processes_in(&inside) == 0);
    assert_eq!(traces(), before);
}

#[test]
fn an_interrupted_lab_says_how_far_it_got() {
    let Some(_lock) = root() else { return };
    let mut child = lab("--transfers 100000 --size 1KiB").spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("backends answer") {
        line.clear();
        assert_ne!(stdout.read_line(&mut line).unwrap(), 0, "the lab ended early");
    }
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest}");
    assert!(rest.contains("interrupted after ") && rest.lines().last().unwrap().ends_with(" of 100000 transfers"), "{rest}");
}

/// The programs where another user can run them; the lab's is returned.
fn for_everyone() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let program = directory.path().join("guideway-lab");
    std::fs::copy(GUIDEWAY_LAB, &program).unwrap();
    std::fs::copy(programs::guideway().unwrap(), directory.path().join("guideway")).unwrap();
    (directory, program)
}

/// Runs a lab as nobody, with a /dev/net/tun of these permissions in a mount namespace of its own.
fn as_nobody(program: &Path, permissions: &str, flags: &str) -> Output {
    let script = r#"
        set -e
        mount -t tmpfs none /dev/net
        mknod -m "$1" /dev/net/tun c 10 200
        program=$2; shift 2
        exec setpriv --reuid=65534 --regid=65534 --clear-groups "$program" "$@""#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh", permissions]).arg(program).args(flags.split_whitespace());
    command.output().unwrap()
}

#[test]
fn without_root_it_runs_in_a_user_namespace_or_says_what_is_missing() {
    let Some(_lock) = root() else { return };
    let (_directory, program) = for_everyone();
    let output = as_nobody(&program, "666", "--transfers 20 --size 64KiB --json");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", output_text(&output)));
    assert_eq!((output.status.code(), &report["transfers"]["verified"]), (Some(0), &20.into()), "{report:#}");
    assert_eq!((&report["io"], &report["server"]), (&"af_packet".into(), &"guideway-tunnel".into()));
    let output = as_nobody(&program, "666", "--transfers 20 --size 64KiB --json --server dnsmasq --client curl");
    assert_eq!(output.status.code(), Some(0), "{}", output_text(&output));
    for (permissions, flags, reason) in [
        ("600", "", "/dev/net/tun may not be opened: run as root"),
        ("666", "--io af_xdp", "AF_XDP is not permitted without root"),
        ("666", "--server in.tftpd", "in.tftpd cannot run without root"),
    ] {
        let output = as_nobody(&program, permissions, flags);
        let said = output_text(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(reason) && said.trim_end().lines().count() == 1, "one line: {said}");
    }
}

#[test]
fn what_the_router_sent_is_in_the_capture() {
    let Some(_lock) = root() else { return };
    for flags in ["", "--ipv6"] {
        let file = std::env::temp_dir().join(format!("guideway-lab-capture-{}.pcap", std::process::id()));
        let report = verified(&format!("--size 64KiB --backends 2 {flags} --capture {}", file.display()), 5);
        let (mut capture, mut frames, mut requests) = (Pcap::open(&file, Path::new("/dev/null")).unwrap(), 0, BTreeSet::new());
        while !capture
            .poll(Duration::ZERO, &mut |_, batch| {
                for frame in batch {
                    let outer = packet::flow(&frame.bytes()[14..]).unwrap();
                    let inner = packet::strip_gre(&frame.bytes()[14 + outer.payload..]).unwrap();
                    requests.extend(packet::read_request(inner).map(|(_, _, name)| name));
                    frames += 1;
                }
            })
            .unwrap()
            .end
        {}
        std::fs::remove_file(file).unwrap();
        assert_eq!(requests.len(), 5, "{requests:?}");
        // Nothing but what the router sent, and nothing twice.
        assert_eq!(frames, report["router"]["received"].as_u64().unwrap(), "{report:#}");
    }
}

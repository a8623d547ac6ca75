//! The units that are shipped, checked by systemd itself where it is installed; passed sockets, readiness and the watchdog.
#![allow(clippy::unwrap_used, clippy::panic)]

mod netns_fixture;

use netns_fixture::{GUIDEWAY, Running};
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(20);

fn units() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/systemd");
    let mut units: Vec<PathBuf> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    // Drop-ins for units.
    units.retain(|unit| unit.extension().is_some_and(|extension| extension != "conf"));
    units.sort();
    units
}

/// systemd-analyze, unless it is not installed where nobody promised it.
fn analyze() -> Option<Command> {
    let found = guideway_testbed::programs::find("systemd-analyze", "systemd").ok();
    if found.is_none() {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "this test needs systemd-analyze (systemd), and CI promised it");
        println!("SKIPPED: needs systemd-analyze (systemd)");
    }
    found.map(Command::new)
}

#[test]
fn a_server_that_takes_gre_itself_does_without_the_socket() {
    // A dependency cannot be taken back in a drop-in (systemd.unit(5)), so the service has none; systemd passes the socket of a unit of the same name.
    let service = units().into_iter().find(|unit| unit.ends_with("guideway-tftpd.service")).unwrap();
    let text = std::fs::read_to_string(&service).unwrap();
    assert!(!text.contains("Requires=") && !text.contains("Wants=") && text.contains("After=network.target guideway-tftpd.socket"));
    let drop_in = std::fs::read_to_string(service.with_file_name("guideway-tftpd-tunnel.conf")).unwrap();
    assert!(drop_in.contains("[Service]") && !drop_in.contains("[Unit]"));
}

#[test]
fn units_have_sections_and_settings_and_start_what_there_is() {
    let names: Vec<String> = units().iter().map(|unit| unit.file_name().unwrap().to_string_lossy().into_owned()).collect();
    assert_eq!(names, ["guideway-director.service", "guideway-health.service", "guideway-tftpd.service", "guideway-tftpd.socket"]);
    for unit in units() {
        let text = std::fs::read_to_string(&unit).unwrap();
        let mut sections = Vec::new();
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            match line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                Some(section) => sections.push(section),
                None => {
                    let (key, _) = line.split_once('=').unwrap_or_else(|| panic!("{}: {line}", unit.display()));
                    assert!(key.starts_with(|c: char| c.is_ascii_uppercase()) && key.bytes().all(|b| b.is_ascii_alphanumeric()), "{line}");
                    assert!(!sections.is_empty(), "{line} stands before any section");
                }
            }
        }
        assert_eq!((sections.len(), sections[0], sections[2]), (3, "Unit", "Install"), "{}", unit.display());
        if let Some(command) = text.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/bin/guideway ")) {
            let (command, rest) = command.split_once(' ').unwrap();
            assert!(rest.starts_with("--config /etc/guideway/"), "{rest}");
            assert!(Command::new(GUIDEWAY).args([command, "--help"]).stdout(Stdio::null()).status().unwrap().success());
        }
    }
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units_and_calls_them_protected() {
    if analyze().is_none() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mut copies = Vec::new();
    for unit in units() {
        // The program that is verified is the one that was built.
        let text = std::fs::read_to_string(&unit).unwrap().replace("/usr/bin/guideway", GUIDEWAY);
        copies.push(directory.path().join(unit.file_name().unwrap()));
        std::fs::write(copies.last().unwrap(), text).unwrap();
    }
    let output = analyze().unwrap().args(["verify", "--man=no"]).args(&copies).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    // It warns of other units of this machine, too.
    assert!(output.status.success() && !said.contains("guideway-"), "{said}");
    // Tenths of the exposure level from 0 to 10; an ordinary service has about 96.
    for (unit, most) in [("guideway-tftpd.service", "20"), ("guideway-director.service", "30"), ("guideway-health.service", "20")] {
        let file = directory.path().join(unit);
        let output = analyze().unwrap().args(["security", "--offline=true", "--threshold", most]).arg(file).output().unwrap();
        let table = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{unit} is more exposed than {most}: {table}{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Starts a server as systemd does: `socket` is its descriptor 3, and it is to tell `notify` that it is ready.
fn passed(socket: UdpSocket, root: &Path, notify: &Path, flags: &[&str]) -> Command {
    let mut command = Command::new("sh");
    // A shell, for descriptor 3 and a variable with the process's own number cannot be had otherwise without unsafe code.
    command.args(["-c", "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" \"$@\"", GUIDEWAY, "tftpd", "--root"]);
    command.arg(root).args(flags).env("NOTIFY_SOCKET", notify);
    command.stdin(Stdio::from(OwnedFd::from(socket))).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

#[test]
fn a_passed_socket_is_served_and_no_request_that_came_before_is_lost() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("file"), "content").unwrap();
    let notify = directory.path().join("notify");
    let systemd = UnixDatagram::bind(&notify).unwrap();
    systemd.set_read_timeout(Some(TIMEOUT)).unwrap();
    for address in ["127.0.0.1:0", "0.0.0.0:0"] {
        let socket = UdpSocket::bind(address).unwrap();
        let port = socket.local_addr().unwrap().port();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(TIMEOUT)).unwrap();
        client.send_to(b"\0\x01file\0octet\0", ("127.0.0.1", port)).unwrap();
        let server = Running(passed(socket, directory.path(), &notify, &[]).spawn().unwrap());
        let mut packet = [0; 600];
        let (len, tid) = client.recv_from(&mut packet).unwrap();
        assert_eq!(&packet[..len], b"\0\x03\0\x01content");
        assert_ne!(tid.port(), port, "the transfer has a port of its own");
        client.send_to(b"\0\x04\0\x01", tid).unwrap();
        let len = systemd.recv(&mut packet).unwrap();
        assert_eq!(&packet[..len], b"READY=1\n");
        drop(server);
    }
}

/// The socket by which daemons report to systemd.
fn notify_socket(directory: &Path) -> (PathBuf, UnixDatagram) {
    let path = directory.join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(TIMEOUT)).unwrap();
    (path, socket)
}

/// The next report.
fn message(systemd: &UnixDatagram) -> String {
    let mut message = [0; 64];
    let length = systemd.recv(&mut message).unwrap();
    String::from_utf8(message[..length].to_vec()).unwrap()
}

#[test]
fn a_daemon_that_works_reports_to_the_watchdog() {
    let directory = tempfile::tempdir().unwrap();
    let (notify, systemd) = notify_socket(directory.path());
    let receive = || message(&systemd);
    let health = directory.path().join("health.toml");
    let socket = directory.path().join("h1.sock");
    let text = format!(
        "[health]\nname = \"h1\"\nsource = \"192.0.2.1\"\nsocket = \"{}\"\n[[pool]]\nname = \"boot\"\ncheck = {{ kind = \"icmp\" }}\n\
         backends = [{{ name = \"t1\", address = \"192.0.2.2\" }}]\n",
        socket.display()
    );
    std::fs::write(&health, text).unwrap();
    let mut server = Command::new(GUIDEWAY);
    server.args(["tftpd", "--listen", "127.0.0.1:0", "--root"]).arg(directory.path());
    let mut controller = Command::new(GUIDEWAY);
    controller.args(["health", "--config"]).arg(&health);
    for mut daemon in [server, controller] {
        daemon.env("NOTIFY_SOCKET", &notify).env("WATCHDOG_USEC", "500000").stdout(Stdio::null()).stderr(Stdio::null());
        let running = Running(daemon.spawn().unwrap());
        let messages = [receive(), receive(), receive()];
        assert_eq!(messages, ["READY=1\n", "WATCHDOG=1\n", "WATCHDOG=1\n"], "{daemon:?}");
        drop(running);
        systemd.set_nonblocking(true).unwrap();
        while systemd.recv(&mut [0; 64]).is_ok() {}
        systemd.set_nonblocking(false).unwrap();
    }
}

#[test]
fn a_passed_socket_that_cannot_be_used_is_refused_with_the_reason() {
    let directory = tempfile::tempdir().unwrap();
    let refused = |flags: &[&str]| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let output = passed(socket, directory.path(), Path::new("/nonexistent"), flags).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let said = refused(&["--loops", "2"]);
    assert!(said.contains("a passed socket serves one loop"), "{said}");
    let said = refused(&["--listen", "127.0.0.1:0"]);
    assert!(said.contains("which is not in `listen`"), "{said}");
    // A socket for both families, as systemd makes it by default.
    let both = UdpSocket::bind("[::]:0").unwrap();
    let output = passed(both, directory.path(), Path::new("/nonexistent"), &[]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("BindIPv6Only=ipv6-only"), "{said}");
}

#[test]
fn systemd_itself_passes_the_socket() {
    netns_fixture::in_namespace(&[("systemd-socket-activate", "systemd")], || {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("file"), "content").unwrap();
        let mut command = netns_fixture::program("systemd-socket-activate");
        command.args(["--datagram", "--listen=127.0.0.1:69", GUIDEWAY, "tftpd", "--root"]).arg(directory.path());
        let _server = Running(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let output = Command::new(GUIDEWAY).args(["tftp", "get", "-o", "-", "tftp://127.0.0.1/file"]).output().unwrap();
        assert_eq!(output.stdout, b"content", "{}", String::from_utf8_lossy(&output.stderr));
    });
}

/// A file that hangs stands for a root on a mount that hangs: both are read by the reload.
#[test]
fn a_reload_that_hangs_does_not_keep_the_watchdog_waiting() {
    let directory = tempfile::tempdir().unwrap();
    let (notify, systemd) = notify_socket(directory.path());
    let receive = || message(&systemd);
    let file = directory.path().join("tftpd.toml");
    let root = directory.path().display();
    std::fs::write(
        &file,
        format!("[server]\nlisten = \"127.0.0.1:0\"\nsocket = \"{root}/s\"\n[[handler]]\nname = \"files\"\nkind = \"directory\"\nroot = \"{root}\"\n"),
    )
    .unwrap();
    let mut server = Command::new(GUIDEWAY);
    server.args(["tftpd", "--config"]).arg(&file).env("NOTIFY_SOCKET", &notify).env("WATCHDOG_USEC", "500000");
    let running = Running(server.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    assert_eq!(receive(), "READY=1\n");
    std::fs::remove_file(&file).unwrap();
    nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRWXU).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(running.0.id() as i32), nix::sys::signal::Signal::SIGHUP).unwrap();
    // Opens as soon as the reload reads, and gives it nothing.
    let since = std::time::Instant::now();
    let _writer = loop {
        let mut options = std::fs::OpenOptions::new();
        std::os::unix::fs::OpenOptionsExt::custom_flags(options.write(true), nix::fcntl::OFlag::O_NONBLOCK.bits());
        match options.open(&file) {
            Ok(writer) => break writer,
            Err(_) => assert!(since.elapsed() < TIMEOUT, "nothing reads the file"),
        }
    };
    systemd.set_nonblocking(true).unwrap();
    while systemd.recv(&mut [0; 64]).is_ok() {}
    systemd.set_nonblocking(false).unwrap();
    assert_eq!([receive(), receive(), receive()], ["WATCHDOG=1\n"; 3]);
}

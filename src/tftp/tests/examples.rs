//! Runs the examples and fetches from them over the loopback interface.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use guideway_tftp::client::exchange::{ClientSocket, get};
use guideway_tftp::client::{Failure, TransferPlan};
use guideway_tftp::packet::ErrorCode;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// The longest time until an example listens.
const START: Duration = Duration::from_secs(20);

/// A running example. It is killed at the end.
struct Example {
    process: Child,
    address: SocketAddr,
}

impl Example {
    /// Starts an example on a free port and waits until it listens.
    fn start(name: &str, arguments: &[&str]) -> Example {
        let program = program(name);
        let arguments = ["--listen", "127.0.0.1:0"].iter().chain(arguments);
        let mut process = Command::new(&program).args(arguments).stdout(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(process.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        // Reads to the end, so that the example never blocks on a full pipe.
        thread::spawn(move || stdout.lines().map_while(Result::ok).for_each(|line| _ = sender.send(line)));
        let mut example = Example { process, address: SocketAddr::from(([127, 0, 0, 1], 0)) };
        let line = lines.recv_timeout(START).expect("the example says where it listens");
        example.address = line.strip_prefix("listening on ").unwrap().parse().unwrap();
        example
    }

    /// Fetches a file.
    fn fetch(&self, file: &str) -> Result<String, Failure> {
        let mut content = Vec::new();
        let mut socket = ClientSocket::open(self.address, None, 1 << 16).unwrap();
        get(TransferPlan::new(self.address, file), &mut socket, &mut content, &mut |_, _| {})?;
        Ok(String::from_utf8(content).unwrap())
    }

    /// Whether the example answers that there is no such file.
    fn lacks(&self, file: &str) -> bool {
        matches!(self.fetch(file), Err(Failure::Server { code: ErrorCode::NOT_FOUND, .. }))
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// Returns the program of an example. Cargo builds it before the tests of the package, to a directory beside that of this test.
fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let program = test.ancestors().nth(2).unwrap().join("examples").join(name);
    assert!(
        program.exists(),
        "{} is missing: `cargo test --test examples` builds no examples; run `cargo build --examples`",
        program.display()
    );
    program
}

#[test]
fn static_files_serves_a_directory() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("vmlinuz"), "kernel ".repeat(1000)).unwrap();
    let example = Example::start("static_files", &["--root", directory.path().to_str().unwrap()]);
    assert_eq!(example.fetch("vmlinuz").unwrap(), "kernel ".repeat(1000));
    assert!(example.lacks("initrd.img"));
}

#[test]
fn menu_per_mac_knows_each_machine() {
    let example = Example::start("menu_per_mac", &[]);
    assert!(example.fetch("pxelinux.cfg/01-52-54-00-00-00-01").unwrap().contains("inst.mac=52-54-00-00-00-01\n"));
    assert!(example.fetch("pxelinux.cfg/01-52-54-00-00-00-99").unwrap().contains("LOCALBOOT"));
    assert!(example.fetch("pxelinux.cfg/default").unwrap().starts_with("# 127.0.0.1 "));
    assert!(example.fetch("52-54-00-00-00-02.ipxe").unwrap().starts_with("#!ipxe\nkernel "));
    assert!(example.lacks("vmlinuz"));
}

#[test]
fn async_handler_asks_a_service() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let service = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut name = String::new();
            BufReader::new(&stream).read_line(&mut name).unwrap();
            if name.trim_end() != "missing" {
                stream.write_all(format!("content of {name}").as_bytes()).unwrap();
            }
        }
    });
    let example = Example::start("async_handler", &["--service", &service]);
    assert_eq!(example.fetch("boot.cfg").unwrap(), "content of boot.cfg\n");
    assert!(example.lacks("missing"));
}

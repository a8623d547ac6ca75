//! `guideway tftpd` with a configuration, as users run it: over loopback, asked by `guideway tftp get`.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

const GUIDEWAY: &str = env!("CARGO_BIN_EXE_guideway");

/// A running server; it ends with this.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(config: &Path) -> Server {
        let mut command = Command::new(GUIDEWAY);
        command.args(["tftpd", "--listen", "127.0.0.1:0", "--config"]).arg(config);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let said = lines.find_map(|line| line.unwrap().split_once("requests at ").map(|(_, address)| address.to_owned()));
        // Whatever it logs later must not stop it.
        std::thread::spawn(move || lines.for_each(drop));
        Server { child, address: said.unwrap() }
    }

    fn get(&self, file: &str) -> Output {
        Command::new(GUIDEWAY).args(["tftp", "get", "-o", "-"]).arg(format!("tftp://{}/{file}", self.address)).output().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _collected = self.child.wait();
    }
}

#[test]
fn handlers_and_rules_of_a_file_are_served() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    std::fs::create_dir(at("root")).unwrap();
    std::fs::create_dir(at("templates")).unwrap();
    let content: Vec<u8> = (0..50_000u32).flat_map(u32::to_be_bytes).collect();
    std::fs::write(at("root/image"), &content).unwrap();
    std::fs::write(at("root/secret.key"), "not for you").unwrap();
    std::fs::write(at("templates/grub.j2"), "set machine={{ mac }}").unwrap();
    let text = format!(
        r#"
        [[handler]]
        name = "files"
        kind = "directory"
        root = "{0}/root"
        [[handler]]
        name = "grub"
        kind = "template"
        pattern = '^grub\.cfg-(?<mac>[0-9a-f-]+)$'
        directory = "{0}/templates"
        template = "grub.j2"
        [[rule]]
        file = "*.key"
        deny = true
        [[rule]]
        use = ["grub", "files"]
        "#,
        directory.path().display()
    );
    std::fs::write(at("tftpd.toml"), text).unwrap();
    let server = Server::start(&at("tftpd.toml"));
    assert_eq!(server.get("image").stdout, content);
    assert_eq!(server.get("grub.cfg-02-00-5e").stdout, b"set machine=02-00-5e");
    for (file, said) in [("secret.key", "access denied"), ("nothing", "file not found")] {
        let output = server.get(file);
        assert_eq!(output.status.code(), Some(1), "{file}");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(error.contains(said), "{file}: {error}");
    }
}

#[test]
fn a_file_with_errors_is_refused_with_all_of_them() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("bad.toml");
    std::fs::write(&file, "[[handler]]\nname = \"a\"\nkind = \"directry\"\n[[rule]]\nuse = \"b\"\n").unwrap();
    let output = Command::new(GUIDEWAY).args(["tftpd", "--listen", "127.0.0.1:0", "--config"]).arg(&file).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    for part in ["bad.toml:3:", "directry", "bad.toml:5:", "\"b\""] {
        assert!(error.contains(part), "{part}: {error}");
    }
}

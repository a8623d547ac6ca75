//! `netmap-vm` and `nic-vm` say what is wrong with a kernel, modules and options before they build or boot anything. (That a good kernel boots is shown
//! by running it; no kernel is part of this repository.)

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

/// A directory with a file that looks like a kernel of version `6.1.0-test`; removed at the end.
struct Fixture(PathBuf);

impl Fixture {
    fn new(name: &str) -> Fixture {
        let directory = std::env::temp_dir().join(format!("netmap-vm-test-{name}-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        let mut kernel = vec![0u8; 1024];
        kernel[514..518].copy_from_slice(b"HdrS");
        kernel[526..528].copy_from_slice(&64u16.to_le_bytes());
        let version = b"6.1.0-test (someone@somewhere) #1 SMP\0";
        kernel[576..576 + version.len()].copy_from_slice(version);
        fs::write(directory.join("bzImage"), kernel).unwrap();
        Fixture(directory)
    }

    fn module(&self, path: &str, version: &str, depends: &str) {
        let file = self.0.join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, format!("ELF\0license=GPL\0depends={depends}\0vermagic={version} SMP mod_unload \0")).unwrap();
    }

    /// Exit code and what was said on stderr.
    fn run(&self, arguments: &[&str]) -> (i32, String) {
        self.run_tool("netmap-vm", arguments)
    }

    fn run_tool(&self, tool: &str, arguments: &[&str]) -> (i32, String) {
        let Output { status, stderr, .. } = command(tool).current_dir(&self.0).args(arguments).output().unwrap();
        (status.code().unwrap(), String::from_utf8(stderr).unwrap())
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let _left = fs::remove_dir_all(&self.0);
    }
}

fn command(tool: &str) -> Command {
    Command::new(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(tool))
}

#[test]
fn help_ends_with_examples() {
    for tool in ["netmap-vm", "nic-vm"] {
        let output = command(tool).arg("--help").output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && text.rsplit("\n\n").next().unwrap().starts_with("Examples:"), "{text}");
    }
}

#[test]
fn bad_usage_is_2_and_names_the_option() {
    let fixture = Fixture::new("usage");
    for (arguments, said) in [
        (&[][..], "--kernel is missing"),
        (&["--kernel", "bzImage"], "--modules is missing"),
        (&["--kernel"], "--kernel needs a value"),
        (&["--frobnicate", "x"], "`--frobnicate` is no option"),
        (&["--kernel", "bzImage", "--modules", ".", "--check", "everything"], "--check everything: one of conformance lab vale host"),
        (&["--kernel", "bzImage", "--modules", ".", "--timeout", "0"], "--timeout 0: a number of seconds from 1"),
        (&["--kernel", "bzImage", "--modules", ".", "--memory", "lots"], "--memory lots: a number with M or G"),
    ] {
        let (code, text) = fixture.run(arguments);
        assert_eq!(code, 2, "{arguments:?}: {text}");
        assert!(text.contains(said) && text.lines().count() == 1, "{arguments:?}: {text}");
    }
}

#[test]
fn the_tools_have_checks_of_their_own() {
    let fixture = Fixture::new("checks");
    let (code, text) = fixture.run_tool("nic-vm", &["--kernel", "bzImage", "--modules", ".", "--check", "vale"]);
    assert_eq!(
        (code, &*text),
        (2, "nic-vm: --check vale: one of e1000 e1000e virtio igb vlan bond facts; tools/nic-vm --help says what there is\n")
    );
}

#[test]
fn what_cannot_boot_is_said_in_a_line() {
    let fixture = Fixture::new("modules");
    fs::write(fixture.0.join("text"), "no kernel").unwrap();
    let refuses = |kernel: &str, modules: &str, said: &str| {
        let (code, text) = fixture.run(&["--kernel", kernel, "--modules", modules]);
        assert_eq!(code, 1, "{text}");
        assert!(text.contains(said) && text.lines().count() == 1, "{text}");
    };
    fixture.module("none/veth.ko", "6.1.0-test", "");
    refuses("missing", "none", "--kernel missing: there is no such file");
    refuses("text", "none", "--kernel text is no Linux kernel for x86");
    refuses("bzImage", "missing", "--modules missing: there is no such directory");
    refuses("bzImage", "none", "there is no netmap.ko in none: build netmap for the kernel 6.1.0-test");
    fixture.module("other/netmap.ko", "6.1.0-other", "");
    refuses("bzImage", "other", "other/netmap.ko is built for the kernel 6.1.0-other, and bzImage is 6.1.0-test");
    fixture.module("lacks/extra/netmap.ko", "6.1.0-test", "vhost,some-thing");
    fixture.module("lacks/vhost.ko", "6.1.0-test", "");
    refuses("bzImage", "lacks", "lacks/extra/netmap.ko needs the module some-thing, and there is none in lacks");
    fixture.module("lacks/some_thing.ko", "6.1.0-other", "");
    refuses("bzImage", "lacks", "lacks/some_thing.ko is built for the kernel 6.1.0-other");
}

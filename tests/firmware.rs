//! Real firmware boots from `guideway tftpd`: SeaBIOS, iPXE and GRUB in QEMU, which emulates the processor, so that no KVM is needed.
//!
//! What boots is a kernel of the test's own. It sums up its bytes, in the memory that the firmware put them in, and says the sum over the
//! serial line: a byte that is lost, doubled or misplaced on the way is seen.
#![allow(clippy::unwrap_used, clippy::panic)] // A test fails by panicking, in its helpers too.

mod netns_fixture;

use netns_fixture::{Running, Tftpd, ip, program, watch};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

/// A boot takes 4 to 10 seconds on a machine that is not busy.
const TIMEOUT: Duration = Duration::from_secs(120);
const MIB: usize = 1 << 20;
const GRUB: &str = "/usr/lib/grub/i386-pc";
const NEEDS: [(&str, &str); 4] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("/usr/share/seabios/bios-256k.bin", "seabios"),
    ("/usr/lib/ipxe/qemu/efi-virtio.rom", "ipxe-qemu"),
    ("dnsmasq", "dnsmasq-base"),
];

/// A Multiboot kernel of `length` bytes and what it will say: the FNV-1a sum of the 32-bit words after its code, a letter for each 4 bits.
fn kernel(length: usize) -> (Vec<u8>, String) {
    const LOAD: u32 = 1 << 20;
    const CODE: u32 = 32;
    const WORDS: u32 = 256;
    let end = LOAD + length as u32;
    // Multiboot specification 0.6.96, 3.1.1: magic, flags (addresses are in the header), checksum, then the addresses.
    let (magic, flags) = (0x1BAD_B002_u32, 0x1_0000_u32);
    let header = [magic, flags, magic.wrapping_add(flags).wrapping_neg(), LOAD, LOAD, end, end, LOAD + CODE];
    let mut image: Vec<u8> = header.into_iter().flat_map(u32::to_le_bytes).collect();
    image.push(0xBE); // mov esi, address of the words
    image.extend((LOAD + WORDS).to_le_bytes());
    image.push(0xB9); // mov ecx, how many
    image.extend(((length as u32 - WORDS) / 4).to_le_bytes());
    for instruction in [
        &[0xB8, 0xC5, 0x9D, 0x1C, 0x81][..],   // mov eax, 0x811C9DC5
        &[0x33, 0x06],                         // sum: xor eax, [esi]
        &[0x69, 0xC0, 0x93, 0x01, 0x00, 0x01], // imul eax, eax, 0x01000193
        &[0x83, 0xC6, 0x04],                   // add esi, 4
        &[0x49],                               // dec ecx
        &[0x75, 0xF2],                         // jnz sum
        &[0x89, 0xC3],                         // mov ebx, eax
        &[0xB9, 0x09, 0x00, 0x00, 0x00],       // mov ecx, 9: the last one, the first again, may be lost when QEMU ends
        &[0x66, 0xBA, 0xFD, 0x03],             // letter: mov dx, 0x3FD, the state of the serial line
        &[0xEC],                               // busy: in al, dx
        &[0xA8, 0x40],                         // test al, 0x40: all is sent
        &[0x74, 0xFB],                         // jz busy
        &[0x66, 0xBA, 0xF8, 0x03],             // mov dx, 0x3F8
        &[0xC1, 0xC3, 0x04],                   // rol ebx, 4
        &[0x88, 0xD8],                         // mov al, bl
        &[0x24, 0x0F],                         // and al, 15
        &[0x04, b'A'],                         // add al, 'A'
        &[0xEE],                               // out dx, al
        &[0x49],                               // dec ecx
        &[0x75, 0xE6],                         // jnz letter
        &[0xE6, 0xF4],                         // out 0xF4, al: QEMU ends
    ] {
        image.extend(instruction);
    }
    assert!(image.len() <= WORDS as usize);
    image.resize(length, 0);
    fastrand::Rng::with_seed(length as u64).fill(&mut image[WORDS as usize..]);
    let words = image[WORDS as usize..].chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().unwrap()));
    let sum = words.fold(0x811C_9DC5_u32, |sum, word| (sum ^ word).wrapping_mul(0x0100_0193));
    (image, (0..8).rev().map(|digit| char::from(b'A' + (sum >> (4 * digit) & 15) as u8)).collect())
}

/// Boots a machine by network from what is in `root`, beginning with `file`; what it said, the server's counters and log.
fn boot(root: &Path, file: &str, flags: &str) -> (String, Value, Vec<Value>) {
    ip("tuntap add tap0 mode tap");
    ip("address add 10.77.0.1/24 dev tap0");
    ip("address add 2001:db8:77::1/64 dev tap0 nodad");
    ip("link set tap0 up");
    let mut dnsmasq = program("dnsmasq");
    // It must stay root: the kernel would forget whom it is to die with.
    dnsmasq.args(["--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root", "--group=root", "--pid-file="]);
    dnsmasq.args(["--interface=tap0", "--bind-dynamic", "--leasefile-ro", "--log-facility=-", "--no-ping", "--dhcp-authoritative"]);
    dnsmasq.args(["--dhcp-range=10.77.0.100,10.77.0.110", "--enable-ra", "--dhcp-range=2001:db8:77::,ra-only"]);
    // iPXE need not wait for a proxy DHCP server, which takes 14 s here.
    dnsmasq.args(["--dhcp-option=encap:175,176,1b", &format!("--dhcp-boot={file},,10.77.0.1")]);
    let _dnsmasq = Running(dnsmasq.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let tftpd = Tftpd::start(root, &format!("--listen [::]:69 --http [::]:80 {flags}"), "debug");
    let mut qemu = program("qemu-system-x86_64");
    qemu.args(["-accel", "tcg", "-machine", "pc,graphics=off", "-m", "512", "-nodefaults", "-display", "none", "-serial", "stdio"]);
    qemu.args(["-boot", "n", "-no-reboot", "-device", "isa-debug-exit,iobase=0xf4", "-device", "virtio-net-pci,netdev=net"]);
    qemu.args(["-netdev", "tap,id=net,ifname=tap0,script=no,downscript=no"]);
    let said = watch(Running(qemu.stdout(Stdio::piped()).spawn().unwrap()), TIMEOUT);
    let (counters, transfers) = tftpd.stop();
    (said, counters, transfers)
}

/// How the transfers of `file` ended and how many bytes they had.
fn transfers<'a>(log: &'a [Value], file: &str) -> Vec<(&'a str, u64)> {
    let of = log.iter().filter(|line| line["file"] == file);
    of.map(|line| (line["outcome"].as_str().unwrap(), line["bytes"].as_u64().unwrap())).collect()
}

/// iPXE runs a script that fetches the kernel by IPv4 and by IPv6, and boots one of them.
fn ipxe(flags: &str) {
    let root = tempfile::tempdir().unwrap();
    let (four, unused) = kernel(2 * MIB);
    let (six, sum) = kernel(4 * MIB);
    std::fs::write(root.path().join("four"), four).unwrap();
    std::fs::write(root.path().join("six"), six).unwrap();
    let script = "#!ipxe\n\
        imgfetch tftp://${next-server}/nothing || echo it is not there\n\
        imgfetch tftp://${next-server}/four || reboot\n\
        imgfetch tftp://[2001:db8:77::1]/six || reboot\n\
        imgfetch http://${next-server}/nothing || echo nor is it there by HTTP\n\
        imgfetch --name web http://${next-server}/four || reboot\n\
        imgstat\n\
        echo now it boots\n\
        imgexec six || reboot\n";
    std::fs::write(root.path().join("boot.ipxe"), script).unwrap();
    let (said, counters, log) = boot(root.path(), "boot.ipxe", flags);
    for part in [
        "it is not there",
        "nor is it there by HTTP",
        "web : 2097152 bytes [Multiboot]",
        "four : 2097152 bytes [Multiboot]",
        "six : 4194304 bytes [Multiboot]",
        &sum,
    ] {
        assert!(said.contains(part), "{part} is not in: {said}");
    }
    assert!(!said.contains(&unused), "{said}");
    assert_eq!(transfers(&log, "boot.ipxe"), [("done", script.len() as u64)]);
    let (web, log): (Vec<Value>, _) = log.into_iter().partition(|line| line["protocol"] == "http");
    assert_eq!(transfers(&web, "four"), [("done", 2 * MIB as u64)]);
    for (file, length) in [("four", 2 * MIB), ("six", 4 * MIB)] {
        // A machine that is busy elsewhere may let a time-out pass, and blocks be sent again.
        assert!(matches!(transfers(&log, file)[..], [("done", bytes)] if bytes >= length as u64), "{log:?}");
    }
    let counts = ["requests", "http_requests", "done", "refused", "open"].map(|key| counters[key].as_u64().unwrap());
    assert_eq!(counts, [4, 2, 4, 2, 0], "{counters:#}");
}

#[test]
fn ipxe_boots() {
    netns_fixture::in_namespace(&NEEDS, || ipxe(""));
}

#[test]
fn ipxe_boots_from_a_single_port() {
    netns_fixture::in_namespace(&NEEDS, || ipxe("--single-port"));
}

#[test]
fn ipxe_boots_more_than_65535_blocks() {
    netns_fixture::in_namespace(&NEEDS, || {
        let root = tempfile::tempdir().unwrap();
        // Its blocks have 1432 bytes.
        let (image, sum) = kernel(90 * MIB);
        std::fs::write(root.path().join("kernel"), image).unwrap();
        std::fs::write(root.path().join("boot.ipxe"), "#!ipxe\nkernel kernel || reboot\nboot || reboot\n").unwrap();
        let (said, counters, _) = boot(root.path(), "boot.ipxe", "");
        assert!(said.contains(&sum), "{said}");
        assert_eq!(counters["done"], 2, "{counters:#}");
        assert!(counters["packets_sent"].as_u64().unwrap() > 65_536, "{counters:#}");
    });
}

/// GRUB, itself loaded by iPXE, fetches its modules and its configuration, sums a file up and boots a kernel.
fn grub(flags: &str) {
    let root = tempfile::tempdir().unwrap();
    let netdir = ["--net-directory", root.path().to_str().unwrap(), "--subdir=grub", "--fonts=", "--locales=", "--themes=", "-d", GRUB];
    let made = program("grub-mknetdir").args(netdir).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let (image, sum) = kernel(2 * MIB);
    let sha256 = Sha256::digest(&image).iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    });
    std::fs::write(root.path().join("kernel"), image).unwrap();
    let config = "serial --unit=0\nterminal_output serial\nsha256sum /kernel (http,10.77.0.1)/kernel\nmultiboot /kernel\nboot\n";
    std::fs::write(root.path().join("grub/grub.cfg"), config).unwrap();
    let (said, counters, log) = boot(root.path(), "grub/i386-pc/core.0", flags);
    // GRUB breaks the longer line.
    assert_eq!(said.matches(&sha256).count(), 2, "by TFTP and by HTTP: {said}");
    for part in [&format!("{sha256}  /kernel"), &sum] {
        assert!(said.contains(part), "{part} is not in: {said}");
    }
    let (web, log): (Vec<Value>, _) = log.into_iter().partition(|line| line["protocol"] == "http");
    // GRUB looks whether a file is a directory, or compressed, by opening it several times.
    assert!(transfers(&web, "kernel").contains(&("done", 2 * MIB as u64)), "{web:?}");
    let twice = transfers(&log, "/kernel");
    assert!(twice.len() == 2 && twice.iter().all(|(outcome, bytes)| *outcome == "done" && *bytes >= 2 * MIB as u64), "{log:?}");
    assert_eq!(transfers(&log, "/grub/grub.cfg"), [("done", config.len() as u64)]);
    let of_address = log.iter().filter(|line| line["file"].as_str().unwrap().starts_with("/grub/grub.cfg-"));
    assert!(of_address.clone().count() >= 9 && of_address.clone().all(|line| line["outcome"] == "refused"), "{log:?}");
    let ended = ["done", "refused", "probed", "aborted"].map(|key| counters[key].as_u64().unwrap());
    let requests = counters["requests"].as_u64().unwrap() + counters["http_requests"].as_u64().unwrap();
    assert_eq!((ended.iter().sum::<u64>(), &counters["open"]), (requests, &0.into()), "{counters:#}");
}

#[test]
fn grub_boots() {
    netns_fixture::in_namespace(&grub_needs(), || grub(""));
}

#[test]
fn grub_boots_from_a_single_port() {
    netns_fixture::in_namespace(&grub_needs(), || grub("--single-port"));
}

fn grub_needs() -> Vec<(&'static str, &'static str)> {
    [&NEEDS[..], &[("grub-mknetdir", "grub-common"), ("/usr/lib/grub/i386-pc/pxeboot.img", "grub-pc-bin")]].concat()
}

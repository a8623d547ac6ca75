use super::*;
use crate::handlers::testing::{read_all, request, settle, start};
use crate::packet::ErrorCode;
use std::fs;
use std::os::unix::fs::symlink;

/// A root with files, and a secret file outside of it.
fn place() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    fs::create_dir_all(root.join("boot/Grub")).unwrap();
    fs::write(root.join("boot/Grub/grub.cfg"), "menu").unwrap();
    fs::write(root.join("plain"), "plain").unwrap();
    fs::write(dir.path().join("secret"), "secret").unwrap();
    symlink("boot/Grub/grub.cfg", root.join("link")).unwrap();
    symlink("../secret", root.join("out")).unwrap();
    symlink(dir.path().join("secret"), root.join("absolute")).unwrap();
    nix::unistd::mkfifo(&root.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    dir
}

fn directory(dir: &tempfile::TempDir, options: DirectoryOptions) -> Directory {
    Directory::new(dir.path().join("root"), options).unwrap()
}

/// Opens as the engine does, and on other threads. Both ways have the same result.
fn open(directory: &Directory, file: &[u8]) -> Opened {
    let elsewhere = settle(start(directory, file));
    match directory.open_now(&request("198.51.100.7:2000".parse().unwrap(), file)) {
        Some(now) => {
            assert_eq!(now.as_ref().map(|content| content.version()), elsewhere.as_ref().map(|content| content.version()));
            now
        }
        None => elsewhere,
    }
}

fn read(content: &Content) -> io::Result<Vec<u8>> {
    read_all(content)
}

fn bytes(directory: &Directory, file: &[u8]) -> Result<Vec<u8>, ErrorCode> {
    open(directory, file).map(|content| read(&content).unwrap()).map_err(|refusal| refusal.code.unwrap())
}

#[test]
fn names_as_firmware_writes_them() {
    let dir = place();
    let d = directory(&dir, DirectoryOptions::default());
    for name in
        [&b"boot/Grub/grub.cfg"[..], b"/boot/Grub/grub.cfg", b"//boot//Grub/grub.cfg", b"\\boot\\Grub\\grub.cfg", b"boot/Grub/grub.cfg\xff"]
            .into_iter()
            .chain([&b"boot/../boot/Grub/grub.cfg"[..], b"./link", b".\\link", b"link/", b"plain/../link"])
    {
        assert_eq!(bytes(&d, name), Ok(b"menu".to_vec()), "{}", name.escape_ascii());
    }
    assert_eq!(bytes(&d, b"BOOT/grub/GRUB.CFG"), Err(ErrorCode::NOT_FOUND));
}

#[test]
fn nothing_outside_the_root_and_nothing_but_regular_files() {
    let dir = place();
    let d = directory(&dir, DirectoryOptions::default());
    for (name, code) in [
        (&b"../secret"[..], ErrorCode::ACCESS),
        (b"/../secret", ErrorCode::ACCESS),
        (b"..\\secret", ErrorCode::ACCESS),
        (b"boot/../../secret", ErrorCode::ACCESS),
        (b"out", ErrorCode::ACCESS),
        (b"absolute", ErrorCode::ACCESS),
        (b"", ErrorCode::NOT_FOUND),
        (b"/", ErrorCode::NOT_FOUND),
        (b".", ErrorCode::NOT_FOUND),
        (b"boot", ErrorCode::NOT_FOUND),
        (b"fifo", ErrorCode::NOT_FOUND),
        (b"plain/x", ErrorCode::NOT_FOUND),
        (b"missing", ErrorCode::NOT_FOUND),
        (&[b'a'; 700], ErrorCode::NOT_FOUND),
    ] {
        assert_eq!(bytes(&d, name), Err(code), "{}", name.escape_ascii());
    }
}

#[test]
fn symbolic_links_can_be_refused() {
    let dir = place();
    let d = directory(&dir, DirectoryOptions { symlinks: false, ..DirectoryOptions::default() });
    assert_eq!(bytes(&d, b"link"), Err(ErrorCode::ACCESS));
    assert_eq!(bytes(&d, b"plain"), Ok(b"plain".to_vec()));
}

#[test]
fn case_can_be_ignored() {
    let dir = place();
    let d = directory(&dir, DirectoryOptions { ignore_case: true, ..DirectoryOptions::default() });
    assert_eq!(bytes(&d, b"\\BOOT\\GRUB\\GRUB.CFG"), Ok(b"menu".to_vec()));
    assert_eq!(bytes(&d, b"BOOT/../../SECRET"), Err(ErrorCode::ACCESS), "it leads out");
    assert_eq!(bytes(&d, b"BOOT/NONE"), Err(ErrorCode::NOT_FOUND));
}

#[test]
fn one_file_is_opened_once_and_again_when_it_was_changed() {
    let dir = place();
    let d = directory(&dir, DirectoryOptions::default());
    let first = open(&d, b"plain").unwrap();
    let second = open(&d, b"/plain").unwrap();
    assert!(Arc::ptr_eq(&first.0, &second.0));
    fs::write(dir.path().join("root/plain"), "longer than before").unwrap();
    let third = open(&d, b"plain").unwrap();
    assert!(!Arc::ptr_eq(&first.0, &third.0));
    assert_ne!(first.version(), third.version());
    assert!(read(&first).unwrap_err().to_string().contains("changed"));
    assert_eq!(read(&third).unwrap(), b"longer than before");
}

#[test]
fn a_root_that_is_not_a_directory() {
    let dir = place();
    assert!(Directory::new(dir.path().join("secret"), DirectoryOptions::default()).is_err());
    assert!(Directory::new(dir.path().join("missing"), DirectoryOptions::default()).is_err());
}

use super::*;
use crate::handlers::testing::{read_all, request, settle, start};
use crate::packet::ErrorCode;
use std::fs;
use std::future::Future;
use std::os::unix::fs::{PermissionsExt, symlink};

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
    assert_eq!(read(&first).unwrap(), b"plain", "a small file was read when it was opened");
    assert_eq!(read(&third).unwrap(), b"longer than before");
}

#[test]
fn metadata_may_change_during_a_transfer_but_not_a_byte() {
    let dir = place();
    let d = directory(&dir, DirectoryOptions::default());
    for size in [10, 60 * 1024, 100 * 1024, 300 * 1024] {
        let (file, bytes) = (dir.path().join("root/plain"), vec![b'a'; size]);
        fs::write(&file, &bytes).unwrap();
        let before = fs::metadata(&file).unwrap().modified().unwrap();
        let content = open(&d, b"plain").unwrap();
        let now = std::time::SystemTime::now() + std::time::Duration::from_secs(9);
        let times = fs::FileTimes::new().set_accessed(now).set_modified(now);
        fs::File::options().write(true).open(&file).unwrap().set_times(times).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(read(&content).unwrap(), bytes, "touched, {size}");
        fs::hard_link(&file, dir.path().join("link")).unwrap();
        fs::remove_file(dir.path().join("link")).unwrap();
        assert_eq!(read(&content).unwrap(), bytes, "a link came and went");
        fs::write(dir.path().join("root/new"), "another file").unwrap();
        let replaced = open(&d, b"plain").unwrap();
        fs::rename(dir.path().join("root/new"), &file).unwrap();
        assert_eq!(read(&replaced).unwrap(), bytes, "replaced by another one");

        fs::write(&file, &bytes).unwrap();
        let changed = open(&d, b"plain").unwrap();
        assert_eq!(read(&changed).unwrap(), bytes);
        // At once, in the same step of a file system's clock, and as if it had not been.
        let again = fs::File::options().write(true).open(&file).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&again, b"b", 5).unwrap();
        again.set_modified(before).unwrap();
        match read(&changed) {
            Ok(old) => assert!(old == bytes && size < 64 * 1024, "small files were read when they were opened, {size}"),
            Err(error) => assert!(error.to_string().contains("changed"), "{size}: {error}"),
        }
        drop(changed);
        assert_eq!(read(&open(&d, b"plain").unwrap()).unwrap()[5], b'b');
    }
}

#[test]
fn a_process_of_root_serves_what_everybody_may_read() {
    let dir = place();
    let d = directory(&dir, DirectoryOptions::default());
    fs::set_permissions(dir.path().join("root/plain"), fs::Permissions::from_mode(0o640)).unwrap();
    let expected = if geteuid().is_root() { Err(ErrorCode::ACCESS) } else { Ok(b"plain".to_vec()) };
    assert_eq!(bytes(&d, b"plain"), expected);
    fs::set_permissions(dir.path().join("root/plain"), fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(bytes(&d, b"plain"), Ok(b"plain".to_vec()));
}

#[test]
fn absolute_links_and_a_root_that_is_replaced() {
    let dir = place();
    symlink(dir.path().join("root/plain"), dir.path().join("root/full")).unwrap();
    symlink("/plain", dir.path().join("root/chrooted")).unwrap();
    symlink("root", dir.path().join("current")).unwrap();
    for ignore_case in [false, true] {
        let d = Directory::new(dir.path().join("current"), DirectoryOptions { ignore_case, ..DirectoryOptions::default() }).unwrap();
        for name in [&b"full"[..], b"chrooted"] {
            assert_eq!(bytes(&d, name), Ok(b"plain".to_vec()), "{}", name.escape_ascii());
        }
    }
    let d = Directory::new(dir.path().join("current"), DirectoryOptions::default()).unwrap();
    assert_eq!(bytes(&d, b"plain"), Ok(b"plain".to_vec()));
    fs::create_dir(dir.path().join("next")).unwrap();
    fs::write(dir.path().join("next/plain"), "next release").unwrap();
    symlink("next", dir.path().join("switch")).unwrap();
    fs::rename(dir.path().join("switch"), dir.path().join("current")).unwrap();
    assert_eq!(bytes(&d, b"plain"), Ok(b"next release".to_vec()));
    assert_eq!(bytes(&d, b"link"), Err(ErrorCode::NOT_FOUND));
}

#[test]
fn a_root_that_is_not_a_directory() {
    let dir = place();
    assert!(Directory::new(dir.path().join("secret"), DirectoryOptions::default()).is_err());
    assert!(Directory::new(dir.path().join("missing"), DirectoryOptions::default()).is_err());
}

#[test]
fn a_flood_of_names_below_a_mount_that_hangs_is_bounded_and_forgotten() {
    let dir = place();
    let d = directory(&dir, DirectoryOptions::default());
    let runtime = crate::handlers::testing::runtime();
    let _entered = runtime.enter();
    let hung = Arc::clone(&d.0.own_places).try_acquire_many_owned(MAX_OPENING as u32).unwrap();
    let client = "198.51.100.7:2000".parse().unwrap();
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let mut waiting: Vec<_> = (0..MAX_WAITING).map(|n| Box::pin(d.open(request(client, format!("n{n}").as_bytes())))).collect();
    assert!(waiting.iter_mut().all(|open| open.as_mut().poll(&mut context).is_pending()));
    assert_eq!(settle(start(&d, b"beyond")).unwrap_err(), Refusal::overloaded());
    // Their clients have gone: when the mount answers again, no thread opens anything for them.
    drop(waiting);
    drop(hung);
    let since = std::time::Instant::now();
    while !lock(&d.0.opening).is_empty() {
        assert!(since.elapsed() < std::time::Duration::from_secs(10));
        std::thread::yield_now();
    }
    assert_eq!(bytes(&d, b"plain"), Ok(b"plain".to_vec()));
}

#[test]
fn names_in_another_case_need_no_place_of_what_is_mounted_below() {
    let dir = place();
    let d = directory(&dir, DirectoryOptions { ignore_case: true, ..DirectoryOptions::default() });
    let _hung = Arc::clone(&d.0.mounted_places).try_acquire_many_owned(MAX_OPENING as u32).unwrap();
    assert_eq!(bytes(&d, b"BOOT/grub/GRUB.cfg"), Ok(b"menu".to_vec()));
    assert_eq!(bytes(&d, b"pxelinux.cfg/C0A80001"), Err(ErrorCode::NOT_FOUND));
}

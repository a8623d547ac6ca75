use super::*;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

/// A directory with a file, a directory and links, and a file outside of it.
fn place() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("root/switches")).unwrap();
    fs::create_dir(dir.path().join("beside")).unwrap();
    fs::write(dir.path().join("root/there"), "there").unwrap();
    symlink("../beside", dir.path().join("root/out")).unwrap();
    symlink("switches", dir.path().join("root/in")).unwrap();
    symlink("nothing", dir.path().join("root/dangling")).unwrap();
    dir
}

fn writable(dir: &tempfile::TempDir, settings: Settings, nameless: bool) -> Writable {
    Writable::with(&dir.path().join("root"), settings, nameless).unwrap()
}

fn names(dir: &tempfile::TempDir) -> Vec<String> {
    let mut names: Vec<_> = dir.path().join("root").read_dir().unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

const BEFORE: [&str; 5] = ["dangling", "in", "out", "switches", "there"];

#[test]
fn a_file_is_there_when_it_is_complete_and_not_before() {
    for nameless in [true, false] {
        let dir = place();
        let w = writable(&dir, Settings::default(), nameless);
        let bytes = vec![7; BUFFER + 1];
        let mut file = w.begin(b"\\switches\\s1.cfg\xff").unwrap().unwrap();
        file.write(&bytes).unwrap();
        let to = dir.path().join("root/switches/s1.cfg");
        assert!(!to.exists());
        file.persist().unwrap();
        assert_eq!(fs::read(&to).unwrap(), bytes);
        assert_eq!(fs::metadata(&to).unwrap().permissions().mode() & 0o777 & !0o640, 0);
        let mut given_up = w.begin(b"half").unwrap().unwrap();
        given_up.write(&bytes).unwrap();
        drop(given_up);
        w.begin(b"/empty").unwrap().unwrap().persist().unwrap();
        assert_eq!(names(&dir), ["dangling", "empty", "in", "out", "switches", "there"], "without a name: {nameless}");
    }
}

#[test]
fn nothing_is_overwritten() {
    for nameless in [true, false] {
        let dir = place();
        let w = writable(&dir, Settings::default(), nameless);
        for name in [&b"there"[..], b"dangling", b"switches", b"in"] {
            assert_eq!(w.begin(name).unwrap_err().code, Some(ErrorCode::EXISTS), "{}", name.escape_ascii());
        }
        let (mut first, second) = (w.begin(b"new").unwrap().unwrap(), w.begin(b"new").unwrap().unwrap());
        first.write(b"first").unwrap();
        first.persist().unwrap();
        assert_eq!(second.persist().unwrap_err().code, Some(ErrorCode::EXISTS), "the first complete file wins");
        assert_eq!(fs::read(dir.path().join("root/new")).unwrap(), b"first");
    }
}

#[test]
fn no_name_leads_out_or_hides() {
    let dir = place();
    let w = writable(&dir, Settings::default(), true);
    for (name, code) in [
        (&b"../beside/f"[..], ErrorCode::ACCESS),
        (b"switches/../../beside/f", ErrorCode::ACCESS),
        (b"..\\beside\\f", ErrorCode::ACCESS),
        (b"out/f", ErrorCode::ACCESS),
        (b"in/f", ErrorCode::ACCESS),
        (b".hidden", ErrorCode::ACCESS),
        (b".ssh/authorized_keys", ErrorCode::ACCESS),
        (b"..", ErrorCode::ACCESS),
        (b"nowhere/f", ErrorCode::NOT_FOUND),
        (b"there/f", ErrorCode::NOT_FOUND),
        (b"", ErrorCode::ILLEGAL),
        (b"//", ErrorCode::ILLEGAL),
        (b"\xff", ErrorCode::ILLEGAL),
        (&[b'x'; 300], ErrorCode::ILLEGAL),
    ] {
        assert_eq!(w.begin(name).unwrap_err().code, Some(code), "{}", name.escape_ascii());
        assert_eq!(w.check(name).unwrap_err().code, Some(code), "{}", name.escape_ascii());
    }
    // A leading slash means the served directory.
    w.begin(b"/etc.cfg").unwrap().unwrap().persist().unwrap();
    assert!(dir.path().join("root/etc.cfg").exists());
    assert_eq!(dir.path().join("beside").read_dir().unwrap().count(), 0);
}

#[test]
fn size_and_number_have_limits() {
    let dir = place();
    let w = writable(&dir, Settings { limit: 10, concurrent: 2, ..Settings::default() }, true);
    let mut file = w.begin(b"a").unwrap().unwrap();
    file.write(&[0; 10]).unwrap();
    assert_eq!(file.write(&[0; 1]), Err(too_large(10)));
    let second = w.begin(b"b").unwrap().unwrap();
    assert!(w.begin(b"c").unwrap().is_none());
    drop(file);
    drop(w.begin(b"c").unwrap().unwrap());
    drop(second);
    assert_eq!(names(&dir), BEFORE);
    assert_eq!(w.0.quota.usage().open, 0);
}

#[test]
fn the_directory_has_a_quota_and_removed_files_are_noticed() {
    let dir = place();
    fs::write(dir.path().join("root/switches/s1"), [0; 100]).unwrap();
    // Five entries exist: two files, three links.
    let w = writable(&dir, Settings { files: 7, total: Some(200), ..Settings::default() }, true);
    let there = w.0.quota.usage_now();
    assert_eq!((there.0, there.1 >= 105), (5, true));
    let left = 200 - there.1;
    let mut first = w.begin(b"a").unwrap().unwrap();
    let second = w.begin(b"b").unwrap().unwrap();
    assert!(w.begin(b"c").unwrap().is_none(), "both running uploads may be stored");
    first.write(&vec![0; left as usize]).unwrap();
    assert_eq!(first.write(&[0; 1]), Err(quota::full()));
    drop(first);
    let mut first = w.begin(b"a").unwrap().unwrap();
    first.write(&[1; 2]).unwrap();
    first.persist().unwrap();
    second.persist().unwrap();
    assert_eq!(w.0.quota.usage_now(), (7, there.1 + 2));
    assert_eq!((w.check(b"c"), w.begin(b"c").unwrap_err()), (Err(quota::full()), quota::full()));
    // A file is removed. The next count notices it; requests during the count are to be repeated.
    fs::remove_file(dir.path().join("root/a")).unwrap();
    w.0.quota.usage().expire_count();
    w.check(b"c").unwrap();
    let file = loop {
        if let Some(file) = w.begin(b"c").unwrap() {
            break file;
        }
        std::thread::yield_now();
    };
    file.persist().unwrap();
    assert_eq!(w.0.quota.usage_now(), (7, there.1));
}

/// Environment variable that is set in a process that writes and is killed.
const KILLED: &str = "GUIDEWAY_TEST_KILLED";

#[test]
fn a_process_that_is_killed_while_it_writes_leaves_nothing() {
    if let Ok(root) = std::env::var(KILLED) {
        let mut file = Writable::with(Path::new(&root), Settings::default(), false).unwrap().begin(b"f").unwrap().unwrap();
        file.write(&[7; BUFFER + 1]).unwrap();
        println!("under way");
        loop {
            std::thread::park();
        }
    }
    let dir = place();
    let name = "writable::tests::a_process_that_is_killed_while_it_writes_leaves_nothing";
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture"]).env(KILLED, dir.path().join("root")).stdout(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    let output = io::BufRead::lines(io::BufReader::new(child.stdout.take().unwrap()));
    let began = output.map_while(Result::ok).any(|line| line.contains("under way"));
    let there = names(&dir);
    let _again = writable(&dir, Settings::default(), false);
    let while_it_writes = names(&dir);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(began);
    let temporary: Vec<_> = there.iter().filter(|name| !BEFORE.contains(&name.as_str())).collect();
    assert!(matches!(&temporary[..], [name] if name.starts_with(TEMPORARY)), "{there:?}");
    assert_eq!(while_it_writes, there, "the start of another server keeps it");
    assert_eq!(names(&dir), there, "the kernel does not remove it");
    let _after = writable(&dir, Settings::default(), false);
    assert_eq!(names(&dir), BEFORE);
}

#[test]
fn temporary_files_of_a_crash_are_removed_and_running_uploads_stay() {
    let dir = place();
    let other = writable(&dir, Settings::default(), false);
    let mut file = other.begin(b"f").unwrap().unwrap();
    file.write(b"bytes").unwrap();
    let left = dir.path().join("root").join(format!("{TEMPORARY}1-0"));
    fs::write(&left, "half").unwrap();
    let _ours = writable(&dir, Settings::default(), false);
    assert!(!left.exists());
    file.persist().unwrap();
    assert_eq!(fs::read(dir.path().join("root/f")).unwrap(), b"bytes");
    assert_eq!(names(&dir).len(), BEFORE.len() + 1);
}

#[test]
fn a_root_that_is_replaced_takes_the_next_files() {
    for nameless in [true, false] {
        let dir = place();
        symlink("root", dir.path().join("current")).unwrap();
        let settings = Settings { files: 7, ..Settings::default() };
        let w = Writable::with(&dir.path().join("current"), settings, nameless).unwrap();
        let mut running = w.begin(b"running").unwrap().unwrap();
        running.write(b"bytes").unwrap();
        symlink("beside", dir.path().join("switch")).unwrap();
        fs::rename(dir.path().join("switch"), dir.path().join("current")).unwrap();
        w.begin(b"next").unwrap().unwrap().persist().unwrap();
        assert!(dir.path().join("beside/next").exists());
        assert_eq!(w.0.quota.usage_now().0, 1, "the new directory was counted");
        running.persist().unwrap();
        assert_eq!(names(&dir), ["dangling", "in", "out", "running", "switches", "there"]);
        assert_eq!(w.begin(b"switches/s1").unwrap_err().code, Some(ErrorCode::NOT_FOUND));
    }
}

#[test]
fn a_file_as_root_is_refused() {
    let dir = place();
    assert!(Writable::new(dir.path().join("root/there"), Settings::default()).is_err());
    assert!(Writable::new(dir.path().join("nothing"), Settings::default()).is_err());
}

#[test]
fn a_file_that_gets_its_name_during_a_count_is_counted_once() {
    let dir = place();
    let w = writable(&dir, Settings::default(), true);
    let mut file = w.begin(b"a").unwrap().unwrap();
    file.slot.storing();
    fs::write(dir.path().join("root/a"), "").unwrap();
    w.0.quota.count().unwrap();
    file.slot.persist();
    drop(file);
    assert_eq!(w.0.quota.usage_now().0, BEFORE.len() - 1 + 1, "four entries that are no directories, and the new one");
    w.0.quota.count().unwrap();
    assert_eq!(w.0.quota.usage_now().0, BEFORE.len() - 1 + 1);
}

#[test]
fn a_new_directory_whose_count_is_no_use_is_counted_again() {
    let dir = place();
    symlink("root", dir.path().join("current")).unwrap();
    let w = Writable::with(&dir.path().join("current"), Settings::default(), true).unwrap();
    let mut running = w.begin(b"running").unwrap().unwrap();
    running.slot.storing();
    symlink("beside", dir.path().join("switch")).unwrap();
    fs::rename(dir.path().join("switch"), dir.path().join("current")).unwrap();
    w.check(b"next").unwrap();
    drop(running);
    w.check(b"next").unwrap();
    assert_eq!(w.0.quota.usage_now().0, 0, "the new directory is empty");
}

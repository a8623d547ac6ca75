use super::*;
use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;

/// A root with a file and links, and a file outside of it.
fn place() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    fs::create_dir_all(root.join("images")).unwrap();
    fs::write(root.join("images/vmlinuz"), "kernel").unwrap();
    fs::write(dir.path().join("secret"), "secret").unwrap();
    for (link, target) in [
        ("relative", "images/vmlinuz".into()),
        ("full", root.join("images/vmlinuz")),
        ("directory", root.join("images")),
        ("chrooted", "/images/vmlinuz".into()),
        ("chain", "/full".into()),
        ("images/up", "../images/vmlinuz".into()),
        ("loop", "/loop".into()),
        ("out", "../secret".into()),
        ("absolute", dir.path().join("secret")),
        ("beyond", "/../secret".into()),
        ("back", root.join("../secret")),
        ("none", root.join("missing")),
    ] {
        symlink(target, root.join(link)).unwrap();
    }
    dir
}

fn read(root: &OpenRoot, name: &str, symlinks: bool) -> Result<String, Errno> {
    let mut text = String::new();
    let file = root.open(Path::new(name), OFlag::O_RDONLY, Reach::Mounted, symlinks)?;
    File::from(file).read_to_string(&mut text).unwrap();
    Ok(text)
}

#[test]
fn links_that_stay_below_are_followed_and_no_others_with_and_without_openat2() {
    let dir = place();
    for openat2 in [true, false] {
        let path = dir.path().join("root");
        let mut root = OpenRoot::of(&path, directory(&path).unwrap()).unwrap();
        assert!(root.openat2, "this kernel has it");
        root.openat2 = openat2;
        for name in ["images/vmlinuz", "./images//vmlinuz", "relative", "full", "directory/vmlinuz", "chrooted", "chain", "images/up"] {
            assert_eq!(read(&root, name, true), Ok("kernel".to_owned()), "{name} {openat2}");
        }
        for (name, errno) in [
            ("out", Errno::EXDEV),
            ("absolute", Errno::EXDEV),
            ("beyond", Errno::EXDEV),
            ("back", Errno::EXDEV),
            ("none", Errno::ENOENT),
            ("missing", Errno::ENOENT),
            ("loop", Errno::ELOOP),
            ("images/vmlinuz/x", Errno::ENOTDIR),
        ] {
            assert_eq!(read(&root, name, true), Err(errno), "{name} {openat2}");
        }
        for name in ["relative", "full", "directory/vmlinuz", "chrooted"] {
            assert_eq!(read(&root, name, false), Err(Errno::ELOOP), "{name} {openat2}");
        }
    }
}

#[test]
fn a_replaced_directory_is_opened_anew() {
    let dir = place();
    let current = dir.path().join("current");
    symlink("root", &current).unwrap();
    let root = Root::open(&current).unwrap();
    assert_eq!(read(&root.current_now().unwrap(), "relative", true), Ok("kernel".to_owned()));
    fs::create_dir(dir.path().join("next")).unwrap();
    fs::write(dir.path().join("next/relative"), "next kernel").unwrap();
    fs::remove_file(&current).unwrap();
    assert_eq!(read(&root.current(), "relative", true), Ok("kernel".to_owned()), "no directory has the name");
    symlink("next", &current).unwrap();
    assert!(root.current_now().is_none_or(|root| read(&root, "relative", true) == Ok("next kernel".to_owned())));
    assert_eq!(read(&root.current(), "relative", true), Ok("next kernel".to_owned()));
    assert_eq!(read(&root.current_now().unwrap(), "relative", true), Ok("next kernel".to_owned()));
}

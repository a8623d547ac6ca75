use super::*;
use crate::handlers::testing::{read_at, read_source};
use std::time::{Duration, SystemTime};

const CHUNK: usize = 64 * 1024;

/// Opens a file as one on a file system of another host.
fn remote(path: &std::path::Path) -> FileContent {
    let file = File::open(path).unwrap();
    let metadata = file.metadata().unwrap();
    FileContent::of(file, &metadata, false, Access::Blocking).unwrap()
}

fn touch(path: &std::path::Path) {
    File::options().write(true).open(path).unwrap().set_modified(SystemTime::now() + Duration::from_secs(9)).unwrap();
}

/// Reads a byte of a chunk.
fn byte(content: &FileContent, chunk: usize) -> io::Result<u8> {
    let mut buffer = [0];
    read_at(content, (chunk * CHUNK) as u64, &mut buffer).map(|_| buffer[0])
}

#[test]
fn a_remote_file_may_be_touched_and_rewritten_with_the_same_bytes_but_not_with_others() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("f");
    let bytes: Vec<u8> = (0..9 * CHUNK).map(|n| (n / CHUNK) as u8).collect();
    std::fs::write(&path, &bytes).unwrap();
    let content = remote(&path);
    assert_eq!(byte(&content, 0).unwrap(), 0);
    touch(&path);
    assert_eq!(byte(&content, 1).unwrap(), 1, "touched");
    std::fs::hard_link(&path, directory.path().join("link")).unwrap();
    assert_eq!(byte(&content, 2).unwrap(), 2, "it has another link");
    // As `rsync --inplace` of an unchanged file.
    let file = File::options().write(true).open(&path).unwrap();
    file.write_all_at(&bytes, 0).unwrap();
    assert_eq!(read_source(&content).unwrap(), bytes, "the same bytes");
    touch(&path);
    content.reader.file.forget();
    assert_eq!(read_source(&content).unwrap(), bytes, "touched when all of it was read");

    let before = file.metadata().unwrap().modified().unwrap();
    let other = remote(&path);
    assert_eq!(byte(&other, 0).unwrap(), 0);
    // A byte that this transfer has had, with the time of the old file.
    file.write_all_at(b"x", 7).unwrap();
    file.set_modified(before).unwrap();
    let error = byte(&other, 3).unwrap_err();
    assert_eq!((error.kind(), error.to_string().contains("changed")), (io::ErrorKind::InvalidData, true));
    // Bytes that it has not had belong to the version that it gets as a whole.
    let later = remote(&path);
    assert_eq!(byte(&later, 0).unwrap(), 0);
    file.write_all_at(b"y", 5 * CHUNK as u64).unwrap();
    assert_eq!(read_source(&later).unwrap(), std::fs::read(&path).unwrap());
    file.set_len(CHUNK as u64).unwrap();
    later.reader.file.forget();
    assert!(read_source(&later).is_err(), "cut");
}

#[test]
fn small_remote_files_are_read_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("f");
    for size in [0, 1, 5000, CHUNK - 1] {
        std::fs::write(&path, vec![b'a'; size]).unwrap();
        let content = remote(&path);
        touch(&path);
        std::fs::write(&path, "other").unwrap();
        assert_eq!(read_source(&content).unwrap(), vec![b'a'; size]);
    }
}

//! Replaces a file atomically: a reader finds the old or the new contents at any moment, also after a power failure.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// Replaces the contents of `path`. Writes a temporary file beside it first.
pub(super) fn atomic_write(path: &Path, contents: &[u8]) -> io::Result<()> {
    let named = |what: &str, why: io::Error| io::Error::new(why.kind(), format!("{what} {}: {why}", path.display()));
    let directory = path.parent().unwrap_or(Path::new("/"));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // The name is unique among processes and threads.
    let temporary = directory.join(format!(".{name}.{}.{:016x}", std::process::id(), fastrand::u64(..)));
    let write = || {
        let mut file = File::create_new(&temporary)?;
        file.write_all(contents)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(directory)?.sync_all()
    };
    write().map_err(|why| {
        // Ignores a missing file.
        let _removed = fs::remove_file(&temporary);
        named("writing", why)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_and_the_temporary_file_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.json");
        atomic_write(&path, b"1").unwrap();
        atomic_write(&path, b"22").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"22");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        let error = atomic_write(&directory.path().join("none/a.json"), b"1").unwrap_err();
        assert!(error.to_string().contains("none/a.json"), "{error}");
        fs::create_dir(directory.path().join("d")).unwrap();
        assert!(atomic_write(&directory.path().join("d"), b"1").is_err());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    }
}

//! Replaces a file as a whole: whoever reads it, at any moment and also after the power has failed, finds the old contents or the new.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// Makes `contents` those of `path`. The new file is made beside it.
pub(super) fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    let named = |what: &str, why: io::Error| io::Error::new(why.kind(), format!("{what} {}: {why}", path.display()));
    let directory = path.parent().unwrap_or(Path::new("/"));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // Nobody else has this name: neither another process nor another thread of this one.
    let beside = directory.join(format!(".{name}.{}.{:016x}", std::process::id(), fastrand::u64(..)));
    let write = || {
        let mut file = File::create_new(&beside)?;
        file.write_all(contents)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        File::open(directory)?.sync_all()
    };
    write().map_err(|why| {
        // If it is there at all.
        let _removed = fs::remove_file(&beside);
        named("writing", why)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_and_nothing_is_left_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.json");
        replace(&path, b"1").unwrap();
        replace(&path, b"22").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"22");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        let error = replace(&directory.path().join("none/a.json"), b"1").unwrap_err();
        assert!(error.to_string().contains("none/a.json"), "{error}");
        fs::create_dir(directory.path().join("d")).unwrap();
        assert!(replace(&directory.path().join("d"), b"1").is_err());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    }
}

//! Files with secrets: keys, tokens, passwords. One rule for all of them: others on the host may neither read nor change such a file.
//!
//! The API's own token and key are refused otherwise, because whoever reads them controls the fleet. For all other secrets, and for a
//! configuration that holds the fleet's key, `guideway check` and the daemons warn.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Returns why a secret in this file is none on this host; `None`: it is one, or the file cannot be examined.
pub fn exposed_because(path: &Path) -> Option<String> {
    let mode = std::fs::metadata(path).ok()?.mode();
    (mode & 0o007 != 0).then(|| {
        format!("{} holds a secret, and everybody on this host may read or change it (mode {:o}); chmod 600", path.display(), mode & 0o777)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_secret_is_for_its_owner_and_group() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (mode, exposed) in [(0o600, false), (0o640, false), (0o400, false), (0o644, true), (0o602, true)] {
            std::fs::set_permissions(file.path(), Permissions::from_mode(mode)).unwrap();
            assert_eq!(exposed_because(file.path()).is_some(), exposed, "{mode:o}");
        }
        assert_eq!(exposed_because(Path::new("/nowhere")), None);
    }
}

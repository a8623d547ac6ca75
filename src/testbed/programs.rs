//! Finding the programs of others, and saying which package has them.

use guideway_host::error::Error;
use std::path::{Path, PathBuf};

/// Looks for `program` on PATH, and where system daemons live even when PATH leaves that out.
///
/// # Errors
/// [`Error::Missing`] with the Debian package to install.
pub fn find(program: &str, package: &str) -> Result<PathBuf, Error> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let daemons = ["/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(daemons)
        .map(|directory| directory.join(program))
        .find(|file| nix::unistd::access(file, nix::unistd::AccessFlags::X_OK).is_ok() && file.is_file())
        .ok_or_else(|| Error::Missing {
            what: format!("the program {program} is not installed"),
            mend: format!("on Debian, `apt-get install {package}`"),
        })
}

/// The `guideway` program: what GUIDEWAY names, or the one beside this program (or one directory above, where `cargo test` puts tests), or the
/// one on PATH.
///
/// # Errors
/// [`Error::Missing`] when there is none.
pub fn guideway() -> Result<PathBuf, Error> {
    if let Some(named) = std::env::var_os("GUIDEWAY") {
        return Ok(named.into());
    }
    let own = std::env::current_exe().and_then(std::fs::canonicalize).unwrap_or_default();
    let beside = own.ancestors().skip(1).take(2).map(|directory| directory.join("guideway")).find(|file| Path::is_file(file));
    beside.map_or_else(|| find("guideway", "guideway"), Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said_with_its_package() {
        assert!(find("sh", "dash").is_ok());
        let said = find("no-such-program-here", "some-package").unwrap_err().to_string();
        assert!(said.contains("apt-get install some-package") && !said.contains('\n'), "{said}");
    }
}

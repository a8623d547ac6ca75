//! Finds third-party programs, and names their packages.

use guideway_host::error::Error;
use std::path::{Path, PathBuf};

/// Finds `program` on PATH, or in the usual directories of system daemons.
///
/// # Errors
/// Returns [`Error::Missing`] with the Debian package to install.
pub fn find(program: &str, package: &str) -> Result<PathBuf, Error> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let daemons = ["/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(daemons)
        .map(|directory| directory.join(program))
        .find(|file| nix::unistd::access(file, nix::unistd::AccessFlags::X_OK).is_ok() && file.is_file())
        .ok_or_else(|| Error::Missing {
            what: format!("the program {program} is not installed"),
            hint: format!("on Debian, `apt-get install {package}`"),
        })
}

/// Returns the `guideway` program: the value of GUIDEWAY, the file beside this program (or one directory above, where `cargo test` puts
/// tests), or the one on PATH.
///
/// # Errors
/// Returns [`Error::Missing`] when there is none.
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
    fn a_missing_program_is_reported_with_its_package() {
        assert!(find("sh", "dash").is_ok());
        let message = find("no-such-program-here", "some-package").unwrap_err().to_string();
        assert!(message.contains("apt-get install some-package") && !message.contains('\n'), "{message}");
    }
}

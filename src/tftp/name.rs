//! Normalized file names of clients: one spelling for each file, and none that leads out. Directories, uploads, rules and all other handlers use it.

use crate::handler::Refusal;
use crate::request::without_garbage;

/// Longest accepted name. Requests of common clients are shorter.
pub const MAX_NAME: usize = 1024;

/// Reasons to refuse a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It is empty after normalization.
    #[error("the name is empty")]
    Empty,
    /// More than [`MAX_NAME`] bytes.
    #[error("the name is longer than {MAX_NAME} bytes")]
    TooLong,
    /// It has more parts `..` than directories before them.
    #[error("the name leads upwards")]
    ParentDirectory,
    /// It contains a NUL, which a path cannot.
    #[error("the name holds a NUL")]
    Nul,
}

impl From<NameError> for Refusal {
    fn from(error: NameError) -> Self {
        match error {
            NameError::Empty | NameError::TooLong => Refusal::not_found(),
            NameError::ParentDirectory | NameError::Nul => Refusal::access(),
        }
    }
}

/// Normalizes a name: single slashes between parts, none at either end, no empty part, no `.`. A part `..` removes the part before it: PXELINUX
/// writes `boot/x/../vmlinuz` for `KERNEL ../vmlinuz`. Backslashes, which firmware copies from Windows servers, become slashes. Trailing 0xFF
/// bytes, which it copies from DHCP, are removed.
///
/// # Errors
/// When the result is empty, or when a `..` has no part before it, so that the name leads out.
pub fn normalize(file: &[u8]) -> Result<Vec<u8>, NameError> {
    let file = without_garbage(file);
    if file.len() > MAX_NAME {
        return Err(NameError::TooLong);
    }
    let mut name: Vec<u8> = Vec::with_capacity(file.len());
    for part in file.split(|b| matches!(b, b'/' | b'\\')) {
        match part {
            b"" | b"." => continue,
            b".." if name.is_empty() => return Err(NameError::ParentDirectory),
            b".." => {
                name.truncate(name.iter().rposition(|&b| b == b'/').unwrap_or(0));
                continue;
            }
            part if part.contains(&0) => return Err(NameError::Nul),
            _ => {}
        }
        if !name.is_empty() {
            name.push(b'/');
        }
        name.extend_from_slice(part);
    }
    match name.last() {
        None => Err(NameError::Empty),
        // Garbage before removed parts. Normalizing a normalized name must not change it.
        Some(0xff) => normalize(&name),
        Some(_) => Ok(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_spelling_for_one_file() {
        for spelled in [
            "boot/grub.cfg",
            "/boot/grub.cfg",
            "boot//./grub.cfg",
            "\\boot\\grub.cfg",
            "boot/grub.cfg/",
            "boot/x/../grub.cfg",
            "a/b/../../boot/grub.cfg",
            ".\\boot/grub.cfg",
        ] {
            assert_eq!(normalize(spelled.as_bytes()).as_deref(), Ok(&b"boot/grub.cfg"[..]), "{spelled}");
        }
        assert_eq!(normalize(b"undionly.kpxe\xff\xff").as_deref(), Ok(&b"undionly.kpxe"[..]));
        assert_eq!(normalize(b"a\xff/.\xff/.").as_deref(), Ok(&b"a"[..]));
        assert_eq!(normalize(b"..\xff/."), Err(NameError::ParentDirectory));
        assert_eq!(normalize(b"...").as_deref(), Ok(&b"..."[..]), "three dots are a name");
    }

    #[test]
    fn no_way_up() {
        for up in [&b".."[..], b"../x", b"a/../../b", b"a\\..\\..\\b", b"/..", b"..\xff"] {
            assert_eq!(normalize(up), Err(NameError::ParentDirectory), "{}", up.escape_ascii());
        }
        for empty in [&b""[..], b"/", b"//./", b"\xff", b"a/.."] {
            assert_eq!(normalize(empty), Err(NameError::Empty), "{}", empty.escape_ascii());
        }
        assert_eq!(normalize(b"a\0b"), Err(NameError::Nul));
        assert_eq!(normalize(&[b'a'; MAX_NAME + 1]), Err(NameError::TooLong));
    }

    proptest! {
        #[test]
        fn normal_names_stay_as_they_are_and_below(file in prop::collection::vec(prop_oneof![Just(b'.'), Just(b'/'), Just(b'\\'), Just(0xff), any::<u8>()], 0..60)) {
            let Ok(name) = normalize(&file) else { return Ok(()) };
            prop_assert_eq!(normalize(&name).ok(), Some(name.clone()));
            prop_assert!(name.split(|&b| b == b'/').all(|part| !part.is_empty() && part != b"." && part != b".."));
        }
    }
}

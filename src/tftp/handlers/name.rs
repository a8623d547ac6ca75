//! Normalized file names of clients, safe to compare and to put into a URL: one spelling for each file, and no `..`.

use crate::handler::{Refusal, without_garbage};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

/// Longest accepted name. Requests of common clients are shorter.
pub const MAX_NAME: usize = 1024;

/// Characters to encode in a URL: all except unreserved ones (RFC 3986 section 2.3), so that no byte of a client has a special meaning.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Reasons to refuse a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It is empty after normalization.
    #[error("the name is empty")]
    Empty,
    /// More than [`MAX_NAME`] bytes.
    #[error("the name is longer than {MAX_NAME} bytes")]
    TooLong,
    /// A part of it is `..`.
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

/// Normalizes a name: single slashes between parts, none at either end, no empty part, no `.`. Backslashes, which firmware copies from
/// Windows servers, become slashes. Trailing 0xFF bytes, which it copies from DHCP, are removed.
///
/// # Errors
/// When the result is empty, or when a part is `..`.
pub fn normalize(file: &[u8]) -> Result<Vec<u8>, NameError> {
    let file = without_garbage(file);
    if file.len() > MAX_NAME {
        return Err(NameError::TooLong);
    }
    let mut name = Vec::with_capacity(file.len());
    for part in file.split(|b| matches!(b, b'/' | b'\\')) {
        match part {
            b"" | b"." => continue,
            b".." => return Err(NameError::ParentDirectory),
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

/// Returns a [normalized](normalize) name as the path of a URL, without a leading slash.
pub fn url_path(normal: &[u8]) -> String {
    let mut path = String::with_capacity(normal.len() + 8);
    for (index, part) in normal.split(|&b| b == b'/').enumerate() {
        if index > 0 {
            path.push('/');
        }
        path.extend(percent_encode(part, ENCODED));
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use percent_encoding::percent_decode_str;
    use proptest::prelude::*;

    #[test]
    fn one_spelling_for_one_file() {
        for spelled in ["boot/grub.cfg", "/boot/grub.cfg", "boot//./grub.cfg", "\\boot\\grub.cfg", "boot/grub.cfg/"] {
            assert_eq!(normalize(spelled.as_bytes()).as_deref(), Ok(&b"boot/grub.cfg"[..]), "{spelled}");
        }
        assert_eq!(normalize(b"undionly.kpxe\xff\xff").as_deref(), Ok(&b"undionly.kpxe"[..]));
        assert_eq!(normalize(b"a\xff/.\xff/.").as_deref(), Ok(&b"a"[..]));
        assert_eq!(normalize(b"..\xff/."), Err(NameError::ParentDirectory));
        assert_eq!(normalize(b"...").as_deref(), Ok(&b"..."[..]), "three dots are a name");
    }

    #[test]
    fn no_way_up() {
        for up in [&b".."[..], b"../x", b"a/../b", b"a\\..\\b", b"/..", b"..\xff"] {
            assert_eq!(normalize(up), Err(NameError::ParentDirectory), "{}", up.escape_ascii());
        }
        for empty in [&b""[..], b"/", b"//./", b"\xff"] {
            assert_eq!(normalize(empty), Err(NameError::Empty), "{}", empty.escape_ascii());
        }
        assert_eq!(normalize(b"a\0b"), Err(NameError::Nul));
        assert_eq!(normalize(&[b'a'; MAX_NAME + 1]), Err(NameError::TooLong));
    }

    #[test]
    fn a_url_contains_exactly_the_bytes_of_the_client() {
        assert_eq!(url_path(b"a b/?x#y/%2e%2e"), "a%20b/%3Fx%23y/%252e%252e");
    }

    proptest! {
        #[test]
        fn any_name_stays_below_the_prefix(file in prop::collection::vec(prop_oneof![Just(b'.'), Just(b'/'), Just(b'\\'), Just(b'%'), Just(0xff), any::<u8>()], 0..60)) {
            let Ok(name) = normalize(&file) else { return Ok(()) };
            prop_assert_eq!(normalize(&name).ok(), Some(name.clone()), "normal names stay as they are");
            let path = url_path(&name);
            prop_assert!(path.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~/%".contains(&b)));
            // An origin that resolves dots still gets the same parts.
            let parts: Vec<Vec<u8>> = path.split('/').map(|part| percent_decode_str(part).collect()).collect();
            let expected: Vec<Vec<u8>> = name.split(|&b| b == b'/').map(<[u8]>::to_vec).collect();
            prop_assert_eq!(&parts, &expected);
            prop_assert!(path.split('/').all(|part| !part.is_empty() && part != "." && part != ".."));
        }
    }
}

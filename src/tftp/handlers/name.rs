//! Names of files from clients, made safe to compare and to put into a URL: one spelling for one file, and no way up.

use crate::handler::{Refusal, without_garbage};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

/// Longer names are refused. Requests of common clients hold no more.
pub const LONGEST: usize = 1024;

/// What stands in a URL as it is (RFC 3986 section 2.3); everything else is encoded, so that no byte of a client has a meaning there.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Why a name is not looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing is left of it.
    #[error("the name is empty")]
    Empty,
    /// More than [`LONGEST`] bytes.
    #[error("the name is longer than {LONGEST} bytes")]
    TooLong,
    /// A part of it is `..`.
    #[error("the name leads upwards")]
    Upwards,
    /// A NUL in it, which no path can hold.
    #[error("the name holds a NUL")]
    Nul,
}

impl From<NameError> for Refusal {
    fn from(error: NameError) -> Self {
        match error {
            NameError::Empty | NameError::TooLong => Refusal::not_found(),
            NameError::Upwards | NameError::Nul => Refusal::access(),
        }
    }
}

/// The parts of `file` joined by single slashes: no slash at either end, no empty part, no `.`; backslashes, which firmware takes from
/// Windows servers, are slashes, and 0xFF bytes at the end, which it takes from DHCP, are gone.
///
/// # Errors
/// When nothing is left, or when a part is `..`.
pub fn normal(file: &[u8]) -> Result<Vec<u8>, NameError> {
    let file = without_garbage(file);
    if file.len() > LONGEST {
        return Err(NameError::TooLong);
    }
    let mut name = Vec::with_capacity(file.len());
    for part in file.split(|b| matches!(b, b'/' | b'\\')) {
        match part {
            b"" | b"." => continue,
            b".." => return Err(NameError::Upwards),
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
        // Garbage that stood before what was left out. A normal name must stay as it is when it is made normal again.
        Some(0xff) => normal(&name),
        Some(_) => Ok(name),
    }
}

/// A [`normal`] name as the path of a URL, without a slash at its start.
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
            assert_eq!(normal(spelled.as_bytes()).as_deref(), Ok(&b"boot/grub.cfg"[..]), "{spelled}");
        }
        assert_eq!(normal(b"undionly.kpxe\xff\xff").as_deref(), Ok(&b"undionly.kpxe"[..]));
        assert_eq!(normal(b"a\xff/.\xff/.").as_deref(), Ok(&b"a"[..]));
        assert_eq!(normal(b"..\xff/."), Err(NameError::Upwards));
        assert_eq!(normal(b"...").as_deref(), Ok(&b"..."[..]), "three dots are a name");
    }

    #[test]
    fn no_way_up() {
        for up in [&b".."[..], b"../x", b"a/../b", b"a\\..\\b", b"/..", b"..\xff"] {
            assert_eq!(normal(up), Err(NameError::Upwards), "{}", up.escape_ascii());
        }
        for empty in [&b""[..], b"/", b"//./", b"\xff"] {
            assert_eq!(normal(empty), Err(NameError::Empty), "{}", empty.escape_ascii());
        }
        assert_eq!(normal(b"a\0b"), Err(NameError::Nul));
        assert_eq!(normal(&[b'a'; LONGEST + 1]), Err(NameError::TooLong));
    }

    #[test]
    fn a_url_holds_what_the_client_said_and_nothing_else() {
        assert_eq!(url_path(b"a b/?x#y/%2e%2e"), "a%20b/%3Fx%23y/%252e%252e");
    }

    proptest! {
        #[test]
        fn whatever_is_asked_stays_below_the_prefix(file in prop::collection::vec(prop_oneof![Just(b'.'), Just(b'/'), Just(b'\\'), Just(b'%'), Just(0xff), any::<u8>()], 0..60)) {
            let Ok(name) = normal(&file) else { return Ok(()) };
            prop_assert_eq!(normal(&name).ok(), Some(name.clone()), "normal names stay as they are");
            let path = url_path(&name);
            prop_assert!(path.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~/%".contains(&b)));
            // What an origin makes of it, however eagerly it resolves dots, has the same parts.
            let parts: Vec<Vec<u8>> = path.split('/').map(|part| percent_decode_str(part).collect()).collect();
            let expected: Vec<Vec<u8>> = name.split(|&b| b == b'/').map(<[u8]>::to_vec).collect();
            prop_assert_eq!(&parts, &expected);
            prop_assert!(path.split('/').all(|part| !part.is_empty() && part != "." && part != ".."));
        }
    }
}

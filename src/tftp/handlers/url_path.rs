//! Names of files in URLs.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

/// Characters to encode in a URL: all except unreserved ones (RFC 3986 section 2.3), so that no byte of a client has a special meaning.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Returns a [normalized](crate::name::normalize) name as the path of a URL, without a leading slash.
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
    use crate::name::normalize;
    use percent_encoding::percent_decode_str;
    use proptest::prelude::*;

    #[test]
    fn a_url_contains_exactly_the_bytes_of_the_client() {
        assert_eq!(url_path(b"a b/?x#y/%2e%2e"), "a%20b/%3Fx%23y/%252e%252e");
    }

    proptest! {
        #[test]
        fn any_name_stays_below_the_prefix(file in prop::collection::vec(prop_oneof![Just(b'.'), Just(b'/'), Just(b'\\'), Just(b'%'), Just(0xff), any::<u8>()], 0..60)) {
            let Ok(name) = normalize(&file) else { return Ok(()) };
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

//! Replacements of names, with the escapes that map files of tftp-hpa have.

use regex::bytes::Captures;
use std::net::IpAddr;

/// A replacement: text with captures, as `$1` or `${name}`, and escapes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replacement(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    /// Text with captures.
    Text(String),
    /// `\i`: the address of the client.
    Client,
    /// `\x`: its bytes in hexadecimal, as PXELINUX writes them.
    ClientHex,
    /// `\U`, `\L`, `\E`: the case of ASCII letters from here on.
    Case(Option<Case>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Case {
    Upper,
    Lower,
}

impl Replacement {
    /// Reads a replacement.
    ///
    /// # Errors
    /// A phrase that names the escapes, if there is another one.
    pub fn parse(text: &str) -> Result<Replacement, String> {
        let (mut pieces, mut plain) = (Vec::new(), String::new());
        let mut characters = text.chars();
        while let Some(character) = characters.next() {
            if character != '\\' {
                plain.push(character);
                continue;
            }
            let piece = match characters.next() {
                Some('i') => Piece::Client,
                Some('x') => Piece::ClientHex,
                Some('U') => Piece::Case(Some(Case::Upper)),
                Some('L') => Piece::Case(Some(Case::Lower)),
                Some('E') => Piece::Case(None),
                other => {
                    let escape = other.map(String::from).unwrap_or_default();
                    return Err(format!(
                        "has the unknown escape \\{escape}; known: \\i, \\x (client), \\U, \\L, \\E (case); captures are written $1, directories with /"
                    ));
                }
            };
            if !plain.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut plain)));
            }
            pieces.push(piece);
        }
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain));
        }
        Ok(Replacement(pieces))
    }

    /// Returns the replacement of a match in a request of `client`.
    pub(super) fn expand(&self, captures: &Captures<'_>, client: IpAddr) -> Vec<u8> {
        let (mut to, mut case) = (Vec::new(), None);
        for piece in &self.0 {
            let start = to.len();
            match piece {
                Piece::Text(text) => captures.expand(text.as_bytes(), &mut to),
                Piece::Client => to.extend(client.to_string().into_bytes()),
                Piece::ClientHex => match client {
                    IpAddr::V4(client) => to.extend(format!("{:08X}", client.to_bits()).into_bytes()),
                    IpAddr::V6(client) => to.extend(format!("{:032X}", client.to_bits()).into_bytes()),
                },
                Piece::Case(wanted) => case = *wanted,
            }
            match case {
                Some(Case::Upper) => to[start..].make_ascii_uppercase(),
                Some(Case::Lower) => to[start..].make_ascii_lowercase(),
                None => {}
            }
        }
        to
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use regex::bytes::Regex;

    #[test]
    fn escapes_and_captures_are_replaced() {
        let replaced = |pattern: &str, to: &str, name: &str, client: &str| {
            let (to, client) = (Replacement::parse(to).unwrap(), client.parse().unwrap());
            let pattern = Regex::new(pattern).unwrap();
            let name = pattern.replace(name.as_bytes(), |captures: &Captures<'_>| to.expand(captures, client)).into_owned();
            String::from_utf8(name).unwrap()
        };
        for (pattern, to, name, expected) in [
            ("^", r"\i/", "boot/a", "10.0.0.7/boot/a"),
            ("^menu", r"menus/\x", "menu", "menus/0A000007"),
            ("^(.*)$", r"\L$1", "BOOT/Vmlinuz", "boot/vmlinuz"),
            ("^([^/]*)/(.*)$", r"\U$1\E/$2.\Lx\Ey", "ab/cD", "AB/cD.xy"),
            ("^old/", "new/", "old/a", "new/a"),
            ("^a(?<n>.)", "${n}", "ab", "b"),
        ] {
            assert_eq!(replaced(pattern, to, name, "10.0.0.7"), expected, "{to}");
        }
        assert_eq!(replaced("^", r"\i/\x/", "f", "2001:db8::7"), "2001:db8::7/20010DB8000000000000000000000007/f");
    }

    #[test]
    fn unknown_escapes_are_refused_with_the_known_ones() {
        for text in [r"\1", r"new\a", r"new\", r"a\\b"] {
            let error = Replacement::parse(text).unwrap_err();
            assert!(error.contains(r"\i, \x (client), \U, \L, \E"), "{error}");
        }
    }
}

//! Expected content of files: from a list as `sha256sum` writes it, or from the first client that fetched them.

use std::collections::HashMap;
use std::sync::OnceLock;

/// A SHA-256.
pub type Sha256Sum = [u8; 32];

/// Reads 64 hexadecimal digits.
pub fn from_hex(text: &str) -> Option<Sha256Sum> {
    let mut sum = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (byte, digits) in sum.iter_mut().zip(text.as_bytes().chunks(2)) {
        let digit = |at: usize| char::from(*digits.get(at)?).to_digit(16).and_then(|d| u8::try_from(d).ok());
        *byte = digit(0)? << 4 | digit(1)?;
    }
    Some(sum)
}

/// Reads a list of `SHA-256, two spaces, name` (or space and asterisk).
///
/// # Errors
/// A sentence that names the line.
pub fn parse(list: &str) -> Result<HashMap<String, Sha256Sum>, String> {
    let mut digests = HashMap::new();
    for (number, line) in (1..).zip(list.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let entry = line.split_once(char::is_whitespace).and_then(|(sum, name)| {
            let name = name.trim_start().trim_start_matches('*').trim_start_matches("./");
            Some((name.trim_start_matches('/').to_owned(), from_hex(sum)?))
        });
        let (name, sum) =
            entry.ok_or_else(|| format!("line {number}: expected 64 hexadecimal digits and a name, as sha256sum writes them"))?;
        digests.insert(name, sum);
    }
    Ok(digests)
}

/// Expected content of each file.
#[derive(Debug)]
pub struct Expected {
    /// One for each file; empty if only the size is checked.
    digests: Vec<OnceLock<Sha256Sum>>,
}

impl Expected {
    /// Checks no content.
    pub fn unchecked() -> Self {
        Expected { digests: Vec::new() }
    }

    /// Takes the sums of `files` from `list`. Files without a sum must be equal for all clients.
    pub fn new(files: &[String], list: &HashMap<String, Sha256Sum>) -> Self {
        let known = |name: &String| list.get(name.trim_start_matches('/')).map_or_else(OnceLock::new, |sum| OnceLock::from(*sum));
        Expected { digests: files.iter().map(known).collect() }
    }

    /// Returns whether SHA-256 sums are needed at all.
    pub fn checks(&self) -> bool {
        !self.digests.is_empty()
    }

    /// Returns whether file `number` may have this content.
    pub fn accepts(&self, number: usize, sum: Sha256Sum) -> bool {
        self.digests.get(number).is_none_or(|expected| *expected.get_or_init(|| sum) == sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_sha256sum() {
        let sum = "00ff".repeat(16);
        let list = parse(&format!("{sum}  ./a b\n\n{sum} */c\n")).unwrap();
        assert_eq!(list.get("a b").map(|s| s[..2].to_vec()), Some(vec![0, 255]));
        assert!(list.contains_key("c"));
        assert!(parse("00ff  x").unwrap_err().starts_with("line 1"));
        assert_eq!((from_hex(&"g".repeat(64)), from_hex(&"ä".repeat(32))), (None, None));
    }

    #[test]
    fn unlisted_files_must_be_equal_for_all_clients() {
        let files = ["a".to_owned(), "/b".to_owned()];
        let expected = Expected::new(&files, &HashMap::from([("b".to_owned(), [9; 32])]));
        assert!(expected.accepts(0, [1; 32]) && expected.accepts(0, [1; 32]) && !expected.accepts(0, [2; 32]));
        assert!(expected.accepts(1, [9; 32]) && !expected.accepts(1, [1; 32]));
        assert!(Expected::unchecked().accepts(0, [1; 32]));
    }
}

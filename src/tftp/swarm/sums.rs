//! What files must contain: lists as `sha256sum` writes them, or what the first client got.

use std::collections::HashMap;
use std::sync::OnceLock;

/// A SHA-256.
pub type Sum = [u8; 32];

/// Reads 64 hexadecimal digits.
pub fn from_hex(text: &str) -> Option<Sum> {
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
pub fn parse(list: &str) -> Result<HashMap<String, Sum>, String> {
    let mut sums = HashMap::new();
    for (number, line) in (1..).zip(list.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let entry = line.split_once(char::is_whitespace).and_then(|(sum, name)| {
            let name = name.trim_start().trim_start_matches('*').trim_start_matches("./");
            Some((name.trim_start_matches('/').to_owned(), from_hex(sum)?))
        });
        let (name, sum) =
            entry.ok_or_else(|| format!("line {number}: expected 64 hexadecimal digits and a name, as sha256sum writes them"))?;
        sums.insert(name, sum);
    }
    Ok(sums)
}

/// What each file must contain.
#[derive(Debug)]
pub struct Expected {
    /// One for each file; empty: nothing is checked but the size.
    sums: Vec<OnceLock<Sum>>,
}

impl Expected {
    /// Nothing is known, nothing is checked.
    pub fn unchecked() -> Self {
        Expected { sums: Vec::new() }
    }

    /// The files in their order. Those that the list does not have must be alike for all clients.
    pub fn new(files: &[String], list: &HashMap<String, Sum>) -> Self {
        let known = |name: &String| list.get(name.trim_start_matches('/')).map_or_else(OnceLock::new, |sum| OnceLock::from(*sum));
        Expected { sums: files.iter().map(known).collect() }
    }

    /// Whether a SHA-256 is needed at all.
    pub fn checks(&self) -> bool {
        !self.sums.is_empty()
    }

    /// Whether file `number` may have this content.
    pub fn accepts(&self, number: usize, sum: Sum) -> bool {
        self.sums.get(number).is_none_or(|expected| *expected.get_or_init(|| sum) == sum)
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
    fn what_is_not_listed_must_be_alike_for_all() {
        let files = ["a".to_owned(), "/b".to_owned()];
        let expected = Expected::new(&files, &HashMap::from([("b".to_owned(), [9; 32])]));
        assert!(expected.accepts(0, [1; 32]) && expected.accepts(0, [1; 32]) && !expected.accepts(0, [2; 32]));
        assert!(expected.accepts(1, [9; 32]) && !expected.accepts(1, [1; 32]));
        assert!(Expected::unchecked().accepts(0, [1; 32]));
    }
}

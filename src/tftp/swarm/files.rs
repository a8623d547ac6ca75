//! Files that a swarm requests: names, patterns, lists.

/// Largest number of names that patterns may produce.
const MAX_FILES: usize = 1_000_000;

/// Reads `a,b,boot-{1..500}.img` or `@FILE` with a name in each line.
///
/// # Errors
/// A sentence with the reason.
pub fn parse(text: &str) -> Result<Vec<String>, String> {
    let mut names = Vec::new();
    match text.strip_prefix('@') {
        Some(path) => {
            let list = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
            names.extend(list.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned));
        }
        None => {
            for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
                expand(part, &mut names)?;
            }
        }
    }
    match names.len() {
        0 => Err("no file name given".to_owned()),
        1..=MAX_FILES if names.iter().all(|name| !name.contains('\0')) => Ok(names),
        1..=MAX_FILES => Err("a name cannot contain a NUL".to_owned()),
        more => Err(format!("{more} names; at most {MAX_FILES} are allowed")),
    }
}

/// Expands `{FIRST..LAST}` in a name, with leading zeros if FIRST has them.
fn expand(part: &str, names: &mut Vec<String>) -> Result<(), String> {
    let Some((before, rest)) = part.split_once('{') else {
        names.push(part.to_owned());
        return Ok(());
    };
    let parsed = rest.split_once('}').and_then(|(range, after)| {
        let (first, last) = range.split_once("..")?;
        let width = if first.starts_with('0') { first.len() } else { 0 };
        Some((first.parse::<u32>().ok()?, last.parse::<u32>().ok()?, width, after))
    });
    let Some((first, last, width, after)) = parsed.filter(|(first, last, ..)| first <= last) else {
        return Err(format!("`{part}`: write a range as {{1..500}} or {{001..500}}"));
    };
    if (last - first) as usize >= MAX_FILES - names.len().min(MAX_FILES) {
        return Err(format!("`{part}`: at most {MAX_FILES} names are allowed"));
    }
    names.extend((first..=last).map(|number| format!("{before}{number:0width$}{after}")));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_patterns_and_lists() {
        assert_eq!(parse("a, b,f{8..10}.img").unwrap(), ["a", "b", "f8.img", "f9.img", "f10.img"]);
        assert_eq!(parse("{01..03}").unwrap(), ["01", "02", "03"]);
        let list = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(list.path(), "one\n\n two,three \n").unwrap();
        assert_eq!(parse(&format!("@{}", list.path().display())).unwrap(), ["one", "two,three"]);
        for bad in ["", ",", "f{3..1}", "f{1..}", "f{1..2", "f{0..4294967295}", "@/does/not/exist"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}

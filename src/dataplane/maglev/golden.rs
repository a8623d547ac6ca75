//! Golden tables: the result is a contract between directors of different versions, so it is frozen in files.
//!
//! `GUIDEWAY_REGENERATE=1 cargo test -p guideway-dataplane maglev::golden` writes the files anew. Do that only together with a new [`super::VERSION`]: directors of both versions
//! may serve one fleet during an upgrade, and where their tables differ, flows break.

use super::{NONE, Table, VERSION};
use guideway_hash::FleetKey;
use std::fmt::Write;
use std::path::PathBuf;

/// The key 00 01 02 … 0f.
fn key() -> FleetKey {
    FleetKey::new(std::array::from_fn(|index| index as u8))
}

/// The table as text: all it was made of, what each member owns, and its first `rows` slots.
fn text(size: u32, backends: &[(String, u16)], rows: usize) -> String {
    let borrowed: Vec<(&str, u16)> = backends.iter().map(|(name, weight)| (name.as_str(), *weight)).collect();
    let table = Table::build(&key(), size, &borrowed).unwrap();
    let mut text = String::from("# A golden Maglev table; see src/dataplane/maglev/golden.rs.\n");
    writeln!(text, "version {VERSION}\nkey 000102030405060708090a0b0c0d0e0f\nsize {size}\nfingerprint {:016x}", table.fingerprint())
        .unwrap();
    writeln!(text, "# member name weight entries").unwrap();
    for (number, (member, entries)) in table.members().iter().zip(table.entries()).enumerate() {
        writeln!(text, "member {number} {} {} {entries}", member.name, member.weight).unwrap();
    }
    writeln!(text, "# the first {rows} rows, - for nobody").unwrap();
    for line in table.slots[..rows].chunks(16) {
        let words: Vec<String> = line.iter().map(|&slot| if slot == NONE { "-".into() } else { slot.to_string() }).collect();
        writeln!(text, "slots {}", words.join(" ")).unwrap();
    }
    text
}

fn compare(file: &str, text: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(file);
    if std::env::var_os("GUIDEWAY_REGENERATE").is_some_and(|value| value == "1") {
        std::fs::write(&path, text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap();
    assert!(golden == text, "{file} is not what this version builds, which is:\n{text}");
}

fn named(count: u16, weight: impl Fn(u16) -> u16) -> Vec<(String, u16)> {
    (0..count).map(|index| (format!("b{index:03}"), weight(index))).collect()
}

#[test]
fn two_equal_backends_whole() {
    compare("maglev-251-two-equal.txt", &text(251, &named(2, |_| 100), 251));
}

#[test]
fn five_backends_with_weights_whole() {
    let backends =
        [("t1", 100), ("t2", 200), ("ß", 1), ("drained", 0), ("boot.example", 1000)].map(|(name, weight)| (name.to_owned(), weight));
    compare("maglev-503-five-weighted.txt", &text(503, &backends, 503));
}

#[test]
fn nobody_has_weight() {
    compare("maglev-251-two-drained.txt", &text(251, &named(2, |_| 0), 251));
}

#[test]
fn three_at_the_usual_size() {
    compare("maglev-65537-three-equal.txt", &text(65_537, &named(3, |_| 100), 64));
}

#[test]
fn hundred_at_the_usual_size() {
    compare("maglev-65537-hundred-equal.txt", &text(65_537, &named(100, |_| 100), 64));
}

#[test]
fn as_many_as_the_usual_size_allows() {
    compare("maglev-65537-655-equal.txt", &text(65_537, &named(655, |_| 100), 64));
}

#[test]
fn hundred_with_weights_at_the_usual_size() {
    compare("maglev-65537-hundred-weighted.txt", &text(65_537, &named(100, |index| index * 37 % 1001), 64));
}

//! The kind of a configuration file, recognised by its sections.

use super::problem::{Problem, Severity};
use super::reader::Reader;
use toml::de::DeTable;

/// A program with a configuration file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// `guideway director`
    Director,
    /// `guideway health`
    Health,
    /// `guideway tftpd`
    Server,
}

impl FileKind {
    /// Returns the sections by which a file of this kind is recognised.
    const fn sections(self) -> &'static [&'static str] {
        match self {
            FileKind::Director => &["director"],
            FileKind::Health => &["health"],
            FileKind::Server => &["server", "handler", "rule", "limits", "takeover"],
        }
    }

    const fn owner(self) -> &'static str {
        match self {
            FileKind::Director => "a director",
            FileKind::Health => "a health controller",
            FileKind::Server => "a TFTP server",
        }
    }

    const fn command(self) -> &'static str {
        match self {
            FileKind::Director => "guideway director",
            FileKind::Health => "guideway health",
            FileKind::Server => "guideway tftpd",
        }
    }

    /// Returns the kind of a file; `None` when its sections do not tell, as with `[[vip]]` and `[[pool]]` alone.
    fn of(document: &DeTable<'_>) -> Option<FileKind> {
        let has = |kind: &FileKind| kind.sections().iter().any(|section| document.contains_key(*section));
        [FileKind::Director, FileKind::Health, FileKind::Server].into_iter().find(has)
    }

    /// Returns the kind of a text.
    pub fn of_text(text: &str) -> Option<FileKind> {
        FileKind::of(DeTable::parse_recoverable(text).0.get_ref())
    }

    /// Returns the error about a file of another kind. It is the only one, because all other errors follow from it.
    pub(super) fn mismatch(self, reader: &Reader, document: &DeTable<'_>) -> Option<Problem> {
        let other = FileKind::of(document).filter(|other| *other != self)?;
        let section_keys = document.iter().filter(|(key, _)| other.sections().contains(&key.get_ref().as_ref()));
        let (key, _) = section_keys.min_by_key(|(key, _)| key.span().start)?;
        let (line, column) = reader.position(key.span().start);
        let section = key.get_ref().to_string();
        let message = format!(
            "belongs to the file of {}: use `{} --config FILE`, or give the file of {}, with [{}]",
            other.owner(),
            other.command(),
            self.owner(),
            self.sections()[0]
        );
        Some(Problem { severity: Severity::Error, line, column, key: section.clone(), path: section, value: None, message })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_of_a_file_is_recognised() {
        for (text, kind) in [
            ("[director]\n[limits]\n", Some(FileKind::Director)),
            ("[health]\n[store]\n", Some(FileKind::Health)),
            ("[[handler]]\n= broken", Some(FileKind::Server)),
            ("[[pool]]\n", None),
            ("", None),
        ] {
            assert_eq!(FileKind::of_text(text), kind, "{text}");
        }
    }

    #[test]
    fn a_file_for_another_program_gives_one_error() {
        let problems = crate::read("# a server\n[server]\nname = \"t1\"\n[[handler]]\n").problems;
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert_eq!(
            problems[0].to_string(),
            "line 2: server: belongs to the file of a TFTP server: use `guideway tftpd --config FILE`, or give the file of a director, with [director]"
        );
        let health = crate::health::read_health("[director]\nname = \"d1\"\n").problems;
        assert!(health.len() == 1 && health[0].message.contains("use `guideway director --config FILE`"), "{health:?}");
    }
}

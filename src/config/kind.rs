//! Which of Guideway's programs a file is for, told by its sections.

use super::problem::{Problem, Severity};
use super::reader::Reader;
use toml::de::DeTable;

/// A program that has a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `guideway director`
    Director,
    /// `guideway health`
    Health,
    /// `guideway tftpd`
    Server,
}

impl Kind {
    /// The sections by which a file of this kind is known.
    const fn sections(self) -> &'static [&'static str] {
        match self {
            Kind::Director => &["director"],
            Kind::Health => &["health"],
            Kind::Server => &["server", "handler", "rule", "limits", "takeover"],
        }
    }

    const fn whose(self) -> &'static str {
        match self {
            Kind::Director => "a director",
            Kind::Health => "a health controller",
            Kind::Server => "a TFTP server",
        }
    }

    const fn command(self) -> &'static str {
        match self {
            Kind::Director => "guideway director",
            Kind::Health => "guideway health",
            Kind::Server => "guideway tftpd",
        }
    }

    /// Of which kind a file is; nothing when its sections do not say, as `[[vip]]` and `[[pool]]` alone.
    fn of(document: &DeTable<'_>) -> Option<Kind> {
        let has = |kind: &Kind| kind.sections().iter().any(|section| document.contains_key(*section));
        [Kind::Director, Kind::Health, Kind::Server].into_iter().find(has)
    }

    /// The kind of a text.
    pub fn of_text(text: &str) -> Option<Kind> {
        Kind::of(DeTable::parse_recoverable(text).0.get_ref())
    }

    /// What is wrong with a file of another kind than this one: that alone, for whatever else is wrong follows from it.
    pub(super) fn refuses(self, reader: &Reader, document: &DeTable<'_>) -> Option<Problem> {
        let other = Kind::of(document).filter(|other| *other != self)?;
        let telling = document.iter().filter(|(key, _)| other.sections().contains(&key.get_ref().as_ref()));
        let (key, _) = telling.min_by_key(|(key, _)| key.span().start)?;
        let (line, column) = reader.position(key.span().start);
        let section = key.get_ref().to_string();
        let message = format!(
            "is a section of {}, whose file this is: `{} --config FILE` takes it; the file of {} is wanted here, with [{}]",
            other.whose(),
            other.command(),
            self.whose(),
            self.sections()[0]
        );
        Some(Problem { severity: Severity::Error, line, column, key: section.clone(), place: section, value: None, message })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_of_a_file_is_seen() {
        for (text, kind) in [
            ("[director]\n[limits]\n", Some(Kind::Director)),
            ("[health]\n[store]\n", Some(Kind::Health)),
            ("[[handler]]\n= broken", Some(Kind::Server)),
            ("[[pool]]\n", None),
            ("", None),
        ] {
            assert_eq!(Kind::of_text(text), kind, "{text}");
        }
    }

    #[test]
    fn a_file_for_another_program_is_told_by_one_sentence() {
        let problems = crate::read("# a server\n[server]\nname = \"t1\"\n[[handler]]\n").problems;
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert_eq!(
            problems[0].to_string(),
            "line 2: server: is a section of a TFTP server, whose file this is: `guideway tftpd --config FILE` takes it; the file of a director is \
             wanted here, with [director]"
        );
        let health = crate::health::read_health("[director]\nname = \"d1\"\n").problems;
        assert!(health.len() == 1 && health[0].message.contains("`guideway director --config FILE` takes it"), "{health:?}");
    }
}

//! The keys of every configuration file: one definition for the guides, `guideway help config` and the man page. Tests hold that the readers
//! ask for exactly these keys.
//!
//! The tables stand in the order of the guides. The keys of a TFTP server are in the crate `guideway-tftpd`.

mod director;
mod health;
mod recorder;
mod store;
#[cfg(test)]
mod tests;

pub use director::DIRECTOR;
pub use health::HEALTH;
pub use recorder::{Recorded, Sample, differences, record};
pub use store::STORE;

pub(super) use recorder::note;

/// The keys of one table of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Section {
    /// The path to the table, as errors show it without names and positions: `director.io`, `pool.backends`; empty for the top of the file.
    pub path: &'static str,
    /// Values of the key `kind` (of a service `protocol`) with which the table has these keys; empty: it always has them.
    pub kinds: &'static [&'static str],
    /// In the order of the guide.
    pub keys: &'static [Key],
}

/// One key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its name in the table.
    pub name: &'static str,
    /// The value without it, as it is written in the file, or in words: `required`, `none`.
    pub default: &'static str,
    /// What it does, and its limits.
    pub description: &'static str,
}

/// A key, for the tables.
pub const fn key(name: &'static str, default: &'static str, description: &'static str) -> Key {
    Key { name, default, description }
}

impl Section {
    /// A table that has these keys whatever its kind.
    pub const fn new(path: &'static str, keys: &'static [Key]) -> Section {
        Section { path, kinds: &[], keys }
    }

    /// The keys of a table of these kinds.
    pub const fn of_kind(path: &'static str, kinds: &'static [&'static str], keys: &'static [Key]) -> Section {
        Section { path, kinds, keys }
    }

    /// The full name of one of its keys: `director.io.kind`.
    pub fn full_name(&self, key: &Key) -> String {
        let dot = if self.path.is_empty() { "" } else { "." };
        format!("{}{dot}{}", self.path, key.name)
    }

    /// The description of one of its keys, which begins with the kinds that have it.
    pub fn describe(&self, key: &Key) -> String {
        let kinds: Vec<String> = self.kinds.iter().map(|kind| format!("`{kind}`")).collect();
        if kinds.is_empty() { key.description.to_owned() } else { format!("{}: {}", kinds.join(", "), key.description) }
    }

    /// Whether `text` names this section: its path, the end of it, or that of a table around it.
    pub fn is_called(&self, text: &str) -> bool {
        let around = self.path.strip_prefix(text).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        around || self.path.rsplit('.').next() == Some(text)
    }
}

//! The keys of all files, in the order in which help and the man page show them.

use guideway_config::keys::{DIRECTOR, HEALTH, Key, STORE, Section};
use guideway_tftpd::config::keys::SERVER;

/// Keys that belong together.
pub struct Group {
    /// The name under which help finds it.
    pub name: &'static str,
    /// Where the keys stand.
    pub title: &'static str,
    /// The sections.
    pub sections: &'static [Section],
}

/// All keys.
pub const GROUPS: [Group; 4] = [
    Group { name: "director", title: "File of a director", sections: DIRECTOR },
    Group { name: "store", title: "[store] in the file of a director or health controller", sections: STORE },
    Group { name: "health", title: "Health checks of a pool, and file of a health controller", sections: HEALTH },
    Group { name: "tftpd", title: "File of a TFTP server", sections: SERVER },
];

/// One key as it is shown.
pub struct Entry {
    /// Its full name.
    pub name: String,
    /// Its section.
    pub section: &'static Section,
    /// The definition.
    pub key: &'static Key,
}

impl Group {
    /// The keys of the group.
    pub fn entries(&self) -> impl Iterator<Item = Entry> {
        let entry = |section: &'static Section| section.keys.iter().map(move |key| Entry { name: section.full_name(key), section, key });
        self.sections.iter().flat_map(entry)
    }
}

impl Entry {
    /// Returns the name, followed by `required` or the default.
    pub fn heading(&self) -> String {
        let default = plain(self.key.default);
        if default == "required" { format!("{}  ({default})", self.name) } else { format!("{}  (default: {default})", self.name) }
    }

    /// The description as plain text.
    pub fn description(&self) -> String {
        plain(&self.section.describe(self.key))
    }
}

/// Removes the back quotes that words have in the guides.
pub fn plain(text: &str) -> String {
    text.replace('`', "")
}

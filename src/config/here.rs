//! What a file names and this host does not have. `guideway check` warns of it and no more: a file may be checked elsewhere than where it is used.

use super::problem::{Problem, Severity};
use super::reader::{Reader, quoted};
use nix::unistd::{AccessFlags, User, access};
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// What a name should stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// A file that can be read.
    File,
    /// A directory.
    Directory,
    /// Something that is made; the directory above it is there.
    Made,
    /// A file that can be run.
    Program,
    /// A network interface.
    Interface,
    /// A user.
    User,
}

/// A name in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The key by position: `handler[0].root`.
    pub key: String,
    /// What it is looked for by; what the file says, unless that is only a part of it.
    pub name: PathBuf,
    pub wanted: Wanted,
}

impl Named {
    pub fn new(key: impl Into<String>, name: impl Into<PathBuf>, wanted: Wanted) -> Named {
        Named { key: key.into(), name: name.into(), wanted }
    }

    /// Why it is not here; nothing when it is.
    fn absent(&self) -> Option<String> {
        let path = self.name.as_path();
        let named = self.name.display();
        let metadata = |path: &Path| std::fs::metadata(path).map_err(|error| error.to_string());
        let why = match self.wanted {
            Wanted::File => match metadata(path) {
                Ok(about) if about.is_dir() => "is a directory and no file".to_owned(),
                Ok(_) => {
                    return access(path, AccessFlags::R_OK).err().map(|error| format!("{named} cannot be read here: {}", error.desc()));
                }
                Err(error) => error,
            },
            Wanted::Directory => match metadata(path) {
                Ok(about) if about.is_dir() => return None,
                Ok(_) => "is no directory".to_owned(),
                Err(error) => error,
            },
            Wanted::Made => {
                let above = path.parent().unwrap_or(path);
                return metadata(above)
                    .err()
                    .map(|error| format!("{} is not on this host, where it would be made: {error}", above.display()));
            }
            Wanted::Program => match metadata(path) {
                Ok(about) if about.is_file() => {
                    return access(path, AccessFlags::X_OK).err().map(|error| format!("{named} cannot be run here: {}", error.desc()));
                }
                Ok(_) => "is no program".to_owned(),
                Err(error) => error,
            },
            Wanted::Interface => {
                let there = Path::new("/sys/class/net").join(path).exists();
                return (!there).then(|| "there is no interface of this name on this host".to_owned());
            }
            Wanted::User => {
                let user = User::from_name(&self.name.to_string_lossy());
                return matches!(user, Ok(None)).then(|| "there is no user of this name on this host".to_owned());
            }
        };
        Some(format!("{named} is not on this host: {why}"))
    }
}

/// A warning for each of them that is not here, at its line of the file.
pub fn warnings(text: &str, named: &[Named]) -> Vec<Problem> {
    let (document, _) = DeTable::parse_recoverable(text);
    let reader = Reader::new(text, false);
    let warning = |named: &Named| {
        let message = named.absent()?;
        let found = find(document.get_ref(), &named.key);
        let (line, column) = found.map_or((0, 0), |value| reader.position(value.span().start));
        let value = found.and_then(|value| value.get_ref().as_str()).map(quoted);
        Some(Problem { severity: Severity::Warning, line, column, key: named.key.clone(), place: named.key.clone(), value, message })
    };
    named.iter().filter_map(warning).collect()
}

/// The value of a key such as `handler[0].root`.
fn find<'d, 't>(table: &'d DeTable<'t>, key: &str) -> Option<&'d Spanned<DeValue<'t>>> {
    let (first, rest) = key.split_once('.').map_or((key, None), |(first, rest)| (first, Some(rest)));
    let (name, index) = match first.strip_suffix(']').and_then(|first| first.split_once('[')) {
        Some((name, index)) => (name, Some(index.parse::<usize>().ok()?)),
        None => (first, None),
    };
    let mut value = table.get(name)?;
    if let Some(index) = index {
        value = value.get_ref().as_array()?.get(index)?;
    }
    match rest {
        Some(rest) => find(value.get_ref().as_table()?, rest),
        None => Some(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_here_is_told_with_its_line() {
        let text = "[a]\nfile = \"/nowhere/f\"\n[[b]]\n[[b]]\nlist = [\"/\", \"/etc/hostname\"]\nuser = \"root\"\n";
        let named = [
            Named::new("a.file", "/nowhere/f", Wanted::File),
            Named::new("a.file", "/nowhere/f", Wanted::Made),
            Named::new("b[1].list[0]", "/", Wanted::Directory),
            Named::new("b[1].list[1]", "/etc/hostname", Wanted::Directory),
            Named::new("b[1].list[0]", "/", Wanted::Program),
            Named::new("b[1].list[1]", "/etc/hostname", Wanted::File),
            Named::new("b[1].user", "root", Wanted::User),
            Named::new("b[1].user", "nobody-of-this-name", Wanted::User),
            Named::new("a.interface", "lo", Wanted::Interface),
            Named::new("a.interface", "gw-nowhere", Wanted::Interface),
        ];
        let said: Vec<String> = warnings(text, &named).iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            [
                "line 2: warning: a.file = \"/nowhere/f\": /nowhere/f is not on this host: No such file or directory (os error 2)",
                "line 2: warning: a.file = \"/nowhere/f\": /nowhere is not on this host, where it would be made: No such file or directory (os error 2)",
                "line 5: warning: b[1].list[1] = \"/etc/hostname\": /etc/hostname is not on this host: is no directory",
                "line 5: warning: b[1].list[0] = \"/\": / is not on this host: is no program",
                "line 6: warning: b[1].user = \"root\": there is no user of this name on this host",
                "warning: a.interface: there is no interface of this name on this host",
            ]
        );
    }
}

//! Host checks: what a file names and this host does not have. `guideway check` only warns about it, because a file may be checked on
//! another host.

use super::problem::{Problem, Severity};
use super::reader::{Reader, quoted};
use super::secret_file::exposed_because;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::SockaddrStorage;
use nix::unistd::{AccessFlags, User, access};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// What a name must refer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequirementKind {
    /// A file that can be read.
    File,
    /// A file that can be read, but not by everybody.
    Secret,
    /// A directory.
    Directory,
    /// A file that will be created; its directory exists.
    Creatable,
    /// An executable file.
    Program,
    /// A network interface.
    Interface,
    /// An address of an interface.
    Address,
    /// A user.
    User,
}

/// A file, directory, interface or user that a configuration names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostRequirement {
    /// The key by position: `handler[0].root`.
    pub key: String,
    /// Path or name to look for: the value of the key, or a part of it.
    pub name: PathBuf,
    /// What it must be.
    pub kind: RequirementKind,
}

impl HostRequirement {
    /// Creates the requirement of the key at this position.
    pub fn new(key: impl Into<String>, name: impl Into<PathBuf>, kind: RequirementKind) -> HostRequirement {
        HostRequirement { key: key.into(), name: name.into(), kind }
    }

    /// Returns why it is not on this host, or `None` if it is.
    fn missing_because(&self) -> Option<String> {
        let path = self.name.as_path();
        let name = self.name.display();
        let metadata = |path: &Path| std::fs::metadata(path).map_err(|error| error.to_string());
        let why = match self.kind {
            RequirementKind::Secret if path.is_file() => return exposed_because(path),
            RequirementKind::File | RequirementKind::Secret => match metadata(path) {
                Ok(metadata) if metadata.is_dir() => return Some(format!("{name} is a directory, not a file")),
                Ok(_) => {
                    return access(path, AccessFlags::R_OK)
                        .err()
                        .map(|error| format!("{name} cannot be read on this host: {}", error.desc()));
                }
                Err(error) => error,
            },
            RequirementKind::Directory => match metadata(path) {
                Ok(metadata) if metadata.is_dir() => return None,
                Ok(_) => return Some(format!("{name} is not a directory")),
                Err(error) => error,
            },
            RequirementKind::Creatable => {
                let above = path.parent().unwrap_or(path);
                return metadata(above).err().map(|error| format!("its directory {} is not on this host: {error}", above.display()));
            }
            RequirementKind::Program => match metadata(path) {
                Ok(metadata) if metadata.is_file() => {
                    return access(path, AccessFlags::X_OK)
                        .err()
                        .map(|error| format!("{name} cannot be run on this host: {}", error.desc()));
                }
                Ok(_) => return Some(format!("{name} is not a program")),
                Err(error) => error,
            },
            RequirementKind::Interface => {
                let there = Path::new("/sys/class/net").join(path).exists();
                return (!there).then(|| "there is no interface of this name on this host".to_owned());
            }
            RequirementKind::Address => {
                let Ok(mut addresses) = getifaddrs() else { return None };
                let here =
                    addresses.any(|interface| interface.address.is_some_and(|address| socket_address_is(&address, &name.to_string())));
                return (!here).then(|| format!("{name} is on no interface of this host: routers cannot send GRE there"));
            }
            RequirementKind::User => {
                let user = User::from_name(&self.name.to_string_lossy());
                return matches!(user, Ok(None)).then(|| "there is no user of this name on this host".to_owned());
            }
        };
        Some(format!("{name} is not on this host: {why}"))
    }
}

fn socket_address_is(address: &SockaddrStorage, wanted: &str) -> bool {
    let found = address.as_sockaddr_in().map(|a| IpAddr::from(a.ip())).or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::from(a.ip())));
    found.is_some_and(|found| wanted.parse() == Ok(found))
}

/// Returns a warning, with its line, for each requirement that this host does not meet.
pub fn warnings(text: &str, requirements: &[HostRequirement]) -> Vec<Problem> {
    let (document, _) = DeTable::parse_recoverable(text);
    let reader = Reader::new(text, false);
    let warning = |requirement: &HostRequirement| {
        let message = requirement.missing_because()?;
        let found = find(document.get_ref(), &requirement.key);
        let (line, column) = found.map_or((0, 0), |value| reader.position(value.span().start));
        // A secret itself is not shown.
        let shown = found.and_then(|value| value.get_ref().as_str());
        let value = shown.filter(|text| requirement.kind != RequirementKind::Secret || Path::new(text) == requirement.name).map(quoted);
        Some(Problem {
            severity: Severity::Warning,
            line,
            column,
            key: requirement.key.clone(),
            path: requirement.key.clone(),
            value,
            message,
        })
    };
    requirements.iter().filter_map(warning).collect()
}

/// Finds the value of a key such as `handler[0].root`.
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
    fn each_missing_thing_is_reported_with_its_line() {
        let text = "[a]\nfile = \"/nowhere/f\"\n[[b]]\n[[b]]\nlist = [\"/\", \"/etc/hostname\"]\nuser = \"root\"\n";
        let requirements = [
            HostRequirement::new("a.file", "/nowhere/f", RequirementKind::File),
            HostRequirement::new("a.file", "/nowhere/f", RequirementKind::Creatable),
            HostRequirement::new("b[1].list[0]", "/", RequirementKind::Directory),
            HostRequirement::new("b[1].list[1]", "/etc/hostname", RequirementKind::Directory),
            HostRequirement::new("b[1].list[0]", "/", RequirementKind::Program),
            HostRequirement::new("b[1].list[1]", "/etc/hostname", RequirementKind::File),
            HostRequirement::new("b[1].user", "root", RequirementKind::User),
            HostRequirement::new("b[1].user", "nobody-of-this-name", RequirementKind::User),
            HostRequirement::new("a.interface", "lo", RequirementKind::Interface),
            HostRequirement::new("a.interface", "gw-nowhere", RequirementKind::Interface),
            HostRequirement::new("a.address", "127.0.0.1", RequirementKind::Address),
            HostRequirement::new("a.address", "203.0.113.77", RequirementKind::Address),
        ];
        let messages: Vec<String> = warnings(text, &requirements).iter().map(ToString::to_string).collect();
        assert_eq!(
            messages,
            [
                "line 2: warning: a.file = \"/nowhere/f\": /nowhere/f is not on this host: No such file or directory (os error 2)",
                "line 2: warning: a.file = \"/nowhere/f\": its directory /nowhere is not on this host: No such file or directory (os error 2)",
                "line 5: warning: b[1].list[1] = \"/etc/hostname\": /etc/hostname is not a directory",
                "line 5: warning: b[1].list[0] = \"/\": / is not a program",
                "line 6: warning: b[1].user = \"root\": there is no user of this name on this host",
                "warning: a.interface: there is no interface of this name on this host",
                "warning: a.address: 203.0.113.77 is on no interface of this host: routers cannot send GRE there",
            ]
        );
    }
}

//! The configuration of a TFTP server: what the TOML file says, checked and with its defaults filled in.
//!
//! | section | keys |
//! |---|---|
//! | `[server]` | `name`, `socket`, `metrics`, `listen`, `gre`, `vip`, `tid_port`, `single_port`, `loops`, `nice`, `user` |
//! | | `writable`, `writable_limit`, `writable_files`, `writable_total` |
//! | | `max_blksize`, `fragments`, `max_window`, `max_window_bytes`, `rollover`, `max_transfers`, `max_per_client` |
//! | | `timeout`, `timeout_least`, `timeout_most`, `retries`, `patience`, `open_timeout` |
//! | `[[handler]]` | `name`, `kind`, and those of the kind, below |
//! | `directory` | `root`, `symlinks`, `ignore_case` |
//! | `http` | `url`, `ca`, `cache`, `cache_size`, `fresh`, `missing`, `stale`, `timeout`, `connections` |
//! | `template` | `pattern`, `directory`, `template`, `inventory = { csv or json or url, ca, key, from, optional, timeout, concurrency }` |
//! | `exec` | `program`, `answer`, `files`, `timeout`, `output`, `concurrency` |
//! | `hook` | `url`, `ca`, `answer`, `files`, `timeout`, `output`, `concurrency` |
//! | `[[rule]]` | `file`, `ignore_case`, `client`, `vip`, `remap = { pattern, to }`, `use` or `deny` |
//! | `[takeover]` | `config` or `[[pool]]` as directors have it, `key`, `key_file`, `name`, `pool`, `port`, `wait`, `memory = { transfers, bytes }` |
//! | `[limits]` | `rate`, `burst`, `concurrent`, `prefix4`, `prefix6`, `remembered` |
//!
//! Rules are asked in their order; the first that matches and has `use` or `deny` decides. The handlers of `use` are asked in their order
//! until one has the file. A file without rules asks all handlers in their order.

mod build;
mod check;
#[cfg(test)]
mod documented;
mod handler;
mod rule;
mod server;
mod takeover;
#[cfg(test)]
mod tests;
mod values;

pub use build::{BuildError, Built};
pub use check::check_command;
pub use server::{Server, rollover};
pub use takeover::{Takeover, follows};

use globset::GlobSet;
use guideway_config::reader::Reader;
use guideway_config::{self as config, Checked, LoadError, load_with, read_kind, tables};
use guideway_tftp::directory::DirectoryOptions;
use guideway_tftp::handlers::{exec, hook, http, limits, template};
use ipnet::IpNet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use toml::de::DeTable;

/// What the file says of handlers and rules.
#[derive(Clone, Debug)]
pub struct Config {
    /// `[[handler]]`, in the order of the file; at least one.
    pub handlers: Vec<Handler>,
    /// `[[rule]]`, in the order of the file.
    pub rules: Vec<Rule>,
    /// `[limits]`
    pub limits: Option<limits::Settings>,
    /// `[takeover]`
    pub takeover: Option<Takeover>,
}

/// `[[handler]]`
#[derive(Clone, Debug)]
pub struct Handler {
    /// Unique, 1–63 characters of `a-z A-Z 0-9 - _ .`
    pub name: String,
    /// What it does.
    pub kind: Kind,
}

/// `[[handler]] kind`
#[derive(Clone, Debug)]
pub enum Kind {
    /// `"directory"`: files below a directory.
    Directory {
        /// The directory.
        root: PathBuf,
        /// What is allowed of names.
        options: DirectoryOptions,
    },
    /// `"http"`: files of an HTTP origin.
    Http(http::Settings),
    /// `"template"`: files made for each machine.
    Template(template::Settings),
    /// `"exec"`: a program.
    Exec {
        /// What it is to do.
        settings: exec::Settings,
        /// Name of the handler that opens the files that it decides on; it stands before this one.
        files: Option<String>,
    },
    /// `"hook"`: an HTTP service.
    Hook {
        /// What it is to do.
        settings: hook::Settings,
        /// As for a program.
        files: Option<String>,
    },
}

/// `[[rule]]`
#[derive(Clone, Debug)]
pub struct Rule {
    /// Patterns of names.
    pub files: Option<GlobSet>,
    /// Prefixes of clients.
    pub clients: Vec<IpNet>,
    /// Addresses that were asked.
    pub vips: Vec<IpAddr>,
    /// Patterns and what replaces them.
    pub remap: Vec<(regex::bytes::Regex, String)>,
    /// What is done.
    pub action: Action,
}

/// `[[rule]] use` or `deny`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Neither: the rules behind it decide.
    GoOn,
    /// `deny = true`
    Deny,
    /// `use`: names of handlers.
    Serve(Vec<String>),
}

/// What a file says of handlers and rules, and of the server when it has that section.
pub type Whole = (Config, Option<Server>);

/// Reads and checks the text of a file.
pub fn read(text: &str) -> Checked<Whole> {
    read_kind(text, config::Kind::Server, sections)
}

/// Reads a file.
///
/// # Errors
/// When it cannot be read at all; what is wrong in it is in the result.
pub fn load(path: &Path) -> Result<Checked<Whole>, LoadError> {
    let mut checked = load_with(path, read)?;
    if let Some((Config { takeover: Some(takeover), .. }, _)) = &mut checked.config {
        takeover.file = Some(path.to_owned());
    }
    Ok(checked)
}

fn sections(reader: &Reader, document: &DeTable<'_>) -> Option<Whole> {
    let mut root = reader.root(document);
    let server = server::read(&mut root);
    let no_handler = root.about("handler");
    let handlers = tables(&mut root, "handler", "a list of tables: [[handler]], in two brackets");
    let handlers: Vec<_> = handlers.into_iter().map(handler::read).collect();
    let rules = tables(&mut root, "rule", "a list of tables: [[rule]], in two brackets");
    let rules: Vec<_> = rules.into_iter().map(rule::read).collect();
    let limits = root.optional("limits").map(|f| f.table("a table: [limits]").and_then(rule::limits));
    let takeover = takeover::read(reader, &mut root);
    root.finish();
    reader.unless_broken(|| {
        if handlers.is_empty() {
            reader.error(&no_handler, "is missing: nothing is served; write [[handler]] with name = \"files\", kind = \"directory\"");
        }
        handler::check(&handlers);
        rule::check(reader, &rules, &handlers);
    });
    if reader.has_errors() {
        return None;
    }
    let limits = match limits {
        Some(limits) => Some(limits?),
        None => None,
    };
    let config = Config {
        handlers: handlers.into_iter().map(handler::Draft::handler).collect::<Option<_>>()?,
        rules: rules.into_iter().map(rule::Draft::rule).collect::<Option<_>>()?,
        limits,
        takeover: takeover?,
    };
    Some((config, server?))
}

//! The configuration of a TFTP server: the TOML file, checked, with defaults filled in.
//!
//! [`keys`] lists the keys of every section.
//!
//! Rules apply in order; the first one that matches and has `use` or `deny` decides. The handlers of `use` are tried in order
//! until one has the file. Without rules, all handlers are tried in order.

mod build;
mod check;
mod handler;
pub mod keys;
mod reload;
mod reports;
mod rule;
mod server;
mod takeover;
#[cfg(test)]
mod tests;
mod values;

pub use build::{BuildError, Built, HttpHandler, ROOT, UPLOADS};
pub use check::check_command;
pub use handler::{Handler, Kind};
pub use reload::check_replacement;
pub use rule::{Action, Rule};
pub use server::{GRACES, Server, WINDOW_BYTES, WRITABLE_LIMIT, WRITABLE_TOTAL, rollover};
pub use takeover::Takeover;

use guideway_config::reader::Reader;
use guideway_config::{self as config, Checked, LoadError, load_with, read_kind, tables};
use guideway_tftp::handlers::limits;
use std::path::Path;
use toml::de::DeTable;

/// Handlers, rules, limits and takeover of a file.
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
    /// `[reports]`
    pub reports: Option<crate::reports::Settings>,
}

/// Handlers and rules of a file, and its `[server]` section if present.
pub type FileConfig = (Config, Option<Server>);

/// Reads and checks the text of a file.
pub fn read(text: &str) -> Checked<FileConfig> {
    read_kind(text, config::FileKind::Server, sections)
}

/// Reads a file.
///
/// # Errors
/// When it cannot be read at all. Problems in its content are in the result.
pub fn load(path: &Path) -> Result<Checked<FileConfig>, LoadError> {
    let mut checked = load_with(path, read)?;
    if let Some((Config { takeover: Some(takeover), .. }, _)) = &mut checked.config {
        takeover.file = Some(path.to_owned());
    }
    Ok(checked)
}

fn sections(reader: &Reader, document: &DeTable<'_>) -> Option<FileConfig> {
    let mut root = reader.root(document);
    let server = server::read(&mut root);
    let no_handler = root.key_location("handler");
    let handlers = tables(&mut root, "handler", "a list of tables: [[handler]], in double brackets");
    let handlers: Vec<_> = handlers.into_iter().map(handler::read).collect();
    let rules = tables(&mut root, "rule", "a list of tables: [[rule]], in double brackets");
    let rules: Vec<_> = rules.into_iter().map(rule::read).collect();
    let limits = root.optional("limits").map(|f| f.table("a table: [limits]").and_then(rule::limits));
    let takeover = takeover::read(reader, &mut root);
    let reports = reports::read(&mut root);
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
        handlers: handlers.into_iter().map(handler::RawHandler::handler).collect::<Option<_>>()?,
        rules: rules.into_iter().map(rule::RawRule::rule).collect::<Option<_>>()?,
        limits,
        takeover: takeover?,
        reports: reports?,
    };
    Some((config, server?))
}

//! Builds the server's handler from the configuration.

use super::{Action, Config, Kind};
use guideway_tftp::directory::Directory;
use guideway_tftp::handler::{SharedHandler, named};
use guideway_tftp::handlers::chain::Chain;
use guideway_tftp::handlers::exec::Exec;
use guideway_tftp::handlers::hook::Hook;
use guideway_tftp::handlers::http::{self, Cache, Http};
use guideway_tftp::handlers::limits::Limited;
use guideway_tftp::handlers::rules::{self, Remap, Rules};
use guideway_tftp::handlers::template::Template;
use guideway_tftp::writable::{WithUploads, Writable};
use std::collections::HashMap;
use std::io;
use std::path::Path;

/// Names in reports of the handler of uploads, and of the directory without a configuration file: the keys and flags that set them.
pub const UPLOADS: &str = "writable";
/// See [`UPLOADS`].
pub const ROOT: &str = "root";

/// A handler with a valid configuration cannot be created.
#[derive(Debug, thiserror::Error)]
#[error("cannot create the handler {handler:?}: {source}")]
pub struct BuildError {
    /// Its name.
    pub handler: String,
    /// The system's error.
    pub source: io::Error,
}

/// The handlers of a configuration.
pub struct Built {
    /// The handler that gets all requests.
    pub handler: SharedHandler,
    /// Its `http` handlers.
    pub http: Vec<HttpHandler>,
}

impl Built {
    /// Returns the caches of its `http` handlers, by their names.
    pub fn caches(&self) -> Vec<(String, Cache)> {
        self.http.iter().map(|handler| (handler.name.clone(), handler.http.cache())).collect()
    }
}

/// An `http` handler with its cache.
#[derive(Clone)]
pub struct HttpHandler {
    name: String,
    settings: http::Settings,
    http: Http,
}

/// Adds the path to an error.
fn with_path(path: &Path, source: io::Error) -> io::Error {
    io::Error::new(source.kind(), format!("{}: {source}", path.display()))
}

impl Config {
    /// Creates the handlers, and the rules that choose between them. Rules and limits hold for `uploads`, too. Of the `earlier` handlers those with
    /// the same settings are kept: a cache belongs to one handler.
    ///
    /// # Errors
    /// When a directory or a cache cannot be used.
    pub fn build(&self, uploads: Option<Writable>, earlier: &[HttpHandler]) -> Result<Built, BuildError> {
        let mut kept = Vec::new();
        let mut made: HashMap<&str, SharedHandler> = HashMap::new();
        for handler in &self.handlers {
            let opener = |files: &Option<String>| files.as_ref().and_then(|files| made.get(files.as_str()).cloned());
            let failed = |source| BuildError { handler: handler.name.clone(), source };
            let new = match &handler.kind {
                Kind::Directory { root, options } => {
                    SharedHandler::new(Directory::new(root, *options).map_err(|source| failed(with_path(root, source)))?)
                }
                Kind::Http(settings) => {
                    let same = earlier.iter().find(|earlier| earlier.settings == *settings);
                    let http = match same {
                        Some(earlier) => earlier.http.clone(),
                        None => Http::new(settings.clone()).map_err(failed)?,
                    };
                    kept.push(HttpHandler { name: handler.name.clone(), settings: settings.clone(), http: http.clone() });
                    SharedHandler::new(http)
                }
                Kind::Template(settings) => SharedHandler::new(Template::new(settings.clone()).map_err(failed)?),
                Kind::Exec { settings, files } => SharedHandler::new(Exec::new(settings.clone(), opener(files))),
                Kind::Hook { settings, files } => SharedHandler::new(Hook::new(settings.clone(), opener(files)).map_err(failed)?),
            };
            made.insert(&handler.name, new);
        }
        // Reports name the handler that a rule uses. One that gets the decisions of an exec or hook handler is not named: the program has decided.
        let name = |name: &str| made.get(name).map(|handler| SharedHandler::new(named(name, handler.clone())));
        let chain = |names: &mut dyn Iterator<Item = &str>| Chain::of(names.filter_map(name).collect());
        let uploads = uploads.map(|uploads| SharedHandler::new(named(UPLOADS, uploads)));
        let all = if self.rules.is_empty() {
            let files = chain(&mut self.handlers.iter().map(|handler| handler.name.as_str()));
            match uploads {
                Some(uploads) => SharedHandler::new(WithUploads::new(files, uploads)),
                None => files,
            }
        } else {
            let rule = |rule: &super::Rule| rules::Rule {
                files: rule.files.clone(),
                clients: rule.clients.clone(),
                vips: rule.vips.clone(),
                remap: rule.remap.iter().map(|(pattern, to)| Remap { pattern: pattern.clone(), to: to.clone() }).collect(),
                action: match &rule.action {
                    Action::FallThrough => rules::Action::FallThrough,
                    Action::Deny => rules::Action::Deny,
                    Action::Serve(names) => rules::Action::Serve(chain(&mut names.iter().map(String::as_str))),
                },
            };
            SharedHandler::new(Rules::new(self.rules.iter().map(rule).collect(), uploads))
        };
        let handler = match self.limits {
            Some(settings) => SharedHandler::new(Limited::new(settings, all)),
            None => all,
        };
        Ok(Built { handler, http: kept })
    }
}

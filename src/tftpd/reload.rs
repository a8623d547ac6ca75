//! Reload: reads the file again and replaces what a running server can replace.

use super::config::{self, HttpHandler, Server};
use super::reports::Reports;
use guideway_tftp::engine::Running;
use guideway_tftp::handlers::http::Cache;
use guideway_tftp::takeover::Settings;
use guideway_tftp::writable::Writable;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// What a reload needs.
pub struct Reload {
    /// The server's name.
    pub name: String,
    /// The file; `None` if the server was started without one.
    pub config: Option<PathBuf>,
    /// The flags, which take precedence over the file.
    pub flags: Server,
    /// `[server]` of the file at the start.
    pub server: Server,
    /// How long running transfers may go on after SIGTERM.
    pub grace: Duration,
    /// `[takeover]` of the file at the start.
    pub takeover: Option<config::Takeover>,
    /// The engine's part of it.
    pub settings: Option<Settings>,
    /// The handler of uploads.
    pub uploads: Option<Writable>,
    /// The `http` handlers in use.
    pub http: Vec<HttpHandler>,
    /// Targets of reports.
    pub reports: Arc<Reports>,
    /// The runtime of the server.
    pub runtime: Handle,
}

/// An applied file.
pub struct Applied {
    /// The caches of its handlers, by their names.
    pub caches: Vec<(String, Cache)>,
    /// Changes that need a restart: each one with its key, old and new value.
    pub restart_required: Vec<String>,
}

impl Reload {
    /// Reads the file again and replaces handlers, rules, limits, targets of reports, `server.grace` and the pool of takeover. Running transfers keep
    /// what they have opened.
    ///
    /// # Errors
    /// The reasons for which the file was refused. Then nothing has changed.
    pub fn apply(&mut self, running: &Running) -> Result<Applied, String> {
        // Whatever becomes of the file: logrotate has moved the reports.
        self.reports.reopen();
        let Some(file) = &self.config else {
            return Err("there is no file to read: the server was started with --root, which it always serves as it is now".to_owned());
        };
        let checked = config::load(file).map_err(|error| error.to_string())?;
        let problems: Vec<_> = checked.errors().map(|problem| problem.in_file(file).to_string()).collect();
        let Some((config, server)) = checked.config.filter(|_| problems.is_empty()) else { return Err(problems.join("\n")) };
        let membership = match (&self.takeover, &self.settings) {
            (Some(takeover), Some(before)) => Some(takeover.reload(&self.name, before)?),
            _ if config.takeover.is_some() => return Err("[takeover] was added; that requires a restart".to_owned()),
            _ => None,
        };
        let built = config.build(self.uploads.clone(), &self.http).map_err(|error| error.to_string())?;
        let reports = self.reports.prepare(config.reports.as_ref(), &self.runtime)?;
        if let Some(membership) = membership {
            tracing::info!(servers = membership.members().len(), "takeover pool changed");
            running.handle().set_membership(&Arc::new(membership));
        }
        let caches = built.caches();
        self.http = built.http;
        running.handle().set_handler(built.handler);
        self.reports.apply(reports);
        let (before, server) = (self.flags.clone().or(self.server.clone()), self.flags.clone().or(server.unwrap_or_default()));
        self.grace = server.grace(config.takeover.is_some());
        let mut restart_required = Server { grace: server.grace, ..before }.changes(&server);
        if let (Some(before), Some(now)) = (&self.takeover, &config.takeover) {
            restart_required.extend(before.changes(now));
        }
        Ok(Applied { caches, restart_required })
    }
}

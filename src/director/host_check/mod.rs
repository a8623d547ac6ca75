//! `guideway check --host`: examines the host that a director is to run on, and changes nothing.

mod examine;
mod permissions;
#[cfg(test)]
mod tests;

use guideway_config::{Config, Intent};
use guideway_control::neighbour::{self, Survey};
use guideway_io::interface::Interface;
use serde::Serialize;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How long the store may take to answer. After 2 s its copy on this host is used.
const STORE_TIMEOUT: Duration = Duration::from_secs(4);

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The director works, but not for everything or not as fast as it could.
    Warning,
    /// The director does not start here, or forwards nothing.
    Error,
}

/// Something about the host that an operator should change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What was examined, in snake_case.
    pub check: &'static str,
    /// What was found, and what follows from it.
    pub message: String,
    /// The command that mends it.
    pub command: String,
}

impl Finding {
    fn new(severity: Severity, check: &'static str, message: impl Into<String>, command: impl Into<String>) -> Finding {
        Finding { severity, check, message: message.into(), command: command.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = if self.severity == Severity::Error { "error" } else { "warning" };
        write!(f, "{severity}: {}: {}\n  {}", self.check, self.message, self.command)
    }
}

/// What the examination reads from the host.
struct Host<'a> {
    config: &'a Config,
    interface: &'a Interface,
    survey: &'a Survey,
    /// This director runs already: what it holds is no finding.
    runs: bool,
    capabilities: u64,
    /// Hard limit of locked memory in bytes.
    locked_memory: u64,
    cpus: usize,
    /// Reads a value below /proc/sys.
    sysctl: &'a dyn Fn(&str) -> Option<String>,
    exists: &'a dyn Fn(&Path) -> bool,
}

/// Examines this host for the director of `config`, with VIPs and backends from its store if it has one; the worst findings come first.
pub fn examine(config: &Config) -> Vec<Finding> {
    let (config, unread) = match &config.store {
        Some(store) => match stored_intent(store) {
            Ok(intent) => (&config.with_intent(&intent), None),
            Err(why) => {
                let message = format!("VIPs and backends are in the store, which cannot be read: {why}; they are not examined");
                (config, Some(Finding::new(Severity::Warning, "store", message, "guideway store show --config FILE")))
            }
        },
        None => (config, None),
    };
    let mut findings = examine_host(config);
    findings.extend(unread);
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    findings
}

/// Reads what is wanted from the store as a director does, also from its copy on this host.
fn stored_intent(store: &guideway_config::Store) -> Result<Arc<Intent>, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
    let opened = runtime.block_on(guideway_store::open_timeout(store, STORE_TIMEOUT)).map_err(|error| error.to_string())?;
    let intent = opened.watch().borrow().cluster.intent.clone();
    Ok(intent)
}

fn examine_host(config: &Config) -> Vec<Finding> {
    let interface = match super::open::interface(&config.director) {
        Ok(interface) => interface,
        Err(error) => return vec![Finding::new(Severity::Error, "interface", error.to_string(), "ip link")],
    };
    let survey = match survey(config, interface.index) {
        Ok(survey) => survey,
        Err(error) => return vec![Finding::new(Severity::Error, "routes", error.to_string(), "ip link")],
    };
    let host = Host {
        config,
        interface: &interface,
        survey: &survey,
        runs: std::os::unix::net::UnixStream::connect(&config.director.socket).is_ok(),
        capabilities: permissions::effective(),
        locked_memory: permissions::locked_memory(),
        cpus: guideway_host::cpus::allowed().len(),
        sysctl: &|key| Some(std::fs::read_to_string(Path::new("/proc/sys").join(key)).ok()?.trim().to_owned()),
        exists: &|path| path.exists(),
    };
    host.findings()
}

fn survey(config: &Config, interface: u32) -> Result<Survey, neighbour::Error> {
    let targets = super::resolve::targets(config, std::collections::BTreeSet::new());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(neighbour::survey(interface, super::resolve::route_key(config), targets))
}

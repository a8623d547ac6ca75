//! Functions that several commands share: loading a configuration, reporting errors, formatting.

use super::{BAD_USAGE, DONE, FAILED, print};
use guideway_config::{self as config, Config};
use guideway_store::{Health, Observation, Observed, PoolHealth};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Reads a configuration. When it is invalid, prints every error on standard error and returns the exit code. Ignores warnings, which
/// `guideway check` prints.
pub fn load(path: &Path) -> Result<Config, u8> {
    let checked = match config::load(path) {
        Ok(checked) => checked,
        Err(error) => return Err(usage_error(&error.to_string())),
    };
    for problem in checked.errors() {
        print::error(problem.in_file(path));
    }
    checked.config.ok_or(BAD_USAGE)
}

/// Reads a configuration that must contain VIPs and pools. One whose VIPs are in a store is refused.
pub fn load_with_vips(path: &Path) -> Result<Config, u8> {
    let config = load(path)?;
    if config.store.is_some() {
        let file = path.display();
        return Err(usage_error(&format!(
            "{file}: the VIPs and pools are in the store of [store], not in this file; use a running director (guideway explain --director NAME), or write them as [[vip]] and [[pool]] with `guideway store export --config {file}`"
        )));
    }
    Ok(config)
}

/// Returns health in which these backends, given as POOL/BACKEND, are down.
///
/// # Errors
/// Returns an error that names a backend that is not in the configuration.
pub fn health_with_down(config: &Config, names: &[String]) -> Result<Health, String> {
    let mut health: BTreeMap<String, PoolHealth> = BTreeMap::new();
    for text in names {
        let named = text.split_once('/').filter(|(pool, backend)| {
            let pool = config.pools.iter().find(|candidate| candidate.name == *pool);
            pool.is_some_and(|pool| pool.backends.iter().any(|candidate| candidate.name == *backend))
        });
        let Some((pool, backend)) = named else {
            return Err(format!("--down {text}: unknown backend; write POOL/BACKEND of the configuration, such as boot/t1"));
        };
        let observed = Observed { state: Observation::Down, since: 0, why: "--down".to_owned(), unknown: false };
        health.entry(pool.to_owned()).or_default().backends.insert(backend.to_owned(), observed);
    }
    Ok(health.into_iter().map(|(pool, health)| (pool, Arc::new(health))).collect())
}

/// Reports an error of usage or configuration.
pub fn usage_error(message: &str) -> u8 {
    print::error(format_args!("guideway: {message}"));
    BAD_USAGE
}

/// Reports a failure.
pub fn failed(message: &str) -> u8 {
    print::error(format_args!("guideway: {message}"));
    FAILED
}

/// Prints the result of a command; returns its exit code.
pub fn print_result(text: &str) -> u8 {
    if print::line(text.trim_end()) { DONE } else { failed("cannot write to standard output") }
}

/// Characters that must be escaped in a query or a path.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b':');

/// Escapes a part of a path, such as a name.
pub fn encode_component(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

/// Returns a query with these parameters.
pub fn query(parameters: &[(&str, &str)]) -> String {
    let parameters: Vec<String> = parameters.iter().map(|(name, value)| format!("{name}={}", encode_component(value))).collect();
    parameters.join("&")
}

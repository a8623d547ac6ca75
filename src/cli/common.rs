//! What several commands need: a configuration or the reasons against it, and ways to say what is wrong.

use super::{BAD_USAGE, DONE, FAILED, print};
use guideway_config::{self as config, Config};
use guideway_store::{Health, Observation, Observed, PoolHealth};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Reads a configuration. When it cannot be used, every error of it is on standard error, and the exit code is given.
/// Warnings are left to `guideway check`.
pub fn load(path: &Path) -> Result<Config, u8> {
    let checked = match config::load(path) {
        Ok(checked) => checked,
        Err(error) => return Err(bad(&error.to_string())),
    };
    for problem in checked.errors() {
        print::error(problem.in_file(path));
    }
    checked.config.ok_or(BAD_USAGE)
}

/// Reads a configuration for what its own VIPs and pools say. One whose VIPs live in a store says nothing of them.
pub fn load_with_vips(path: &Path) -> Result<Config, u8> {
    let config = load(path)?;
    if config.store.is_some() {
        let file = path.display();
        return Err(bad(&format!(
            "{file}: its VIPs and pools are in its [store], not in this file; a running director says what it does with them (guideway explain --director NAME), \
             and `guideway store export --config {file}` writes them as [[vip]] and [[pool]]"
        )));
    }
    Ok(config)
}

/// The health in which these backends, given as POOL/BACKEND, are down.
///
/// # Errors
/// Says which of them is not in the configuration.
pub fn down(config: &Config, names: &[String]) -> Result<Health, String> {
    let mut health: BTreeMap<String, PoolHealth> = BTreeMap::new();
    for text in names {
        let named = text.split_once('/').filter(|(pool, backend)| {
            let pool = config.pools.iter().find(|known| known.name == *pool);
            pool.is_some_and(|pool| pool.backends.iter().any(|known| known.name == *backend))
        });
        let Some((pool, backend)) = named else {
            return Err(format!("--down {text}: no such backend is in the configuration; name it as POOL/BACKEND, like boot/t1"));
        };
        let observed = Observed { state: Observation::Down, since: 0, why: "--down".to_owned() };
        health.entry(pool.to_owned()).or_default().backends.insert(backend.to_owned(), observed);
    }
    Ok(health.into_iter().map(|(pool, health)| (pool, Arc::new(health))).collect())
}

/// Says what is wrong with the usage or configuration.
pub fn bad(message: &str) -> u8 {
    print::error(format_args!("guideway: {message}"));
    BAD_USAGE
}

/// Says what failed.
pub fn failed(message: &str) -> u8 {
    print::error(format_args!("guideway: {message}"));
    FAILED
}

/// Prints the result of a command; gives its exit code.
pub fn result(text: &str) -> u8 {
    if print::line(text.trim_end()) { DONE } else { failed("standard output cannot be written") }
}

/// A value as people read it: strings without quotes, nothing for null.
pub fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// What a query or a path may not hold as it is.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b':');

/// A part of a path, such as a name.
pub fn part(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

/// A query of these parameters.
pub fn query(parameters: &[(&str, &str)]) -> String {
    let parameters: Vec<String> = parameters.iter().map(|(name, value)| format!("{name}={}", part(value))).collect();
    parameters.join("&")
}

/// Rows in columns, with two spaces between them.
pub fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut out = String::new();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
    }
    out
}

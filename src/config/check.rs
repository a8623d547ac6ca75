//! `guideway check`: checks a file and prints its errors and warnings.

use super::document::{Checked, LoadError};
use super::host_checks::{HostRequirement, RequirementKind};
use super::load::load;
use super::problem::Problem;
use super::summary;
use super::text::plural;
use super::{Config, Store};
use serde_json::json;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::Path;

/// Checks a file, prints a report, and returns the exit code: 0 if the file can be used, 2 if not, 1 if the report could not be written.
///
/// Writes a summary and the warnings to `out`, or all errors and warnings to `err`. With `json`, writes one document to `out`: `{"ok",
/// "file", "errors": […], "warnings": […]}`, whose entries are [`Problem`]s.
pub fn check_command(path: &Path, json: bool, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    let loaded = load(path).map(|mut checked| {
        checked.check_host(path, |config| host_requirements(path, config));
        checked
    });
    print_report(path, loaded, json, out, err, summary::write)
}

/// Returns the files and interfaces that a director's file expects on its host.
fn host_requirements(file: &Path, config: &Config) -> Vec<HostRequirement> {
    let mut host_requirements: Vec<HostRequirement> = config
        .director
        .io
        .interface()
        .map(|name| HostRequirement::new("director.io.interface", name, RequirementKind::Interface))
        .into_iter()
        .collect();
    let live = config.director.io.interface().is_some();
    let own = config.director.address;
    let addresses = own.v4.map(IpAddr::V4).into_iter().chain(own.v6.map(IpAddr::V6)).filter(|_| live);
    host_requirements
        .extend(addresses.map(|address| HostRequirement::new("director.address", address.to_string(), RequirementKind::Address)));
    host_requirements.extend(config.store.iter().flat_map(Store::host_requirements));
    if let Some(api) = &config.api {
        let tls = api.tls.as_ref();
        let files = [
            ("token_file", api.token_file.as_ref(), RequirementKind::Secret),
            ("cert", tls.map(|tls| &tls.cert), RequirementKind::File),
            ("key", tls.map(|tls| &tls.key), RequirementKind::Secret),
            ("client_ca", tls.and_then(|tls| tls.client_ca.as_ref()), RequirementKind::File),
        ];
        host_requirements
            .extend(files.into_iter().filter_map(|(key, file, kind)| Some(HostRequirement::new(format!("api.{key}"), file?, kind))));
    }
    host_requirements.push(HostRequirement::new("director.key", file, RequirementKind::Secret));
    host_requirements
}

/// Adds a warning for each secret of a director's valid file that everybody on this host can read.
pub fn check_secrets(path: &Path, checked: &mut Checked<Config>) {
    checked.check_host(path, |config| {
        let is_secret = |requirement: &HostRequirement| requirement.kind == RequirementKind::Secret;
        host_requirements(path, config).into_iter().filter(is_secret).collect()
    });
}

/// Checks a file of any kind; `summary` prints its contents.
pub fn print_report<T>(
    path: &Path,
    loaded: Result<Checked<T>, LoadError>,
    json: bool,
    out: &mut dyn Write,
    err: &mut dyn Write,
    summary: impl Fn(&T, &mut dyn Write) -> io::Result<()>,
) -> u8 {
    let (exit_code, written) = match loaded {
        Ok(checked) if json => (exit_code(&checked), document(path, &checked, out)),
        Ok(checked) => (exit_code(&checked), report(path, &checked, out, err, summary)),
        Err(error) => {
            let text = error.to_string();
            let document = json!({ "ok": false, "file": path.display().to_string(), "errors": [{ "message": text }], "warnings": [] });
            (2, if json { writeln!(out, "{document:#}") } else { writeln!(err, "{text}") })
        }
    };
    if written.is_err() { 1 } else { exit_code }
}

fn exit_code<T>(checked: &Checked<T>) -> u8 {
    if checked.config.is_some() { 0 } else { 2 }
}

fn document<T>(path: &Path, checked: &Checked<T>, out: &mut dyn Write) -> io::Result<()> {
    let (errors, warnings): (Vec<&Problem>, Vec<&Problem>) = (checked.errors().collect(), checked.warnings().collect());
    let document = json!({ "ok": checked.config.is_some(), "file": path.display().to_string(), "errors": errors, "warnings": warnings });
    writeln!(out, "{document:#}")
}

fn report<T>(
    path: &Path,
    checked: &Checked<T>,
    out: &mut dyn Write,
    err: &mut dyn Write,
    summary: impl Fn(&T, &mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let warnings = checked.warnings().count();
    let Some(config) = &checked.config else {
        for problem in checked.errors().chain(checked.warnings()) {
            writeln!(err, "{}", problem.in_file(path))?;
        }
        let errors = checked.errors().count();
        return writeln!(err, "{}: {errors} {}, {warnings} {}", path.display(), plural(errors, "error"), plural(warnings, "warning"));
    };
    summary(config, out)?;
    writeln!(out)?;
    for warning in checked.warnings() {
        writeln!(out, "{}", warning.in_file(path))?;
    }
    writeln!(out, "{}: good, {warnings} {}", path.display(), plural(warnings, "warning"))
}

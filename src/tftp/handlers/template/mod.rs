//! Handler that renders boot configuration for each machine, from a template, the request and an inventory.
//!
//! | Value | Contents |
//! |---|---|
//! | `client` | the client's address |
//! | `vip` | the destination address of the request |
//! | `file` | the normalized file name |
//! | captures of the pattern | the captured text; `mac` always in the form `02:00:00:00:00:01` |
//! | `machine` | the machine's entry in the inventory |
//!
//! The client's port and the time are not available: a machine that requests the size and then the file, perhaps from another server, must
//! get the same bytes. The tag is the hash of the bytes.

mod inventory;
mod render;
#[cfg(test)]
mod tests;
mod watched;

pub use inventory::Source;

use crate::content::Content;
use crate::handler::{Handler, Opened, Refusal, run_blocking};
use crate::name::normalize;
use crate::request::Request;
use inventory::{Inventory, canonical};
use regex::Regex;
use render::Templates;
use serde_json::{Map, Value};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Names that captures of a pattern must not have.
pub const RESERVED_NAMES: [&str; 4] = ["client", "vip", "file", "machine"];

/// Settings of a [`Template`] handler.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Pattern of served names. Other names are not found, so that a chain continues.
    pub pattern: Regex,
    /// Directory of templates, which may include one another.
    pub directory: PathBuf,
    /// File of the template in that directory.
    pub template: String,
    /// Inventory of machines, if needed.
    pub inventory: Option<Machines>,
}

/// Inventory of machines, and the part of a request that is the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machines {
    /// Source of the inventory.
    pub source: Source,
    /// Column or member that holds the key.
    pub key: String,
    /// Part of the request that is the key: `client`, or a capture of the pattern.
    pub from: String,
    /// Whether an unlisted machine gets its file, without `machine`. Otherwise its file is not found.
    pub optional: bool,
    /// Time limit for an answer of a service.
    pub timeout: Duration,
    /// Largest number of requests to a service at once.
    pub concurrency: usize,
}

/// Renders files from a template.
#[derive(Clone)]
pub struct Template {
    shared: Arc<Shared>,
}

struct Shared {
    pattern: Regex,
    template: String,
    templates: Templates,
    inventory: Option<(Inventory, Machines)>,
}

impl Template {
    /// Creates a handler. Templates and inventory are read when needed, and again after a change.
    ///
    /// # Errors
    /// When there is no trusted authority for an https inventory.
    pub fn new(settings: Settings) -> io::Result<Template> {
        let inventory = |machines: Machines| {
            let Machines { source, key, timeout, concurrency, .. } = machines.clone();
            Ok::<_, io::Error>((Inventory::new(source, key, timeout, concurrency)?, machines))
        };
        let inventory = settings.inventory.map(inventory).transpose()?;
        let shared =
            Shared { pattern: settings.pattern, template: settings.template, templates: Templates::new(settings.directory), inventory };
        Ok(Template { shared: Arc::new(shared) })
    }
}

impl Handler for Template {
    async fn open(&self, request: Request) -> Opened {
        let name = normalize(request.file())?;
        let Some(values) = String::from_utf8(name).ok().and_then(|name| self.shared.values(&name, &request)) else {
            return Err(Refusal::not_found());
        };
        let shared = self.shared.clone();
        match &self.shared.inventory {
            Some((Inventory::Service(_), _)) => shared.with_service(values).await,
            _ => run_blocking(move || shared.with_files(values)).await,
        }
    }
}

impl Shared {
    /// Returns the values of the request; `None` if the pattern does not match.
    fn values(&self, name: &str, request: &Request) -> Option<Map<String, Value>> {
        let captures = self.pattern.captures(name)?;
        let mut values = Map::new();
        for capture in self.pattern.capture_names().flatten() {
            if let Some(text) = captures.name(capture) {
                let text = if capture == "mac" { canonical(text.as_str()) } else { text.as_str().to_owned() };
                values.insert(capture.to_owned(), text.into());
            }
        }
        values.insert("client".into(), request.client.ip().to_canonical().to_string().into());
        values.insert("vip".into(), request.vip.to_canonical().to_string().into());
        values.insert("file".into(), name.into());
        Some(values)
    }

    fn key(machines: &Machines, values: &Map<String, Value>) -> Option<String> {
        values.get(&machines.from).and_then(Value::as_str).map(canonical)
    }

    fn with_files(&self, values: Map<String, Value>) -> Opened {
        let Some((Inventory::File(file), machines)) = &self.inventory else { return self.render(values) };
        let all = file.get().map_err(|_| Refusal::failed("the server's inventory cannot be used"))?;
        let machine = Self::key(machines, &values).and_then(|key| all.get(&key).cloned());
        self.with(machines, machine, values)
    }

    async fn with_service(self: Arc<Self>, values: Map<String, Value>) -> Opened {
        let Some((Inventory::Service(service), machines)) = &self.inventory else { return self.render(values) };
        let machine = match Self::key(machines, &values) {
            Some(key) => service.look_up(&key).await.map_err(|error| {
                tracing::error!(key, error, "inventory not available");
                Refusal::failed("the server's inventory cannot be asked")
            })?,
            None => None,
        };
        let shared = self.clone();
        run_blocking(move || match &shared.inventory {
            Some((_, machines)) => shared.with(machines, machine, values),
            None => shared.render(values),
        })
        .await
    }

    fn with(&self, machines: &Machines, machine: Option<Value>, mut values: Map<String, Value>) -> Opened {
        match machine {
            Some(machine) => drop(values.insert("machine".into(), machine)),
            None if machines.optional => {}
            None => return Err(Refusal::not_found()),
        }
        self.render(values)
    }

    fn render(&self, values: Map<String, Value>) -> Opened {
        let values = Value::Object(values);
        match self.templates.render(&self.template, &values) {
            Ok(bytes) => Ok(Content::bytes(bytes)),
            Err(error) => {
                let (client, file) = (values["client"].as_str(), values["file"].as_str());
                tracing::error!(client, file, template = self.template, "template failed: {error:#}");
                let line = error.line().map(|line| format!(", line {line}")).unwrap_or_default();
                Err(Refusal::failed(format!("template {}{line}: {}", error.name().unwrap_or(&self.template), error.kind())))
            }
        }
    }
}

//! Boot configuration that is made for each machine: a template, filled with what the request and an inventory say of the machine.
//!
//! | value | is |
//! |---|---|
//! | `client` | the client's address |
//! | `vip` | the address that was asked |
//! | `file` | the file's name, in its one spelling |
//! | the names in the pattern | what they captured; `mac` as `02:00:00:00:00:01`, however it was written |
//! | `machine` | the machine in the inventory |
//!
//! Neither the client's port nor the time is there: a machine that asks for the size and then for the file, perhaps of another server, must
//! get the same bytes. The tag is the hash of the bytes.

mod inventory;
mod render;
#[cfg(test)]
mod tests;
mod watched;

pub use inventory::Source;

use super::background::Background;
use super::name::normal;
use crate::content::Bytes;
use crate::handler::{Handler, Opened, Opening, Refusal, Request};
use inventory::{Inventory, canonical};
use regex::Regex;
use render::Templates;
use serde_json::{Map, Value};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Names that a pattern must not give to what it captures.
pub const TAKEN: [&str; 4] = ["client", "vip", "file", "machine"];

/// What a [`Template`] handler is to do.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which names are served: those that it matches. A name that it does not match is not found, so that a chain goes on.
    pub pattern: Regex,
    /// Directory of templates, which may include one another.
    pub directory: PathBuf,
    /// File of the template in that directory.
    pub template: String,
    /// Where machines are listed, if that is needed.
    pub inventory: Option<Machines>,
}

/// Where machines are listed, and how a request names one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machines {
    /// Where.
    pub source: Source,
    /// Column or member that holds the key.
    pub key: String,
    /// What of the request is the key: `client`, or a name in the pattern.
    pub from: String,
    /// Whether a machine that is not listed gets its file without `machine`; otherwise its file is not found.
    pub optional: bool,
    /// A service's time for an answer.
    pub timeout: Duration,
    /// Questions to a service at once.
    pub concurrency: usize,
}

/// Makes files from a template.
pub struct Template {
    shared: Arc<Shared>,
    background: Background,
}

struct Shared {
    pattern: Regex,
    template: String,
    templates: Templates,
    inventory: Option<(Inventory, Machines)>,
}

impl Template {
    /// A handler. Templates and inventory are read when they are needed, and again when they have changed.
    ///
    /// # Errors
    /// When there is no authority to trust an https inventory by.
    pub fn new(settings: Settings, background: &Background) -> io::Result<Template> {
        let inventory = |machines: Machines| {
            let Machines { source, key, timeout, concurrency, .. } = machines.clone();
            Ok::<_, io::Error>((Inventory::new(source, key, timeout, concurrency)?, machines))
        };
        let inventory = settings.inventory.map(inventory).transpose()?;
        let shared =
            Shared { pattern: settings.pattern, template: settings.template, templates: Templates::new(settings.directory), inventory };
        Ok(Template { shared: Arc::new(shared), background: background.clone() })
    }
}

impl Handler for Template {
    fn open(&self, request: &Request<'_>) -> Opening {
        let name = match normal(request.file) {
            Ok(name) => name,
            Err(error) => return Opening::refuse(error.into()),
        };
        let Some(values) = String::from_utf8(name).ok().and_then(|name| self.shared.values(&name, request)) else {
            return Opening::refuse(Refusal::not_found());
        };
        let shared = self.shared.clone();
        match &self.shared.inventory {
            Some((Inventory::Service(_), _)) => self.background.open(async move { shared.with_service(values).await }),
            _ => Opening::job(move || shared.with_files(values)),
        }
    }
}

impl Shared {
    /// What the request says; nothing if the pattern does not match.
    fn values(&self, name: &str, request: &Request<'_>) -> Option<Map<String, Value>> {
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
                tracing::error!(key, error, "the inventory cannot be asked");
                Refusal::failed("the server's inventory cannot be asked")
            })?,
            None => None,
        };
        let shared = self.clone();
        let rendered = tokio::task::spawn_blocking(move || match &shared.inventory {
            Some((_, machines)) => shared.with(machines, machine, values),
            None => shared.render(values),
        });
        rendered.await.unwrap_or_else(|_| Err(Refusal::failed("the server failed")))
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
            Ok(bytes) => Ok(Arc::new(Bytes::new(bytes))),
            Err(error) => {
                let (client, file) = (values["client"].as_str(), values["file"].as_str());
                tracing::error!(client, file, template = self.template, "a template failed: {error:#}");
                let line = error.line().map(|line| format!(", line {line}")).unwrap_or_default();
                Err(Refusal::failed(format!("template {}{line}: {}", error.name().unwrap_or(&self.template), error.kind())))
            }
        }
    }
}

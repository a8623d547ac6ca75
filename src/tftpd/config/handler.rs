//! `[[handler]]`: from the table to [`Handler`].

use super::values::{boolean, duration, integer, one_or_more, path, pattern, required_path, size};
use ::http::Uri;
use guideway_config::reader::{Field, Located, Table};
use guideway_config::text;
use guideway_tftp::directory::DirectoryOptions;
use guideway_tftp::handlers::client::{prefix, url};
use guideway_tftp::handlers::decision::Answer;
use guideway_tftp::handlers::template::{self, Machines, RESERVED_NAMES, Source};
use guideway_tftp::handlers::{exec, hook, http};
use guideway_tftp::name::normalize;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::time::Duration;

/// `[[handler]]`
#[derive(Clone, Debug)]
pub struct Handler {
    /// Unique, 1–63 characters of `a-z A-Z 0-9 - _ .`
    pub name: String,
    /// The kind, with its settings.
    pub kind: Kind,
}

/// `[[handler]] kind`
#[derive(Clone, Debug)]
pub enum Kind {
    /// `"directory"`: files below a directory.
    Directory {
        /// The directory.
        root: PathBuf,
        /// How names are resolved.
        options: DirectoryOptions,
    },
    /// `"http"`: files of an HTTP origin.
    Http(http::Settings),
    /// `"template"`: files rendered for each machine.
    Template(template::Settings),
    /// `"exec"`: a program.
    Exec {
        /// Its settings.
        settings: exec::Settings,
        /// Name of the handler that opens the chosen files; it is defined earlier in the file.
        files: Option<String>,
    },
    /// `"hook"`: an HTTP service.
    Hook {
        /// Its settings.
        settings: hook::Settings,
        /// As for `Exec`.
        files: Option<String>,
    },
}

const PLACES: &str = "number at the same time";

/// One `[[handler]]` that was read but not checked against the others.
pub(super) struct RawHandler<'r, 't> {
    pub(super) name: Option<Located<'r, 't, String>>,
    kind: Option<Kind>,
    /// The handler that opens its files.
    pub(super) files: Option<Located<'r, 't, String>>,
    cache: Option<Located<'r, 't, PathBuf>>,
}

impl RawHandler<'_, '_> {
    /// Returns the handler if all of it could be read.
    pub(super) fn handler(self) -> Option<Handler> {
        Some(Handler { name: self.name?.value, kind: self.kind? })
    }
}

#[derive(Clone, Copy)]
enum KindName {
    Directory,
    Http,
    Template,
    Exec,
    Hook,
}

/// Reads one `[[handler]]`.
pub(super) fn read<'r, 't>(mut table: Table<'r, 't>) -> RawHandler<'r, 't> {
    let name = table.required("name", "name = \"files\"").and_then(|f| f.parse("a name in quotes", text::name));
    if let Some(name) = &name {
        table = table.with_name(&name.value);
    }
    let words = [
        ("directory", KindName::Directory),
        ("http", KindName::Http),
        ("template", KindName::Template),
        ("exec", KindName::Exec),
        ("hook", KindName::Hook),
    ];
    let word = table.required("kind", "kind = \"directory\"").and_then(|f| f.choice(&words));
    let (mut files, mut cache) = (None, None);
    let kind = match word {
        None => return RawHandler { name, kind: None, files, cache },
        Some(KindName::Directory) => directory(&mut table),
        Some(KindName::Http) => {
            let read = origin(&mut table);
            cache = read.1;
            read.0.map(Kind::Http)
        }
        Some(KindName::Template) => template(&mut table).map(Kind::Template),
        Some(KindName::Exec) => {
            files = files_of(&mut table);
            exec(&mut table).map(|settings| Kind::Exec { settings, files: files.as_ref().map(|f| f.value.clone()) })
        }
        Some(KindName::Hook) => {
            files = files_of(&mut table);
            hook(&mut table).map(|settings| Kind::Hook { settings, files: files.as_ref().map(|f| f.value.clone()) })
        }
    };
    table.finish();
    RawHandler { name, kind, files, cache }
}

fn directory(table: &mut Table<'_, '_>) -> Option<Kind> {
    let root = required_path(table, "root", "root = \"/srv/tftp\"");
    let DirectoryOptions { symlinks, ignore_case } = DirectoryOptions::default();
    let symlinks = boolean(table, "symlinks", symlinks);
    let ignore_case = boolean(table, "ignore_case", ignore_case);
    Some(Kind::Directory { root: root?, options: DirectoryOptions { symlinks: symlinks?, ignore_case: ignore_case? } })
}

fn required_url(table: &mut Table<'_, '_>, read: fn(&str) -> Result<Uri, String>) -> Option<Uri> {
    table.required("url", "url = \"http://10.0.0.5:8080/images/\"").and_then(|f| f.parse("a URL in quotes", read)).map(|s| s.value)
}

/// Reads `ca`, the file with the trusted authorities of an https server.
fn ca(table: &mut Table<'_, '_>, url: Option<&Uri>) -> Option<Option<PathBuf>> {
    let Some(field) = table.optional("ca") else { return Some(None) };
    if url.is_some_and(|url| url.scheme_str() != Some("https")) {
        field.error("applies to https URLs only; remove the key");
        return None;
    }
    field.parse("a path in quotes", path).map(|s| Some(s.value))
}

fn origin<'r, 't>(table: &mut Table<'r, 't>) -> (Option<http::Settings>, Option<Located<'r, 't, PathBuf>>) {
    let url = required_url(table, prefix);
    let ca = ca(table, url.as_ref());
    let cache = table.required("cache", "cache = \"/var/cache/guideway\"").and_then(|f| f.parse("a path in quotes", path));
    let cache_size = table.optional("cache_size").map_or(Some(10 << 30), |f| size(f, 1 << 20..=1 << 50));
    let max_age = duration(table, "max_age", 10, 0..=24 * 3600);
    let negative_ttl = duration(table, "negative_ttl", 5, 0..=3600);
    let stale_if_error = boolean(table, "stale_if_error", true);
    let timeout = duration(table, "timeout", 10, 1..=300);
    let host = |f: Field<'r, 't>| Some(f.parse("a host in quotes, such as \"cdn.example\"", authority)?.value);
    let redirect_hosts = table.optional("redirect_hosts").map_or(Some(Vec::new()), |f| one_or_more(&f, "hosts in quotes", host));
    let header = |text: &str| text.parse().map_err(|_| "is not the name of a header; write it like \"X-Forwarded-For\"".to_owned());
    let forward_client = table.optional("forward_client").map_or(Some(None), |f| Some(Some(f.parse("a header in quotes", header)?.value)));
    let max_connections = integer(table, "max_connections", PLACES, 16, 1..=1024);
    let settings = || {
        Some(http::Settings {
            url: url?,
            ca: ca?,
            cache: cache.as_ref()?.value.clone(),
            cache_size: cache_size?,
            max_age: max_age?,
            negative_ttl: negative_ttl?,
            stale_if_error: stale_if_error?,
            timeout: timeout?,
            redirect_hosts: redirect_hosts?,
            forward_client: forward_client?,
            max_connections: max_connections?,
        })
    };
    (settings(), cache)
}

/// Checks a host with an optional port.
fn authority(text: &str) -> Result<String, String> {
    let parsed = text.parse::<::http::uri::Authority>().ok().filter(|host| !host.as_str().contains('@'));
    parsed.map(|host| host.to_string()).ok_or_else(|| "is not a host; write it like \"cdn.example\" or \"cdn.example:8080\"".to_owned())
}

fn template(table: &mut Table<'_, '_>) -> Option<template::Settings> {
    let field = table.required("pattern", "pattern = '^pxelinux\\.cfg/01-(?<mac>[0-9a-f-]{17})$'");
    let regex = field.as_ref().and_then(|f| f.clone().parse("a regular expression in quotes", pattern)).map(|s| s.value);
    let captures: Vec<&str> = regex.iter().flat_map(|regex| regex.capture_names().flatten()).collect();
    if let (Some(field), Some(taken)) = (&field, captures.iter().find(|name| RESERVED_NAMES.contains(name))) {
        field.error(format!("has a capture named {taken:?}, which is the name of a built-in value; choose another name"));
    }
    let directory = required_path(table, "directory", "directory = \"/etc/guideway/templates\"");
    let name = |text: &str| match normalize(text.as_bytes()) {
        Ok(normal) if normal == text.as_bytes() => Ok(text.to_owned()),
        _ => Err("is not the name of a file in the directory; write it like \"grub.cfg.j2\"".to_owned()),
    };
    let template = table.required("template", "template = \"grub.cfg.j2\"").and_then(|f| f.parse("a name in quotes", name));
    let inventory = table.optional("inventory").map(|f| {
        let table = f.table("a table such as { csv = \"/etc/guideway/machines.csv\", key = \"mac\" }")?;
        machines(table, regex.is_some().then_some(&captures))
    });
    let inventory = match inventory {
        Some(machines) => Some(machines?),
        None => None,
    };
    Some(template::Settings { pattern: regex.clone()?, directory: directory?, template: template?.value, inventory })
}

fn machines(mut table: Table<'_, '_>, captures: Option<&Vec<&str>>) -> Option<Machines> {
    let sources = [table.optional("csv"), table.optional("json"), table.optional("url")];
    let source = match sources {
        [Some(csv), None, None] => csv.parse("a path in quotes", path).map(|s| Source::Csv(s.value)),
        [None, Some(json), None] => json.parse("a path in quotes", path).map(|s| Source::Json(s.value)),
        [None, None, Some(service)] => {
            let url = service.parse("a URL in quotes", prefix).map(|s| s.value);
            let ca = ca(&mut table, url.as_ref());
            url.and_then(|url| Some(Source::Http { url, ca: ca? }))
        }
        [None, None, None] => {
            table.missing("csv", "is missing: the list of machines, as csv, json or url; write csv = \"/etc/guideway/machines.csv\"");
            None
        }
        sources => {
            if let Some(field) = sources.into_iter().flatten().next_back() {
                field.error("is a second source; keep one of csv, json and url");
            }
            None
        }
    };
    let word = |text: &str| if text.is_empty() { Err("is empty".to_owned()) } else { Ok(text.to_owned()) };
    let key = table.required("key", "key = \"mac\"").and_then(|f| f.parse("the name of a column in quotes", word));
    let from = table.optional("from").map(|f| f.parse("a name in quotes", word));
    let (named, from) = match from {
        Some(from) => (from.as_ref().map(|s| s.field.clone()), from.map(|s| s.value)),
        None => (key.as_ref().map(|s| s.field.clone()), key.as_ref().map(|s| s.value.clone())),
    };
    if let (Some(field), Some(from), Some(captures)) = (named, &from, captures)
        && from != "client"
        && !captures.contains(&from.as_str())
    {
        let known = text::alternatives(captures.iter().copied().filter(|name| !RESERVED_NAMES.contains(name)).chain(["client"]));
        field.error(format!("names no capture of the pattern; write from with {known}"));
    }
    let optional = boolean(&mut table, "optional", false);
    let timeout = duration(&mut table, "timeout", 5, 1..=60);
    let concurrency = integer(&mut table, "concurrency", PLACES, 64, 1..=4096);
    table.finish();
    Some(Machines { source: source?, key: key?.value, from: from?, optional: optional?, timeout: timeout?, concurrency: concurrency? })
}

fn files_of<'r, 't>(table: &mut Table<'r, 't>) -> Option<Located<'r, 't, String>> {
    table.optional("files").and_then(|f| f.parse("the name of a handler in quotes", text::name))
}

/// Reads the keys that `exec` and `hook` share: answer, timeout, output size, concurrency.
fn logic(table: &mut Table<'_, '_>, concurrency: usize) -> Option<(Answer, Duration, usize, usize)> {
    let words = [("decision", Answer::Decision), ("bytes", Answer::Bytes)];
    let answer = table.optional("answer").map_or(Some(Answer::default()), |f| f.choice(&words));
    let timeout = duration(table, "timeout", 5, 1..=300);
    let max_output = table.optional("max_output").map_or(Some(16 << 20), |f| size(f, 1..=1 << 30));
    let concurrency = integer(table, "concurrency", PLACES, concurrency, 1..=4096);
    Some((answer?, timeout?, usize::try_from(max_output?).ok()?, concurrency?))
}

fn exec(table: &mut Table<'_, '_>) -> Option<exec::Settings> {
    let wanted = "a path in quotes, or a list of it and arguments";
    let whole = |field: &Field<'_, '_>| {
        let mut words = one_or_more(field, wanted, |f| f.parse("a string", |text| Ok(text.to_owned())))?.into_iter();
        let program = match path(&words.next()?.value) {
            Ok(program) => program,
            Err(message) => {
                field.error(message);
                return None;
            }
        };
        Some((program, words.map(|word| word.value).collect()))
    };
    let program = table.required("program", "program = [\"/usr/local/bin/choose\", \"--argument\"]").and_then(|f| whole(&f));
    let logic = logic(table, 16);
    let ((program, arguments), (answer, timeout, output, concurrency)) = (program?, logic?);
    Some(exec::Settings { program, arguments, answer, timeout, output, concurrency })
}

fn hook(table: &mut Table<'_, '_>) -> Option<hook::Settings> {
    let url = required_url(table, url);
    let ca = ca(table, url.as_ref());
    let (answer, timeout, output, concurrency) = logic(table, 64)?;
    Some(hook::Settings { url: url?, ca: ca?, answer, timeout, output, concurrency })
}

/// Reports conflicts between handlers: names, caches, and the handlers that they refer to.
pub(super) fn check(handlers: &[RawHandler<'_, '_>]) {
    let mut names: BTreeMap<&str, usize> = BTreeMap::new();
    let mut caches: HashMap<&PathBuf, usize> = HashMap::new();
    for handler in handlers {
        if let Some(files) = &handler.files
            && !names.contains_key(files.value.as_str())
        {
            let hint = text::did_you_mean(&files.value, names.keys().copied());
            files.field.error(format!("does not name an earlier handler of the file{hint}"));
        }
        if let Some(name) = &handler.name {
            match names.get(name.value.as_str()) {
                Some(line) => name.field.error(format!("is also the name of the handler in line {line}; a name is unique")),
                None => drop(names.insert(&name.value, name.field.line())),
            }
        }
        if let Some(cache) = &handler.cache {
            match caches.get(&cache.value) {
                Some(line) => cache.field.error(format!("is also the cache in line {line}; each handler needs its own directory")),
                None => drop(caches.insert(&cache.value, cache.field.line())),
            }
        }
    }
}

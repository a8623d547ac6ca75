//! Turns a file, or its text, into a checked configuration or intent.

use super::document::{Checked, LoadError, load_with, read_kind};
use super::reader::{Reader, Table};
use super::sections::{Sections, active_key, tables, vips_and_pools};
use super::{Config, FileKind, Intent, announce, api, director, neighbour, store, validate, warnings};
use guideway_hash::KeyId;
use std::path::Path;
use toml::de::DeTable;

/// Reads and checks a file. Errors *in* the file are in [`Checked::problems`].
pub fn load(path: &Path) -> Result<Checked<Config>, LoadError> {
    load_with(path, read)
}

/// Reads and checks the text of a file.
pub fn read(text: &str) -> Checked<Config> {
    read_kind(text, FileKind::Director, sections)
}

fn sections(reader: &Reader, document: &DeTable<'_>) -> Option<Config> {
    let mut root = reader.root(document);
    let no_vip = root.key_location("vip");
    let table = root.required("director", "[director]").and_then(|f| f.table("a table: [director]"));
    let active_key = active_key(&mut root);
    let (vips, pools) = vips_and_pools(reader, &mut root);
    let neighbours = tables(&mut root, "neighbour", "a list of tables: [[neighbour]], in two brackets");
    let neighbours = neighbours.into_iter().map(neighbour::read).collect();
    let announce = root.optional("announce").and_then(|f| f.table("a table: [announce]")).map(announce::read);
    let store = root.optional("store");
    let api = root.optional("api").and_then(|f| f.table("a table: [api]")).and_then(api::read);
    root.finish();
    let (place, store) = store.map(|field| (field.location(), store::read_section(&field))).unzip();
    let (routers, director) = match table {
        Some(table) => (table.key_location("routers"), director::read(table)),
        None => (no_vip.clone(), director::RawDirector::default()),
    };
    let sections = Sections { director, routers, vips, no_vip, pools, neighbours, announce, store: place };
    if let (Some(director), Some(Some(id))) = (&sections.director.director, &active_key)
        && director.keys().all(|key| key.id() != id.value)
    {
        id.field.error("is the id of neither director.key nor director.next_key");
    }
    if let (Some(_), Some(Some(id))) = (&sections.store, &active_key) {
        id.field.error("conflicts with [store], which holds the active key for all directors; remove it from this file");
    }
    validate_sections(reader, &sections)?;
    let active_key = active_key?.map(|id| id.value);
    let Intent { vips, pools, .. } = sections.intent(active_key)?;
    let neighbours = sections.neighbours.iter().map(neighbour::RawNeighbour::neighbour).collect::<Option<_>>()?;
    let store = match store {
        Some(store) => Some(store?),
        None => None,
    };
    let director = sections.director.director?;
    let announce = match &sections.announce {
        Some(announce) => Some(announce.announce(&director.name)?),
        None => None,
    };
    Some(Config { director, active_key, announce, vips, pools, neighbours, store, api })
}

/// Reads the sections of an intent.
pub(super) fn intent_sections(reader: &Reader, document: &DeTable<'_>) -> Option<Intent> {
    intent_ignoring(reader, document, &[])
}

/// Reads the sections of an intent from a document that may have other sections.
pub(super) fn intent_ignoring(reader: &Reader, document: &DeTable<'_>, others: &[&'static str]) -> Option<Intent> {
    let mut root = reader.root(document);
    for other in others {
        let _passed_over = root.optional(other);
    }
    let (sections, active_key) = raw_intent(reader, root);
    validate_sections(reader, &sections)?;
    sections.intent(active_key?)
}

/// Reads the intent from a document whose other sections were already taken. Gives no warnings: the reader does not forward packets.
pub(super) fn embedded_intent<'r, 't>(reader: &'r Reader, root: Table<'r, 't>) -> Option<Intent> {
    let (sections, active_key) = raw_intent(reader, root);
    reader.unless_broken(|| validate::check(reader, &sections));
    if reader.has_errors() { None } else { sections.intent(active_key?) }
}

fn raw_intent<'r, 't>(reader: &'r Reader, mut root: Table<'r, 't>) -> (Sections<'r, 't>, Option<Option<KeyId>>) {
    let no_vip = root.key_location("vip");
    let active_key = active_key(&mut root);
    let (vips, pools) = vips_and_pools(reader, &mut root);
    root.finish();
    let routers = no_vip.clone();
    let sections = Sections {
        director: director::RawDirector::default(),
        routers,
        vips,
        no_vip,
        pools,
        neighbours: Vec::new(),
        announce: None,
        store: None,
    };
    (sections, active_key.map(|id| id.map(|id| id.value)))
}

/// Compares the sections; returns `None` when there are errors.
fn validate_sections(reader: &Reader, sections: &Sections<'_, '_>) -> Option<()> {
    reader.unless_broken(|| validate::check(reader, sections));
    reader.unless_broken(|| warnings::check(reader, sections));
    (!reader.has_errors()).then_some(())
}

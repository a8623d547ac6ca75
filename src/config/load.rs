//! From a file, or its text, to a checked configuration.

use super::problem::{Problem, Severity};
use super::reader::{Mark, Reader, Spot, Table};
use super::{Config, Intent, Kind, announce, api, cross, director, here, neighbour, pool, promise, store, vip};
use guideway_hash::KeyId;
use std::collections::HashSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use toml::de::{DeTable, Error};

/// Larger files are not read: 65,000 backends take about 6 MB.
const LARGEST_FILE: u64 = 64 << 20;

/// A configuration with everything that was found in it.
#[derive(Clone, Debug)]
pub struct Checked<T = Config> {
    /// Present if and only if no problem is an error.
    pub config: Option<T>,
    /// Errors and warnings in the order of the file.
    pub problems: Vec<Problem>,
}

impl<T> Checked<T> {
    /// What makes the file unusable.
    pub fn errors(&self) -> impl Iterator<Item = &Problem> {
        self.problems.iter().filter(|p| p.severity == Severity::Error)
    }

    /// Adds a warning for whatever the good file at `path` names and this host does not have.
    pub fn look(&mut self, path: &Path, named: impl FnOnce(&T) -> Vec<here::Named>) {
        if let (Some(config), Ok(text)) = (&self.config, std::fs::read_to_string(path)) {
            self.problems.extend(here::warnings(&text, &named(config)));
            self.problems.sort_by_key(|p| (p.line, p.column));
        }
    }

    /// What the file cannot promise.
    pub fn warnings(&self) -> impl Iterator<Item = &Problem> {
        self.problems.iter().filter(|p| p.severity == Severity::Warning)
    }
}

/// Why a file could not even be looked at.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The system refuses to give the file.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file has more than 64 MiB.
    #[error("{} has more than 64 MiB, which no configuration needs", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
}

/// Reads and checks a file. Errors *in* the file are in [`Checked::problems`].
pub fn load(path: &Path) -> Result<Checked, LoadError> {
    load_with(path, read)
}

/// The same for a file whose text is read by `read`.
pub fn load_with<T>(path: &Path, read: impl FnOnce(&str) -> Checked<T>) -> Result<Checked<T>, LoadError> {
    let failed = |source| LoadError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(LARGEST_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Err(LoadError::TooLarge { path: path.to_owned() });
    }
    match std::str::from_utf8(&bytes) {
        Ok(text) => Ok(read(text)),
        Err(e) => {
            let good = bytes.get(..e.valid_up_to()).unwrap_or_default();
            let (line, column) = Reader::new(&String::from_utf8_lossy(good), true).position(good.len());
            Ok(Checked { config: None, problems: vec![syntax(line, column, "", "is not UTF-8, as TOML must be")] })
        }
    }
}

/// Reads and checks the text of a file.
pub fn read(text: &str) -> Checked {
    read_kind(text, Kind::Director, sections)
}

/// The same for a file of any kind; one that is of another kind is refused for that alone.
pub fn read_kind<T>(text: &str, kind: Kind, sections: impl FnOnce(&Reader, &DeTable<'_>) -> Option<T>) -> Checked<T> {
    read_of(text, Some(kind), sections)
}

/// The same for a text of other sections.
pub(super) fn read_sections<T>(text: &str, sections: impl FnOnce(&Reader, &DeTable<'_>) -> Option<T>) -> Checked<T> {
    read_of(text, None, sections)
}

fn read_of<T>(text: &str, kind: Option<Kind>, sections: impl FnOnce(&Reader, &DeTable<'_>) -> Option<T>) -> Checked<T> {
    let (document, errors) = DeTable::parse_recoverable(text);
    let reader = Reader::new(text, !errors.is_empty());
    if let Some(problem) = kind.and_then(|kind| kind.refuses(&reader, document.get_ref())) {
        return Checked { config: None, problems: vec![problem] };
    }
    let mut problems = syntax_errors(&reader, text, &errors);
    let config = sections(&reader, document.get_ref());
    // On a line that is no TOML every other complaint is a consequence.
    let broken: HashSet<usize> = problems.iter().map(|p| p.line).collect();
    problems.extend(reader.into_problems().into_iter().filter(|p| !broken.contains(&p.line)));
    problems.sort_by_key(|p| (p.line, p.column));
    Checked { config: config.filter(|_| errors.is_empty()), problems }
}

/// Everything that was read, each section by itself.
pub(super) struct Sections<'r, 't> {
    pub(super) director: director::Draft<'r, 't>,
    /// `director.routers`, for what is not there.
    pub(super) routers: Mark,
    pub(super) vips: Vec<vip::Draft<'r, 't>>,
    /// `vip`, for what is not there.
    pub(super) no_vip: Mark,
    pub(super) pools: Vec<pool::Draft<'r, 't>>,
    pub(super) neighbours: Vec<neighbour::Draft<'r, 't>>,
    pub(super) announce: Option<announce::Draft<'r, 't>>,
    /// Where `[store]` is, if it is there.
    pub(super) store: Option<Mark>,
}

fn sections(reader: &Reader, document: &DeTable<'_>) -> Option<Config> {
    let mut root = reader.root(document);
    let no_vip = root.about("vip");
    let table = root.required("director", "[director]").and_then(|f| f.table("a table: [director]"));
    let active_key = active_key(&mut root);
    let (vips, pools) = served(reader, &mut root);
    let neighbours = tables(&mut root, "neighbour", "a list of tables: [[neighbour]], in two brackets");
    let neighbours = neighbours.into_iter().map(neighbour::read).collect();
    let announce = root.optional("announce").and_then(|f| f.table("a table: [announce]")).map(announce::read);
    let store = root.optional("store");
    let api = root.optional("api").and_then(|f| f.table("a table: [api]")).and_then(api::read);
    root.finish();
    let (place, store) = store.map(|field| (field.mark(), store::read_section(&field))).unzip();
    let (routers, director) = match table {
        Some(table) => (table.about("routers"), director::read(table)),
        None => (no_vip.clone(), director::Draft::default()),
    };
    let sections = Sections { director, routers, vips, no_vip, pools, neighbours, announce, store: place };
    if let (Some(director), Some(Some(id))) = (&sections.director.director, &active_key)
        && director.keys().all(|key| key.id() != id.value)
    {
        id.field.error("is the id of neither director.key nor director.next_key");
    }
    if let (Some(_), Some(Some(id))) = (&sections.store, &active_key) {
        id.field.error("stands beside [store], where it is part of what all directors share; remove it here");
    }
    compare(reader, &sections)?;
    let active_key = active_key?.map(|id| id.value);
    let Intent { vips, pools, .. } = sections.intent(active_key)?;
    let neighbours = sections.neighbours.iter().map(neighbour::Draft::neighbour).collect::<Option<_>>()?;
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

/// The sections of an intent.
pub(super) fn intent_sections(reader: &Reader, document: &DeTable<'_>) -> Option<Intent> {
    intent_beside(reader, document, &[])
}

/// The same in a document that may have sections of these names besides.
pub(super) fn intent_beside(reader: &Reader, document: &DeTable<'_>, others: &[&'static str]) -> Option<Intent> {
    let mut root = reader.root(document);
    for other in others {
        let _passed_over = root.optional(other);
    }
    let (sections, active_key) = intent_drafts(reader, root);
    compare(reader, &sections)?;
    sections.intent(active_key?)
}

/// The same for a document of which other sections were taken, by whoever does not forward and has no promises to make.
pub(super) fn intent_of<'r, 't>(reader: &'r Reader, root: Table<'r, 't>) -> Option<Intent> {
    let (sections, active_key) = intent_drafts(reader, root);
    reader.unless_broken(|| cross::check(reader, &sections));
    if reader.has_errors() { None } else { sections.intent(active_key?) }
}

fn intent_drafts<'r, 't>(reader: &'r Reader, mut root: Table<'r, 't>) -> (Sections<'r, 't>, Option<Option<KeyId>>) {
    let no_vip = root.about("vip");
    let active_key = active_key(&mut root);
    let (vips, pools) = served(reader, &mut root);
    root.finish();
    let routers = no_vip.clone();
    let sections = Sections {
        director: director::Draft::default(),
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

/// `active_key`: `None` when it cannot be read, `Some(None)` when it is not there.
fn active_key<'r, 't>(root: &mut Table<'r, 't>) -> Option<Option<Spot<'r, 't, KeyId>>> {
    root.optional("active_key").map_or(Some(None), |field| field.parse("the id of a key in quotes", str::parse).map(Some))
}

fn served<'r, 't>(reader: &'r Reader, root: &mut Table<'r, 't>) -> (Vec<vip::Draft<'r, 't>>, Vec<pool::Draft<'r, 't>>) {
    let vips = tables(root, "vip", "a list of tables: [[vip]], in two brackets").into_iter().map(vip::read).collect();
    let pools = tables(root, "pool", "a list of tables: [[pool]], in two brackets");
    (vips, pools.into_iter().map(|t| pool::read(reader, t)).collect())
}

/// The `[[pool]]` sections of another kind of file; nothing for one that is not good.
pub fn pools(reader: &Reader, root: &mut Table<'_, '_>) -> Vec<Option<super::Pool>> {
    let pools = tables(root, "pool", "a list of tables: [[pool]], in two brackets");
    pools.into_iter().map(|table| pool::read(reader, table).pool()).collect()
}

/// What the sections say of one another; `None` when there are errors.
fn compare(reader: &Reader, sections: &Sections<'_, '_>) -> Option<()> {
    reader.unless_broken(|| cross::check(reader, sections));
    reader.unless_broken(|| promise::check(reader, sections));
    (!reader.has_errors()).then_some(())
}

impl Sections<'_, '_> {
    fn intent(&self, active_key: Option<KeyId>) -> Option<Intent> {
        Some(Intent {
            active_key,
            vips: self.vips.iter().map(vip::Draft::vip).collect::<Option<_>>()?,
            pools: self.pools.iter().map(pool::Draft::pool).collect::<Option<_>>()?,
        })
    }
}

/// The tables of `[[key]]`; none if there is no such key.
pub fn tables<'r, 't>(root: &mut Table<'r, 't>, key: &'static str, wanted: &str) -> Vec<Table<'r, 't>> {
    let items = root.optional(key).and_then(|f| f.items(wanted)).unwrap_or_default();
    items.into_iter().filter_map(|f| f.table(wanted)).collect()
}

fn syntax_errors(reader: &Reader, text: &str, errors: &[Error]) -> Vec<Problem> {
    let problem = |error: &Error| {
        let span = error.span().unwrap_or_default();
        let (line, column) = reader.position(span.start);
        match error.message() {
            "duplicate key" => {
                let key = text.get(span).unwrap_or_default().trim();
                syntax(line, column, key, "was given before in the same table; keep one of them")
            }
            message => syntax(line, column, "", &format!("is not TOML: {message}")),
        }
    };
    let mut problems: Vec<_> = errors.iter().map(problem).collect();
    // One slip makes several complaints of the parser; the first of a line says it best.
    problems.sort_by_key(|p| (p.line, p.column));
    problems.dedup_by_key(|p| p.line);
    problems
}

fn syntax(line: usize, column: usize, key: &str, message: &str) -> Problem {
    let message = if key.is_empty() { format!("this {message}") } else { message.to_owned() };
    Problem { severity: Severity::Error, line, column, key: key.to_owned(), place: key.to_owned(), value: None, message }
}

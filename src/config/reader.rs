//! A reader over the TOML document that never stops at an error: it takes keys with their types and notes every problem with its line.

use super::problem::{Problem, Severity};
use super::text;
use std::cell::RefCell;
use std::ops::RangeInclusive;
use std::rc::Rc;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Values are shown up to this many characters.
const SHOWN: usize = 60;

/// The text of a file and the problems found in it so far.
pub struct Reader {
    /// Offset of the first byte of each line.
    lines: Vec<usize>,
    text: String,
    problems: RefCell<Vec<Problem>>,
    /// The document was put together in spite of syntax errors: what is missing from it may well be in the file.
    broken: bool,
}

impl Reader {
    /// A reader for `text`.
    pub fn new(text: &str, broken: bool) -> Self {
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Reader { lines, text: text.to_owned(), problems: RefCell::default(), broken }
    }

    /// Line and column, both from 1, of a byte of the text.
    pub fn position(&self, offset: usize) -> (usize, usize) {
        let line = self.lines.partition_point(|start| *start <= offset).max(1);
        let start = self.lines.get(line - 1).copied().unwrap_or(0);
        let before = self.text.get(start..offset.min(self.text.len())).unwrap_or("");
        (line, before.chars().count() + 1)
    }

    /// Notes a problem at `mark`.
    pub fn report(&self, severity: Severity, mark: &Mark, value: Option<String>, message: impl Into<String>) {
        let (line, column) = self.position(mark.offset);
        let problem = Problem { severity, line, column, key: mark.key(), place: mark.place(), value, message: message.into() };
        self.problems.borrow_mut().push(problem);
    }

    /// Notes an error at `mark`.
    pub fn error(&self, mark: &Mark, message: impl Into<String>) {
        self.report(Severity::Error, mark, None, message);
    }

    /// Notes a warning at `mark`.
    pub fn warning(&self, mark: &Mark, message: impl Into<String>) {
        self.report(Severity::Warning, mark, None, message);
    }

    /// Line of `mark`.
    pub fn line_of(&self, mark: &Mark) -> usize {
        self.position(mark.offset).0
    }

    /// Runs a check that only a whole document can stand.
    pub fn unless_broken(&self, check: impl FnOnce()) {
        if !self.broken {
            check();
        }
    }

    /// Whether an error was noted.
    pub fn has_errors(&self) -> bool {
        self.problems.borrow().iter().any(|p| p.severity == Severity::Error)
    }

    /// All that was noted.
    pub fn into_problems(self) -> Vec<Problem> {
        self.problems.into_inner()
    }

    /// The document as a table.
    pub fn root<'r, 't>(&'r self, values: &'r DeTable<'t>) -> Table<'r, 't> {
        Table { reader: self, values, path: Path::default(), offset: 0, known: Vec::new() }
    }
}

/// The way to a table, by position and by name.
#[derive(Clone, Default)]
struct Path {
    key: Rc<str>,
    place: Rc<str>,
}

/// A place in the file that a problem can be about.
#[derive(Clone)]
pub struct Mark {
    table: Path,
    /// Empty: the table itself.
    name: &'static str,
    index: Option<usize>,
    offset: usize,
}

impl Mark {
    fn key(&self) -> String {
        self.join(&self.table.key)
    }

    fn place(&self) -> String {
        self.join(&self.table.place)
    }

    fn join(&self, table: &str) -> String {
        let dot = if table.is_empty() || self.name.is_empty() { "" } else { "." };
        let index = self.index.map(|i| format!("[{i}]")).unwrap_or_default();
        format!("{table}{dot}{}{index}", self.name)
    }
}

/// A table of which keys are taken one after the other.
pub struct Table<'r, 't> {
    reader: &'r Reader,
    values: &'r DeTable<'t>,
    path: Path,
    offset: usize,
    known: Vec<&'static str>,
}

impl<'r, 't> Table<'r, 't> {
    /// The table itself.
    pub fn here(&self) -> Mark {
        self.about("")
    }

    /// A key that need not be there; the problem is then at the table's own line.
    pub fn about(&self, name: &'static str) -> Mark {
        Mark { table: self.path.clone(), name, index: None, offset: self.offset }
    }

    /// The same table, called by its name: `pool[0]` becomes `pool.boot`.
    pub fn called(mut self, name: &str) -> Self {
        let list = self.path.place.rfind('[').and_then(|at| self.path.place.get(..at)).unwrap_or("");
        let quote = if name.contains('.') { "\"" } else { "" };
        self.path.place = format!("{list}.{quote}{name}{quote}").into();
        self
    }

    /// The value of `key`, if it is there.
    pub fn optional(&mut self, key: &'static str) -> Option<Field<'r, 't>> {
        self.known.push(key);
        let value = self.values.get(key)?;
        let span = value.span();
        if self.reader.broken && span.is_empty() {
            return None;
        }
        let mark = Mark { table: self.path.clone(), name: key, index: None, offset: span.start };
        Some(Field { reader: self.reader, value: value.get_ref(), mark, secret: false })
    }

    /// The value of `key`; that it is missing is an error. `example` shows how it is written.
    pub fn required(&mut self, key: &'static str, example: &str) -> Option<Field<'r, 't>> {
        let field = self.optional(key);
        if field.is_none() && !self.reader.broken {
            self.reader.error(&self.about(key), format!("is missing; it is written like {example}"));
        }
        field
    }

    /// Notes that something is missing: a key, or with an empty one what the table is for.
    pub fn missing(&self, key: &'static str, message: impl Into<String>) {
        if !self.reader.broken {
            self.reader.error(&self.about(key), message);
        }
    }

    /// Reports every key that nobody took.
    pub fn finish(self) {
        if self.reader.broken {
            return;
        }
        for (key, _) in self.values.iter().filter(|(key, _)| !self.known.contains(&key.get_ref().as_ref())) {
            let name = key.get_ref();
            let bare = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
            let shown = if bare { shorten(name) } else { quoted(name) };
            let join = |table: &str| if table.is_empty() { shown.clone() } else { format!("{table}.{shown}") };
            let hint = hint_or_stop(name, self.known.iter().copied());
            let (line, column) = self.reader.position(key.span().start);
            self.reader.problems.borrow_mut().push(Problem {
                severity: Severity::Error,
                line,
                column,
                key: join(&self.path.key),
                place: join(&self.path.place),
                value: None,
                message: format!("is no key that is known here{hint} Known: {}", self.known.join(", ")),
            });
        }
    }
}

/// A value of the file, not yet looked at.
#[derive(Clone)]
pub struct Field<'r, 't> {
    reader: &'r Reader,
    value: &'r DeValue<'t>,
    mark: Mark,
    secret: bool,
}

/// A value that was read, and where.
#[derive(Clone)]
pub struct Spot<'r, 't, T> {
    pub value: T,
    pub field: Field<'r, 't>,
}

impl<'r, 't> Field<'r, 't> {
    /// The same value, never shown.
    pub fn secret(mut self) -> Self {
        self.secret = true;
        self
    }

    /// Where it is.
    pub fn mark(&self) -> Mark {
        self.mark.clone()
    }

    /// Its line.
    pub fn line(&self) -> usize {
        self.reader.position(self.mark.offset).0
    }

    /// Whether it stands before `other` in the file.
    pub fn is_before(&self, other: &Field<'_, '_>) -> bool {
        self.mark.offset < other.mark.offset
    }

    /// Notes an error about this value.
    pub fn error(&self, message: impl Into<String>) {
        self.reader.report(Severity::Error, &self.mark, self.shown(), message);
    }

    /// Notes a warning about this value.
    pub fn warning(&self, message: impl Into<String>) {
        self.reader.report(Severity::Warning, &self.mark, self.shown(), message);
    }

    /// Notes that the type is not the wanted one.
    pub fn wrong_type(&self, wanted: &str) {
        let found = match self.value {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a number with a fraction",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date or time",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.error(format!("expected {wanted}, found {found}"));
    }

    fn shown(&self) -> Option<String> {
        match self.value {
            _ if self.secret => None,
            DeValue::String(s) => Some(quoted(s)),
            DeValue::Integer(i) => Some(shorten(&i.to_string())),
            DeValue::Float(f) => Some(shorten(&f.to_string())),
            DeValue::Boolean(b) => Some(b.to_string()),
            DeValue::Datetime(d) => Some(d.to_string()),
            DeValue::Array(_) | DeValue::Table(_) => None,
        }
    }

    /// The text, if it is a string.
    pub fn as_text(&self) -> Option<&'r str> {
        self.value.as_str()
    }

    /// Whether it is a table.
    pub fn is_table(&self) -> bool {
        self.value.is_table()
    }

    /// Whether it is a list.
    pub fn is_list(&self) -> bool {
        self.value.is_array()
    }

    /// Whether it is an integer.
    pub fn is_integer(&self) -> bool {
        self.value.is_integer()
    }

    /// A string of which `parse` makes a value; `wanted` says what it should be, for those who wrote no string.
    pub fn parse<T>(self, wanted: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<Spot<'r, 't, T>> {
        let Some(text) = self.value.as_str() else {
            self.wrong_type(wanted);
            return None;
        };
        match parse(text) {
            Ok(value) => Some(Spot { value, field: self }),
            Err(message) => {
                self.error(message);
                None
            }
        }
    }

    /// One of a few words.
    pub fn choice<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        let names = || words.iter().map(|(word, _)| *word);
        let Some(text) = self.value.as_str() else {
            self.wrong_type(&text::alternatives(names()));
            return None;
        };
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            self.error(format!("is not allowed{} Allowed: {}", hint_or_stop(text, names()), text::alternatives(names())));
        }
        found
    }

    /// An integer within `range`.
    pub fn integer<T: TryFrom<i64> + Copy>(&self, what: &str, range: RangeInclusive<i64>) -> Option<T> {
        let limits = format!("{what}, {} to {}", range.start(), range.end());
        let DeValue::Integer(written) = self.value else {
            self.wrong_type(&limits);
            return None;
        };
        let value = i64::from_str_radix(written.as_str(), written.radix()).ok().filter(|v| range.contains(v));
        let value = value.and_then(|v| T::try_from(v).ok());
        if value.is_none() {
            self.error(format!("is outside of what is allowed: {limits}"));
        }
        value
    }

    /// `true` or `false`.
    pub fn boolean(&self) -> Option<bool> {
        if self.value.as_bool().is_none() {
            self.wrong_type("true or false");
        }
        self.value.as_bool()
    }

    /// The elements of a list.
    pub fn items(&self, wanted: &str) -> Option<Vec<Field<'r, 't>>> {
        let Some(items) = self.value.as_array() else {
            self.wrong_type(wanted);
            return None;
        };
        let field = |(index, item): (usize, &'r Spanned<DeValue<'t>>)| {
            let mark = Mark { index: Some(index), offset: item.span().start, ..self.mark.clone() };
            Field { reader: self.reader, value: item.get_ref(), mark, secret: self.secret }
        };
        let whole = |item: &&Spanned<DeValue<'t>>| !(self.reader.broken && item.span().is_empty());
        Some(items.iter().filter(whole).enumerate().map(field).collect())
    }

    /// The table behind this value.
    pub fn table(&self, wanted: &str) -> Option<Table<'r, 't>> {
        let Some(values) = self.value.as_table() else {
            self.wrong_type(wanted);
            return None;
        };
        let path = Path { key: self.mark.key().into(), place: self.mark.place().into() };
        Some(Table { reader: self.reader, values, path, offset: self.mark.offset, known: Vec::new() })
    }
}

/// The hint, or a full stop where there is none.
fn hint_or_stop<'a>(text: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let hint = text::did_you_mean(text, known);
    if hint.is_empty() { ".".to_owned() } else { hint }
}

/// A string as it may be shown: quoted, without control characters, not too long.
pub fn quoted(text: &str) -> String {
    format!("\"{}\"", shorten(text))
}

fn shorten(text: &str) -> String {
    let mut short: String = text.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN).is_some() {
        short.push('…');
    }
    short
}

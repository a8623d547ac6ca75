//! Reads a TOML document without stopping at errors: takes keys with their types and reports every problem with its line.

use super::keys;
use super::problem::{Problem, Severity};
use super::text;
use std::cell::RefCell;
use std::ops::RangeInclusive;
use std::rc::Rc;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Maximum number of characters of a value in messages.
const SHOWN: usize = 60;

/// The text of a file and the problems found in it so far.
pub struct Reader {
    /// Offset of the first byte of each line.
    lines: Vec<usize>,
    text: String,
    problems: RefCell<Vec<Problem>>,
    /// The document has syntax errors, so a key that seems missing may be in the file.
    broken: bool,
}

impl Reader {
    /// Creates a reader for `text`.
    pub fn new(text: &str, broken: bool) -> Self {
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Reader { lines, text: text.to_owned(), problems: RefCell::default(), broken }
    }

    /// Returns line and column, both from 1, of a byte offset.
    pub fn position(&self, offset: usize) -> (usize, usize) {
        let line = self.lines.partition_point(|start| *start <= offset).max(1);
        let start = self.lines.get(line - 1).copied().unwrap_or(0);
        let before = self.text.get(start..offset.min(self.text.len())).unwrap_or("");
        (line, before.chars().count() + 1)
    }

    /// Reports a problem at `location`.
    pub fn report(&self, severity: Severity, location: &Location, value: Option<String>, message: impl Into<String>) {
        let (line, column) = self.position(location.offset);
        let problem = Problem { severity, line, column, key: location.key(), path: location.path(), value, message: message.into() };
        self.problems.borrow_mut().push(problem);
    }

    /// Reports an error at `location`.
    pub fn error(&self, location: &Location, message: impl Into<String>) {
        self.report(Severity::Error, location, None, message);
    }

    /// Reports a warning at `location`.
    pub fn warning(&self, location: &Location, message: impl Into<String>) {
        self.report(Severity::Warning, location, None, message);
    }

    /// Returns the line of `location`.
    pub fn line_of(&self, location: &Location) -> usize {
        self.position(location.offset).0
    }

    /// Runs a check that needs a document without syntax errors.
    pub fn unless_broken(&self, check: impl FnOnce()) {
        if !self.broken {
            check();
        }
    }

    /// Returns whether an error was reported.
    pub fn has_errors(&self) -> bool {
        self.problems.borrow().iter().any(|p| p.severity == Severity::Error)
    }

    /// Returns all problems.
    pub fn into_problems(self) -> Vec<Problem> {
        self.problems.into_inner()
    }

    /// Returns the document as a table.
    pub fn root<'r, 't>(&'r self, values: &'r DeTable<'t>) -> Table<'r, 't> {
        Table { reader: self, values, path: KeyPath::default(), offset: 0, known: Vec::new() }
    }
}

/// The path to a table, by position and by name.
#[derive(Clone, Default)]
struct KeyPath {
    key: Rc<str>,
    by_name: Rc<str>,
}

/// The location of a problem in the file.
#[derive(Clone)]
pub struct Location {
    table: KeyPath,
    /// Empty: the table itself.
    name: &'static str,
    index: Option<usize>,
    offset: usize,
}

impl Location {
    fn key(&self) -> String {
        self.join(&self.table.key)
    }

    fn path(&self) -> String {
        self.join(&self.table.by_name)
    }

    fn join(&self, table: &str) -> String {
        let dot = if table.is_empty() || self.name.is_empty() { "" } else { "." };
        let index = self.index.map(|i| format!("[{i}]")).unwrap_or_default();
        format!("{table}{dot}{}{index}", self.name)
    }
}

/// A table whose keys are taken one after the other.
pub struct Table<'r, 't> {
    reader: &'r Reader,
    values: &'r DeTable<'t>,
    path: KeyPath,
    offset: usize,
    known: Vec<&'static str>,
}

impl<'r, 't> Table<'r, 't> {
    /// Returns the location of the table.
    pub fn location(&self) -> Location {
        self.key_location("")
    }

    /// Returns the location of a key, or that of the table if the key is absent.
    pub fn key_location(&self, name: &'static str) -> Location {
        Location { table: self.path.clone(), name, index: None, offset: self.offset }
    }

    /// Returns the same table with a name in its path: `pool[0]` becomes `pool.boot`.
    pub fn with_name(mut self, name: &str) -> Self {
        let list = self.path.by_name.rfind('[').and_then(|at| self.path.by_name.get(..at)).unwrap_or("");
        let quote = if name.contains('.') { "\"" } else { "" };
        self.path.by_name = format!("{list}.{quote}{name}{quote}").into();
        self
    }

    /// Takes the value of `key`, if there is one.
    pub fn optional(&mut self, key: &'static str) -> Option<Field<'r, 't>> {
        keys::note(&self.path.key, key);
        self.misplaced(key)
    }

    /// Returns the value of a key that this table must not have, for an error that says why.
    pub fn misplaced(&mut self, key: &'static str) -> Option<Field<'r, 't>> {
        self.known.push(key);
        let value = self.values.get(key)?;
        let span = value.span();
        if self.reader.broken && span.is_empty() {
            return None;
        }
        let location = Location { table: self.path.clone(), name: key, index: None, offset: span.start };
        Some(Field { reader: self.reader, value: value.get_ref(), location, secret: false })
    }

    /// Takes the value of `key` and reports it if it is missing. `example` is part of the error.
    pub fn required(&mut self, key: &'static str, example: &str) -> Option<Field<'r, 't>> {
        let field = self.optional(key);
        if field.is_none() && !self.reader.broken {
            self.reader.error(&self.key_location(key), format!("is missing; example: {example}"));
        }
        field
    }

    /// Reports a missing key, or with an empty key a missing part of the table.
    pub fn missing(&self, key: &'static str, message: impl Into<String>) {
        if !self.reader.broken {
            self.reader.error(&self.key_location(key), message);
        }
    }

    /// Reports every key that was not taken.
    pub fn finish(self) {
        if self.reader.broken {
            return;
        }
        for (key, _) in self.values.iter().filter(|(key, _)| !self.known.contains(&key.get_ref().as_ref())) {
            let name = key.get_ref();
            let bare = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
            let shown = if bare { shorten(name) } else { quoted(name) };
            let join = |table: &str| if table.is_empty() { shown.clone() } else { format!("{table}.{shown}") };
            let hint = hint_or_period(name, self.known.iter().copied());
            let (line, column) = self.reader.position(key.span().start);
            self.reader.problems.borrow_mut().push(Problem {
                severity: Severity::Error,
                line,
                column,
                key: join(&self.path.key),
                path: join(&self.path.by_name),
                value: None,
                message: format!("unknown key{hint} Known: {}", self.known.join(", ")),
            });
        }
    }
}

/// A value of the file, not yet parsed.
#[derive(Clone)]
pub struct Field<'r, 't> {
    reader: &'r Reader,
    value: &'r DeValue<'t>,
    location: Location,
    secret: bool,
}

/// A parsed value and its location.
#[derive(Clone)]
pub struct Located<'r, 't, T> {
    /// The value.
    pub value: T,
    /// Its location.
    pub field: Field<'r, 't>,
}

impl<'r, 't> Field<'r, 't> {
    /// Returns the same value, marked as secret: messages never show it.
    pub fn secret(mut self) -> Self {
        self.secret = true;
        self
    }

    /// Returns its location.
    pub fn location(&self) -> Location {
        self.location.clone()
    }

    /// Returns its line.
    pub fn line(&self) -> usize {
        self.reader.position(self.location.offset).0
    }

    /// Returns whether it is before `other` in the file.
    pub fn is_before(&self, other: &Field<'_, '_>) -> bool {
        self.location.offset < other.location.offset
    }

    /// Reports an error about this value.
    pub fn error(&self, message: impl Into<String>) {
        self.reader.report(Severity::Error, &self.location, self.shown(), message);
    }

    /// Reports a warning about this value.
    pub fn warning(&self, message: impl Into<String>) {
        self.reader.report(Severity::Warning, &self.location, self.shown(), message);
    }

    /// Reports a value of the wrong type.
    pub fn wrong_type(&self, wanted: &str) {
        self.wrong_type_with(wanted, "");
    }

    /// Reports a value of the wrong type; `hint` says how to write it.
    fn wrong_type_with(&self, wanted: &str, hint: &str) {
        let found = match self.value {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a number with a fraction",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date or time",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.error(format!("expected {wanted}, found {found}{hint}"));
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

    /// Returns the text if this is a string.
    pub fn as_text(&self) -> Option<&'r str> {
        self.value.as_str()
    }

    /// Returns whether this is a table.
    pub fn is_table(&self) -> bool {
        self.value.is_table()
    }

    /// Returns whether this is a list.
    pub fn is_list(&self) -> bool {
        self.value.is_array()
    }

    /// Returns whether this is an integer.
    pub fn is_integer(&self) -> bool {
        self.value.is_integer()
    }

    /// Parses a string; `wanted` describes it in the error about a value of another type.
    pub fn parse<T>(self, wanted: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<Located<'r, 't, T>> {
        let Some(text) = self.value.as_str() else {
            let scalar = !self.is_table() && !self.is_list() && !wanted.contains("quotes");
            self.wrong_type_with(wanted, if scalar { "; write it in quotes" } else { "" });
            return None;
        };
        match parse(text) {
            Ok(value) => Some(Located { value, field: self }),
            Err(message) => {
                self.error(message);
                None
            }
        }
    }

    /// Parses one of a few choices.
    pub fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Option<T> {
        let names = || choices.iter().map(|(word, _)| *word);
        let Some(text) = self.value.as_str() else {
            self.wrong_type(&text::alternatives(names()));
            return None;
        };
        let found = choices.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            self.error(format!("is not allowed{} Allowed: {}", hint_or_period(text, names()), text::alternatives(names())));
        }
        found
    }

    /// Reads an integer within `range`.
    pub fn integer<T: TryFrom<i64> + Copy>(&self, what: &str, range: RangeInclusive<i64>) -> Option<T> {
        let limits = format!("{what}, {} to {}", range.start(), range.end());
        let DeValue::Integer(written) = self.value else {
            let number = self.as_text().is_some_and(|text| text.replace('_', "").parse::<i64>().is_ok());
            let unit = self.as_text().is_some_and(|text| text.starts_with(|c: char| c.is_ascii_digit()));
            let hint = match (number, unit) {
                (true, _) => "; write it without quotes",
                (false, true) => "; write the number alone, without a unit and without quotes",
                (false, false) => "",
            };
            self.wrong_type_with(&limits, hint);
            return None;
        };
        let value = i64::from_str_radix(written.as_str(), written.radix()).ok().filter(|v| range.contains(v));
        let value = value.and_then(|v| T::try_from(v).ok());
        if value.is_none() {
            self.error(format!("is out of range; allowed: {limits}"));
        }
        value
    }

    /// Reads `true` or `false`.
    pub fn boolean(&self) -> Option<bool> {
        if self.value.as_bool().is_none() {
            let hint = if matches!(self.as_text(), Some("true" | "false")) { "; write it without quotes" } else { "" };
            self.wrong_type_with("true or false", hint);
        }
        self.value.as_bool()
    }

    /// Returns the elements of a list.
    pub fn items(&self, wanted: &str) -> Option<Vec<Field<'r, 't>>> {
        let Some(items) = self.value.as_array() else {
            self.wrong_type_with(wanted, if wanted.contains('[') { "" } else { "; put it in brackets: [ … ]" });
            return None;
        };
        let field = |(index, item): (usize, &'r Spanned<DeValue<'t>>)| {
            let location = Location { index: Some(index), offset: item.span().start, ..self.location.clone() };
            Field { reader: self.reader, value: item.get_ref(), location, secret: self.secret }
        };
        let whole = |item: &&Spanned<DeValue<'t>>| !(self.reader.broken && item.span().is_empty());
        Some(items.iter().filter(whole).enumerate().map(field).collect())
    }

    /// Returns the tables of a list of tables. One table alone, as under `[vip]`, is reported and counts as a list of one.
    pub fn tables(&self, wanted: &str) -> Vec<Table<'r, 't>> {
        if self.is_table() {
            let name = self.location.key();
            self.error(format!("is a list: write [[{name}]], in two brackets, not [{name}]"));
            return self.table(wanted).into_iter().collect();
        }
        self.items(wanted).unwrap_or_default().into_iter().filter_map(|item| item.table(wanted)).collect()
    }

    /// Returns the table in this value.
    pub fn table(&self, wanted: &str) -> Option<Table<'r, 't>> {
        let Some(values) = self.value.as_table() else {
            let list = self.location.index.is_none() && self.is_list();
            let hint = if list { format!("; write [{}], in one bracket, once", self.location.key()) } else { String::new() };
            self.wrong_type_with(wanted, &hint);
            return None;
        };
        let path = KeyPath { key: self.location.key().into(), by_name: self.location.path().into() };
        Some(Table { reader: self.reader, values, path, offset: self.location.offset, known: Vec::new() })
    }
}

/// Returns the hint, or a full stop if there is none.
fn hint_or_period<'a>(text: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let hint = text::did_you_mean(text, known);
    if hint.is_empty() { ".".to_owned() } else { hint }
}

/// Returns a string for messages: quoted, without control characters, not too long.
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

//! Parsers for the strings of the file: sizes, paths, patterns.

use guideway_config::duration_within;
use guideway_config::reader::{Field, Table};
use guideway_config::size::parse_size;
use regex::Regex;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

/// Reads a number of bytes with a unit, within limits.
pub(super) fn size(field: Field<'_, '_>, limits: RangeInclusive<u64>) -> Option<u64> {
    field.parse("a size in quotes, such as \"10GiB\"", |text| parse_size(text, &limits)).map(|s| s.value)
}

/// Reads an absolute path, so that the working directory of the server does not matter.
pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if text.contains('\0') || !path.is_absolute() {
        return Err("is not an absolute path; write it like \"/srv/tftp\"".to_owned());
    }
    Ok(path)
}

/// Reads a regular expression.
pub(super) fn pattern(text: &str) -> Result<Regex, String> {
    Regex::new(text).map_err(|error| regex_error(&error))
}

/// Formats the error of a regular expression in one line, its last one.
pub(super) fn regex_error(error: &regex::Error) -> String {
    let text = error.to_string();
    let last = text.lines().last().unwrap_or_default().trim();
    format!("is not a valid regular expression: {}", last.strip_prefix("error: ").unwrap_or(last))
}

/// Reads the path of a required key.
pub(super) fn required_path(table: &mut Table<'_, '_>, key: &'static str, example: &str) -> Option<PathBuf> {
    table.required(key, example).and_then(|f| f.parse("a path in quotes", path)).map(|s| s.value)
}

/// Reads the duration of a key, within limits in seconds; `default` if the key is absent.
pub(super) fn duration(table: &mut Table<'_, '_>, key: &'static str, default: u64, limits: RangeInclusive<u64>) -> Option<Duration> {
    let seconds = Duration::from_secs;
    match table.optional(key) {
        Some(field) => duration_within(field, seconds(*limits.start())..=seconds(*limits.end())),
        None => Some(seconds(default)),
    }
}

/// Reads the integer of a key, within limits; `default` if the key is absent.
pub(super) fn integer<T: TryFrom<i64> + Copy>(
    table: &mut Table<'_, '_>,
    key: &'static str,
    what: &str,
    default: T,
    limits: RangeInclusive<i64>,
) -> Option<T> {
    table.optional(key).map_or(Some(default), |f| f.integer(what, limits))
}

/// Reads the boolean of a key; `default` if the key is absent.
pub(super) fn boolean(table: &mut Table<'_, '_>, key: &'static str, default: bool) -> Option<bool> {
    table.optional(key).map_or(Some(default), |f| f.boolean())
}

/// Reads one value or a list of values. Returns `None` if one of them could not be read.
pub(super) fn one_or_more<'r, 't, T>(field: &Field<'r, 't>, wanted: &str, read: impl Fn(Field<'r, 't>) -> Option<T>) -> Option<Vec<T>> {
    if !field.is_list() {
        return Some(vec![read(field.clone())?]);
    }
    let items = field.items(wanted)?;
    if items.is_empty() {
        field.error(format!("is empty; write {wanted}, or remove the key"));
        return None;
    }
    let read: Vec<Option<T>> = items.into_iter().map(read).collect();
    read.into_iter().collect()
}

//! Errors of the TOML parser for people: what is wrong with the line, and how to write it.

use ipnet::IpNet;
use std::net::IpAddr;

/// Lists of tables, whose headers have two brackets.
const LISTS: [&str; 5] = ["vip", "pool", "neighbour", "handler", "rule"];
/// Keys whose values no message shows.
const SECRETS: [&str; 3] = ["key", "next_key", "previous_key"];
/// Longest value in a message, in characters.
const MAX_SHOWN: usize = 60;

/// Returns the sentence after "this is not TOML: " for an error at the byte offset `at`; `message` is that of the parser.
pub(super) fn explain(text: &str, at: usize, message: &str) -> String {
    let at = floor(text, at);
    let start = text.get(..at).and_then(|before| before.rfind('\n')).map_or(0, |newline| newline + 1);
    let line = text.get(start..).unwrap_or_default().lines().next().unwrap_or_default();
    let at = at - start;
    characters(text, line)
        .or_else(|| comments(line))
        .or_else(|| comma(text, start, line, at, message))
        .or_else(|| strings(message))
        .or_else(|| separators(line, at))
        .or_else(|| unquoted(line, at))
        .unwrap_or_else(|| message.to_owned())
}

/// Returns the error about a key or section that is set twice; `key` is its text.
pub(super) fn duplicate(text: &str, at: usize, key: &str) -> String {
    let at = floor(text, at);
    let start = text.get(..at).and_then(|before| before.rfind('\n')).map_or(0, |newline| newline + 1);
    let line = text.get(start..).unwrap_or_default().lines().next().unwrap_or_default().trim();
    let header = line.strip_prefix('[').is_some_and(|rest| !rest.starts_with('['));
    if header && LISTS.contains(&key) {
        return format!("is a list: write [[{key}]], in two brackets, before each of them");
    }
    let line_of = |text: &str| text.lines().count().max(1);
    let first = || {
        let sought = |line: &str| line.trim().trim_matches(['[', ']', ' ']) == key;
        text.get(..start)?.lines().position(sought).map(|index| index + 1)
    };
    match first().filter(|first| header && *first < line_of(text)) {
        Some(first) => format!("is already set in the same table, in line {first}; write all its keys there"),
        None => "is already set in the same table; keep one of them".to_owned(),
    }
}

/// Returns the error about bytes that are not UTF-8.
pub(super) fn not_utf8(bytes: &[u8]) -> &'static str {
    match bytes {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => "is UTF-16; TOML requires UTF-8: save the file as UTF-8 (iconv -f UTF-16 -t UTF-8)",
        _ => "is not UTF-8, which TOML requires",
    }
}

fn floor(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

/// Characters that word processors and web pages put in.
fn characters(text: &str, line: &str) -> Option<String> {
    if line.contains('\r') && !text.contains('\n') {
        return Some("lines end with a carriage return alone; save the file with Unix line ends".to_owned());
    }
    let (column, strange) = (1..).zip(line.chars()).find(|(_, c)| {
        matches!(
            c,
            '\u{201c}'
                | '\u{201d}'
                | '\u{201e}'
                | '\u{2018}'
                | '\u{2019}'
                | '\u{ab}'
                | '\u{bb}'
                | '\u{a0}'
                | '\u{200b}'
                | '\u{feff}'
                | '\u{3000}'
        )
    })?;
    Some(match strange {
        '\u{a0}' | '\u{200b}' | '\u{feff}' | '\u{3000}' => {
            format!("column {column} has an invisible character (U+{:04X}); write an ordinary space", u32::from(strange))
        }
        quote => format!("column {column} has the typographic quote {quote}; write straight quotes: \""),
    })
}

fn comments(line: &str) -> Option<String> {
    let begin = [";", "//", "--", "/*"].into_iter().find(|begin| line.trim_start().starts_with(begin))?;
    Some(format!("a comment begins with #, not with {begin}"))
}

fn comma(text: &str, start: usize, line: &str, at: usize, message: &str) -> Option<String> {
    if !message.contains("comma") {
        return None;
    }
    // The error is where something else stands instead of the comma: behind the place where it is missing.
    let before = line.get(..at).unwrap_or_default();
    Some(if before.trim().is_empty() {
        let previous = text.get(..start).unwrap_or_default().lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).last();
        format!("a comma is missing at the end of line {}", previous.map_or(1, |(index, _)| index + 1))
    } else {
        format!("a comma is missing after {}", shorten(before.trim_end().rsplit([',', '{', '[']).next().unwrap_or_default().trim()))
    })
}

fn strings(message: &str) -> Option<String> {
    if message.contains("escape") {
        return Some("a backslash in \"…\" begins an escape; write two of them, or the text in single quotes: '…'".to_owned());
    }
    let unclosed = message.contains("string") && (message.contains("invalid") || message.contains("unclosed"));
    (unclosed && !message.contains("must be quoted")).then(|| "the quote at the end of a text is missing".to_owned())
}

/// `name: "d1"`, `"name": "d1",`, `name "d1"`, `02:00:… = 1`
fn separators(line: &str, at: usize) -> Option<String> {
    let line = line.trim_start_matches('\u{feff}');
    let code = line.trim();
    if code.starts_with('[') && !code.contains('=') {
        let open = code.chars().take_while(|c| *c == '[').count();
        return (code.matches(']').count() < open).then(|| format!("{} is missing at the end of the section", "]".repeat(open)));
    }
    let bare = |key: &str| !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '"'));
    if let Some((key, value)) = code.split_once('=') {
        let key = key.trim();
        let in_key = at <= line.find('=').unwrap_or(0);
        if in_key && key.contains(':') && !key.contains(['"', '{', '[', ' ']) {
            return Some(format!("a key with colons needs quotes: \"{}\" = {}", shorten(key), shown(key, value.trim())));
        }
        return None;
    }
    let (key, value) = code.split_once(':').filter(|(key, _)| bare(key.trim())).or_else(|| code.split_once(char::is_whitespace))?;
    let (key, value) = (key.trim().trim_matches('"'), value.trim().trim_end_matches(','));
    bare(key).then(|| format!("between key and value stands =: {key} = {}", shown(key, value)))
}

/// A value that needs quotes, or lacks.
fn unquoted(line: &str, at: usize) -> Option<String> {
    let at = floor(line, at);
    let begin = line.get(..at)?.rfind(['=', '[', ',', '{']).map_or(0, |delimiter| delimiter + 1);
    let (before, rest) = line.split_at_checked(begin)?;
    let token = rest.split([',', ']', '}', '#', '=']).next()?.trim();
    let key = before.strip_suffix('=').map(|before| before.trim_end().rsplit([' ', '\t', ',', '{']).next().unwrap_or_default());
    let assigned = key.map(|key| format!("{key} = ")).unwrap_or_default();
    if token.contains(['"', '\'']) {
        return None;
    }
    if token.is_empty() {
        return key.map(|key| format!("{key} has no value"));
    }
    if token.eq_ignore_ascii_case("true") || token.eq_ignore_ascii_case("false") {
        return Some(format!("write {assigned}{}, in small letters", token.to_ascii_lowercase()));
    }
    let kind = match token {
        _ if token.parse::<IpAddr>().is_ok() => "an address needs quotes",
        _ if token.parse::<IpNet>().is_ok() => "a prefix needs quotes",
        _ if token.contains(':') => "an address needs quotes",
        _ if token.split_once('-').is_some_and(|(first, last)| is_number(first) && is_number(last)) => "a range needs quotes",
        _ if token.starts_with(|c: char| c.is_ascii_digit()) && token.ends_with(char::is_alphabetic) => "a number with a unit needs quotes",
        _ => "text needs quotes",
    };
    Some(format!("{kind}: {assigned}{}", shown(key.unwrap_or_default(), &format!("\"{token}\""))))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// Returns a value for a message.
fn shown(key: &str, value: &str) -> String {
    if SECRETS.contains(&key) { "\"…\"".to_owned() } else { shorten(value) }
}

fn shorten(text: &str) -> String {
    let short: String = text.chars().take(MAX_SHOWN).map(|c| if c.is_control() { '·' } else { c }).collect();
    if text.chars().nth(MAX_SHOWN).is_some() { format!("{short}…") } else { short }
}

//! `[[rule]]` and `[limits]`.

use super::handler;
use super::values::{boolean, integer, one_or_more, regex_error};
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use guideway_config::reader::{Field, Located, Location, Reader, Table};
use guideway_config::text;
use guideway_tftp::handlers::limits::Settings;
use guideway_tftp::handlers::replacement::Replacement;
use ipnet::IpNet;
use regex::bytes::Regex;
use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;

/// `[[rule]]`
#[derive(Clone, Debug)]
pub struct Rule {
    /// Patterns of names.
    pub files: Option<GlobSet>,
    /// Prefixes of clients.
    pub clients: Vec<IpNet>,
    /// Destination addresses of requests.
    pub vips: Vec<IpAddr>,
    /// Patterns and their replacements.
    pub remap: Vec<(Regex, Replacement)>,
    /// The action of a rule that matches.
    pub action: Action,
}

/// `[[rule]] use` or `deny`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Neither: later rules decide.
    FallThrough,
    /// `deny = true`
    Deny,
    /// `use`: names of handlers.
    Serve(Vec<String>),
}

/// One `[[rule]]` that was read but not checked against the others.
pub(super) struct RawRule<'r, 't> {
    rule: Option<Rule>,
    uses: Vec<Located<'r, 't, String>>,
    /// Whether it matches everything and decides, so that later rules are never reached.
    last: bool,
    location: Location,
}

impl RawRule<'_, '_> {
    /// Returns the rule if all of it could be read.
    pub(super) fn rule(self) -> Option<Rule> {
        self.rule
    }
}

/// Reads one `[[rule]]`.
pub(super) fn read<'r, 't>(mut table: Table<'r, 't>) -> RawRule<'r, 't> {
    let location = table.location();
    let ignore_case = boolean(&mut table, "ignore_case", false);
    let files = table.optional("file").map(|f| globs(&f, ignore_case.unwrap_or(false)));
    let prefixes = |f: Field<'r, 't>| f.parse("a prefix in quotes", text::prefix).map(|s| s.value.trunc());
    let clients = table.optional("client").map(|f| one_or_more(&f, "prefixes in quotes", prefixes));
    let vips =
        table.optional("vip").map(|f| one_or_more(&f, "addresses in quotes", |f| Some(f.parse("an address in quotes", address)?.value)));
    let remap = table.optional("remap").map(|f| one_or_more(&f, "tables such as { pattern = \"^old/\", to = \"new/\" }", |f| remap(&f)));
    let handler = |f: Field<'r, 't>| f.parse("the name of a handler in quotes", text::name);
    let uses = table.optional("use").map(|f| (f.clone(), one_or_more(&f, "names of handlers in quotes", handler)));
    let deny = table.optional("deny").map(|f| (f.boolean(), f));
    let conditions = files.is_some() || clients.is_some() || vips.is_some();
    let action = match (&uses, &deny) {
        (Some(_), Some((Some(true), deny))) => {
            deny.error("contradicts use; keep one of the two");
            None
        }
        (_, Some((None, _))) => None,
        (Some((_, uses)), _) => uses.as_ref().map(|uses| Action::Serve(uses.iter().map(|s| s.value.clone()).collect())),
        (None, Some((Some(true), _))) => Some(Action::Deny),
        (None, _) if remap.is_some() => Some(Action::FallThrough),
        (None, _) => {
            table.missing(
                "",
                "does nothing; write use = \"…\" with the name of a handler, deny = true, or remap = { pattern = \"…\", to = \"…\" }",
            );
            None
        }
    };
    table.finish();
    let last = !conditions && matches!(action, Some(Action::Serve(_) | Action::Deny));
    let rule = || {
        Some(Rule {
            files: transpose(files)?,
            clients: transpose(clients)?.unwrap_or_default(),
            vips: transpose(vips)?.unwrap_or_default(),
            remap: transpose(remap)?.unwrap_or_default(),
            action: action?,
        })
    };
    RawRule { rule: rule(), uses: uses.and_then(|(_, uses)| uses).unwrap_or_default(), last, location }
}

/// Returns `None` only if the key is present and could not be read.
fn transpose<T>(read: Option<Option<T>>) -> Option<Option<T>> {
    read.map_or(Some(None), |read| read.map(Some))
}

fn address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| "is not an IP address; write it like 192.0.2.69 or 2001:db8::69".to_owned())
}

fn globs(field: &Field<'_, '_>, ignore_case: bool) -> Option<GlobSet> {
    let glob = |text: &str| {
        if text.starts_with('/') || text.contains('\\') {
            return Err("matches no name: names contain no backslash and do not start with a slash; write it like \"grub/**\"".to_owned());
        }
        let glob = GlobBuilder::new(text).literal_separator(true).backslash_escape(false).case_insensitive(ignore_case).build();
        glob.map_err(|error| format!("is not a valid pattern: {}", error.kind()))
    };
    let globs = one_or_more(field, "patterns in quotes", |f| f.parse("a pattern in quotes", glob))?;
    let mut set = GlobSetBuilder::new();
    for glob in globs {
        set.add(glob.value);
    }
    match set.build() {
        Ok(set) => Some(set),
        Err(error) => {
            field.error(format!("cannot be used: {error}"));
            None
        }
    }
}

fn remap(field: &Field<'_, '_>) -> Option<(Regex, Replacement)> {
    let mut table = field.table("a table such as { pattern = \"^old/\", to = \"new/\" }")?;
    let pattern = |text: &str| Regex::new(text).map_err(|error| regex_error(&error));
    let pattern = table.required("pattern", "pattern = \"^old/\"").and_then(|f| f.parse("a regular expression in quotes", pattern));
    let to = table.required("to", "to = \"new/\"").and_then(|f| f.parse("a string", Replacement::parse));
    table.finish();
    Some((pattern?.value, to?.value))
}

/// Reads `[limits]`.
pub(super) fn limits(mut table: Table<'_, '_>) -> Option<Settings> {
    let default = Settings::default();
    let some = |field: Field<'_, '_>, what: &str| field.integer::<u32>(what, 1..=1_000_000);
    let rate = table.optional("rate").map(|f| some(f, "requests a second"));
    let burst = integer(&mut table, "burst", "requests at once", default.burst, 1..=1_000_000);
    let concurrent = table.optional("concurrent").map(|f| some(f, "transfers at once"));
    let prefix4 = integer(&mut table, "prefix4", "bits of an IPv4 address", default.prefix4, 1..=32);
    let prefix6 = integer(&mut table, "prefix6", "bits of an IPv6 address", default.prefix6, 1..=128);
    let max_prefixes = integer(&mut table, "max_prefixes", "prefixes", default.max_prefixes, 1024..=16_777_216);
    if rate.is_none() && concurrent.is_none() {
        table.missing("rate", "is missing; write rate, concurrent, or both");
        return None;
    }
    table.finish();
    Some(Settings {
        rate: transpose(rate)?,
        burst: burst?,
        concurrent: transpose(concurrent)?,
        prefix4: prefix4?,
        prefix6: prefix6?,
        max_prefixes: max_prefixes?,
    })
}

/// Reports unknown and unused handlers, and rules that are never reached.
pub(super) fn check(reader: &Reader, rules: &[RawRule<'_, '_>], handlers: &[handler::RawHandler<'_, '_>]) {
    let names: BTreeSet<&str> = handlers.iter().filter_map(|h| h.name.as_ref()).map(|name| name.value.as_str()).collect();
    let mut used: HashSet<&str> = handlers.iter().filter_map(|h| h.files.as_ref()).map(|files| files.value.as_str()).collect();
    let mut last: Option<&RawRule<'_, '_>> = None;
    for rule in rules {
        for handler in &rule.uses {
            if !names.contains(handler.value.as_str()) {
                let hint = text::did_you_mean(&handler.value, names.iter().copied());
                let hint = if hint.is_empty() { "; write a [[handler]] of this name".to_owned() } else { hint };
                handler.field.error(format!("does not name a handler of this file{hint}"));
            }
            used.insert(&handler.value);
        }
        match last {
            Some(before) => {
                let line = reader.line_of(&before.location);
                reader.warning(
                    &rule.location,
                    format!("is never reached: the rule in line {line} has no condition and matches every request"),
                );
            }
            None if rule.last => last = Some(rule),
            None => {}
        }
    }
    if rules.is_empty() {
        return;
    }
    for handler in handlers {
        if let Some(name) = handler.name.as_ref().filter(|name| !used.contains(name.value.as_str())) {
            name.field.warning("is not used by any rule, so this handler serves nothing");
        }
    }
}

//! `[[pool]]`: from the table to [`Pool`], with everything that one pool must keep to by itself.

use super::checking;
use super::reader::{Field, Mark, Reader, Spot, Table};
use super::service::range;
use super::text::{self, plural, port_range_text};
use super::{Backend, Pool};
use std::collections::HashMap;
use std::net::IpAddr;

const TABLE_SIZE: u32 = 65_537;
const LARGEST_TABLE: u32 = 5_000_011;
const ENTRIES_PER_BACKEND: u64 = 100;
const WEIGHT: u16 = 100;
/// TFTP servers take their TIDs from the ports that need no privilege.
const LOWEST_TID: u16 = 1024;

/// What was read of one `[[pool]]`.
pub(super) struct Draft<'r, 't> {
    pub(super) name: Option<Spot<'r, 't, String>>,
    pub(super) backends: Vec<BackendDraft<'r, 't>>,
    /// `backends` as a key of the pool.
    pub(super) list: Mark,
    /// The table itself.
    pub(super) here: Mark,
    table_size: Option<u32>,
    takeover: Option<bool>,
    /// What was read of `check`; `None` when there is none, or nothing of it could be read.
    pub(super) check: Option<checking::Draft<'r, 't>>,
    /// `check` is not there, or good.
    check_good: bool,
    /// Every element of `backends` could be read.
    pub(super) complete: bool,
}

/// What was read of one backend.
pub(super) struct BackendDraft<'r, 't> {
    pub(super) name: Option<Spot<'r, 't, String>>,
    pub(super) address: Option<Spot<'r, 't, IpAddr>>,
    pub(super) tid_range: Option<Spot<'r, 't, (u16, u16)>>,
    pub(super) weight: Option<u16>,
    drain: Option<bool>,
    tid_good: bool,
    no_tid: Mark,
}

impl BackendDraft<'_, '_> {
    /// Its name, or what stands for it in messages.
    pub(super) fn called(&self) -> &str {
        self.name.as_ref().map_or("(without a name)", |n| n.value.as_str())
    }

    fn backend(&self) -> Option<Backend> {
        let tid_range = self.tid_good.then_some(self.tid_range.as_ref().map(|r| r.value))?;
        Some(Backend {
            name: self.name.as_ref()?.value.clone(),
            address: self.address.as_ref()?.value,
            weight: self.weight?,
            tid_range,
            drain: self.drain?,
        })
    }
}

impl Draft<'_, '_> {
    /// Whether it is known that no backend gets new flows.
    pub(super) fn gets_nothing(&self) -> bool {
        self.backends.iter().all(|b| b.weight == Some(0) || b.drain == Some(true))
    }

    /// The pool, if everything of it could be read.
    pub(super) fn pool(&self) -> Option<Pool> {
        let backends = self.backends.iter().map(BackendDraft::backend).collect::<Option<_>>()?;
        let check = self.check_good.then(|| self.check.as_ref().and_then(|draft| draft.check.clone()))?;
        Some(Pool { name: self.name.as_ref()?.value.clone(), table_size: self.table_size?, takeover: self.takeover?, check, backends })
    }

    /// Whether it is known that no backend has a TID range.
    pub(super) fn without_ranges(&self) -> bool {
        self.complete && self.backends.iter().all(|b| b.tid_good && b.tid_range.is_none())
    }
}

/// Reads one `[[pool]]`.
pub(super) fn read<'r, 't>(reader: &'r Reader, mut table: Table<'r, 't>) -> Draft<'r, 't> {
    let name = table.required("name", "name = \"boot\"").and_then(|f| f.parse("a name in quotes", text::name));
    if let Some(name) = &name {
        table = table.called(&name.value);
    }
    let (here, list) = (table.here(), table.about("backends"));
    let field = table.required("backends", "backends = [ { name = \"t1\", address = \"10.0.2.21\" } ]");
    let items = field.as_ref().and_then(|f| f.items("a list of tables such as { name = \"t1\", address = \"10.0.2.21\" }"));
    let listed = items.as_ref().map_or(0, Vec::len);
    let complete = items.is_some();
    let backends: Vec<_> = items.into_iter().flatten().map(|item| backend(&item)).collect();
    let complete = complete && backends.iter().all(Option::is_some);
    let backends: Vec<_> = backends.into_iter().flatten().collect();
    let table_size = table_size(reader, &mut table, listed);
    let takeover = table.optional("takeover").map_or(Some(false), |field| {
        let takeover = field.boolean();
        if takeover == Some(true) && complete && backends.iter().any(|b| b.tid_good && b.tid_range.is_none()) {
            field.error("needs a tid_range for every backend of the pool: a packet of a dead server's transfer must name its owner");
        }
        takeover
    });
    let check = table.optional("check");
    let checked = check.is_some();
    let check = check.and_then(|field| checking::read(reader, field));
    let check_good = check.as_ref().is_some_and(|draft| draft.check.is_some()) == checked;
    table.finish();
    unique_names(&backends);
    unique_addresses(&backends);
    ranges_for_all_or_none(reader, &backends);
    disjoint_ranges(&backends);
    Draft { name, backends, list, here, table_size, takeover, check, check_good, complete }
}

fn backend<'r, 't>(item: &Field<'r, 't>) -> Option<BackendDraft<'r, 't>> {
    let mut table = item.table("a table such as { name = \"t1\", address = \"10.0.2.21\" }")?;
    let name = table.required("name", "name = \"t1\"").and_then(|f| f.parse("a name in quotes", text::name));
    if let Some(name) = &name {
        table = table.called(&name.value);
    }
    let address = table.required("address", "address = \"10.0.2.21\"").and_then(|f| f.parse("an address in quotes", text::unicast));
    let weight = table.optional("weight").map_or(Some(WEIGHT), |f| f.integer("a weight", 0..=1000));
    let no_tid = table.about("tid_range");
    let tid = table.optional("tid_range");
    let given = tid.is_some();
    let tid_range = tid.and_then(|f| Some(Spot { value: range(&f, LOWEST_TID)?, field: f }));
    let drain = table.optional("drain").map_or(Some(false), |f| f.boolean());
    table.finish();
    Some(BackendDraft { tid_good: tid_range.is_some() == given, name, address, tid_range, weight, drain, no_tid })
}

/// The size of the Maglev table for so many backends (Eisenbud et al., NSDI 2016, section 5.3: M at least 100 × N keeps the shares within 1 %).
fn table_size(reader: &Reader, table: &mut Table<'_, '_>, backends: usize) -> Option<u32> {
    let least = u64::try_from(backends).unwrap_or(u64::MAX).saturating_mul(ENTRIES_PER_BACKEND);
    if least > u64::from(LARGEST_TABLE) {
        let most = u64::from(LARGEST_TABLE) / ENTRIES_PER_BACKEND;
        reader.error(&table.about("backends"), format!("names {backends} backends; one pool has at most {most}"));
        let _ = table.optional("table_size");
        return None;
    }
    let Some(field) = table.optional("table_size") else {
        if least > u64::from(TABLE_SIZE) {
            let message = format!(
                "is missing, and the default of {TABLE_SIZE} is too small for {backends} backends: each needs at least 100 entries; \
                 write table_size = {}",
                next_prime(least)
            );
            reader.error(&table.about("table_size"), message);
            return None;
        }
        return Some(TABLE_SIZE);
    };
    let size: u32 = field.integer("a prime number of entries", 2..=i64::from(LARGEST_TABLE))?;
    let wanted = next_prime(least.max(u64::from(size)));
    if u64::from(size) < least {
        field.error(format!(
            "is too small for {backends} {}: each needs at least 100 entries; the next prime is {wanted}",
            plural(backends, "backend")
        ));
        return None;
    }
    if !primal::is_prime(u64::from(size)) {
        field.error(format!("is not prime, and the Maglev table needs a prime size; the next prime is {wanted}"));
        return None;
    }
    Some(size)
}

/// The least prime that is not below `number`; `number` is at most [`LARGEST_TABLE`], itself a prime.
fn next_prime(number: u64) -> u64 {
    (number.max(2)..=u64::from(LARGEST_TABLE)).find(|n| primal::is_prime(*n)).unwrap_or(u64::from(LARGEST_TABLE))
}

fn unique_names(backends: &[BackendDraft<'_, '_>]) {
    let mut lines: HashMap<&str, usize> = HashMap::new();
    for name in backends.iter().filter_map(|b| b.name.as_ref()) {
        if let Some(line) = lines.get(name.value.as_str()) {
            name.field.error(format!("is also the name of the backend in line {line}; a name is unique in its pool"));
        } else {
            lines.insert(&name.value, name.field.line());
        }
    }
}

fn unique_addresses(backends: &[BackendDraft<'_, '_>]) {
    let mut owners: HashMap<IpAddr, &BackendDraft<'_, '_>> = HashMap::new();
    for backend in backends {
        let Some(address) = &backend.address else { continue };
        if let Some(owner) = owners.get(&address.value) {
            let line = owner.address.as_ref().map_or(0, |a| a.field.line());
            address.field.error(format!("is also the address of {} in line {line}; an address is unique in its pool", owner.called()));
        } else {
            owners.insert(address.value, backend);
        }
    }
}

fn ranges_for_all_or_none(reader: &Reader, backends: &[BackendDraft<'_, '_>]) {
    let Some(with) = backends.iter().find(|b| b.tid_range.is_some()) else { return };
    let without: Vec<_> = backends.iter().filter(|b| b.tid_good && b.tid_range.is_none()).collect();
    let Some(first) = without.first() else { return };
    let names: Vec<_> = without.iter().map(|b| b.called()).collect();
    let message = format!(
        "is missing for {} while {} has one; all backends of a pool have a TID range or none has",
        text::some_of(&names),
        with.called()
    );
    reader.error(&first.no_tid, message);
}

fn disjoint_ranges(backends: &[BackendDraft<'_, '_>]) {
    let mut ranges: Vec<_> = backends.iter().filter_map(|b| Some((b, b.tid_range.as_ref()?))).collect();
    ranges.sort_by_key(|(_, r)| r.value);
    for (at, other) in overlaps(&ranges.iter().map(|(_, r)| r.value).collect::<Vec<_>>()) {
        let (Some(one), Some(two)) = (ranges.get(at), ranges.get(other)) else { continue };
        let ((_, range), (owner, theirs)) = if two.1.field.is_before(&one.1.field) { (one, two) } else { (two, one) };
        let taken = port_range_text(theirs.value);
        range.field.error(format!(
            "overlaps the TID range {taken} of {} in line {}; every backend of a pool has ports of its own",
            owner.called(),
            theirs.field.line()
        ));
    }
}

/// Of ranges sorted by their first port: each that overlaps one before it, with the one before it that reaches furthest.
pub(super) fn overlaps(ranges: &[(u16, u16)]) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut furthest: Option<(usize, u16)> = None;
    for (at, (first, last)) in ranges.iter().enumerate() {
        if let Some((other, _)) = furthest.filter(|(_, end)| first <= end) {
            found.push((at, other));
        }
        if furthest.is_none_or(|(_, end)| *last > end) {
            furthest = Some((at, *last));
        }
    }
    found
}

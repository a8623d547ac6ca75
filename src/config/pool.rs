//! `[[pool]]`: turns the table into a [`Pool`] and checks all rules within one pool.

use super::health_check::{self, Check};
use super::reader::{Field, Located, Location, Reader, Table};
use super::service::range;
use super::text::{self, plural, port_range_text};
use std::collections::HashMap;
use std::net::IpAddr;

/// `[[pool]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Unique, 1–63 characters as for the director's name.
    pub name: String,
    /// Size of the Maglev table: prime, at least 100 × backends, at most 5,000,011; default 65537.
    pub table_size: u32,
    /// Servers of the pool continue each other's transfers, as Guideway's own servers do; needs TID ranges. Default false.
    pub takeover: bool,
    /// How the health controller checks the backends; without a check they all count as up.
    pub check: Option<Check>,
    /// In the order of the file. At most 65,000 in all pools together.
    pub backends: Vec<Backend>,
}

/// One of `[[pool]] backends`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Unique in its pool, 1–63 characters as for the director's name.
    pub name: String,
    /// Destination of the backend's GRE.
    pub address: IpAddr,
    /// 0–1000, default 100; 0 = no new flows.
    pub weight: u16,
    /// Server ports of this backend, inclusive, within 1024–65535. Either all backends of a pool have a range or none has.
    pub tid_range: Option<(u16, u16)>,
    /// Gets no new flows and keeps its existing flows, whatever its weight; default false.
    pub drain: bool,
}

const TABLE_SIZE: u32 = 65_537;
const MAX_TABLE_SIZE: u32 = 5_000_011;
const ENTRIES_PER_BACKEND: u64 = 100;
const WEIGHT: u16 = 100;
/// Lowest TID. TFTP servers take their TIDs from the unprivileged ports.
const MIN_TID: u16 = 1024;

/// The raw values of one `[[pool]]`.
pub(super) struct RawPool<'r, 't> {
    pub(super) name: Option<Located<'r, 't, String>>,
    pub(super) backends: Vec<RawBackend<'r, 't>>,
    /// Location of the key `backends`.
    pub(super) list: Location,
    /// The table itself.
    pub(super) location: Location,
    table_size: Option<u32>,
    takeover: Option<bool>,
    /// The raw `check`; `None` when it is absent or unreadable.
    pub(super) check: Option<health_check::RawCheck<'r, 't>>,
    /// `check` is absent or valid.
    check_good: bool,
    /// Every element of `backends` is readable.
    pub(super) complete: bool,
}

/// The raw values of one backend.
pub(super) struct RawBackend<'r, 't> {
    pub(super) name: Option<Located<'r, 't, String>>,
    pub(super) address: Option<Located<'r, 't, IpAddr>>,
    pub(super) tid_range: Option<Located<'r, 't, (u16, u16)>>,
    pub(super) weight: Option<u16>,
    drain: Option<bool>,
    tid_good: bool,
    no_tid: Location,
}

impl RawBackend<'_, '_> {
    /// Returns its name, or a placeholder for messages.
    pub(super) fn display_name(&self) -> &str {
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

impl RawPool<'_, '_> {
    /// Returns whether certainly no backend gets new flows.
    pub(super) fn takes_no_new_flows(&self) -> bool {
        self.backends.iter().all(|b| b.weight == Some(0) || b.drain == Some(true))
    }

    /// Returns the pool if all of it is valid.
    pub(super) fn pool(&self) -> Option<Pool> {
        let backends = self.backends.iter().map(RawBackend::backend).collect::<Option<_>>()?;
        let check = self.check_good.then(|| self.check.as_ref().and_then(|raw| raw.check.clone()))?;
        Some(Pool { name: self.name.as_ref()?.value.clone(), table_size: self.table_size?, takeover: self.takeover?, check, backends })
    }

    /// Returns whether certainly no backend has a TID range.
    pub(super) fn without_ranges(&self) -> bool {
        self.complete && self.backends.iter().all(|b| b.tid_good && b.tid_range.is_none())
    }
}

/// Reads one `[[pool]]`.
pub(super) fn read<'r, 't>(reader: &'r Reader, mut table: Table<'r, 't>) -> RawPool<'r, 't> {
    let name = table.required("name", "name = \"boot\"").and_then(|f| f.parse("a name in quotes", text::name));
    if let Some(name) = &name {
        table = table.with_name(&name.value);
    }
    let (location, list) = (table.location(), table.key_location("backends"));
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
            field.error("needs a tid_range for every backend of the pool: the TID of a packet must identify the owner of its transfer");
        }
        takeover
    });
    let check = table.optional("check");
    let checked = check.is_some();
    let check = check.and_then(|field| health_check::read(reader, field));
    let check_good = check.as_ref().is_some_and(|raw| raw.check.is_some()) == checked;
    table.finish();
    unique_names(&backends);
    unique_addresses(&backends);
    ranges_for_all_or_none(reader, &backends);
    disjoint_ranges(&backends);
    RawPool { name, backends, list, location, table_size, takeover, check, check_good, complete }
}

fn backend<'r, 't>(item: &Field<'r, 't>) -> Option<RawBackend<'r, 't>> {
    let mut table = item.table("a table such as { name = \"t1\", address = \"10.0.2.21\" }")?;
    let name = table.required("name", "name = \"t1\"").and_then(|f| f.parse("a name in quotes", text::name));
    if let Some(name) = &name {
        table = table.with_name(&name.value);
    }
    let address = table.required("address", "address = \"10.0.2.21\"").and_then(|f| f.parse("an address in quotes", text::unicast));
    let weight = table.optional("weight").map_or(Some(WEIGHT), |f| f.integer("a weight", 0..=1000));
    let no_tid = table.key_location("tid_range");
    let tid = table.optional("tid_range");
    let given = tid.is_some();
    let tid_range = tid.and_then(|f| Some(Located { value: range(&f, MIN_TID)?, field: f }));
    let drain = table.optional("drain").map_or(Some(false), |f| f.boolean());
    table.finish();
    Some(RawBackend { tid_good: tid_range.is_some() == given, name, address, tid_range, weight, drain, no_tid })
}

/// Reads the size of the Maglev table for this number of backends. With M ≥ 100 × N, shares stay within 1 % (Eisenbud et al., NSDI 2016,
/// section 5.3).
fn table_size(reader: &Reader, table: &mut Table<'_, '_>, backends: usize) -> Option<u32> {
    let least = u64::try_from(backends).unwrap_or(u64::MAX).saturating_mul(ENTRIES_PER_BACKEND);
    if least > u64::from(MAX_TABLE_SIZE) {
        let most = u64::from(MAX_TABLE_SIZE) / ENTRIES_PER_BACKEND;
        reader.error(&table.key_location("backends"), format!("names {backends} backends; one pool has at most {most}"));
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
            reader.error(&table.key_location("table_size"), message);
            return None;
        }
        return Some(TABLE_SIZE);
    };
    let size: u32 = field.integer("a prime number of entries", 2..=i64::from(MAX_TABLE_SIZE))?;
    let wanted = next_prime(least.max(u64::from(size)));
    if u64::from(size) < least {
        field.error(format!(
            "is too small for {backends} {}: each needs at least 100 entries; the next prime is {wanted}",
            plural(backends, "backend")
        ));
        return None;
    }
    if !primal_check::miller_rabin(u64::from(size)) {
        field.error(format!("is not prime, and the Maglev table needs a prime size; the next prime is {wanted}"));
        return None;
    }
    Some(size)
}

/// Returns the smallest prime that is at least `number`; `number` is at most [`MAX_TABLE_SIZE`], itself a prime.
fn next_prime(number: u64) -> u64 {
    (number.max(2)..=u64::from(MAX_TABLE_SIZE)).find(|n| primal_check::miller_rabin(*n)).unwrap_or(u64::from(MAX_TABLE_SIZE))
}

fn unique_names(backends: &[RawBackend<'_, '_>]) {
    let mut lines: HashMap<&str, usize> = HashMap::new();
    for name in backends.iter().filter_map(|b| b.name.as_ref()) {
        if let Some(line) = lines.get(name.value.as_str()) {
            name.field.error(format!("is also the name of the backend in line {line}; give each backend of a pool its own name"));
        } else {
            lines.insert(&name.value, name.field.line());
        }
    }
}

fn unique_addresses(backends: &[RawBackend<'_, '_>]) {
    let mut owners: HashMap<IpAddr, &RawBackend<'_, '_>> = HashMap::new();
    for backend in backends {
        let Some(address) = &backend.address else { continue };
        if let Some(owner) = owners.get(&address.value) {
            let line = owner.address.as_ref().map_or(0, |a| a.field.line());
            address.field.error(format!(
                "is also the address of {} in line {line}; give each backend of a pool its own address",
                owner.display_name()
            ));
        } else {
            owners.insert(address.value, backend);
        }
    }
}

fn ranges_for_all_or_none(reader: &Reader, backends: &[RawBackend<'_, '_>]) {
    let Some(with) = backends.iter().find(|b| b.tid_range.is_some()) else { return };
    let without: Vec<_> = backends.iter().filter(|b| b.tid_good && b.tid_range.is_none()).collect();
    let Some(first) = without.first() else { return };
    let names: Vec<_> = without.iter().map(|b| b.display_name()).collect();
    let message = format!(
        "is missing for {} while {} has one; give a TID range to all backends of a pool or to none",
        text::abbreviate_list(&names),
        with.display_name()
    );
    reader.error(&first.no_tid, message);
}

fn disjoint_ranges(backends: &[RawBackend<'_, '_>]) {
    let mut ranges: Vec<_> = backends.iter().filter_map(|b| Some((b, b.tid_range.as_ref()?))).collect();
    ranges.sort_by_key(|(_, r)| r.value);
    for (at, other) in overlaps(&ranges.iter().map(|(_, r)| r.value).collect::<Vec<_>>()) {
        let (Some(one), Some(two)) = (ranges.get(at), ranges.get(other)) else { continue };
        let ((_, range), (owner, theirs)) = if two.1.field.is_before(&one.1.field) { (one, two) } else { (two, one) };
        let taken = port_range_text(theirs.value);
        range.field.error(format!(
            "overlaps the TID range {taken} of {} in line {}; the ranges of a pool must not overlap",
            owner.display_name(),
            theirs.field.line()
        ));
    }
}

/// Takes ranges sorted by first port. Returns each range that overlaps an earlier one, with the earlier one that ends last.
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

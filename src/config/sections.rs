//! The raw sections of a file, each read by itself.

use super::reader::{Located, Location, Reader, Table};
use super::{Intent, Pool, announce, director, neighbour, pool, vip};
use guideway_hash::KeyId;

/// All sections as they were read, before they are compared.
pub(super) struct Sections<'r, 't> {
    pub(super) director: director::RawDirector<'r, 't>,
    /// Location for warnings about a missing `director.routers`.
    pub(super) routers: Location,
    pub(super) vips: Vec<vip::RawVip<'r, 't>>,
    /// Location for warnings about a missing `vip`.
    pub(super) no_vip: Location,
    pub(super) pools: Vec<pool::RawPool<'r, 't>>,
    pub(super) neighbours: Vec<neighbour::RawNeighbour<'r, 't>>,
    pub(super) announce: Option<announce::RawAnnounce<'r, 't>>,
    /// Location of `[store]`, if there is one.
    pub(super) store: Option<Location>,
}

impl Sections<'_, '_> {
    /// Returns the intent if all VIPs and pools are valid.
    pub(super) fn intent(&self, active_key: Option<KeyId>) -> Option<Intent> {
        Some(Intent {
            active_key,
            vips: self.vips.iter().map(vip::RawVip::vip).collect::<Option<_>>()?,
            pools: self.pools.iter().map(pool::RawPool::pool).collect::<Option<_>>()?,
        })
    }
}

/// Reads `active_key`: `None` when it is invalid, `Some(None)` when it is absent.
pub(super) fn active_key<'r, 't>(root: &mut Table<'r, 't>) -> Option<Option<Located<'r, 't, KeyId>>> {
    root.optional("active_key").map_or(Some(None), |field| field.parse("the id of a key in quotes", str::parse).map(Some))
}

/// Reads `[[vip]]` and `[[pool]]`.
pub(super) fn vips_and_pools<'r, 't>(
    reader: &'r Reader,
    root: &mut Table<'r, 't>,
) -> (Vec<vip::RawVip<'r, 't>>, Vec<pool::RawPool<'r, 't>>) {
    let vips = tables(root, "vip", "a list of tables: [[vip]], in two brackets").into_iter().map(vip::read).collect();
    let pools = tables(root, "pool", "a list of tables: [[pool]], in two brackets");
    (vips, pools.into_iter().map(|t| pool::read(reader, t)).collect())
}

/// Reads the `[[pool]]` sections of a file of another kind; returns nothing for an invalid pool.
pub fn pools(reader: &Reader, root: &mut Table<'_, '_>) -> Vec<Option<Pool>> {
    let pools = tables(root, "pool", "a list of tables: [[pool]], in two brackets");
    pools.into_iter().map(|table| pool::read(reader, table).pool()).collect()
}

/// Returns the tables of `[[key]]`; none if there is no such key.
pub fn tables<'r, 't>(root: &mut Table<'r, 't>, key: &'static str, wanted: &str) -> Vec<Table<'r, 't>> {
    root.optional(key).map(|field| field.tables(wanted)).unwrap_or_default()
}

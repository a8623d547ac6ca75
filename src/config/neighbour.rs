//! `[[neighbour]]`: from the table to [`Neighbour`].

use super::Neighbour;
use super::reader::{Mark, Spot, Table};
use super::text;
use std::collections::HashMap;
use std::net::IpAddr;

/// What was read of one `[[neighbour]]`.
pub(super) struct Draft<'r, 't> {
    pub(super) address: Option<Spot<'r, 't, IpAddr>>,
    /// The table itself.
    pub(super) here: Mark,
    mac: Option<[u8; 6]>,
}

impl Draft<'_, '_> {
    /// The neighbour, if everything of it could be read.
    pub(super) fn neighbour(&self) -> Option<Neighbour> {
        Some(Neighbour { address: self.address.as_ref()?.value, mac: self.mac? })
    }
}

/// Reads one `[[neighbour]]`.
pub(super) fn read<'r, 't>(mut table: Table<'r, 't>) -> Draft<'r, 't> {
    let here = table.here();
    let address = table.required("address", "address = \"10.0.2.21\"").and_then(|f| f.parse("an address in quotes", text::unicast));
    let mac = table.required("mac", "mac = \"02:00:00:00:02:21\"").and_then(|f| f.parse("a link-layer address in quotes", text::mac));
    table.finish();
    Draft { address, here, mac: mac.map(|m| m.value) }
}

/// Reports every address that has two entries.
pub(super) fn unique(neighbours: &[Draft<'_, '_>]) {
    let mut lines: HashMap<IpAddr, usize> = HashMap::new();
    for address in neighbours.iter().filter_map(|n| n.address.as_ref()) {
        if let Some(line) = lines.get(&address.value) {
            address.field.error(format!("has an entry already, in line {line}; keep one of them"));
        } else {
            lines.insert(address.value, address.field.line());
        }
    }
}

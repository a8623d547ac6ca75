//! `[[neighbour]]`: turns the table into a [`Neighbour`].

use super::reader::{Located, Location, Table};
use super::text;
use std::collections::HashMap;
use std::net::IpAddr;

/// `[[neighbour]]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Address of a backend or a gateway.
    pub address: IpAddr,
    /// Its link-layer address.
    pub mac: [u8; 6],
}

/// The raw values of one `[[neighbour]]`.
pub(super) struct RawNeighbour<'r, 't> {
    pub(super) address: Option<Located<'r, 't, IpAddr>>,
    /// The table itself.
    pub(super) location: Location,
    mac: Option<[u8; 6]>,
}

impl RawNeighbour<'_, '_> {
    /// Returns the neighbour if all of it is valid.
    pub(super) fn neighbour(&self) -> Option<Neighbour> {
        Some(Neighbour { address: self.address.as_ref()?.value, mac: self.mac? })
    }
}

/// Reads one `[[neighbour]]`.
pub(super) fn read<'r, 't>(mut table: Table<'r, 't>) -> RawNeighbour<'r, 't> {
    let location = table.location();
    let address = table.required("address", "address = \"10.0.2.21\"").and_then(|f| f.parse("an address in quotes", text::unicast));
    let mac = table.required("mac", "mac = \"02:00:00:00:02:21\"").and_then(|f| f.parse("a link-layer address in quotes", text::mac));
    table.finish();
    RawNeighbour { address, location, mac: mac.map(|m| m.value) }
}

/// Reports every address that has two entries.
pub(super) fn unique(neighbours: &[RawNeighbour<'_, '_>]) {
    let mut lines: HashMap<IpAddr, usize> = HashMap::new();
    for address in neighbours.iter().filter_map(|n| n.address.as_ref()) {
        if let Some(line) = lines.get(&address.value) {
            address.field.error(format!("already has an entry in line {line}; keep one of them"));
        } else {
            lines.insert(address.value, address.field.line());
        }
    }
}

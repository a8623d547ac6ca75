//! The directors of the fleet, and which of them owns the datagrams in fragments of a pair of hosts (Eisenbud et al., NSDI 2016, section 4.3).

use super::BackendId;
use crate::maglev::{Error, Table};
use guideway_hash::FleetKey;
use std::net::IpAddr;
use std::sync::Arc;

/// Entries of the Maglev table over directors. Part of the hash contract.
pub const FLEET_TABLE_SIZE: u32 = 65_537;
/// Maximum number of directors of a fleet.
pub const MAX_DIRECTORS: usize = 256;

/// The directors of the fleet. The default has none, so every director is on its own.
#[derive(Clone, Debug, Default)]
pub struct Fleet {
    /// The others, and their ids, which they have like backends; sorted by address.
    others: Vec<(IpAddr, BackendId)>,
    owners: Option<Owners>,
}

#[derive(Clone, Debug)]
struct Owners {
    table: Arc<Table>,
    /// By place in the table; `None` is this director.
    directors: Vec<Option<BackendId>>,
}

impl Fleet {
    /// Builds the Maglev table over the directors with these addresses. A director's name in it is its address as text (RFC 5952).
    ///
    /// # Errors
    /// Those of the table: too many directors.
    pub fn build_table(key: &FleetKey, addresses: &[IpAddr]) -> Result<Table, Error> {
        let names: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        let weights: Vec<(&str, u16)> = names.iter().map(|name| (name.as_str(), 1)).collect();
        Table::build(key, FLEET_TABLE_SIZE, &weights)
    }

    /// A fleet of these directors, each with its id, and this one without; `table` was built from the same addresses.
    pub fn new(table: Arc<Table>, directors: &[(IpAddr, Option<BackendId>)]) -> Fleet {
        let mut others: Vec<_> = directors.iter().filter_map(|(address, id)| Some((*address, (*id)?))).collect();
        others.sort_unstable();
        // The table sorts by name, whatever the order in which it got them.
        let mut by_name: Vec<(String, Option<BackendId>)> = directors.iter().map(|(address, id)| (address.to_string(), *id)).collect();
        by_name.sort_unstable();
        let owners = Owners { table, directors: by_name.into_iter().map(|(_, id)| id).collect() };
        Fleet { others, owners: Some(owners) }
    }

    /// The other director that owns datagrams with this hash; `None` when this one does.
    pub fn owner(&self, hash: u64) -> Option<BackendId> {
        let owners = self.owners.as_ref()?;
        *owners.directors.get(usize::from(owners.table.choose(hash)?))?
    }

    /// Whether another director has this address.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.others.binary_search_by_key(&address, |(other, _)| *other).is_ok()
    }

    /// The other directors.
    pub fn others(&self) -> impl ExactSizeIterator<Item = (IpAddr, BackendId)> {
        self.others.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fleet(own: &str) -> Fleet {
        let addresses = ["10.0.1.9", "10.0.1.10", "2001:db8::9"].map(|address| address.parse().unwrap());
        let table = Arc::new(Fleet::build_table(&FleetKey::new([7; 16]), &addresses).unwrap());
        let own: IpAddr = own.parse().unwrap();
        let ids: Vec<_> = addresses.iter().zip(100..).map(|(address, id)| (*address, (*address != own).then_some(id))).collect();
        Fleet::new(table, &ids)
    }

    #[test]
    fn all_directors_name_one_owner_and_share_the_hashes() {
        let fleets = ["10.0.1.9", "10.0.1.10", "2001:db8::9"].map(fleet);
        let mut shares = [0; 3];
        for n in 0..3_000u64 {
            let hash = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let owners = std::array::from_fn::<_, 3, _>(|at| fleets[at].owner(hash));
            let own: Vec<usize> = (0..3).filter(|at| owners[*at].is_none()).collect();
            assert_eq!(own.len(), 1, "{owners:?}");
            assert!(owners.iter().flatten().all(|id| usize::from(*id) == 100 + own[0]), "{owners:?}");
            shares[own[0]] += 1;
        }
        assert!(shares.iter().all(|share| *share > 900), "{shares:?}");
        assert!(fleets[0].contains("10.0.1.10".parse().unwrap()) && !fleets[0].contains("10.0.1.9".parse().unwrap()));
        assert_eq!(Fleet::default().owner(7), None);
    }
}

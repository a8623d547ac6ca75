//! The servers that continue a transfer when its owner is gone. Directors and servers must agree on them without exchanging messages, so both use this ranking.
//!
//! The successors of a transfer are the two backends of highest weight among those that its pool is *configured* with, without the owner (rendezvous
//! hashing: Thaler and Ravishankar, "Using name-based mappings to increase hit rates", 1998, section 4). Health does not matter: removing the owner,
//! or any other backend, never changes the order of the rest.

use crate::{Domain, FleetKey};
use std::net::{IpAddr, Ipv6Addr};

/// The backends of one pool, ranked as successors. They are identified by their index in the list that this was made from.
#[derive(Clone, Debug)]
pub struct SuccessorRanking {
    key: FleetKey,
    name_hashes: Box<[u64]>,
}

impl SuccessorRanking {
    /// The pool with these backends, by name and in an order of the caller's. Names are unique in a pool.
    pub fn new<'a>(key: FleetKey, names: impl IntoIterator<Item = &'a str>) -> SuccessorRanking {
        let names = names.into_iter().map(|name| key.keyed_hash(Domain::Successor, name.as_bytes())).collect();
        SuccessorRanking { key, name_hashes: names }
    }

    /// How many backends there are.
    pub fn len(&self) -> usize {
        self.name_hashes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.name_hashes.is_empty()
    }

    /// Returns the first and the second successor of the transfer between `client`:`port` and `vip` whose server is `owner`. Fewer when the pool has fewer others.
    pub fn for_transfer(&self, vip: IpAddr, client: IpAddr, port: u16, owner: usize) -> [Option<usize>; 2] {
        self.excluding(vip, client, port, [owner, owner])
    }

    /// Returns the two of highest weight besides these two. A server that took a transfer over sends them its checkpoints, and asks them about transfers that it
    /// does not know. With the owner as both of `not`, these are the successors.
    pub fn excluding(&self, vip: IpAddr, client: IpAddr, port: u16, not: [usize; 2]) -> [Option<usize>; 2] {
        let transfer = self.transfer(vip, client, port);
        let mut best: [Option<(u64, usize)>; 2] = [None; 2];
        for (at, &name) in self.name_hashes.iter().enumerate().filter(|(at, _)| !not.contains(at)) {
            // Of two with equal weight the one whose name hashes lower is first, whatever the order in the list.
            let weight = fmix64(transfer ^ name);
            let beats = |other: Option<(u64, usize)>| other.is_none_or(|(w, o)| (weight, self.name_hashes[o]) > (w, name));
            if beats(best[0]) {
                best = [Some((weight, at)), best[0]];
            } else if beats(best[1]) {
                best[1] = Some((weight, at));
            }
        }
        best.map(|successor| successor.map(|(_, at)| at))
    }

    fn transfer(&self, vip: IpAddr, client: IpAddr, port: u16) -> u64 {
        let mut message = [0; 34];
        message[..16].copy_from_slice(&ipv6_octets(vip));
        message[16..32].copy_from_slice(&ipv6_octets(client));
        message[32..].copy_from_slice(&port.to_be_bytes());
        self.key.keyed_hash(Domain::Transfer, &message)
    }
}

/// An address as 16 bytes; IPv4 mapped (RFC 4291 section 2.5.5.2).
fn ipv6_octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => Ipv6Addr::octets(&address),
    }
}

/// Every bit of the result depends on every bit of `x` (the finalizer of MurmurHash3, Appleby, public domain). Its input is keyed, so no outsider
/// can choose its output.
pub fn fmix64(mut x: u64) -> u64 {
    x = (x ^ x >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    x = (x ^ x >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ x >> 33
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 5] = ["t1", "t2", "t3", "t4", "t5"];

    fn pool(names: &[&str]) -> SuccessorRanking {
        SuccessorRanking::new(FleetKey::new(std::array::from_fn(|n| n as u8)), names.iter().copied())
    }

    fn successors<'n>(names: &[&'n str], owner: &str, port: u16) -> Vec<&'n str> {
        let owner = names.iter().position(|name| *name == owner).unwrap_or(usize::MAX);
        let (vip, client) = ("192.0.2.69".parse().unwrap(), "198.51.100.7".parse().unwrap());
        pool(names).for_transfer(vip, client, port, owner).into_iter().flatten().map(|at| names[at]).collect()
    }

    #[test]
    fn the_contract_between_directors_and_servers_is_kept() {
        let said: Vec<String> = (2000..2006).map(|port| successors(&NAMES, "t1", port).join(" ")).collect();
        assert_eq!(said, VECTORS_V4);
        let six = |port| pool(&NAMES).for_transfer("2001:db8:69::1".parse().unwrap(), "2001:db8::7".parse().unwrap(), port, 2);
        assert_eq!((2000..2004).map(six).collect::<Vec<_>>(), VECTORS_V6);
    }

    #[test]
    fn the_order_in_the_list_and_the_loss_of_another_change_nothing() {
        for port in 1000..1200 {
            let both = successors(&NAMES, "t1", port);
            assert_eq!(both, successors(&["t5", "t3", "t1", "t2", "t4"], "t1", port));
            let others: Vec<&str> = NAMES.into_iter().filter(|name| !both.contains(name) && *name != "t1").collect();
            let fewer: Vec<&str> = NAMES.into_iter().filter(|name| *name != others[0]).collect();
            assert_eq!(both, successors(&fewer, "t1", port), "{} was no successor", others[0]);
            let first_gone: Vec<&str> = NAMES.into_iter().filter(|name| *name != both[0]).collect();
            assert_eq!(successors(&first_gone, "t1", port)[0], both[1], "the second successor comes first");
        }
    }

    #[test]
    fn whoever_took_over_finds_the_other_successor_and_the_next_in_rank() {
        let (vip, client) = ("192.0.2.69".parse().unwrap(), "198.51.100.7".parse().unwrap());
        let pool = pool(&NAMES);
        for port in 1000..1200 {
            let [first, second] = pool.for_transfer(vip, client, port, 0).map(Option::unwrap);
            let after_first = pool.excluding(vip, client, port, [0, first]);
            assert_eq!(after_first[0], Some(second));
            assert_eq!(pool.excluding(vip, client, port, [second, 0]), [Some(first), after_first[1]]);
            assert!(after_first[1].is_some_and(|third| ![0, first, second].contains(&third)));
        }
    }

    #[test]
    fn a_small_pool_has_fewer_successors_and_the_owner_is_never_its_own() {
        assert_eq!(successors(&["t1"], "t1", 2000), Vec::<&str>::new());
        assert_eq!(successors(&["t1", "t2"], "t1", 2000), ["t2"]);
        assert!((0..500).all(|port| !successors(&NAMES, "t3", port).contains(&"t3")));
        assert!(pool(&[]).is_empty() && pool(&NAMES).len() == 5);
    }

    #[test]
    fn the_transfers_of_one_owner_are_spread_evenly_over_the_others() {
        let mut first = std::collections::BTreeMap::new();
        (0..40_000).for_each(|port| *first.entry(successors(&NAMES, "t1", port)[0]).or_insert(0) += 1);
        assert!(first.len() == 4 && first.values().all(|n| (9_600..10_400).contains(n)), "{first:?}");
    }

    /// Computed by a program that shares no code with this one.
    const VECTORS_V4: [&str; 6] = ["t4 t5", "t4 t3", "t3 t4", "t2 t4", "t3 t2", "t5 t4"];
    const VECTORS_V6: [[Option<usize>; 2]; 4] = [[Some(1), Some(3)], [Some(4), Some(0)], [Some(0), Some(3)], [Some(4), Some(3)]];
}

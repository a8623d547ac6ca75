//! Heirs: who goes on with a transfer when the server that owns it is gone. Directors and servers must agree on it without a word, so both ask here.
//!
//! The heirs of a transfer are the two backends of highest weight among those that its pool is *configured* with, the owner left out (rendezvous
//! hashing: Thaler and Ravishankar, "Using name-based mappings to increase hit rates", 1998, section 4). Who is up or down does not matter: removing the
//! owner, or anybody else, never changes the order of those who remain.

use crate::{Domain, FleetKey};
use std::net::{IpAddr, Ipv6Addr};

/// The backends of one pool as heirs. They are named by their place in the list that this was made from.
#[derive(Clone, Debug)]
pub struct Heirs {
    key: FleetKey,
    names: Box<[u64]>,
}

impl Heirs {
    /// The pool with these backends, by name and in an order of the caller's. Names are unique in a pool.
    pub fn new<'a>(key: FleetKey, names: impl IntoIterator<Item = &'a str>) -> Heirs {
        let names = names.into_iter().map(|name| key.rare(Domain::Heir, name.as_bytes())).collect();
        Heirs { key, names }
    }

    /// How many backends there are.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// First and second heir of the transfer between `client`:`port` and `vip` whose server is `owner`. Fewer when the pool has fewer others.
    pub fn of(&self, vip: IpAddr, client: IpAddr, port: u16, owner: usize) -> [Option<usize>; 2] {
        self.besides(vip, client, port, [owner, owner])
    }

    /// The two of highest weight besides these two: whom a server tells of a transfer that it took over, and asks about one that it does not know. With the
    /// owner as both of the two, the heirs.
    pub fn besides(&self, vip: IpAddr, client: IpAddr, port: u16, not: [usize; 2]) -> [Option<usize>; 2] {
        let transfer = self.transfer(vip, client, port);
        let mut best: [Option<(u64, usize)>; 2] = [None; 2];
        for (at, &name) in self.names.iter().enumerate().filter(|(at, _)| !not.contains(at)) {
            // Two of equal weight: the one whose name hashes lower is first, whatever the order in the list.
            let weight = mix(transfer ^ name);
            let beats = |other: Option<(u64, usize)>| other.is_none_or(|(w, o)| (weight, self.names[o]) > (w, name));
            if beats(best[0]) {
                best = [Some((weight, at)), best[0]];
            } else if beats(best[1]) {
                best[1] = Some((weight, at));
            }
        }
        best.map(|heir| heir.map(|(_, at)| at))
    }

    fn transfer(&self, vip: IpAddr, client: IpAddr, port: u16) -> u64 {
        let mut message = [0; 34];
        message[..16].copy_from_slice(&sixteen(vip));
        message[16..32].copy_from_slice(&sixteen(client));
        message[32..].copy_from_slice(&port.to_be_bytes());
        self.key.rare(Domain::Transfer, &message)
    }
}

/// An address as 16 bytes; IPv4 mapped (RFC 4291 section 2.5.5.2).
fn sixteen(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => Ipv6Addr::octets(&address),
    }
}

/// Every bit of the result depends on every bit of `x` (the finalizer of MurmurHash3, Appleby, public domain). What goes in is keyed, so nobody outside can
/// aim at what comes out.
pub fn mix(mut x: u64) -> u64 {
    x = (x ^ x >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    x = (x ^ x >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ x >> 33
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 5] = ["t1", "t2", "t3", "t4", "t5"];

    fn pool(names: &[&str]) -> Heirs {
        Heirs::new(FleetKey::new(std::array::from_fn(|n| n as u8)), names.iter().copied())
    }

    fn heirs<'n>(names: &[&'n str], owner: &str, port: u16) -> Vec<&'n str> {
        let owner = names.iter().position(|name| *name == owner).unwrap_or(usize::MAX);
        let (vip, client) = ("192.0.2.69".parse().unwrap(), "198.51.100.7".parse().unwrap());
        pool(names).of(vip, client, port, owner).into_iter().flatten().map(|at| names[at]).collect()
    }

    #[test]
    fn the_contract_between_directors_and_servers_is_kept() {
        let said: Vec<String> = (2000..2006).map(|port| heirs(&NAMES, "t1", port).join(" ")).collect();
        assert_eq!(said, VECTORS_V4);
        let six = |port| pool(&NAMES).of("2001:db8:69::1".parse().unwrap(), "2001:db8::7".parse().unwrap(), port, 2);
        assert_eq!((2000..2004).map(six).collect::<Vec<_>>(), VECTORS_V6);
    }

    #[test]
    fn the_order_in_the_list_and_the_loss_of_another_change_nothing() {
        for port in 1000..1200 {
            let both = heirs(&NAMES, "t1", port);
            assert_eq!(both, heirs(&["t5", "t3", "t1", "t2", "t4"], "t1", port));
            let others: Vec<&str> = NAMES.into_iter().filter(|name| !both.contains(name) && *name != "t1").collect();
            let fewer: Vec<&str> = NAMES.into_iter().filter(|name| *name != others[0]).collect();
            assert_eq!(both, heirs(&fewer, "t1", port), "{} was no heir", others[0]);
            let first_gone: Vec<&str> = NAMES.into_iter().filter(|name| *name != both[0]).collect();
            assert_eq!(heirs(&first_gone, "t1", port)[0], both[1], "the second heir comes up");
        }
    }

    #[test]
    fn whoever_took_over_finds_the_other_heir_and_the_next_in_rank() {
        let (vip, client) = ("192.0.2.69".parse().unwrap(), "198.51.100.7".parse().unwrap());
        let pool = pool(&NAMES);
        for port in 1000..1200 {
            let [first, second] = pool.of(vip, client, port, 0).map(Option::unwrap);
            let after_first = pool.besides(vip, client, port, [0, first]);
            assert_eq!(after_first[0], Some(second));
            assert_eq!(pool.besides(vip, client, port, [second, 0]), [Some(first), after_first[1]]);
            assert!(after_first[1].is_some_and(|third| ![0, first, second].contains(&third)));
        }
    }

    #[test]
    fn a_small_pool_has_fewer_heirs_and_the_owner_is_never_its_own() {
        assert_eq!(heirs(&["t1"], "t1", 2000), Vec::<&str>::new());
        assert_eq!(heirs(&["t1", "t2"], "t1", 2000), ["t2"]);
        assert!((0..500).all(|port| !heirs(&NAMES, "t3", port).contains(&"t3")));
        assert!(pool(&[]).is_empty() && pool(&NAMES).len() == 5);
    }

    #[test]
    fn the_transfers_of_one_owner_are_spread_evenly_over_the_others() {
        let mut first = std::collections::BTreeMap::new();
        (0..40_000).for_each(|port| *first.entry(heirs(&NAMES, "t1", port)[0]).or_insert(0) += 1);
        assert!(first.len() == 4 && first.values().all(|n| (9_600..10_400).contains(n)), "{first:?}");
    }

    /// Computed by a program that shares no code with this one.
    const VECTORS_V4: [&str; 6] = ["t4 t5", "t4 t3", "t3 t4", "t2 t4", "t3 t2", "t5 t4"];
    const VECTORS_V6: [[Option<usize>; 2]; 4] = [[Some(1), Some(3)], [Some(4), Some(0)], [Some(0), Some(3)], [Some(4), Some(3)]];
}

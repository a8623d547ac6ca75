//! Who takes a backend's place: heirs of the transfers of one that is down, and the next choice for a request that one leaves unanswered.

use super::backend::BackendId;
use super::tid::TidMap;
use guideway_hash::FleetKey;
use guideway_hash::heirs::Heirs;
use std::collections::HashMap;
use std::net::IpAddr;

/// The backends that a pool is configured with, in the order of its `members`, as heirs of one another.
#[derive(Clone, Debug)]
pub struct Succession {
    /// Its servers go on with one another's transfers.
    pub takeover: bool,
    heirs: Heirs,
    members: Box<[Member]>,
    /// By backend number: its place among the members, or that of the member that has its name now.
    places: Box<[u16]>,
    /// Server port → backend that is down; only with takeover, else such ports are in the pool's own map.
    orphans: Option<TidMap>,
}

/// A configured backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its number.
    pub id: BackendId,
    /// It gets new flows.
    pub open: bool,
}

/// No member has this place.
const NOWHERE: u16 = u16::MAX;

impl Succession {
    /// The succession in a pool with these members, by name. `former` are backends that left the configuration, by name too; `orphans` the ranges of
    /// those that are down.
    pub fn new<'a>(
        key: FleetKey,
        takeover: bool,
        members: &[(&'a str, Member)],
        former: impl IntoIterator<Item = (&'a str, BackendId)>,
        orphans: &[((u16, u16), BackendId)],
    ) -> Succession {
        let by_name: HashMap<&str, u16> = members.iter().zip(0..).map(|((name, _), at)| (*name, at)).collect();
        let named: Vec<(BackendId, u16)> = members
            .iter()
            .map(|(name, member)| (*name, member.id))
            .chain(former)
            .filter_map(|(name, id)| Some((id, *by_name.get(name)?)))
            .collect();
        let mut places = vec![NOWHERE; named.iter().map(|(id, _)| usize::from(*id) + 1).max().unwrap_or(0)];
        for (id, place) in named {
            places[usize::from(id)] = place;
        }
        Succession {
            takeover,
            heirs: Heirs::new(key, members.iter().map(|(name, _)| *name)),
            members: members.iter().map(|(_, member)| *member).collect(),
            places: places.into(),
            orphans: (takeover && !orphans.is_empty()).then(|| TidMap::new(orphans.iter().copied())),
        }
    }

    /// The backend that is down and in whose TID range `port` lies.
    pub fn orphaned(&self, port: u16) -> Option<BackendId> {
        self.orphans.as_ref()?.owner(port)
    }

    /// The configured backends, sorted by name.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The heirs of the transfer between `client`:`port` and `vip`, the best first, when `owner` is its server; without one, when nobody is known to be.
    pub fn heirs(&self, vip: IpAddr, client: IpAddr, port: u16, owner: Option<BackendId>) -> impl Iterator<Item = Member> {
        let place = owner.and_then(|id| self.places.get(usize::from(id))).copied().unwrap_or(NOWHERE);
        self.heirs.of(vip, client, port, usize::from(place)).into_iter().flatten().filter_map(|at| self.members.get(at).copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 4] = ["t1", "t2", "t3", "t4"];

    fn member(id: BackendId) -> Member {
        Member { id, open: true }
    }

    fn first(succession: &Succession, port: u16, owner: Option<BackendId>) -> Vec<BackendId> {
        succession.heirs("192.0.2.69".parse().unwrap(), "198.51.100.7".parse().unwrap(), port, owner).map(|m| m.id).collect()
    }

    #[test]
    fn heirs_are_those_of_the_contract_whatever_the_numbers() {
        let key = FleetKey::new(std::array::from_fn(|n| n as u8));
        let members: Vec<_> = NAMES.iter().zip([40, 7, 300, 2]).map(|(name, id)| (*name, member(id))).collect();
        let succession = Succession::new(key, true, &members, [("t2", 9), ("t0", 11)], &[((20_000, 20_999), 40)]);
        let heirs = Heirs::new(key, NAMES);
        for port in 1024..1100 {
            let told = |owner| heirs.of("192.0.2.69".parse().unwrap(), "198.51.100.7".parse().unwrap(), port, owner);
            let ids = |told: [Option<usize>; 2]| told.into_iter().flatten().map(|at| members[at].1.id).collect::<Vec<_>>();
            assert_eq!(first(&succession, port, Some(300)), ids(told(2)));
            assert_eq!(first(&succession, port, Some(9)), ids(told(1)), "a former t2 is no heir of itself");
            assert_eq!(first(&succession, port, Some(11)), ids(told(usize::MAX)), "nobody has its name now");
            assert_eq!(first(&succession, port, None), ids(told(usize::MAX)));
            assert_eq!(first(&succession, port, Some(60_000)), ids(told(usize::MAX)));
        }
        assert_eq!((succession.orphaned(20_500), succession.orphaned(21_000)), (Some(40), None));
        let without = Succession::new(key, false, &members, [], &[((20_000, 20_999), 40)]);
        assert_eq!(without.orphaned(20_500), None);
    }
}

//! The successors of a backend: they take over its transfers when it is down, and requests that it leaves unanswered.

use super::backend::BackendId;
use super::tid::TidMap;
use guideway_hash::FleetKey;
use guideway_hash::successors::SuccessorRanking;
use std::collections::HashMap;
use std::net::IpAddr;

/// The backends that a pool is configured with, in the order of its `members`, as successors of one another.
#[derive(Clone, Debug)]
pub struct Successors {
    /// Its servers take over one another's transfers.
    pub takeover: bool,
    ranking: SuccessorRanking,
    members: Box<[Member]>,
    /// By backend number: its index among the members, or that of the member that has its name now.
    member_index: Box<[u16]>,
    /// Server port → backend that is down. Only with takeover; else such ports are in the pool's own map.
    orphans: Option<TidMap>,
}

/// A configured backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its number.
    pub id: BackendId,
    /// It gets new flows.
    pub accepts_new: bool,
}

/// No member has this index.
const NOT_A_MEMBER: u16 = u16::MAX;

impl Successors {
    /// The successors in a pool with these members, by name. `former` are backends that left the configuration, by name; `orphans` the TID ranges of those that
    /// are down.
    pub fn new<'a>(
        key: FleetKey,
        takeover: bool,
        members: &[(&'a str, Member)],
        former: impl IntoIterator<Item = (&'a str, BackendId)>,
        orphans: &[((u16, u16), BackendId)],
    ) -> Successors {
        let by_name: HashMap<&str, u16> = members.iter().zip(0..).map(|((name, _), at)| (*name, at)).collect();
        let named: Vec<(BackendId, u16)> = members
            .iter()
            .map(|(name, member)| (*name, member.id))
            .chain(former)
            .filter_map(|(name, id)| Some((id, *by_name.get(name)?)))
            .collect();
        let mut member_index = vec![NOT_A_MEMBER; named.iter().map(|(id, _)| usize::from(*id) + 1).max().unwrap_or(0)];
        for (id, place) in named {
            member_index[usize::from(id)] = place;
        }
        Successors {
            takeover,
            ranking: SuccessorRanking::new(key, members.iter().map(|(name, _)| *name)),
            members: members.iter().map(|(_, member)| *member).collect(),
            member_index: member_index.into(),
            orphans: (takeover && !orphans.is_empty()).then(|| TidMap::new(orphans.iter().copied())),
        }
    }

    /// Returns the backend that is down and whose TID range contains `port`.
    pub fn orphaned(&self, port: u16) -> Option<BackendId> {
        self.orphans.as_ref()?.owner(port)
    }

    /// The configured backends, sorted by name.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Returns the successors of the transfer between `client`:`port` and `vip` whose server is `owner`, the best first. `None` when the owner is unknown.
    pub fn candidates(&self, vip: IpAddr, client: IpAddr, port: u16, owner: Option<BackendId>) -> impl Iterator<Item = Member> {
        let place = owner.and_then(|id| self.member_index.get(usize::from(id))).copied().unwrap_or(NOT_A_MEMBER);
        self.ranking
            .for_transfer(vip, client, port, usize::from(place))
            .into_iter()
            .flatten()
            .filter_map(|at| self.members.get(at).copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 4] = ["t1", "t2", "t3", "t4"];

    fn member(id: BackendId) -> Member {
        Member { id, accepts_new: true }
    }

    fn first(successors: &Successors, port: u16, owner: Option<BackendId>) -> Vec<BackendId> {
        successors.candidates("192.0.2.69".parse().unwrap(), "198.51.100.7".parse().unwrap(), port, owner).map(|m| m.id).collect()
    }

    #[test]
    fn successors_are_those_of_the_contract_whatever_the_numbers() {
        let key = FleetKey::new(std::array::from_fn(|n| n as u8));
        let members: Vec<_> = NAMES.iter().zip([40, 7, 300, 2]).map(|(name, id)| (*name, member(id))).collect();
        let successors = Successors::new(key, true, &members, [("t2", 9), ("t0", 11)], &[((20_000, 20_999), 40)]);
        let ranking = SuccessorRanking::new(key, NAMES);
        for port in 1024..1100 {
            let ranked = |owner| ranking.for_transfer("192.0.2.69".parse().unwrap(), "198.51.100.7".parse().unwrap(), port, owner);
            let ids = |ranked: [Option<usize>; 2]| ranked.into_iter().flatten().map(|at| members[at].1.id).collect::<Vec<_>>();
            assert_eq!(first(&successors, port, Some(300)), ids(ranked(2)));
            assert_eq!(first(&successors, port, Some(9)), ids(ranked(1)), "a former t2 is no successor of itself");
            assert_eq!(first(&successors, port, Some(11)), ids(ranked(usize::MAX)), "no backend has its name now");
            assert_eq!(first(&successors, port, None), ids(ranked(usize::MAX)));
            assert_eq!(first(&successors, port, Some(60_000)), ids(ranked(usize::MAX)));
        }
        assert_eq!((successors.orphaned(20_500), successors.orphaned(21_000)), (Some(40), None));
        let without = Successors::new(key, false, &members, [], &[((20_000, 20_999), 40)]);
        assert_eq!(without.orphaned(20_500), None);
    }
}

//! The servers of a pool that take over each other's transfers.

use guideway_hash::FleetKey;
use guideway_hash::successors::SuccessorRanking;
use std::net::{IpAddr, SocketAddr};

/// One server of the pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name as a backend.
    pub name: String,
    /// Address for checkpoints.
    pub checkpoint_address: SocketAddr,
    /// First and last source port of its answers.
    pub tid_range: (u16, u16),
}

/// All servers of the pool, this one included. Replaced as a whole when the pool changes.
#[derive(Clone, Debug)]
pub struct Membership {
    key: FleetKey,
    other_keys: Vec<FleetKey>,
    members: Vec<Member>,
    me: usize,
    successors: SuccessorRanking,
}

impl Membership {
    /// Creates the membership of these servers in a fleet with this key; `me` is the name of this server. `None` if it is not among them.
    pub fn new(key: FleetKey, members: Vec<Member>, me: &str) -> Option<Membership> {
        let me = members.iter().position(|member| member.name == me)?;
        let successors = SuccessorRanking::new(key, members.iter().map(|member| member.name.as_str()));
        Some(Membership { key, other_keys: Vec::new(), members, me, successors })
    }

    /// Adds previous or next keys of the fleet: checkpoints signed with them are accepted.
    #[must_use]
    pub fn accepting_keys(mut self, keys: impl IntoIterator<Item = FleetKey>) -> Membership {
        self.other_keys.extend(keys);
        self
    }

    /// Returns the fleet's key.
    pub fn key(&self) -> FleetKey {
        self.key
    }

    /// Returns the other accepted keys when this membership replaces `before`, whose key comes first.
    pub fn accepted_keys(&self, before: &Membership) -> Vec<FleetKey> {
        let mut accepted_keys: Vec<FleetKey> = Vec::new();
        for key in std::iter::once(&before.key).chain(&self.other_keys) {
            if *key != self.key && !accepted_keys.contains(key) {
                accepted_keys.push(*key);
            }
        }
        accepted_keys
    }

    /// Returns the servers, this one included.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Returns this server.
    pub fn me(&self) -> &Member {
        &self.members[self.me]
    }

    /// Returns the other servers.
    pub fn others(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().enumerate().filter(|(at, _)| *at != self.me).map(|(_, member)| member)
    }

    /// Returns the index of the server with this name.
    pub fn find(&self, name: &[u8]) -> Option<usize> {
        self.members.iter().position(|member| member.name.as_bytes() == name)
    }

    /// Returns the index of the server that owns a port.
    pub fn owner(&self, tid: u16) -> Option<usize> {
        self.members.iter().position(|member| (member.tid_range.0..=member.tid_range.1).contains(&tid))
    }

    /// Returns whether a port belongs to another server.
    pub fn is_foreign(&self, tid: u16) -> bool {
        self.owner(tid).is_some_and(|owner| owner != self.me)
    }

    /// Returns whether a port belongs to this server.
    pub fn is_own(&self, tid: u16) -> bool {
        self.owner(tid) == Some(self.me)
    }

    /// Returns the peers that get checkpoints of a transfer, and queries about an unknown one: the two servers of highest weight besides this server and
    /// the owner of the transfer's port. For the owner these are the successors; for the first successor, the second one and the next in rank. So a
    /// transfer survives a second failure.
    pub fn checkpoint_peers(&self, vip: IpAddr, client: SocketAddr, tid: u16) -> [Option<usize>; 2] {
        self.checkpoint_peers_by(&self.successors, vip, client, tid)
    }

    /// As [`Membership::checkpoint_peers`], with another ranking of the same servers in the same order.
    pub fn checkpoint_peers_by(&self, successors: &SuccessorRanking, vip: IpAddr, client: SocketAddr, tid: u16) -> [Option<usize>; 2] {
        match self.owner(tid) {
            Some(owner) => successors.excluding(vip, client.ip(), client.port(), [owner, self.me]),
            None => [None; 2],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn membership(me: &str) -> Membership {
        let member = |n: u16| Member {
            name: format!("t{n}"),
            checkpoint_address: SocketAddr::from(([10, 0, 2, n as u8], super::super::PORT)),
            tid_range: (20_000 + n * 10, 20_000 + n * 10 + 1),
        };
        Membership::new(FleetKey::new([7; 16]), (1..=4).map(member).collect(), me).unwrap()
    }

    #[test]
    fn ports_name_their_owners() {
        let membership = membership("t2");
        assert_eq!((membership.owner(20_021), membership.owner(20_022), membership.owner(20_040)), (Some(1), None, Some(3)));
        assert!(
            membership.is_own(20_020) && !membership.is_foreign(20_020) && membership.is_foreign(20_011) && !membership.is_foreign(20_012)
        );
        assert_eq!(membership.others().map(|member| member.name.as_str()).collect::<Vec<_>>(), ["t1", "t3", "t4"]);
        assert!(Membership::new(FleetKey::new([7; 16]), Vec::new(), "t1").is_none());
    }

    #[test]
    fn checkpoints_go_to_the_next_servers_in_rank() {
        let (vip, client) = ("192.0.2.69".parse().unwrap(), "198.51.100.7:2000".parse().unwrap());
        let [first, second] = membership("t1").checkpoint_peers(vip, client, 20_010).map(Option::unwrap);
        assert!(first != 0 && second != 0);
        let name = |at: usize| format!("t{}", at + 1);
        assert_eq!(membership(&name(first)).checkpoint_peers(vip, client, 20_010)[0], Some(second));
        assert_eq!(membership(&name(second)).checkpoint_peers(vip, client, 20_010)[0], Some(first));
        assert_eq!(membership("t1").checkpoint_peers(vip, client, 9), [None; 2], "a port without an owner");
    }
}

//! The servers of a pool that go on with one another's transfers.

use guideway_hash::FleetKey;
use guideway_hash::heirs::Heirs;
use std::net::{IpAddr, SocketAddr};

/// One server of the pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name as a backend.
    pub name: String,
    /// Where it takes notes.
    pub notes: SocketAddr,
    /// The ports that its answers come from, first and last.
    pub tids: (u16, u16),
}

/// All servers of the pool, this one among them. Swapped whole when the pool changes.
#[derive(Clone, Debug)]
pub struct Plan {
    key: FleetKey,
    also: Vec<FleetKey>,
    members: Vec<Member>,
    me: usize,
    heirs: Heirs,
}

impl Plan {
    /// The pool with these servers in a fleet with this key, of which the one called `me` is this one. Nothing when it is not among them.
    pub fn new(key: FleetKey, members: Vec<Member>, me: &str) -> Option<Plan> {
        let me = members.iter().position(|member| member.name == me)?;
        let heirs = Heirs::new(key, members.iter().map(|member| member.name.as_str()));
        Some(Plan { key, also: Vec::new(), members, me, heirs })
    }

    /// Keys that the fleet had or is going to have: notes signed with them are believed.
    #[must_use]
    pub fn believing(mut self, keys: impl IntoIterator<Item = FleetKey>) -> Plan {
        self.also.extend(keys);
        self
    }

    /// The fleet's key.
    pub fn key(&self) -> FleetKey {
        self.key
    }

    /// The other keys that signed notes are believed under when this plan takes the place of the one `before`, whose key comes first.
    pub fn believed(&self, before: &Plan) -> Vec<FleetKey> {
        let mut believed: Vec<FleetKey> = Vec::new();
        for key in std::iter::once(&before.key).chain(&self.also) {
            if *key != self.key && !believed.contains(key) {
                believed.push(*key);
            }
        }
        believed
    }

    /// The servers, this one included.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// This server.
    pub fn me(&self) -> &Member {
        &self.members[self.me]
    }

    /// The servers besides this one.
    pub fn others(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().enumerate().filter(|(at, _)| *at != self.me).map(|(_, member)| member)
    }

    /// The place of the server of this name.
    pub fn find(&self, name: &[u8]) -> Option<usize> {
        self.members.iter().position(|member| member.name.as_bytes() == name)
    }

    /// The place of the server that a port belongs to.
    pub fn owner(&self, tid: u16) -> Option<usize> {
        self.members.iter().position(|member| (member.tids.0..=member.tids.1).contains(&tid))
    }

    /// Whether a port belongs to another server.
    pub fn is_foreign(&self, tid: u16) -> bool {
        self.owner(tid).is_some_and(|owner| owner != self.me)
    }

    /// Whether a port belongs to this server.
    pub fn is_own(&self, tid: u16) -> bool {
        self.owner(tid) == Some(self.me)
    }

    /// Whom this server tells of a transfer that it serves, and asks about one that it does not know: of the servers that are neither itself nor the owner
    /// of the transfer's port the two of highest weight. For the owner those are the heirs; for the first heir the second and the next in rank, so that a
    /// second death is survived, too.
    pub fn confidants(&self, vip: IpAddr, client: SocketAddr, tid: u16) -> [Option<usize>; 2] {
        self.confidants_by(&self.heirs, vip, client, tid)
    }

    /// The same where these, made of the same servers in the same order, say who the heirs are.
    pub fn confidants_by(&self, heirs: &Heirs, vip: IpAddr, client: SocketAddr, tid: u16) -> [Option<usize>; 2] {
        match self.owner(tid) {
            Some(owner) => heirs.besides(vip, client.ip(), client.port(), [owner, self.me]),
            None => [None; 2],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(me: &str) -> Plan {
        let member = |n: u16| Member {
            name: format!("t{n}"),
            notes: SocketAddr::from(([10, 0, 2, n as u8], super::super::PORT)),
            tids: (20_000 + n * 10, 20_000 + n * 10 + 1),
        };
        Plan::new(FleetKey::new([7; 16]), (1..=4).map(member).collect(), me).unwrap()
    }

    #[test]
    fn ports_name_their_owners() {
        let plan = plan("t2");
        assert_eq!((plan.owner(20_021), plan.owner(20_022), plan.owner(20_040)), (Some(1), None, Some(3)));
        assert!(plan.is_own(20_020) && !plan.is_foreign(20_020) && plan.is_foreign(20_011) && !plan.is_foreign(20_012));
        assert_eq!(plan.others().map(|member| member.name.as_str()).collect::<Vec<_>>(), ["t1", "t3", "t4"]);
        assert!(Plan::new(FleetKey::new([7; 16]), Vec::new(), "t1").is_none());
    }

    #[test]
    fn whoever_serves_a_transfer_tells_the_others_who_may_have_to() {
        let (vip, client) = ("192.0.2.69".parse().unwrap(), "198.51.100.7:2000".parse().unwrap());
        let [first, second] = plan("t1").confidants(vip, client, 20_010).map(Option::unwrap);
        assert!(first != 0 && second != 0);
        let name = |at: usize| format!("t{}", at + 1);
        assert_eq!(plan(&name(first)).confidants(vip, client, 20_010)[0], Some(second));
        assert_eq!(plan(&name(second)).confidants(vip, client, 20_010)[0], Some(first));
        assert_eq!(plan("t1").confidants(vip, client, 9), [None; 2], "nobody's port");
    }
}

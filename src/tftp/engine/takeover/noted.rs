//! What other servers were told of a transfer, and what they are known to know of it.

use super::About;
use crate::takeover::link::Link;
use guideway_packet::time::Time;

/// What other servers were told of a transfer.
#[derive(Clone, Copy, Debug)]
pub struct Noted {
    /// Places of who was told.
    pub to: [Option<usize>; 2],
    /// The block that each of them is known to know of; nothing of one that has not answered yet.
    pub(super) has: [Option<u64>; 2],
    /// Places of who was told before and is no heir any more. They are to forget it as soon as an heir knows it.
    pub(super) former: [Option<usize>; 4],
    /// When.
    pub at: Time,
}

impl Noted {
    /// Servers have other places now. Of one that is gone nothing is expected.
    pub fn moved(&mut self, to: &[Option<usize>]) {
        for (told, has) in self.to.iter_mut().zip(&mut self.has) {
            *told = told.and_then(|place| to.get(place).copied().flatten());
            *has = has.filter(|_| told.is_some());
        }
        self.former = self.former.map(|peer| peer.and_then(|place| to.get(place).copied().flatten()));
    }

    /// What is noted of a transfer that these are to be told of, and who know it up to this block already. The `others` may know an earlier state of it, or
    /// an earlier transfer of its name.
    pub(super) fn new(to: [Option<usize>; 2], known: Option<u64>, others: [Option<usize>; 2], at: Time) -> Noted {
        let nobody = Noted { to: [None; 2], has: [None; 2], former: [others[0], others[1], None, None], at };
        Noted { has: to.map(|peer| known.filter(|_| peer.is_some())), ..nobody.followed_by(to, at) }
    }

    /// The same when these are the heirs from now on.
    pub(super) fn followed_by(self, to: [Option<usize>; 2], at: Time) -> Noted {
        let has = |peer: Option<usize>| self.to.iter().position(|told| *told == peer && told.is_some()).and_then(|at| self.has[at]);
        let mut former = [None; 4];
        let told = self.to.into_iter().chain(self.former).filter(|peer| peer.is_some() && !to.contains(peer));
        former.iter_mut().zip(told).for_each(|(place, peer)| *place = peer);
        Noted { to, has: to.map(has), former, at }
    }

    /// Whether everybody who was told, and is not gone, knows of it.
    pub(super) fn is_known(&self, links: &[Link<About>], now: Time) -> bool {
        self.to.iter().zip(self.has).all(|(to, has)| has.is_some() || to.is_none_or(|peer| links[peer].is_gone(now)))
    }
}

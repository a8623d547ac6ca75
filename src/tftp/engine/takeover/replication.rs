//! Replication state of a transfer: checkpoints sent to other servers, and their confirmations.

use super::sent::SentMessage;
use crate::takeover::link::Link;
use guideway_packet::time::Time;

/// Replication state of a transfer.
#[derive(Clone, Copy, Debug)]
pub struct Replication {
    /// Indices of the successors.
    pub peers: [Option<usize>; 2],
    /// The block that each of them has confirmed; `None` without a confirmation.
    pub(super) confirmed: [Option<u64>; 2],
    /// Indices of former successors. They drop the transfer as soon as a current successor has confirmed it.
    pub(super) former_peers: [Option<usize>; 4],
    /// Time of the last checkpoint.
    pub at: Time,
}

impl Replication {
    /// Maps peers to their new indices, without those that have left the pool.
    pub fn remap(&mut self, to: &[Option<usize>]) {
        for (informed, confirmed) in self.peers.iter_mut().zip(&mut self.confirmed) {
            *informed = informed.and_then(|index| to.get(index).copied().flatten());
            *confirmed = confirmed.filter(|_| informed.is_some());
        }
        self.former_peers = self.former_peers.map(|peer| peer.and_then(|index| to.get(index).copied().flatten()));
    }

    /// Creates the state of a transfer whose successors `peers` have confirmed the block `known`. The `others` may have an earlier checkpoint of it, or one of
    /// an earlier transfer with its id.
    pub(super) fn new(peers: [Option<usize>; 2], known: Option<u64>, others: [Option<usize>; 2], at: Time) -> Replication {
        let none = Replication { peers: [None; 2], confirmed: [None; 2], former_peers: [others[0], others[1], None, None], at };
        Replication { confirmed: peers.map(|peer| known.filter(|_| peer.is_some())), ..none.with_peers(peers, at) }
    }

    /// Returns the state with new successors.
    pub(super) fn with_peers(self, peers: [Option<usize>; 2], at: Time) -> Replication {
        let confirmed = |peer: Option<usize>| {
            self.peers.iter().position(|informed| *informed == peer && informed.is_some()).and_then(|at| self.confirmed[at])
        };
        let mut former_peers = [None; 4];
        let informed = self.peers.into_iter().chain(self.former_peers).filter(|peer| peer.is_some() && !peers.contains(peer));
        former_peers.iter_mut().zip(informed).for_each(|(index, peer)| *index = peer);
        Replication { peers, confirmed: peers.map(confirmed), former_peers, at }
    }

    /// Returns whether all responsive successors have confirmed.
    pub(super) fn is_confirmed(&self, links: &[Link<SentMessage>], now: Time) -> bool {
        self.peers
            .iter()
            .zip(self.confirmed)
            .all(|(peer, confirmed)| confirmed.is_some() || peer.is_none_or(|peer| links[peer].has_timed_out(now)))
    }
}

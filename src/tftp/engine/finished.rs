//! Clients whose file is stored and whose last acknowledgement may be lost: they send the last block again and must not be told that nobody
//! knows them ("the host sending the final ACK will wait for a while before terminating", RFC 1350 section 6).

use super::session::Peer;
use guideway_packet::time::Time;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// How long they are remembered, and how many.
const REMEMBERED: Duration = Duration::from_secs(30);
const MOST: usize = 1024;

/// The last blocks of transfers that have just ended.
#[derive(Debug, Default)]
pub struct Finished {
    blocks: HashMap<Peer, (u16, Time)>,
    order: VecDeque<(Peer, Time)>,
}

impl Finished {
    /// This client's last block had this number.
    pub fn note(&mut self, peer: Peer, block: u16, now: Time) {
        self.blocks.insert(peer, (block, now));
        self.order.push_back((peer, now));
        while self.order.len() > MOST || self.order.front().is_some_and(|(_, at)| now - *at > REMEMBERED) {
            let Some((peer, at)) = self.order.pop_front() else { return };
            // It may have finished another one since.
            if self.blocks.get(&peer).is_some_and(|(_, noted)| *noted == at) {
                self.blocks.remove(&peer);
            }
        }
    }

    /// Whether this is such a block.
    pub fn is_last(&self, peer: &Peer, block: u16, now: Time) -> bool {
        self.blocks.get(peer).is_some_and(|&(last, at)| last == block && now - at <= REMEMBERED)
    }

    /// The client begins something else.
    pub fn forget(&mut self, peer: &Peer) {
        self.blocks.remove(peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    fn peer(port: u16) -> Peer {
        Peer { client: SocketAddr::from(([10, 0, 0, 1], port)), vip: [192, 0, 2, 69].into(), port: 0 }
    }

    #[test]
    fn last_blocks_are_known_for_a_while() {
        let mut finished = Finished::default();
        let at = |seconds: u64| Time(seconds * 1_000_000_000);
        finished.note(peer(1), 7, at(0));
        assert!(finished.is_last(&peer(1), 7, at(30)));
        assert!(!finished.is_last(&peer(1), 8, at(1)) && !finished.is_last(&peer(2), 7, at(1)) && !finished.is_last(&peer(1), 7, at(31)));
        finished.note(peer(1), 9, at(20));
        finished.note(peer(2), 1, at(40));
        assert!(finished.is_last(&peer(1), 9, at(45)), "the second file's block outlives the note of the first");
        finished.forget(&peer(2));
        assert!(!finished.is_last(&peer(2), 1, at(41)));
    }

    #[test]
    fn memory_is_bounded() {
        let mut finished = Finished::default();
        (0..5000).for_each(|port| finished.note(peer(port), 1, Time(u64::from(port))));
        assert!(finished.order.len() <= MOST && finished.blocks.len() <= MOST);
    }
}

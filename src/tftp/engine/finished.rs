//! Finished uploads. If the last acknowledgement was lost, the client sends the last block again, which must not be answered with an unknown
//! TID ("the host sending the final ACK will wait for a while before terminating", RFC 1350 section 6).

use super::peer::Peer;
use guideway_packet::time::Time;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// How long finished uploads are remembered, and how many.
const TTL: Duration = Duration::from_secs(30);
const MAX_ENTRIES: usize = 1024;

/// The last blocks of uploads that have just finished.
#[derive(Debug, Default)]
pub struct Finished {
    blocks: HashMap<Peer, (u16, Time)>,
    order: VecDeque<(Peer, Time)>,
}

impl Finished {
    /// Records the number of a client's last block.
    pub fn insert(&mut self, peer: Peer, block: u16, now: Time) {
        self.blocks.insert(peer, (block, now));
        self.order.push_back((peer, now));
        while self.order.len() > MAX_ENTRIES || self.order.front().is_some_and(|(_, at)| now - *at > TTL) {
            let Some((peer, at)) = self.order.pop_front() else { return };
            // The client may have finished another upload since.
            if self.blocks.get(&peer).is_some_and(|(_, recorded)| *recorded == at) {
                self.blocks.remove(&peer);
            }
        }
    }

    /// Returns whether this is the last block of a finished upload.
    pub fn is_last(&self, peer: &Peer, block: u16, now: Time) -> bool {
        self.blocks.get(peer).is_some_and(|&(last, at)| last == block && now - at <= TTL)
    }

    /// Removes a client that starts another transfer.
    pub fn forget(&mut self, peer: &Peer) {
        self.blocks.remove(peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    fn peer(port: u16) -> Peer {
        Peer { client: SocketAddr::from(([10, 0, 0, 1], port)), vip: [192, 0, 2, 69].into(), socket: 0 }
    }

    #[test]
    fn last_blocks_are_remembered_for_a_while() {
        let mut finished = Finished::default();
        let at = |seconds: u64| Time(seconds * 1_000_000_000);
        finished.insert(peer(1), 7, at(0));
        assert!(finished.is_last(&peer(1), 7, at(30)));
        assert!(!finished.is_last(&peer(1), 8, at(1)) && !finished.is_last(&peer(2), 7, at(1)) && !finished.is_last(&peer(1), 7, at(31)));
        finished.insert(peer(1), 9, at(20));
        finished.insert(peer(2), 1, at(40));
        assert!(finished.is_last(&peer(1), 9, at(45)), "the block of the second file outlives the entry of the first");
        finished.forget(&peer(2));
        assert!(!finished.is_last(&peer(2), 1, at(41)));
    }

    #[test]
    fn memory_is_bounded() {
        let mut finished = Finished::default();
        (0..5000).for_each(|port| finished.insert(peer(port), 1, Time(u64::from(port))));
        assert!(finished.order.len() <= MAX_ENTRIES && finished.blocks.len() <= MAX_ENTRIES);
    }
}

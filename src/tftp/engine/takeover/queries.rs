//! Open queries and their answers.

use super::super::key::Key;
use super::super::peer::{Peer, Route};
use super::sent::SentMessage;
use crate::takeover::Id;
use crate::takeover::link::Link;
use guideway_packet::time::Time;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// Servers of one query: two, and two more while the fleet changes its key.
pub(super) const MAX_QUERIED: usize = 4;
/// Largest number of open queries.
const MAX_OPEN: usize = 8192;
/// Largest number of queries per second. A restarted server with ten thousand transfers has all of them back within a second.
const MAX_QUERIES_PER_SECOND: u64 = 10_000;
/// Time after which a query is retransmitted.
pub(super) const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// A query and its answers.
pub struct OwnershipQuery {
    pub id: Id,
    pub peer: Peer,
    pub route: Route,
    /// Number of the client's last ACK, if one was received.
    pub block: Option<u16>,
    /// Queried peers in pairs: the successors by the active key, and by another key. `unknown` marks those that do not know the transfer.
    pub queried: [Option<usize>; MAX_QUERIED],
    pub unknown: [bool; MAX_QUERIED],
    /// Sequence numbers of the last messages to them.
    pub sequence_numbers: [Option<u64>; MAX_QUERIED],
    /// Whether the second pair is queried, too: at once for an ownership check, else when the first pair does not know the transfer.
    pub second_pair: bool,
    pub tries: u8,
    /// When the query was last sent.
    pub at: Time,
    /// For an ownership check: the transfer that is served here, and its block.
    pub ownership: Option<(Key, u64)>,
}

impl OwnershipQuery {
    /// Returns whether all queried peers have answered that they do not know it.
    pub fn all_answered(&self) -> bool {
        let queried = self.queried.iter().zip(self.unknown).take(if self.second_pair { MAX_QUERIED } else { 2 });
        queried.clone().all(|(queried, unknown)| queried.is_none() || unknown)
    }

    /// Returns whether it is certain that no peer has continued the transfer: one of each pair has confirmed that, and the others are unresponsive. A server
    /// that continues a transfer sends checkpoints to the other one of its pair.
    pub fn has_quorum(&self, unresponsive: impl Fn(usize) -> bool) -> bool {
        let pairs = self.queried.chunks(2).zip(self.unknown.chunks(2));
        let mut queried = pairs.filter(|(queried, _)| queried.iter().any(Option::is_some)).peekable();
        queried.peek().is_some()
            && queried.all(|(queried, unknown)| {
                unknown.contains(&true)
                    && queried.iter().zip(unknown).all(|(queried, unknown)| *unknown || queried.is_none_or(&unresponsive))
            })
    }

    /// Includes the second pair, if there is one and it was not queried yet.
    pub fn include_second_pair(&mut self, now: Time) -> bool {
        let more =
            !self.second_pair && self.queried.iter().zip(self.unknown).skip(2).any(|(queried, unknown)| queried.is_some() && !unknown);
        if more {
            (self.second_pair, self.tries, self.at) = (true, 1, now);
        }
        more
    }

    /// Returns the peers to query now, each once.
    pub fn current_peers(&self) -> Vec<usize> {
        let mut peers: Vec<usize> = self.queried.into_iter().take(if self.second_pair { MAX_QUERIED } else { 2 }).flatten().collect();
        peers.sort_unstable();
        peers.dedup();
        peers
    }

    /// Stops waiting for the answer of this peer, or of all peers.
    pub fn close(&mut self, links: &mut [Link<SentMessage>], peer: Option<usize>) {
        for (queried, number) in
            self.queried.iter().zip(&mut self.sequence_numbers).filter(|(queried, _)| peer.is_none() || **queried == peer)
        {
            if let (Some(queried), Some(number)) = (queried, number.take()) {
                let _about = links[*queried].acknowledge(number);
            }
        }
    }
}

/// The open queries.
#[derive(Default)]
pub struct OwnershipQueries {
    pub open: HashMap<u64, OwnershipQuery>,
    by_peer: HashMap<Peer, u64>,
    pub due: VecDeque<(Time, u64)>,
    /// Remaining queries of the rate limit, and when that was computed.
    budget: u64,
    refilled_at: Option<Time>,
}

impl OwnershipQueries {
    /// Returns when the next query is due.
    pub fn due(&self) -> Option<Time> {
        self.due.front().map(|(at, _)| *at)
    }

    /// Takes one query from the rate limit; `false` if there is none left.
    pub fn take_budget(&mut self, now: Time) -> bool {
        match self.refilled_at {
            None => (self.budget, self.refilled_at) = (MAX_QUERIES_PER_SECOND, Some(now)),
            Some(at) => {
                let earned = (now - at).as_micros() as u64 * MAX_QUERIES_PER_SECOND / 1_000_000;
                if earned > 0 {
                    (self.budget, self.refilled_at) = ((self.budget + earned).min(MAX_QUERIES_PER_SECOND), Some(now));
                }
            }
        }
        let may = self.budget > 0 && self.open.len() < MAX_OPEN;
        self.budget -= u64::from(may);
        may
    }

    /// Inserts a query with a time-out.
    pub fn insert(&mut self, nonce: u64, query: OwnershipQuery, now: Time) {
        self.by_peer.insert(query.peer, nonce);
        self.open.insert(nonce, query);
        self.due.push_back((now.plus(RETRY_INTERVAL), nonce));
    }

    /// Returns the query about this peer.
    pub fn about(&mut self, peer: &Peer) -> Option<&mut OwnershipQuery> {
        self.by_peer.get(peer).and_then(|nonce| self.open.get_mut(nonce))
    }

    /// Maps peers to their new indices. Peers that have left the pool are no longer waited for.
    pub fn remap(&mut self, to: &[Option<usize>]) {
        for query in self.open.values_mut() {
            for (queried, number) in query.queried.iter_mut().zip(&mut query.sequence_numbers) {
                *queried = queried.and_then(|index| to.get(index).copied().flatten());
                *number = number.filter(|_| queried.is_some());
            }
        }
    }

    pub fn remove(&mut self, nonce: u64, links: &mut [Link<SentMessage>]) -> Option<OwnershipQuery> {
        let mut query = self.open.remove(&nonce)?;
        query.close(links, None);
        self.by_peer.remove(&query.peer);
        Some(query)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    #[test]
    fn closed_queries_are_not_retransmitted() {
        let (at, later) = (Time(1_000_000_000), Time(9_000_000_000));
        let mut links: Vec<Link<SentMessage>> = (1..=3).map(Link::new).collect();
        let client = SocketAddr::from(([198, 51, 100, 7], 2070));
        let vip = "192.0.2.69".parse().unwrap();
        let mut queries = OwnershipQueries::default();
        let [one, two] = [2, 0].map(|peer| Some(links[peer].record_sent(SentMessage::Query(7), at).number));
        let query = OwnershipQuery {
            id: Id { vip, client, tid: 20_001 },
            peer: Peer { client, vip, socket: 0 },
            route: Route { socket: 0, to: client, from: None },
            block: Some(1),
            queried: [Some(2), Some(0), None, None],
            unknown: [false; MAX_QUERIED],
            sequence_numbers: [one, two, None, None],
            second_pair: false,
            tries: 1,
            at,
            ownership: None,
        };
        queries.insert(7, query, at);
        queries.open.get_mut(&7).unwrap().close(&mut links, Some(2));
        assert_eq!(links.iter_mut().map(|link| link.overdue(later).len()).collect::<Vec<_>>(), [1, 0, 0], "one peer has not answered yet");
        links[0].record_sent(SentMessage::Hello, at);
        let number = links[0].record_sent(SentMessage::Query(7), at).number;
        queries.open.get_mut(&7).unwrap().sequence_numbers[1] = Some(number);
        queries.remove(7, &mut links);
        assert!(matches!(links[0].overdue(later)[..], [SentMessage::Hello]), "the query is closed");
    }

    #[test]
    fn one_of_each_pair_has_to_answer() {
        let client = SocketAddr::from(([198, 51, 100, 7], 2070));
        let vip = "192.0.2.69".parse().unwrap();
        let query = |queried: [Option<usize>; MAX_QUERIED], unknown: [bool; MAX_QUERIED]| OwnershipQuery {
            id: Id { vip, client, tid: 20_001 },
            peer: Peer { client, vip, socket: 0 },
            route: Route { socket: 0, to: client, from: None },
            block: Some(1),
            queried,
            unknown,
            sequence_numbers: [None; MAX_QUERIED],
            second_pair: true,
            tries: 1,
            at: Time(0),
            ownership: None,
        };
        let (yes, no) = (true, false);
        let pair = [Some(1), Some(2), None, None];
        let both = [Some(1), Some(2), Some(3), Some(1)];
        let enough = |queried, unknown, unresponsive: &[usize]| query(queried, unknown).has_quorum(|peer| unresponsive.contains(&peer));
        assert!(enough(pair, [yes, no, no, no], &[2]) && !enough(pair, [yes, no, no, no], &[]) && !enough(pair, [no; 4], &[1, 2]));
        assert!(!enough(both, [no, no, yes, no], &[1, 2]), "no peer of the first pair has answered, and one may have continued");
        assert!(enough(both, [no, yes, yes, no], &[1]) && enough(both, [yes; 4], &[]) && !enough([None; 4], [no; 4], &[]));
        let mut narrow = OwnershipQuery { second_pair: false, ..query(both, [yes, yes, no, yes]) };
        assert!(narrow.all_answered() && narrow.current_peers() == [1, 2]);
        assert!(
            narrow.include_second_pair(Time(0))
                && !narrow.all_answered()
                && narrow.current_peers() == [1, 2, 3]
                && !narrow.include_second_pair(Time(0))
        );
        assert!(!OwnershipQuery { second_pair: false, ..query(pair, [yes, yes, no, no]) }.include_second_pair(Time(0)));
    }
}

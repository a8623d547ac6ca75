//! The table of an event loop's sessions, with their timers: by key, by peer, and by client; which of them are half-open, and which have just ended.

use super::index_list::IndexList;
use super::key::Key;
use super::peer::Peer;
use super::session::Session;
use super::timer_wheel::TimerWheel;
use guideway_packet::time::Time;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::Duration;

/// Ended transfers that are remembered.
const RECENT: usize = 256;

/// The sessions.
pub struct Sessions {
    /// Generation and session of each index. A session is absent while it is worked on.
    slots: Vec<(u32, Option<Box<Session>>)>,
    free: Vec<u32>,
    /// Those whose client has not answered, oldest first.
    half_open: IndexList,
    peers: HashMap<Peer, Key>,
    /// The transfer of the last packet.
    latest: Option<Key>,
    per_client: HashMap<IpAddr, usize>,
    timers: TimerWheel<Key>,
    /// Hashes of peers whose transfer has just ended. Late packets of them are not unknown TIDs.
    recently_ended: Box<[u64; RECENT]>,
    hasher: RandomState,
}

impl Sessions {
    /// Creates an empty table, whose timers begin now.
    pub fn new(now: Time) -> Sessions {
        Sessions {
            slots: Vec::new(),
            free: Vec::new(),
            half_open: IndexList::default(),
            peers: HashMap::new(),
            latest: None,
            per_client: HashMap::new(),
            timers: TimerWheel::new(now),
            recently_ended: Box::new([0; RECENT]),
            hasher: RandomState::new(),
        }
    }

    /// Inserts a session and returns its key. It is half-open.
    pub fn insert(&mut self, session: Session) -> Key {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, None));
            self.slots.len() as u32 - 1
        });
        let slot = &mut self.slots[index as usize];
        let key = Key { index, generation: slot.0 };
        self.peers.insert(session.peer, key);
        *self.per_client.entry(session.peer.client.ip()).or_default() += 1;
        slot.1 = Some(Box::new(session));
        self.half_open.push(index);
        key
    }

    /// Removes a session that was [taken](Sessions::take).
    pub fn remove(&mut self, key: Key, peer: &Peer) {
        self.half_open.remove(key.index);
        self.peers.remove(peer);
        if let Some(count) = self.per_client.get_mut(&peer.client.ip()) {
            *count -= 1;
            if *count == 0 {
                self.per_client.remove(&peer.client.ip());
            }
        }
        self.slots[key.index as usize].0 = key.generation.wrapping_add(1);
        self.free.push(key.index);
    }

    /// Returns the session with this key.
    pub fn get(&mut self, key: Key) -> Option<&mut Session> {
        let slot = self.slots.get_mut(key.index as usize)?;
        if slot.0 == key.generation { slot.1.as_deref_mut() } else { None }
    }

    /// Takes a session out of the table, to work on it.
    pub fn take(&mut self, key: Key) -> Option<Box<Session>> {
        self.slots.get_mut(key.index as usize).filter(|slot| slot.0 == key.generation)?.1.take()
    }

    /// Puts a session back, with a timer for its deadline.
    pub fn put_back(&mut self, key: Key, mut session: Box<Session>, deadline: Time) {
        if session.scheduled.is_none_or(|tick| TimerWheel::<Key>::too_late(tick, deadline)) {
            session.scheduled = Some(self.timers.schedule(deadline, key));
        }
        self.slots[key.index as usize].1 = Some(session);
    }

    /// Returns the key of the transfer with this peer.
    pub fn key_of(&self, peer: &Peer) -> Option<Key> {
        self.peers.get(peer).copied()
    }

    /// As [`Sessions::key_of`], for a packet. Often it is the transfer of the previous packet.
    pub fn find(&mut self, peer: &Peer) -> Option<Key> {
        if let Some(key) = self.latest
            && self.get(key).is_some_and(|session| session.peer == *peer)
        {
            return Some(key);
        }
        self.latest = self.key_of(peer);
        self.latest
    }

    /// Returns the transfer that [`Sessions::find`] last found.
    pub fn latest(&self) -> Option<Key> {
        self.latest
    }

    /// Returns the number of sessions.
    pub fn len(&self) -> usize {
        self.peers.len()
    }

    /// Returns the number of sessions with a client address.
    pub fn of_client(&self, client: IpAddr) -> usize {
        self.per_client.get(&client).copied().unwrap_or(0)
    }

    /// Returns all keys.
    pub fn keys(&self) -> Vec<Key> {
        self.peers.values().copied().collect()
    }

    /// Returns all sessions but the one that is worked on.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Session> {
        self.slots.iter_mut().filter_map(|(_, session)| session.as_deref_mut())
    }

    /// Records that the client of a session has answered: it is no longer half-open.
    pub fn established(&mut self, key: Key) {
        self.half_open.remove(key.index);
    }

    /// Returns the oldest half-open session.
    pub fn oldest_half_open(&self) -> Option<Key> {
        self.half_open.oldest().map(|index| Key { index, generation: self.slots[index as usize].0 })
    }

    /// Returns the number of half-open sessions.
    pub fn half_open(&self) -> usize {
        self.half_open.len()
    }

    /// Records that a transfer with this peer has just ended.
    pub fn set_just_ended(&mut self, peer: &Peer) {
        let hash = self.hasher.hash_one(peer);
        self.recently_ended[hash as usize % RECENT] = hash;
    }

    /// Forgets that a transfer with this peer has just ended.
    pub fn clear_just_ended(&mut self, peer: &Peer) {
        let hash = self.hasher.hash_one(peer);
        let recent = &mut self.recently_ended[hash as usize % RECENT];
        *recent = if *recent == hash { 0 } else { *recent };
    }

    /// Returns whether a transfer with this peer has just ended.
    pub fn has_just_ended(&self, peer: &Peer) -> bool {
        let hash = self.hasher.hash_one(peer);
        self.recently_ended[hash as usize % RECENT] == hash
    }

    /// Moves the keys of sessions with an expired timer to `due`.
    pub fn expired(&mut self, now: Time, due: &mut Vec<(u64, Key)>) {
        self.timers.advance(now, due);
        // A timer that was moved to an earlier time leaves a stale entry.
        due.retain(|&(tick, key)| self.get(key).is_some_and(|session| session.scheduled == Some(tick)));
    }

    /// Returns the time until a timer may expire; `None` without timers.
    pub fn until_next(&mut self, now: Time) -> Option<Duration> {
        self.timers.until_next(now)
    }

    /// Checks that the indices agree.
    #[cfg(test)]
    pub fn check(&self, max_per_client: usize) {
        assert_eq!(self.per_client.values().sum::<usize>(), self.len());
        assert!(self.per_client.values().all(|count| (1..=max_per_client).contains(count)));
        assert_eq!(self.slots.iter().filter(|(_, session)| session.is_some()).count(), self.len());
        assert!(self.half_open.len() <= self.len() && self.free.len() + self.len() == self.slots.len());
    }
}

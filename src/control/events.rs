//! What has happened, in order, for who wants to follow it: a ring of bounded length that nobody who reads can hold up.

use serde::Serialize;
use serde_json::Value;
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::watch;

/// Events that are kept for readers who come, or come back, later.
pub const KEPT: usize = 1024;
/// Ids of one second of a process's start: so many events a second would have to happen before ids of two starts could meet.
const IDS_PER_SECOND: u64 = 1 << 20;

/// What kind of thing happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The workers read another set.
    SetChanged,
    /// The store's newest set cannot be used by this director.
    SetRefused,
    /// The file was taken over, or refused.
    Reload,
    /// Next hops were resolved or lost.
    Neighbours,
    /// The store cannot be read any more.
    StoreAway,
    /// The store can be read again.
    StoreBack,
    /// Several clients wait for a backend.
    Suspected,
}

impl Kind {
    /// All of them.
    pub const ALL: &[Kind] =
        &[Kind::SetChanged, Kind::SetRefused, Kind::Reload, Kind::Neighbours, Kind::StoreAway, Kind::StoreBack, Kind::Suspected];

    /// The name in JSON and in `event:`.
    pub fn name(self) -> &'static str {
        match self {
            Kind::SetChanged => "set_changed",
            Kind::SetRefused => "set_refused",
            Kind::Reload => "reload",
            Kind::Neighbours => "neighbours",
            Kind::StoreAway => "store_away",
            Kind::StoreBack => "store_back",
            Kind::Suspected => "suspected",
        }
    }
}

/// One thing that happened.
#[derive(Clone, Debug, Serialize)]
pub struct Event {
    /// Counts up; also over restarts of the director.
    pub id: u64,
    /// Seconds since 1970-01-01 UTC.
    pub time: f64,
    /// Generation of the set that the workers read then.
    pub generation: u64,
    /// What happened.
    #[serde(rename = "event")]
    pub kind: Kind,
    /// What there is to say of it.
    pub data: Value,
}

/// The ring.
#[derive(Debug)]
pub struct Events {
    ring: Mutex<VecDeque<Event>>,
    /// Id of the newest event, or what it would be had there been one.
    newest: watch::Sender<u64>,
}

/// What a reader gets who has read up to some event.
#[derive(Debug)]
pub enum Next {
    /// The next event.
    Event(Box<Event>),
    /// Nothing yet.
    Later,
    /// The ring does not reach back that far: the oldest event that is left has this id.
    Lost(u64),
}

impl Default for Events {
    fn default() -> Self {
        Events { ring: Mutex::default(), newest: watch::Sender::new(now() as u64 * IDS_PER_SECOND) }
    }
}

impl Events {
    /// Notes what happened.
    pub fn note(&self, generation: u64, kind: Kind, data: Value) {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let id = *self.newest.borrow() + 1;
        if ring.len() == KEPT {
            ring.pop_front();
        }
        ring.push_back(Event { id, time: now(), generation, kind, data });
        self.newest.send_replace(id);
    }

    /// Id of the newest event; changes with every event.
    pub fn newest(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    /// What comes after the event `seen`.
    pub fn after(&self, seen: u64) -> Next {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = *self.newest.borrow();
        if seen == newest {
            return Next::Later;
        }
        let oldest = ring.front().map_or(newest + 1, |event| event.id);
        match seen.checked_add(1).and_then(|next| next.checked_sub(oldest)) {
            Some(place) => match usize::try_from(place).ok().and_then(|place| ring.get(place)) {
                Some(event) => Next::Event(Box::new(event.clone())),
                // An id from the future: of a director whose clock was ahead.
                None => Next::Lost(oldest),
            },
            None => Next::Lost(oldest),
        }
    }
}

/// Seconds since 1970-01-01 UTC.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_millis() as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn events_come_in_order_and_who_is_too_late_is_told() {
        let events = Events::default();
        let start = *events.newest().borrow();
        assert!(matches!(events.after(start), Next::Later));
        for number in 0..KEPT + 10 {
            events.note(7, Kind::Reload, json!({"number": number}));
        }
        let Next::Lost(oldest) = events.after(start) else { panic!("the first ten are gone") };
        assert_eq!(oldest, start + 11);
        let mut seen = oldest - 1;
        for number in 10..KEPT + 10 {
            let Next::Event(event) = events.after(seen) else { panic!("{number} is there") };
            assert_eq!((event.id, &event.data, event.generation), (seen + 1, &json!({"number": number}), 7));
            seen = event.id;
        }
        assert!(matches!(events.after(seen), Next::Later));
        assert!(matches!(events.after(seen + 5), Next::Lost(_)), "of another director");
        assert!(matches!(events.after(u64::MAX), Next::Lost(_)));
    }
}

//! The events of a director in order: a ring of bounded length that no reader can block.

use guideway_api::event::{Event, EventData};
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::watch;

/// Number of events that are kept for readers that connect later.
pub const CAPACITY: usize = 1024;
/// Ids reserved for each second since 1970: ids of two starts can only meet above this rate of events.
const IDS_PER_SECOND: u64 = 1 << 20;

/// The ring of events.
#[derive(Debug)]
pub struct Events {
    ring: Mutex<VecDeque<Event>>,
    /// Id of the newest event; before the first event, one less than its id.
    newest: watch::Sender<u64>,
}

/// The answer to a reader that has read up to some event.
#[derive(Debug)]
pub enum NextEvent {
    /// The next event.
    Event(Box<Event>),
    /// There is no newer event yet.
    Pending,
    /// Events between are no longer kept; the oldest that is kept has this id.
    Lost(u64),
}

impl Default for Events {
    fn default() -> Self {
        Events { ring: Mutex::default(), newest: watch::Sender::new(now() as u64 * IDS_PER_SECOND) }
    }
}

impl Events {
    /// Records an event.
    pub fn record(&self, generation: u64, data: EventData) {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let id = *self.newest.borrow() + 1;
        if ring.len() == CAPACITY {
            ring.pop_front();
        }
        ring.push_back(Event { id, time: now(), generation, data });
        self.newest.send_replace(id);
    }

    /// Returns the id of the newest event; it changes with every event.
    pub fn newest(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    /// Returns the event after `seen`.
    pub fn after(&self, seen: u64) -> NextEvent {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = *self.newest.borrow();
        if seen == newest {
            return NextEvent::Pending;
        }
        let oldest = ring.front().map_or(newest + 1, |event| event.id);
        match seen.checked_add(1).and_then(|next| next.checked_sub(oldest)) {
            Some(place) => match usize::try_from(place).ok().and_then(|place| ring.get(place)) {
                Some(event) => NextEvent::Event(Box::new(event.clone())),
                // An id from the future: of a director whose clock was ahead.
                None => NextEvent::Lost(oldest),
            },
            None => NextEvent::Lost(oldest),
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
    use guideway_api::event::RejectedState;

    fn rejected(number: usize) -> EventData {
        EventData::StateRejected(RejectedState { refused: number as u64, why: "not usable".to_owned() })
    }

    #[test]
    fn events_come_in_order_and_a_late_reader_learns_of_missed_ones() {
        let events = Events::default();
        let start = *events.newest().borrow();
        assert!(matches!(events.after(start), NextEvent::Pending));
        for number in 0..CAPACITY + 10 {
            events.record(7, rejected(number));
        }
        let NextEvent::Lost(oldest) = events.after(start) else { panic!("the first ten are gone") };
        assert_eq!(oldest, start + 11);
        let mut seen = oldest - 1;
        for number in 10..CAPACITY + 10 {
            let NextEvent::Event(event) = events.after(seen) else { panic!("{number} is there") };
            assert_eq!((event.id, &event.data, event.generation), (seen + 1, &rejected(number), 7));
            seen = event.id;
        }
        assert!(matches!(events.after(seen), NextEvent::Pending));
        assert!(matches!(events.after(seen + 5), NextEvent::Lost(_)), "of another director");
        assert!(matches!(events.after(u64::MAX), NextEvent::Lost(_)));
    }
}

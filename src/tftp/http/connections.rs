//! Limits of connections, in total and by client address.

use crate::client_prefix::{PREFIX6, client_prefix};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Connections beyond the limits that get an answer all the same: 503.
const MAX_REFUSED: usize = 256;

/// Limits of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest number of connections.
    pub connections: usize,
    /// Largest number of connections with one client address; in IPv6, with the first 64 bits of it.
    pub per_client: usize,
    /// Longest time in which a client sends no request.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { connections: 4096, per_client: 64, idle: Duration::from_secs(20) }
    }
}

/// The open connections.
pub(super) struct Connections {
    limits: Limits,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    served: usize,
    refused: usize,
    by_client: HashMap<IpAddr, usize>,
}

/// The place of a connection, until it is dropped.
pub(super) enum Place {
    /// Its requests are served.
    Served(#[expect(dead_code)] ServedPlace),
    /// Its first request is answered with 503.
    Refused(#[expect(dead_code)] RefusedPlace),
}

pub(super) struct ServedPlace(Arc<Connections>, IpAddr);

pub(super) struct RefusedPlace(Arc<Connections>);

impl Connections {
    pub(super) fn new(limits: Limits) -> Connections {
        Connections { limits, table: Mutex::default() }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place for a connection of `client`, if there is any.
    pub(super) fn enter(self: &Arc<Connections>, client: IpAddr) -> Option<Place> {
        let client = client_prefix(client, 32, PREFIX6);
        let mut table = self.table();
        let of_client = table.by_client.get(&client).copied().unwrap_or_default();
        if table.served < self.limits.connections && of_client < self.limits.per_client {
            table.served += 1;
            table.by_client.insert(client, of_client + 1);
            return Some(Place::Served(ServedPlace(Arc::clone(self), client)));
        }
        if table.refused >= MAX_REFUSED {
            return None;
        }
        table.refused += 1;
        Some(Place::Refused(RefusedPlace(Arc::clone(self))))
    }
}

impl Drop for ServedPlace {
    fn drop(&mut self) {
        let mut table = self.0.table();
        table.served -= 1;
        match table.by_client.get_mut(&self.1) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(table.by_client.remove(&self.1)),
        }
    }
}

impl Drop for RefusedPlace {
    fn drop(&mut self) {
        self.0.table().refused -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_limited_by_client_and_in_total_and_given_back() {
        let connections = Arc::new(Connections::new(Limits { connections: 3, per_client: 2, ..Limits::default() }));
        let client = |n: u8| IpAddr::from([10, 0, 0, n]);
        let served = |n| matches!(connections.enter(client(n)), Some(Place::Served(_)));
        let held: Vec<_> = [1, 1, 2].map(|n| connections.enter(client(n))).into();
        assert!(held.iter().all(|place| matches!(place, Some(Place::Served(_)))));
        assert!(!served(1) && !served(3), "full for the client, and for all");
        drop(held);
        let first = connections.enter(client(1));
        assert!(served(1) && served(3));
        let refused: Vec<_> = (0..=MAX_REFUSED).map(|_| [connections.enter(client(1)), connections.enter(client(1))]).collect();
        assert!(refused.iter().flatten().any(Option::is_none), "those that are refused are limited, too");
        drop((first, refused));
        let neighbours: Vec<_> = (0..3).map(|n| connections.enter(format!("2001:db8::{n}").parse().unwrap())).collect();
        assert!(matches!(neighbours[..], [Some(Place::Served(_)), Some(Place::Served(_)), Some(Place::Refused(_))]), "one host");
        drop(neighbours);
        let table = connections.table();
        assert_eq!((table.served, table.refused, table.by_client.len()), (0, 0, 0));
    }
}

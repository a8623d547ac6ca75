//! Places for the connections of a listener. Every connection is accepted, and gets a place at once; when there are too many, the peer
//! address with the most connections loses its oldest. Clients that authenticate move to places that strangers cannot take.
//!
//! So a flood from one address ends only connections of that address, and a flood from many ends the oldest first: a client needs a place
//! without authentication only for the few milliseconds until its request is read.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::oneshot;

/// Number of places.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For connections that have not authenticated.
    pub strangers: usize,
    /// For connections that have.
    pub authenticated: usize,
    /// How long a connection may stay without authentication; `None` where there is none.
    pub authenticate_within: Option<Duration>,
}

/// The places of one listener.
#[derive(Debug)]
pub struct Connections {
    limits: Limits,
    places: Mutex<Places>,
}

#[derive(Debug, Default)]
struct Places {
    next_id: u64,
    /// Each in order of arrival.
    strangers: VecDeque<Taken>,
    authenticated: VecDeque<Taken>,
}

/// A connection in its place; dropping it ends the connection.
#[derive(Debug)]
struct Taken {
    id: u64,
    peer: IpAddr,
    _end: oneshot::Sender<()>,
}

/// The place of one connection, left when dropped. As a future it ends when another connection needs the place.
#[derive(Debug)]
pub struct Place {
    ticket: Ticket,
    evicted: oneshot::Receiver<()>,
}

/// Names the place of a connection, for its requests.
#[derive(Clone, Debug)]
pub struct Ticket {
    connections: Arc<Connections>,
    id: u64,
}

impl Connections {
    /// Creates the places.
    pub fn new(limits: Limits) -> Arc<Connections> {
        Arc::new(Connections { limits, places: Mutex::default() })
    }

    /// Gives a place to a new connection; another connection may lose its own.
    pub fn admit(self: &Arc<Self>, peer: IpAddr) -> Place {
        let (end, evicted) = oneshot::channel();
        let mut places = self.places();
        let id = places.next_id;
        places.next_id += 1;
        places.strangers.push_back(Taken { id, peer: site(peer), _end: end });
        shrink(&mut places.strangers, self.limits.strangers);
        Place { ticket: Ticket { connections: self.clone(), id }, evicted }
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Returns the name of this place.
    pub fn ticket(&self) -> Ticket {
        self.ticket.clone()
    }

    /// Runs the connection `work` until it ends, another connection needs the place, or its client has not authenticated in time.
    pub async fn run(self, work: impl Future<Output = ()>) {
        let ticket = self.ticket();
        let late = async {
            match ticket.connections.limits.authenticate_within {
                Some(time) => tokio::time::sleep(time).await,
                None => std::future::pending().await,
            }
            if ticket.is_authenticated() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = work => {}
            () = self => {}
            () = late => {}
        }
    }
}

impl Future for Place {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.evicted).poll(context).map(drop)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = self.ticket.connections.places();
        let id = self.ticket.id;
        places.strangers.retain(|taken| taken.id != id);
        places.authenticated.retain(|taken| taken.id != id);
    }
}

impl Ticket {
    /// Moves the connection to the places of clients that authenticated.
    pub fn authenticate(&self) {
        let mut places = self.connections.places();
        let Some(at) = places.strangers.iter().position(|taken| taken.id == self.id) else { return };
        if let Some(taken) = places.strangers.remove(at) {
            places.authenticated.push_back(taken);
            shrink(&mut places.authenticated, self.connections.limits.authenticated);
        }
    }

    fn is_authenticated(&self) -> bool {
        self.connections.places().authenticated.iter().any(|taken| taken.id == self.id)
    }
}

/// Ends connections beyond `limit`: the oldest one of the peer with the most.
fn shrink(taken: &mut VecDeque<Taken>, limit: usize) {
    while taken.len() > limit {
        let mut counts: HashMap<IpAddr, usize> = HashMap::new();
        taken.iter().for_each(|taken| *counts.entry(taken.peer).or_default() += 1);
        let most = counts.values().copied().max();
        let Some(at) = taken.iter().position(|taken| counts.get(&taken.peer).copied() == most) else { return };
        taken.remove(at);
    }
}

/// Returns what counts as one peer: an IPv4 address, or an IPv6 network of 64 bits, in which a host may choose any address.
pub fn site(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections(authenticate_within: Option<Duration>) -> Arc<Connections> {
        Connections::new(Limits { strangers: 4, authenticated: 2, authenticate_within })
    }

    fn is_evicted(place: &mut Place) -> bool {
        !matches!(place.evicted.try_recv(), Err(oneshot::error::TryRecvError::Empty))
    }

    #[test]
    fn the_address_with_the_most_connections_loses_its_oldest() {
        let connections = connections(None);
        let admit = |address: &str| connections.admit(address.parse().unwrap());
        let mut other = admit("192.0.2.1");
        let mut flood: Vec<Place> = (0..20).map(|_| admit("192.0.2.2")).collect();
        assert!(!is_evicted(&mut other), "another address keeps its place");
        let left: Vec<bool> = flood.iter_mut().map(|place| !is_evicted(place)).collect();
        assert_eq!(left.iter().rposition(|left| !left), Some(16), "the newest three stay: {left:?}");
        let mut mapped = admit("::ffff:192.0.2.2");
        assert!(is_evicted(&mut flood[17]) && !is_evicted(&mut mapped) && !is_evicted(&mut other), "the same address in another form");
        drop(flood);
        let mut networks: Vec<Place> = (0..9).map(|n| admit(&format!("2001:db8::{n}"))).collect();
        assert!(
            !is_evicted(&mut other) && networks.iter_mut().map(is_evicted).filter(|evicted| *evicted).count() == 7,
            "one /64 is one peer"
        );
    }

    #[test]
    fn strangers_never_take_the_place_of_a_client_that_authenticated() {
        let connections = connections(None);
        let mut client = connections.admit("192.0.2.1".parse().unwrap());
        client.ticket().authenticate();
        let mut flood: Vec<Place> = (0..100u8).map(|n| connections.admit(IpAddr::from([198, 51, 100, n]))).collect();
        assert!(!is_evicted(&mut client));
        assert_eq!(flood.iter_mut().map(is_evicted).filter(|evicted| !evicted).count(), 4);
        drop((client, flood));
        let places = connections.places();
        assert!(places.strangers.is_empty() && places.authenticated.is_empty(), "every place is left in the end: {places:?}");
    }

    #[tokio::test]
    async fn who_does_not_authenticate_in_time_is_left() {
        let time = Duration::from_millis(20);
        let connections = connections(Some(time));
        connections.admit("192.0.2.1".parse().unwrap()).run(std::future::pending()).await;
        let place = connections.admit("192.0.2.1".parse().unwrap());
        place.ticket().authenticate();
        let mut done = false;
        place
            .run(async {
                tokio::time::sleep(time * 3).await;
                done = true;
            })
            .await;
        assert!(done, "who has may stay");
    }
}

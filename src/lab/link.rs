//! A link that is not perfect: delay, loss, duplicates and reordering, made by the test router from a seed (not every kernel has netem).

use super::ledger::Ledger;
use arc_swap::ArcSwap;
use guideway_host::error::{Doing, Error};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What befalls packets of a link, in each direction by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Conditions {
    /// How long each packet travels.
    pub delay: Duration,
    /// Share of packets lost, 0–1.
    pub loss: f64,
    /// Share of packets that arrive twice, 0–1.
    pub duplicate: f64,
    /// Share of packets held back until those behind them have passed, 0–1.
    pub reorder: f64,
}

/// How much longer a packet travels that is to be overtaken, and how far behind its first copy a duplicate comes at most.
const HELD_BACK: Duration = Duration::from_millis(2);

/// The link between the clients and the router.
#[derive(Clone, Debug)]
pub struct Link {
    /// What befalls packets now.
    pub conditions: Arc<ArcSwap<Conditions>>,
    /// What chance is made from.
    pub seed: u64,
    /// Who sees every packet, before and behind the link.
    pub ledger: Arc<Ledger>,
    /// The interface by which packets for the clients come to the router.
    pub fabric: String,
    /// The networks that the clients are in.
    pub clients: Vec<ipnet::IpNet>,
    /// Packets lost so far.
    pub lost: Arc<AtomicU64>,
    /// Packets doubled so far.
    pub doubled: Arc<AtomicU64>,
}

impl Link {
    /// A link seen by `ledger`.
    pub fn new(conditions: Conditions, seed: u64, ledger: Arc<Ledger>, fabric: &str, clients: Vec<ipnet::IpNet>) -> Self {
        let conditions = Arc::new(ArcSwap::from_pointee(conditions));
        Link { conditions, seed, ledger, fabric: fabric.to_owned(), clients, lost: Arc::default(), doubled: Arc::default() }
    }

    /// Whether `address` is a client's.
    pub fn is_client(&self, address: IpAddr) -> bool {
        self.clients.iter().any(|net| net.contains(&address))
    }

    /// Starts one direction; what has travelled is handed to `out`, on a thread of its own.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn lane(&self, name: &str, out: impl FnMut(&mut Vec<u8>) + Send + 'static) -> Result<Lane, Error> {
        let queue = Arc::new(Queue::default());
        let taken = Arc::clone(&queue);
        let body = move || taken.drain(out);
        std::thread::Builder::new().name(name.to_owned()).spawn(body).doing(|| format!("starting the thread {name}"))?;
        let seed = name.bytes().fold(self.seed, |seed, byte| seed.rotate_left(7) ^ u64::from(byte));
        Ok(Lane { link: self.clone(), chance: fastrand::Rng::with_seed(seed), queue, number: 0 })
    }
}

/// One direction of a link.
#[derive(Debug)]
pub struct Lane {
    link: Link,
    chance: fastrand::Rng,
    queue: Arc<Queue>,
    number: u64,
}

impl Lane {
    /// Sends a packet along it.
    pub fn send(&mut self, packet: Vec<u8>) {
        let conditions = **self.link.conditions.load();
        // Always as many draws, so that one condition does not change what chance makes of another.
        let [loss, double, overtaken] = [self.chance.f64(), self.chance.f64(), self.chance.f64()];
        if loss < conditions.loss {
            self.link.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let mut due = Instant::now() + conditions.delay;
        if double < conditions.duplicate {
            self.link.doubled.fetch_add(1, Ordering::Relaxed);
            let behind = Duration::from_micros(self.chance.u64(0..=HELD_BACK.as_micros() as u64));
            self.hold(due + behind, packet.clone());
        }
        if overtaken < conditions.reorder {
            due += HELD_BACK;
        }
        self.hold(due, packet);
    }

    fn hold(&mut self, due: Instant, packet: Vec<u8>) {
        self.number += 1;
        self.queue.push(Held { due, number: self.number, packet });
    }
}

/// A packet on its way. The earliest comes first, and of two that are due at once the one that was sent first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Held {
    due: Instant,
    number: u64,
    packet: Vec<u8>,
}

#[derive(Debug, Default)]
struct Queue {
    held: Mutex<BinaryHeap<Reverse<Held>>>,
    came: Condvar,
}

impl Queue {
    fn push(&self, held: Held) {
        let mut all = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let first = all.peek().is_none_or(|Reverse(next)| held.due < next.due);
        all.push(Reverse(held));
        if first {
            self.came.notify_one();
        }
    }

    /// Hands over packets when they are due; ends with the process.
    fn drain(&self, mut out: impl FnMut(&mut Vec<u8>)) {
        let mut all = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let now = Instant::now();
            match all.peek().map(|Reverse(next)| next.due) {
                None => all = self.came.wait(all).unwrap_or_else(PoisonError::into_inner),
                Some(due) if due > now => all = self.came.wait_timeout(all, due - now).unwrap_or_else(PoisonError::into_inner).0,
                Some(_) => {
                    if let Some(Reverse(mut held)) = all.pop() {
                        drop(all);
                        out(&mut held.packet);
                        all = self.held.lock().unwrap_or_else(PoisonError::into_inner);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    /// What comes out of a lane of these conditions for so many numbered packets, and what was lost and doubled.
    fn travel(conditions: Conditions, seed: u64, packets: u16) -> (Vec<u16>, u64, u64) {
        let ledger = Arc::new(Ledger::new("192.0.2.69".parse().unwrap()));
        let link = Link::new(conditions, seed, ledger, "fabric", Vec::new());
        let (sender, out) = mpsc::channel();
        let hand_over = move |packet: &mut Vec<u8>| sender.send(u16::from_be_bytes([packet[0], packet[1]])).unwrap();
        let mut lane = link.lane("test", hand_over).unwrap();
        (0..packets).for_each(|number| lane.send(number.to_be_bytes().to_vec()));
        let (lost, doubled) = (link.lost.load(Ordering::Relaxed), link.doubled.load(Ordering::Relaxed));
        let expected = u64::from(packets) - lost + doubled;
        let come = (0..expected).map(|_| out.recv_timeout(Duration::from_secs(10)).unwrap()).collect();
        (come, lost, doubled)
    }

    #[test]
    fn a_perfect_link_keeps_packets_and_their_order() {
        let conditions = Conditions { delay: Duration::from_millis(3), ..Conditions::default() };
        let since = Instant::now();
        let (come, lost, doubled) = travel(conditions, 1, 500);
        assert!(come.iter().copied().eq(0..500) && (lost, doubled) == (0, 0));
        assert!(since.elapsed() >= conditions.delay);
    }

    #[test]
    fn chance_is_as_large_as_asked_and_comes_from_the_seed() {
        let conditions = Conditions { loss: 0.1, duplicate: 0.05, reorder: 0.2, ..Conditions::default() };
        let (come, lost, doubled) = travel(conditions, 7, 10_000);
        // Binomial: five standard deviations of 1000 lost are 150, of 450 doubled 104.
        assert!((850..=1150).contains(&lost) && (346..=554).contains(&doubled), "{lost} lost, {doubled} doubled");
        assert!(come.windows(2).any(|pair| pair[0] > pair[1]), "some are overtaken");
        let again = travel(conditions, 7, 10_000);
        assert_eq!((again.1, again.2), (lost, doubled));
        assert_ne!(travel(conditions, 8, 10_000).1, lost);
    }
}

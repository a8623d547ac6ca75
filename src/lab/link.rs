//! A link that is not perfect: delay, loss, duplicates and reordering, made by the test router from a seed (not every kernel has netem).

use super::transfer_log::TransferLog;
use arc_swap::ArcSwap;
use guideway_host::error::{Context, Error};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What befalls packets of a link, in each direction by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LinkConditions {
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
const REORDER_DELAY: Duration = Duration::from_millis(2);

/// The link between the clients and the router.
#[derive(Clone, Debug)]
pub struct Link {
    /// What befalls packets now.
    pub conditions: Arc<ArcSwap<LinkConditions>>,
    /// The seed of losses, duplicates and reordering.
    pub seed: u64,
    /// Who sees every packet, before and behind the link.
    pub transfer_log: Arc<TransferLog>,
    /// The interface by which packets for the clients come to the router.
    pub fabric: String,
    /// The networks that the clients are in.
    pub clients: Vec<ipnet::IpNet>,
    /// Packets lost so far.
    pub lost: Arc<AtomicU64>,
    /// Packets doubled so far.
    pub duplicated: Arc<AtomicU64>,
}

impl Link {
    /// A link whose packets `transfer_log` sees.
    pub fn new(conditions: LinkConditions, seed: u64, transfer_log: Arc<TransferLog>, fabric: &str, clients: Vec<ipnet::IpNet>) -> Self {
        let conditions = Arc::new(ArcSwap::from_pointee(conditions));
        Link { conditions, seed, transfer_log, fabric: fabric.to_owned(), clients, lost: Arc::default(), duplicated: Arc::default() }
    }

    /// Whether `address` is a client's.
    pub fn is_client(&self, address: IpAddr) -> bool {
        self.clients.iter().any(|net| net.contains(&address))
    }

    /// Starts one direction; what has travelled is handed to `out`, on a thread of its own.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn direction(&self, name: &str, out: impl FnMut(&mut Vec<u8>) + Send + 'static) -> Result<LinkDirection, Error> {
        let queue = Arc::new(Queue::default());
        let taken = Arc::clone(&queue);
        let body = move || taken.deliver_due(out);
        std::thread::Builder::new().name(name.to_owned()).spawn(body).with_context(|| format!("starting the thread {name}"))?;
        let seed = name.bytes().fold(self.seed, |seed, byte| seed.rotate_left(7) ^ u64::from(byte));
        Ok(LinkDirection { link: self.clone(), rng: fastrand::Rng::with_seed(seed), queue, sequence: 0 })
    }
}

/// One direction of a link.
#[derive(Debug)]
pub struct LinkDirection {
    link: Link,
    rng: fastrand::Rng,
    queue: Arc<Queue>,
    sequence: u64,
}

impl LinkDirection {
    /// Sends a packet along it.
    pub fn send(&mut self, packet: Vec<u8>) {
        let conditions = **self.link.conditions.load();
        // Always as many draws, so that one condition does not change what chance makes of another.
        let [loss, duplicate_draw, reorder_draw] = [self.rng.f64(), self.rng.f64(), self.rng.f64()];
        if loss < conditions.loss {
            self.link.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let mut due = Instant::now() + conditions.delay;
        if duplicate_draw < conditions.duplicate {
            self.link.duplicated.fetch_add(1, Ordering::Relaxed);
            let behind = Duration::from_micros(self.rng.u64(0..=REORDER_DELAY.as_micros() as u64));
            self.enqueue(due + behind, packet.clone());
        }
        if reorder_draw < conditions.reorder {
            due += REORDER_DELAY;
        }
        self.enqueue(due, packet);
    }

    fn enqueue(&mut self, due: Instant, packet: Vec<u8>) {
        self.sequence += 1;
        self.queue.push(DelayedPacket { due, sequence: self.sequence, packet });
    }
}

/// A packet on its way. The earliest comes first, and of two that are due at once the one that was sent first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct DelayedPacket {
    due: Instant,
    sequence: u64,
    packet: Vec<u8>,
}

#[derive(Debug, Default)]
struct Queue {
    packets: Mutex<BinaryHeap<Reverse<DelayedPacket>>>,
    available: Condvar,
}

impl Queue {
    fn push(&self, packet: DelayedPacket) {
        let mut all = self.packets.lock().unwrap_or_else(PoisonError::into_inner);
        let first = all.peek().is_none_or(|Reverse(next)| packet.due < next.due);
        all.push(Reverse(packet));
        if first {
            self.available.notify_one();
        }
    }

    /// Hands over packets when they are due; ends with the process.
    fn deliver_due(&self, mut out: impl FnMut(&mut Vec<u8>)) {
        let mut all = self.packets.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let now = Instant::now();
            match all.peek().map(|Reverse(next)| next.due) {
                None => all = self.available.wait(all).unwrap_or_else(PoisonError::into_inner),
                Some(due) if due > now => all = self.available.wait_timeout(all, due - now).unwrap_or_else(PoisonError::into_inner).0,
                Some(_) => {
                    if let Some(Reverse(mut delayed)) = all.pop() {
                        drop(all);
                        out(&mut delayed.packet);
                        all = self.packets.lock().unwrap_or_else(PoisonError::into_inner);
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

    /// What comes out of a link with these conditions for so many numbered packets, and what was lost and doubled.
    fn run_link(conditions: LinkConditions, seed: u64, packets: u16) -> (Vec<u16>, u64, u64) {
        let transfer_log = Arc::new(TransferLog::new("192.0.2.69".parse().unwrap()));
        let link = Link::new(conditions, seed, transfer_log, "fabric", Vec::new());
        let (sender, out) = mpsc::channel();
        let deliver = move |packet: &mut Vec<u8>| sender.send(u16::from_be_bytes([packet[0], packet[1]])).unwrap();
        let mut direction = link.direction("test", deliver).unwrap();
        (0..packets).for_each(|number| direction.send(number.to_be_bytes().to_vec()));
        let (lost, duplicated) = (link.lost.load(Ordering::Relaxed), link.duplicated.load(Ordering::Relaxed));
        let expected = u64::from(packets) - lost + duplicated;
        let come = (0..expected).map(|_| out.recv_timeout(Duration::from_secs(10)).unwrap()).collect();
        (come, lost, duplicated)
    }

    #[test]
    fn a_perfect_link_keeps_packets_and_their_order() {
        let conditions = LinkConditions { delay: Duration::from_millis(3), ..LinkConditions::default() };
        let since = Instant::now();
        let (come, lost, duplicated) = run_link(conditions, 1, 500);
        assert!(come.iter().copied().eq(0..500) && (lost, duplicated) == (0, 0));
        assert!(since.elapsed() >= conditions.delay);
    }

    #[test]
    fn faults_have_the_configured_rate_and_follow_from_the_seed() {
        let conditions = LinkConditions { loss: 0.1, duplicate: 0.05, reorder: 0.2, ..LinkConditions::default() };
        let (come, lost, duplicated) = run_link(conditions, 7, 10_000);
        // Binomial: five standard deviations of 1000 lost are 150, of 450 doubled 104.
        assert!((850..=1150).contains(&lost) && (346..=554).contains(&duplicated), "{lost} lost, {duplicated} doubled");
        assert!(come.windows(2).any(|pair| pair[0] > pair[1]), "some are overtaken");
        let again = run_link(conditions, 7, 10_000);
        assert_eq!((again.1, again.2), (lost, duplicated));
        assert_ne!(run_link(conditions, 8, 10_000).1, lost);
    }
}

//! Three whole servers, a client and a network in simulated time: random schedules of crashes, restarts, partitions, losses, duplicates, delays, clock
//! skews, and changes of pool and key. The engines are real; only their sockets are not.
//!
//! `GUIDEWAY_SCHEDULES=100000 cargo test --release -p guideway-tftp --features testing simulation` is the long run. `GUIDEWAY_SCHEDULE` is the first one.

mod server;

use super::super::peer::Port;
use super::super::sys::Received;
use crate::client::{Read, RequestOption, TransferPlan};
use crate::content::{Bytes, Content};
use crate::packet::{PORT, Packet};
use guideway_hash::FleetKey;
use guideway_hash::successors::SuccessorRanking;
use guideway_packet::time::Time;
use server::{KEYS, Numbered, Server, VIP, checkpoint_address, membership, tid};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::time::Duration;

const MS: u64 = 1_000_000;
const SECOND: u64 = 1000 * MS;
/// Faults happen before this time.
const FAULTS_END: u64 = 8 * SECOND;
/// Longest time for which a client may hear two servers alternately.
const TWO_OWNERS: u64 = 10 * SECOND;
/// Every transfer has ended by then, in one way or the other.
const END: u64 = 240 * SECOND;
/// How long directors take to notice that a server is down or up.
const DETECTION: u64 = 700 * MS;

/// A small generator, so that a schedule is known by its number.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below.max(1)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Client,
    Server(usize),
}

impl Place {
    fn index(self) -> usize {
        if let Place::Server(index) = self { index } else { 3 }
    }
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Datagram { by: Place, to: Place, from: SocketAddr, at: SocketAddr, bytes: Vec<u8> },
    Wake(Place),
    Crash(usize),
    Restart(usize),
    Cut(Place, Place, bool),
    Pool(usize, Vec<usize>, usize),
}

/// The servers that a client hears.
#[derive(Default)]
struct Owners {
    last: Option<(Place, u64)>,
    /// When the client began to hear two servers alternately.
    since: Option<u64>,
    longest: u64,
}

impl Owners {
    fn hear(&mut self, by: Place, now: u64) {
        match self.last.replace((by, now)) {
            // A server that takes over is heard after a pause or once; two owners are heard in turn.
            Some((other, at)) if other != by && now - at < SECOND => {
                let since = *self.since.get_or_insert(at);
                self.longest = self.longest.max(now - since);
            }
            Some((_, at)) if now - at < SECOND => {}
            _ => self.since = None,
        }
    }
}

struct World {
    dice: Dice,
    now: u64,
    count: u64,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    /// When the servers and the client wake next.
    wakes: [u64; 4],
    servers: [Server; 3],
    cut: Vec<(Place, Place)>,
    /// Chance of a loss and of a duplicate in a thousand, and the longest delay, while there are faults.
    network: (u64, u64, u64),
    client: Read,
    address: SocketAddr,
    content: Content,
    received: Vec<u8>,
    owners: Owners,
    key: usize,
}

impl World {
    fn at(&mut self, time: u64, event: Event) {
        self.count += 1;
        self.events.push(Reverse((time, self.count, event)));
    }

    /// Wakes a place at this time, unless it wakes earlier.
    fn wake(&mut self, place: Place, time: u64) {
        let next = &mut self.wakes[place.index()];
        if time < *next {
            *next = time;
            self.at(time, Event::Wake(place));
        }
    }

    fn send(&mut self, from: Place, to: Place, source: SocketAddr, destination: SocketAddr, bytes: &[u8]) {
        let faulty = self.now < FAULTS_END;
        if self.cut.iter().any(|&(a, b)| (a, b) == (from, to) || (b, a) == (from, to)) || faulty && self.dice.roll(1000) < self.network.0 {
            return;
        }
        let copies = 1 + u64::from(faulty && self.dice.roll(1000) < self.network.1);
        for _ in 0..copies {
            let delay = MS + self.dice.roll(if faulty { self.network.2 } else { 1 }) * MS;
            self.at(self.now + delay, Event::Datagram { by: from, to, from: source, at: destination, bytes: bytes.to_vec() });
        }
    }

    /// Whether directors take a server for up. They reach it as the client does.
    fn believed_up(&self, server: usize) -> bool {
        let changed_long_ago = self.now - self.servers[server].changed > DETECTION;
        self.is_reachable(server) == changed_long_ago
    }

    fn is_reachable(&self, server: usize) -> bool {
        self.servers[server].event_loop.is_some() && !self.cut.contains(&(Place::Server(server), Place::Client))
    }

    /// Routes a packet of the client as directors do: by its TID, or to the best successor that is up.
    fn route(&self, to: SocketAddr) -> Option<usize> {
        let owner = (0..3).find(|&n| tid(n) == to.port());
        let ranking = SuccessorRanking::new(FleetKey::new(KEYS[self.key]), (0..3).map(|n| ["t0", "t1", "t2"][n]));
        match owner {
            Some(owner) if self.believed_up(owner) => Some(owner),
            Some(owner) => {
                let by_rank = ranking.excluding(VIP, self.address.ip(), self.address.port(), [owner, owner]);
                by_rank.into_iter().flatten().find(|&n| self.believed_up(n))
            }
            None => (0..3).find(|&n| self.believed_up(n)),
        }
    }

    /// Sends what the client wants to send, and sets its timer.
    fn pump_client(&mut self) {
        let mut out = Vec::new();
        while let Some(to) = self.client.transmit(&mut out) {
            if let Some(server) = self.route(to) {
                self.send(Place::Client, Place::Server(server), self.address, to, &out);
            }
            out.clear();
        }
        if let Some(at) = self.client.deadline() {
            self.wake(Place::Client, at.0.max(self.now + 1));
        }
    }

    /// Ends an iteration of a server's loop: timers, takeover, datagrams to send, and the time of the next one.
    fn pump_server(&mut self, index: usize) {
        let server = &mut self.servers[index];
        let Some(event_loop) = &mut server.event_loop else { return };
        event_loop.timers(&mut Vec::new());
        event_loop.poll_takeover();
        event_loop.flush();
        event_loop.apply_flush_results();
        let sent = event_loop.net.outbox.captured();
        let sources: Vec<SocketAddr> = event_loop.net.sockets.iter().map(|socket| socket.local).collect();
        let next = event_loop.sessions.until_next(event_loop.now).unwrap_or(Duration::from_secs(1));
        let wait = event_loop.takeover.as_ref().map_or(next, |takeover| takeover.until_next(event_loop.now).min(next));
        let wait = u64::try_from(wait.as_nanos()).unwrap_or(SECOND).max(4 * MS);
        for (socket, to, bytes) in sent {
            let place = (0..3).find(|&n| checkpoint_address(n) == to).map_or(Place::Client, Place::Server);
            self.send(Place::Server(index), place, sources[usize::from(socket)], to, &bytes);
        }
        self.wake(Place::Server(index), self.now + wait);
    }

    /// Handles a datagram from `by` that reaches the client.
    fn deliver_to_client(&mut self, by: Place, from: SocketAddr, bytes: &[u8]) {
        if matches!(Packet::parse(bytes), Ok(Packet::Data { .. })) && self.client.outcome().is_none() {
            self.owners.hear(by, self.now);
        }
        let before = self.received.len();
        if let Some(more) = self.client.receive(Time(self.now), from, bytes) {
            self.received.extend_from_slice(more);
            for (offset, eight) in self.received.chunks_exact(8).enumerate().skip(before / 8) {
                assert_eq!(eight, (offset as u64 + 1).to_be_bytes(), "wrong bytes");
            }
        }
        self.pump_client();
    }

    fn deliver_to_server(&mut self, index: usize, from: SocketAddr, at: SocketAddr, bytes: &[u8]) {
        let now = self.servers[index].local(self.now);
        let Some(event_loop) = &mut self.servers[index].event_loop else { return };
        event_loop.now = now;
        let received = Received { from, local: None, bytes, truncated: false, broadcast: false };
        if at == checkpoint_address(index) {
            event_loop.handle_peer_datagram(&received);
        } else if at.port() == PORT {
            event_loop.deliver(1, Port::Requests, &received);
        } else if let Some(socket) = event_loop.net.sockets.iter().position(|socket| socket.local == at) {
            event_loop.deliver(socket as u16, Port::Transfers, &received);
        }
        self.pump_server(index);
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Datagram { by, to: Place::Client, from, bytes, .. } => self.deliver_to_client(by, from, &bytes),
            Event::Datagram { to: Place::Server(index), from, at, bytes, .. } => self.deliver_to_server(index, from, at, &bytes),
            // Replaced by an earlier one, which may have set another.
            Event::Wake(place) if self.wakes[place.index()] != self.now => {}
            Event::Wake(Place::Client) => {
                self.wakes[3] = u64::MAX;
                if self.client.deadline().is_some_and(|at| at.0 <= self.now) {
                    self.client.expire(Time(self.now));
                }
                self.pump_client();
            }
            Event::Wake(Place::Server(index)) => {
                self.wakes[index] = u64::MAX;
                let now = self.servers[index].local(self.now);
                if let Some(event_loop) = &mut self.servers[index].event_loop {
                    event_loop.now = now;
                    self.pump_server(index);
                }
            }
            Event::Crash(index) => {
                let server = &mut self.servers[index];
                (server.event_loop, server.changed) = (None, self.now);
            }
            Event::Restart(index) => {
                if self.servers[index].event_loop.is_none() {
                    let (content, key, now) = (self.content.clone(), self.key, self.now);
                    self.servers[index].start(index, &content, key, now);
                    self.pump_server(index);
                }
            }
            Event::Cut(Place::Server(a), b, begins) => {
                let before = self.is_reachable(a);
                self.cut.retain(|cut| *cut != (Place::Server(a), b));
                if begins {
                    self.cut.push((Place::Server(a), b));
                }
                if before != self.is_reachable(a) {
                    self.servers[a].changed = self.now;
                }
            }
            Event::Cut(..) => {}
            Event::Pool(index, pool, key) => {
                self.key = key;
                if let Some(event_loop) = &mut self.servers[index].event_loop {
                    event_loop.set_membership(&membership(index, &pool, key));
                }
            }
        }
    }
}

/// Result of a schedule.
struct Run {
    /// Whether the client has the file.
    done: bool,
    crashes: u32,
    other_faults: u32,
    /// Longest time for which the client heard two servers alternately.
    two_owners: u64,
}

fn run(schedule: u64) -> Run {
    let mut dice = Dice(schedule.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d);
    (0..4).for_each(|_| _ = dice.roll(2));
    // Some have so many blocks that their numbers repeat.
    let long = schedule % 100 == 53;
    let blocks = if long { 150_000 + dice.roll(100_000) } else { 30 + dice.roll(220) };
    let bytes: Vec<u8> = (1..=blocks).flat_map(u64::to_be_bytes).collect();
    let content = Content::from_source(Numbered(Bytes::new(bytes)));
    let window = if long { 64 } else { 1 + dice.roll(8) as u16 };
    let ask = vec![RequestOption::Blksize(8), RequestOption::Windowsize(window)];
    let plan = TransferPlan { ask, ..TransferPlan::new(SocketAddr::new(VIP, PORT), "f") };
    let clock = |dice: &mut Dice| (3600 * SECOND + dice.roll(3600) * SECOND, 980_000 + dice.roll(40_000));
    let servers = [0; 3].map(|_| Server { event_loop: None, clock: clock(&mut dice), changed: 0 });
    // A successor must be able to send 65,536 blocks while the owner is cut off.
    let network = if long { (dice.roll(2), dice.roll(10), 1) } else { (dice.roll(120), dice.roll(60), 1 + dice.roll(60)) };
    let address = SocketAddr::from(([198, 51, 100, 7], 2000 + dice.roll(1000) as u16));
    // Servers have known each other for a while.
    let begin = 2 * SECOND;
    let mut world = World {
        dice,
        now: 0,
        count: 0,
        events: BinaryHeap::new(),
        wakes: [u64::MAX; 4],
        servers,
        cut: Vec::new(),
        network,
        client: Read::new(plan, Time(begin)),
        address,
        content: content.clone(),
        received: Vec::new(),
        owners: Owners::default(),
        key: 0,
    };
    for index in 0..3 {
        world.servers[index].start(index, &content, 0, 0);
        world.wake(Place::Server(index), 0);
    }
    world.wake(Place::Client, begin);
    let (mut crashes, mut other_faults) = (0, 0);
    for _ in 0..world.dice.roll(5) {
        let from = begin + world.dice.roll(FAULTS_END - begin - SECOND);
        let to = (from + 200 * MS + world.dice.roll(6 * SECOND)).min(FAULTS_END);
        // A long transfer needs an owner that is cut off: the first server.
        let (server, kind) = if long { (0, 2) } else { (world.dice.roll(3) as usize, world.dice.roll(5)) };
        match kind {
            0 | 1 => {
                crashes += 1;
                world.at(from, Event::Crash(server));
                world.at(to, Event::Restart(server));
            }
            2 => {
                other_faults += 1;
                for other in (0..3).filter(|&other| other != server).map(Place::Server).chain([Place::Client]) {
                    world.at(from, Event::Cut(Place::Server(server), other, true));
                    world.at(to, Event::Cut(Place::Server(server), other, false));
                }
            }
            3 => {
                other_faults += 1;
                let other = world.dice.roll(4) as usize;
                let other = if other == 3 || other == server { Place::Client } else { Place::Server(other) };
                world.at(from, Event::Cut(Place::Server(server), other, true));
                world.at(to, Event::Cut(Place::Server(server), other, false));
            }
            _ => {
                other_faults += 1;
                let key = world.dice.roll(2) as usize;
                let without: Vec<usize> = (0..3).filter(|&n| n != server).collect();
                for &member in &without {
                    let (late, early) = (world.dice.roll(SECOND), world.dice.roll(SECOND));
                    world.at(from + early, Event::Pool(member, if key == 0 { without.clone() } else { vec![0, 1, 2] }, key));
                    world.at(to + late, Event::Pool(member, vec![0, 1, 2], key));
                }
                world.at(to + SECOND, Event::Pool(server, vec![0, 1, 2], key));
            }
        }
    }
    while let Some(Reverse((time, _, event))) = world.events.pop() {
        world.now = time;
        if time > END || world.client.outcome().is_some() {
            break;
        }
        world.handle(event);
    }
    let outcome = world.client.outcome();
    assert!(outcome.is_some(), "schedule {schedule}: the transfer does not end: {} of {blocks} blocks", world.received.len() / 8);
    let done = matches!(outcome, Some(Ok(())));
    assert!(!done || world.received.len() as u64 == blocks * 8, "schedule {schedule}: the file is not complete");
    assert!(world.owners.longest < TWO_OWNERS, "schedule {schedule}: the client heard two owners for {} ms", world.owners.longest / MS);
    assert!(done || crashes + other_faults > 0, "schedule {schedule}: {outcome:?} without a fault");
    Run { done, crashes, other_faults, two_owners: world.owners.longest }
}

#[test]
fn no_schedule_brings_two_owners_or_wrong_bytes_and_all_transfers_end() {
    let count = std::env::var("GUIDEWAY_SCHEDULES").ok().and_then(|count| count.parse().ok()).unwrap_or(60);
    let first = std::env::var("GUIDEWAY_SCHEDULE").ok().and_then(|first| first.parse().ok()).unwrap_or(0);
    let runs: Vec<Run> = (first..first + count).map(run).collect();
    let lost = runs.iter().filter(|run| !run.done).count() as u64;
    let lost_by_one_crash = runs.iter().filter(|run| !run.done && run.crashes <= 1).count() as u64;
    for (schedule, run) in (first..).zip(&runs).filter(|(_, run)| !run.done && run.crashes <= 1) {
        println!("lost: schedule {schedule}, {} crashes, {} other faults", run.crashes, run.other_faults);
    }
    let faults = runs.iter().filter(|run| run.crashes + run.other_faults > 0).count();
    let two_owners = runs.iter().map(|run| run.two_owners).max().unwrap_or(0) / MS;
    println!(
        "{count} schedules, {faults} with faults: {lost} transfers lost ({lost_by_one_crash} with one crash at most), two servers heard for {two_owners} ms at most"
    );
    // A checkpoint may be lost before a successor has it, or all servers that know a transfer crash.
    assert!(lost * 10 <= count, "{lost} of {count} transfers were lost");
}

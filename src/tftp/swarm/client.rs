//! One client of a swarm: a boot is a row of requests, each from the next of its ports, at the end of which stands the file.

use super::faults::{Link, Rates};
use super::mix::Kind;
use super::sums::Expected;
use super::tally::Tally;
use crate::client::{Failure, Plan, Read, Timing};
use guideway_packet::time::Time;
use sha2::{Digest, Sha256};
use std::net::{IpAddr, SocketAddr, UdpSocket};

/// What all clients know.
#[derive(Debug)]
pub struct World<'a> {
    /// Where requests go.
    pub server: SocketAddr,
    /// The names of the files.
    pub files: &'a [String],
    /// What they must contain.
    pub expected: &'a Expected,
    /// Time-outs and retries.
    pub timing: Timing,
    /// The network between clients and sockets.
    pub faults: Rates,
    /// What chance is made from.
    pub seed: u64,
}

/// One client.
#[derive(Debug)]
pub struct Client {
    number: u32,
    kind: Kind,
    address: IpAddr,
    sockets: Vec<UdpSocket>,
    /// The socket of the current request.
    turn: usize,
    boot: Option<Boot>,
    /// The last request's read while it guards its end, and its socket.
    guard: Option<(usize, Read)>,
    up: Link,
    down: Link,
}

/// A boot under way.
#[derive(Debug)]
struct Boot {
    /// Which of the files.
    file: usize,
    step: usize,
    probe: bool,
    may_miss: bool,
    read: Read,
    hash: Option<Sha256>,
    asked: Time,
}

/// What a worker lends to its clients.
#[derive(Debug)]
pub struct Hands<'a> {
    /// What all clients know.
    pub world: &'a World<'a>,
    /// What is counted.
    pub tally: &'a mut Tally,
    /// Where packets are written before they are sent.
    pub out: &'a mut Vec<u8>,
}

impl Client {
    /// A client with nothing to do.
    pub fn new(number: u32, kind: Kind, address: IpAddr, sockets: Vec<UdpSocket>) -> Self {
        let quiet = || Link::new(0, Rates::default());
        Client { number, kind, address, sockets, turn: 0, boot: None, guard: None, up: quiet(), down: quiet() }
    }

    /// Its sockets.
    pub fn sockets(&self) -> &[UdpSocket] {
        &self.sockets
    }

    /// Whether it has nothing to do.
    pub fn is_idle(&self) -> bool {
        self.boot.is_none()
    }

    /// Begins transfer number `transfer`.
    pub fn start(&mut self, now: Time, transfer: u64, hands: &mut Hands<'_>) {
        let world = hands.world;
        if !world.faults.is_clean() {
            let seed = world.seed ^ transfer.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            (self.up, self.down) = (Link::new(seed, world.faults), Link::new(!seed, world.faults));
        }
        hands.tally.of(self.kind).started += 1;
        let file = usize::try_from(transfer % world.files.len().max(1) as u64).unwrap_or(0);
        self.request(now, file, 0, hands);
    }

    /// Makes request `step` of a boot; without one, the boot is over.
    fn request(&mut self, now: Time, file: usize, number: usize, hands: &mut Hands<'_>) {
        let world = hands.world;
        let name = world.files.get(file).map_or("", String::as_str);
        let Some(step) = self.kind.step(number, name, self.address, self.number) else { return };
        // Where the last request ended in trouble, late packets may still come: another port where there is one.
        let count = self.sockets.len().max(1);
        let guarded = self.guard.as_ref().map(|(socket, _)| *socket);
        self.turn = (self.turn + 1) % count;
        if guarded == Some(self.turn) {
            self.turn = (self.turn + 1) % count;
        }
        if guarded == Some(self.turn) {
            self.guard = None;
        }
        self.up.clear();
        self.down.clear();
        let plan = Plan { ask: step.ask.to_vec(), probe: step.probe, timing: world.timing, ..Plan::new(world.server, step.file) };
        let hash = (world.expected.checks() && !step.probe && !step.may_miss).then(Sha256::new);
        let read = Read::new(plan, now);
        self.boot = Some(Boot { file, step: number, probe: step.probe, may_miss: step.may_miss, read, hash, asked: now });
        self.go_on(now, hands);
    }

    /// Takes what arrived at one of its sockets.
    pub fn receive(&mut self, now: Time, socket: usize, from: SocketAddr, bytes: &[u8], hands: &mut Hands<'_>) {
        if hands.world.faults.is_clean() {
            return self.take(now, socket, from, bytes, hands);
        }
        let mut arrived = Vec::new();
        self.down.pass(now, bytes, from, |bytes, from| arrived.push((bytes.to_vec(), from)));
        arrived.iter().for_each(|(bytes, from)| self.take(now, socket, *from, bytes, hands));
    }

    fn take(&mut self, now: Time, socket: usize, from: SocketAddr, bytes: &[u8], hands: &mut Hands<'_>) {
        if let Some(boot) = self.boot.as_mut().filter(|_| socket == self.turn) {
            if let Some(data) = boot.read.receive(now, from, bytes)
                && let Some(hash) = &mut boot.hash
            {
                hash.update(data);
            }
            self.go_on(now, hands);
        } else if let Some((_, read)) = self.guard.as_mut().filter(|(guarded, _)| *guarded == socket) {
            let _nothing_new = read.receive(now, from, bytes);
            if let Some(to) = read.transmit(hands.out) {
                send(&self.sockets, socket, hands.out, to);
            }
        }
    }

    /// Acts on time.
    pub fn expire(&mut self, now: Time, hands: &mut Hands<'_>) {
        if let Some((bytes, to)) = self.up.expire(now) {
            send(&self.sockets, self.turn, &bytes, to);
        }
        if let Some((bytes, from)) = self.down.expire(now) {
            self.take(now, self.turn, from, &bytes, hands);
        }
        if let Some((_, read)) = &mut self.guard {
            read.expire(now);
            if read.deadline().is_none() {
                self.guard = None;
            }
        }
        if let Some(boot) = &mut self.boot {
            boot.read.expire(now);
            self.go_on(now, hands);
        }
    }

    /// When [`Client::expire`] wants to be called.
    pub fn deadline(&self) -> Option<Time> {
        let boot = self.boot.as_ref().and_then(|boot| boot.read.deadline());
        let guard = self.guard.as_ref().and_then(|(_, read)| read.deadline());
        [boot, guard, self.up.deadline(), self.down.deadline()].into_iter().flatten().min()
    }

    /// The time is up.
    pub fn give_up(&mut self, tally: &mut Tally) {
        if let Some(boot) = self.boot.take() {
            tally.packets(boot.read.counters());
            tally.failed(self.kind, "time_limit");
        }
    }

    /// Sends what waits, and ends the request when it is over.
    fn go_on(&mut self, now: Time, hands: &mut Hands<'_>) {
        let Some(boot) = &mut self.boot else { return };
        while let Some(to) = boot.read.transmit(hands.out) {
            let (sockets, turn) = (&self.sockets, self.turn);
            self.up.pass(now, hands.out, to, |bytes, to| send(sockets, turn, bytes, to));
        }
        if boot.read.outcome().is_some()
            && let Some(boot) = self.boot.take()
        {
            self.finish(now, boot, hands);
        }
    }

    fn finish(&mut self, now: Time, boot: Boot, hands: &mut Hands<'_>) {
        let Boot { file, step, probe, may_miss, read, hash, asked } = boot;
        let tally = &mut *hands.tally;
        tally.packets(read.counters());
        let go_on = match read.outcome() {
            None => false,
            Some(Ok(()) | Err(Failure::Server { .. })) if may_miss => {
                tally.misses += 1;
                true
            }
            Some(Ok(())) if probe => {
                tally.probes += 1;
                true
            }
            Some(Err(failure)) => {
                tally.failed(self.kind, &failure.reason());
                false
            }
            Some(Ok(())) => {
                let right = hash.map(|hash| hands.world.expected.accepts(file, hash.finalize().into()));
                if right == Some(false) {
                    tally.failed(self.kind, "content");
                } else {
                    let one = tally.of(self.kind);
                    one.completed += 1;
                    one.verified += u64::from(right.is_some());
                    tally.first.add(read.first_answer().unwrap_or_default());
                    tally.done.add(now - asked);
                }
                false
            }
        };
        if read.deadline().is_some() {
            self.guard = Some((self.turn, read));
        }
        if go_on {
            self.request(now, file, step + 1, hands);
        }
    }
}

/// What the kernel does not take is lost like anything else on the way.
fn send(sockets: &[UdpSocket], number: usize, bytes: &[u8], to: SocketAddr) {
    if let Some(socket) = sockets.get(number) {
        let _lost = socket.send_to(bytes, to);
    }
}

//! One client of a swarm. A boot is a sequence of requests, each from the next of its ports; the last one is for the file.

use super::digests::Expected;
use super::faults::{Link, Rates};
use super::mix::Kind;
use super::tally::Tally;
use crate::client::{Failure, Read, Timing, TransferPlan};
use guideway_packet::time::Time;
use sha2::{Digest, Sha256};
use std::net::{IpAddr, SocketAddr, UdpSocket};

/// State shared by all clients.
#[derive(Debug)]
pub struct SwarmContext<'a> {
    /// Destination of requests.
    pub server: SocketAddr,
    /// The names of the files.
    pub files: &'a [String],
    /// Their expected content.
    pub expected: &'a Expected,
    /// Time-outs and retries.
    pub timing: Timing,
    /// The network between clients and sockets.
    pub faults: Rates,
    /// Seed of all random choices.
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
    current_socket: usize,
    boot: Option<Boot>,
    /// The previous request's read while it dallies, and its socket.
    dallying: Option<(usize, Read)>,
    up: Link,
    down: Link,
}

/// A running boot.
#[derive(Debug)]
struct Boot {
    /// Index of the file.
    file: usize,
    step: usize,
    probe: bool,
    may_be_missing: bool,
    read: Read,
    hash: Option<Sha256>,
    requested: Time,
}

/// State of a worker that its clients borrow.
#[derive(Debug)]
pub struct ClientContext<'a> {
    /// State shared by all clients.
    pub context: &'a SwarmContext<'a>,
    /// The counters.
    pub tally: &'a mut Tally,
    /// Buffer for packets to send.
    pub out: &'a mut Vec<u8>,
}

impl Client {
    /// Creates an idle client.
    pub fn new(number: u32, kind: Kind, address: IpAddr, sockets: Vec<UdpSocket>) -> Self {
        let quiet = || Link::new(0, Rates::default());
        Client { number, kind, address, sockets, current_socket: 0, boot: None, dallying: None, up: quiet(), down: quiet() }
    }

    /// Returns its sockets.
    pub fn sockets(&self) -> &[UdpSocket] {
        &self.sockets
    }

    /// Returns whether it has nothing to do.
    pub fn is_idle(&self) -> bool {
        self.boot.is_none()
    }

    /// Starts transfer number `transfer`.
    pub fn start(&mut self, now: Time, transfer: u64, client_context: &mut ClientContext<'_>) {
        let context = client_context.context;
        if !context.faults.is_clean() {
            let seed = context.seed ^ transfer.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            (self.up, self.down) = (Link::new(seed, context.faults), Link::new(!seed, context.faults));
        }
        client_context.tally.of(self.kind).started += 1;
        let file = usize::try_from(transfer % context.files.len().max(1) as u64).unwrap_or(0);
        self.request(now, file, 0, client_context);
    }

    /// Sends request `number` of a boot. Without such a request, the boot is over.
    fn request(&mut self, now: Time, file: usize, number: usize, client_context: &mut ClientContext<'_>) {
        let context = client_context.context;
        let name = context.files.get(file).map_or("", String::as_str);
        let Some(step) = self.kind.step(number, name, self.address, self.number) else { return };
        // After a failed request, late packets may still arrive: use another port if there is one.
        let count = self.sockets.len().max(1);
        let dallying_socket = self.dallying.as_ref().map(|(socket, _)| *socket);
        self.current_socket = (self.current_socket + 1) % count;
        if dallying_socket == Some(self.current_socket) {
            self.current_socket = (self.current_socket + 1) % count;
        }
        if dallying_socket == Some(self.current_socket) {
            self.dallying = None;
        }
        self.up.clear();
        self.down.clear();
        let plan = TransferPlan {
            ask: step.ask.to_vec(),
            probe: step.probe,
            timing: context.timing,
            ..TransferPlan::new(context.server, step.file)
        };
        let hash = (context.expected.checks() && !step.probe && !step.may_be_missing).then(Sha256::new);
        let read = Read::new(plan, now);
        self.boot = Some(Boot { file, step: number, probe: step.probe, may_be_missing: step.may_be_missing, read, hash, requested: now });
        self.continue_boot(now, client_context);
    }

    /// Handles a datagram that arrived at one of its sockets.
    pub fn receive(&mut self, now: Time, socket: usize, from: SocketAddr, bytes: &[u8], client_context: &mut ClientContext<'_>) {
        if client_context.context.faults.is_clean() {
            return self.take(now, socket, from, bytes, client_context);
        }
        let mut arrived = Vec::new();
        self.down.pass(now, bytes, from, |bytes, from| arrived.push((bytes.to_vec(), from)));
        arrived.iter().for_each(|(bytes, from)| self.take(now, socket, *from, bytes, client_context));
    }

    fn take(&mut self, now: Time, socket: usize, from: SocketAddr, bytes: &[u8], client_context: &mut ClientContext<'_>) {
        if let Some(boot) = self.boot.as_mut().filter(|_| socket == self.current_socket) {
            if let Some(data) = boot.read.receive(now, from, bytes)
                && let Some(hash) = &mut boot.hash
            {
                hash.update(data);
            }
            self.continue_boot(now, client_context);
        } else if let Some((_, read)) = self.dallying.as_mut().filter(|(dallying_socket, _)| *dallying_socket == socket) {
            let _nothing_new = read.receive(now, from, bytes);
            if let Some(to) = read.transmit(client_context.out) {
                send(&self.sockets, socket, client_context.out, to);
            }
        }
    }

    /// Handles an expired timer.
    pub fn expire(&mut self, now: Time, client_context: &mut ClientContext<'_>) {
        if let Some((bytes, to)) = self.up.expire(now) {
            send(&self.sockets, self.current_socket, &bytes, to);
        }
        if let Some((bytes, from)) = self.down.expire(now) {
            self.take(now, self.current_socket, from, &bytes, client_context);
        }
        if let Some((_, read)) = &mut self.dallying {
            read.expire(now);
            if read.deadline().is_none() {
                self.dallying = None;
            }
        }
        if let Some(boot) = &mut self.boot {
            boot.read.expire(now);
            self.continue_boot(now, client_context);
        }
    }

    /// Returns when to call [`Client::expire`].
    pub fn deadline(&self) -> Option<Time> {
        let boot = self.boot.as_ref().and_then(|boot| boot.read.deadline());
        let dallying = self.dallying.as_ref().and_then(|(_, read)| read.deadline());
        [boot, dallying, self.up.deadline(), self.down.deadline()].into_iter().flatten().min()
    }

    /// Ends the boot because the time limit was reached.
    pub fn give_up(&mut self, tally: &mut Tally) {
        if let Some(boot) = self.boot.take() {
            tally.packets(boot.read.counters());
            tally.failed(self.kind, "time_limit");
        }
    }

    /// Sends pending datagrams, and ends the request when it is over.
    fn continue_boot(&mut self, now: Time, client_context: &mut ClientContext<'_>) {
        let Some(boot) = &mut self.boot else { return };
        while let Some(to) = boot.read.transmit(client_context.out) {
            let (sockets, current_socket) = (&self.sockets, self.current_socket);
            self.up.pass(now, client_context.out, to, |bytes, to| send(sockets, current_socket, bytes, to));
        }
        if boot.read.outcome().is_some()
            && let Some(boot) = self.boot.take()
        {
            self.finish(now, boot, client_context);
        }
    }

    fn finish(&mut self, now: Time, boot: Boot, client_context: &mut ClientContext<'_>) {
        let Boot { file, step, probe, may_be_missing, read, hash, requested } = boot;
        let tally = &mut *client_context.tally;
        tally.packets(read.counters());
        let continue_boot = match read.outcome() {
            None => false,
            Some(Ok(()) | Err(Failure::Server { .. })) if may_be_missing => {
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
                let right = hash.map(|hash| client_context.context.expected.accepts(file, hash.finalize().into()));
                if right == Some(false) {
                    tally.failed(self.kind, "content");
                } else {
                    let one = tally.of(self.kind);
                    one.completed += 1;
                    one.verified += u64::from(right.is_some());
                    tally.first.add(read.first_answer().unwrap_or_default());
                    tally.done.add(now - requested);
                }
                false
            }
        };
        if read.deadline().is_some() {
            self.dallying = Some((self.current_socket, read));
        }
        if continue_boot {
            self.request(now, file, step + 1, client_context);
        }
    }
}

/// Sends a datagram. If the kernel does not accept it, it counts as lost on the way.
fn send(sockets: &[UdpSocket], number: usize, bytes: &[u8], to: SocketAddr) {
    if let Some(socket) = sockets.get(number) {
        let _lost = socket.send_to(bytes, to);
    }
}

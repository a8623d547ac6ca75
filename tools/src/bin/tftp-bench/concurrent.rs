//! Many transfers at once. One socket for each thread plays all of its clients, each with an address of its own, so that a client costs a
//! small part of what even the fastest server does; content is hashed after the clock has stopped.

use crate::batch::{Inbox, Outbox};
use crate::single::{TIMEOUT, is_timeout, request, set_receive_buffer, thread_cpu};
use crate::transfer::{Action, Transfer};
use guideway_host::error::{Context, Error};
use nix::sys::socket::{setsockopt, sockopt};
use sha2::{Digest, Sha256};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The first client's address is the one after this; there is room for a million of them.
pub const CLIENTS: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 0);
/// Prefix length of the clients' network.
pub const CLIENTS_PREFIX: u8 = 12;
/// Most requests of one client for one thing.
const TRIES: u32 = 10;
/// How often clients look at the clock.
const TICK: Duration = Duration::from_millis(10);

/// What all clients do.
#[derive(Clone, Debug)]
pub struct LoadSpec<'a> {
    /// The server.
    pub server: SocketAddrV4,
    /// The file.
    pub file: &'a str,
    /// Its bytes.
    pub size: usize,
    /// Its SHA-256.
    pub digest: [u8; 32],
    /// Transfers in all.
    pub transfers: usize,
    /// Most of them at once.
    pub at_once: usize,
    /// Block size to ask for.
    pub blksize: u16,
    /// Window to ask for.
    pub window: u16,
    /// The part of packets to clients that is lost, 0 to 1.
    pub loss: f64,
    /// What chance is made from.
    pub seed: u64,
    /// Clients take this long before they acknowledge anything, and keep nothing of what they get.
    pub think_time: Option<Duration>,
    /// When to give up.
    pub limit: Duration,
    /// Threads.
    pub threads: usize,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// From the first request to the end of the last transfer.
    pub wall: Duration,
    /// Transfers that ended with the right content.
    pub right: usize,
    /// Transfers that ended with wrong content.
    pub wrong: usize,
    /// Transfers that the server ended, or that were given up for its silence.
    pub failed: usize,
    /// Transfers that had not ended when time was up.
    pub unfinished: usize,
    /// Packets that clients had to send again, requests included.
    pub resends: u64,
    /// Clients that had to repeat their request.
    pub retransmitted: usize,
    /// Transfers for which the window was granted.
    pub windowed: usize,
    /// CPU time of the clients until the clock stopped.
    pub cpu: Duration,
    /// How long each right transfer took.
    pub took: Vec<Duration>,
}

/// What others see of a crowd while it works.
#[derive(Debug, Default)]
pub struct LoadControl {
    /// Transfers that got their first block.
    pub open: AtomicUsize,
    /// Set by whoever wants it to end.
    pub stop: AtomicBool,
}

/// Runs all transfers.
///
/// # Errors
/// Those of sockets.
pub fn run(spec: &LoadSpec<'_>, control: &LoadControl) -> Result<Outcome, Error> {
    let threads = spec.threads.clamp(1, spec.transfers.max(1));
    let barrier = Barrier::new(threads);
    let done: Vec<Result<Outcome, Error>> = std::thread::scope(|scope| {
        let hands: Vec<_> = (0..threads)
            .map(|n| {
                scope.spawn({
                    let barrier = &barrier;
                    move || work(spec, control, n, threads, barrier)
                })
            })
            .collect();
        hands.into_iter().map(|h| h.join().unwrap_or_else(|_| Err(Error::failed("playing clients", "a thread panicked")))).collect()
    });
    let mut all = Outcome::default();
    for one in done {
        let one = one?;
        all.wall = all.wall.max(one.wall);
        all.right += one.right;
        all.wrong += one.wrong;
        all.failed += one.failed;
        all.unfinished += one.unfinished;
        all.resends += one.resends;
        all.retransmitted += one.retransmitted;
        all.windowed += one.windowed;
        all.cpu += one.cpu;
        all.took.extend(one.took);
    }
    all.took.sort();
    Ok(all)
}

fn work(spec: &LoadSpec<'_>, control: &LoadControl, number: usize, threads: usize, barrier: &Barrier) -> Result<Outcome, Error> {
    let prepared = Concurrent::new(spec, control, number, threads).with_context(|| "preparing clients".to_owned());
    // Waits in any case, or the other threads would wait for this one for ever.
    barrier.wait();
    let mut concurrent = prepared?;
    let (since, before) = (Instant::now(), thread_cpu());
    let wall = concurrent.run_clients(since).with_context(|| "playing clients".to_owned())?;
    let spent = thread_cpu().saturating_sub(before);
    let mut outcome = Outcome { wall, cpu: spent, ..concurrent.outcome };
    for transfer in concurrent.transfers {
        outcome.windowed += usize::from(spec.window > 1 && transfer.window() == spec.window);
        outcome.retransmitted += usize::from(transfer.retransmitted);
        match transfer.took {
            Some(took) if <[u8; 32]>::from(Sha256::digest(&transfer.content)) == spec.digest => {
                outcome.right += 1;
                outcome.took.push(took);
            }
            Some(_) => outcome.wrong += 1,
            None if transfer.is_over() => outcome.failed += 1,
            None => outcome.unfinished += 1,
        }
    }
    Ok(outcome)
}

struct Concurrent<'a> {
    spec: &'a LoadSpec<'a>,
    control: &'a LoadControl,
    socket: UdpSocket,
    inbox: Inbox,
    outbox: Outbox,
    request: Vec<u8>,
    /// Clients of this thread have addresses `CLIENTS + 1 + number + index * threads`.
    number: usize,
    threads: usize,
    transfers: Vec<Transfer>,
    active: Vec<usize>,
    next: usize,
    at_once: usize,
    outcome: Outcome,
}

impl<'a> Concurrent<'a> {
    fn new(spec: &'a LoadSpec<'a>, control: &'a LoadControl, number: usize, threads: usize) -> io::Result<Self> {
        let share = |all: usize| all / threads + usize::from(number < all % threads);
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
        set_receive_buffer(&socket)?;
        socket.set_read_timeout(Some(TICK))?;
        let keep = spec.think_time.is_none().then_some(spec.size);
        let seed = |index: usize| spec.seed ^ ((index * threads + number) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let transfers = (0..share(spec.transfers)).map(|i| Transfer::new(keep, spec.window, spec.loss, seed(i), spec.think_time)).collect();
        Ok(Concurrent {
            spec,
            control,
            socket,
            inbox: Inbox::new(64, usize::from(spec.blksize.max(512)) + 4),
            outbox: Outbox::new(64, 128),
            request: request(spec.file, spec.blksize, spec.window),
            number,
            threads,
            transfers,
            active: Vec::new(),
            next: 0,
            at_once: share(spec.at_once).max(1),
            outcome: Outcome::default(),
        })
    }

    fn address(&self, index: usize) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(CLIENTS) + (1 + self.number + index * self.threads) as u32)
    }

    fn index(&self, address: Ipv4Addr) -> Option<usize> {
        let offset = (u32::from(address).checked_sub(u32::from(CLIENTS))? as usize).checked_sub(1 + self.number)?;
        (offset % self.threads == 0).then_some(offset / self.threads)
    }

    /// Works until all transfers ended; when the last one did.
    fn run_clients(&mut self, since: Instant) -> io::Result<Duration> {
        let (mut ended, mut tick) = (Duration::ZERO, since);
        loop {
            while self.active.len() < self.at_once && self.next < self.transfers.len() {
                let index = self.next;
                self.next += 1;
                self.active.push(index);
                let action = self.transfers[index].start(Instant::now());
                self.run_action(index, action)?;
            }
            self.outbox.flush(self.socket.as_fd())?;
            let before = self.active.len();
            let got = match self.inbox.receive(self.socket.as_fd()) {
                Err(e) if is_timeout(&e) || e.kind() == io::ErrorKind::ConnectionRefused => 0,
                done => done?,
            };
            let now = Instant::now();
            for slot in 0..got {
                let datagram = self.inbox.get(slot);
                if datagram.from.ip() == self.spec.server.ip()
                    && let Some(index) = self.index(datagram.to)
                    && let Some(transfer) = self.transfers.get_mut(index)
                {
                    let action = transfer.receive(now, datagram.from.port(), datagram.bytes);
                    self.run_action(index, action)?;
                }
            }
            if now - tick >= TICK {
                tick = now;
                for at in 0..self.active.len() {
                    let index = self.active[at];
                    let action = self.transfers[index].expire(now, TIMEOUT, TRIES);
                    self.outcome.resends += u64::from(action.is_repeat());
                    self.run_action(index, action)?;
                }
            }
            let transfers = &self.transfers;
            if got > 0 || now == tick {
                self.active.retain(|index| !transfers[*index].is_over());
            }
            if self.active.len() < before {
                ended = since.elapsed();
            }
            let all = self.active.is_empty() && self.next == self.transfers.len();
            if all || since.elapsed() > self.spec.limit || self.control.stop.load(Ordering::Relaxed) {
                self.outbox.flush(self.socket.as_fd())?;
                return Ok(if all { ended } else { since.elapsed() });
            }
        }
    }

    fn run_action(&mut self, index: usize, action: Action) -> io::Result<()> {
        let (from, server) = (self.address(index), self.spec.server);
        let socket = self.socket.as_fd();
        match action {
            Action::Nothing => Ok(()),
            Action::Opened => {
                self.control.open.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Action::Request { .. } => {
                let request = &self.request;
                self.outbox.push(socket, from, server, |to| {
                    to[..request.len()].copy_from_slice(request);
                    request.len()
                })
            }
            Action::Ack { tid, block, .. } => self.outbox.push(socket, from, SocketAddrV4::new(*server.ip(), tid), |to| {
                to[..4].copy_from_slice(&[0, 4, (block >> 8) as u8, block as u8]);
                4
            }),
        }
    }
}

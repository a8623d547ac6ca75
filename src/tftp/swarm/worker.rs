//! One thread of a swarm: one epoll for the sockets of its clients, one heap for their time-outs.

use super::client::{Client, ClientContext, SwarmContext};
use super::tally::Tally;
use guideway_packet::time::Time;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Events of one epoll call.
const EVENTS: usize = 512;
/// Transfers started before answers are read again.
const MAX_STARTS: usize = 32;
/// Longest sleep.
const MAX_WAIT: Duration = Duration::from_millis(100);

/// State shared by the workers.
#[derive(Debug)]
pub struct Shared {
    /// Total number of transfers.
    pub transfers: u64,
    /// Number of the next transfer to start.
    pub next: AtomicU64,
    /// Number of ended transfers.
    pub ended: AtomicU64,
    /// When the swarm started.
    pub origin: Instant,
    /// Time limit of the run.
    pub limit: Duration,
}

impl Shared {
    fn now(&self) -> Time {
        Time(0).plus(self.origin.elapsed())
    }

    /// Claims the next transfer and returns its number.
    fn claim(&self) -> Option<u64> {
        if self.next.load(Ordering::Relaxed) >= self.transfers {
            return None;
        }
        Some(self.next.fetch_add(1, Ordering::Relaxed)).filter(|number| *number < self.transfers)
    }
}

/// A worker.
pub struct Worker<'a> {
    shared: &'a Shared,
    context: &'a SwarmContext<'a>,
    epoll: Epoll,
    clients: Vec<Client>,
    /// The earliest entry of each client in `timers`.
    scheduled: Vec<Option<Time>>,
    timers: BinaryHeap<Reverse<(Time, usize)>>,
    idle: VecDeque<usize>,
    /// Time between two starts, and when the next one is due.
    start_interval: Option<(Duration, Time)>,
    tally: Tally,
    out: Vec<u8>,
}

/// The sockets of a client are numbered in the low bits.
const SOCKET_BITS: u32 = 4;
/// Largest number of sockets of one client.
pub const MAX_SOCKETS: usize = 1 << SOCKET_BITS;

impl<'a> Worker<'a> {
    /// Creates a worker for these clients; `start_interval` is the time between two starts.
    ///
    /// # Errors
    /// Errors of epoll.
    pub fn new(
        shared: &'a Shared,
        context: &'a SwarmContext<'a>,
        clients: Vec<Client>,
        start_interval: Option<Duration>,
    ) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        for (number, client) in clients.iter().enumerate() {
            for (socket, which) in client.sockets().iter().take(MAX_SOCKETS).zip(0u64..) {
                epoll.add(socket, EpollEvent::new(EpollFlags::EPOLLIN, (number as u64) << SOCKET_BITS | which))?;
            }
        }
        Ok(Worker {
            shared,
            context,
            epoll,
            scheduled: vec![None; clients.len()],
            timers: BinaryHeap::with_capacity(clients.len()),
            idle: (0..clients.len()).collect(),
            clients,
            start_interval: start_interval.map(|start_interval| (start_interval, Time(0))),
            tally: Tally::default(),
            out: Vec::new(),
        })
    }

    /// Runs until all transfers have ended or the time limit is reached.
    ///
    /// # Errors
    /// Errors of epoll.
    pub fn run(mut self) -> io::Result<Tally> {
        let (mut events, mut buffer) = ([EpollEvent::empty(); EVENTS], vec![0; 65_536]);
        let end = Time(0).plus(self.shared.limit);
        loop {
            let now = self.shared.now();
            let wake = self.start(now);
            if self.idle.len() == self.clients.len() && wake.is_none() {
                break;
            }
            if now >= end {
                self.clients.iter_mut().for_each(|client| client.give_up(&mut self.tally));
                break;
            }
            let due = self.timers.peek().map(|Reverse((due, _))| *due);
            let wait = [wake, due, Some(end)].into_iter().flatten().min().map_or(MAX_WAIT, |then| then - now).min(MAX_WAIT);
            // Rounded up: otherwise the last part of a millisecond would be a busy loop. Zero stays zero.
            let wait = if wait.is_zero() { 0 } else { (wait.as_micros() / 1000) as u16 + 1 };
            let count = match self.epoll.wait(&mut events, EpollTimeout::from(wait)) {
                Err(nix::Error::EINTR) => 0,
                done => done?,
            };
            for event in events.iter().take(count) {
                let (number, socket) = ((event.data() >> SOCKET_BITS) as usize, event.data() as usize % MAX_SOCKETS);
                self.readable(number, socket, &mut buffer);
            }
            self.expire();
        }
        self.tally.time = self.tally.time.max(Duration::from_micros(1));
        Ok(self.tally)
    }

    /// Starts transfers that are due; returns when the next one is due.
    fn start(&mut self, now: Time) -> Option<Time> {
        for _ in 0..MAX_STARTS {
            let number = *self.idle.front()?;
            if let Some((start_interval, due)) = &mut self.start_interval {
                if *due > now {
                    return (self.shared.next.load(Ordering::Relaxed) < self.shared.transfers).then_some(*due);
                }
                // Missed starts are made up for, but at most one second of them.
                *due = due.plus(*start_interval).max(Time(now.0.saturating_sub(1_000_000_000)));
            }
            let transfer = self.shared.claim()?;
            self.idle.pop_front();
            self.with(number, |client, client_context| client.start(now, transfer, client_context));
            if self.clients.get(number).is_some_and(Client::is_idle) {
                self.ended(number);
            }
        }
        Some(now)
    }

    fn readable(&mut self, number: usize, socket: usize, buffer: &mut [u8]) {
        let Some(from) = self.clients.get(number).and_then(|client| client.sockets().get(socket)) else { return };
        // One datagram for each event: the next poll reports the rest.
        if let Ok((length, from)) = from.recv_from(buffer) {
            let now = self.shared.now();
            self.with(number, |client, client_context| client.receive(now, socket, from, &buffer[..length], client_context));
        }
    }

    fn expire(&mut self) {
        let now = self.shared.now();
        while let Some(Reverse((due, number))) = self.timers.peek().copied()
            && due <= now
        {
            self.timers.pop();
            if let Some(scheduled) = self.scheduled.get_mut(number)
                && *scheduled == Some(due)
            {
                *scheduled = None;
                self.with(number, |client, client_context| client.expire(now, client_context));
            }
        }
    }

    /// Calls `body` with a client, then updates its timer and handles its end.
    fn with(&mut self, number: usize, body: impl FnOnce(&mut Client, &mut ClientContext<'_>)) {
        let Some(client) = self.clients.get_mut(number) else { return };
        let mut client_context = ClientContext { context: self.context, tally: &mut self.tally, out: &mut self.out };
        let was_idle = client.is_idle();
        body(client, &mut client_context);
        if client.is_idle() && !was_idle {
            self.ended(number);
        }
        self.schedule(number);
    }

    fn ended(&mut self, number: usize) {
        self.idle.push_back(number);
        self.shared.ended.fetch_add(1, Ordering::Relaxed);
        self.tally.time = self.shared.origin.elapsed();
    }

    /// Schedules the client's timer. An earlier entry stays: when it expires, it does nothing and is scheduled again.
    fn schedule(&mut self, number: usize) {
        let (Some(client), Some(scheduled)) = (self.clients.get(number), self.scheduled.get_mut(number)) else { return };
        if let Some(deadline) = client.deadline()
            && scheduled.is_none_or(|earliest| deadline < earliest)
        {
            *scheduled = Some(deadline);
            self.timers.push(Reverse((deadline, number)));
        }
    }
}

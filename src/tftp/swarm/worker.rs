//! One thread of a swarm: the sockets of its clients under one epoll, their time-outs in one heap.

use super::client::{Client, Hands, World};
use super::tally::Tally;
use guideway_packet::time::Time;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Events taken at once.
const EVENTS: usize = 512;
/// Transfers begun before answers are looked at again.
const STARTS: usize = 32;
/// Longest sleep.
const LONGEST: Duration = Duration::from_millis(100);

/// What the workers share.
#[derive(Debug)]
pub struct Shared {
    /// Transfers in all.
    pub transfers: u64,
    /// The next one to begin.
    pub next: AtomicU64,
    /// Those that ended.
    pub ended: AtomicU64,
    /// When the swarm began.
    pub origin: Instant,
    /// When it ends at the latest.
    pub limit: Duration,
}

impl Shared {
    fn now(&self) -> Time {
        Time(0).plus(self.origin.elapsed())
    }

    /// The number of a transfer that nobody began yet.
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
    world: &'a World<'a>,
    epoll: Epoll,
    clients: Vec<Client>,
    /// The earliest entry of each client in `timers`.
    scheduled: Vec<Option<Time>>,
    timers: BinaryHeap<Reverse<(Time, usize)>>,
    idle: VecDeque<usize>,
    /// Time between two starts, and when the next is due.
    pace: Option<(Duration, Time)>,
    tally: Tally,
    out: Vec<u8>,
}

/// The sockets of a client are numbered in the low bits.
const SOCKET_BITS: u32 = 4;
/// Most sockets of one client.
pub const MOST_SOCKETS: usize = 1 << SOCKET_BITS;

impl<'a> Worker<'a> {
    /// A worker for these clients; `pace`: the time between two starts.
    ///
    /// # Errors
    /// Those of epoll.
    pub fn new(shared: &'a Shared, world: &'a World<'a>, clients: Vec<Client>, pace: Option<Duration>) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        for (number, client) in clients.iter().enumerate() {
            for (socket, which) in client.sockets().iter().take(MOST_SOCKETS).zip(0u64..) {
                epoll.add(socket, EpollEvent::new(EpollFlags::EPOLLIN, (number as u64) << SOCKET_BITS | which))?;
            }
        }
        Ok(Worker {
            shared,
            world,
            epoll,
            scheduled: vec![None; clients.len()],
            timers: BinaryHeap::with_capacity(clients.len()),
            idle: (0..clients.len()).collect(),
            clients,
            pace: pace.map(|pace| (pace, Time(0))),
            tally: Tally::default(),
            out: Vec::new(),
        })
    }

    /// Works until all transfers ended or the time is up.
    ///
    /// # Errors
    /// Those of epoll.
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
            let wait = [wake, due, Some(end)].into_iter().flatten().min().map_or(LONGEST, |then| then - now).min(LONGEST);
            // Rounded up, or the last part of a millisecond would be spent in a busy loop; nothing to wait for is no wait.
            let wait = if wait.is_zero() { 0 } else { (wait.as_micros() / 1000) as u16 + 1 };
            let count = match self.epoll.wait(&mut events, EpollTimeout::from(wait)) {
                Err(nix::Error::EINTR) => 0,
                done => done?,
            };
            for event in events.iter().take(count) {
                let (number, socket) = ((event.data() >> SOCKET_BITS) as usize, event.data() as usize % MOST_SOCKETS);
                self.readable(number, socket, &mut buffer);
            }
            self.expire();
        }
        self.tally.time = self.tally.time.max(Duration::from_micros(1));
        Ok(self.tally)
    }

    /// Begins what is due; says when to come back for more.
    fn start(&mut self, now: Time) -> Option<Time> {
        for _ in 0..STARTS {
            let number = *self.idle.front()?;
            if let Some((pace, due)) = &mut self.pace {
                if *due > now {
                    return (self.shared.next.load(Ordering::Relaxed) < self.shared.transfers).then_some(*due);
                }
                // What was missed is made up for, but not more than a second of it.
                *due = due.plus(*pace).max(Time(now.0.saturating_sub(1_000_000_000)));
            }
            let transfer = self.shared.claim()?;
            self.idle.pop_front();
            self.with(number, |client, hands| client.start(now, transfer, hands));
            if self.clients.get(number).is_some_and(Client::is_idle) {
                self.ended(number);
            }
        }
        Some(now)
    }

    fn readable(&mut self, number: usize, socket: usize, buffer: &mut [u8]) {
        let Some(from) = self.clients.get(number).and_then(|client| client.sockets().get(socket)) else { return };
        // One datagram for each event: more of them come with the next turn.
        if let Ok((length, from)) = from.recv_from(buffer) {
            let now = self.shared.now();
            self.with(number, |client, hands| client.receive(now, socket, from, &buffer[..length], hands));
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
                self.with(number, |client, hands| client.expire(now, hands));
            }
        }
    }

    /// Does something with a client, and sees to what follows: its time-out, its end.
    fn with(&mut self, number: usize, body: impl FnOnce(&mut Client, &mut Hands<'_>)) {
        let Some(client) = self.clients.get_mut(number) else { return };
        let mut hands = Hands { world: self.world, tally: &mut self.tally, out: &mut self.out };
        let was_idle = client.is_idle();
        body(client, &mut hands);
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

    /// Sees that the client is woken in time. An entry that comes too early stays: it finds nothing to do and is put where it belongs.
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

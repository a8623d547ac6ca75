//! Carries the events of a script out on the hosts of a lab.

use super::script::Event;
use crate::directors::configuration;
use crate::ledger::Record;
use crate::plan::Backend;
use crate::session::Lab;
use crate::topology::INTERFACE;
use guideway_host::error::{Doing, Error};
use guideway_host::netlink::Netlink;
use nix::sys::signal::Signal;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// How long a director may take to have what it was told.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between withdrawing a director's route and ending it: what is under way on the fabric arrives.
const SETTLE: Duration = Duration::from_millis(100);

/// A lab in trouble: what was done to it so far.
pub struct Field<'a> {
    /// The lab.
    pub lab: &'a mut Lab,
    /// Files that are being fetched.
    pub open: BTreeSet<String>,
    /// The bytes of a file.
    size: u64,
    /// What the pool should be.
    pool: Vec<Backend>,
    /// Backends that are seen to be dead, and directors whose routes are withdrawn.
    down: BTreeSet<String>,
    /// Hosts that were killed or stopped.
    silent: BTreeSet<String>,
    /// Who plays which part of [`super::script::BY_PART`].
    parts: BTreeMap<String, String>,
    chance: fastrand::Rng,
}

impl<'a> Field<'a> {
    /// A lab as it came up, with files of `size` bytes.
    pub fn new(lab: &'a mut Lab, size: u64, seed: u64) -> Self {
        let pool = lab.plan.backends.clone();
        Field {
            lab,
            open: BTreeSet::new(),
            size,
            pool,
            down: BTreeSet::new(),
            silent: BTreeSet::new(),
            parts: BTreeMap::new(),
            chance: fastrand::Rng::with_seed(seed),
        }
    }

    /// Carries the events of one step out, in order; changes of the pool that follow one another become one.
    ///
    /// # Errors
    /// When the lab does not do what it must. Events for directors that are left out do nothing.
    pub fn step(&mut self, events: &[Event]) -> Result<(), Error> {
        let mut untold = false;
        let events: Vec<Event> = events.iter().map(|event| event.with_names(|part| self.by_part(part))).collect();
        if let Some((part, _)) = self.parts.iter().find(|(_, name)| name.is_empty()) {
            return Err(Error::failed(format!("finding the {part}"), "no backend serves what is under way"));
        }
        for event in &events {
            if event.is_about_the_pool() {
                self.change_pool(event);
                untold = true;
                continue;
            }
            if std::mem::take(&mut untold) {
                self.tell()?;
            }
            self.carry_out(event)?;
        }
        if untold { self.tell() } else { Ok(()) }
    }

    fn carry_out(&mut self, event: &Event) -> Result<(), Error> {
        match event {
            Event::Kill(host) => self.kill(host),
            Event::Start(host) => self.start(host)?,
            Event::Restart(host, after) => {
                self.kill(host);
                std::thread::sleep(*after);
                self.start(host)?;
            }
            Event::Stop(host) => {
                self.signal(host, Signal::SIGSTOP)?;
                self.silent.insert(host.clone());
            }
            Event::Cont(host) => {
                self.signal(host, Signal::SIGCONT)?;
                self.silent.remove(host);
            }
            Event::Partition(host) => self.link(host, false)?,
            Event::Deafen(host) => self.hears(host, false)?,
            Event::Heal(host) => {
                self.hears(host, true)?;
                self.link(host, true)?;
            }
            Event::Down(host) => self.announce(host, false)?,
            Event::Up(host) => self.announce(host, true)?,
            Event::ReloadBroken(host) => {
                if let Some(director) = self.director(host).and_then(|number| self.lab.directors.get(number)) {
                    director.reload("[director\nname = \"broken\"\n")?;
                }
            }
            Event::Reshuffle => {
                let key = std::array::from_fn(|_| self.chance.u8(..));
                self.lab.router.reshuffle(key);
            }
            Event::Link(conditions) => {
                if let Some(link) = &self.lab.router.link {
                    link.conditions.store(std::sync::Arc::new(*conditions));
                }
            }
            Event::ChangeFile(hosts) => {
                for number in hosts.iter().filter_map(|host| self.backend(host)) {
                    self.lab.files.change(number).doing(|| "changing files".to_owned())?;
                }
            }
            Event::RollAll => self.roll_all()?,
            Event::Drain(_) | Event::Add(_) | Event::Remove(_) | Event::Weight(..) => self.change_pool(event),
        }
        Ok(())
    }

    /// The name of the backend that plays this part, of [`super::script::BY_PART`]: it serves most transfers, and of several that do the one whose
    /// transfers are further; no host's when there is none.
    fn by_part(&mut self, part: &str) -> String {
        if let Some(name) = self.parts.get(part) {
            return name.clone();
        }
        let records = self.lab.router.link.as_ref().map(|link| link.ledger.records()).unwrap_or_default();
        let least = usize::from(part == "heir");
        let counts = |r: &&Record| r.takeovers() >= least && self.open.contains(&r.file);
        let server = |r: &Record| self.lab.plan.sender(r.server).map(|b| b.name.as_str()).filter(|name| !self.silent.contains(*name));
        let name = serves_most(records.iter().filter(counts).map(|r| (server(r), r.bytes)), self.size).unwrap_or_default().to_owned();
        self.parts.insert(part.to_owned(), name.clone());
        name
    }

    fn change_pool(&mut self, event: &Event) {
        match event {
            Event::Drain(host) => self.pool.iter_mut().filter(|b| b.name == *host).for_each(|b| b.drain = true),
            Event::Remove(host) => self.pool.retain(|b| b.name != *host),
            Event::Weight(host, weight) => self.pool.iter_mut().filter(|b| b.name == *host).for_each(|b| b.weight = *weight),
            Event::Add(host) => {
                let known = self.lab.plan.all_backends().find(|b| b.name == *host).cloned();
                self.pool.retain(|b| b.name != *host);
                self.pool.extend(known);
            }
            Event::Down(host) => drop(self.down.insert(host.clone())),
            Event::Up(host) => drop(self.down.remove(host)),
            _ => {}
        }
    }

    /// Tells directors what the pool is and who of it is down: here by a drain in their files, as an operator without health checks would do it. In
    /// a lab without directors the router is told.
    fn tell(&mut self) -> Result<(), Error> {
        let members = self.members();
        if self.lab.plan.directors.is_empty() {
            let hops: Vec<IpAddr> = members.iter().filter(|b| !b.drain && b.weight > 0).map(|b| b.address).collect();
            return self.next_hops(&hops);
        }
        if let Some(shared) = &self.lab.shared {
            let generation = shared.tell(&self.lab.plan, &self.pool, &self.down)?;
            let told: Vec<usize> = (0..self.lab.directors.len()).filter(|n| !self.silent.contains(&self.lab.directors[*n].name)).collect();
            return told.into_iter().try_for_each(|number| self.wait_until(number, |now| now.as_u64() >= Some(generation)));
        }
        let mut waiting = Vec::new();
        for (number, director) in self.lab.directors.iter_mut().enumerate() {
            if !self.silent.contains(&director.name) {
                let before = director.status()?["generation"].clone();
                director.reload(&configuration(&self.lab.plan, number, self.lab.io, &director.socket, &members))?;
                waiting.push((number, before));
            }
        }
        waiting.into_iter().try_for_each(|(number, before)| self.wait_until(number, |now| *now != before))
    }

    fn members(&self) -> Vec<Backend> {
        let seen = |backend: &Backend| Backend { drain: backend.drain || self.down.contains(&backend.name), ..backend.clone() };
        self.pool.iter().map(seen).collect()
    }

    /// Waits until a director has a generation that is right.
    fn wait_until(&mut self, number: usize, right: impl Fn(&Value) -> bool) -> Result<(), Error> {
        let director = &mut self.lab.directors[number];
        let since = Instant::now();
        while !right(&director.status()?["generation"]) {
            if since.elapsed() > PATIENCE {
                return Err(Error::failed(format!("reloading {}", director.name), format!("nothing changed in {} s", PATIENCE.as_secs())));
            }
            // The control socket has no call that waits for a generation.
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Withdraws a director's route, or announces it again.
    fn announce(&mut self, director: &str, up: bool) -> Result<(), Error> {
        if self.lab.plan.directors.is_empty() {
            return Ok(());
        }
        if up {
            self.down.remove(director)
        } else {
            self.down.insert(director.to_owned())
        };
        let announced = self.lab.plan.directors.iter().filter(|d| !self.down.contains(&d.name));
        let hops: Vec<IpAddr> = announced.map(|d| d.address).collect();
        self.next_hops(&hops)
    }

    /// The last one stays: a router that has lost every route would answer clients by ICMP, and no script is about that.
    fn next_hops(&self, hops: &[IpAddr]) -> Result<(), Error> {
        if hops.is_empty() { Ok(()) } else { self.lab.topology.set_next_hops(&self.lab.plan, hops) }
    }

    fn kill(&mut self, host: &str) {
        match (self.director(host), self.backend(host)) {
            (Some(director), _) => self.lab.directors[director].kill(),
            (_, Some(backend)) => self.lab.backends[backend].kill(),
            _ => return,
        }
        self.silent.insert(host.to_owned());
    }

    fn start(&mut self, host: &str) -> Result<(), Error> {
        let members = self.members();
        match (self.director(host), self.backend(host)) {
            (Some(director), _) => self.lab.start_director(director, &members)?,
            (_, Some(backend)) => self.lab.start_backend(backend)?,
            _ => {}
        }
        self.silent.remove(host);
        Ok(())
    }

    fn signal(&mut self, host: &str, signal: Signal) -> Result<(), Error> {
        match (self.director(host), self.backend(host)) {
            (Some(director), _) => self.lab.directors[director].signal(signal),
            (_, Some(backend)) => self.lab.backends[backend].signal(signal),
            _ => Ok(()),
        }
    }

    /// Switches a host's port of the fabric.
    fn link(&self, host: &str, up: bool) -> Result<(), Error> {
        if self.director(host).is_none() && self.backend(host).is_none() {
            return Ok(());
        }
        Netlink::within(&self.lab.topology.fabric, |n| n.up(host, up))
    }

    /// Gives a backend another link-layer address than the one that all others know, which it tells nobody; or its own again.
    fn hears(&self, host: &str, hears: bool) -> Result<(), Error> {
        let Some(number) = self.backend(host) else { return Ok(()) };
        let (Some(backend), Some(namespace)) = (self.lab.plan.all_backends().nth(number), self.lab.topology.backends.get(number)) else {
            return Ok(());
        };
        let mut mac = backend.mac;
        if !hears {
            mac[1] ^= 0xff;
        }
        // While its link is cut: a question of its own to the link, before it knows its neighbours again, would tell all the new address.
        self.link(host, false)?;
        // 8: it answers nobody who asks for its addresses.
        namespace.sysctl("ipv4/conf/all/arp_ignore", if hears { "1" } else { "8" })?;
        Netlink::within(namespace, |n| n.mac(INTERFACE, mac))?;
        // The kernel forgets an interface's neighbours when its address changes.
        self.lab.topology.introduce(&self.lab.plan)?;
        self.link(host, true)
    }

    /// Every director and every backend is ended in good order and started again, with what directs packets to it told before and after.
    fn roll_all(&mut self) -> Result<(), Error> {
        for number in 0..self.lab.directors.len() {
            let name = self.lab.directors[number].name.clone();
            self.announce(&name, false)?;
            std::thread::sleep(SETTLE);
            self.lab.directors[number].stop()?;
            self.start(&name)?;
            self.announce(&name, true)?;
        }
        let names: Vec<String> = self.pool.iter().map(|b| b.name.clone()).collect();
        for name in names {
            self.step(&[Event::Down(name.clone())])?;
            self.kill(&name);
            self.start(&name)?;
            self.step(&[Event::Up(name)])?;
        }
        Ok(())
    }

    /// The processes that serve and direct, by host.
    pub fn processes(&self) -> Vec<(String, u32)> {
        let running = |host: &String| !self.silent.contains(host);
        let directors = self.lab.directors.iter().map(|d| (d.name.clone(), d.pid().as_raw().unsigned_abs()));
        let servers = self.lab.backends.iter().map(|b| (b.name.clone(), b.server.id()));
        directors.chain(servers).filter(|(host, _)| running(host)).collect()
    }

    /// The place of a director.
    fn director(&self, host: &str) -> Option<usize> {
        self.lab.directors.iter().position(|d| d.name == host)
    }

    /// The place of a backend.
    fn backend(&self, host: &str) -> Option<usize> {
        self.lab.backends.iter().position(|b| b.name == host)
    }

    /// Wakes who was stopped, and ends the directors that still run; what did not end as it must.
    pub fn end(&mut self) -> Vec<Error> {
        let mut wrong = Vec::new();
        for director in &mut self.lab.directors {
            // A stopped process does not see a SIGTERM; one that was killed is gone.
            let _gone = director.signal(Signal::SIGCONT);
            if !self.silent.contains(&director.name) {
                wrong.extend(director.stop().err());
            }
        }
        wrong
    }
}

/// The server of most of these transfers, given as server and bytes of `size`; of several that serve as many, the one whose transfers are further. What
/// has 2 % to go at most does not count: a client tells late that it has all, and may have it before the event.
fn serves_most<'a>(transfers: impl Iterator<Item = (Option<&'a str>, u64)>, size: u64) -> Option<&'a str> {
    let mut serves: BTreeMap<&str, (usize, u64)> = BTreeMap::new();
    for (server, bytes) in transfers.filter(|(_, bytes)| *bytes < size - size / 50) {
        if let Some(most) = server.map(|server| serves.entry(server).or_default()) {
            *most = (most.0 + 1, most.1 + bytes);
        }
    }
    serves.into_iter().max_by_key(|(_, most)| *most).map(|(server, _)| server)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_serves_most_of_what_is_under_way_and_nothing_that_is_over() {
        let most = |transfers: &[(&'static str, u64)]| serves_most(transfers.iter().map(|(server, bytes)| (Some(*server), *bytes)), 1000);
        assert_eq!(most(&[("t1", 10), ("t2", 900), ("t1", 20)]), Some("t1"));
        assert_eq!(most(&[("t1", 1000), ("t2", 775), ("t3", 770)]), Some("t2"), "t1 has nothing left to do");
        assert_eq!(most(&[("t1", 981), ("t1", 990), ("t2", 1)]), Some("t2"));
        assert_eq!(most(&[("t1", 1000)]), None);
        assert_eq!(serves_most([(None, 10)].into_iter(), 1000), None, "nobody has answered yet, or who did is dead");
    }
}

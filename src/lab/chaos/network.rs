//! Executes the events of a script on the hosts of a lab.

use super::script::Event;
use crate::configuration::configuration;
use crate::lab::Lab;
use crate::plan::Backend;
use crate::sys::{self, Queues};
use crate::topology::INTERFACE;
use crate::transfer_log::TransferRecord;
use guideway_host::error::{Context, Error};
use guideway_host::netlink::Netlink;
use guideway_testbed::wait::wait_for;
use nix::sys::signal::Signal;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::time::Duration;

/// Time that a director has to apply a new pool.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Time between withdrawing a director's route and ending it, in which packets in flight arrive.
const WITHDRAW_DELAY: Duration = Duration::from_millis(100);

/// A lab and the faults in it.
pub struct Network<'a> {
    /// The lab.
    pub lab: &'a mut Lab,
    /// Files that are being fetched.
    pub open: BTreeSet<String>,
    /// The bytes of a file.
    size: u64,
    /// The wanted pool.
    pool: Vec<Backend>,
    /// Backends that are marked down, and directors whose routes are withdrawn.
    down: BTreeSet<String>,
    /// Hosts that were killed or stopped.
    unresponsive: BTreeSet<String>,
    /// The host of each role of [`super::script::ROLES`].
    roles: BTreeMap<String, String>,
    rng: fastrand::Rng,
}

impl<'a> Network<'a> {
    /// Makes it from a running lab with files of `size` bytes.
    pub fn new(lab: &'a mut Lab, size: u64, seed: u64) -> Self {
        let pool = lab.plan.backends.clone();
        Network {
            lab,
            open: BTreeSet::new(),
            size,
            pool,
            down: BTreeSet::new(),
            unresponsive: BTreeSet::new(),
            roles: BTreeMap::new(),
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    /// Executes the events of one step in order. Consecutive changes of the pool become one.
    ///
    /// # Errors
    /// When the lab does not react as it must. Events for directors that the lab does not have do nothing.
    pub fn step(&mut self, events: &[Event]) -> Result<(), Error> {
        let mut pool_changed = false;
        let events: Vec<Event> = events.iter().map(|event| event.resolve_roles(|role| self.resolve_role(role))).collect();
        if let Some((role, _)) = self.roles.iter().find(|(_, name)| name.is_empty()) {
            return Err(Error::failed(format!("finding the {role}"), "no backend serves what is under way"));
        }
        for event in &events {
            if event.changes_pool() {
                self.change_pool(event);
                pool_changed = true;
                continue;
            }
            if std::mem::take(&mut pool_changed) {
                self.publish_pool()?;
            }
            self.execute(event)?;
        }
        if pool_changed { self.publish_pool() } else { Ok(()) }
    }

    fn execute(&mut self, event: &Event) -> Result<(), Error> {
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
                self.unresponsive.insert(host.clone());
            }
            Event::Cont(host) => {
                self.signal(host, Signal::SIGCONT)?;
                self.unresponsive.remove(host);
            }
            Event::Partition(host) => self.set_link_up(host, false)?,
            Event::BlockReceive(host) => self.set_receiving(host, false)?,
            Event::Heal(host) => {
                self.set_receiving(host, true)?;
                self.set_link_up(host, true)?;
            }
            Event::Down(host) => self.set_route_announced(host, false)?,
            Event::Up(host) => self.set_route_announced(host, true)?,
            Event::ChangeMac(host) => self.change_mac(host)?,
            Event::ChangeMtu(host, mtu) => self.change_mtu(host, *mtu)?,
            Event::ChangeQueues(host, queues) => self.change_queues(host, *queues)?,
            Event::ReloadBroken(host) => {
                if let Some(director) = self.director(host).and_then(|number| self.lab.directors.get(number)) {
                    director.reload("[director\nname = \"broken\"\n")?;
                }
            }
            Event::Reshuffle => {
                let key = std::array::from_fn(|_| self.rng.u8(..));
                self.lab.router.reshuffle(key);
            }
            Event::Link(conditions) => {
                if let Some(link) = &self.lab.router.link {
                    link.conditions.store(std::sync::Arc::new(*conditions));
                }
            }
            Event::ChangeFile(hosts) => {
                for number in hosts.iter().filter_map(|host| self.backend(host)) {
                    self.lab.files.replace_files(number).with_context(|| "changing files".to_owned())?;
                }
            }
            Event::RollingRestart => self.rolling_restart()?,
            Event::Drain(_) | Event::Add(_) | Event::Remove(_) | Event::Weight(..) => self.change_pool(event),
        }
        Ok(())
    }

    /// Returns the backend with this role of [`super::script::ROLES`]: the one that serves most transfers; of several, the one whose transfers are
    /// further. Empty if there is none.
    fn resolve_role(&mut self, role: &str) -> String {
        if let Some(name) = self.roles.get(role) {
            return name.clone();
        }
        let records = self.lab.router.link.as_ref().map(|link| link.transfer_log.records()).unwrap_or_default();
        let least = usize::from(role == "successor");
        let counts = |r: &&TransferRecord| r.takeovers() >= least && self.open.contains(&r.file);
        let server = |r: &TransferRecord| {
            self.lab.plan.backend_by_ttl(r.server_ttl).map(|b| b.name.as_str()).filter(|name| !self.unresponsive.contains(*name))
        };
        let name = backend_with_most_transfers(records.iter().filter(counts).map(|r| (server(r), r.bytes)), self.size)
            .unwrap_or_default()
            .to_owned();
        self.roles.insert(role.to_owned(), name.clone());
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

    /// Gives directors the pool and its down backends: as drained backends in their files, as an operator without health checks would do it. In a lab
    /// without directors the router gets them.
    fn publish_pool(&mut self) -> Result<(), Error> {
        let members = self.members();
        if self.lab.plan.directors.is_empty() {
            let hops: Vec<IpAddr> = members.iter().filter(|b| !b.drain && b.weight > 0).map(|b| b.address).collect();
            return self.next_hops(&hops);
        }
        if let Some(cluster_store) = &self.lab.cluster_store {
            let generation = cluster_store.write_pool(&self.lab.plan, &self.pool, &self.down)?;
            let recipients: Vec<usize> =
                (0..self.lab.directors.len()).filter(|n| !self.unresponsive.contains(&self.lab.directors[*n].name)).collect();
            return recipients.into_iter().try_for_each(|number| self.wait_until(number, |now| now >= generation));
        }
        let mut waiting = Vec::new();
        for (number, director) in self.lab.directors.iter_mut().enumerate() {
            if !self.unresponsive.contains(&director.name) {
                let before = director.status()?.generation;
                director.reload(&configuration(&self.lab.plan, number, self.lab.io, &director.socket, &members))?;
                waiting.push((number, before));
            }
        }
        waiting.into_iter().try_for_each(|(number, before)| self.wait_until(number, |now| now != before))
    }

    fn members(&self) -> Vec<Backend> {
        let seen = |backend: &Backend| Backend { drain: backend.drain || self.down.contains(&backend.name), ..backend.clone() };
        self.pool.iter().map(seen).collect()
    }

    /// Waits until a director has a generation that `right` accepts.
    fn wait_until(&mut self, number: usize, right: impl Fn(u64) -> bool) -> Result<(), Error> {
        let director = &mut self.lab.directors[number];
        // The control socket has no call that waits for a generation.
        wait_for(&format!("reloading {}", director.name), TIMEOUT, || {
            let generation = director.status()?.generation;
            Ok(if right(generation) { ControlFlow::Break(()) } else { ControlFlow::Continue(format!("its generation is {generation}")) })
        })
    }

    /// Withdraws a director's route, or announces it again.
    fn set_route_announced(&mut self, director: &str, up: bool) -> Result<(), Error> {
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

    /// Sets the router's next hops. The last one stays: a router without a route would answer clients with ICMP, and no script tests that.
    fn next_hops(&self, hops: &[IpAddr]) -> Result<(), Error> {
        if hops.is_empty() { Ok(()) } else { self.lab.topology.set_next_hops(&self.lab.plan, hops) }
    }

    fn kill(&mut self, host: &str) {
        match (self.director(host), self.backend(host)) {
            (Some(director), _) => self.lab.directors[director].kill(),
            (_, Some(backend)) => self.lab.backends[backend].kill(),
            _ => return,
        }
        self.unresponsive.insert(host.to_owned());
    }

    fn start(&mut self, host: &str) -> Result<(), Error> {
        let members = self.members();
        match (self.director(host), self.backend(host)) {
            (Some(director), _) => self.lab.start_director(director, &members)?,
            (_, Some(backend)) => self.lab.start_backend(backend)?,
            _ => {}
        }
        self.unresponsive.remove(host);
        Ok(())
    }

    fn signal(&mut self, host: &str, signal: Signal) -> Result<(), Error> {
        match (self.director(host), self.backend(host)) {
            (Some(director), _) => self.lab.directors[director].signal(signal),
            (_, Some(backend)) => self.lab.backends[backend].signal(signal),
            _ => Ok(()),
        }
    }

    /// Sets the port of a host at the fabric up or down.
    fn set_link_up(&self, host: &str, up: bool) -> Result<(), Error> {
        if self.director(host).is_none() && self.backend(host).is_none() {
            return Ok(());
        }
        Netlink::in_namespace(&self.lab.topology.fabric, |n| n.set_up(self.lab.plan.port(host), up))
    }

    /// Gives a backend a link-layer address that no other host knows, so that it receives nothing; or its own again.
    fn set_receiving(&self, host: &str, receiving: bool) -> Result<(), Error> {
        let Some(number) = self.backend(host) else { return Ok(()) };
        let (Some(backend), Some(namespace)) = (self.lab.plan.all_backends().nth(number), self.lab.topology.backends.get(number)) else {
            return Ok(());
        };
        let mut mac = backend.mac;
        if !receiving {
            mac[1] ^= 0xff;
        }
        // The link is down meanwhile: an ARP request of the backend, before it has its neighbours again, would announce the new address.
        self.set_link_up(host, false)?;
        // 8: it answers no ARP request.
        namespace.sysctl("ipv4/conf/all/arp_ignore", if receiving { "1" } else { "8" })?;
        Netlink::in_namespace(namespace, |n| n.set_mac(INTERFACE, mac))?;
        // The kernel forgets an interface's neighbours when its address changes.
        self.lab.topology.add_static_neighbours(&self.lab.plan)?;
        self.set_link_up(host, true)
    }

    /// Gives a director another link-layer address, and tells its neighbours, as an announcement by ARP does.
    fn change_mac(&self, host: &str) -> Result<(), Error> {
        let Some(number) = self.director(host) else { return Ok(()) };
        let (Some(director), Some(namespace)) = (self.lab.plan.directors.get(number), self.lab.topology.directors.get(number)) else {
            return Ok(());
        };
        let mut mac = director.mac;
        mac[1] ^= 0xff;
        Netlink::in_namespace(namespace, |n| n.set_mac(INTERFACE, mac))?;
        self.lab.topology.announce_mac(director.address, mac)
    }

    fn change_mtu(&self, host: &str, mtu: u32) -> Result<(), Error> {
        let Some(namespace) = self.director(host).and_then(|number| self.lab.topology.directors.get(number)) else { return Ok(()) };
        Netlink::in_namespace(namespace, |n| n.set_mtu(INTERFACE, mtu))
    }

    /// Gives a director's interface more or fewer receive queues, and the other end of its cable as many to send by.
    fn change_queues(&self, host: &str, queues: u32) -> Result<(), Error> {
        let Some(namespace) = self.director(host).and_then(|number| self.lab.topology.directors.get(number)) else { return Ok(()) };
        let failed = || format!("giving {host} {queues} queues");
        namespace.run(|| sys::set_queues(INTERFACE, Queues::Receive(queues)).with_context(failed))?;
        self.lab.topology.fabric.run(|| sys::set_queues(host, Queues::Transmit(queues)).with_context(failed))
    }

    /// Stops and starts every director and every backend, one at a time. Each is withdrawn before and announced after.
    fn rolling_restart(&mut self) -> Result<(), Error> {
        for number in 0..self.lab.directors.len() {
            let name = self.lab.directors[number].name.clone();
            self.set_route_announced(&name, false)?;
            std::thread::sleep(WITHDRAW_DELAY);
            self.lab.directors[number].stop()?;
            self.start(&name)?;
            self.set_route_announced(&name, true)?;
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

    /// Returns the running directors and servers, by host.
    pub fn processes(&self) -> Vec<(String, u32)> {
        let running = |host: &String| !self.unresponsive.contains(host);
        let directors = self.lab.directors.iter().map(|d| (d.name.clone(), d.pid().as_raw().unsigned_abs()));
        let servers = self.lab.backends.iter().map(|b| (b.name.clone(), b.server.id()));
        directors.chain(servers).filter(|(host, _)| running(host)).collect()
    }

    /// Returns the index of a director.
    fn director(&self, host: &str) -> Option<usize> {
        self.lab.directors.iter().position(|d| d.name == host)
    }

    /// Returns the index of a backend.
    fn backend(&self, host: &str) -> Option<usize> {
        self.lab.backends.iter().position(|b| b.name == host)
    }

    /// Continues stopped directors and ends all that still run. Returns the errors of those that did not end as they must.
    pub fn stop(&mut self) -> Vec<Error> {
        let mut wrong = Vec::new();
        for director in &mut self.lab.directors {
            // A stopped process does not see a SIGTERM; one that was killed is gone.
            let _gone = director.signal(Signal::SIGCONT);
            if !self.unresponsive.contains(&director.name) {
                wrong.extend(director.stop().err());
            }
        }
        wrong
    }
}

/// Returns the server of most of these transfers, given as server and bytes of `size`; of several, the one whose transfers are further. A transfer with at
/// most 2 % left does not count: its client may have all of it before the event.
fn backend_with_most_transfers<'a>(transfers: impl Iterator<Item = (Option<&'a str>, u64)>, size: u64) -> Option<&'a str> {
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
        let most = |transfers: &[(&'static str, u64)]| {
            backend_with_most_transfers(transfers.iter().map(|(server, bytes)| (Some(*server), *bytes)), 1000)
        };
        assert_eq!(most(&[("t1", 10), ("t2", 900), ("t1", 20)]), Some("t1"));
        assert_eq!(most(&[("t1", 1000), ("t2", 775), ("t3", 770)]), Some("t2"), "t1 has nothing left to do");
        assert_eq!(most(&[("t1", 981), ("t1", 990), ("t2", 1)]), Some("t2"));
        assert_eq!(most(&[("t1", 1000)]), None);
        assert_eq!(backend_with_most_transfers([(None, 10)].into_iter(), 1000), None, "no server has answered yet, or it is dead");
    }
}

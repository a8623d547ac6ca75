//! Next hops of the backends, from the kernel's routes and neighbours. The kernel resolves; we watch, and ask it to. Never our own ARP.

mod log;
mod netlink;
mod path_mtu;
mod table;
#[cfg(test)]
mod tests;

use super::NextHops;
use futures_util::StreamExt;
use guideway_dataplane::tables::NextHop;
use guideway_packet::frame::LOOPBACK;
use ipnet::Ipv4Net;
pub use netlink::{Error, RouteKey};
use netlink::{KernelEvent, Netlink, NetlinkRequests};
use path_mtu::{Listener, Sources, TooBig};
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;
use table::NeighbourTable;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

/// Events within so short a time make one change.
const DEBOUNCE: Duration = Duration::from_millis(5);
/// Interval of a full resync, in case something changed without an event.
const RESYNC_INTERVAL: Duration = Duration::from_secs(60);
/// Pause before another attempt when a request to the kernel failed.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// A storm of route changes costs at most one part in so many of the time.
const MAX_LOAD_DIVISOR: u32 = 5;
/// Far enough to stand for never.
const NEVER: Duration = Duration::from_secs(24 * 3600);

/// What next hops are needed for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NextHopTargets {
    /// The backends' addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// `[[neighbour]]` entries; they win over the kernel's.
    pub static_entries: HashMap<IpAddr, [u8; 6]>,
    /// Our VIPs: packets to others are not ours.
    pub vips: BTreeSet<IpAddr>,
    /// The prefix that our GRE over IPv4 comes from, in place of the director's address.
    pub source_prefix: Option<Ipv4Net>,
}

/// The other ends of the watcher.
#[derive(Debug)]
pub struct Neighbours {
    /// What is wanted; send another value to change it.
    pub targets: watch::Sender<NextHopTargets>,
    /// Backends for which packets came while they had no next hop.
    pub urgent: mpsc::Sender<IpAddr>,
    /// What is known; the first value is complete as far as the kernel knew. It closes when the interface is gone.
    pub hops: watch::Receiver<NextHops>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Neighbours {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Starts to watch, in the network namespace of this thread, for the interface with this index.
///
/// # Errors
/// When the first requests to the kernel fail. Later failures are logged and tried again.
pub async fn watch(interface: u32, key: RouteKey, targets: NextHopTargets) -> Result<Neighbours, Error> {
    let netlink = Netlink::open(interface, key)?;
    start(netlink, None, interface, key, targets).await
}

/// `refresh` replaces the interval at which neighbours in use are checked.
async fn start(
    netlink: Netlink,
    refresh: Option<Duration>,
    interface: u32,
    key: RouteKey,
    targets: NextHopTargets,
) -> Result<Neighbours, Error> {
    let mut table = NeighbourTable::new(interface, key.address);
    table.refresh = refresh.unwrap_or(table.refresh);
    table.static_entries = targets.static_entries.clone();
    resync(&netlink.requests, &mut table, &targets.addresses).await?;
    let listen = |v4: bool| {
        let listener = Listener::open(v4);
        let what = if v4 { "ICMP" } else { "ICMPv6" };
        listener.inspect_err(|e| tracing::warn!("path MTUs towards backends are not learned from {what}: no raw socket: {e}")).ok()
    };
    let too_big = [key.address.v4.and_then(|_| listen(true)), key.address.v6.and_then(|_| listen(false))];
    let (hops, hops_end) = watch::channel(table.next_hops());
    let (targets, wanted_end) = watch::channel(targets);
    let (urgent, urgent_end) = mpsc::channel(64);
    let watcher = Watcher { interface, key, too_big, table, targets: wanted_end, urgent: urgent_end, hops, origin: Instant::now() };
    Ok(Neighbours { targets, urgent, hops: hops_end, task: tokio::spawn(watcher.run(netlink)) })
}

/// The kernel's answers of one moment, for an examination of the host.
#[derive(Clone, Debug)]
pub struct Survey {
    /// Next hops of the targets. Nothing was resolved for them: those of hosts that the kernel does not know are pending.
    pub hops: NextHops,
    /// The director's own addresses that are on no interface.
    pub missing_addresses: Vec<IpAddr>,
    /// VIPs that are addresses of this host.
    pub local_vips: Vec<IpAddr>,
    /// Whether the interface is switched on and has a carrier.
    pub up: bool,
    /// Id of the XDP program that is attached to the interface.
    pub xdp_program: Option<u32>,
}

/// Asks the kernel once, and changes nothing.
///
/// # Errors
/// When a request to the kernel fails.
pub async fn survey(interface: u32, key: RouteKey, targets: NextHopTargets) -> Result<Survey, Error> {
    let netlink = Netlink::open(interface, key)?;
    let mut table = NeighbourTable::new(interface, key.address);
    table.static_entries = targets.static_entries;
    resync(&netlink.requests, &mut table, &targets.addresses).await?;
    let mut local_vips = Vec::new();
    for vip in targets.vips {
        if netlink.requests.is_local(vip).await? {
            local_vips.push(vip);
        }
    }
    let up = table.interfaces.get(&interface).is_some_and(|interface| interface.up);
    let xdp_program = netlink.requests.xdp_program().await?;
    Ok(Survey { hops: table.next_hops(), missing_addresses: table.missing_addresses, local_vips, up, xdp_program })
}

struct Watcher {
    interface: u32,
    key: RouteKey,
    /// For IPv4 and IPv6.
    too_big: [Option<Listener>; 2],
    table: NeighbourTable,
    targets: watch::Receiver<NextHopTargets>,
    urgent: mpsc::Receiver<IpAddr>,
    hops: watch::Sender<NextHops>,
    origin: Instant,
}

/// What has to be done after a wait, and when.
struct Schedule {
    routes: bool,
    everything: bool,
    at: Option<Instant>,
    /// Routes are not looked up again before this.
    routes_from: Instant,
    resync: Instant,
}

impl Schedule {
    fn after_debounce(&mut self) {
        let at = Instant::now() + DEBOUNCE;
        self.at = Some(self.at.map_or(at, |before| before.min(at)));
    }
}

impl Watcher {
    /// Until the other end is dropped, or the interface is gone.
    async fn run(mut self, mut netlink: Netlink) {
        loop {
            match self.follow(netlink).await {
                Ok(()) | Err(Error::Interface(_)) => return,
                Err(e) => tracing::warn!("neighbours cannot be watched: {e}; trying again"),
            }
            netlink = loop {
                sleep(RETRY_INTERVAL).await;
                if self.targets.has_changed().is_err() {
                    return;
                }
                match Netlink::open(self.interface, self.key) {
                    Ok(netlink) => break netlink,
                    Err(e) => tracing::warn!("neighbours cannot be watched: {e}; trying again"),
                }
            };
        }
    }

    /// Follows the events of one pair of sockets. `Ok` when nobody listens any more.
    async fn follow(&mut self, mut netlink: Netlink) -> Result<(), Error> {
        let now = Instant::now();
        // What happened between the first answers and now is in the events; after a broken connection nothing is certain.
        let mut schedule = Schedule { routes: false, everything: true, at: Some(now), routes_from: now, resync: now + RESYNC_INTERVAL };
        // Found anew only where something changed: it looks at every neighbour.
        let mut next_timer = self.next_timer();
        loop {
            let sources = self.sources();
            tokio::select! {
                message = netlink.events.next() => match message {
                    Some(message) => match netlink.event(&message) {
                        Some(KernelEvent::Gone) => return Err(Error::Interface(self.interface)),
                        Some(event) => self.handle(event, &mut schedule),
                        None => {}
                    },
                    None => return Err(Error::Socket(std::io::ErrorKind::UnexpectedEof.into())),
                },
                changed = self.targets.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    schedule.routes = true;
                    schedule.after_debounce();
                }
                Some(backend) = self.urgent.recv() => {
                    self.table.expedite(backend);
                    next_timer = self.next_timer();
                }
                () = sleep_until(schedule.resync) => {
                    schedule.everything = true;
                    schedule.after_debounce();
                }
                () = sleep_until(schedule.at.unwrap_or(now + NEVER)), if schedule.at.is_some() => {
                    self.settle(&netlink.requests, &mut schedule).await?;
                    next_timer = self.next_timer();
                }
                message = receive(&self.too_big, sources) => if self.learn(message) {
                    schedule.after_debounce();
                },
                () = sleep_until(next_timer) => {
                    self.on_timer(&mut netlink.requests, &mut schedule).await?;
                    next_timer = self.next_timer();
                }
            }
        }
    }

    /// Where our GRE comes from.
    fn sources(&self) -> Sources {
        Sources { address: self.key.address, prefix: self.targets.borrow().source_prefix }
    }

    fn next_timer(&self) -> Instant {
        self.table.next_timer().map_or_else(|| Instant::now() + NEVER, |at| self.origin + at)
    }

    /// Asks the kernel for neighbours, and forgets old path MTUs.
    async fn on_timer(&mut self, netlink: &mut NetlinkRequests, schedule: &mut Schedule) -> Result<(), Error> {
        let now = self.origin.elapsed();
        if self.table.path_mtus.expire(now) {
            schedule.after_debounce();
        }
        for hop in self.table.due_probes(now) {
            let refused = netlink.resolve(hop).await?;
            let forbidden = refused.filter(|e| matches!(e.kind(), std::io::ErrorKind::PermissionDenied)).map(|e| e.to_string());
            if let (None, Some(why)) = (&self.table.refused, &forbidden) {
                tracing::warn!("the kernel does not resolve neighbours for the director: {why}; it needs CAP_NET_ADMIN");
            }
            if self.table.refused != forbidden {
                self.table.refused = forbidden;
                schedule.after_debounce();
            }
        }
        Ok(())
    }

    /// Takes a router's message about a packet of ours. Returns whether it teaches anything.
    fn learn(&mut self, message: TooBig) -> bool {
        let current = self.hops.borrow().get(message.backend).map(|hop| hop.mtu);
        let learned = self.table.path_mtus.learn(&message, current, &self.targets.borrow().vips, self.origin.elapsed());
        if learned {
            tracing::info!(backend = %message.backend, mtu = message.mtu, "path MTU learned from a router");
        }
        learned
    }

    fn handle(&mut self, event: KernelEvent, schedule: &mut Schedule) {
        match event {
            KernelEvent::Neighbour(hop, entry) => {
                // A host may have many neighbours that are not ours.
                if !self.table.set_neighbour(hop, entry) || !self.table.uses(&hop) {
                    return;
                }
            }
            KernelEvent::Interface(index, now) => {
                if self.table.interfaces.get(&index) == now.as_ref() {
                    return;
                }
                // A carrier that comes or goes changes routes without an event.
                schedule.routes = true;
                match now {
                    Some(interface) => self.table.interfaces.insert(index, interface),
                    None => self.table.interfaces.remove(&index),
                };
            }
            KernelEvent::Routes | KernelEvent::Gone => schedule.routes = true,
            KernelEvent::Lost => {
                tracing::warn!("the kernel dropped netlink messages: asking it for everything again");
                schedule.everything = true;
            }
        }
        schedule.after_debounce();
    }

    /// Looks up what has to be, and publishes what changed.
    async fn settle(&mut self, netlink: &NetlinkRequests, schedule: &mut Schedule) -> Result<(), Error> {
        schedule.at = None;
        let targets = self.targets.borrow_and_update().clone();
        self.table.static_entries = targets.static_entries;
        let began = Instant::now();
        if schedule.everything {
            resync(netlink, &mut self.table, &targets.addresses).await?;
            schedule.resync = began + RESYNC_INTERVAL;
        } else if schedule.routes && began >= schedule.routes_from {
            routes(netlink, &mut self.table, &targets.addresses).await?;
        } else if schedule.routes {
            schedule.at = Some(schedule.routes_from);
        }
        if schedule.at.is_none() && (schedule.everything || schedule.routes) {
            schedule.routes_from = began + began.elapsed() * MAX_LOAD_DIVISOR;
            (schedule.everything, schedule.routes) = (false, false);
        }
        let now = self.table.next_hops();
        self.hops.send_if_modified(|before| {
            log::changes(before, &now);
            let changed = *before != now;
            *before = now;
            changed
        });
        Ok(())
    }
}

/// `02:00:00:00:02:21`, or `this host`
pub fn link_layer(hop: &NextHop) -> String {
    if hop.output.is_some_and(|output| output.index == LOOPBACK) { "this host".to_owned() } else { mac(hop.mac) }
}

/// `02:00:00:00:02:21`
pub fn mac(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// The next message of a router; never without listeners.
async fn receive(listeners: &[Option<Listener>; 2], own: Sources) -> TooBig {
    async fn of(listener: Option<&Listener>, own: Sources) -> TooBig {
        match listener {
            Some(listener) => listener.receive(own).await,
            None => std::future::pending().await,
        }
    }
    tokio::select! {
        message = of(listeners[0].as_ref(), own) => message,
        message = of(listeners[1].as_ref(), own) => message,
    }
}

async fn resync(netlink: &NetlinkRequests, table: &mut NeighbourTable, addresses: &BTreeSet<IpAddr>) -> Result<(), Error> {
    table.interfaces = netlink.interfaces().await?;
    table.set_neighbours(netlink.neighbours().await?);
    routes(netlink, table, addresses).await
}

async fn routes(netlink: &NetlinkRequests, table: &mut NeighbourTable, addresses: &BTreeSet<IpAddr>) -> Result<(), Error> {
    table.routes.retain(|address, _| addresses.contains(address));
    table.path_mtus.retain(addresses);
    table.missing_addresses = netlink.missing_addresses().await?;
    for address in addresses {
        let route = netlink.route(*address, &table.missing_addresses).await?;
        table.routes.insert(*address, route);
    }
    Ok(())
}

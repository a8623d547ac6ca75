//! Next hops of the backends, from the kernel's routes and neighbours. The kernel resolves; we watch, and ask it to. Never our own ARP.

mod log;
mod netlink;
mod table;
#[cfg(test)]
mod tests;

use super::NextHops;
use futures_util::StreamExt;
pub use netlink::Error;
use netlink::{KernelEvent, Netlink, NetlinkRequests};
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;
use table::{NeighbourEntry, NeighbourTable};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

/// Events within so short a time make one change.
const DEBOUNCE: Duration = Duration::from_millis(5);
/// Interval of a full resync, in case something changed without an event (a learned path MTU, a redirect).
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
pub async fn watch(interface: u32, targets: NextHopTargets) -> Result<Neighbours, Error> {
    let netlink = Netlink::open(interface)?;
    let table = NeighbourTable::new(netlink.requests.link().await?);
    start(netlink, table, interface, targets).await
}

async fn start(netlink: Netlink, mut table: NeighbourTable, interface: u32, targets: NextHopTargets) -> Result<Neighbours, Error> {
    table.static_entries = targets.static_entries.clone();
    resync(&netlink.requests, &mut table, &targets.addresses).await?;
    let (hops, hops_end) = watch::channel(table.next_hops());
    let (targets, wanted_end) = watch::channel(targets);
    let (urgent, urgent_end) = mpsc::channel(64);
    let watcher = Watcher { interface, table, targets: wanted_end, urgent: urgent_end, hops, origin: Instant::now() };
    Ok(Neighbours { targets, urgent, hops: hops_end, task: tokio::spawn(watcher.run(netlink)) })
}

struct Watcher {
    interface: u32,
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
                match Netlink::open(self.interface) {
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
        let mut next_probe = self.next_probe();
        loop {
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
                    next_probe = self.next_probe();
                }
                () = sleep_until(schedule.resync) => {
                    schedule.everything = true;
                    schedule.after_debounce();
                }
                () = sleep_until(schedule.at.unwrap_or(now + NEVER)), if schedule.at.is_some() => {
                    self.settle(&netlink.requests, &mut schedule).await?;
                    next_probe = self.next_probe();
                }
                () = sleep_until(next_probe) => {
                    for hop in self.table.due_probes(self.origin.elapsed()) {
                        netlink.requests.resolve(hop).await?;
                    }
                    next_probe = self.next_probe();
                }
            }
        }
    }

    fn next_probe(&self) -> Instant {
        self.table.next_probe().map_or_else(|| Instant::now() + NEVER, |at| self.origin + at)
    }

    fn handle(&mut self, event: KernelEvent, schedule: &mut Schedule) {
        match event {
            KernelEvent::Neighbour(address, entry) => {
                let before = match entry {
                    Some(entry) => self.table.neighbours.insert(address, entry),
                    None => self.table.neighbours.remove(&address),
                };
                if before == entry {
                    return;
                }
            }
            KernelEvent::Link(link) => {
                if link == self.table.link {
                    return;
                }
                self.table.link = link;
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
            self.table.link = netlink.link().await?;
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

/// `02:00:00:00:02:21`
pub fn mac(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

async fn resync(netlink: &NetlinkRequests, table: &mut NeighbourTable, addresses: &BTreeSet<IpAddr>) -> Result<(), Error> {
    table.neighbours = netlink.neighbours().await?.into_iter().collect::<HashMap<IpAddr, NeighbourEntry>>();
    routes(netlink, table, addresses).await
}

async fn routes(netlink: &NetlinkRequests, table: &mut NeighbourTable, addresses: &BTreeSet<IpAddr>) -> Result<(), Error> {
    table.routes.retain(|address, _| addresses.contains(address));
    for address in addresses {
        let route = netlink.route(*address).await?;
        table.routes.insert(*address, route);
    }
    Ok(())
}

//! Next hops of the backends, from the kernel's routes and neighbours. The kernel resolves; we watch, and ask it to. Never our own ARP.

mod kernel;
mod known;
#[cfg(test)]
mod tests;

use super::NextHops;
use futures_util::StreamExt;
pub use kernel::Error;
use kernel::{Event, Kernel, Questions};
use known::{Entry, Known};
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

/// Events within so short a time make one change.
const SETTLE: Duration = Duration::from_millis(5);
/// Everything is asked again so often, in case something changed without an event (a learned path MTU, a redirect).
const RESYNC: Duration = Duration::from_secs(60);
/// Pause before another attempt when the kernel could not be asked.
const RETRY: Duration = Duration::from_secs(1);
/// A storm of route changes costs at most one part in so many of the time.
const SHARE: u32 = 5;
/// Far enough to stand for never.
const NEVER: Duration = Duration::from_secs(24 * 3600);

/// What next hops are needed for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The backends' addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// `[[neighbour]]` entries; they win over the kernel's.
    pub fixed: HashMap<IpAddr, [u8; 6]>,
}

/// The other ends of the watcher.
#[derive(Debug)]
pub struct Neighbours {
    /// What is wanted; send another value to change it.
    pub wanted: watch::Sender<Wanted>,
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
/// When the kernel cannot be asked. Later failures are logged and tried again.
pub async fn watch(interface: u32, wanted: Wanted) -> Result<Neighbours, Error> {
    let kernel = Kernel::open(interface)?;
    let known = Known::new(kernel.ask.link().await?);
    start(kernel, known, interface, wanted).await
}

async fn start(kernel: Kernel, mut known: Known, interface: u32, wanted: Wanted) -> Result<Neighbours, Error> {
    known.fixed = wanted.fixed.clone();
    resync(&kernel.ask, &mut known, &wanted.addresses).await?;
    let (hops, hops_end) = watch::channel(known.next_hops());
    let (wanted, wanted_end) = watch::channel(wanted);
    let (urgent, urgent_end) = mpsc::channel(64);
    let watcher = Watcher { interface, known, wanted: wanted_end, urgent: urgent_end, hops, origin: Instant::now() };
    Ok(Neighbours { wanted, urgent, hops: hops_end, task: tokio::spawn(watcher.run(kernel)) })
}

struct Watcher {
    interface: u32,
    known: Known,
    wanted: watch::Receiver<Wanted>,
    urgent: mpsc::Receiver<IpAddr>,
    hops: watch::Sender<NextHops>,
    origin: Instant,
}

/// What has to be done after a wait, and when.
struct Due {
    routes: bool,
    everything: bool,
    at: Option<Instant>,
    /// Routes are not looked up again before this.
    routes_from: Instant,
    resync: Instant,
}

impl Due {
    fn soon(&mut self) {
        let at = Instant::now() + SETTLE;
        self.at = Some(self.at.map_or(at, |before| before.min(at)));
    }
}

impl Watcher {
    /// Until the other end is dropped, or the interface is gone.
    async fn run(mut self, mut kernel: Kernel) {
        loop {
            match self.follow(kernel).await {
                Ok(()) | Err(Error::Interface(_)) => return,
                Err(e) => tracing::warn!("neighbours cannot be watched: {e}; trying again"),
            }
            kernel = loop {
                sleep(RETRY).await;
                if self.wanted.has_changed().is_err() {
                    return;
                }
                match Kernel::open(self.interface) {
                    Ok(kernel) => break kernel,
                    Err(e) => tracing::warn!("neighbours cannot be watched: {e}; trying again"),
                }
            };
        }
    }

    /// Follows the events of one pair of sockets. `Ok` when nobody listens any more.
    async fn follow(&mut self, mut kernel: Kernel) -> Result<(), Error> {
        let now = Instant::now();
        // What happened between the first answers and now is in the events; after a broken connection nothing is certain.
        let mut due = Due { routes: false, everything: true, at: Some(now), routes_from: now, resync: now + RESYNC };
        // Found anew only where something changed: it looks at every neighbour.
        let mut ask = self.next_ask();
        loop {
            tokio::select! {
                message = kernel.events.next() => match message {
                    Some(message) => match kernel.event(&message) {
                        Some(Event::Gone) => return Err(Error::Interface(self.interface)),
                        Some(event) => self.take(event, &mut due),
                        None => {}
                    },
                    None => return Err(Error::Socket(std::io::ErrorKind::UnexpectedEof.into())),
                },
                changed = self.wanted.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    due.routes = true;
                    due.soon();
                }
                Some(backend) = self.urgent.recv() => {
                    self.known.hurry(backend);
                    ask = self.next_ask();
                }
                () = sleep_until(due.resync) => {
                    due.everything = true;
                    due.soon();
                }
                () = sleep_until(due.at.unwrap_or(now + NEVER)), if due.at.is_some() => {
                    self.settle(&kernel.ask, &mut due).await?;
                    ask = self.next_ask();
                }
                () = sleep_until(ask) => {
                    for hop in self.known.ask_now(self.origin.elapsed()) {
                        kernel.ask.resolve(hop).await?;
                    }
                    ask = self.next_ask();
                }
            }
        }
    }

    fn next_ask(&self) -> Instant {
        self.known.next_ask().map_or_else(|| Instant::now() + NEVER, |at| self.origin + at)
    }

    fn take(&mut self, event: Event, due: &mut Due) {
        match event {
            Event::Neighbour(address, entry) => {
                let before = match entry {
                    Some(entry) => self.known.neighbours.insert(address, entry),
                    None => self.known.neighbours.remove(&address),
                };
                if before == entry {
                    return;
                }
            }
            Event::Link(link) => {
                if link == self.known.link {
                    return;
                }
                self.known.link = link;
            }
            Event::Routes | Event::Gone => due.routes = true,
            Event::Lost => {
                tracing::warn!("the kernel dropped netlink messages: asking it for everything again");
                due.everything = true;
            }
        }
        due.soon();
    }

    /// Looks up what has to be, and publishes what changed.
    async fn settle(&mut self, kernel: &Questions, due: &mut Due) -> Result<(), Error> {
        due.at = None;
        let wanted = self.wanted.borrow_and_update().clone();
        self.known.fixed = wanted.fixed;
        let began = Instant::now();
        if due.everything {
            self.known.link = kernel.link().await?;
            resync(kernel, &mut self.known, &wanted.addresses).await?;
            due.resync = began + RESYNC;
        } else if due.routes && began >= due.routes_from {
            routes(kernel, &mut self.known, &wanted.addresses).await?;
        } else if due.routes {
            due.at = Some(due.routes_from);
        }
        if due.at.is_none() && (due.everything || due.routes) {
            due.routes_from = began + began.elapsed() * SHARE;
            (due.everything, due.routes) = (false, false);
        }
        let now = self.known.next_hops();
        self.hops.send_if_modified(|before| {
            for (address, hop) in &now.hops {
                tell(*address, before.hops.get(address), hop);
            }
            let changed = *before != now;
            *before = now;
            changed
        });
        Ok(())
    }
}

/// Says in the log what a person should know.
fn tell(
    address: IpAddr,
    before: Option<&Result<guideway_dataplane::tables::NextHop, super::Unresolved>>,
    now: &Result<guideway_dataplane::tables::NextHop, super::Unresolved>,
) {
    use super::Unresolved::{Asked, New};
    match (before, now) {
        (Some(before), now) if before == now => {}
        (_, Ok(hop)) => tracing::info!(backend = %address, mac = %mac(hop.mac), mtu = hop.mtu, "backend resolved"),
        (_, Err(Asked(_) | New)) => tracing::debug!(backend = %address, "backend not resolved yet"),
        (_, Err(why)) => tracing::warn!(backend = %address, "backend {address} cannot be reached: {why}"),
    }
}

/// `02:00:00:00:02:21`
pub fn mac(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

async fn resync(kernel: &Questions, known: &mut Known, addresses: &BTreeSet<IpAddr>) -> Result<(), Error> {
    known.neighbours = kernel.neighbours().await?.into_iter().collect::<HashMap<IpAddr, Entry>>();
    routes(kernel, known, addresses).await
}

async fn routes(kernel: &Questions, known: &mut Known, addresses: &BTreeSet<IpAddr>) -> Result<(), Error> {
    known.routes.retain(|address, _| addresses.contains(address));
    for address in addresses {
        let route = kernel.route(*address).await?;
        known.routes.insert(*address, route);
    }
    Ok(())
}

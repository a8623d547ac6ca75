//! Opens the io that the configuration names.

use guideway_config::{self as config, Unmatched};
use guideway_io::interface::{self, Interface};
use guideway_io::{af_packet, af_xdp, netmap};
use guideway_packet::io::Io;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// The filter has room for at least so many VIPs, to which a reload may grow.
const MIN_VIPS: u32 = 16_384;

/// Why the io cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The interface cannot be used.
    #[error(transparent)]
    Interface(#[from] interface::Error),
    /// AF_PACKET cannot be used on it.
    #[error(transparent)]
    AfPacket(#[from] af_packet::Error),
    /// AF_XDP cannot be used on it.
    #[error(transparent)]
    AfXdp(#[from] af_xdp::Error),
    /// More receive queues than a steering thread takes.
    #[error(
        "[director] steering = {workers}: one thread receives for all workers, but network interface `{interface}` has {queues} receive queues; \
         give it one (`ethtool -L {interface} combined 1`), or leave `steering` out for a worker at each queue"
    )]
    Steering {
        /// As configured.
        workers: usize,
        /// Name of the interface.
        interface: String,
        /// How many it has.
        queues: usize,
    },
    /// netmap cannot be used on it.
    #[error(transparent)]
    Netmap(#[from] netmap::Error),
    /// Not for a running director.
    #[error(
        "[director] io.kind = \"pcap\" is for `guideway replay`; a director needs \"af_xdp\", \"af_packet\" or \"netmap\" with an `interface`"
    )]
    Pcap,
}

/// The io of every worker, and what was found out on the way.
pub struct Opened {
    /// The interface.
    pub interface: Interface,
    /// Name of the kind in the configuration.
    pub kind: &'static str,
    /// How it works here, for people.
    pub mode: String,
    /// One for each worker.
    pub workers: Vec<Box<dyn Io>>,
    /// CPUs that the configuration names for them.
    pub cpus: Vec<usize>,
    /// What decides in the kernel which packets come.
    pub filter: Filter,
}

/// What decides in the kernel which packets come to the workers.
pub enum Filter {
    /// Nothing: all come.
    All,
    /// The XDP filter.
    Xdp(af_xdp::Filter),
}

impl Filter {
    /// Lets the packets to exactly these VIPs come.
    pub fn set_vips(&self, vips: &BTreeSet<IpAddr>) -> Result<(), af_xdp::Error> {
        match self {
            Filter::All => Ok(()),
            Filter::Xdp(filter) => filter.set_vips(&vips.iter().copied().collect::<Vec<_>>()),
        }
    }

    /// What a reload may not change with this filter, although it may with others.
    pub fn refuses(&self, before: &config::Director, after: &config::Director) -> Option<&'static str> {
        let refused = matches!(self, Filter::Xdp(_)) && before.unmatched != after.unmatched;
        refused.then_some("director.unmatched: with io af_xdp the filter in the kernel is made for it; this needs a restart")
    }
}

impl Opened {
    /// The one io that a steering thread receives from.
    ///
    /// # Errors
    /// When there are several.
    pub fn only_io(&mut self, workers: usize) -> Result<Box<dyn Io>, Error> {
        match self.workers.pop() {
            Some(io) if self.workers.is_empty() => Ok(io),
            _ => Err(Error::Steering { workers, interface: self.interface.name.clone(), queues: self.workers.len() + 1 }),
        }
    }
}

/// Finds the interface that `director` names.
///
/// # Errors
/// When there is none.
pub fn interface(director: &config::Director) -> Result<Interface, Error> {
    match &director.io {
        config::Io::Pcap { .. } => Err(Error::Pcap),
        config::Io::AfXdp { interface, .. } | config::Io::Netmap { interface, .. } | config::Io::AfPacket { interface, .. } => {
            Ok(Interface::by_name(interface)?)
        }
    }
}

/// Opens what `director` names, on its interface. Packets come once [`Filter::set_vips`] was called.
///
/// # Errors
/// Say what to do about it.
pub fn open(director: &config::Director, found: Interface, vips: usize) -> Result<Opened, Error> {
    match &director.io {
        config::Io::Pcap { .. } => Err(Error::Pcap),
        config::Io::AfXdp { interface, cpus } => {
            let options = af_xdp::Options {
                v4: director.address.v4,
                v6: director.address.v6,
                take_all_gre: director.unmatched == Unmatched::Drop,
                max_vips: u32::try_from(vips.saturating_mul(2)).unwrap_or(u32::MAX / 4).max(MIN_VIPS),
            };
            let (filter, workers) = af_xdp::AfXdp::open(interface, options)?;
            let driver = if filter.generic() { "generic" } else { "native" };
            let copy = if workers.iter().all(af_xdp::AfXdp::zero_copy) { "zero copy" } else { "copy" };
            let mode = format!("{driver}, {copy}");
            Ok(Opened { interface: found, kind: "af_xdp", mode, workers: boxed(workers), cpus: cpus.clone(), filter: Filter::Xdp(filter) })
        }
        config::Io::Netmap { detour, cpus, .. } => {
            let workers = match detour {
                None => netmap::Netmap::open(&found)?,
                Some(detour) => vec![netmap::Netmap::open_detour(&found, &detour.rings, &detour.host_rings)?],
            };
            let shared = workers.iter().all(netmap::Netmap::shares_memory_with_host);
            let mode = if shared { "host rings, zero copy" } else { "host port, copied to and from" };
            let workers = boxed(workers);
            Ok(Opened { interface: found, kind: "netmap", mode: mode.into(), workers, cpus: cpus.clone(), filter: Filter::All })
        }
        config::Io::AfPacket { interface, workers, cpus } => {
            let workers = boxed(af_packet::AfPacket::open(interface, *workers)?);
            Ok(Opened { interface: found, kind: "af_packet", mode: "ring".into(), workers, cpus: cpus.clone(), filter: Filter::All })
        }
    }
}

fn boxed<I: Io + 'static>(workers: Vec<I>) -> Vec<Box<dyn Io>> {
    workers.into_iter().map(|io| Box::new(io) as Box<dyn Io>).collect()
}

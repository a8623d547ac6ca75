//! Opens the io that the configuration names.

use guideway_config::{self as config, Unmatched};
use guideway_io::interface::{self, Interface};
use guideway_io::offloads;
use guideway_io::outputs::Outputs;
use guideway_io::{af_packet, af_xdp, netmap};
use guideway_packet::io::Io;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Minimum number of VIPs that the filter has room for, so that a reload can add VIPs.
const MIN_VIPS: u32 = 16_384;

/// Why the io cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The interface cannot be used.
    #[error(transparent)]
    Interface(#[from] interface::Error),
    /// AF_PACKET cannot be used on the interface.
    #[error(transparent)]
    AfPacket(#[from] af_packet::Error),
    /// AF_XDP cannot be used on the interface.
    #[error(transparent)]
    AfXdp(#[from] af_xdp::Error),
    /// The interface has more receive queues than the one that a steering thread reads.
    #[error(
        "[director] steering = {workers}: one thread receives for all workers, but network interface `{interface}` has {queues} receive queues; \
         give it one (`ethtool -L {interface} combined 1`), or leave `steering` out for a worker at each queue"
    )]
    Steering {
        /// The configured number of workers.
        workers: usize,
        /// Name of the interface.
        interface: String,
        /// The number of receive queues.
        queues: usize,
    },
    /// netmap cannot be used on the interface.
    #[error(transparent)]
    Netmap(#[from] netmap::Error),
    /// The io kind is for replay only.
    #[error(
        "[director] io.kind = \"pcap\" is for `guideway replay`; a director needs \"af_xdp\", \"af_packet\" or \"netmap\" with an `interface`"
    )]
    Pcap,
}

/// The io of every worker, and details for the status.
pub struct Opened {
    /// The interface.
    pub interface: Interface,
    /// Name of the kind in the configuration.
    pub kind: &'static str,
    /// How it works on this interface, for operators.
    pub mode: String,
    /// One for each worker.
    pub workers: Vec<Box<dyn Io>>,
    /// CPUs that the configuration names for the workers.
    pub cpus: Vec<usize>,
    /// The kernel filter that selects packets.
    pub filter: Filter,
    /// The largest MTU of the interface, in bytes, whose frames fit the buffers of the io.
    pub max_mtu: u32,
    /// Which offloads harm the io.
    pub offloads: offloads::Kind,
}

/// The kernel filter that selects packets for the workers.
pub enum Filter {
    /// No filter: all packets come.
    All,
    /// The XDP filter.
    Xdp(af_xdp::FilterHandle),
}

impl Filter {
    /// Sets the VIPs whose packets come.
    pub fn set_vips(&self, vips: &BTreeSet<IpAddr>) -> Result<(), af_xdp::Error> {
        match self {
            Filter::All => Ok(()),
            Filter::Xdp(filter) => filter.set_vips(&vips.iter().copied().collect::<Vec<_>>()),
        }
    }

    /// Brings the filter in step with its interface (see [`af_xdp::FilterHandle::renew`]). Returns what has changed, if anything has.
    pub fn renew(&self) -> Result<Option<String>, af_xdp::Error> {
        match self {
            Filter::All => Ok(None),
            Filter::Xdp(filter) => {
                let renewed = filter.renew()?;
                Ok((renewed != af_xdp::Renewed::default()).then(|| renewed.to_string()))
            }
        }
    }

    /// Returns an error for a change that this filter cannot apply on a reload.
    pub fn restart_reason(&self, before: &config::Director, after: &config::Director) -> Option<&'static str> {
        let refused = matches!(self, Filter::Xdp(_)) && before.unmatched != after.unmatched;
        refused.then_some("director.unmatched: with io af_xdp the kernel filter depends on it; restart the director to apply it")
    }
}

impl Opened {
    /// Returns the one io that a steering thread receives from.
    ///
    /// # Errors
    /// Returns an error when there are several.
    pub fn single_io(&mut self, workers: usize) -> Result<Box<dyn Io>, Error> {
        match self.workers.pop() {
            Some(io) if self.workers.is_empty() => Ok(io),
            _ => Err(Error::Steering { workers, interface: self.interface.name.clone(), queues: self.workers.len() + 1 }),
        }
    }
}

/// Finds the interface of `director`.
///
/// # Errors
/// Returns an error when the interface does not exist.
pub fn interface(director: &config::Director) -> Result<Interface, Error> {
    match &director.io {
        config::Io::Pcap { .. } => Err(Error::Pcap),
        config::Io::AfXdp { interface, .. } | config::Io::Netmap { interface, .. } | config::Io::AfPacket { interface, .. } => {
            Ok(Interface::by_name(interface)?)
        }
    }
}

/// Opens the io of `director` on its interface. Packets come after [`Filter::set_vips`].
///
/// # Errors
/// The errors say what to do.
pub fn open(director: &config::Director, interface_info: Interface, vips: usize) -> Result<Opened, Error> {
    match &director.io {
        config::Io::Pcap { .. } => Err(Error::Pcap),
        config::Io::AfXdp { interface, cpus } => {
            let options = af_xdp::Options {
                v4: director.address.v4,
                v6: director.address.v6,
                take_all_gre: director.unmatched == Unmatched::Drop,
                max_vips: u32::try_from(vips.saturating_mul(2)).unwrap_or(u32::MAX / 4).max(MIN_VIPS),
                max_workers: u32::from(director.steering > 0),
            };
            let (filter, workers) = af_xdp::AfXdp::open(interface, options)?;
            if director.steering == 0 {
                warn_unused_queues(&interface_info, director, workers.len());
            }
            let driver = if filter.generic() { "generic" } else { "native" };
            let copy = if workers.iter().all(af_xdp::AfXdp::zero_copy) { "zero copy" } else { "copy" };
            let mode = format!("{driver}, {copy}");
            Ok(Opened {
                interface: interface_info,
                kind: "af_xdp",
                mode,
                workers: boxed(workers),
                cpus: cpus.clone(),
                max_mtu: filter.max_mtu(),
                offloads: offloads::Kind::AfXdp { generic: filter.generic() },
                filter: Filter::Xdp(filter),
            })
        }
        config::Io::Netmap { netmap_ports, cpus, .. } => {
            let workers = match netmap_ports {
                None => netmap::Netmap::open(&interface_info)?,
                Some(netmap_ports) => vec![netmap::Netmap::open_ports(&interface_info, &netmap_ports.rings, &netmap_ports.host_rings)?],
            };
            let shared = workers.iter().all(netmap::Netmap::shares_memory_with_host);
            let mode = if shared { "host rings, zero copy" } else { "host port, copied to and from" };
            let max_mtu = workers.iter().map(netmap::Netmap::max_mtu).min().unwrap_or(u32::MAX);
            let workers = boxed(workers);
            let offloads = offloads::Kind::Netmap;
            Ok(Opened {
                interface: interface_info,
                kind: "netmap",
                mode: mode.into(),
                workers,
                cpus: cpus.clone(),
                filter: Filter::All,
                max_mtu,
                offloads,
            })
        }
        config::Io::AfPacket { interface, workers, cpus } => {
            let workers = boxed(af_packet::AfPacket::open(interface, *workers)?);
            Ok(Opened {
                interface: interface_info,
                kind: "af_packet",
                mode: "ring".into(),
                workers,
                cpus: cpus.clone(),
                filter: Filter::All,
                // Its rings grow.
                max_mtu: u32::MAX,
                offloads: offloads::Kind::AfPacket,
            })
        }
    }
}

/// Logs that GRE cannot reach all queues: cards hash it by the outer addresses alone. Prefixes may hold any number of routers.
fn warn_unused_queues(interface: &Interface, director: &config::Director, queues: usize) {
    let routers = &director.routers;
    let single = routers.iter().all(|router| router.prefix_len() == router.max_prefix_len());
    if queues > 1 && single && !routers.is_empty() && routers.len() < queues {
        tracing::warn!(
            interface = %interface.name, queues, routers = routers.len(),
            "GRE from so few routers comes by as few receive queues, for cards hash it by its outer addresses: the other workers get none of it; \
             `[director] steering = {queues}` spreads it over workers"
        );
    }
}

fn boxed<I: Io + 'static>(workers: Vec<I>) -> Vec<Box<dyn Io>> {
    workers.into_iter().map(|io| Box::new(Outputs::new(io)) as Box<dyn Io>).collect()
}

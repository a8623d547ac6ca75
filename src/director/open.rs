//! Opens the io that the configuration names.

use crate::config;
use crate::io::interface::{self, Interface};
use crate::io::{Io, af_packet};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Why the io cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The interface cannot be used.
    #[error(transparent)]
    Interface(#[from] interface::Error),
    /// AF_PACKET cannot be used on it.
    #[error(transparent)]
    AfPacket(#[from] af_packet::Error),
    /// Not for a running director.
    #[error("[director] io.kind = \"pcap\" is for `guideway replay`; a director needs \"af_xdp\" or \"af_packet\" with an `interface`")]
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
    /// Nothing: all come, and the host has copies.
    All,
}

impl Filter {
    /// Lets the packets to these VIPs come, besides those that come already.
    pub fn add(&mut self, vips: &BTreeSet<IpAddr>) -> std::io::Result<()> {
        let _ = vips;
        Ok(())
    }

    /// Leaves the packets to these VIPs to the host again.
    pub fn remove(&mut self, vips: &BTreeSet<IpAddr>) -> std::io::Result<()> {
        let _ = vips;
        Ok(())
    }
}

/// Opens what `io` names.
///
/// # Errors
/// Say what to do about it.
pub fn open(director: &config::Director, vips: &BTreeSet<IpAddr>) -> Result<Opened, Error> {
    let _ = vips;
    match &director.io {
        config::Io::Pcap { .. } => Err(Error::Pcap),
        config::Io::AfXdp { .. } => Err(Error::Pcap),
        config::Io::AfPacket { interface, workers, cpus } => {
            let found = Interface::by_name(interface)?;
            let workers = boxed(af_packet::AfPacket::open(interface, *workers)?);
            Ok(Opened { interface: found, kind: "af_packet", mode: "ring".into(), workers, cpus: cpus.clone(), filter: Filter::All })
        }
    }
}

fn boxed<I: Io + 'static>(workers: Vec<I>) -> Vec<Box<dyn Io>> {
    workers.into_iter().map(|io| Box::new(io) as Box<dyn Io>).collect()
}

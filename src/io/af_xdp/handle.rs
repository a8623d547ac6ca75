//! Opens AF_XDP on an interface, and keeps program and sockets in step with it while workers run.

use super::bpf::{self, Link, Program, VipMap, XskMap};
use super::error::Error;
use super::setup::{FRAME_OVERHEAD, Options, attach, chunk_size, load, open_queue, raise_memory_limit};
use super::{AfXdp, Change, filter};
use crate::interface::Interface;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A handle of the filter in the kernel. The filter stays attached to the interface until the handle is dropped.
///
/// The filter takes frames to the interface's own MAC address, with at most one VLAN tag (802.1Q or 802.1ad). They must contain an IPv4 or IPv6 packet to a VIP,
/// either plain or in GRE version 0 to one of the director's addresses, with options or extension headers. All other frames go to the host. What the packet path
/// accepts, the filter takes; what the path leaves to the host, the filter leaves to it, too.
#[derive(Debug)]
pub struct FilterHandle {
    vips: VipMap,
    known: Mutex<BTreeSet<[u8; 16]>>,
    max_vips: u32,
    options: Options,
    /// The kernel's number of the interface, which outlives its name.
    index: u32,
    name: String,
    chunk_size: u32,
    ports: Mutex<Vec<Port>>,
    /// Where each worker hears of changes of its sockets.
    workers: Vec<Sender<Change>>,
}

/// What frames come by: the interface itself, or a slave of it if it is a bond. The kernel runs a program on a bond at its slaves, and a frame of a slave's queue
/// fits no socket of the bond.
#[derive(Debug)]
struct Port {
    index: u32,
    /// The MAC address in the program.
    mac: [u8; 6],
    sockets: XskMap,
    program: Program,
    /// Closing the link detaches the program.
    link: Link,
    generic: bool,
    /// Queues from 0 that have a socket.
    queues: u32,
    /// Queues that there were when the driver got the program. Some drivers (veth) give it to no later one.
    attached_queues: u32,
}

/// What [`FilterHandle::renew`] has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Renewed {
    /// The new MAC address.
    pub mac: Option<[u8; 6]>,
    /// Number of receive queues that got a socket.
    pub queues: u32,
    /// Somebody had detached the filter; it is attached again.
    pub attached: bool,
    /// Slaves that were added to the bond.
    pub slaves: Vec<String>,
}

impl std::fmt::Display for Renewed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut parts = Vec::new();
        if let Some(mac) = self.mac {
            parts.push(format!("MAC address {}", mac.map(|byte| format!("{byte:02x}")).join(":")));
        }
        if self.queues > 0 {
            parts.push(format!("{} more receive queues", self.queues));
        }
        if self.attached {
            parts.push("the XDP filter that somebody had detached".to_owned());
        }
        parts.extend(self.slaves.iter().map(|slave| format!("slave {slave}")));
        f.write_str(&parts.join(", "))
    }
}

impl FilterHandle {
    /// Sets the VIPs, also while workers run. After an error some of the new VIPs may be set already, and all old ones still are.
    pub fn set_vips(&self, vips: &[IpAddr]) -> Result<(), Error> {
        let wanted: BTreeSet<[u8; 16]> = vips.iter().map(|vip| filter::vip_key(*vip)).collect();
        if wanted.len() > self.max_vips as usize {
            return Err(Error::Vips { vips: wanted.len(), most: self.max_vips });
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let fail = |error| Error::kernel(&self.name, "change the VIPs of the filter")(error);
        for key in &wanted {
            if !known.contains(key) {
                self.vips.insert(key).map_err(fail)?;
                known.insert(*key);
            }
        }
        for key in known.clone().difference(&wanted) {
            self.vips.remove(key).map_err(fail)?;
            known.remove(key);
        }
        Ok(())
    }

    /// Brings program and sockets in step with the interface as it is now: a changed MAC address gets into the program, without a gap; receive queues that were
    /// added (`ethtool -L`) get a socket, which goes to one of the workers; likewise slaves that were added to a bond. A filter that somebody has detached is attached again. Cheap where nothing has changed.
    ///
    /// # Errors
    /// When the interface is gone, or frames of a new address or queue cannot be taken. They then go to the host.
    pub fn renew(&self) -> Result<Renewed, Error> {
        let interface = Interface::by_index(self.index)?;
        let members = interface.members()?;
        self.close_ports(|index| members.iter().all(|member| member.index != index));
        let mut ports = self.ports();
        let mut renewed = Renewed::default();
        // One member that fails keeps no other from being renewed.
        let mut failed = None;
        for member in members {
            if let Err(error) = self.renew_member(&mut ports, &interface, &member, &mut renewed) {
                failed.get_or_insert(error);
            }
        }
        match failed {
            None => Ok(renewed),
            Some(error) => {
                if renewed != Renewed::default() {
                    tracing::info!(interface = %self.name, changed = %renewed, "io renewed in part");
                }
                Err(error)
            }
        }
    }

    /// Has the workers close the sockets of some interfaces: a queue that comes back can be opened only then.
    pub(super) fn close_ports(&self, which: impl Fn(u32) -> bool) {
        for port in self.ports().extract_if(.., |port| which(port.index)) {
            // A worker that has ended is reported by itself.
            self.workers.iter().for_each(|worker| drop(worker.send(Change::Close(port.index))));
        }
    }

    fn renew_member(&self, ports: &mut Vec<Port>, interface: &Interface, member: &Interface, renewed: &mut Renewed) -> Result<(), Error> {
        let port = match ports.iter_mut().position(|port| port.index == member.index) {
            Some(at) => &mut ports[at],
            None => {
                let port = self.open_port(member, interface.mac)?;
                if member.index != interface.index {
                    renewed.slaves.push(member.name.clone());
                }
                ports.push(port);
                let last = ports.len() - 1;
                &mut ports[last]
            }
        };
        if !port.link.is_attached().map_err(Error::kernel(&member.name, "ask for the filter"))? {
            (port.link, port.generic) = attach(&port.program, member)?;
            (port.attached_queues, renewed.attached) = (member.rx_queues, true);
        }
        let added = member.rx_queues.saturating_sub(port.queues);
        while port.queues < member.rx_queues {
            self.open_queue(port, member)?;
        }
        if port.mac != interface.mac || port.queues > port.attached_queues {
            let program = self.load(&port.sockets, interface.mac)?;
            port.link.replace(&program).map_err(Error::kernel(&member.name, "replace the filter"))?;
            renewed.mac = renewed.mac.or((port.mac != interface.mac).then_some(interface.mac));
            (port.program, port.mac, port.attached_queues) = (program, interface.mac, port.queues);
        }
        renewed.queues += added;
        Ok(())
    }

    fn ports(&self) -> MutexGuard<'_, Vec<Port>> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn load(&self, sockets: &XskMap, mac: [u8; 6]) -> Result<Program, Error> {
        let code = filter::Program {
            mac,
            v4: self.options.v4,
            v6: self.options.v6,
            take_all_gre: self.options.take_all_gre,
            extensions: true,
            vips: self.vips.fd(),
            sockets: sockets.fd(),
        };
        load(&code, &self.name)
    }

    fn open_port(&self, member: &Interface, mac: [u8; 6]) -> Result<Port, Error> {
        let sockets = XskMap::new(member.max_rx_queues).map_err(Error::kernel(&member.name, "make the map of sockets"))?;
        let program = self.load(&sockets, mac)?;
        let (link, generic) = attach(&program, member)?;
        Ok(Port { index: member.index, mac, sockets, program, link, generic, queues: 0, attached_queues: member.rx_queues })
    }

    /// Opens the next queue of a port.
    fn open_queue(&self, port: &mut Port, member: &Interface) -> Result<(), Error> {
        let queue = port.queues;
        let socket = open_queue(member, queue, self.chunk_size, port.generic)?;
        port.sockets.set(queue, socket.socket.as_fd()).map_err(Error::kernel(&member.name, "give a queue to its socket"))?;
        port.queues += 1;
        // A worker that has ended is reported by itself.
        let _ended = self.workers[queue as usize % self.workers.len()].send(Change::Open(Box::new(socket)));
        Ok(())
    }

    /// Returns whether the filter would take this frame (at least 14 bytes) if it came by the first receive queue. The kernel runs it without an interface.
    pub fn takes(&self, frame: &[u8]) -> std::io::Result<bool> {
        let ports = self.ports();
        let first = ports.first().ok_or(std::io::ErrorKind::NotFound)?;
        first.program.test_run(frame).map(|verdict| verdict == bpf::XDP_REDIRECT)
    }

    /// The largest MTU in bytes whose frames fit the chunks that sockets were opened with.
    pub fn max_mtu(&self) -> u32 {
        self.chunk_size - FRAME_OVERHEAD
    }

    /// Returns whether the filter runs behind the driver instead of in it.
    pub fn generic(&self) -> bool {
        self.ports().iter().any(|port| port.generic)
    }
}

impl AfXdp {
    /// Opens every receive queue of `interface`, one worker for each unless `options` limit them; of a bond, those of its slaves. No frame is taken before [`FilterHandle::set_vips`] (but
    /// with `take_all_gre` GRE is).
    pub fn open(interface: &str, options: Options) -> Result<(FilterHandle, Vec<AfXdp>), Error> {
        let interface = Interface::by_name(interface)?;
        let chunk_size = chunk_size(&interface)?;
        raise_memory_limit();

        let members = interface.members()?;
        if members.is_empty() {
            return Err(Error::NoSlaves { bond: interface.name });
        }
        let queues = members.iter().map(|member| member.rx_queues).max().unwrap_or(1);
        let count = if options.max_workers == 0 { queues } else { queues.min(options.max_workers) };
        let (workers, added): (Vec<_>, Vec<_>) = (0..count).map(|_| channel()).unzip();
        let max_vips = if options.max_vips == 0 { 16_384 } else { options.max_vips };
        // Two entries for every VIP: during a change the map holds old and new ones.
        let vips = VipMap::new(max_vips.saturating_mul(2)).map_err(Error::kernel(&interface.name, "make the map of VIPs"))?;
        let (index, name) = (interface.index, interface.name);
        let filter =
            FilterHandle { vips, known: Mutex::default(), max_vips, options, index, name, chunk_size, ports: Mutex::default(), workers };
        filter.renew()?;

        let opened: Vec<AfXdp> = added.into_iter().map(AfXdp::new).collect();
        let mode = if opened.iter().all(AfXdp::zero_copy) { "zero copy" } else { "copy" };
        let interfaces = members.iter().map(|member| &*member.name).collect::<Vec<_>>().join(" ");
        tracing::info!(interface = %filter.name, interfaces, queues, mode, generic = filter.generic(), chunk_size, "AF_XDP sockets are open");
        Ok((filter, opened))
    }
}

//! Opens AF_XDP: maps, program, link, and a socket with its memory and rings for every receive queue.

use super::bpf::{self, Program, VipMap, XskMap};
use super::error::Error;
use super::ring::{Consumer, Entry, Layout, Producer};
use super::umem::Umem;
use super::{AfXdp, Counts, filter};
use crate::interface::Interface;
use guideway_sys::{self as sys, Mapping};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Chunks of one socket. Fill and completion ring have an entry for each, so neither is ever full.
pub(super) const CHUNKS: u32 = 4096;
const RECEIVE: u32 = 2048;
const TRANSMIT: u32 = 2048;
/// Bytes that XDP keeps free before a frame.
const XDP_HEADROOM: u32 = 256;
/// Ethernet with one tag, which the MTU does not count.
const LINK: u32 = 14 + 4;
/// Socket option of linux/if_xdp.h since Linux 6.17: frames sent for one system call, 32 without it.
const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;
/// The kernel releases a queue some milliseconds after its socket is closed: number of attempts to bind to it.
const BUSY_TRIES: u32 = 40;
const BUSY_PAUSE: Duration = Duration::from_millis(5);

/// Which packets the filter takes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Address to which routers send GRE over IPv4.
    pub v4: Option<Ipv4Addr>,
    /// Address to which routers send GRE over IPv6.
    pub v6: Option<Ipv6Addr>,
    /// Whether it takes all GRE to `v4` and `v6`, also for inner destinations that are no VIPs (`unmatched = "drop"`).
    pub take_all_gre: bool,
    /// Maximum number of VIPs; 0 means 16,384.
    pub max_vips: u32,
}

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
    interface: String,
    generic: bool,
    program: Program,
    // Closing the link detaches the program.
    _link: OwnedFd,
}

impl FilterHandle {
    /// Sets the VIPs, also while workers run. After an error some of the new VIPs may be set already, and all old ones still are.
    pub fn set_vips(&self, vips: &[IpAddr]) -> Result<(), Error> {
        let wanted: BTreeSet<[u8; 16]> = vips.iter().map(|vip| filter::vip_key(*vip)).collect();
        if wanted.len() > self.max_vips as usize {
            return Err(Error::Vips { vips: wanted.len(), most: self.max_vips });
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let fail = |error| Error::kernel(&self.interface, "change the VIPs of the filter")(error);
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

    /// Returns whether the filter would take this frame (at least 14 bytes) if it came by the first receive queue. The kernel runs it without an interface.
    pub fn takes(&self, frame: &[u8]) -> std::io::Result<bool> {
        self.program.test_run(frame).map(|verdict| verdict == bpf::XDP_REDIRECT)
    }

    /// Returns whether the filter runs behind the driver instead of in it.
    pub fn generic(&self) -> bool {
        self.generic
    }
}

impl AfXdp {
    /// Opens every receive queue of `interface`. No frame is taken before [`FilterHandle::set_vips`] (but with `take_all_gre` GRE is).
    pub fn open(interface: &str, options: Options) -> Result<(FilterHandle, Vec<AfXdp>), Error> {
        let interface = Interface::by_name(interface)?;
        let chunk_size = chunk_size(&interface)?;
        raise_memory_limit();

        let name = interface.name.clone();
        let max_vips = if options.max_vips == 0 { 16_384 } else { options.max_vips };
        // Two entries for every VIP: during a change the map holds old and new ones.
        let vips = VipMap::new(max_vips.saturating_mul(2)).map_err(Error::kernel(&name, "make the map of VIPs"))?;
        let sockets = XskMap::new(interface.rx_queues).map_err(Error::kernel(&name, "make the map of sockets"))?;
        let code = filter::Program {
            mac: interface.mac,
            v4: options.v4,
            v6: options.v6,
            take_all_gre: options.take_all_gre,
            extensions: true,
            vips: vips.fd(),
            sockets: sockets.fd(),
        };
        let program = load(&code, &name)?;
        let (link, generic) = attach(&program, &interface)?;

        let mut opened = Vec::with_capacity(interface.rx_queues as usize);
        for queue in 0..interface.rx_queues {
            let io = open_queue(&interface, queue, chunk_size, generic)?;
            sockets.set(queue, io.socket.as_fd()).map_err(Error::kernel(&name, "give a queue to its socket"))?;
            opened.push(io);
        }
        let mode = if opened.iter().all(|io| io.zero_copy) { "zero copy" } else { "copy" };
        tracing::info!(interface = %name, queues = interface.rx_queues, mode, generic, chunk_size, "AF_XDP sockets are open");
        let filter = FilterHandle { vips, known: Mutex::default(), max_vips, interface: name, generic, program, _link: link };
        Ok((filter, opened))
    }
}

/// Loads the filter. A kernel before Linux 5.18 gets one that walks no extension headers.
fn load(code: &filter::Program, interface: &str) -> Result<Program, Error> {
    let load = |code: &filter::Program| {
        let code = code.assemble().map_err(|error| Error::Filter(error.to_string()))?;
        Program::load(&code).map_err(Error::kernel(interface, "load the filter"))
    };
    load(code).or_else(|why| {
        let program = load(&filter::Program { extensions: false, ..*code }).map_err(|_| why)?;
        tracing::warn!(
            interface,
            "GRE behind IPv6 extension headers goes to the host: the XDP filter can follow these since Linux 5.18; let routers send none \
             (`ip link change … type ip6gre encaplimit none`), or use io `af_packet`"
        );
        Ok(program)
    })
}

/// Frame memory counts against RLIMIT_MEMLOCK without CAP_IPC_LOCK, and before Linux 5.11 maps do too. Raises the limit as far as allowed. If that is too
/// little, a later step fails with its own error.
fn raise_memory_limit() {
    if setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY).is_err()
        && let Ok((_, hard)) = getrlimit(Resource::RLIMIT_MEMLOCK)
    {
        let _ = setrlimit(Resource::RLIMIT_MEMLOCK, hard, hard);
    }
}

/// Returns the bytes of a chunk: frame, tag, headroom of XDP. The kernel accepts 2,048 and, with the usual pages, 4,096.
fn chunk_size(interface: &Interface) -> Result<u32, Error> {
    let need = interface.mtu.saturating_add(LINK + XDP_HEADROOM);
    match need {
        0..=2048 => Ok(2048),
        2049..=4096 => Ok(4096),
        _ => Err(Error::Mtu { interface: interface.name.clone(), mtu: interface.mtu, most: 4096 - LINK - XDP_HEADROOM }),
    }
}

/// Attaches the program to the driver, or else behind it. Returns also whether it is behind it.
fn attach(program: &Program, interface: &Interface) -> Result<(OwnedFd, bool), Error> {
    // A link that was closed a moment ago may still exist.
    let attach = |mode| retry_while_busy(|| program.attach(interface.index, mode));
    let refused = |error: std::io::Error| match error.raw_os_error() {
        Some(libc::EBUSY | libc::EEXIST) => Error::Attached { interface: interface.name.clone() },
        _ => Error::kernel(&interface.name, "attach the filter")(error),
    };
    let native = match attach(bpf::NATIVE) {
        Ok(link) => return Ok((link, false)),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::EBUSY | libc::EEXIST)) => return Err(refused(error)),
        Err(error) => error,
    };
    let link = attach(bpf::GENERIC).map_err(refused)?;
    tracing::info!(
        interface = %interface.name, mtu = interface.mtu, reason = %native,
        "the driver does not accept the XDP filter: it runs behind the driver (generic mode), which is slower"
    );
    Ok((link, true))
}

fn retry_while_busy<T>(mut attempt: impl FnMut() -> std::io::Result<T>) -> std::io::Result<T> {
    let mut tries = 0;
    loop {
        match attempt() {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && tries < BUSY_TRIES => {
                tries += 1;
                std::thread::sleep(BUSY_PAUSE);
            }
            other => return other,
        }
    }
}

pub(super) fn open_queue(interface: &Interface, queue: u32, chunk_size: u32, generic: bool) -> Result<AfXdp, Error> {
    let name = &interface.name;
    let umem = Umem::new(CHUNKS, chunk_size).map_err(Error::kernel(name, "get memory for frames"))?;
    let socket = Socket::new(Domain::from(libc::AF_XDP), Type::RAW, None).map_err(Error::kernel(name, "open an AF_XDP socket"))?;
    let fd = socket.as_fd();
    let set = |option, value: &u32| sys::set_option(fd, libc::SOL_XDP, option, value);
    sys::set_option(fd, libc::SOL_XDP, libc::XDP_UMEM_REG, &umem.registration()).map_err(|error| match error.raw_os_error() {
        Some(libc::ENOBUFS) => Error::Memory { bytes: (CHUNKS * chunk_size) as usize, queue },
        _ => Error::kernel(name, "register memory for frames")(error),
    })?;
    let rings = || {
        set(libc::XDP_UMEM_FILL_RING, &CHUNKS)?;
        set(libc::XDP_UMEM_COMPLETION_RING, &CHUNKS)?;
        set(libc::XDP_RX_RING, &RECEIVE)?;
        set(libc::XDP_TX_RING, &TRANSMIT)?;
        // An older kernel rejects the option and sends 32 frames for each call.
        let _ = set(XDP_MAX_TX_SKB_BUDGET, &256);
        let at = sys::get_option::<libc::xdp_mmap_offsets>(fd, libc::SOL_XDP, libc::XDP_MMAP_OFFSETS)?;
        let (layout, map) = ring::<u64>(fd, at.fr, CHUNKS, libc::XDP_UMEM_PGOFF_FILL_RING)?;
        let fill = Producer::new(map, layout, CHUNKS)?;
        let (layout, map) = ring::<u64>(fd, at.cr, CHUNKS, libc::XDP_UMEM_PGOFF_COMPLETION_RING)?;
        let completion = Consumer::new(map, layout, CHUNKS)?;
        let (layout, map) = ring::<libc::xdp_desc>(fd, at.rx, RECEIVE, libc::XDP_PGOFF_RX_RING as u64)?;
        let receive = Consumer::new(map, layout, RECEIVE)?;
        let (layout, map) = ring::<libc::xdp_desc>(fd, at.tx, TRANSMIT, libc::XDP_PGOFF_TX_RING as u64)?;
        Ok((fill, completion, receive, Producer::new(map, layout, TRANSMIT)?))
    };
    let (fill, completion, receive, transmit) = rings().map_err(Error::kernel(name, "make the rings"))?;
    // Without a flag the kernel tries zero copy and falls back to copy. Behind the driver only copy works.
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: libc::XDP_USE_NEED_WAKEUP | if generic { libc::XDP_COPY } else { 0 },
        sxdp_ifindex: interface.index,
        sxdp_queue_id: queue,
        sxdp_shared_umem_fd: 0,
    };
    retry_while_busy(|| sys::bind(fd, &address)).map_err(|error| match error.raw_os_error() {
        Some(libc::EBUSY) => Error::Busy { interface: name.clone(), queue },
        _ => Error::kernel(name, "bind an AF_XDP socket to its queue")(error),
    })?;
    let zero_copy = sys::get_option::<libc::xdp_options>(fd, libc::SOL_XDP, libc::XDP_OPTIONS)
        .is_ok_and(|options| options.flags & libc::XDP_OPTIONS_ZEROCOPY != 0);
    let (interface, counts) = (interface.index, Counts::default());
    let mut io = AfXdp { fill, completion, receive, transmit, socket, umem, interface, counts, zero_copy };
    io.recycle().map_err(Error::kernel(name, "fill the fill ring"))?;
    Ok(io)
}

/// Maps one ring. Returns also the offsets of its parts.
fn ring<T: Entry>(fd: BorrowedFd<'_>, at: libc::xdp_ring_offset, size: u32, offset: u64) -> std::io::Result<(Layout, Arc<Mapping>)> {
    let layout = Layout::from(at);
    let map = Mapping::shared(fd, layout.len::<T>(size), offset)?;
    Ok((layout, Arc::new(map)))
}

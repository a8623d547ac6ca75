//! The parts of AF_XDP, one by one: program, link, and a socket with its memory and rings for a receive queue.

use super::bpf::{self, Link, Program};
use super::error::Error;
use super::ring::{Consumer, Entry, Layout, Producer};
use super::socket::{Counts, QueueSocket};
use super::umem::Umem;
use super::{filter, holder};
use crate::af_packet::address;
use crate::interface::Interface;
use guideway_packet::loss::Losses;
use guideway_sys::{self as sys, Mapping};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

/// Chunks of one socket. Fill and completion ring have an entry for each, so neither is ever full.
pub(super) const CHUNKS: u32 = 4096;
const RECEIVE: u32 = 2048;
const TRANSMIT: u32 = 2048;
/// Bytes of a chunk that the MTU does not count: what XDP keeps free before a frame, and Ethernet with one tag.
pub(super) const FRAME_OVERHEAD: u32 = 256 + 14 + 4;
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
    /// Maximum number of workers, which share the receive queues; 0 means one for each queue.
    pub max_workers: u32,
}

/// Loads the filter. A kernel before Linux 5.18 gets one that walks no extension headers.
pub(super) fn load(code: &filter::Program, interface: &str) -> Result<Program, Error> {
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
pub(super) fn raise_memory_limit() {
    if setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY).is_err()
        && let Ok((_, hard)) = getrlimit(Resource::RLIMIT_MEMLOCK)
    {
        let _ = setrlimit(Resource::RLIMIT_MEMLOCK, hard, hard);
    }
}

/// Returns the bytes of a chunk: frame, tag, headroom of XDP. The kernel accepts 2,048 and, with the usual pages, 4,096.
pub(super) fn chunk_size(interface: &Interface) -> Result<u32, Error> {
    let need = interface.mtu.saturating_add(FRAME_OVERHEAD);
    match need {
        0..=2048 => Ok(2048),
        2049..=4096 => Ok(4096),
        _ => Err(Error::Mtu { interface: interface.name.clone(), mtu: interface.mtu, most: 4096 - FRAME_OVERHEAD }),
    }
}

/// Attaches the program to the driver, or else behind it. Returns also whether it is behind it.
pub(super) fn attach(program: &Program, interface: &Interface) -> Result<(Link, bool), Error> {
    // A link that was closed a moment ago may still exist.
    let attach = |mode| retry_while_busy(|| program.attach(interface.index, mode));
    let refused = |error: std::io::Error| match error.raw_os_error() {
        Some(libc::EBUSY | libc::EEXIST) => Error::Attached { interface: interface.name.clone(), holder: holder::find(interface.index) },
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

pub(super) fn open_queue(interface: &Interface, queue: u32, chunk_size: u32, generic: bool) -> Result<QueueSocket, Error> {
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
    let sender = (queue >= interface.tx_queues)
        .then(|| sender(interface.index))
        .transpose()
        .map_err(Error::kernel(name, "open a socket to send by"))?;
    let mut io = QueueSocket {
        fill,
        completion,
        receive,
        transmit,
        socket,
        umem,
        interface: interface.index,
        counts: Counts::default(),
        losses: Losses::default(),
        polls: 0,
        zero_copy,
        sender,
    };
    io.recycle().map_err(Error::kernel(name, "fill the fill ring"))?;
    Ok(io)
}

/// A packet socket that sends by an interface and receives nothing.
fn sender(interface: u32) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
    sys::bind(socket.as_fd(), &address(interface, 0))?;
    Ok(socket)
}

/// Maps one ring. Returns also the offsets of its parts.
fn ring<T: Entry>(fd: BorrowedFd<'_>, at: libc::xdp_ring_offset, size: u32, offset: u64) -> std::io::Result<(Layout, Arc<Mapping>)> {
    let layout = Layout::from(at);
    let map = Mapping::shared(fd, layout.len::<T>(size), offset)?;
    Ok((layout, Arc::new(map)))
}

//! Packets through an AF_PACKET socket: works on every interface, and as the root of a user namespace; slower than AF_XDP.
//!
//! The kernel writes copies of what arrives into a ring that is mapped here (TPACKET_V2), with room before each frame; the path changes them in
//! place, and `sendmmsg` sends a batch of them from where they stand. What is *not* ours needs nothing: the host's stack has the original.
//! For that reason the host's stack also sees what *is* ours: [`gre_sink`] keeps it from answering GRE, and a director must not
//! forward plain packets to its VIPs by itself (`net.ipv4.ip_forward` = 0 on this interface, which is the default).
//!
//! * TPACKET_V2, not V3: V3 hands over whole blocks, and a block that is not full only when a timer of at least 1 ms runs out. TFTP waits for
//!   each acknowledgement, so that this time would be added to every block of every transfer. V2 hands over every frame at once.
//! * A UDP or TCP checksum that is unfinished (TP_STATUS_CSUMNOTREADY: a container or virtual machine of this host left it to the card) is finished here. A frame
//!   with another unfinished checksum is lost, counted as [`Loss::UnfinishedChecksum`].
//! * A frame longer than the MTU (put together by GRO) does not fit its slot. It is lost, counted as [`Loss::SuperFrame`]: switch GRO off. When the MTU was raised, the
//!   ring is renewed.

pub mod gre_sink;
mod ring;
pub(crate) mod send;
#[cfg(test)]
mod tests;

use super::interface::{self, Interface};
use super::{BATCH, BatchHandler, Io, PollResult};
use gre_sink::GreSink;
use guideway_packet::frame::{Frame, OWN_INTERFACE};
use guideway_packet::loss::{Loss, Losses};
use guideway_packet::time::Time;
use guideway_sys as sys;
use nix::poll::PollFlags;
use ring::Ring;
use socket2::{Domain, Socket, Type};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

/// Requested send buffer in bytes: some thousand frames in flight.
const SEND_BUFFER: libc::c_int = 8 << 20;

/// Busy polls between two looks at the kernel's statistics. An idle poll looks at them anyway.
const STATISTICS_INTERVAL: u32 = 1024;

/// Time between two looks at the MTU of an interface that receives frames which are too long for the ring.
const EXAMINE_INTERVAL: Duration = Duration::from_millis(100);

/// One worker's share of an interface.
///
/// `ToHost` and drops only release the frame: the host has its own copy.
#[derive(Debug)]
pub struct AfPacket {
    ring: Ring,
    socket: Socket,
    interface: u32,
    /// The MTU that the ring was made for.
    mtu: u32,
    /// The group of the workers, if there are several.
    group: Option<u32>,
    /// Frames that were too long for the ring when the interface was last examined, and when that was.
    outgrown: u64,
    examined: Time,
    /// The kernel said that the interface is down, and nothing has come since.
    down: bool,
    /// Those of the socket, and of rings that were replaced.
    losses: Losses,
    /// Checksums that were finished in rings that were replaced.
    finished: u64,
    polls: u32,
    _gre_sink: Arc<GreSink>,
}

/// Why an interface cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The interface itself.
    #[error(transparent)]
    Interface(#[from] interface::Error),
    /// No permission.
    #[error("no permission for packet sockets: io `af_packet` needs CAP_NET_RAW (run as root, or in a user namespace: `unshare -rn`)")]
    Permission,
    /// A number of workers that cannot be.
    #[error("{0} workers: allowed are 1 to 64")]
    Workers(usize),
    /// Any other refusal of the kernel.
    #[error("io `af_packet` on `{interface}`: cannot {what}: {error}")]
    Kernel {
        /// Name of the interface.
        interface: String,
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        error: std::io::Error,
    },
}

impl AfPacket {
    /// Opens `interface` for so many workers (1–64); each flow comes to one of them, chosen by the kernel's hash (of the inner packet, for GRE).
    pub fn open(interface: &str, workers: usize) -> Result<Vec<AfPacket>, Error> {
        if !(1..=64).contains(&workers) {
            return Err(Error::Workers(workers));
        }
        let interface = Interface::by_name(interface)?;
        let fail = |what| {
            let name = interface.name.clone();
            move |error: std::io::Error| match error.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) => Error::Permission,
                _ => Error::Kernel { interface: name, what, error },
            }
        };
        let gre_sink = Arc::new(GreSink::new().map_err(fail("hold raw sockets for GRE"))?);
        let mut group = None;
        let mut opened = Vec::with_capacity(workers);
        for _ in 0..workers {
            let (socket, ring) = open_socket(interface.mtu).map_err(|(what, error)| fail(what)(error))?;
            sys::bind(socket.as_fd(), &address(interface.index, libc::ETH_P_ALL as u16)).map_err(fail("bind the socket"))?;
            if workers > 1 {
                group = Some(join_fanout(&socket, group).map_err(fail("share the packets among the workers (PACKET_FANOUT)"))?);
            }
            opened.push(AfPacket {
                ring,
                socket,
                interface: interface.index,
                mtu: interface.mtu,
                group: None,
                outgrown: 0,
                examined: Time::default(),
                down: false,
                losses: Losses::default(),
                finished: 0,
                polls: 0,
                _gre_sink: gre_sink.clone(),
            });
        }
        opened.iter_mut().for_each(|io| io.group = group);
        Ok(opened)
    }
}

impl AfPacket {
    /// Adds what the kernel says it lost since the last time, if it is time to ask.
    fn update_losses(&mut self, idle: bool) -> std::io::Result<()> {
        self.polls = self.polls.wrapping_add(1);
        if idle || self.polls.is_multiple_of(STATISTICS_INTERVAL) {
            // The kernel starts to count anew with each question.
            let now = sys::get_option::<libc::tpacket_stats>(self.socket.as_fd(), libc::SOL_PACKET, libc::PACKET_STATISTICS)?;
            self.losses.add(Loss::RingFull, now.tp_drops.into());
        }
        Ok(())
    }
}

impl AfPacket {
    /// Makes a longer ring if frames did not fit because the MTU was raised. Called when the ring is empty, or nearly so. Frames that come until the new one is bound are lost.
    fn grow(&mut self) -> std::io::Result<()> {
        let (too_long, now) = (self.ring.losses().get(Loss::SuperFrame), sys::monotonic());
        if too_long == self.outgrown || now - self.examined < EXAMINE_INTERVAL {
            return Ok(());
        }
        (self.outgrown, self.examined) = (too_long, now);
        // An interface that is gone is reported by the socket.
        let Ok(interface) = Interface::by_index(self.interface) else { return Ok(()) };
        if interface.mtu <= self.mtu {
            return Ok(());
        }
        let (socket, ring) = open_socket(interface.mtu).map_err(|(_, error)| error)?;
        self.update_losses(true)?;
        self.losses.merge(&self.ring.losses());
        self.finished += self.ring.finished_checksums();
        // The old socket is closed first: no frame comes twice.
        (self.socket, self.ring, self.mtu, self.outgrown) = (socket, ring, interface.mtu, 0);
        sys::bind(self.socket.as_fd(), &address(self.interface, libc::ETH_P_ALL as u16))?;
        if self.group.is_some() {
            join_fanout(&self.socket, self.group)?;
        }
        tracing::info!(interface = %interface.name, mtu = interface.mtu, "ring renewed, because the MTU of its interface was raised");
        Ok(())
    }
}

impl Io for AfPacket {
    fn poll(&mut self, wait: Duration, work: &mut BatchHandler<'_>) -> std::io::Result<PollResult> {
        let mut wait = Some(wait).filter(|w| !w.is_zero());
        self.update_losses(false)?;
        loop {
            let mut frames: [Frame<'_>; BATCH] = std::array::from_fn(|_| Frame::new(&mut [], 0, 0));
            let (taken, received) = self.ring.receive(&mut frames);
            if taken > 0 {
                let frames = &mut frames[..received];
                self.down = false;
                if !frames.is_empty() {
                    work(sys::monotonic(), frames);
                }
                let (transmit_full, outcome) = send::transmit(self.socket.as_fd(), frames, OWN_INTERFACE);
                self.ring.release();
                outcome.or_else(|error| {
                    self.down = true;
                    sys::interface_error(error, self.interface)
                })?;
                if taken < BATCH {
                    self.grow()?;
                }
                return Ok(PollResult { received, transmit_full, end: false });
            }
            let Some(wait) = wait.take() else { return Ok(PollResult::default()) };
            self.update_losses(true)?;
            let events = sys::wait_readable(self.socket.as_fd(), wait)?;
            if events.contains(PollFlags::POLLERR) {
                self.down = true;
                sys::socket_error(self.socket.as_fd(), self.interface)?;
            } else if events.is_empty() && self.down {
                // The kernel says it once, and not again when an interface that is down is removed.
                sys::interface_error(std::io::Error::from_raw_os_error(libc::ENETDOWN), self.interface)?;
            }
        }
    }

    /// Sent at once.
    fn send(&mut self, frame: &[u8]) -> std::io::Result<bool> {
        match self.socket.send_with_flags(frame, libc::MSG_DONTWAIT) {
            Ok(_) => Ok(true),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENETDOWN | libc::ENXIO | libc::ENODEV)) => {
                self.down = true;
                sys::interface_error(error, self.interface).map(|()| false)
            }
            Err(_) => Ok(false),
        }
    }

    fn now(&self) -> Time {
        sys::monotonic()
    }

    fn losses(&self) -> Losses {
        let mut losses = self.ring.losses();
        losses.merge(&self.losses);
        losses
    }

    fn for_each_counter(&self, show: &mut dyn FnMut(&'static str, u64)) {
        show("checksums_finished", self.finished + self.ring.finished_checksums());
    }
}

/// Opens a socket with a ring for this MTU, not bound yet. An error comes with what was tried.
fn open_socket(mtu: u32) -> Result<(Socket, Ring), (&'static str, std::io::Error)> {
    let fail = |what| move |error: std::io::Error| (what, error);
    // Protocol 0 receives nothing until it is bound: no frame comes that the filter has not seen.
    let socket = Socket::new(Domain::PACKET, Type::RAW, None).map_err(fail("open a packet socket"))?;
    let fd = socket.as_fd();
    sys::attach_filter(fd, &filter()).map_err(fail("attach its filter"))?;
    sys::set_option(fd, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &1).map_err(fail("leave out what goes out"))?;
    let ring = Ring::new(fd, mtu).map_err(fail("map a receive ring of 8 MiB"))?;
    sys::set_option(fd, libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, &1).map_err(fail("pass by the queueing discipline"))?;
    if sys::set_option(fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &SEND_BUFFER).is_err() {
        sys::set_option(fd, libc::SOL_SOCKET, libc::SO_SNDBUF, &SEND_BUFFER).map_err(fail("set the send buffer"))?;
    }
    Ok((socket, ring))
}

/// Joins the group of the workers, or makes one with a number that nobody else uses.
fn join_fanout(socket: &Socket, group: Option<u32>) -> std::io::Result<u32> {
    let fd = socket.as_fd();
    let kind = libc::PACKET_FANOUT_HASH | libc::PACKET_FANOUT_FLAG_IGNORE_OUTGOING;
    if let Some(group) = group {
        sys::set_option(fd, libc::SOL_PACKET, libc::PACKET_FANOUT, &(group | kind << 16))?;
        return Ok(group);
    }
    sys::set_option(fd, libc::SOL_PACKET, libc::PACKET_FANOUT, &((kind | libc::PACKET_FANOUT_FLAG_UNIQUEID) << 16))?;
    Ok(sys::get_option::<u32>(fd, libc::SOL_PACKET, libc::PACKET_FANOUT)? & 0xffff)
}

/// The address of an interface for a packet socket.
pub(crate) fn address(interface: u32, protocol: u16) -> libc::sockaddr_ll {
    libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol.to_be(),
        sll_ifindex: interface.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    }
}

/// Classic BPF: IPv4 and IPv6 that are addressed to this host's MAC. What a bridge floods to everyone must not be forwarded by every director.
fn filter() -> [libc::sock_filter; 7] {
    let op = |code: u32, jt, jf, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    let load = |what: libc::c_int| op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, (libc::SKF_AD_OFF + what).cast_unsigned());
    let equal = |k: u32, jt, jf| op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, jt, jf, k);
    [
        load(libc::SKF_AD_PKTTYPE),
        equal(u32::from(libc::PACKET_HOST), 0, 4),
        load(libc::SKF_AD_PROTOCOL),
        equal(libc::ETH_P_IP as u32, 1, 0),
        equal(libc::ETH_P_IPV6 as u32, 0, 1),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ]
}

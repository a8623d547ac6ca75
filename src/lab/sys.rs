//! The lab's fence for what no safe crate offers: an ethtool ioctl, and binding an AF_PACKET socket to an interface.
#![allow(unsafe_code)]

use nix::libc;
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};
use std::io;
use std::os::fd::AsRawFd;

/// `ETHTOOL_STXCSUM` of linux/ethtool.h.
const ETHTOOL_STXCSUM: u32 = 0x17;
/// `ETHTOOL_SSG`, `STSO`, `SGSO` and `SGRO` of linux/ethtool.h.
const ETHTOOL_SEGMENTS: [u32; 4] = [0x19, 0x1f, 0x24, 0x2c];
/// `ETHTOOL_GFLAGS` and `ETHTOOL_SFLAGS`, and the bits for VLAN tags that the card puts on and takes off.
const ETHTOOL_FLAGS: [u32; 2] = [0x25, 0x26];
const VLAN_FLAGS: u32 = 1 << 7 | 1 << 8;
/// `ETHTOOL_GCHANNELS` and `ETHTOOL_SCHANNELS`.
const ETHTOOL_CHANNELS: [u32; 2] = [0x3c, 0x3d];
/// `SIOCETHTOOL` of linux/sockios.h.
const SIOCETHTOOL: u64 = 0x8946;

/// `struct ethtool_value` of linux/ethtool.h.
#[repr(C)]
struct EthtoolValue {
    cmd: u32,
    data: u32,
}

/// `struct ethtool_channels` of linux/ethtool.h.
#[repr(C)]
#[derive(Default)]
struct EthtoolChannels {
    cmd: u32,
    max: [u32; 4],
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}

/// A number of queues of an interface.
#[derive(Clone, Copy, Debug)]
pub enum Queues {
    /// To receive by.
    Receive(u32),
    /// To send by.
    Transmit(u32),
}

/// Sets a number of queues, as `ethtool -L` does.
pub fn set_queues(interface: &str, queues: Queues) -> io::Result<()> {
    let [get, set] = ETHTOOL_CHANNELS;
    let mut channels = EthtoolChannels { cmd: get, ..EthtoolChannels::default() };
    request(interface, &mut channels)?;
    channels.cmd = set;
    match queues {
        Queues::Receive(queues) => channels.rx = queues,
        Queues::Transmit(queues) => channels.tx = queues,
    }
    request(interface, &mut channels)
}

/// Makes the kernel finish L4 checksums before a frame leaves by `interface` of the current namespace. Without it a frame from a local
/// stack crosses a veth with an unfinished checksum, which AF_XDP and AF_PACKET see.
pub fn transmit_checksums_off(interface: &str) -> io::Result<()> {
    ethtool(interface, ETHTOOL_STXCSUM, 0).map(drop)
}

/// Switches off all that makes frames larger than the link (scattered, segmented and merged ones) or keeps their VLAN tags apart. netmap does none of that work.
pub fn segments_off(interface: &str) -> io::Result<()> {
    ETHTOOL_SEGMENTS.into_iter().try_for_each(|command| ethtool(interface, command, 0).map(drop))?;
    let [get, set] = ETHTOOL_FLAGS;
    let flags = ethtool(interface, get, 0)?;
    ethtool(interface, set, flags & !VLAN_FLAGS).map(drop)
}

/// One command with a value; returns the value that the kernel leaves there.
fn ethtool(interface: &str, command: u32, data: u32) -> io::Result<u32> {
    let mut value = EthtoolValue { cmd: command, data };
    request(interface, &mut value)?;
    Ok(value.data)
}

/// One request with the structure that belongs to its command.
fn request<T>(interface: &str, value: &mut T) -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    // SAFETY: `ifreq` is plain old data for which all zeroes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if interface.len() >= request.ifr_name.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the name of the interface is too long"));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = std::ptr::from_mut(value).cast();
    // SAFETY: SIOCETHTOOL takes an `ifreq` whose data points to the structure of its command; both live until the call returns.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A raw AF_PACKET socket that sees what enters and leaves the interface with this index, and nothing else.
pub fn packet_socket(index: u32) -> io::Result<Socket> {
    let everything = (libc::ETH_P_ALL as u16).to_be();
    let index = i32::try_from(index).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "no such interface index"))?;
    // Protocol 0 receives nothing until the socket is bound, so that no frame of another interface slips in.
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: `sockaddr_ll` is plain old data, a valid socket address of Linux, and smaller than the storage.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = everything;
    address.sll_ifindex = index;
    let length = std::mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the storage holds an initialised `sockaddr_ll` of exactly this length.
    socket.bind(&unsafe { SockAddr::new(storage, length) })?;
    Ok(socket)
}

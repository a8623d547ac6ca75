//! Safe wrappers of `recvmmsg` and `sendmmsg`, which no safe crate offers without an allocation or a copy per datagram.
//!
//! Both sides keep their arrays of headers between calls. Pointers in them are set before every call and never used after it.
#![allow(unsafe_code)]

use crate::content::Borrowed;
use libc::{c_int, cmsghdr, iovec, mmsghdr, sockaddr_in, sockaddr_in6, sockaddr_storage};
use std::io;
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};

/// Room for the control messages of one datagram: packet information of IPv6 and a segment size.
type Control = [u64; 8];

/// Local address of a datagram and, for link-local ones, its interface: the destination of a received one, the source of a sent one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Local {
    /// The address.
    pub address: IpAddr,
    /// The interface's index; 0 lets the routes decide.
    pub interface: u32,
}

/// A received datagram.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    /// Its sender.
    pub from: SocketAddr,
    /// Its destination, if the socket reports it.
    pub local: Option<Local>,
    /// Its bytes.
    pub bytes: &'a [u8],
    /// Whether it was longer than the buffer.
    pub truncated: bool,
    /// Whether it was sent to a broadcast or multicast address.
    pub broadcast: bool,
}

/// Raises the nice value of this thread by `by` steps. It needs no privilege, and failures are ignored.
pub fn raise_nice(by: u8) {
    // SAFETY: both take and give numbers only; 0 is the thread that calls.
    unsafe {
        let now = libc::getpriority(libc::PRIO_PROCESS, 0);
        libc::setpriority(libc::PRIO_PROCESS, 0, (now + c_int::from(by)).min(19));
    }
}

/// Buffers for a batch of datagrams.
pub struct Receiver {
    buffers: Vec<u8>,
    size: usize,
    names: Vec<sockaddr_storage>,
    controls: Vec<Control>,
    vectors: Vec<iovec>,
    headers: Vec<mmsghdr>,
    /// Number of requested datagrams: unused headers cost as much to set up as used ones.
    requested: usize,
    /// Consecutive calls that returned exactly one datagram.
    singles: u8,
}

/// Whether to wait for the first datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceiveMode {
    /// Does not wait.
    NonBlocking,
    /// Waits up to the receive time-out of the socket.
    Blocking,
}

/// Smallest number of requested datagrams, unless they arrive one by one.
const MIN_BATCH: usize = 2;
/// After this many calls with a single datagram, only one is requested; after as many more, two are requested again.
const SINGLES_TO_SHRINK: u8 = 16;
const SINGLES_TO_GROW: u8 = 64;

// SAFETY: the pointers in `vectors` and `headers` are only used within `receive`, which sets them first.
unsafe impl Send for Receiver {}

impl Receiver {
    /// Allocates buffers for `count` datagrams of up to `size` bytes.
    pub fn new(count: usize, size: usize) -> Receiver {
        // SAFETY: all three are plain C structures for which zeroes are valid.
        let (name, vector, header) = unsafe { std::mem::zeroed::<(sockaddr_storage, iovec, mmsghdr)>() };
        Receiver {
            buffers: vec![0; count * size],
            size,
            names: vec![name; count],
            controls: vec![[0; 8]; count],
            vectors: vec![vector; count],
            headers: vec![header; count],
            requested: MIN_BATCH.min(count),
            singles: 0,
        }
    }

    /// Receives available datagrams. Returns their number, and whether there may be more.
    pub fn receive(&mut self, socket: BorrowedFd<'_>, mode: ReceiveMode) -> io::Result<(usize, bool)> {
        let requested = self.requested;
        for (index, header) in self.headers[..requested].iter_mut().enumerate() {
            self.vectors[index] = iovec { iov_base: self.buffers[index * self.size..].as_mut_ptr().cast(), iov_len: self.size };
            let message = &mut header.msg_hdr;
            message.msg_name = std::ptr::from_mut(&mut self.names[index]).cast();
            message.msg_namelen = size_of::<sockaddr_storage>() as libc::socklen_t;
            message.msg_iov = &raw mut self.vectors[index];
            message.msg_iovlen = 1;
            message.msg_control = self.controls[index].as_mut_ptr().cast();
            message.msg_controllen = size_of::<Control>();
            message.msg_flags = 0;
        }
        let got = if requested == 1 { self.receive_one(socket, mode)? } else { self.receive_batch(socket, mode)? };
        self.singles = if got > 1 || self.singles >= SINGLES_TO_SHRINK + SINGLES_TO_GROW { 0 } else { self.singles + 1 };
        self.requested = if self.singles >= SINGLES_TO_SHRINK { 1 } else { (got * 2).max(MIN_BATCH) }.min(self.headers.len());
        Ok((got, got == requested))
    }

    fn receive_batch(&mut self, socket: BorrowedFd<'_>, mode: ReceiveMode) -> io::Result<usize> {
        let flags = if mode == ReceiveMode::NonBlocking { libc::MSG_DONTWAIT } else { libc::MSG_WAITFORONE };
        let count = self.requested as libc::c_uint;
        // SAFETY: each of the first `requested` headers points to a name, one vector and a control buffer of its own, all alive with the sizes
        // stated; each vector points to its own `size` bytes of `buffers`.
        let got = unsafe { libc::recvmmsg(socket.as_raw_fd(), self.headers.as_mut_ptr(), count, flags as _, std::ptr::null_mut()) };
        usize::try_from(got).map_err(|_| io::Error::last_os_error())
    }

    /// Receives one datagram by a direct system call: the C library's wrapper is a cancellation point, which costs time.
    fn receive_one(&mut self, socket: BorrowedFd<'_>, mode: ReceiveMode) -> io::Result<usize> {
        let Some(header) = self.headers.first_mut() else { return Ok(0) };
        let flags = if mode == ReceiveMode::NonBlocking { libc::MSG_DONTWAIT } else { 0 };
        // SAFETY: as for `receive_batch`.
        let got = unsafe { libc::syscall(libc::SYS_recvmsg, socket.as_raw_fd(), &raw mut header.msg_hdr, flags) };
        header.msg_len = u32::try_from(got).map_err(|_| io::Error::last_os_error())?;
        Ok(1)
    }

    /// Waits for a datagram on a connected socket, up to its receive time-out. The queue must have no packets from before the connection, so that the
    /// kernel need not report the sender. Returns the bytes, and whether the datagram was truncated.
    pub fn receive_connected(&mut self, socket: BorrowedFd<'_>) -> io::Result<(&[u8], bool)> {
        let (buffer, size) = (self.buffers.as_mut_ptr(), self.size);
        let nowhere = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: the first `size` bytes of `buffers` are exclusively borrowed; with null pointers the kernel writes no address.
        let got = unsafe { libc::syscall(libc::SYS_recvfrom, socket.as_raw_fd(), buffer, size, libc::MSG_TRUNC, nowhere, nowhere) };
        let length = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
        Ok((&self.buffers[..length.min(size)], length > size))
    }

    /// Returns a datagram of the last call; `None` when the sender's address is neither IPv4 nor IPv6.
    pub fn get(&self, index: usize) -> Option<Received<'_>> {
        let header = &self.headers[index];
        let len = (header.msg_len as usize).min(self.size);
        let from = address_of(&self.names[index])?;
        let bytes = &self.buffers[index * self.size..][..len];
        let used = header.msg_hdr.msg_controllen.min(size_of::<Control>());
        let (local, broadcast) = local_of(&self.controls[index], used).unzip();
        let truncated = header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
        Some(Received { from, local, bytes, truncated, broadcast: broadcast.unwrap_or(false) })
    }
}

fn address_of(name: &sockaddr_storage) -> Option<SocketAddr> {
    match c_int::from(name.ss_family) {
        libc::AF_INET => {
            // SAFETY: `sockaddr_storage` is large enough and aligned for every address; the family says which it is.
            let v4 = unsafe { &*std::ptr::from_ref(name).cast::<sockaddr_in>() };
            Some(SocketAddrV4::new(Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr)), u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let v6 = unsafe { &*std::ptr::from_ref(name).cast::<sockaddr_in6>() };
            let address = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            Some(SocketAddrV6::new(address, u16::from_be(v6.sin6_port), 0, v6.sin6_scope_id).into())
        }
        _ => None,
    }
}

/// Size of a control message's header, which precedes its data; both are multiples of 8 on Linux.
const HEADER: usize = size_of::<cmsghdr>();

/// Finds the packet information in the first `used` bytes of control messages, and whether the packet was sent to a broadcast or multicast address.
fn local_of(control: &Control, used: usize) -> Option<(Local, bool)> {
    if used == 0 {
        return None;
    }
    let mut bytes = [0u8; size_of::<Control>()];
    for (to, word) in bytes.chunks_exact_mut(8).zip(control) {
        to.copy_from_slice(&word.to_ne_bytes());
    }
    let mut left = &bytes[..used];
    while let Some(header) = left.get(..HEADER) {
        let word = |at: usize| c_int::from_ne_bytes(std::array::from_fn(|i| header[at + i]));
        // `cmsg_len` is a `size_t`; level and type follow.
        let len = usize::from_ne_bytes(std::array::from_fn(|i| header[i]));
        let data = left.get(HEADER..len)?;
        let number = |at: usize| data.get(at..at + 4).map(|b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
        match (word(size_of::<usize>()), word(size_of::<usize>() + 4)) {
            // struct in_pktinfo: interface, source address for answers, destination address of the header.
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                let [address, destination] = [number(4)?, number(8)?].map(|address| Ipv4Addr::from(u32::from_be(address)));
                // The kernel computes the source address only for packets that came after the option was set: not for those that waited in a
                // passed socket.
                let broadcast = match address {
                    Ipv4Addr::UNSPECIFIED => destination.is_multicast() || destination.is_broadcast(),
                    address => address != destination,
                };
                return Some((Local { address: address.into(), interface: number(0)? }, broadcast));
            }
            // struct in6_pktinfo: address, interface.
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                let address = Ipv6Addr::from(<[u8; 16]>::try_from(data.get(..16)?).ok()?);
                return Some((Local { address: address.into(), interface: number(16)? }, address.is_multicast()));
            }
            _ => left = left.get(len.next_multiple_of(8)..)?,
        }
    }
    None
}

/// The arrays of a batch of sends.
#[derive(Default)]
pub struct Sender {
    names: Vec<Name>,
    lengths: Vec<libc::socklen_t>,
    controls: Vec<(Control, usize)>,
    vectors: Vec<iovec>,
    /// End of each datagram's vectors.
    ends: Vec<usize>,
    headers: Vec<mmsghdr>,
}

// SAFETY: the pointers in `vectors` and `headers` are only used within the life of a `Batch`, which clears them first.
unsafe impl Send for Sender {}

impl Sender {
    /// Starts a batch; `connected` is for a connected socket, which needs no addresses.
    pub fn batch<'a>(&'a mut self, connected: bool) -> Batch<'a> {
        self.names.clear();
        self.lengths.clear();
        self.controls.clear();
        self.vectors.clear();
        self.ends.clear();
        Batch { sender: self, connected, bytes: PhantomData }
    }
}

/// A batch of datagrams, which borrows their bytes.
pub struct Batch<'a> {
    sender: &'a mut Sender,
    connected: bool,
    bytes: PhantomData<&'a [u8]>,
}

impl<'a> Batch<'a> {
    /// Starts a datagram, or with `segment` several of that size (the last may be shorter), which the kernel segments. `from` is the source address on
    /// a socket without a bound address.
    pub fn datagram(&mut self, to: SocketAddr, from: Option<Local>, segment: Option<u16>) {
        let (name, length) = name(to);
        self.sender.names.push(name);
        self.sender.lengths.push(length as libc::socklen_t);
        self.sender.controls.push(control(from.filter(|_| !self.connected), segment));
        self.sender.ends.push(self.sender.vectors.len());
    }

    /// Appends bytes to the last datagram.
    pub fn part(&mut self, part: Borrowed<'a>) {
        self.sender.vectors.push(iovec { iov_base: part.start().cast_mut().cast(), iov_len: part.len() });
        if let Some(end) = self.sender.ends.last_mut() {
            *end = self.sender.vectors.len();
        }
    }

    /// Sends the datagrams from index `skip` on, without waiting. Returns how many the kernel accepted; an error is that of the first one.
    pub fn send(&mut self, socket: BorrowedFd<'_>, skip: usize) -> io::Result<usize> {
        let s = &mut *self.sender;
        s.headers.clear();
        for index in skip..s.names.len() {
            let start = if index == 0 { 0 } else { s.ends[index - 1] };
            // SAFETY: a plain C structure for which zeroes are valid.
            let mut header: mmsghdr = unsafe { std::mem::zeroed() };
            let message = &mut header.msg_hdr;
            if !self.connected {
                message.msg_name = std::ptr::from_mut(&mut s.names[index]).cast();
                message.msg_namelen = s.lengths[index];
            }
            message.msg_iov = s.vectors[start..].as_mut_ptr();
            message.msg_iovlen = s.ends[index] - start;
            let (control, used) = &mut s.controls[index];
            message.msg_control = if *used == 0 { std::ptr::null_mut() } else { control.as_mut_ptr().cast() };
            message.msg_controllen = *used;
            s.headers.push(header);
        }
        if let [only] = s.headers.as_slice() {
            // A direct system call: the C library's wrapper is a cancellation point, which costs time.
            // SAFETY: as below.
            let sent = unsafe { libc::syscall(libc::SYS_sendmsg, socket.as_raw_fd(), &raw const only.msg_hdr, libc::MSG_DONTWAIT) };
            return if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(1) };
        }
        let count = s.headers.len() as libc::c_uint;
        // SAFETY: every header points to its own name, vectors and control buffer in arrays that are not touched until the call returns;
        // the vectors point to bytes that `'a` keeps borrowed, and the kernel only reads them.
        let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), s.headers.as_mut_ptr(), count, libc::MSG_DONTWAIT as _) };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}

/// Room for an address of either family; `sockaddr_storage` is four times as large.
type Name = sockaddr_in6;

/// Returns an address in the kernel's form and its size.
fn name(to: SocketAddr) -> (Name, usize) {
    // SAFETY: a plain C structure for which zeroes are valid.
    let mut name: Name = unsafe { std::mem::zeroed() };
    match to {
        SocketAddr::V4(to) => {
            // SAFETY: `sockaddr_in6` is larger than `sockaddr_in` and aligned at least as strictly.
            let v4 = unsafe { &mut *std::ptr::from_mut(&mut name).cast::<sockaddr_in>() };
            v4.sin_family = libc::AF_INET as libc::sa_family_t;
            v4.sin_port = to.port().to_be();
            v4.sin_addr.s_addr = u32::from(*to.ip()).to_be();
            (name, size_of::<sockaddr_in>())
        }
        SocketAddr::V6(to) => {
            name.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            name.sin6_port = to.port().to_be();
            name.sin6_addr.s6_addr = to.ip().octets();
            name.sin6_scope_id = to.scope_id();
            (name, size_of::<Name>())
        }
    }
}

/// Returns control messages and their size.
fn control(from: Option<Local>, segment: Option<u16>) -> (Control, usize) {
    if from.is_none() && segment.is_none() {
        return ([0; 8], 0);
    }
    let mut bytes = [0u8; size_of::<Control>()];
    let mut used = 0;
    let mut put = |level: c_int, kind: c_int, data: &[u8]| {
        let len = HEADER + data.len();
        let at = &mut bytes[used..];
        at[..size_of::<usize>()].copy_from_slice(&len.to_ne_bytes());
        at[size_of::<usize>()..][..4].copy_from_slice(&level.to_ne_bytes());
        at[size_of::<usize>() + 4..][..4].copy_from_slice(&kind.to_ne_bytes());
        at[HEADER..len].copy_from_slice(data);
        used += len.next_multiple_of(8);
    };
    match from.map(|local| (local.address, local.interface)) {
        Some((IpAddr::V4(address), interface)) => {
            let mut data = [0; 12];
            data[..4].copy_from_slice(&interface.to_ne_bytes());
            data[4..8].copy_from_slice(&address.octets());
            put(libc::IPPROTO_IP, libc::IP_PKTINFO, &data);
        }
        Some((IpAddr::V6(address), interface)) => {
            let mut data = [0; 20];
            data[..16].copy_from_slice(&address.octets());
            data[16..].copy_from_slice(&interface.to_ne_bytes());
            put(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &data);
        }
        None => {}
    }
    if let Some(segment) = segment {
        put(libc::SOL_UDP, libc::UDP_SEGMENT, &segment.to_ne_bytes());
    }
    (std::array::from_fn(|i| u64::from_ne_bytes(std::array::from_fn(|b| bytes[i * 8 + b]))), used)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_messages_are_read_as_they_are_written() {
        for address in ["192.0.2.69", "2001:db8::69"] {
            let local = Local { address: address.parse().unwrap(), interface: 7 };
            let (bytes, used) = control(Some(local), Some(1432));
            let local_of = |used| local_of(&bytes, used).map(|(local, _)| local);
            assert_eq!(local_of(used), Some(local));
            assert_eq!(local_of(0), None);
        }
        let (bytes, used) = control(None, Some(1432));
        assert_eq!((local_of(&bytes, used).is_none(), used), (true, 24));
    }

    #[test]
    fn the_layout_is_that_of_the_c_library() {
        // SAFETY: these compute sizes from a length alone.
        let (v6, segment) = unsafe { (libc::CMSG_SPACE(20) as usize, libc::CMSG_SPACE(2) as usize) };
        assert_eq!(control(Some(Local { address: Ipv6Addr::LOCALHOST.into(), interface: 0 }), Some(8)).1, v6 + segment);
        assert!(v6 + segment <= size_of::<Control>());
    }
}

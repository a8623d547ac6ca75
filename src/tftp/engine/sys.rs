//! Fence for the system calls that no safe crate offers without an allocation or a copy per datagram: `recvmmsg` and `sendmmsg`.
//!
//! Both sides keep their arrays of headers from call to call; pointers in them are set anew before every call and never used after it.
#![allow(unsafe_code)]

use crate::content::Lent;
use libc::{c_int, cmsghdr, iovec, mmsghdr, sockaddr_in, sockaddr_in6, sockaddr_storage};
use std::io;
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};

/// Room for the control messages of one datagram: packet information of IPv6 and a segment size.
type Control = [u64; 8];

/// The address and, for link-local ones, the interface that a datagram was sent to or is to be sent from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Local {
    /// The address.
    pub address: IpAddr,
    /// The interface's index; 0 leaves the choice to the routes.
    pub interface: u32,
}

/// A datagram that was received.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    /// Its sender.
    pub from: SocketAddr,
    /// Where it was sent to, when the socket was told to say so.
    pub local: Option<Local>,
    /// Its bytes.
    pub bytes: &'a [u8],
    /// Whether it was longer than the buffer.
    pub cut: bool,
}

/// Makes this thread give way to others a little more often, `by` steps of `nice`. Nothing forbids that, and nothing depends on it.
pub fn be_nicer(by: u8) {
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
    /// Datagrams asked for: setting up headers that stay empty costs as much as using them.
    offered: usize,
    /// Calls in a row that found one datagram and no second one.
    lonely: u8,
}

/// Whether to wait for the first datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Not at all.
    Now,
    /// As long as the socket's receive time-out says.
    Briefly,
}

/// Fewest datagrams asked for, until it is known that they come one by one.
const OFFERED: usize = 2;
/// After so many calls that found a single datagram only one is asked for, and after so many more it is tried with two again.
const LONELY: u8 = 16;
const ALONE: u8 = 64;

// SAFETY: the pointers in `vectors` and `headers` are only used within `receive`, which sets them first.
unsafe impl Send for Receiver {}

impl Receiver {
    /// Buffers for `count` datagrams of up to `size` bytes.
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
            offered: OFFERED.min(count),
            lonely: 0,
        }
    }

    /// Receives what is there; how many, and whether there may be more.
    pub fn receive(&mut self, socket: BorrowedFd<'_>, patience: Patience) -> io::Result<(usize, bool)> {
        let offered = self.offered;
        for (index, header) in self.headers[..offered].iter_mut().enumerate() {
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
        let got = if offered == 1 { self.one(socket, patience)? } else { self.several(socket, patience)? };
        self.lonely = if got > 1 || self.lonely >= LONELY + ALONE { 0 } else { self.lonely + 1 };
        self.offered = if self.lonely >= LONELY { 1 } else { (got * 2).max(OFFERED) }.min(self.headers.len());
        Ok((got, got == offered))
    }

    fn several(&mut self, socket: BorrowedFd<'_>, patience: Patience) -> io::Result<usize> {
        let flags = if patience == Patience::Now { libc::MSG_DONTWAIT } else { libc::MSG_WAITFORONE };
        let count = self.offered as libc::c_uint;
        // SAFETY: each of the first `offered` headers points to a name, one vector and a control buffer of its own, all alive with the sizes
        // stated; each vector points to its own `size` bytes of `buffers`.
        let got = unsafe { libc::recvmmsg(socket.as_raw_fd(), self.headers.as_mut_ptr(), count, flags as _, std::ptr::null_mut()) };
        usize::try_from(got).map_err(|_| io::Error::last_os_error())
    }

    /// The first datagram alone, by the system call itself: the C library's makes every call a point where a thread can be cancelled.
    fn one(&mut self, socket: BorrowedFd<'_>, patience: Patience) -> io::Result<usize> {
        let Some(header) = self.headers.first_mut() else { return Ok(0) };
        let flags = if patience == Patience::Now { libc::MSG_DONTWAIT } else { 0 };
        // SAFETY: as for `several`.
        let got = unsafe { libc::syscall(libc::SYS_recvmsg, socket.as_raw_fd(), &raw mut header.msg_hdr, flags) };
        header.msg_len = u32::try_from(got).map_err(|_| io::Error::last_os_error())?;
        Ok(1)
    }

    /// Waits as long as the socket's receive time-out says for a datagram at one that is connected, and at which nothing of others is left from before it
    /// was: the kernel need not write down who sent it. Its bytes, and whether there were more.
    pub fn one_of_peer(&mut self, socket: BorrowedFd<'_>) -> io::Result<(&[u8], bool)> {
        let (buffer, size) = (self.buffers.as_mut_ptr(), self.size);
        let nowhere = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: the first `size` bytes of `buffers` are ours alone; the kernel writes no address where none is wanted.
        let got = unsafe { libc::syscall(libc::SYS_recvfrom, socket.as_raw_fd(), buffer, size, libc::MSG_TRUNC, nowhere, nowhere) };
        let length = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
        Ok((&self.buffers[..length.min(size)], length > size))
    }

    /// One of the datagrams of the last call; nothing when its sender's address is of no IP family.
    pub fn get(&self, index: usize) -> Option<Received<'_>> {
        let header = &self.headers[index];
        let len = (header.msg_len as usize).min(self.size);
        let from = address_of(&self.names[index])?;
        let bytes = &self.buffers[index * self.size..][..len];
        let used = header.msg_hdr.msg_controllen.min(size_of::<Control>());
        let local = local_of(&self.controls[index], used);
        Some(Received { from, local, bytes, cut: header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 })
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

/// Bytes of a control message's header, which its data follows; both are multiples of 8 on Linux.
const HEADER: usize = size_of::<cmsghdr>();

/// The packet information among the first `used` bytes of control messages.
fn local_of(control: &Control, used: usize) -> Option<Local> {
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
        // `cmsg_len` is a `size_t`, level and type follow it.
        let len = usize::from_ne_bytes(std::array::from_fn(|i| header[i]));
        let data = left.get(HEADER..len)?;
        let number = |at: usize| data.get(at..at + 4).map(|b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
        match (word(size_of::<usize>()), word(size_of::<usize>() + 4)) {
            // struct in_pktinfo: interface, the address to answer from, the address in the header.
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                let address = Ipv4Addr::from(u32::from_be(number(4)?));
                return Some(Local { address: address.into(), interface: number(0)? });
            }
            // struct in6_pktinfo: address, interface.
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                let address: [u8; 16] = data.get(..16)?.try_into().ok()?;
                return Some(Local { address: Ipv6Addr::from(address).into(), interface: number(16)? });
            }
            _ => left = left.get(len.next_multiple_of(8)..)?,
        }
    }
    None
}

/// The arrays that a batch of sends is built in.
#[derive(Default)]
pub struct Sender {
    names: Vec<Name>,
    lengths: Vec<libc::socklen_t>,
    controls: Vec<(Control, usize)>,
    vectors: Vec<iovec>,
    /// Where each datagram's vectors end.
    ends: Vec<usize>,
    headers: Vec<mmsghdr>,
}

// SAFETY: the pointers in `vectors` and `headers` are only used within the life of a `Batch`, which clears them first.
unsafe impl Send for Sender {}

impl Sender {
    /// Starts a batch; with `connected` for a socket that knows where everything goes and from where.
    pub fn batch<'a>(&'a mut self, connected: bool) -> Batch<'a> {
        self.names.clear();
        self.lengths.clear();
        self.controls.clear();
        self.vectors.clear();
        self.ends.clear();
        Batch { sender: self, connected, bytes: PhantomData }
    }
}

/// Datagrams on their way. It borrows their bytes until it is dropped.
pub struct Batch<'a> {
    sender: &'a mut Sender,
    connected: bool,
    bytes: PhantomData<&'a [u8]>,
}

impl<'a> Batch<'a> {
    /// Starts a datagram, or with `segment` several of that many bytes each but the last, to be cut apart by the kernel. `from` is the
    /// address to send from on a socket that is bound to none.
    pub fn datagram(&mut self, to: SocketAddr, from: Option<Local>, segment: Option<u16>) {
        let (name, length) = name(to);
        self.sender.names.push(name);
        self.sender.lengths.push(length as libc::socklen_t);
        self.sender.controls.push(control(from.filter(|_| !self.connected), segment));
        self.sender.ends.push(self.sender.vectors.len());
    }

    /// Appends bytes to the last datagram.
    pub fn part(&mut self, part: Lent<'a>) {
        self.sender.vectors.push(iovec { iov_base: part.start().cast_mut().cast(), iov_len: part.len() });
        if let Some(end) = self.sender.ends.last_mut() {
            *end = self.sender.vectors.len();
        }
    }

    /// Sends the datagrams from the `skip`th on, without waiting; how many the kernel took. An error is that of the `skip`th.
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
            // The system call itself: the C library's makes every call a point where a thread can be cancelled.
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

/// An address and how many of its bytes are used.
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

/// Control messages and how many of their bytes are used.
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
            assert_eq!(local_of(&bytes, used), Some(local));
            assert_eq!(local_of(&bytes, 0), None);
        }
        let (bytes, used) = control(None, Some(1432));
        assert_eq!((local_of(&bytes, used), used), (None, 24));
    }

    #[test]
    fn the_layout_is_that_of_the_c_library() {
        // SAFETY: these compute sizes from a length alone.
        let (v6, segment) = unsafe { (libc::CMSG_SPACE(20) as usize, libc::CMSG_SPACE(2) as usize) };
        assert_eq!(control(Some(Local { address: Ipv6Addr::LOCALHOST.into(), interface: 0 }), Some(8)).1, v6 + segment);
        assert!(v6 + segment <= size_of::<Control>());
    }
}

//! Fence for `recvmmsg` and `sendmmsg`, by which one socket plays thousands of clients, each with an address of its own.
//!
//! Pointers are set once and stay valid because none of the arrays they point into ever grows.
#![allow(unsafe_code)]

use nix::libc::{self, cmsghdr, in_addr, in_pktinfo, iovec, mmsghdr, sockaddr_in};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, BorrowedFd};

/// A control message with packet information, and nothing else.
#[repr(C)]
#[derive(Clone, Copy)]
struct Control {
    header: cmsghdr,
    info: in_pktinfo,
}

/// What the kernel counts of [`Control`]; the compiler may pad it.
const CONTROL_LEN: usize = size_of::<cmsghdr>() + size_of::<in_pktinfo>();

struct Slots {
    size: usize,
    bytes: Vec<u8>,
    names: Vec<sockaddr_in>,
    controls: Vec<Control>,
    vectors: Vec<iovec>,
    headers: Vec<mmsghdr>,
}

impl Slots {
    fn new(count: usize, size: usize) -> Slots {
        // SAFETY: all four are plain C structures for which zeroes are valid.
        let (name, control, header): (sockaddr_in, Control, mmsghdr) = unsafe { std::mem::zeroed() };
        let mut bytes = vec![0; count * size];
        let (mut names, mut controls) = (vec![name; count], vec![control; count]);
        let base: *mut u8 = bytes.as_mut_ptr();
        let mut vectors: Vec<iovec> = (0..count).map(|i| iovec { iov_base: base.wrapping_add(i * size).cast(), iov_len: size }).collect();
        let mut headers = vec![header; count];
        for (i, header) in headers.iter_mut().enumerate() {
            header.msg_hdr.msg_name = names.as_mut_ptr().wrapping_add(i).cast();
            header.msg_hdr.msg_namelen = size_of::<sockaddr_in>() as libc::socklen_t;
            header.msg_hdr.msg_iov = vectors.as_mut_ptr().wrapping_add(i);
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = controls.as_mut_ptr().wrapping_add(i).cast();
            header.msg_hdr.msg_controllen = size_of::<Control>();
        }
        Slots { size, bytes, names, controls, vectors, headers }
    }
}

/// Datagrams that were received.
pub struct Inbox(Slots, usize);

/// One of them.
pub struct Datagram<'a> {
    /// Its sender.
    pub from: SocketAddrV4,
    /// Its destination address; unspecified unless the socket was set to report it.
    pub to: Ipv4Addr,
    /// Its bytes.
    pub bytes: &'a [u8],
}

impl Inbox {
    /// Room for `count` datagrams of at most `size` bytes.
    pub fn new(count: usize, size: usize) -> Inbox {
        Inbox(Slots::new(count, size), 0)
    }

    /// Waits for one datagram, as long as the socket's time-out allows, and takes what else is there; how many.
    pub fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        for header in self.0.headers.iter_mut().take(self.1) {
            header.msg_hdr.msg_namelen = size_of::<sockaddr_in>() as libc::socklen_t;
            header.msg_hdr.msg_controllen = size_of::<Control>();
        }
        self.1 = 0;
        let (headers, count) = (self.0.headers.as_mut_ptr(), self.0.headers.len() as libc::c_uint);
        // SAFETY: every header points to its own name, control buffer and vector, and that to its own `size` bytes; all live in `self`
        // and have the sizes stated.
        let got = unsafe { libc::recvmmsg(socket.as_raw_fd(), headers, count, libc::MSG_WAITFORONE as _, std::ptr::null_mut()) };
        self.1 = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
        Ok(self.1)
    }

    /// One of the datagrams of the last call.
    pub fn get(&self, index: usize) -> Datagram<'_> {
        let slots = &self.0;
        let (header, name, control) = (&slots.headers[index], &slots.names[index], &slots.controls[index]);
        let len = (header.msg_len as usize).min(slots.size);
        let reported = header.msg_hdr.msg_controllen >= CONTROL_LEN && control.header.cmsg_type == libc::IP_PKTINFO;
        let to = if reported { Ipv4Addr::from(u32::from_be(control.info.ipi_addr.s_addr)) } else { Ipv4Addr::UNSPECIFIED };
        let from = SocketAddrV4::new(Ipv4Addr::from(u32::from_be(name.sin_addr.s_addr)), u16::from_be(name.sin_port));
        Datagram { from, to, bytes: &slots.bytes[index * slots.size..][..len] }
    }
}

/// Room for the DATA packets of a window, whose blocks are received where they belong, without another copy.
pub struct Blocks {
    starts: Vec<[u8; 4]>,
    vectors: Vec<[iovec; 2]>,
    headers: Vec<mmsghdr>,
}

impl Blocks {
    /// Room for this many.
    pub fn new(count: usize) -> Blocks {
        let nothing = iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        // SAFETY: a plain C structure for which zeroes are valid.
        let header: mmsghdr = unsafe { std::mem::zeroed() };
        Blocks { starts: vec![[0; 4]; count], vectors: vec![[nothing; 2]; count], headers: vec![header; count] }
    }

    /// Waits for one datagram on a connected socket, as long as its time-out allows, and takes what else is there; how many. What follows
    /// the first four bytes of each goes to the next `size` bytes of `to`.
    pub fn receive(&mut self, socket: BorrowedFd<'_>, to: &mut [u8], size: usize) -> io::Result<usize> {
        let mut count = 0;
        for (((header, vectors), start), part) in
            self.headers.iter_mut().zip(&mut self.vectors).zip(&mut self.starts).zip(to.chunks_exact_mut(size))
        {
            vectors[0] = iovec { iov_base: start.as_mut_ptr().cast(), iov_len: start.len() };
            vectors[1] = iovec { iov_base: part.as_mut_ptr().cast(), iov_len: part.len() };
            header.msg_hdr.msg_iov = vectors.as_mut_ptr();
            header.msg_hdr.msg_iovlen = vectors.len();
            count += 1;
        }
        // SAFETY: each of the first `count` headers points to two vectors of its own, which point to four bytes of its own and to a part of
        // `to` of its own; neither names nor control messages are requested.
        let got = unsafe {
            libc::recvmmsg(socket.as_raw_fd(), self.headers.as_mut_ptr(), count, libc::MSG_WAITFORONE as _, std::ptr::null_mut())
        };
        usize::try_from(got).map_err(|_| io::Error::last_os_error())
    }

    /// The first four bytes of one of the last call's datagrams, and how many followed them; nothing if it was shorter.
    pub fn get(&self, index: usize) -> Option<([u8; 4], usize)> {
        let length = (self.headers[index].msg_len as usize).checked_sub(4)?;
        Some((self.starts[index], length))
    }
}

/// Room for datagrams that the kernel did not cut apart because the socket takes them together (UDP_GRO).
pub struct Gro {
    bytes: Vec<u8>,
    controls: Vec<[u64; 4]>,
    vectors: Vec<iovec>,
    headers: Vec<mmsghdr>,
}

/// The most bytes that come together.
const MAX_GRO: usize = 65535;

impl Gro {
    /// Room for this many.
    pub fn new(count: usize) -> Gro {
        let nothing = iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        // SAFETY: a plain C structure for which zeroes are valid.
        let header: mmsghdr = unsafe { std::mem::zeroed() };
        let (vectors, headers) = (vec![nothing; count], vec![header; count]);
        Gro { bytes: vec![0; count * MAX_GRO], controls: vec![[0; 4]; count], vectors, headers }
    }

    /// Waits for one on a connected socket, as long as its time-out allows, and takes what else is there; how many.
    pub fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        let slots = self.headers.iter_mut().zip(&mut self.vectors).zip(&mut self.controls).zip(self.bytes.chunks_exact_mut(MAX_GRO));
        for (((header, vector), control), bytes) in slots {
            *vector = iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = control.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = size_of_val(control);
        }
        let (headers, count) = (self.headers.as_mut_ptr(), self.headers.len() as libc::c_uint);
        // SAFETY: each header points to a vector and a control buffer of its own with the sizes stated, and the vector to bytes of its own.
        let got = unsafe { libc::recvmmsg(socket.as_raw_fd(), headers, count, libc::MSG_WAITFORONE as _, std::ptr::null_mut()) };
        usize::try_from(got).map_err(|_| io::Error::last_os_error())
    }

    /// The datagrams of one of the last call's slots.
    pub fn get(&self, index: usize) -> impl Iterator<Item = &[u8]> {
        let (header, control) = (&self.headers[index], &self.controls[index]);
        let len = (header.msg_len as usize).min(MAX_GRO);
        // The only control message that the socket was set to give: the length, level and type, and the size of a segment.
        let size = if header.msg_hdr.msg_controllen > size_of::<cmsghdr>() { control[2] as u32 as usize } else { len };
        self.bytes[index * MAX_GRO..][..len].chunks(size.max(1))
    }
}

/// Datagrams to be sent.
pub struct Outbox(Slots, usize);

impl Outbox {
    /// Room for `count` datagrams of at most `size` bytes.
    pub fn new(count: usize, size: usize) -> Outbox {
        Outbox(Slots::new(count, size), 0)
    }

    /// Adds a datagram, which `write` fills in, and sends all when there is room for no more.
    pub fn push(
        &mut self,
        socket: BorrowedFd<'_>,
        from: Ipv4Addr,
        to: SocketAddrV4,
        write: impl FnOnce(&mut [u8]) -> usize,
    ) -> io::Result<()> {
        let (slots, i) = (&mut self.0, self.1);
        let len = write(&mut slots.bytes[i * slots.size..][..slots.size]).min(slots.size);
        slots.vectors[i].iov_len = len;
        let name = &mut slots.names[i];
        name.sin_family = libc::AF_INET as libc::sa_family_t;
        name.sin_port = to.port().to_be();
        name.sin_addr.s_addr = u32::from(*to.ip()).to_be();
        let control = &mut slots.controls[i];
        control.header.cmsg_len = CONTROL_LEN;
        control.header.cmsg_level = libc::IPPROTO_IP;
        control.header.cmsg_type = libc::IP_PKTINFO;
        control.info =
            in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: in_addr { s_addr: u32::from(from).to_be() }, ipi_addr: in_addr { s_addr: 0 } };
        self.1 += 1;
        if self.1 == self.0.headers.len() { self.flush(socket) } else { Ok(()) }
    }

    /// Sends all.
    pub fn flush(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        let mut done = 0;
        while done < self.1 {
            let (headers, count) = (self.0.headers[done..self.1].as_mut_ptr(), (self.1 - done) as libc::c_uint);
            // SAFETY: as for `receive`; the vectors' lengths are those of the bytes that were written.
            let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), headers, count, 0) };
            match usize::try_from(sent) {
                Ok(sent) => done += sent,
                // What a server that is not there any more refused is reported with the next send; the datagram itself was not tried.
                Err(_) if io::Error::last_os_error().kind() == io::ErrorKind::ConnectionRefused => {}
                Err(_) => {
                    self.1 = 0;
                    return Err(io::Error::last_os_error());
                }
            }
        }
        self.1 = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{setsockopt, sockopt};
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    #[test]
    fn blocks_land_where_they_belong() {
        let (a, b) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        a.connect(b.local_addr().unwrap()).unwrap();
        for text in [&b"\0\x03\0\x01one"[..], b"???", b"\0\x03\0\x02tw"] {
            a.send(text).unwrap();
        }
        let (mut blocks, mut to, mut seen) = (Blocks::new(2), [b'.'; 10], Vec::new());
        while seen.len() < 2 {
            let got = blocks.receive(b.as_fd(), &mut to[3 * seen.len()..], 3).unwrap();
            seen.extend((0..got).map(|i| blocks.get(i)));
        }
        assert_eq!(seen, [Some(([0, 3, 0, 1], 3)), None]);
        assert_eq!(blocks.receive(b.as_fd(), &mut to[3..], 3).unwrap(), 1);
        assert_eq!(blocks.get(0), Some(([0, 3, 0, 2], 2)));
        assert_eq!(&to, b"onetw.....");
    }

    #[test]
    fn segments_that_come_together_are_split() {
        let (a, b) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        a.connect(b.local_addr().unwrap()).unwrap();
        setsockopt(&b, sockopt::UdpGroSegment, &true).unwrap();
        a.send(b"alone").unwrap();
        setsockopt(&a, sockopt::UdpGsoSegment, &3).unwrap();
        a.send(b"onetwoend!").unwrap();
        let (mut gro, mut seen) = (Gro::new(2), Vec::new());
        while seen.len() < 5 {
            let got = gro.receive(b.as_fd()).unwrap();
            seen.extend((0..got).flat_map(|i| gro.get(i)).map(<[u8]>::to_vec));
        }
        assert_eq!(seen, [&b"alone"[..], b"one", b"two", b"end", b"!"]);
    }

    #[test]
    fn addresses_go_out_and_come_back() {
        let socket = || UdpSocket::bind("0.0.0.0:0").unwrap();
        let (a, b) = (socket(), socket());
        setsockopt(&b, sockopt::Ipv4PacketInfo, &true).unwrap();
        let port = |s: &UdpSocket| s.local_addr().unwrap().port();
        let (from, to) = (Ipv4Addr::new(127, 1, 2, 3), Ipv4Addr::new(127, 3, 2, 1));
        let mut out = Outbox::new(2, 16);
        for text in [&b"one"[..], b"three"] {
            let write = |to: &mut [u8]| {
                to[..text.len()].copy_from_slice(text);
                text.len()
            };
            out.push(a.as_fd(), from, SocketAddrV4::new(to, port(&b)), write).unwrap();
        }
        let mut inbox = Inbox::new(4, 16);
        for _ in 0..2 {
            // The second round sends nothing new: it proves that the slots are ready to be used again.
            let mut seen = Vec::new();
            while seen.len() < 2 {
                let got = inbox.receive(b.as_fd()).unwrap();
                for i in 0..got {
                    let d = inbox.get(i);
                    assert_eq!((d.from, d.to), (SocketAddrV4::new(from, port(&a)), to));
                    seen.push(d.bytes.to_vec());
                }
            }
            assert_eq!(seen, [b"one".to_vec(), b"three".to_vec()]);
            for text in seen {
                let write = |to: &mut [u8]| {
                    to[..text.len()].copy_from_slice(&text);
                    text.len()
                };
                out.push(a.as_fd(), from, SocketAddrV4::new(to, port(&b)), write).unwrap();
            }
        }
    }
}

//! One transfer over a socket, on the calling thread.

use super::{Counters, Failure, NegotiatedOptions, Read, TransferPlan, Write};
use crate::netascii::{self, Decoder};
use crate::packet::{ErrorCode, Mode};
use guideway_packet::time::Time;
use nix::errno::Errno;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{Ipv4RecvErr, Ipv6RecvErr};
use sha2::{Digest, Sha256};
use socket2::{Domain, Socket, Type};
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

/// The largest possible datagram.
const DATAGRAM: usize = 65_536;
/// Longest wait in one system call.
const MAX_WAIT: Duration = Duration::from_secs(1);
/// Largest receive buffer to request, in bytes.
const MAX_BUFFER: usize = 16 << 20;

/// A socket, and the clock of its transfers.
#[derive(Debug)]
pub struct ClientSocket {
    socket: UdpSocket,
    wait: Duration,
    /// Whether ICMP reported the port as unreachable.
    unreachable: bool,
    origin: Instant,
    buffer: Vec<u8>,
    out: Vec<u8>,
}

impl ClientSocket {
    /// Opens a socket for `server`, on `bind` or any free port. It requests receive buffers for a window of `window` bytes.
    ///
    /// # Errors
    /// Errors of the kernel.
    pub fn open(server: SocketAddr, bind: Option<SocketAddr>, window: usize) -> io::Result<Self> {
        let any = if server.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
        let socket = Socket::new(Domain::for_address(server), Type::DGRAM, None)?;
        // Two windows, and the kernel's overhead for each datagram. A smaller buffer only causes more retransmissions.
        let _smaller = socket.set_recv_buffer_size(window.saturating_mul(4).clamp(1 << 18, MAX_BUFFER));
        socket.bind(&bind.unwrap_or(any).into())?;
        // Makes the kernel report ICMP errors. Without it a closed port is only silent.
        let _silent = if server.is_ipv4() { setsockopt(&socket, Ipv4RecvErr, &true) } else { setsockopt(&socket, Ipv6RecvErr, &true) };
        let socket = UdpSocket::from(socket);
        Ok(ClientSocket {
            socket,
            wait: Duration::ZERO,
            unreachable: false,
            origin: Instant::now(),
            buffer: vec![0; DATAGRAM],
            out: Vec::new(),
        })
    }

    fn now(&self) -> Time {
        Time(0).plus(self.origin.elapsed())
    }

    /// Waits for a datagram, not much longer than until `deadline`.
    fn receive(&mut self, deadline: Time) -> io::Result<Option<(usize, SocketAddr)>> {
        // Powers of two, so that the socket's time-out changes rarely.
        let left = (deadline - self.now()).clamp(Duration::from_micros(500), MAX_WAIT).as_micros() as u64;
        let wait = Duration::from_micros(left.next_power_of_two());
        if wait != self.wait {
            self.socket.set_read_timeout(Some(wait))?;
            self.wait = wait;
        }
        match self.socket.recv_from(&mut self.buffer) {
            Ok(received) => Ok(Some(received)),
            Err(e) if is_icmp(&e) => {
                self.unreachable |= e.kind() == ErrorKind::ConnectionRefused;
                Ok(None)
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sends the packet in `out`. The kernel may report an ICMP error of the previous packet instead: it is recorded, and the packet is sent.
    fn send(&mut self, to: SocketAddr) -> io::Result<usize> {
        match self.socket.send_to(&self.out, to) {
            Err(e) if is_icmp(&e) => {
                self.unreachable |= e.kind() == ErrorKind::ConnectionRefused;
                self.socket.send_to(&self.out, to)
            }
            sent => sent,
        }
    }

    /// Turns "no answer" into "port closed" if ICMP reported the port as unreachable.
    fn explained(&self, failure: Failure) -> Failure {
        match failure {
            Failure::NoAnswer { requests, unknown_tid: None } if self.unreachable => Failure::Closed { requests },
            other => other,
        }
    }
}

/// Other errors that the kernel derives from ICMP: prohibited, refused by policy, unknown, isolated or too large.
const ICMP: [Errno; 7] =
    [Errno::EACCES, Errno::EHOSTDOWN, Errno::EMSGSIZE, Errno::ENONET, Errno::ENOPROTOOPT, Errno::EOPNOTSUPP, Errno::EPROTO];

/// Returns whether the error is an ICMP report about an earlier packet. That does not end a transfer: another server may take over, and ICMP can be forged.
fn is_icmp(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable)
        || error.raw_os_error().is_some_and(|code| ICMP.contains(&Errno::from_raw(code)))
}

/// Result of a transfer.
#[derive(Clone, Debug)]
pub struct Done {
    /// Bytes of the file on this side.
    pub bytes: u64,
    /// SHA-256 of these bytes.
    pub sha256: [u8; 32],
    /// Time from the request to the end.
    pub time: Duration,
    /// The negotiated options.
    pub negotiated: NegotiatedOptions,
    /// Counters of packets.
    pub counters: Counters,
}

/// Reads a file into `sink`. `progress` gets the bytes so far, and their total if the server announced it.
///
/// Also returns the read, for [`dally`].
///
/// # Errors
/// When the transfer failed. The bytes before the failure are in `sink`.
pub fn get(
    plan: TransferPlan,
    wire: &mut ClientSocket,
    sink: &mut dyn io::Write,
    progress: &mut dyn FnMut(u64, Option<u64>),
) -> Result<(Done, Read), Failure> {
    let started = wire.now();
    let mut decoder = (plan.mode == Mode::Netascii).then(Decoder::default);
    let mut read = Read::new(plan, started);
    let (mut hash, mut bytes, mut decoded) = (Sha256::new(), 0, Vec::new());
    let mut store = |data: &[u8], last: bool| {
        let data = match &mut decoder {
            None => data,
            Some(decoder) => {
                decoded.clear();
                decoder.decode(data, &mut decoded);
                if last {
                    decoder.finish(&mut decoded);
                }
                &decoded
            }
        };
        hash.update(data);
        bytes += data.len() as u64;
        sink.write_all(data).map(|()| bytes)
    };
    loop {
        while let Some(to) = read.transmit(&mut wire.out) {
            sent(wire.send(to), read.tid().is_none())?;
        }
        if let Some(outcome) = read.outcome().cloned() {
            outcome.map_err(|failure| wire.explained(failure))?;
            break;
        }
        let Some(deadline) = read.deadline() else { return Err(Failure::Local("the transfer has no end".to_owned())) };
        if let Some((length, from)) = wire.receive(deadline).map_err(|e| Failure::Local(format!("cannot receive: {e}")))? {
            let now = wire.now();
            let data = read.receive(now, from, &wire.buffer[..length]);
            if let Some(data) = data {
                match store(data, read.outcome().is_some()) {
                    Ok(bytes) => progress(bytes, read.negotiated().tsize),
                    // A block that could not be stored is not acknowledged.
                    Err(error) => read.refuse(format!("cannot write: {error}"), ErrorCode::DISK_FULL, "cannot store it"),
                }
            }
        }
        read.expire(wire.now());
    }
    let done = Done {
        bytes,
        sha256: hash.finalize().into(),
        time: wire.now() - started,
        negotiated: read.negotiated(),
        counters: read.counters(),
    };
    Ok((done, read))
}

/// Answers retransmissions of the last block until the read's dallying ends (RFC 1350 section 6).
pub fn dally(mut read: Read, wire: &mut ClientSocket) {
    while let Some(deadline) = read.deadline() {
        // The file is complete, so errors here only affect the server.
        if let Ok(Some((length, from))) = wire.receive(deadline) {
            let now = wire.now();
            let _nothing_new = read.receive(now, from, &wire.buffer[..length]);
            while let Some(to) = read.transmit(&mut wire.out) {
                let _lost = wire.socket.send_to(&wire.out, to);
            }
        }
        read.expire(wire.now());
    }
}

/// Writes the bytes of `source` to the server. `progress` gets the number of acknowledged bytes.
///
/// # Errors
/// When the transfer failed.
pub fn put(plan: TransferPlan, wire: &mut ClientSocket, source: &mut dyn io::Read, progress: &mut dyn FnMut(u64)) -> Result<Done, Failure> {
    let started = wire.now();
    let mut blocks =
        Blocks { source, netascii: plan.mode == Mode::Netascii, ready: Vec::new(), at: 0, ended: false, hash: Sha256::new(), bytes: 0 };
    let mut write = Write::new(plan, started);
    loop {
        while let Some(length) = write.wants() {
            match blocks.next(length) {
                Ok(block) => write.supply(block),
                Err(error) => write.abort(format!("cannot read: {error}"), ErrorCode::NOT_DEFINED, "cannot read it"),
            }
        }
        let now = wire.now();
        while let Some(to) = write.transmit(now, &mut wire.out) {
            sent(wire.send(to), write.counters().received == 0)?;
        }
        if let Some(outcome) = write.outcome().cloned() {
            outcome.map_err(|failure| wire.explained(failure))?;
            break;
        }
        let Some(deadline) = write.deadline() else { return Err(Failure::Local("the transfer has no end".to_owned())) };
        if let Some((length, from)) = wire.receive(deadline).map_err(|e| Failure::Local(format!("cannot receive: {e}")))? {
            let now = wire.now();
            write.receive(now, from, &wire.buffer[..length]);
            progress(write.counters().bytes);
        }
        write.expire(wire.now());
    }
    Ok(Done {
        bytes: blocks.bytes,
        sha256: blocks.hash.finalize().into(),
        time: wire.now() - started,
        negotiated: write.negotiated(),
        counters: write.counters(),
    })
}

/// Reports a request that cannot be sent at all. Later losses are left to the time-outs.
fn sent(result: io::Result<usize>, first: bool) -> Result<(), Failure> {
    match result {
        Err(error) if first && !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::ConnectionRefused) => {
            Err(Failure::Local(format!("cannot send: {error}")))
        }
        _ => Ok(()),
    }
}

/// Bytes read at once.
const PIECE: usize = 1 << 16;

/// Splits a source into blocks, translated for the wire.
struct Blocks<'a> {
    source: &'a mut dyn io::Read,
    netascii: bool,
    ready: Vec<u8>,
    at: usize,
    ended: bool,
    hash: Sha256,
    bytes: u64,
}

impl Blocks<'_> {
    /// Returns the next block. It is shorter than `length` only at the end.
    fn next(&mut self, length: usize) -> io::Result<&[u8]> {
        if self.ready.len() - self.at < length {
            self.ready.drain(..self.at);
            self.at = 0;
        }
        let mut piece = [0; PIECE];
        while self.ready.len() < length && !self.ended {
            match self.source.read(&mut piece) {
                Ok(0) => self.ended = true,
                Ok(count) => {
                    let piece = &piece[..count];
                    self.hash.update(piece);
                    self.bytes += count as u64;
                    if self.netascii { netascii::encode(piece, &mut self.ready) } else { self.ready.extend(piece) }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let from = self.at;
        self.at = (from + length).min(self.ready.len());
        Ok(&self.ready[from..self.at])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Timing;

    #[test]
    fn a_closed_port_and_a_silent_one_give_different_errors() {
        // No socket listens at port 1; the other one listens and never answers.
        let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
        for (server, closed) in [(SocketAddr::from(([127, 0, 0, 1], 1)), true), (silent.local_addr().unwrap(), false)] {
            let timing = Timing { initial: Duration::from_millis(20), retries: 2, ..Timing::default() };
            let mut wire = ClientSocket::open(server, None, 512).unwrap();
            let failed =
                get(TransferPlan { timing, ..TransferPlan::new(server, "f") }, &mut wire, &mut io::sink(), &mut |_, _| {}).unwrap_err();
            match failed {
                Failure::Closed { requests } => assert!(closed && requests == 3),
                Failure::NoAnswer { requests, unknown_tid: None } => assert!(!closed && requests == 3),
                other => panic!("{other}"),
            }
        }
    }
}

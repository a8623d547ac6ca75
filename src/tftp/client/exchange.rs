//! One transfer over a socket, on the calling thread.

use super::netascii::{self, Decoder};
use super::{Agreed, Counters, Failure, Plan, Read, Write};
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

/// The largest datagram that there can be.
const DATAGRAM: usize = 65_536;
/// Longest wait in one system call.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// Most that a receive buffer is asked for, bytes.
const MOST_BUFFER: usize = 16 << 20;

/// A socket, and the clock of its transfers.
#[derive(Debug)]
pub struct Wire {
    socket: UdpSocket,
    wait: Duration,
    /// Whether a host said that nobody listens where a packet went.
    unreachable: bool,
    origin: Instant,
    buffer: Vec<u8>,
    out: Vec<u8>,
}

impl Wire {
    /// A socket that can talk to `server`, on `bind` or any free port, with room for a window of this many bytes where the kernel allows it.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn open(server: SocketAddr, bind: Option<SocketAddr>, window: usize) -> io::Result<Self> {
        let any = if server.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
        let socket = Socket::new(Domain::for_address(server), Type::DGRAM, None)?;
        // Two windows, and what the kernel adds to each datagram. A smaller buffer only means more repeats.
        let _smaller = socket.set_recv_buffer_size(window.saturating_mul(4).clamp(1 << 18, MOST_BUFFER));
        socket.bind(&bind.unwrap_or(any).into())?;
        // So that the kernel tells of ICMP. Without it a closed port is only silent.
        let _silent = if server.is_ipv4() { setsockopt(&socket, Ipv4RecvErr, &true) } else { setsockopt(&socket, Ipv6RecvErr, &true) };
        let socket = UdpSocket::from(socket);
        Ok(Wire { socket, wait: Duration::ZERO, unreachable: false, origin: Instant::now(), buffer: vec![0; DATAGRAM], out: Vec::new() })
    }

    fn now(&self) -> Time {
        Time(0).plus(self.origin.elapsed())
    }

    /// Waits for a datagram, not much longer than until `deadline`.
    fn receive(&mut self, deadline: Time) -> io::Result<Option<(usize, SocketAddr)>> {
        // Powers of two, so that the time-out of the socket seldom has to be changed.
        let left = (deadline - self.now()).clamp(Duration::from_micros(500), LONGEST_WAIT).as_micros() as u64;
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

    /// Sends what is written. A packet may be refused for what ICMP said of the one before: that is noticed, and it is sent.
    fn send(&mut self, to: SocketAddr) -> io::Result<usize> {
        match self.socket.send_to(&self.out, to) {
            Err(e) if is_icmp(&e) => {
                self.unreachable |= e.kind() == ErrorKind::ConnectionRefused;
                self.socket.send_to(&self.out, to)
            }
            sent => sent,
        }
    }

    /// Nobody answered: at a port that is closed, as far as is known?
    fn explained(&self, failure: Failure) -> Failure {
        match failure {
            Failure::NoAnswer { requests, stranger: None } if self.unreachable => Failure::Closed { requests },
            other => other,
        }
    }
}

/// Other errors that the kernel makes of ICMP: of what is prohibited, refused by policy, unknown, isolated or too large.
const ICMP: [Errno; 7] =
    [Errno::EACCES, Errno::EHOSTDOWN, Errno::EMSGSIZE, Errno::ENONET, Errno::ENOPROTOOPT, Errno::EOPNOTSUPP, Errno::EPROTO];

/// Whether this is what ICMP said of an earlier packet. It is no reason to give up: another server may be about to serve, and anybody can forge it.
fn is_icmp(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable)
        || error.raw_os_error().is_some_and(|code| ICMP.contains(&Errno::from_raw(code)))
}

/// How a transfer went.
#[derive(Clone, Debug)]
pub struct Done {
    /// Bytes of the file on this side.
    pub bytes: u64,
    /// Their SHA-256.
    pub sha256: [u8; 32],
    /// From the request to the end.
    pub time: Duration,
    /// What was agreed.
    pub agreed: Agreed,
    /// What happened on the wire.
    pub counters: Counters,
}

/// Reads a file into `sink`. `progress` is told the bytes so far, and how many there will be when the server said so.
///
/// Gives also the read, whose end [`dally`] may guard.
///
/// # Errors
/// When the transfer failed; what came before is in `sink`.
pub fn get(
    plan: Plan,
    wire: &mut Wire,
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
        let Some(deadline) = read.deadline() else { return Err(Failure::Here("the transfer has no end".to_owned())) };
        if let Some((length, from)) = wire.receive(deadline).map_err(|e| Failure::Here(format!("receiving: {e}")))? {
            let now = wire.now();
            let data = read.receive(now, from, &wire.buffer[..length]);
            if let Some(data) = data {
                match store(data, read.outcome().is_some()) {
                    Ok(bytes) => progress(bytes, read.agreed().tsize),
                    // What could not be stored is not acknowledged.
                    Err(error) => read.refuse(format!("writing: {error}"), ErrorCode::DISK_FULL, "cannot store it"),
                }
            }
        }
        read.expire(wire.now());
    }
    let done = Done { bytes, sha256: hash.finalize().into(), time: wire.now() - started, agreed: read.agreed(), counters: read.counters() };
    Ok((done, read))
}

/// Answers repeats of the last block, as long as the read wants to guard its end.
pub fn dally(mut read: Read, wire: &mut Wire) {
    while let Some(deadline) = read.deadline() {
        // The file is complete: trouble here is only the server's.
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

/// Writes what `source` gives. `progress` is told the bytes that the server has.
///
/// # Errors
/// When the transfer failed.
pub fn put(plan: Plan, wire: &mut Wire, source: &mut dyn io::Read, progress: &mut dyn FnMut(u64)) -> Result<Done, Failure> {
    let started = wire.now();
    let mut blocks =
        Blocks { source, netascii: plan.mode == Mode::Netascii, ready: Vec::new(), at: 0, ended: false, hash: Sha256::new(), bytes: 0 };
    let mut write = Write::new(plan, started);
    loop {
        while let Some(length) = write.wants() {
            match blocks.next(length) {
                Ok(block) => write.supply(block),
                Err(error) => write.abort(format!("reading: {error}"), ErrorCode::NOT_DEFINED, "cannot read it"),
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
        let Some(deadline) = write.deadline() else { return Err(Failure::Here("the transfer has no end".to_owned())) };
        if let Some((length, from)) = wire.receive(deadline).map_err(|e| Failure::Here(format!("receiving: {e}")))? {
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
        agreed: write.agreed(),
        counters: write.counters(),
    })
}

/// A request that cannot be sent at all is told at once; whatever is lost later is for the time-outs.
fn sent(result: io::Result<usize>, first: bool) -> Result<(), Failure> {
    match result {
        Err(error) if first && !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::ConnectionRefused) => {
            Err(Failure::Here(format!("sending: {error}")))
        }
        _ => Ok(()),
    }
}

/// Bytes read at once.
const PIECE: usize = 1 << 16;

/// A source, cut into blocks as they travel.
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
    /// The next block: shorter than `length` only at the end.
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
    fn a_closed_port_is_told_from_silence_at_the_end() {
        // Nobody listens at port 1, and one that listens and is silent is another matter.
        let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
        for (server, closed) in [(SocketAddr::from(([127, 0, 0, 1], 1)), true), (silent.local_addr().unwrap(), false)] {
            let timing = Timing { initial: Duration::from_millis(20), retries: 2, ..Timing::default() };
            let mut wire = Wire::open(server, None, 512).unwrap();
            let failed = get(Plan { timing, ..Plan::new(server, "f") }, &mut wire, &mut io::sink(), &mut |_, _| {}).unwrap_err();
            match failed {
                Failure::Closed { requests } => assert!(closed && requests == 3),
                Failure::NoAnswer { requests, stranger: None } => assert!(!closed && requests == 3),
                other => panic!("{other}"),
            }
        }
    }
}

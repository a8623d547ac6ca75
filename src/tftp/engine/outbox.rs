//! Datagrams that a turn of the event loop has to send: collected, then handed to the kernel with as few calls as possible.
//!
//! File content stays where it was read; a window's blocks are one datagram to be cut apart by the kernel where it can (UDP_SEGMENT).

use super::Key;
use super::read_ahead::ReadAhead;
use super::sys::{Batch, Local, Sender};
use crate::tftp::packet::DATA_HEADER;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};

/// Most segments of one send that every kernel with UDP_SEGMENT takes (UDP_MAX_SEGMENTS was 64 before Linux 6.9).
pub const MAX_SEGMENTS: usize = 64;
/// Most bytes of one send: the largest UDP payload over IPv4.
pub const MAX_BYTES: usize = 65507;

/// Where and how a transfer's packets go.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// Index of the socket.
    pub port: u16,
    /// The client.
    pub to: SocketAddr,
    /// The address to send from, on a socket that is bound to none.
    pub from: Option<Local>,
}

/// A run of bytes: some of the outbox's own, then some of a read-ahead slot.
struct Part {
    own: Range<usize>,
    content: Option<(u16, Range<usize>)>,
}

struct Message {
    route: Route,
    owner: Option<Key>,
    parts: Range<usize>,
    segment: Option<u16>,
}

/// Blocks of one transfer.
pub struct Blocks {
    /// Whose.
    pub owner: Key,
    /// Whether the kernel may cut a run of them apart.
    pub cut: bool,
    /// Bytes of each but the last.
    pub blksize: u16,
    /// The slot of their bytes.
    pub slot: u16,
    /// Where in it they are, one behind the other.
    pub bytes: Range<usize>,
}

/// What became of a flush.
#[derive(Debug, Default)]
pub struct Flushed {
    /// Datagrams that the kernel did not take; the timer repeats what they held.
    pub failed: u64,
    /// Transfers whose windows the kernel cannot cut apart; they are sent block by block.
    pub uncut: Vec<Key>,
}

/// The datagrams to be sent.
#[derive(Default)]
pub struct Outbox {
    own: Vec<u8>,
    parts: Vec<Part>,
    messages: Vec<Message>,
    sender: Sender,
    flushed: u32,
}

impl Outbox {
    /// Changes with every flush: content that was queued under this number must not move before it changes.
    pub fn number(&self) -> u32 {
        self.flushed
    }

    /// Whether it is time to send.
    pub fn is_full(&self) -> bool {
        self.messages.len() >= 256
    }

    /// Queues a datagram that `write` appends to what it is given.
    pub fn packet(&mut self, route: Route, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.own.len();
        write(&mut self.own);
        self.parts.push(Part { own: start..self.own.len(), content: None });
        self.messages.push(Message { route, owner: None, parts: self.parts.len() - 1..self.parts.len(), segment: None });
    }

    /// Queues blocks with these headers; with `cut`, as one datagram for the kernel to cut apart.
    pub fn blocks(&mut self, route: Route, blocks: Blocks, headers: impl Iterator<Item = [u8; DATA_HEADER]>) {
        let size = usize::from(blocks.blksize);
        let most = if blocks.cut { (MAX_BYTES / (size + DATA_HEADER)).clamp(1, MAX_SEGMENTS) } else { 1 };
        let mut start = blocks.bytes.start;
        let mut first = self.parts.len();
        for header in headers {
            let end = (start + size).min(blocks.bytes.end);
            let own = self.own.len();
            self.own.extend(header);
            self.parts.push(Part { own: own..own + DATA_HEADER, content: Some((blocks.slot, start..end)) });
            start = end;
            if self.parts.len() - first == most {
                self.run(route, blocks.owner, size, first);
                first = self.parts.len();
            }
        }
        if self.parts.len() > first {
            self.run(route, blocks.owner, size, first);
        }
    }

    fn run(&mut self, route: Route, owner: Key, size: usize, first: usize) {
        let parts = first..self.parts.len();
        let segment = (parts.len() > 1).then(|| u16::try_from(size + DATA_HEADER).unwrap_or(u16::MAX));
        self.messages.push(Message { route, owner: Some(owner), parts, segment });
    }

    /// Sends everything. `sockets` are those that routes name.
    pub fn flush<S: AsFd>(&mut self, sockets: &[S], content: &ReadAhead, result: &mut Flushed) {
        let mut start = 0;
        while let Some(first) = self.messages.get(start) {
            let port = first.route.port;
            let len = self.messages[start..].iter().take_while(|m| m.route.port == port).count();
            self.send(sockets[usize::from(port)].as_fd(), start..start + len, content, result);
            start += len;
        }
        self.own.clear();
        self.parts.clear();
        self.messages.clear();
        self.flushed = self.flushed.wrapping_add(1);
    }

    /// Sends messages that go by one socket.
    fn send(&mut self, socket: BorrowedFd<'_>, range: Range<usize>, content: &ReadAhead, result: &mut Flushed) {
        let (own, parts, messages) = (&self.own, &self.parts, &self.messages[range]);
        let mut uncut = Vec::new();
        {
            let mut batch = self.sender.batch();
            for message in messages {
                push(&mut batch, message, message.parts.clone(), message.segment, (own, parts, content));
            }
            let mut done = 0;
            while done < messages.len() {
                match batch.send(socket, done) {
                    Ok(sent) => done += sent.max(1),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => {
                        if messages[done].segment.is_some() && cannot_cut(&error) {
                            uncut.push(done);
                        } else {
                            result.failed += 1;
                        }
                        done += 1;
                    }
                }
            }
        }
        for message in uncut.into_iter().map(|index| &messages[index]) {
            result.uncut.extend(message.owner);
            let mut batch = self.sender.batch();
            for part in message.parts.clone() {
                push(&mut batch, message, part..part + 1, None, (own, parts, content));
            }
            let mut done = 0;
            while done < message.parts.len() {
                match batch.send(socket, done) {
                    Ok(sent) => done += sent.max(1),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => {
                        result.failed += 1;
                        done += 1;
                    }
                }
            }
        }
    }
}

/// Whether the kernel refused to cut apart, rather than to send: the segments exceed the MTU, the interface lacks checksum offload, or the
/// kernel is older than 4.18.
fn cannot_cut(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EIO | libc::EMSGSIZE | libc::ENOPROTOOPT | libc::EOPNOTSUPP))
}

fn push<'a>(
    batch: &mut Batch<'a>,
    message: &Message,
    range: Range<usize>,
    segment: Option<u16>,
    (own, parts, content): (&'a [u8], &'a [Part], &'a ReadAhead),
) {
    let slices = parts[range].iter().flat_map(|part| {
        let bytes = part.content.as_ref().map(|(slot, range)| content.bytes(*slot, range.clone()));
        std::iter::once(&own[part.own.clone()]).chain(bytes)
    });
    batch.push(message.route.to, message.route.from, segment, slices);
}

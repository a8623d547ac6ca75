//! Datagrams that a turn of the event loop has to send: collected, then handed to the kernel with as few calls as possible.
//!
//! File content stays where it was read, or where a content lends it; a window's blocks are one datagram to be cut apart by the kernel
//! where it can (UDP_SEGMENT).

use super::Key;
use super::direct::Direct;
use super::read_ahead::ReadAhead;
use super::sys::{Batch, Local, Sender};
use crate::content::{Content, Lent};
use crate::packet::DATA_HEADER;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

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

/// Where content is.
#[derive(Clone, Copy)]
enum Place {
    /// In a slot of the read-ahead.
    Slot(u16),
    /// In one of the outbox's loans.
    Loan(usize),
}

/// What a content is to lend when it is sent. That it is held keeps its bytes where they are.
struct Loan {
    content: Arc<dyn Content>,
    offset: u64,
    len: usize,
}

impl Loan {
    /// Its bytes; nowhere when the content breaks its promise.
    fn bytes(&self) -> Lent<'_> {
        self.content.lend(self.offset, self.len).filter(|lent| lent.len() == self.len).unwrap_or(Lent::nowhere(self.len))
    }
}

/// A datagram, or several that the kernel cuts apart.
struct Message {
    route: Route,
    owner: Option<Key>,
    /// Bytes of the outbox's own: all of a packet, or the headers of blocks.
    own: Range<usize>,
    /// What follows the headers.
    content: Option<Blob>,
    segment: Option<u16>,
}

/// Content of blocks, one behind the other.
#[derive(Clone)]
struct Blob {
    place: Place,
    bytes: Range<usize>,
    /// Bytes of each but the last.
    size: usize,
}

impl Message {
    /// Datagrams that it is cut into.
    fn count(&self) -> usize {
        if self.content.is_some() { self.own.len() / DATA_HEADER } else { 1 }
    }
}

/// Blocks of one transfer.
pub struct Blocks {
    /// Whose.
    pub owner: Key,
    /// Whether the kernel may cut a run of them apart.
    pub cut: bool,
    /// Bytes of each but the last.
    pub blksize: u16,
    /// Their bytes, one behind the other.
    pub source: Source,
}

/// Where the bytes of blocks are.
pub enum Source {
    /// In this slot of the read-ahead, there.
    Slot(u16, Range<usize>),
    /// The content lends that many from an offset on.
    Lent(Arc<dyn Content>, u64, usize),
}

/// What became of a flush.
#[derive(Debug, Default)]
pub struct Flushed {
    /// Datagrams that the kernel did not take; the timer repeats what they held.
    pub failed: u64,
    /// Transfers whose windows the kernel cannot cut apart; they are sent block by block.
    pub uncut: Vec<Key>,
    /// Transfers whose content lent bytes that are not there any more.
    pub lost: Vec<Key>,
}

/// The datagrams to be sent.
#[derive(Default)]
pub struct Outbox {
    own: Vec<u8>,
    loans: Vec<Loan>,
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

    /// Whether lent bytes wait to be sent.
    pub fn has_loans(&self) -> bool {
        !self.loans.is_empty()
    }

    /// Queues a datagram that `write` appends to what it is given.
    pub fn packet(&mut self, route: Route, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.own.len();
        write(&mut self.own);
        self.messages.push(Message { route, owner: None, own: start..self.own.len(), content: None, segment: None });
    }

    /// Queues blocks with these headers; with `cut`, as one datagram for the kernel to cut apart.
    pub fn blocks(&mut self, route: Route, blocks: Blocks, headers: impl Iterator<Item = [u8; DATA_HEADER]>) {
        let size = usize::from(blocks.blksize);
        let most = if blocks.cut { (MAX_BYTES / (size + DATA_HEADER)).clamp(1, MAX_SEGMENTS) } else { 1 };
        let (place, bytes) = match blocks.source {
            Source::Slot(slot, range) => (Place::Slot(slot), range),
            Source::Lent(content, offset, len) => {
                self.loans.push(Loan { content, offset, len });
                (Place::Loan(self.loans.len() - 1), 0..len)
            }
        };
        let first = self.own.len();
        headers.for_each(|header| self.own.extend_from_slice(&header));
        let (mut own, mut start) = (first, bytes.start);
        while own < self.own.len() {
            let end = self.own.len().min(own + most * DATA_HEADER);
            let count = (end - own) / DATA_HEADER;
            let stop = bytes.end.min(start + count * size);
            let segment = (count > 1).then(|| u16::try_from(size + DATA_HEADER).unwrap_or(u16::MAX));
            let content = Some(Blob { place, bytes: start..stop, size });
            self.messages.push(Message { route, owner: Some(blocks.owner), own: own..end, content, segment });
            (own, start) = (end, stop);
        }
    }

    /// Sends everything. `sockets` are those that routes name; when all goes to the client of the `direct` one, it goes by that.
    pub fn flush<S: AsFd>(&mut self, sockets: &[S], direct: Option<&Direct>, content: &ReadAhead, result: &mut Flushed) {
        let mut start = 0;
        if let Some(direct) = direct
            && let Some(socket) = self.messages.first().and_then(|message| direct.on(&message.route))
            && self.messages.iter().all(|message| direct.on(&message.route).is_some())
        {
            start = self.messages.len();
            self.send((socket, true), 0..start, content, result);
        }
        while let Some(first) = self.messages.get(start) {
            let port = first.route.port;
            let len = self.messages[start..].iter().take_while(|m| m.route.port == port).count();
            self.send((sockets[usize::from(port)].as_fd(), false), start..start + len, content, result);
            start += len;
        }
        self.own.clear();
        self.loans.clear();
        self.messages.clear();
        self.flushed = self.flushed.wrapping_add(1);
    }

    /// Sends messages that go by one socket, which may be connected to where they go.
    fn send(&mut self, (socket, connected): (BorrowedFd<'_>, bool), range: Range<usize>, content: &ReadAhead, result: &mut Flushed) {
        let (sources, messages) = ((&self.own[..], &self.loans[..], content), &self.messages[range]);
        let mut uncut = Vec::new();
        {
            let mut batch = self.sender.batch(connected);
            for message in messages {
                push(&mut batch, message, 0..message.count(), message.segment, sources);
            }
            let mut done = 0;
            while done < messages.len() {
                match batch.send(socket, done) {
                    Ok(sent) => done += sent.max(1),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => {
                        if error.raw_os_error() == Some(libc::EFAULT) {
                            result.lost.extend(messages[done].owner);
                        } else if messages[done].segment.is_some() && cannot_cut(&error) {
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
            let mut batch = self.sender.batch(connected);
            for block in 0..message.count() {
                push(&mut batch, message, block..block + 1, None, sources);
            }
            let mut done = 0;
            while done < message.count() {
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

/// What messages are made of.
type Sources<'a> = (&'a [u8], &'a [Loan], &'a ReadAhead);

/// Adds some of the datagrams that a message is cut into.
fn push<'a>(batch: &mut Batch<'a>, message: &Message, range: Range<usize>, segment: Option<u16>, (own, loans, slots): Sources<'a>) {
    batch.datagram(message.route.to, message.route.from, segment);
    let Some(Blob { place, bytes, size }) = &message.content else { return batch.part(own[message.own.clone()].into()) };
    let content = match place {
        Place::Slot(slot) => slots.bytes(*slot, bytes.clone()).into(),
        Place::Loan(loan) => loans.get(*loan).map_or(Lent::nowhere(bytes.end), Loan::bytes).part(bytes.clone()),
    };
    for block in range {
        batch.part(own[message.own.start + block * DATA_HEADER..][..DATA_HEADER].into());
        batch.part(content.part(block * size..(block + 1) * size));
    }
}

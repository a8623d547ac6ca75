//! Datagrams to send in one iteration of the event loop: collected, then passed to the kernel with as few calls as possible.
//!
//! File content is not copied: it stays in the read-ahead slot, or is borrowed from the content. The blocks of a window are one datagram that the
//! kernel segments if it can (UDP_SEGMENT).

use super::connected_socket::ConnectedSocket;
use super::key::Key;
use super::peer::Route;
use super::read_ahead::ReadAhead;
use super::sys::{Batch, Sender};
use crate::content::{Borrowed, Source};
use crate::packet::DATA_HEADER;
use std::io;
#[cfg(test)]
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

/// Largest number of segments of one send that all kernels with UDP_SEGMENT accept (UDP_MAX_SEGMENTS was 64 before Linux 6.9).
pub const MAX_SEGMENTS: usize = 64;
/// Largest number of bytes of one send: the largest UDP payload over IPv4.
pub const MAX_BYTES: usize = 65507;

/// Location of content.
#[derive(Clone, Copy)]
enum BlobLocation {
    /// In a slot of the read-ahead.
    Slot(u16),
    /// In one of the outbox's borrowed ranges.
    Borrowed(usize),
}

/// A range of a content that is borrowed when it is sent. The reference to the content keeps its bytes in place.
struct BorrowedRange {
    content: Arc<dyn Source>,
    offset: u64,
    len: usize,
}

impl BorrowedRange {
    /// Returns its bytes; an invalid range when the content no longer has them.
    fn bytes(&self) -> Borrowed<'_> {
        self.content.borrow_at(self.offset, self.len).filter(|borrowed| borrowed.len() == self.len).unwrap_or(Borrowed::invalid(self.len))
    }
}

/// A datagram, or several that the kernel segments.
struct Message {
    route: Route,
    owner: Option<Key>,
    /// Range in the outbox's buffer: a whole packet, or the headers of blocks.
    inline_bytes: Range<usize>,
    /// Content that follows the headers.
    content: Option<Blob>,
    segment: Option<u16>,
}

/// Consecutive content of blocks.
#[derive(Clone)]
struct Blob {
    place: BlobLocation,
    bytes: Range<usize>,
    /// Bytes of each block but the last.
    size: usize,
}

impl Message {
    /// Returns the number of datagrams.
    fn count(&self) -> usize {
        if self.content.is_some() { self.inline_bytes.len() / DATA_HEADER } else { 1 }
    }
}

/// Consecutive blocks of one transfer.
pub struct Blocks {
    /// The transfer.
    pub owner: Key,
    /// Whether the kernel may segment them.
    pub gso: bool,
    /// Bytes of each block but the last.
    pub blksize: u16,
    /// Location of their bytes.
    pub source: BlockSource,
}

/// Location of the bytes of blocks.
pub enum BlockSource {
    /// A range of a slot of the read-ahead.
    Slot(u16, Range<usize>),
    /// A number of bytes to borrow from the content, from an offset on.
    Borrowed(Arc<dyn Source>, u64, usize),
}

/// Result of a flush.
#[derive(Debug, Default)]
pub struct Flushed {
    /// Datagrams that the kernel did not accept; the timer retransmits them.
    pub failed: u64,
    /// Transfers whose windows the kernel cannot segment; they are sent block by block.
    pub gso_failed: Vec<Key>,
    /// Transfers whose borrowed bytes no longer exist.
    pub faulted: Vec<Key>,
}

/// The queue of datagrams.
#[derive(Default)]
pub struct Outbox {
    inline_bytes: Vec<u8>,
    borrowed: Vec<BorrowedRange>,
    messages: Vec<Message>,
    sender: Sender,
    flushed: u32,
    /// For a simulated network: datagrams instead of system calls, by socket and destination.
    #[cfg(test)]
    captured: Option<Vec<(u16, SocketAddr, Vec<u8>)>>,
}

impl Outbox {
    /// Returns the generation, which changes with every flush. Content that was queued in a generation must not move before it changes.
    pub fn generation(&self) -> u32 {
        self.flushed
    }

    /// Returns whether the queue should be flushed.
    pub fn is_full(&self) -> bool {
        self.messages.len() >= 256
    }

    /// Returns whether borrowed bytes are queued.
    pub fn has_borrowed(&self) -> bool {
        !self.borrowed.is_empty()
    }

    /// Queues a datagram that `write` appends to the buffer.
    pub fn packet(&mut self, route: Route, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.inline_bytes.len();
        write(&mut self.inline_bytes);
        self.messages.push(Message { route, owner: None, inline_bytes: start..self.inline_bytes.len(), content: None, segment: None });
    }

    /// Queues blocks with these headers; with `gso`, as one datagram that the kernel segments.
    pub fn blocks(&mut self, route: Route, blocks: Blocks, headers: impl Iterator<Item = [u8; DATA_HEADER]>) {
        let size = usize::from(blocks.blksize);
        let most = if blocks.gso { (MAX_BYTES / (size + DATA_HEADER)).clamp(1, MAX_SEGMENTS) } else { 1 };
        let (place, bytes) = match blocks.source {
            BlockSource::Slot(slot, range) => (BlobLocation::Slot(slot), range),
            BlockSource::Borrowed(content, offset, len) => {
                self.borrowed.push(BorrowedRange { content, offset, len });
                (BlobLocation::Borrowed(self.borrowed.len() - 1), 0..len)
            }
        };
        let first = self.inline_bytes.len();
        headers.for_each(|header| self.inline_bytes.extend_from_slice(&header));
        let (mut inline_bytes, mut start) = (first, bytes.start);
        while inline_bytes < self.inline_bytes.len() {
            let end = self.inline_bytes.len().min(inline_bytes + most * DATA_HEADER);
            let count = (end - inline_bytes) / DATA_HEADER;
            let stop = bytes.end.min(start + count * size);
            let segment = (count > 1).then(|| u16::try_from(size + DATA_HEADER).unwrap_or(u16::MAX));
            let content = Some(Blob { place, bytes: start..stop, size });
            self.messages.push(Message { route, owner: Some(blocks.owner), inline_bytes: inline_bytes..end, content, segment });
            (inline_bytes, start) = (end, stop);
        }
    }

    /// Sends all datagrams. Routes refer to `sockets`. If all datagrams are for the client of `connected_socket`, they are sent on that socket.
    pub fn flush<S: AsFd>(&mut self, sockets: &[S], connected_socket: Option<&ConnectedSocket>, content: &ReadAhead, result: &mut Flushed) {
        let mut start = 0;
        #[cfg(test)]
        if self.captured.is_some() {
            self.capture_all(content);
            start = self.messages.len();
        }
        if let Some(connected_socket) = connected_socket
            && let Some(socket) = self.messages.first().and_then(|message| connected_socket.socket_for(&message.route))
            && self.messages.iter().all(|message| connected_socket.socket_for(&message.route).is_some())
        {
            start = self.messages.len();
            self.send((socket, true), 0..start, content, result);
        }
        while let Some(first) = self.messages.get(start) {
            let socket = first.route.socket;
            let len = self.messages[start..].iter().take_while(|m| m.route.socket == socket).count();
            self.send((sockets[usize::from(socket)].as_fd(), false), start..start + len, content, result);
            start += len;
        }
        self.inline_bytes.clear();
        self.borrowed.clear();
        self.messages.clear();
        self.flushed = self.flushed.wrapping_add(1);
    }

    /// Captures datagrams from now on.
    #[cfg(test)]
    pub fn capture(&mut self) {
        self.captured = Some(Vec::new());
    }

    /// Takes the captured datagrams.
    #[cfg(test)]
    pub fn captured(&mut self) -> Vec<(u16, SocketAddr, Vec<u8>)> {
        self.captured.replace(Vec::new()).unwrap_or_default()
    }

    #[cfg(test)]
    fn capture_all(&mut self, slots: &ReadAhead) {
        for message in &self.messages {
            for block in 0..message.count() {
                let mut datagram = Vec::new();
                match &message.content {
                    None => datagram.extend(&self.inline_bytes[message.inline_bytes.clone()]),
                    Some(Blob { place: BlobLocation::Slot(slot), bytes, size }) => {
                        datagram.extend(&self.inline_bytes[message.inline_bytes.start + block * DATA_HEADER..][..DATA_HEADER]);
                        let content = slots.bytes(*slot, bytes.clone());
                        datagram.extend(&content[(block * size).min(content.len())..((block + 1) * size).min(content.len())]);
                    }
                    Some(_) => panic!("the simulated content lends no bytes"),
                }
                self.captured.get_or_insert_default().push((message.route.socket, message.route.to, datagram));
            }
        }
    }

    /// Sends messages on one socket, which may be connected to their destination.
    fn send(&mut self, (socket, connected): (BorrowedFd<'_>, bool), range: Range<usize>, content: &ReadAhead, result: &mut Flushed) {
        let (sources, messages) = ((&self.inline_bytes[..], &self.borrowed[..], content), &self.messages[range]);
        let mut gso_failed = Vec::new();
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
                            result.faulted.extend(messages[done].owner);
                        } else if messages[done].segment.is_some() && is_gso_unsupported(&error) {
                            gso_failed.push(done);
                        } else {
                            result.failed += 1;
                        }
                        done += 1;
                    }
                }
            }
        }
        for message in gso_failed.into_iter().map(|index| &messages[index]) {
            result.gso_failed.extend(message.owner);
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

/// Returns whether the kernel refused segmentation, as opposed to sending: the segments exceed the MTU, the interface lacks checksum offload, or
/// the kernel is older than 4.18.
fn is_gso_unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EIO | libc::EMSGSIZE | libc::ENOPROTOOPT | libc::EOPNOTSUPP))
}

/// Buffers that messages refer to.
type Sources<'a> = (&'a [u8], &'a [BorrowedRange], &'a ReadAhead);

/// Adds datagrams of a message to a batch.
fn push<'a>(
    batch: &mut Batch<'a>,
    message: &Message,
    range: Range<usize>,
    segment: Option<u16>,
    (inline_bytes, borrowed, slots): Sources<'a>,
) {
    batch.datagram(message.route.to, message.route.from, segment);
    let Some(Blob { place, bytes, size }) = &message.content else { return batch.part(inline_bytes[message.inline_bytes.clone()].into()) };
    let content = match place {
        BlobLocation::Slot(slot) => slots.bytes(*slot, bytes.clone()).into(),
        BlobLocation::Borrowed(range) => {
            borrowed.get(*range).map_or(Borrowed::invalid(bytes.end), BorrowedRange::bytes).part(bytes.clone())
        }
    };
    for block in range {
        batch.part(inline_bytes[message.inline_bytes.start + block * DATA_HEADER..][..DATA_HEADER].into());
        batch.part(content.part(block * size..(block + 1) * size));
    }
}

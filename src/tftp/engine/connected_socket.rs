//! A socket that is connected to the one client that has sent all recent packets.
//!
//! For a connected socket the kernel caches route, source address and IP identification. An unconnected socket looks them up for every
//! datagram, which is a tenth of the cost of a block in lock-step. There is at most one connected socket, and it is only an optimization: its packets
//! are dispatched like all others, and packets to other clients use the socket for transfers.

use super::peer::{Peer, Route};
use super::sockets::ServerSocket;
use super::sys::Local;
use std::os::fd::{AsFd, BorrowedFd};

/// Index that stands for the connected socket.
pub const CONNECTED_SOCKET: u16 = u16::MAX;
/// Packets on other sockets, minus those on this one, after which it is closed.
const PACKETS_TO_CLOSE: u16 = 256;

/// The socket and its client.
pub struct ConnectedSocket {
    socket: ServerSocket,
    pub peer: Peer,
    /// The source address of answers, for use on unbound sockets.
    pub from: Option<Local>,
    /// Packets on other sockets, minus those on this one.
    other_packets: u16,
    /// Whether the loop waits for its events.
    pub registered: bool,
    /// Whether its queue has no packets of other senders left from before it was connected.
    pub exclusive: bool,
    /// Whether to close it: its transfer has ended, or other clients are busy.
    pub closing: bool,
}

impl ConnectedSocket {
    /// Creates the connected socket of this peer; `from` is the source address of answers.
    pub fn new(socket: ServerSocket, peer: Peer, from: Option<Local>) -> ConnectedSocket {
        ConnectedSocket { socket, peer, from, other_packets: 0, registered: false, exclusive: false, closing: false }
    }

    /// Counts packets of the socket `index`. When other sockets are far ahead, this one is marked for closing.
    pub fn count_packets(&mut self, index: u16, count: usize) {
        let count = u16::try_from(count).unwrap_or(u16::MAX);
        self.other_packets =
            if index == CONNECTED_SOCKET { self.other_packets.saturating_sub(count) } else { self.other_packets.saturating_add(count) };
        self.closing |= self.other_packets > PACKETS_TO_CLOSE;
    }

    /// Returns the socket, if datagrams of this route can use it.
    pub fn socket_for(&self, route: &Route) -> Option<BorrowedFd<'_>> {
        let is_same = route.socket == self.peer.socket && route.to == self.peer.client && route.from == self.from;
        is_same.then(|| self.socket.as_fd())
    }
}

impl AsFd for ConnectedSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

//! Opens and closes the connected socket of the busiest client.

use super::connected_socket::{CONNECTED_SOCKET, ConnectedSocket};
use super::event_loop::EventLoop;
use super::key::Key;
use super::peer::Port;
use super::session::Stage;
use super::sockets::scope;
use super::sys::{Received, Receiver};
use guideway_sys::monotonic;
use std::io;
use std::os::fd::AsFd;

/// Consecutive packets from one client on one socket before it gets the connected socket.
const STREAK_TO_CONNECT: u16 = 128;

impl EventLoop {
    /// Counts packets of the socket `index`.
    pub(super) fn count_packets(&mut self, index: u16, count: usize) {
        if let Some(connected_socket) = &mut self.net.connected_socket {
            connected_socket.count_packets(index, count);
        }
    }

    /// Records that exactly one packet arrived on a busy socket. Returns the socket to wait on next.
    pub(super) fn count_streak(&mut self, index: u16) -> u16 {
        if index == CONNECTED_SOCKET {
            return index;
        }
        let streak = self
            .sessions
            .latest()
            .map(|key| (key, if self.net.client_streak.0 == key { self.net.client_streak.1.saturating_add(1) } else { 0 }));
        self.net.client_streak = streak.unwrap_or(self.net.client_streak);
        // Once for each transfer: a failed attempt would fail again.
        if self.net.client_streak.1 == STREAK_TO_CONNECT && self.connect(self.net.client_streak.0).is_some() {
            CONNECTED_SOCKET
        } else {
            index
        }
    }

    fn connect(&mut self, key: Key) -> Option<()> {
        let session = self.sessions.get(key).filter(|session| matches!(session.stage, Stage::Running(_)))?;
        let (peer, from) = (session.peer, session.route.from);
        let main = &self.net.sockets[usize::from(peer.socket)];
        // On a socket that also gets requests, a request could be lost when the connected socket is closed.
        if main.listens || self.net.connected_socket.is_some() {
            return None;
        }
        let socket = main.connected(peer.vip, peer.client, scope(peer.client)).ok()?;
        self.net.connected_socket = Some(ConnectedSocket::new(socket, peer, from));
        Some(())
    }

    /// Waits on the connected socket for one packet, when only its client's packets can arrive. Returns the socket to wait on next; `None` if nothing
    /// arrived.
    pub(super) fn receive_connected(&mut self, receiver: &mut Receiver) -> Option<u16> {
        let connected_socket = self.net.connected_socket.as_ref()?;
        let (bytes, truncated) = receiver.receive_connected(connected_socket.as_fd()).ok()?;
        let (reply_socket, received) = (
            connected_socket.peer.socket,
            Received { from: connected_socket.peer.client, local: connected_socket.from, bytes, truncated, broadcast: false },
        );
        self.now = monotonic();
        self.count_packets(CONNECTED_SOCKET, 1);
        self.deliver(reply_socket, Port::Transfers, &received);
        self.net.connected_socket.as_ref().is_some_and(|connected_socket| !connected_socket.closing).then_some(CONNECTED_SOCKET)
    }

    /// Records the result of a receive call. When the queue was empty, all further packets are from the socket's client.
    pub(super) fn mark_exclusive(&mut self, got: Option<&io::Result<(usize, bool)>>) {
        let is_empty = match got {
            Some(Ok((_, more))) => !more,
            Some(Err(error)) => error.kind() == io::ErrorKind::WouldBlock,
            None => false,
        };
        if let Some(connected_socket) = self.net.connected_socket.as_mut().filter(|_| is_empty) {
            connected_socket.exclusive = true;
        }
    }

    /// Closes the socket when it is marked for closing, after handling its remaining packets.
    pub(super) fn close_connected(&mut self, receiver: &mut Receiver) {
        if self.net.connected_socket.as_ref().is_some_and(|connected_socket| connected_socket.closing) {
            self.receive(CONNECTED_SOCKET, receiver);
            self.flush();
            self.net.connected_socket = None;
        }
    }
}

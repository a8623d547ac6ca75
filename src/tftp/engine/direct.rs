//! A socket that is connected to the one client which everything has come from for a while.
//!
//! For such a socket the kernel keeps route, source address and counter of identifications, which it looks up anew for every datagram of one
//! that speaks to everybody; in lock-step that is a tenth of what a block costs. There is one at most, and nothing depends on it: packets that
//! come by it are told apart as all others are, and what does not go to its client goes by the socket for transfers.

use super::event_loop::EventLoop;
use super::outbox::Route;
use super::ports::Port;
use super::session::{Peer, Stage};
use super::sys::{Local, Received, Receiver};
use super::{Key, ports};
use guideway_sys::monotonic;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// Stands for the socket where others have an index.
pub const DIRECT: u16 = u16::MAX;
/// Packets in a row from one client, at one socket, before it gets the socket.
const ALONE: u16 = 128;
/// Packets at other sockets, less those that came by this one, until it is closed.
const CROWD: u16 = 256;

/// The socket, and whom it is for.
pub struct Direct {
    port: Port,
    pub peer: Peer,
    /// The address to answer from, as others need it who are not bound to one.
    pub from: Option<Local>,
    /// How far others are ahead.
    others: u16,
    /// Whether the loop waits for what comes by it.
    pub watched: bool,
    /// Whether nothing is left that came before it was connected, from anybody.
    pub its_own: bool,
    /// Whether it is to be closed: its transfer has ended, or it is no longer alone.
    pub over: bool,
}

impl Direct {
    /// The socket, if datagrams on this route can go by it.
    pub fn on(&self, route: &Route) -> Option<BorrowedFd<'_>> {
        let is_same = route.port == self.peer.port && route.to == self.peer.client && route.from == self.from;
        is_same.then(|| self.port.as_fd())
    }
}

impl AsFd for Direct {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.port.as_fd()
    }
}

impl EventLoop {
    /// Counts packets that came by the socket `index`.
    pub(super) fn counted(&mut self, index: u16, count: usize) {
        let Some(direct) = &mut self.direct else { return };
        let count = u16::try_from(count).unwrap_or(u16::MAX);
        direct.others = if index == DIRECT { direct.others.saturating_sub(count) } else { direct.others.saturating_add(count) };
        direct.over |= direct.others > CROWD;
    }

    /// Takes note that one packet, and no other, came by a busy socket; where the next one is to be waited for.
    pub(super) fn alone(&mut self, index: u16) -> u16 {
        if index == DIRECT {
            return index;
        }
        let streak = self.latest.map(|key| (key, if self.alone.0 == key { self.alone.1.saturating_add(1) } else { 0 }));
        self.alone = streak.unwrap_or(self.alone);
        // Once for each transfer: what failed would fail again.
        if self.alone.1 == ALONE && self.connect(self.alone.0).is_some() { DIRECT } else { index }
    }

    fn connect(&mut self, key: Key) -> Option<()> {
        let session = self.session(key).filter(|session| matches!(session.stage, Stage::Running(_)))?;
        let (peer, from) = (session.peer, session.route.from);
        let main = &self.ports[usize::from(peer.port)];
        // Where requests come in, too, one could wait at a socket that is about to be closed.
        if main.listens || self.direct.is_some() {
            return None;
        }
        let port = main.connected(peer.vip, peer.client, ports::scope(peer.client)).ok()?;
        self.direct = Some(Direct { port, peer, from, others: 0, watched: false, its_own: false, over: false });
        Some(())
    }

    /// Waits there for one packet, when only its client's can come; where to wait next, unless nothing came.
    pub(super) fn receive_direct(&mut self, receiver: &mut Receiver) -> Option<u16> {
        let direct = self.direct.as_ref()?;
        let (bytes, cut) = receiver.one_of_peer(direct.as_fd()).ok()?;
        let (reply, received) = (direct.peer.port, Received { from: direct.peer.client, local: direct.from, bytes, cut });
        self.now = monotonic();
        self.counted(DIRECT, 1);
        self.deliver(reply, false, &received);
        self.direct.as_ref().is_some_and(|direct| !direct.over).then_some(DIRECT)
    }

    /// Takes note of what was found there. When that was all, everything that comes from now on was sent by its client.
    pub(super) fn looked(&mut self, got: Option<&io::Result<(usize, bool)>>) {
        let is_empty = match got {
            Some(Ok((_, more))) => !more,
            Some(Err(error)) => error.kind() == io::ErrorKind::WouldBlock,
            None => false,
        };
        if let Some(direct) = self.direct.as_mut().filter(|_| is_empty) {
            direct.its_own = true;
        }
    }

    /// Closes the socket when it is time, after what came by it.
    pub(super) fn close_direct(&mut self, receiver: &mut Receiver) {
        if self.direct.as_ref().is_some_and(|direct| direct.over) {
            self.receive(DIRECT, receiver);
            self.flush();
            self.direct = None;
        }
    }
}

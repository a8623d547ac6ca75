//! From a datagram to the method that handles its packet.

use super::connected_socket::CONNECTED_SOCKET;
use super::event_loop::{EventLoop, MAX_BATCHES, MAX_REQUEST};
use super::peer::{Peer, Port, Route};
use super::sockets::scope;
use super::sys::{Local, Received, Receiver};
use super::tunnel::Target;
use crate::packet::{ErrorCode, Malformed, Packet, put_error};
use crate::report::Counter;
use std::net::SocketAddr;

impl EventLoop {
    /// Receives from a raw socket of the tunnel.
    pub(super) fn receive_tunnel(&mut self, index: usize, receiver: &mut Receiver) {
        for _ in 0..MAX_BATCHES {
            let Some(tunnel) = &self.net.tunnel else { return };
            let Ok((count, more)) = tunnel.receive(index, receiver) else { return };
            for at in 0..count {
                let unwrapped = receiver.get(at).and_then(|outer| self.net.tunnel.as_ref()?.unwrap(index, outer.bytes));
                match unwrapped {
                    Some((Target::Socket(socket, port), received)) => self.deliver(socket, port, &received),
                    Some((Target::UnboundPort(address), received)) => self.deliver_foreign(address, &received),
                    None => self.counters.add(Counter::Malformed, 1),
                }
            }
            if !more {
                return;
            }
            if self.net.outbox.is_full() {
                self.flush();
            }
        }
    }

    /// Handles a datagram in GRE for a port without a bound socket: a port of another server, or of none.
    fn deliver_foreign(&mut self, address: SocketAddr, received: &Received<'_>) {
        let foreign = self.takeover.as_ref().is_some_and(|takeover| takeover.is_foreign(address.port()));
        let socket = if foreign { self.bind_foreign_socket(address) } else { None };
        match (socket, &mut self.net.tunnel) {
            (Some(socket), Some(tunnel)) => {
                tunnel.add_socket(address, socket);
                self.deliver(socket, Port::Transfers, received);
            }
            _ => self.counters.add(Counter::Malformed, 1),
        }
    }

    /// Handles a datagram of a UDP socket.
    pub(super) fn datagram(&mut self, index: u16, received: &Received<'_>) {
        match &self.net.connected_socket {
            // It is bound to an address, so the kernel does not report the address of each packet.
            Some(connected_socket) if index == CONNECTED_SOCKET => {
                self.deliver(connected_socket.peer.socket, Port::Transfers, &Received { local: connected_socket.from, ..*received })
            }
            _ => {
                let socket = &self.net.sockets[usize::from(index)];
                let port = Port::of(socket.listens, socket.reply_socket == index);
                self.deliver(socket.reply_socket, port, received);
            }
        }
    }

    /// Dispatches a datagram whose answer is sent from the socket `reply_socket`.
    pub(super) fn deliver(&mut self, reply_socket: u16, port: Port, received: &Received<'_>) {
        self.counters.add(Counter::Datagrams, 1);
        if received.broadcast {
            // RFC 1123 section 4.2.3.5. An answer would make this server an amplifier.
            return self.counters.add(Counter::Broadcasts, 1);
        }
        let listens = port != Port::Transfers;
        let (client, bytes) = (received.from, received.bytes);
        let bound = self.net.sockets[usize::from(reply_socket)].local.ip();
        let from = received.local.filter(|_| bound.is_unspecified()).map(|local| Local { interface: scope(client), ..local });
        let route = Route { socket: reply_socket, to: client, from };
        let peer = Peer { client, vip: from.map_or(bound, |local| local.address), socket: reply_socket };
        match Packet::parse(bytes) {
            Ok(Packet::Request(request)) if listens && !received.truncated && bytes.len() <= MAX_REQUEST => {
                self.request(peer, route, bytes, &request)
            }
            Ok(Packet::Ack { .. } | Packet::Error { .. } | Packet::Data { .. }) if port == Port::Requests => {
                self.counters.add(Counter::Malformed, 1);
            }
            Ok(Packet::Ack { block }) => self.ack(peer, route, block),
            Ok(Packet::Error { code, text }) => {
                self.counters.add(Counter::ErrorsReceived, 1);
                self.client_error(peer, code, text);
            }
            Ok(Packet::Data { block, data }) => self.data(peer, route, block, data),
            Err(Malformed::Unterminated) if listens => {
                self.counters.add(Counter::Malformed, 1);
                self.error(route, ErrorCode::ILLEGAL, "the request does not end");
            }
            Ok(Packet::Request(_)) if listens => {
                self.counters.add(Counter::Malformed, 1);
                self.error(route, ErrorCode::ILLEGAL, "the request is too long");
            }
            _ => self.counters.add(Counter::Malformed, 1),
        }
    }

    /// Queues an ERROR.
    pub(super) fn error(&mut self, route: Route, code: ErrorCode, text: &str) {
        self.net.outbox.packet(route, |to| put_error(to, code, text.as_bytes()));
    }
}

//! A request of a client, which handlers own.

use super::options::announced;
use super::packet::{Mode, Options, Packet, put_request};
use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

/// The name of the handler that answers a request. Clones share it, so that the report of the request has it.
#[derive(Clone, Debug, Default)]
pub(crate) struct HandlerName(Arc<Mutex<Option<Arc<str>>>>);

impl HandlerName {
    /// Records the name of a handler that is asked.
    pub fn set(&self, name: &Arc<str>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(name));
    }

    /// Returns the name of the handler that was asked last; `None` if none with a name was.
    pub fn get(&self) -> Option<Arc<str>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The protocol of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Protocol {
    /// TFTP, RFC 1350.
    #[default]
    Tftp,
    /// HTTP, RFC 9110.
    Http,
}

impl Protocol {
    /// Returns its name in logs, metrics and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Protocol::Tftp => "tftp",
            Protocol::Http => "http",
        }
    }
}

/// A read or write request. A clone shares its bytes.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Request {
    /// The client. The port distinguishes transfers of one client.
    pub client: SocketAddr,
    /// The destination address of the request; behind a director, the VIP.
    pub vip: IpAddr,
    /// The source port of answers; by HTTP, the port of the server.
    pub tid: u16,
    /// The transfer mode. The engine translates; content is always untranslated.
    pub mode: Mode,
    /// Whether the client writes.
    pub write: bool,
    /// The protocol. A request by HTTP has no options.
    pub protocol: Protocol,
    /// The name of the handler that was asked last.
    pub(crate) handler: HandlerName,
    /// Another name than that of the packet.
    file: Option<Arc<[u8]>>,
    packet: Arc<[u8]>,
}

impl Request {
    /// Creates a request from its packet; `None` if the packet is no request or its mode is unknown.
    pub fn from_packet(client: SocketAddr, vip: IpAddr, tid: u16, packet: Arc<[u8]>) -> Option<Request> {
        let Ok(Packet::Request(request)) = Packet::parse(&packet) else { return None };
        let (mode, write) = (request.known_mode()?, request.write);
        let (handler, protocol) = (HandlerName::default(), Protocol::Tftp);
        Some(Request { client, vip, tid, mode, write, protocol, handler, file: None, packet })
    }

    /// Creates a read request in mode octet without options, for tests of handlers.
    pub fn for_file(client: SocketAddr, vip: IpAddr, tid: u16, file: &[u8]) -> Request {
        let mut packet = Vec::new();
        put_request(&mut packet, false, b"f", b"octet", []);
        let (mode, protocol, handler) = (Mode::Octet, Protocol::Tftp, HandlerName::default());
        Request { client, vip, tid, mode, write: false, protocol, handler, file: Some(file.into()), packet: packet.into() }
    }

    /// Creates the read request of a client that came by another protocol to `server`; `None` if the name contains a NUL.
    #[cfg(feature = "http")]
    pub(crate) fn of_other(protocol: Protocol, client: SocketAddr, server: SocketAddr, file: &[u8]) -> Option<Request> {
        let mut packet = Vec::new();
        put_request(&mut packet, false, file, b"octet", []);
        let request = Request::from_packet(client, server.ip(), server.port(), packet.into()).filter(|_| !file.contains(&0))?;
        Some(Request { protocol, ..request })
    }

    /// Returns the packet, from which reports take the name.
    pub(crate) fn packet(&self) -> Arc<[u8]> {
        Arc::clone(&self.packet)
    }

    /// Returns the request for another file.
    #[must_use]
    pub fn with_file(mut self, file: &[u8]) -> Request {
        self.file = Some(file.into());
        self
    }

    /// Returns the file name as received. It need not be UTF-8; see [`Request::name`].
    pub fn file(&self) -> &[u8] {
        match (&self.file, Packet::parse(&self.packet)) {
            (Some(file), _) => file,
            (None, Ok(Packet::Request(request))) => request.file,
            (None, _) => &[],
        }
    }

    /// Returns the file name for output and comparison, without the trailing 0xFF bytes of some firmware.
    pub fn name(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(without_garbage(self.file()))
    }

    /// Returns all options of the client, known or not, in the order of the request.
    pub fn options(&self) -> Options<'_> {
        match Packet::parse(&self.packet) {
            Ok(Packet::Request(request)) => request.options,
            _ => Options::default(),
        }
    }

    /// Returns the size in bytes that the client announces for a write, if it does (RFC 2349).
    pub fn announced_size(&self) -> Option<u64> {
        announced(self.options())
    }
}

/// Removes trailing 0xFF bytes, the end mark of DHCP options that some firmware copies with the name.
pub fn without_garbage(file: &[u8]) -> &[u8] {
    let len = file.iter().rposition(|&b| b != 0xff).map_or(0, |last| last + 1);
    &file[..len]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_owns_its_packet() {
        let mut packet = Vec::new();
        put_request(&mut packet, true, b"a\xff", b"netascii", [(&b"TSIZE"[..], &b"9"[..]), (b"blksize", b"1428")]);
        let request = Request::from_packet("10.0.0.7:2070".parse().unwrap(), "192.0.2.69".parse().unwrap(), 20_000, packet.into()).unwrap();
        assert_eq!((request.file(), &*request.name(), request.mode, request.write), (&b"a\xff"[..], "a", Mode::Netascii, true));
        assert_eq!((request.options().iter().count(), request.announced_size()), (2, Some(9)));
        let other = request.with_file(b"b");
        assert_eq!((other.file(), other.options().iter().count()), (&b"b"[..], 2));
        assert!(Request::from_packet(other.client, other.vip, 1, b"\0\x01f\0mail\0"[..].into()).is_none());
    }

    #[test]
    fn trailing_garbage_of_names_is_removed() {
        assert_eq!(without_garbage(b"undionly.kpxe\xff"), b"undionly.kpxe");
        assert_eq!(without_garbage(b"a\xffb\xff\xff"), b"a\xffb");
        assert_eq!(without_garbage(b"\xff"), b"");
    }
}

//! A request that outlives its datagram, for handlers that answer later.

use crate::handler::Request;
use crate::packet::{Options, Packet, put_request};
use serde_json::{Map, Value, json};
use std::net::{IpAddr, SocketAddr};

/// An owned [`Request`].
#[derive(Clone, Debug)]
pub struct OwnedRequest {
    client: SocketAddr,
    vip: IpAddr,
    tid: u16,
    mode: crate::packet::Mode,
    /// A request packet with the same options, because options are read from a packet.
    packet: Vec<u8>,
    file: Vec<u8>,
}

impl OwnedRequest {
    /// Copies `request`.
    pub fn new(request: &Request<'_>) -> OwnedRequest {
        let mut packet = Vec::new();
        put_request(&mut packet, false, b"f", request.mode.name().as_bytes(), request.options.iter());
        OwnedRequest { client: request.client, vip: request.vip, tid: request.tid, mode: request.mode, packet, file: request.file.to_vec() }
    }

    /// Returns the request for another file.
    pub fn with_file(mut self, file: &[u8]) -> OwnedRequest {
        self.file = file.to_vec();
        self
    }

    /// Returns the borrowed form that handlers take.
    pub fn request(&self) -> Request<'_> {
        let options = match Packet::parse(&self.packet) {
            Ok(Packet::Request(request)) => request.options,
            _ => Options::default(),
        };
        Request { client: self.client, vip: self.vip, tid: self.tid, file: &self.file, mode: self.mode, options }
    }
}

/// Formats a request for programs and hooks.
///
/// `{"client": "10.0.0.7", "port": 2070, "vip": "192.0.2.69", "tid": 20000, "file": "boot/grub.cfg", "mode": "octet", "options": {"tsize": "0"}}`
/// Invalid UTF-8 becomes U+FFFD. The first of several equal options counts, as everywhere.
pub fn as_json(request: &Request<'_>) -> Value {
    let mut options = Map::new();
    for (name, value) in request.options.iter() {
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        options.entry(name).or_insert_with(|| String::from_utf8_lossy(value).into());
    }
    json!({
        "client": request.client.ip().to_string(),
        "port": request.client.port(),
        "vip": request.vip.to_string(),
        "tid": request.tid,
        "file": request.name(),
        "mode": request.mode.name(),
        "options": options,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Mode;

    #[test]
    fn a_copy_equals_the_request() {
        let mut bytes = Vec::new();
        put_request(&mut bytes, false, b"a\xff", b"netascii", [(&b"TSIZE"[..], &b"0"[..]), (b"blksize", b"1428"), (b"tsize", b"9")]);
        let Ok(Packet::Request(packet)) = Packet::parse(&bytes) else { panic!("a request") };
        let client = "10.0.0.7:2070".parse().unwrap();
        let vip = "192.0.2.69".parse().unwrap();
        let request = Request { client, vip, tid: 20_000, file: packet.file, mode: Mode::Netascii, options: packet.options };
        let owned = OwnedRequest::new(&request);
        assert_eq!(format!("{:?}", owned.request()), format!("{request:?}"));
        assert_eq!(owned.clone().with_file(b"b").request().file, b"b");
        assert_eq!(
            as_json(&request).to_string(),
            r#"{"client":"10.0.0.7","port":2070,"vip":"192.0.2.69","tid":20000,"file":"a","mode":"netascii","options":{"tsize":"0","blksize":"1428"}}"#
        );
    }
}

//! Requests in JSON, for programs and hooks.

use crate::request::Request;
use serde_json::{Map, Value, json};
use std::borrow::Cow;

/// Largest part of an answer or of the output of a program that is logged, in bytes.
pub(super) const MAX_LOGGED: usize = 4096;

/// Returns the beginning of an answer or output for the log.
pub(super) fn text(output: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(&output[..output.len().min(MAX_LOGGED)])
}

/// Formats a request for programs and hooks.
///
/// `{"client": "10.0.0.7", "port": 2070, "vip": "192.0.2.69", "tid": 20000, "file": "boot/grub.cfg", "mode": "octet", "options": {"tsize": "0"}}`
/// Invalid UTF-8 becomes U+FFFD. The first of several equal options counts, as everywhere.
pub fn as_json(request: &Request) -> Value {
    let mut options = Map::new();
    for (name, value) in request.options().iter() {
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
    use crate::packet::put_request;

    #[test]
    fn a_request_in_json() {
        let mut packet = Vec::new();
        put_request(&mut packet, false, b"a\xff", b"netascii", [(&b"TSIZE"[..], &b"0"[..]), (b"blksize", b"1428"), (b"tsize", b"9")]);
        let request = Request::from_packet("10.0.0.7:2070".parse().unwrap(), "192.0.2.69".parse().unwrap(), 20_000, packet.into()).unwrap();
        assert_eq!(
            as_json(&request).to_string(),
            r#"{"client":"10.0.0.7","port":2070,"vip":"192.0.2.69","tid":20000,"file":"a","mode":"netascii","options":{"tsize":"0","blksize":"1428"}}"#
        );
    }
}

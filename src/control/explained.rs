//! Where a packet would go and why, as a document: of a file's tables, or of those that a running director's workers read.

use guideway_dataplane::path::explain::explain;
use guideway_dataplane::tables::Unmatched;
use guideway_dataplane::tables::{Backend, Snapshot};
use guideway_packet::verdict::Reason;
use guideway_packet::wire::l4::{TCP, UDP};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::str::FromStr;

/// What is said of an address that is no VIP, unless the file has `unmatched = "drop"`.
const NO_VIP: &str = "the address is no VIP of this configuration, so the packet is left to the host's kernel";

/// `VIP:PORT/udp`; udp if left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// VIP and port.
    pub address: SocketAddr,
    /// Transport protocol.
    pub protocol: u8,
}

impl FromStr for Destination {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, protocol) = text.rsplit_once('/').unwrap_or((text, "udp"));
        let protocol = match protocol {
            "udp" => UDP,
            "tcp" => TCP,
            other => return Err(format!("the protocol is `{}`; udp or tcp is expected", other.escape_debug())),
        };
        Ok(Destination { address: self::address(address)?, protocol })
    }
}

/// `ADDRESS:PORT`
///
/// # Errors
/// A sentence that says what is wanted.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("`{}` is not ADDRESS:PORT, or [ADDRESS]:PORT with IPv6", text.escape_debug()))
}

/// A packet that is asked about.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    /// Who sends it.
    pub client: SocketAddr,
    /// Where it goes.
    pub to: Destination,
}

impl Question {
    /// A question that can be answered.
    ///
    /// # Errors
    /// When the two addresses are of different families.
    pub fn new(client: SocketAddr, to: Destination) -> Result<Question, String> {
        if client.is_ipv4() == to.address.is_ipv4() {
            Ok(Question { client, to })
        } else {
            Err(format!("{client} and {} are of different families", to.address))
        }
    }

    /// The answer by `tables`; `ranges` gives the TID range of a backend.
    pub fn answer(&self, tables: &Snapshot, ranges: impl Fn(&Backend) -> Option<(u16, u16)>) -> Value {
        let (client, to) = (self.client, self.to.address);
        let mut document = json!({"client": client.to_string(), "vip": to.ip().to_string(), "port": to.port()});
        let rest = match explain(tables, self.to.protocol, client, to) {
            Ok(explained) => json!({
                "service": explained.label,
                "request": explained.request,
                "pool": *tables.services[usize::from(explained.service)].pool.name,
                "backend": *explained.backend.name,
                "address": explained.backend.address.to_string(),
                "by": explained.by.name(),
                "instead_of": explained.instead_of.map(|owner| owner.name.to_string()),
                "key": explained.key,
                "hash": explained.hash.map(|hash| format!("{hash:016x}")),
                "row": explained.row,
                // That which the packet's port lies in, or that of the backend that gets a request.
                "tid_range": ranges(explained.instead_of.unwrap_or(explained.backend)).map(|(first, last)| format!("{first}-{last}")),
                "flow_table_first": explained.flow_table,
                // The server's port lies in no TID range of a pool that has some.
                "no_tid_range": explained.stray,
            }),
            // GRE for what is no VIP is dropped only if the file says so.
            Err(Reason::NotVip) if tables.unmatched == Unmatched::Host => {
                json!({"service": null, "backend": null, "to_host": true, "why": NO_VIP})
            }
            Err(reason) => json!({"service": null, "backend": null, "dropped": reason.name(), "why": reason.explain()}),
        };
        if let (Some(document), Value::Object(rest)) = (document.as_object_mut(), rest) {
            document.extend(rest);
        }
        document
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_read_with_and_without_a_protocol() {
        let read = |text: &str| text.parse::<Destination>();
        assert_eq!(read("192.0.2.69:69/udp"), read("192.0.2.69:69"));
        assert_eq!(read("[2001:db8::1]:53/tcp").map(|d| d.protocol), Ok(TCP));
        assert!(read("192.0.2.69/udp").unwrap_err().contains("ADDRESS:PORT"));
        assert!(read("192.0.2.69:69/sctp").unwrap_err().contains("udp or tcp"));
    }
}

//! Where a packet would go and why, by the tables of a file or of a running director.

use guideway_api::explain::{DroppedPacket, Explanation, LeftToHost, PacketDestination, SelectedBackend, Selection};
use guideway_dataplane::path::SelectedBy;
use guideway_dataplane::path::explain::explain;
use guideway_dataplane::tables::Unmatched;
use guideway_dataplane::tables::{Backend, Snapshot};
use guideway_packet::verdict::Reason;
use guideway_packet::wire::l4::{TCP, UDP};
use std::net::SocketAddr;
use std::str::FromStr;

/// The reason for an address that is no VIP, unless the file has `unmatched = "drop"`.
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
/// Says which form is expected.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("`{}` is not ADDRESS:PORT, or [ADDRESS]:PORT with IPv6", text.escape_debug()))
}

/// A question about a packet.
#[derive(Clone, Copy, Debug)]
pub struct ExplainQuery {
    /// Its source.
    pub client: SocketAddr,
    /// Its destination.
    pub to: Destination,
}

impl ExplainQuery {
    /// Creates a question.
    ///
    /// # Errors
    /// When the two addresses are of different families.
    pub fn new(client: SocketAddr, to: Destination) -> Result<ExplainQuery, String> {
        if client.is_ipv4() == to.address.is_ipv4() {
            Ok(ExplainQuery { client, to })
        } else {
            Err(format!("{client} and {} are of different families", to.address))
        }
    }

    /// Returns the answer by `tables`; `ranges` returns the TID range of a backend.
    pub fn answer(&self, tables: &Snapshot, ranges: impl Fn(&Backend) -> Option<(u16, u16)>) -> Explanation {
        let (client, to) = (self.client, self.to.address);
        let destination = match explain(tables, self.to.protocol, client, to) {
            Ok(explanation) => PacketDestination::Backend(Box::new(SelectedBackend {
                service: explanation.label.to_owned(),
                request: explanation.request,
                pool: tables.services[usize::from(explanation.service)].pool.name.to_string(),
                backend: explanation.backend.name.to_string(),
                address: explanation.backend.address,
                by: selection(explanation.by),
                failed_owner: explanation.failed_owner.map(|owner| owner.name.to_string()),
                key: explanation.key.to_owned(),
                hash: explanation.hash.map(|hash| format!("{hash:016x}")),
                row: explanation.row,
                tid_range: ranges(explanation.failed_owner.unwrap_or(explanation.backend)).map(|(first, last)| format!("{first}-{last}")),
                flow_table_consulted: explanation.flow_table,
                outside_tid_ranges: explanation.unknown_tid,
            })),
            // GRE for what is no VIP is dropped only if the file says so.
            Err(Reason::NotVip) if tables.unmatched == Unmatched::Host => {
                PacketDestination::Host(LeftToHost { service: None, backend: None, to_host: true, why: NO_VIP.to_owned() })
            }
            Err(reason) => PacketDestination::Dropped(DroppedPacket {
                service: None,
                backend: None,
                dropped: reason.name().to_owned(),
                why: reason.explain().to_owned(),
            }),
        };
        Explanation { client, vip: to.ip(), port: to.port(), destination, generation: None }
    }
}

fn selection(by: SelectedBy) -> Selection {
    match by {
        SelectedBy::TidRange => Selection::TidRange,
        SelectedBy::Flow => Selection::Flow,
        SelectedBy::Maglev => Selection::Maglev,
        SelectedBy::Successor => Selection::Successor,
        SelectedBy::RemoteSite => Selection::RemoteSite,
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

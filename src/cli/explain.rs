//! `guideway explain`: where would this packet go, and why?

use super::FAILED;
use super::common::{bad, down, load, result};
use crate::config::{Config, Unmatched};
use crate::control::{NextHops, Writer};
use crate::path::explain::{Explained, explain};
use crate::path::select::By;
use crate::time::Time;
use crate::verdict::Reason;
use crate::wire::l4::{TCP, UDP};
use serde_json::{Value, json};
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// Where would this packet go, and why? Offline, from the configuration alone.
///
/// A packet to port 69 of a tftp service is taken for a read request, to any other port for an acknowledgement.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit code 0: it goes to a backend; 1: it goes to none; 2: bad usage or configuration.\n\n\
                        Example:\n  guideway explain --config boot.toml 198.51.100.7:2070 192.0.2.69:69/udp\n  \
                        guideway explain --config boot.toml '[2001:db8::7]:2070' '[2001:db8::69]:20123/udp' --json\n  \
                        guideway explain --config boot.toml --down boot/t1 198.51.100.7:2070 192.0.2.69:20123")]
pub struct Args {
    /// The configuration.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Address and port of the client.
    #[arg(value_name = "CLIENT:PORT", value_parser = address)]
    client: SocketAddr,
    /// VIP, port and transport protocol (udp or tcp; udp if left out).
    #[arg(value_name = "VIP:PORT/udp")]
    to: Destination,
    /// As if this backend had been seen to be down; may be given several times.
    #[arg(long, value_name = "POOL/BACKEND")]
    down: Vec<String>,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

/// What is said of an address that the file does not have, unless it has `unmatched = "drop"`.
const NO_VIP: &str = "the address is no VIP of this configuration, so the packet is left to the host's kernel";

/// `VIP:PORT/udp`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Destination {
    address: SocketAddr,
    protocol: u8,
}

impl FromStr for Destination {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, protocol) = text.rsplit_once('/').unwrap_or((text, "udp"));
        let protocol = match protocol {
            "udp" => UDP,
            "tcp" => TCP,
            other => return Err(format!("the protocol is `{other}`; udp or tcp is expected")),
        };
        Ok(Destination { address: self::address(address)?, protocol })
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("`{text}` is not ADDRESS:PORT, or [ADDRESS]:PORT with IPv6"))
}

/// Runs the command.
pub fn run(args: &Args) -> u8 {
    if args.client.is_ipv4() != args.to.address.is_ipv4() {
        return bad(&format!("{} and {} are of different families", args.client, args.to.address));
    }
    let config = match load(&args.config) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let health = match down(&config, &args.down) {
        Ok(health) => health,
        Err(message) => return bad(&message),
    };
    let tables = match Writer::new().apply_set(&config, 1, &health, &NextHops::fixed(&config), Time(0)) {
        Ok(tables) => tables,
        Err(refused) => return bad(&refused.to_string()),
    };
    let explained = explain(&tables, args.to.protocol, args.client, args.to.address);
    // GRE for what is no VIP is dropped only if the file says so.
    let to_host = matches!(explained, Err(Reason::NotVip)) && tables.unmatched == Unmatched::Host;
    let text = match (&explained, args.json) {
        (Err(_), true) if to_host => format!("{:#}\n", nowhere(args, json!({ "to_host": true, "why": NO_VIP }))),
        (Err(_), false) if to_host => format!("to host: {NO_VIP}\n"),
        (Ok(explained), true) => format!("{:#}\n", document(explained, &config, args)),
        (Ok(explained), false) => sentence(explained, &config, args),
        (Err(reason), true) => {
            format!("{:#}\n", nowhere(args, json!({ "dropped": reason.name(), "why": reason.explain() })))
        }
        (Err(reason), false) => format!("dropped: {} ({})\n", reason.name(), reason.explain()),
    };
    let printed = result(&text);
    if explained.is_err() { FAILED } else { printed }
}

/// The range that the packet's port lies in, or that of the backend that gets a request.
fn tid_range(explained: &Explained<'_>, config: &Config) -> Option<(u16, u16)> {
    let owner = explained.instead_of.unwrap_or(explained.backend);
    let pool = config.pools.iter().find(|pool| *pool.name == *owner.pool)?;
    pool.backends.iter().find(|backend| *backend.name == *owner.name)?.tid_range
}

fn document(explained: &Explained<'_>, config: &Config, args: &Args) -> Value {
    json!({
        "client": args.client.to_string(),
        "vip": args.to.address.ip().to_string(),
        "port": args.to.address.port(),
        "service": explained.label,
        "request": explained.request,
        "pool": *explained.backend.pool,
        "backend": *explained.backend.name,
        "address": explained.backend.address.to_string(),
        "by": explained.by.name(),
        "instead_of": explained.instead_of.map(|owner| owner.name.to_string()),
        "key": explained.key,
        "hash": explained.hash.map(|hash| format!("{hash:016x}")),
        "row": explained.row,
        "tid_range": tid_range(explained, config).map(|(first, last)| format!("{first}-{last}")),
        "flow_table_first": explained.flow_table,
    })
}

/// The document of a packet that goes to no backend, with what becomes of it instead.
fn nowhere(args: &Args, instead: Value) -> Value {
    let mut document = json!({
        "client": args.client.to_string(),
        "vip": args.to.address.ip().to_string(),
        "port": args.to.address.port(),
        "service": null,
        "backend": null,
    });
    if let (Some(document), Value::Object(instead)) = (document.as_object_mut(), instead) {
        document.extend(instead);
    }
    document
}

fn sentence(explained: &Explained<'_>, config: &Config, args: &Args) -> String {
    let mut text = String::new();
    let what = match explained.label {
        "tftp" if explained.request => "read request",
        "tftp" => "acknowledgement",
        _ => "packet",
    };
    // Writing into a String cannot fail.
    let _ = writeln!(text, "{what} from {} to {}", args.client, args.to.address);
    let _ = writeln!(text, "  service   {} (pool {})", explained.label, explained.backend.pool);
    let _ = writeln!(text, "  key       {}", explained.key);
    if let (Some(hash), Some(row)) = (explained.hash, explained.row) {
        let _ = writeln!(text, "  hash      {hash:016x}");
        let _ = writeln!(text, "  row       {row} of the Maglev table");
    }
    if let Some((first, last)) = tid_range(explained, config) {
        let _ = match explained.instead_of {
            None => writeln!(text, "  TIDs      {first}-{last} are this backend's"),
            Some(owner) => writeln!(text, "  TIDs      {first}-{last} are those of {}, which is down", owner.name),
        };
    }
    let _ = writeln!(text, "  backend   {} at {}, named by {}", explained.backend.name, explained.backend.address, by(explained));
    if explained.flow_table {
        let _ = writeln!(text, "  note      a running director that knows the flow keeps it on the backend that it had");
    }
    text
}

fn by(explained: &Explained<'_>) -> &'static str {
    match explained.by {
        By::TidRange => "the TID range that the server's port lies in",
        By::Flow => "the flow table",
        By::Maglev => "the Maglev table",
        By::Heir => "rendezvous among the heirs that are up",
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

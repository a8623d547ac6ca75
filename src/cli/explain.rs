//! `guideway explain`: where would this packet go, and why?

use super::FAILED;
use super::common::{bad, load, result};
use crate::config::Config;
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
#[command(after_help = "Example:\n  guideway explain --config boot.toml 198.51.100.7:2070 192.0.2.69:69/udp\n  \
                        guideway explain --config boot.toml '[2001:db8::7]:2070' '[2001:db8::69]:20123/udp' --json")]
pub struct Args {
    /// The configuration.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Address and port of the client.
    #[arg(value_name = "CLIENT:PORT")]
    client: SocketAddr,
    /// VIP, port and transport protocol (udp or tcp; udp if left out).
    #[arg(value_name = "VIP:PORT/udp")]
    to: Destination,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

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
        let address = address.parse().map_err(|_| format!("`{address}` is not ADDRESS:PORT, or [ADDRESS]:PORT with IPv6"))?;
        Ok(Destination { address, protocol })
    }
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
    let tables = match Writer::new().apply(&config, &NextHops::fixed(&config), Time(0)) {
        Ok(tables) => tables,
        Err(refused) => return bad(&refused.to_string()),
    };
    let explained = explain(&tables, args.to.protocol, args.client, args.to.address);
    let text = match (&explained, args.json) {
        (Ok(explained), true) => format!("{:#}\n", document(explained, &config, args)),
        (Ok(explained), false) => sentence(explained, &config, args),
        (Err(reason), true) => format!("{:#}\n", dropped(*reason, args)),
        (Err(reason), false) => format!("dropped: {} ({})\n", reason.name(), reason.explain()),
    };
    let printed = result(&text);
    if explained.is_err() { FAILED } else { printed }
}

fn tid_range(explained: &Explained<'_>, config: &Config) -> Option<(u16, u16)> {
    let pool = config.pools.iter().find(|pool| *pool.name == *explained.backend.pool)?;
    pool.backends.iter().find(|backend| *backend.name == *explained.backend.name)?.tid_range
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
        "key": explained.key,
        "hash": explained.hash.map(|hash| format!("{hash:016x}")),
        "row": explained.row,
        "tid_range": tid_range(explained, config).map(|(first, last)| format!("{first}-{last}")),
        "flow_table_first": explained.flow_table,
    })
}

fn dropped(reason: Reason, args: &Args) -> Value {
    json!({
        "client": args.client.to_string(),
        "vip": args.to.address.ip().to_string(),
        "port": args.to.address.port(),
        "service": null,
        "backend": null,
        "dropped": reason.name(),
        "why": reason.explain(),
    })
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
        let _ = writeln!(text, "  TIDs      {first}-{last} are this backend's");
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

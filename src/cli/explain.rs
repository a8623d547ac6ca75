//! `guideway explain`: where would this packet go, and why?

use super::common::{self, failed, health_with_down, load_with_vips, print_result, usage_error};
use super::target::DirectorArgs;
use super::{FAILED, print};
use guideway_api::explain::{Explanation, PacketDestination, SelectedBackend, Selection};
use guideway_control::explain::{Destination, ExplainQuery, address};
use guideway_control::{NextHops, Writer};
use guideway_dataplane::tables::Backend;
use guideway_packet::time::Time;
use guideway_packet::wire::l4::TCP;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Where would this packet go, and why? From a configuration alone, or by the tables of a running director.
///
/// A packet to port 69 of a tftp service is taken for a read request, to any other port for an acknowledgement.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit code 0: it goes to a backend, or to the remote site; 1: it goes to none; 2: bad usage or configuration.\n\n\
                        Example:\n  guideway explain --config boot.toml 198.51.100.7:2070 192.0.2.69:69/udp\n  \
                        guideway explain --config boot.toml '[2001:db8::7]:2070' '[2001:db8::69]:20123/udp' --json\n  \
                        guideway explain --director d1 198.51.100.7:2070 192.0.2.69:69/udp\n  \
                        guideway explain --config boot.toml --down boot/t1 198.51.100.7:2070 192.0.2.69:20123")]
pub struct Args {
    /// The configuration; without it, the command queries a running director
    #[arg(long, value_name = "FILE", conflicts_with_all = ["director", "socket", "url"])]
    config: Option<PathBuf>,
    #[command(flatten)]
    director: DirectorArgs,
    /// Address and port of the client.
    #[arg(value_name = "CLIENT:PORT", value_parser = address)]
    client: SocketAddr,
    /// VIP, port and transport protocol (udp or tcp; udp if left out).
    #[arg(value_name = "VIP:PORT/udp")]
    to: Destination,
    /// Treat this backend as down; may be given several times
    #[arg(long, value_name = "POOL/BACKEND", requires = "config", conflicts_with_all = ["director", "socket", "url"])]
    down: Vec<String>,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> u8 {
    let explain_query = match ExplainQuery::new(args.client, args.to) {
        Ok(explain_query) => explain_query,
        Err(why) => return usage_error(&why),
    };
    let answer = match &args.config {
        Some(file) => offline(file, &args.down, &explain_query),
        None => args.director.client().and_then(|client| {
            let to = format!("{}/{}", args.to.address, if args.to.protocol == TCP { "tcp" } else { "udp" });
            let query = common::query(&[("client", &args.client.to_string()), ("to", &to)]);
            client.get(&format!("/v1/explain?{query}")).map_err(|error| failed(&error.to_string()))
        }),
    };
    let answer = match answer {
        Ok(answer) => answer,
        Err(code) => return code,
    };
    let printed = print_result(&if args.json { print::json(&answer) } else { explanation_text(&answer) });
    if matches!(answer.destination, PacketDestination::Backend(_)) { printed } else { FAILED }
}

/// Answers by the tables of a file.
fn offline(file: &Path, names: &[String], explain_query: &ExplainQuery) -> Result<Explanation, u8> {
    let config = load_with_vips(file)?;
    let health = health_with_down(&config, names).map_err(|message| usage_error(&message))?;
    let tables = Writer::new().apply_state(&config, 1, &health, &NextHops::from_config(&config), Time(0));
    let tables = tables.map_err(|refused| usage_error(&refused.to_string()))?;
    let range = |named: &Backend| {
        let pool = config.pools.iter().find(|pool| *pool.name == *named.pool)?;
        pool.backends.iter().find(|backend| *backend.name == *named.name)?.tid_range
    };
    Ok(explain_query.answer(&tables, range))
}

/// Formats the answer.
fn explanation_text(answer: &Explanation) -> String {
    match &answer.destination {
        PacketDestination::Host(host) => format!("to host: {}\n", host.why),
        PacketDestination::Dropped(dropped) => format!("dropped: {} ({})\n", dropped.dropped, dropped.why),
        PacketDestination::Backend(selected) => selected_text(answer, selected),
    }
}

fn selected_text(answer: &Explanation, selected: &SelectedBackend) -> String {
    let mut out = String::new();
    let what = match (selected.service.as_str(), selected.request) {
        ("tftp", true) => "read request",
        ("tftp", false) => "acknowledgement",
        _ => "packet",
    };
    // Writing into a String cannot fail.
    let _ = writeln!(out, "{what} from {} to {}", answer.client, SocketAddr::new(answer.vip, answer.port));
    let _ = writeln!(out, "  service   {} (pool {})", selected.service, selected.pool);
    let _ = writeln!(out, "  key       {}", selected.key);
    if let Some(row) = selected.row {
        let _ = writeln!(out, "  hash      {}", selected.hash.as_deref().unwrap_or_default());
        let _ = writeln!(out, "  row       {row} of the Maglev table");
    }
    if selected.outside_tid_ranges {
        let _ = writeln!(
            out,
            "  TIDs      port {} is in no backend's range: this is no transfer of the pool, or one of a backend that is gone",
            answer.port
        );
    } else if let Some(range) = &selected.tid_range {
        let _ = match &selected.failed_owner {
            None => writeln!(out, "  TIDs      {range} are this backend's"),
            Some(owner) => writeln!(out, "  TIDs      {range} are those of {owner}, which is down"),
        };
    }
    let by = match selected.by {
        Selection::RemoteSite => {
            let why = if selected.request { "no local backend can take it" } else { "no local backend can take it or owns its port" };
            let _ = writeln!(out, "  site      {}, a director of the remote site: {why}", selected.address);
            return out;
        }
        Selection::TidRange => "the TID range that the server's port lies in",
        Selection::Flow => "the flow table",
        Selection::Successor => "rendezvous among the successors that are up",
        Selection::Maglev if selected.outside_tid_ranges => "the Maglev table for want of a TID range",
        Selection::Maglev => "the Maglev table",
    };
    let _ = writeln!(out, "  backend   {} at {}, named by {by}", selected.backend, selected.address);
    if selected.flow_table_consulted {
        let _ = writeln!(out, "  note      a running director that knows the flow keeps it on its present backend");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::FLEET;

    fn explain_offline(file: &Path, to: &str) -> (SelectedBackend, String) {
        let explain_query = ExplainQuery::new("198.51.100.7:2070".parse().unwrap(), to.parse().unwrap()).unwrap();
        let answer = offline(file, &[], &explain_query).unwrap();
        let said = explanation_text(&answer);
        let PacketDestination::Backend(selected) = answer.destination else { panic!("{said}") };
        (*selected, said)
    }

    #[test]
    fn a_port_in_no_range_is_told_from_one_that_is_in_one() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("boot.toml");
        std::fs::write(&file, FLEET).unwrap();
        let (answer, said) = explain_offline(&file, "192.0.2.69:20025/udp");
        assert_eq!((answer.outside_tid_ranges, answer.backend.as_str()), (false, "t2"), "{answer:#?}");
        assert!(said.contains("TIDs      20020-20029 are this backend's\n") && said.contains("named by the TID range"), "{said}");
        let (answer, said) = explain_offline(&file, "192.0.2.69:30000/udp");
        assert!(answer.outside_tid_ranges, "{answer:#?}");
        assert!(said.contains("TIDs      port 30000 is in no backend's range: this is no transfer of the pool"), "{said}");
        assert!(said.contains("named by the Maglev table for want of a TID range\n"), "{said}");
        // A request has no TID yet.
        let (answer, said) = explain_offline(&file, "192.0.2.69:69/udp");
        assert!(!answer.outside_tid_ranges && said.contains("named by the Maglev table\n"), "{said}");
    }
}

//! `guideway explain`: where would this packet go, and why?

use super::FAILED;
use super::common::{self, bad, down, failed, load_with_vips, result};
use super::running::DirectorArgs;
use guideway_control::explained::{Destination, Question, address};
use guideway_control::{NextHops, Writer};
use guideway_dataplane::tables::Backend;
use guideway_packet::time::Time;
use guideway_packet::wire::l4::TCP;
use serde_json::Value;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Where would this packet go, and why? From a configuration alone, or by the tables of a running director.
///
/// A packet to port 69 of a tftp service is taken for a read request, to any other port for an acknowledgement.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit code 0: it goes to a backend, or to the other site; 1: it goes to none; 2: bad usage or configuration.\n\n\
                        Example:\n  guideway explain --config boot.toml 198.51.100.7:2070 192.0.2.69:69/udp\n  \
                        guideway explain --config boot.toml '[2001:db8::7]:2070' '[2001:db8::69]:20123/udp' --json\n  \
                        guideway explain --director d1 198.51.100.7:2070 192.0.2.69:69/udp\n  \
                        guideway explain --config boot.toml --down boot/t1 198.51.100.7:2070 192.0.2.69:20123")]
pub struct Args {
    /// The configuration; without it, a running director is asked
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
    /// As if this backend had been seen to be down; may be given several times.
    #[arg(long, value_name = "POOL/BACKEND", requires = "config", conflicts_with_all = ["director", "socket", "url"])]
    down: Vec<String>,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> u8 {
    let question = match Question::new(args.client, args.to) {
        Ok(question) => question,
        Err(why) => return bad(&why),
    };
    let answer = match &args.config {
        Some(file) => offline(file, &args.down, &question),
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
    let printed = result(&if args.json { format!("{answer:#}") } else { sentence(&answer) });
    if answer["backend"].is_null() { FAILED } else { printed }
}

/// By the tables of a file.
fn offline(file: &Path, names: &[String], question: &Question) -> Result<Value, u8> {
    let config = load_with_vips(file)?;
    let health = down(&config, names).map_err(|message| bad(&message))?;
    let tables = Writer::new().apply_set(&config, 1, &health, &NextHops::fixed(&config), Time(0));
    let tables = tables.map_err(|refused| bad(&refused.to_string()))?;
    let range = |named: &Backend| {
        let pool = config.pools.iter().find(|pool| *pool.name == *named.pool)?;
        pool.backends.iter().find(|backend| *backend.name == *named.name)?.tid_range
    };
    Ok(question.answer(&tables, range))
}

/// The answer for people.
fn sentence(answer: &Value) -> String {
    let text = |key: &str| common::plain(&answer[key]);
    if answer["to_host"] == true {
        return format!("to host: {}\n", text("why"));
    }
    if answer["backend"].is_null() {
        return format!("dropped: {} ({})\n", text("dropped"), text("why"));
    }
    let mut out = String::new();
    let what = match (text("service").as_str(), answer["request"] == true) {
        ("tftp", true) => "read request",
        ("tftp", false) => "acknowledgement",
        _ => "packet",
    };
    let address = |host: &str, port: &Value| if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    // Writing into a String cannot fail.
    let _ = writeln!(out, "{what} from {} to {}", text("client"), address(&text("vip"), &answer["port"]));
    let _ = writeln!(out, "  service   {} (pool {})", text("service"), text("pool"));
    let _ = writeln!(out, "  key       {}", text("key"));
    if !answer["row"].is_null() {
        let _ = writeln!(out, "  hash      {}", text("hash"));
        let _ = writeln!(out, "  row       {} of the Maglev table", answer["row"]);
    }
    if answer["no_tid_range"] == true {
        let _ = writeln!(
            out,
            "  TIDs      port {} is in no backend's range: this is no transfer of the pool, or one of a backend that is gone",
            answer["port"]
        );
    } else if !answer["tid_range"].is_null() {
        let _ = match answer["instead_of"].as_str() {
            None => writeln!(out, "  TIDs      {} are this backend's", text("tid_range")),
            Some(owner) => writeln!(out, "  TIDs      {} are those of {owner}, which is down", text("tid_range")),
        };
    }
    let by = match answer["by"].as_str() {
        Some("tid_range") => "the TID range that the server's port lies in",
        Some("flow") => "the flow table",
        Some("heir") => "rendezvous among the heirs that are up",
        _ if answer["no_tid_range"] == true => "the Maglev table for want of a TID range",
        _ => "the Maglev table",
    };
    if answer["by"] == "site" {
        let why =
            if answer["request"] == true { "no backend here takes it" } else { "no backend here takes it, or its port is nobody's here" };
        let _ = writeln!(out, "  site      {}, a director of the other site, for {why}", text("address"));
        return out;
    }
    let _ = writeln!(out, "  backend   {} at {}, named by {by}", text("backend"), text("address"));
    if answer["flow_table_first"] == true {
        let _ = writeln!(out, "  note      a running director that knows the flow keeps it on the backend that it had");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FLEET;

    fn asked(file: &Path, to: &str) -> (Value, String) {
        let question = Question::new("198.51.100.7:2070".parse().unwrap(), to.parse().unwrap()).unwrap();
        let answer = offline(file, &[], &question).unwrap();
        let said = sentence(&answer);
        (answer, said)
    }

    #[test]
    fn a_port_in_no_range_is_told_from_one_that_is_in_one() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("boot.toml");
        std::fs::write(&file, FLEET).unwrap();
        let (answer, said) = asked(&file, "192.0.2.69:20025/udp");
        assert_eq!((&answer["no_tid_range"], &answer["backend"]), (&false.into(), &"t2".into()), "{answer:#}");
        assert!(said.contains("TIDs      20020-20029 are this backend's\n") && said.contains("named by the TID range"), "{said}");
        let (answer, said) = asked(&file, "192.0.2.69:30000/udp");
        assert_eq!(answer["no_tid_range"], true, "{answer:#}");
        assert!(said.contains("TIDs      port 30000 is in no backend's range: this is no transfer of the pool"), "{said}");
        assert!(said.contains("named by the Maglev table for want of a TID range\n"), "{said}");
        // A request has no TID yet.
        let (answer, said) = asked(&file, "192.0.2.69:69/udp");
        assert!(answer["no_tid_range"] == false && said.contains("named by the Maglev table\n"), "{said}");
    }
}

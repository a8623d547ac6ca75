//! The configuration files of the lab's directors, and the section of their store.

use super::args::Io;
use super::plan::{self, Backend, DEFAULT_WEIGHT, Plan};
use super::topology::INTERFACE;
use super::vale_switch;
use guideway_config::Admission;
use guideway_host::cpus;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// What stands in `io` besides interface and CPUs.
fn io_config(io: Io) -> String {
    match io {
        Io::Vale => format!("kind = \"netmap\", rings = \"{}\", host_rings = \"netmap:{}\"", vale_switch::DIRECTOR, vale_switch::STACK),
        _ => format!("kind = \"{}\"", io.name()),
    }
}

/// The configuration of director `number` with these backends in the pool.
pub fn configuration(plan: &Plan, number: usize, io: Io, socket: &Path, backends: &[Backend]) -> String {
    let director = &plan.directors[number];
    let router = plan::prefix(plan.router.0, guideway_host::vip::host_prefix_len(plan.router.0));
    // Directors have machines of their own elsewhere; here each gets a CPU of its own as far as there are some.
    let cpus = cpus::allowed();
    let cpu = cpus.get(number % cpus.len().max(1)).copied().unwrap_or(0);
    let mut text = format!(
        r#"[director]
name = "{}"
address = "{}"
key = "000102030405060708090a0b0c0d0e0f"
io = {{ {}, interface = "{INTERFACE}", cpus = [{cpu}] }}
routers = ["{router}"]
fleet = [{}]
socket = "{}"
"#,
        director.name,
        director.address,
        io_config(io),
        fleet(plan),
        socket.display(),
    );
    match socket.parent().filter(|_| plan.takeover) {
        Some(directory) => text.push_str(&store_section(directory)),
        None => text.push_str(&intent(plan, backends)),
    }
    for backend in backends.iter().filter(|_| plan.needs_static_neighbours()) {
        let mac = backend.mac.map(|byte| format!("{byte:02x}")).join(":");
        // Writing to a String cannot fail.
        let _infallible = writeln!(text, "\n[[neighbour]]\naddress = \"{}\"\nmac = \"{mac}\"", backend.address);
    }
    text
}

/// The directors, where no store tells them of one another.
fn fleet(plan: &Plan) -> String {
    let directors = plan.directors.iter().filter(|_| !plan.takeover);
    directors.map(|director| format!("\"{}\"", director.address)).collect::<Vec<_>>().join(", ")
}

/// The limits of the VIP, as a line of its section; nothing when there are none.
fn admission(admission: &Admission) -> String {
    let all = [("per_vip", admission.per_vip), ("per_backend", admission.per_backend), ("per_prefix", admission.per_prefix)];
    let limits: Vec<String> = all.iter().filter_map(|(key, rate)| rate.map(|rate| format!("{key} = {rate}"))).collect();
    if limits.is_empty() { String::new() } else { format!("\nadmission = {{ {} }}", limits.join(", ")) }
}

/// What is served with these backends in the pool.
pub fn intent(plan: &Plan, backends: &[Backend]) -> String {
    let takeover = if plan.takeover { "\ntakeover = true" } else { "" };
    let mut text = format!(
        "\n[[vip]]\naddress = \"{}\"\nservice = \"tftp\"\npool = \"boot\"\nwrites = \"forward\"{}\n\n[[pool]]\nname = \"boot\"{takeover}\nbackends = [\n",
        plan.vip,
        admission(&plan.admission)
    );
    for backend in backends {
        let range = backend.tid_range.map(|(first, last)| format!(", tid_range = \"{first}-{last}\"")).unwrap_or_default();
        let weight = if backend.weight == DEFAULT_WEIGHT { String::new() } else { format!(", weight = {}", backend.weight) };
        let drain = if backend.drain { ", drain = true" } else { "" };
        // Writing to a String cannot fail.
        let _infallible = writeln!(text, "  {{ name = \"{}\", address = \"{}\"{range}{weight}{drain} }},", backend.name, backend.address);
    }
    text.push_str("]\n");
    text
}

/// Where the store is, in a lab with its files below `directory`.
pub fn store_path(directory: &Path) -> PathBuf {
    directory.join("store")
}

/// The section of everybody who reads it.
pub fn store_section(directory: &Path) -> String {
    format!("\n[store]\nkind = \"file\"\npath = \"{}\"\n", store_path(directory).display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LabArgs;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        lab: LabArgs,
    }

    #[test]
    fn every_file_that_the_lab_writes_is_a_good_configuration() {
        for flags in ["", "--ipv6", "--server dnsmasq-single-port", "--directors 16 --backends 64", "--ipv6 --directors 16 --backends 64"] {
            let args = Line::try_parse_from(std::iter::once("lab").chain(flags.split_whitespace())).unwrap().lab;
            let plan = Plan::new(&args);
            for io in [Io::AfXdp, Io::AfPacket, Io::Netmap, Io::Vale] {
                let text = configuration(&plan, 0, io, Path::new("/run/guideway-lab/d1.sock"), &plan.backends);
                let checked = guideway_config::read(&text);
                let config = checked.config.unwrap_or_else(|| panic!("{flags}: {:?}\n{text}", checked.problems));
                assert_eq!(config.pools[0].backends.len(), plan.backends.len());
                assert_eq!(!config.neighbours.is_empty(), plan.needs_static_neighbours());
            }
        }
    }
}
